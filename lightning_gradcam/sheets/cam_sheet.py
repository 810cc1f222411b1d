"""From a record and display pixels to sheets: one picture a layer and method, a row a probe."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.blank import blank_sentence, longest_sentence, record_codes
from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH, CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.boxes import LEGEND, legend
from lightning_gradcam.render.drawing import Drawing, lookup_table
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.signals import charted, source_lines
from lightning_gradcam.render.slices import SEAM, Slices
from lightning_gradcam.render.text import INK, LINE, PALE, RIGHT, WRONG, Color, stamp, write
from lightning_gradcam.render.tiles import BROKEN, draw_tiles, evenly, tile_size
from lightning_gradcam.stats.boxes import known_boxes

# Header not counted; WebP ends at 16,383 pixels a side.
TALLEST = 15_000
MARGIN, _GAP, LABELS = 12, 8, 190
# Where the list of likely classes begins below a row's top, and how high each of its lines is.
_LIST, _LIST_LINE = 80, 15
# Pixels that a heading such as "overlay: predicted" takes.
_LEAST = 112
_SCALES = {
    "image": "each map by its own maximum",
    "layer": "one maximum for all maps of this layer and step",
    "run": "each probe by its maximum in this run so far",
    "minmax": "each signed map from its minimum to its maximum, no ReLU",
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
        limits: For ``scale="run"``: each map's largest value so far, ``[N]``; the record's own where not given.
        note: A line of the header, such as where the inputs are.

    Returns:
        The sheet. Its header states layer, epoch, step, what is explained and the colour scale.

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
    if note:
        header.append((note, PALE))
    header += [(line, INK) for line in _blank_lines(record, keys, drawing, width - 2 * MARGIN)]
    if len(rows) < len(probes):
        header.append((f"{len(rows)} of {len(probes)} probes, evenly chosen; all are in the archive", PALE))
    pitch = (tile_w + SEAM) // len(slices.chosen)
    names = _slice_names(slices, pitch)
    legends = LEGEND * (drawing.boxes + known)
    top = MARGIN + 18 * len(header) + 50 + legends + (16 if names else 0)
    canvas = np.full((top + row_h * len(rows), width, 3), 255, np.uint8)
    for number, (text, color) in enumerate(header):
        write(canvas, (MARGIN, MARGIN + 18 * number), text, width - 2 * MARGIN, 15 if number == 0 else 13, color)
    color_bar(canvas, (MARGIN, MARGIN + 18 * len(header) + 4), drawing)
    if drawing.boxes:
        legend(canvas, (MARGIN, MARGIN + 18 * len(header) + 26), width - 2 * MARGIN, known=known)
    for place, row in enumerate(rows):
        y = top + place * row_h
        canvas[y - 4, MARGIN : width - MARGIN] = LINE
        row_label(canvas, y, record, probes, row)
        _likeliest(canvas, y + _LIST, record, probes, row, listed)
    for column, tile in enumerate(tiles):
        x = MARGIN + LABELS + column * (cell + _GAP)
        write(canvas, (x, top - (37 if names else 21)), tile.heading, cell + _GAP - 4, 13)
        for place, name in enumerate(names):
            write(canvas, (x + place * pitch, top - 20), name, pitch, 12, PALE)
        for row, pixels in enumerate(tile.pixels):
            y = top + row * row_h
            canvas[y : y + tile_h, x : x + tile_w] = pixels
            for number, caption in enumerate(tile.captions[row]):
                color = WRONG if caption == BROKEN else PALE
                write(canvas, (x, y + tile_h + 1 + 14 * number), caption, cell + _GAP - 2, 12, color)
    return Picture(canvas, tile_h > probes.pixels.shape[-3], drawing.format, bar_colors(drawing))


def method_title(method: str) -> str:
    """Returns a method's name as papers write it; that of a registered one as it is."""
    return _METHODS.get(method, method)


def layer_title(layer: str, method: str) -> str:
    """Returns what a header calls a layer."""
    # A method without a layer of its own has this key; a module of the model may have the same name.
    return "whole model" if layer == "model" and method in _WITHOUT_LAYER else layer


def score_title(score: str) -> str:
    """Returns what a header calls an explained score."""
    return {"probability": "softmax probability", "sigmoid": "sigmoid"}.get(score, "logit")


def epoch_title(epoch: int) -> str:
    """Returns an epoch as headers and headings name it."""
    return "untrained" if epoch == UNTRAINED_EPOCH else f"epoch {epoch}"


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
) -> list[tuple[str, Color]]:
    what = f"{method_title(method)} of the {score_title(record.score)}"
    lines = [
        (f"{title}  {layer_title(layer, method)}", INK),
        (f"{epoch_title(record.epoch)}, step {record.step}, {record.stage}; {what}", INK),
    ]
    if probes.note:
        lines.append((probes.note, WRONG))
    lines.append((f"colour scale '{drawing.scale}': {_SCALES[drawing.scale]}", PALE))
    lines += [(line, PALE) for line in _level_lines(record, layer)]
    lines += [(line, PALE) for line in _slice_lines(slices)]
    lines += [(line, PALE) for line in source_lines(probes.display_source)]
    if "guided" in drawing.columns:
        lines.append(("guided: Guided Grad-CAM, each by its largest magnitude; grey is 0,", PALE))
        lines.append(("white: a brighter pixel raises the score, black: a darker one does", PALE))
    if listed := min(drawing.top, record.likeliest.shape[1]):
        of_true = "; the true one has a green square" if probes.view.true is not None else ""
        most = "most likely class" if listed == 1 else f"{listed} most likely classes"
        lines.append((f"at the left, the {most}{of_true}", PALE))
    return lines


