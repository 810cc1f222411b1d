"""From a record and display pixels to sheets: one picture a layer and method, a row a probe."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.blank import blank_sentence, longest_sentence, record_codes
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.boxes import legend
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.render.signals import charted, source_lines
from lightning_gradcam.render.slices import SEAM, Slices
from lightning_gradcam.render.text import INK, PALE, RIGHT, WRONG, stamp
from lightning_gradcam.render.tiles import BROKEN, draw_tiles, evenly, tile_size
from lightning_gradcam.sheets.builder import (
    LINE_HEIGHT,
    MARGIN,
    TALLEST,
    Caption,
    Line,
    Sheet,
    of_probes,
    remarks,
    step_line,
)
from lightning_gradcam.stats.boxes import known_boxes

_GAP, LABELS = 8, 190
# Where the list of likely classes begins below a row's top, and how high each of its lines is.
_LIST, _LIST_LINE = 80, 15
# Pixels that a heading such as "overlay: predicted" takes.
_LEAST = 112
_SCALES = {
    "image": "each map by itself, up to its maximum",
    "layer": "one scale for all maps of this layer and step, up to their maximum",
    "run": "each probe by itself, up to its maximum in this run so far",
    "minmax": "each signed map from its minimum to its maximum (no ReLU)",
}
_METHODS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "xgradcam": "XGrad-CAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "gradcam_elementwise": "element-wise Grad-CAM",
    "eigencam": "Eigen-CAM",
    "eigengradcam": "Eigen-Grad-CAM",
    "smoothgradcam++": "Smooth Grad-CAM++",
    "scorecam": "Score-CAM",
    "ablationcam": "Ablation-CAM",
    "cam": "CAM",
    "finercam": "Finer-CAM",
    "fullgrad": "FullGrad",
    "shapleycam": "ShapleyCAM",
    "legrad": "LeGrad",
    "guided_gradcam": "Guided Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "random": "random weights (baseline)",
}
_WITHOUT_LAYER = ("fullgrad", "guided_backprop")


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
        limits: For ``scale="run"``: each map's largest value so far, ``[N]``; the record's own if not given.
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
    lines = max((len(caption) for tile in tiles for caption in tile.captions), default=0)
    row_h = _row_height(tile_h, lines, listed)
    header = _header(record, layer, method, drawing, title, probes, slices)
    header += remarks(note)
    header += [(line, INK) for line in _blank_lines(record, keys, drawing, width - 2 * MARGIN)]
    header += remarks(of_probes(len(rows), len(probes)))
    pitch = (tile_w + SEAM) // len(slices.chosen)
    names = _slice_names(slices, pitch)
    boxes = legend(drawing.box_threshold, known=known) if drawing.boxes else []
    head = 50 + LINE_HEIGHT * len(boxes) + (16 if names else 0)
    page = Sheet(header, width, head=head, body=row_h * len(rows))
    color_bar(page, page.below + 3, drawing)
    for number, entry in enumerate(boxes):
        page.legend(page.below + 26 + LINE_HEIGHT * number, entry)
    for place, row in enumerate(rows):
        y = page.top + place * row_h
        page.rule(y - 4)
        row_label(page, y, record, probes, row)
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


def method_title(method: str) -> str:
    """Returns a method's name as papers write it; that of a registered one as it is."""
    return _METHODS.get(method, method)


def layer_title(layer: str, method: str) -> str:
    """Returns what a header calls a layer."""
    # A method without its own layer has this key; a module of the model may have the same name.
    return "whole model" if layer == "model" and method in _WITHOUT_LAYER else layer


def score_title(score: str) -> str:
    """Returns what a header calls an explained score."""
    return {"probability": "softmax probability", "sigmoid": "sigmoid"}.get(score, "logit")


def _row_height(tile: int, lines: int, top: int = 0) -> int:
    return max(tile + 2 + 14 * max(lines, 2), 84, _LIST + _LIST_LINE * top + 4 if top else 0) + _GAP


def _header(
    record: CamRecord,
    layer: str,
    method: str,
    drawing: Drawing,
    title: str,
    probes: ProbeSet | ProbeView,
    slices: Slices,
) -> list[Line]:
    lines = [
        (f"{title}  {layer_title(layer, method)}", INK),
        step_line(f"{method_title(method)} of the {score_title(record.score)}", record),
        *remarks(probes.note, color=WRONG),
        *remarks(
            f"colours: {_SCALES[drawing.scale]}",
            *_level_lines(record, layer),
            *_slice_lines(slices),
            *source_lines(probes.display_source),
        ),
    ]
    if "guided" in drawing.columns:
        lines += remarks(
            "guided: Guided Grad-CAM, each by its largest magnitude; grey is 0,",
            "white: a brighter pixel raises the score, black: a darker one does",
        )
    if listed := min(drawing.top, record.likeliest.shape[1]):
        of_true = "; the true class has a green square" if probes.view.true is not None else ""
        most = "most likely class" if listed == 1 else f"{listed} most likely classes"
        lines += remarks(f"on the left: the {most}{of_true}")
    return lines


def _level_lines(record: CamRecord, layer: str) -> list[str]:
    """Returns the header's text on a layer with several feature maps; nothing for others."""
    found = Counter(name for (of, _), names in record.levels.items() if of == layer for name in names)
    if len(found) < 2:
        return [f"level: {name}" for name in found]
    every = sum(found.values())
    return [f"levels: {', '.join(f'{name} ({count} of {every} maps)' for name, count in sorted(found.items()))}"]


def _blank_lines(record: CamRecord, keys: Sequence[CamKey], drawing: Drawing, width: int) -> list[str]:
    """Returns the header's text on blank maps.

    As many lines on every sheet, so that its layout is the same in all epochs and a slider does not make it jump.
    """
    codes = record_codes(record.maps, record.causes, keys, range(len(record.probe_ids)))
    said = blank_sentence(codes) or f"blank: the map is zero everywhere (0 of {len(codes)} here)"
    lines = wrapped("blank: the signed map is zero everywhere" if drawing.scale == "minmax" else said, width)
    return lines + [""] * (len(wrapped(longest_sentence(), width)) - len(lines))


def wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a text in a header that is ``width`` pixels wide."""
    return textwrap.wrap(text, max(20, int(width / 6.4)))


def _slice_lines(slices: Slices) -> list[str]:
    """Returns the header's text on slices and frames; nothing for plain pictures."""
    depth, length = slices.depth, slices.length
    if depth < 2:
        middle = f"drawn on frame {slices.frames[0] + 1} of {length}, the middle one: the maps have no time or depth"
        return [middle] if length else []
    numbers = ", ".join(str(place + 1) for place in slices.chosen)
    shown = f"all {depth} slices of each map" if len(slices.chosen) == depth else f"slices {numbers} of {depth}"
    under = "its own frame" if length == depth else f"the frame at its centre, of {length} frames"
    return [
        f"{shown}, left to right = time or depth, on one colour scale",
        f"each slice is drawn on {under if length else 'the same picture'}",
    ]


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


def color_bar(page: Sheet, y: int, drawing: Drawing, where: str = "") -> None:
    """Draws a sheet's colour bar.

    Args:
        page: Drawn on.
        y: Its top.
        drawing: Its colour map and scale.
        where: Where the maximum is stated.
    """
    low, high = ("minimum", "maximum") if drawing.scale == "minmax" else ("0", f"maximum{where}")
    page.color_bar(y, drawing.colormap, low, high)
