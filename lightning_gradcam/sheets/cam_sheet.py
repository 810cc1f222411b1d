"""Draws one sheet per layer and method from a record and display pixels, with probes side by side if they fit."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.boxes import legend
from lightning_gradcam.render.drawing import Drawing, colors_of
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.render.scale import run_limits
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.slices import SEAM, Slices
from lightning_gradcam.render.text import INK, PALE, RIGHT, WRONG, folded, stamp
from lightning_gradcam.render.tiles import BROKEN, draw_tiles, evenly, tile_size
from lightning_gradcam.sheets.builder import (
    LINE_HEIGHT,
    MARGIN,
    TALLEST,
    Caption,
    Sheet,
    folded_lines,
    of_probes,
    remarks,
)
from lightning_gradcam.sheets.header import blank_lines, cam_header, end_names
from lightning_gradcam.sheets.words import class_words, probe_words
from lightning_gradcam.stats.boxes import known_boxes

# Pixels between two tiles of a probe, and between two probes side by side.
_GAP, _APART = 8, 24
# Pixels by which the text above a probe may be wider than its tiles: nearly the margin of the sheet.
_BEYOND = 11
# Maximum width of a sheet with several probes side by side, readable in a TensorBoard card; and minimum width.
_WIDEST, _NARROWEST = 640, 480
# Height of the text above a probe's tiles (prediction, id and true class), and of the line for each likely class.
_LABEL, _LIST_LINE = 36, 15
# Width in pixels of a heading such as "overlay: predicted".
_LEAST = 112
# Width in pixels of the text to the left of a film strip's row.
LABELS = 190


def sheet(
    record: CamRecord,
    probes: ProbeSet | ProbeView,
    *,
    layer: str,
    method: str,
    drawing: Drawing,
    title: str,
    limits: Mapping[CamKey, FloatArray] | None = None,
    note: str = "",
) -> Picture:
    """Draws one layer's maps: for each probe, its input and one overlay per target, with captions.

    Narrow probes are side by side, on a sheet of at most 640 pixels in width. Maps with time or depth,
    ``[N, d, h, w]``, are drawn as strips of slices, each over the frame at its centre. Maps of signals, ``[N, l]``, are
    drawn as a band of colours below the signal's curve.

    Args:
        record: The step to draw.
        probes: The probes, for display pixels, true classes and names.
        layer: The layer.
        method: The method.
        drawing: Colour map, opacity, columns, scale.
        title: The sheet's first line.
        limits: For ``scale="run"``, both limits of each map so far, ``[N, 2]``. Default: those in the record
            (:attr:`CamRecord.limits`), or else those of its maps.
        note: A line below the maps, for example about missing inputs.

    Returns:
        The sheet. Its two header lines state layer, epoch, step and what is explained. Lines below the maps state the
        colour scale and the meaning of blank maps.

    Raises:
        DrawingError: A column requires a map that the record does not contain.
    """
    keys = [key for key in record.maps if key.layer == layer and key.method == method]
    probes, drawing = charted(probes.view, drawing, record.maps[keys[0]].shape)
    slices = Slices.of(record.maps[keys[0]].shape, probes.pixels.shape)
    tile_h, tile_w = tile_size(probes.pixels.shape, drawing, slices)
    # A heading needs this width even above small images.
    cell = tile_w if drawing.magnification else max(tile_w, _LEAST)
    columns = sum(1 if column == "input" else len(keys) for column in drawing.columns)
    block = columns * (cell + _GAP) - _GAP
    side = beside(len(probes), block)
    listed = min(drawing.top, record.likeliest.shape[1])
    label = _LABEL + (_LIST_LINE * listed + 4 if listed else 0)
    width = max(side * (block + _APART) - _APART + 2 * MARGIN, _NARROWEST)
    known = drawing.boxes and known_boxes(probes) is not None
    height = min(drawing.max_sheet_pixels // width, TALLEST)
    rows = evenly(len(probes), side * (height // (label + tile_h + _below(5 if known else 4))))
    tiles = draw_tiles(record, probes, keys, drawing, limits, slices, rows)
    captions = [
        [[Caption(text, WRONG if text == BROKEN else PALE) for text in tile.captions[place]] for tile in tiles]
        for place in range(len(rows))
    ]
    if drawing.scale == "run":
        tops = run_limits(record, keys, limits, signed=drawing.signed)
        for place, row in enumerate(rows):
            captions[place][0].append(Caption(scale_end(tops[row], drawing)))
    row_h = label + tile_h + _below(max(len(lines) for row in captions for lines in row))
    lines = cam_header(record, layer, method, drawing, title, probes, slices)
    # Two lines and important remarks are above the maps; lines on how to read the maps are below.
    above = [line for place, line in enumerate(lines) if place < 2 or line[1] == WRONG]
    below = [line for line in lines if line not in above]
    below = folded_lines([*below, *remarks(note)], width - 2 * MARGIN)
    below += [(line, INK) for line in blank_lines(record, keys, drawing, width - 2 * MARGIN)]
    below += remarks(of_probes(len(rows), len(probes)))
    pitch = (tile_w + SEAM) // len(slices.chosen)
    names = _slice_names(slices, pitch)
    boxes = legend(drawing.box_threshold, known=known) if drawing.boxes else []
    head = 50 + LINE_HEIGHT * len(boxes) + (16 if names else 0)
    body = row_h * -(-len(rows) // side)
    page = Sheet(above, width, head=head, body=body + LINE_HEIGHT * len(below) + MARGIN)
    color_bar(page, page.below + 3, drawing, method, "the probe's scale" if drawing.scale == "run" else "")
    for number, entry in enumerate(boxes):
        page.legend(page.below + 26 + LINE_HEIGHT * number, entry)
    for column in range(columns * (1 if columns == 1 else min(side, len(rows)))):
        x = MARGIN + column // columns * (block + _APART) + column % columns * (cell + _GAP)
        heading = _heading(tiles[column % columns].heading, cell + _GAP - 4)
        page.write((x, page.top - (37 if names else 21)), heading, cell + _GAP - 4, 13, INK)
        for number, name in enumerate(names):
            page.write((x + number * pitch, page.top - 20), name, pitch)
    for place, row in enumerate(rows):
        x, y = MARGIN + place % side * (block + _APART), page.top + place // side * row_h
        if x == MARGIN:
            page.rule(y - 4)
        _label(page, (x, y), record, probes, row, block + _BEYOND)
        _likeliest(page, (x, y + _LABEL), record, probes, row, listed, block + _BEYOND)
        for column, tile in enumerate(tiles):
            at = x + column * (cell + _GAP), y + label
            page.cell(at, tile.pixels[place], captions[place][column], width=cell + _GAP - 2)
    page.foot(page.top + body, below)
    return page.picture(enlarged=tile_h > probes.pixels.shape[-3], format=drawing.format)


def beside(count: int, block: int) -> int:
    """Returns the number of probes side by side that leaves few empty cells.

    Args:
        count: Number of probes.
        block: Width of a probe's tiles in pixels.

    Example:
        >>> beside(8, 112), beside(8, 256), beside(3, 500)
        (4, 2, 1)
    """
    fitting = min(count, max(1, (_WIDEST - 2 * MARGIN + _APART) // (block + _APART)))
    return -(-count // -(-count // fitting))


def _heading(text: str, width: int) -> str:
    """Returns a column's heading: without ``overlay:`` where only the target fits."""
    return text if len(folded(text, width)) == 1 else text.removeprefix("overlay: ")