def _level_lines(record: CamRecord, layer: str) -> list[str]:
    """Returns what the header says of a layer with several feature maps; nothing for others."""
    found = Counter(name for (of, _), names in record.levels.items() if of == layer for name in names)
    if len(found) < 2:
        return [f"level: {name}" for name in found]
    every = sum(found.values())
    return [f"levels: {', '.join(f'{name} ({count} of {every} maps)' for name, count in sorted(found.items()))}"]


def _blank_lines(record: CamRecord, keys: Sequence[CamKey], drawing: Drawing, width: int) -> list[str]:
    """Returns what the header says of blank maps.

    As many lines on every sheet, so that its layout is the same in all epochs and a slider does not make it jump.
    """
    codes = record_codes(record.maps, record.causes, keys, range(len(record.probe_ids)))
    said = blank_sentence(codes) or f"a blank map (zero after the ReLU), here 0 of {len(codes)}"
    if drawing.scale == "minmax":
        said = "the signed map is zero everywhere"
    lines = wrapped(f"no colours: {said}", width)
    return lines + [""] * (len(wrapped(f"no colours: {longest_sentence()}", width)) - len(lines))


def wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a text that is written in a header of so many pixels."""
    return textwrap.wrap(text, max(20, int(width / 6.4)))


def _slice_lines(slices: Slices) -> list[str]:
    """Returns what the header says of slices and frames; nothing for plain pictures."""
    depth, length = slices.depth, slices.length
    if depth < 2:
        middle = f"drawn on frame {slices.frames[0] + 1} of {length}, the middle one: the maps have no time or depth"
        return [middle] if length else []
    numbers = ", ".join(str(place + 1) for place in slices.chosen)
    shown = f"all {depth} slices of each map" if len(slices.chosen) == depth else f"slices {numbers} of {depth}"
    under = "its own frame" if length == depth else f"the frame at its centre, of {length} frames"
    return [
        f"{shown}, left to right = time or depth, on one colour scale",
        f"each slice lies on {under if length else 'the same picture'}",
    ]


def _slice_names(slices: Slices, pitch: int) -> list[str]:
    """Returns what stands above each slice of a strip."""
    if len(slices.chosen) == 1:
        return []
    names = [slices.name(place) for place in slices.chosen]
    return names if pitch >= 60 else [name.split()[-1] for name in names]


def row_label(
    canvas: Pixels, y: int, record: CamRecord, probes: ProbeView, row: int, predicted_head: str = "pred"
) -> None:
    """Writes a probe's id, true and predicted class at the left of its row, 76 pixels high.

    Args:
        canvas: uint8 ``[H, W, 3]``, written to.
        y: The row's top.
        record: Where the predicted class is from.
        probes: Where names and true classes are from.
        row: The probe's place.
        predicted_head: What stands before the predicted class.
    """
    true = probes.true_classes(row)
    predicted, confidence = int(record.predicted[row]), float(record.confidence[row])
    write(canvas, (MARGIN, y), f"#{probes.ids[row]}", LABELS - _GAP, 12, PALE)
    lines = []
    if true:
        lines.append(("true", ", ".join(map(probes.class_name, true)), INK))
    if predicted >= 0:
        color = INK if not true else (RIGHT if predicted in true else WRONG)
        lines.append((predicted_head, f"{probes.class_name(predicted)}  {confidence:.0%}", color))
    for number, (head, text, color) in enumerate(lines):
        write(canvas, (MARGIN, y + 19 + 17 * number), head, 30, 12, PALE)
        write(canvas, (MARGIN + 32, y + 18 + 17 * number), text, LABELS - 32 - _GAP, 13, color)
    if true and predicted >= 0:
        stamp(canvas, (MARGIN, y + 56), right=predicted in true)


def _likeliest(canvas: Pixels, y: int, record: CamRecord, probes: ProbeView, row: int, top: int) -> None:
    """Writes a probe's most likely classes below its label, a line each."""
    true = probes.true_classes(row)
    found = zip(record.likeliest[row, :top], record.likeliest_confidence[row, :top], strict=True)
    for number, (index, confidence) in enumerate(found):
        line, known = y + _LIST_LINE * number, int(index) in true
        if known:
            canvas[line + 4 : line + 11, MARGIN : MARGIN + 7] = RIGHT
        share = f"{confidence:.0%}" if confidence >= 0.0995 else f"{confidence:.1%}"
        write(canvas, (MARGIN + 12, line), share, 36, 12, PALE)
        write(
            canvas, (MARGIN + 48, line), probes.class_name(int(index)), LABELS - 48 - _GAP, 12, RIGHT if known else INK
        )


def bar_colors(drawing: Drawing) -> Pixels:
    """Returns so many colours of the colour map, ``[32, 3]``, that a bar of them shows no steps."""
    return lookup_table(drawing.colormap)[::8]


def color_bar(canvas: Pixels, at: tuple[int, int], drawing: Drawing) -> None:
    """Draws the colour map between what its ends stand for, 16 pixels high."""
    x, y = at
    low, high = ("minimum", "maximum") if drawing.scale == "minmax" else ("0", "maximum")
    start = x + (56 if drawing.scale == "minmax" else 14)
    write(canvas, (x, y - 1), low, 60, 12, PALE)
    canvas[y + 1 : y + 13, start : start + 128] = lookup_table(drawing.colormap)[None, ::2]
    write(canvas, (start + 136, y - 1), high, 80, 12, PALE)
