"""From a record and display pixels to sheets: one picture a layer and method, a row a probe."""

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
from lightning_gradcam.render.text import INK, PALE, RIGHT, WRONG, stamp
from lightning_gradcam.render.tiles import BROKEN, draw_tiles, evenly, tile_size
from lightning_gradcam.sheets.builder import LINE_HEIGHT, MARGIN, TALLEST, Caption, Sheet, of_probes, remarks
from lightning_gradcam.sheets.header import blank_lines, cam_header, end_names
from lightning_gradcam.stats.boxes import known_boxes

_GAP, LABELS = 8, 190
# Where a row's scale is stated, beside the mark for a right or a wrong prediction.
_BESIDE_STAMP = 80
# Where the list of likely classes begins below a row's top, and how high each of its lines is.
_LIST, _LIST_LINE = 80, 15
# Pixels that a heading such as "overlay: predicted" takes.
_LEAST = 112


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
    """Draws one layer's maps: a row a probe with its input and, for each target, the overlay.

    Maps with time or depth, ``[N, d, h, w]``, are drawn as strips of slices, each on the frame at its centre; those of
    signals, ``[N, l]``, as a band of colours below the signal's curve.

    Args:
        record: The step to draw.
        probes: Where its display pixels, true classes and names come from.
        layer: Which layer of the record.
        method: Which method of the record.
        drawing: Colour map, opacity, columns, scale.
        title: The sheet's first line.
        limits: For ``scale="run"``: both limits of each map so far, ``[N, 2]``; by default those that the record has
            (:attr:`CamRecord.limits`), or else those of its own maps.
        note: A line of the header, such as where the inputs are.

    Returns:
        The sheet. Its header states layer, epoch, step, what is explained, the colour scale and what blank means.

    Raises:
        DrawingError: A column needs a map that the record does not have.
    """
    keys = [key for key in record.maps if key.layer == layer and key.method == method]
    probes, drawing = charted(probes.view, drawing, record.maps[keys[0]].shape)
    slices = Slices.of(record.maps[keys[0]].shape, probes.pixels.shape)
    tile_h, tile_w = tile_size(probes.pixels.shape, drawing, slices)
    # A heading needs that much, however small the pictures are.
    cell = tile_w if drawing.magnification else max(tile_w, _LEAST)
    across = sum(1 if column == "input" else len(keys) for column in drawing.columns)
    known = drawing.boxes and known_boxes(probes) is not None
    listed = min(drawing.top, record.likeliest.shape[1])
    width = max(MARGIN + LABELS + across * (cell + _GAP) + MARGIN - _GAP, 480)
    height = min(drawing.max_sheet_pixels // width, TALLEST)
    rows = evenly(len(probes), height // _row_height(tile_h, lines=4 if known else 3, top=listed))
    tiles = draw_tiles(record, probes, keys, drawing, limits, slices, rows)
    tops = run_limits(record, keys, limits, signed=drawing.signed)
    lines = max((len(caption) for tile in tiles for caption in tile.captions), default=0)
    row_h = _row_height(tile_h, lines, listed)
    header = cam_header(record, layer, method, drawing, title, probes, slices)
    header += remarks(note)
    header += [(line, INK) for line in blank_lines(record, keys, drawing, width - 2 * MARGIN)]
    header += remarks(of_probes(len(rows), len(probes)))
    pitch = (tile_w + SEAM) // len(slices.chosen)
    names = _slice_names(slices, pitch)
    boxes = legend(drawing.box_threshold, known=known) if drawing.boxes else []
    head = 50 + LINE_HEIGHT * len(boxes) + (16 if names else 0)
    page = Sheet(header, width, head=head, body=row_h * len(rows))
    color_bar(page, page.below + 3, drawing, method, "the row's scale" if drawing.scale == "run" else "")
    for number, entry in enumerate(boxes):
        page.legend(page.below + 26 + LINE_HEIGHT * number, entry)
    for place, row in enumerate(rows):
        y = page.top + place * row_h
        page.rule(y - 4)
        row_label(page, y, record, probes, row)
        if drawing.scale == "run":
            page.write((MARGIN + _BESIDE_STAMP, y + 58), scale_end(tops[row], drawing), LABELS - _BESIDE_STAMP - _GAP)
        _likeliest(page, y + _LIST, record, probes, row, listed)
    for column, tile in enumerate(tiles):
        x = MARGIN + LABELS + column * (cell + _GAP)
        page.write((x, page.top - (37 if names else 21)), tile.heading, cell + _GAP - 4, 13, INK)
        for place, name in enumerate(names):
            page.write((x + place * pitch, page.top - 20), name, pitch)
        for place, pixels in enumerate(tile.pixels):
            captions = [Caption(text, WRONG if text == BROKEN else PALE) for text in tile.captions[place]]
            page.cell((x, page.top + place * row_h), pixels, captions, width=cell + _GAP - 2)
    return page.picture(enlarged=tile_h > probes.pixels.shape[-3], format=drawing.format)


def _row_height(tile: int, lines: int, top: int = 0) -> int:
    return max(tile + 2 + 14 * max(lines, 2), 84, _LIST + _LIST_LINE * top + 4 if top else 0) + _GAP


def _slice_names(slices: Slices, pitch: int) -> list[str]:
    """Returns the name above each slice of a strip."""
    if len(slices.chosen) == 1:
        return []
    names = [slices.name(place) for place in slices.chosen]
    return names if pitch >= 60 else [name.split()[-1] for name in names]


def row_label(page: Sheet, y: int, record: CamRecord, probes: ProbeView, row: int, head: str = "pred") -> None:
    """Writes a probe's id, true and predicted class at the left of its row, 76 pixels high.

    Args:
        page: Written to.
        y: The row's top.
        record: Where the predicted class is from.
        probes: Where names and true classes are from.
        row: The probe's place.
        head: The word before the predicted class.
    """
    true = probes.true_classes(row)
    predicted, confidence = int(record.predicted[row]), float(record.confidence[row])
    page.write((MARGIN, y), f"#{probes.ids[row]}", LABELS - _GAP)
    lines = []
    if true:
        lines.append(("true", ", ".join(map(probes.class_name, true)), INK))
    if predicted >= 0:
        color = INK if not true else (RIGHT if predicted in true else WRONG)
        lines.append((head, f"{probes.class_name(predicted)}  {confidence:.0%}", color))
    for number, (name, text, color) in enumerate(lines):
        page.write((MARGIN, y + 19 + 17 * number), name, 30)
        page.write((MARGIN + 32, y + 18 + 17 * number), text, LABELS - 32 - _GAP, 13, color)
    if true and predicted >= 0:
        stamp(page.pixels, (MARGIN, y + 56), right=predicted in true)


def _likeliest(page: Sheet, y: int, record: CamRecord, probes: ProbeView, row: int, top: int) -> None:
    """Writes a probe's most likely classes below its label, a line each."""
    true = probes.true_classes(row)
    found = zip(record.likeliest[row, :top], record.likeliest_confidence[row, :top], strict=True)
    for number, (index, confidence) in enumerate(found):
        line, known = y + _LIST_LINE * number, int(index) in true
        if known:
            page.pixels[line + 4 : line + 11, MARGIN : MARGIN + 7] = RIGHT
        page.write((MARGIN + 12, line), f"{confidence:.0%}" if confidence >= 0.0995 else f"{confidence:.1%}", 36)
        name, color = probes.class_name(int(index)), RIGHT if known else INK
        page.write((MARGIN + 48, line), name, LABELS - 48 - _GAP, 12, color)


def scale_end(top: float, drawing: Drawing) -> str:
    """Returns what is said of the value at which a row's colours end; nothing of a row without any."""
    # So short that no tile cuts it off.
    value = f"{top:.{3 if 0.001 <= top < 1000 else 2}g}"
    return f"scale {'±' if drawing.signed else 'to '}{value}" if top > 0 else ""


def color_bar(page: Sheet, y: int, drawing: Drawing, method: str, whose: str) -> None:
    """Draws a sheet's colour bar.

    Args:
        page: Drawn on.
        y: Its top.
        drawing: Its colour map and scale.
        method: Whose maps are drawn.
        whose: The scale that ends where the colours do, if higher values have the last colour, too.
    """
    if drawing.signed:
        end = f"ends of {whose}, and beyond" if whose else "ends at the largest magnitude"
        low, high = end_names(method)
        page.color_bar(y, colors_of(drawing), low, f"{high}; {end}", "0")
        return
    low, high = ("minimum", "maximum") if drawing.scale == "minmax" else ("0", "maximum")
    page.color_bar(y, drawing.colormap, low, f"end of {whose}, and above" if whose and low == "0" else high)
