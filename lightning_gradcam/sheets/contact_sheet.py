"""A sheet of all probes of a set: each picture with its id and true class."""

from __future__ import annotations

import numpy as np

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.text import INK, PALE, WRONG, write
from lightning_gradcam.render.tiles import enlarged, fitted, tile_size

_MARGIN, _GAP, _TEXT = 12, 10, 40
_WIDEST, _LEAST = 1200, 96


def contact_sheet(probes: ProbeSet, title: str) -> Picture:
    """Draws all probes, as many a row as a screen is wide.

    Args:
        probes: Clips and volumes are shown by their middle frame; where the telling parts are known, they are framed.
        title: The first line.

    Returns:
        The sheet. Its header states how many there are, how the pixels were recovered, and the fingerprint.
    """
    drawing, shape = Drawing(), probes.pixels.shape
    slices = Slices.of((len(probes), 1, 1), shape)
    tile_h, tile_w = tile_size(shape, drawing, slices)
    pitch = max(tile_w, _LEAST) + _GAP
    across = max(1, min(len(probes), (_WIDEST - 2 * _MARGIN) // pitch))
    down = -(-len(probes) // across)
    lines = [(title, INK), (said(probes), INK), (f"fingerprint {probes.fingerprint}", PALE)]
    if probes.note:
        lines.append((probes.note, WRONG))
    if probes.display_source:
        lines.append((f"input pixels: {probes.display_source}", PALE))
    if probes.regions is not None:
        lines.append(("framed: where the telling parts are", PALE))
    top = _MARGIN + 18 * len(lines) + 8
    width = max(across * pitch - _GAP + 2 * _MARGIN, 600)
    canvas = np.full((top + down * (tile_h + _TEXT + _GAP) + _MARGIN - _GAP, width, 3), 255, np.uint8)
    for number, (text, color) in enumerate(lines):
        write(canvas, (_MARGIN, _MARGIN + 18 * number), text, width - 2 * _MARGIN, 15 if number == 0 else 13, color)
    small = fitted(slices.of_display(probes.pixels), drawing.max_tile)
    tiles = enlarged(small, max(1, tile_h // small.shape[2]))
    for number in range(len(probes)):
        x = _MARGIN + number % across * pitch
        y = top + number // across * (tile_h + _TEXT + _GAP)
        canvas[y : y + tile_h, x : x + tile_w] = _framed(tiles[number], probes, number)
        write(canvas, (x, y + tile_h + 3), f"#{probes.ids[number]}", pitch - 6, 12, PALE)
        write(canvas, (x, y + tile_h + 20), true_class(probes, number), pitch - 6, 13)
    return Picture(canvas, enlarged=tile_h > small.shape[2])


def said(probes: ProbeSet) -> str:
    """Returns how many probes there are, of what shape and of how many classes."""
    shape = " x ".join(map(str, probes.inputs.shape[1:]))
    many = "probe" if len(probes) == 1 else "probes"
    classes = {index for true in probes.view.true or () for index in true}
    return f"{len(probes)} {many}, {shape}, {f'{len(classes)} classes' if classes else 'without labels'}"


def true_class(probes: ProbeSet, row: int) -> str:
    """Returns the true class's index and name; several of them with commas; nothing without labels."""
    return ", ".join(
        name if name == str(index) else f"{index} {name}"
        for index in probes.view.true_classes(row)
        for name in [probes.class_name(index)]
    )


def _framed(tile: Pixels, probes: ProbeSet, row: int) -> Pixels:
    """Draws the edge of a probe's region, one pixel of the screen wide."""
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