def _below(lines: int) -> int:
    """Returns the height between a tile's lower edge and the next row, for a number of caption lines."""
    return 2 + 14 * max(lines, 2) + _GAP + 4


def _slice_names(slices: Slices, pitch: int) -> list[str]:
    """Returns the name above each slice in a strip; none if there is only one slice."""
    if len(slices.chosen) == 1:
        return []
    names = [slices.name(place) for place in slices.chosen]
    return names if pitch >= 60 else [name.split()[-1] for name in names]


def _label(page: Sheet, at: tuple[int, int], record: CamRecord, probes: ProbeView, row: int, width: int) -> None:
    """Writes a probe's prediction, with the probe's id and the truth below it."""
    (x, y), (said, true) = at, probe_words(record, probes, row)
    page.caption((x, y - 1), said, width, 14)
    several = len(probes.true_classes(row)) > 1
    known = f"  true {true}" if true and (several or said.mark != "right") else ""
    page.write((x, y + 17), f"#{probes.ids[row]}{known}", width)


def row_label(page: Sheet, y: int, record: CamRecord, probes: ProbeView, row: int, head: str) -> None:
    """Writes a probe's id, truth and prediction to the left of its row, 76 pixels high.

    Args:
        page: The sheet to write to.
        y: The row's upper edge.
        record: The record with the prediction.
        probes: The probes, for names and true classes.
        row: The probe's index.
        head: The word before the prediction.
    """
    said, true = probe_words(record, probes, row)
    page.write((MARGIN, y), f"#{probes.ids[row]}", LABELS - _GAP)
    lines = [("true", true, INK)] if true else []
    for number, (name, text, color) in enumerate([*lines, (head, said.text, said.color)]):
        page.write((MARGIN, y + 19 + 17 * number), name, 30)
        page.write((MARGIN + 32, y + 18 + 17 * number), text, LABELS - 32 - _GAP, 13, color)
    if said.mark:
        stamp(page.pixels, (MARGIN, y + 56), right=said.mark == "right")


