"""Draws a sheet of all probes in a set: each image with its id and true class."""

from __future__ import annotations

import numpy as np

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.signals import source_lines
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.text import INK, WRONG
from lightning_gradcam.render.tiles import enlarged, fitted, tile_size
from lightning_gradcam.sheets.builder import MARGIN, Caption, Sheet, remarks

_GAP, _TEXT = 10, 40
_WIDEST, _LEAST = 1200, 96


def contact_sheet(probes: ProbeSet, title: str) -> Picture:
    """Draws all probes, in rows that fit on a screen.

    Args:
        probes: The probes. Clips and volumes are shown as their middle frame; known masks or boxes are outlined.
        title: The first line.

    Returns:
        The sheet. Its header states the number of probes, the source of the display pixels, and the fingerprint.
    """
    drawing, shape = Drawing(), probes.pixels.shape
    slices = Slices.of((len(probes), 1, 1), shape)
    tile_h, tile_w = tile_size(shape, drawing, slices)
    pitch = max(tile_w, _LEAST) + _GAP
    across = max(1, min(len(probes), (_WIDEST - 2 * MARGIN) // pitch))
    lines = [
        (title, INK),
        (said(probes), INK),
        *remarks(f"fingerprint {probes.fingerprint}"),
        *remarks(probes.note, color=WRONG),
        *remarks(*source_lines(probes.display_source)),
        *remarks("red outline: the probe's mask or box" if probes.regions is not None else ""),
    ]
    width, row_h = max(across * pitch - _GAP + 2 * MARGIN, 600), tile_h + _TEXT + _GAP
    page = Sheet(lines, width, head=8, body=-(-len(probes) // across) * row_h + MARGIN - _GAP)
    small = fitted(slices.of_display(probes.pixels), drawing.max_tile)
    for number, tile in enumerate(enlarged(small, max(1, tile_h // small.shape[2]))):
        at = MARGIN + number % across * pitch, page.top + number // across * row_h
        captions = Caption(f"#{probes.ids[number]}"), Caption(true_class(probes, number), INK)
        page.cell(at, _framed(tile, probes, number), captions, width=pitch - 6, gap=3, pitch=17)
    return page.picture(enlarged=tile_h > small.shape[2])


def said(probes: ProbeSet) -> str:
    """Returns a line with the number of probes, their shape and the number of classes."""
    shape = " x ".join(map(str, probes.inputs.shape[1:]))
    many = "probe" if len(probes) == 1 else "probes"
    classes = {index for true in probes.view.true or () for index in true}
    return f"{len(probes)} {many}, {shape}, {f'{len(classes)} classes' if classes else 'without labels'}"


def true_class(probes: ProbeSet, row: int) -> str:
    """Returns the true class's index and name, several classes separated by commas; empty without labels."""
    return ", ".join(
        name if name == str(index) else f"{index} {name}"
        for index in probes.view.true_classes(row)
        for name in [probes.class_name(index)]
    )


def _framed(tile: Pixels, probes: ProbeSet, row: int) -> Pixels:
    """Draws the outline of a probe's region, one screen pixel wide."""
    if probes.regions is None or not probes.regions[row].any():
        return tile
    region = probes.regions[row]
    height, width = tile.shape[:2]
    rows, columns = (np.arange(size) * part // size for size, part in zip((height, width), region.shape, strict=True))
    inside = np.pad(region[rows][:, columns], 1)
    edge = inside[1:-1, 1:-1] & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
    framed = tile.copy()
    framed[edge] = WRONG
    return framed