def _likeliest(
    page: Sheet, at: tuple[int, int], record: CamRecord, probes: ProbeView, row: int, top: int, width: int
) -> None:
    """Writes a probe's most likely classes below its label, one line each."""
    (x, y), true = at, probes.true_classes(row)
    found = zip(record.likeliest[row, :top], record.likeliest_confidence[row, :top], strict=True)
    for number, (index, confidence) in enumerate(found):
        line, known = y + _LIST_LINE * number, int(index) in true
        if known:
            page.pixels[line + 4 : line + 11, x : x + 7] = RIGHT
        page.write((x + 12, line), f"{confidence:.0%}" if confidence >= 0.0995 else f"{confidence:.1%}", 36)
        name, color = class_words(probes, int(index)), RIGHT if known else INK
        page.write((x + 48, line), name, width - 48, 12, color)


def scale_end(top: float, drawing: Drawing) -> str:
    """Returns the caption that states the end of a row's colour scale; empty for a row without colours."""
    # Keep it short enough for the narrowest tile.
    value = f"{top:.{3 if 0.001 <= top < 1000 else 2}g}"
    return f"scale {'±' if drawing.signed else 'to '}{value}" if top > 0 else ""


def color_bar(page: Sheet, y: int, drawing: Drawing, method: str, whose: str) -> None:
    """Draws a sheet's colour bar.

    Args:
        page: The sheet to draw on.
        y: The bar's upper edge.
        drawing: The colour map and scale.
        method: The maps' method.
        whose: Name of the scale whose end has the last colour, if values beyond it have that colour too; else empty.
    """
    if drawing.signed:
        end = f"ends of {whose}, and beyond" if whose else "ends at the largest magnitude"
        low, high = end_names(method)
        page.color_bar(y, colors_of(drawing), low, f"{high}; {end}", "0")
        return
    low, high = ("minimum", "maximum") if drawing.scale == "minmax" else ("0", "maximum")
    page.color_bar(y, drawing.colormap, low, f"end of {whose}, and above" if whose and low == "0" else high)
