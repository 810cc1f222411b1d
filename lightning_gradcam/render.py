"""From a record and display pixels to sheets: one picture a layer and method, a row a probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightning_gradcam.compute import CamKey
from lightning_gradcam.drawing import Drawing, Interpolation, lookup_table
from lightning_gradcam.picture import Picture, Pixels
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record import UNTRAINED_EPOCH, CamRecord, FloatArray
from lightning_gradcam.typeset import INK, LINE, PALE, RIGHT, WRONG, Color, stamp, write

_MARGIN, _GAP, _LABELS = 12, 8, 190
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
    "random": "random weights (baseline)",
}


def sheet(
    record: CamRecord,
    probes: ProbeSet,
    *,
    layer: str,
    method: str,
    drawing: Drawing,
    title: str,
    limits: Mapping[CamKey, FloatArray] | None = None,
) -> Picture:
    """Draws one layer's maps: a row a probe with its input and, for each target, the overlay.

    Args:
        record: The step to draw.
        probes: Where its display pixels, true classes and names come from.
        layer: Which layer of the record.
        method: Which method of the record.
        drawing: Colour map, opacity, columns, scale.
        title: The sheet's first line.
        limits: For ``scale="run"``: each map's largest value so far, ``[N]``; the record's own where not given.

    Returns:
        The sheet. Its header states layer, epoch, step, what is explained and the colour scale.
    """
    keys = [key for key in record.maps if key.layer == layer and key.method == method]
    tiles = _tiles(record, probes, keys, drawing, limits)
    tile_h, tile_w = tiles[0].pixels.shape[1:3]
    lines = max(len(caption) for tile in tiles for caption in tile.captions)
    row_h = max(tile_h + 2 + 14 * max(lines, 2), 84) + _GAP
    header = _header(record, layer, method, drawing, title, probes)
    width = max(_MARGIN + _LABELS + len(tiles) * (tile_w + _GAP) + _MARGIN - _GAP, 480)
    top = _MARGIN + 18 * len(header) + 50
    canvas = np.full((top + row_h * len(probes), width, 3), 255, np.uint8)
    for number, (text, color) in enumerate(header):
        write(canvas, (_MARGIN, _MARGIN + 18 * number), text, width - 2 * _MARGIN, 15 if number == 0 else 13, color)
    _color_bar(canvas, (_MARGIN, top - 46), drawing)
    for row in range(len(probes)):
        y = top + row * row_h
        canvas[y - 4, _MARGIN : width - _MARGIN] = LINE
        _row_label(canvas, y, record, probes, row)
    for column, tile in enumerate(tiles):
        x = _MARGIN + _LABELS + column * (tile_w + _GAP)
        write(canvas, (x, top - 21), tile.heading, tile_w + _GAP, 13)
        for row, pixels in enumerate(tile.pixels):
            y = top + row * row_h
            canvas[y : y + tile_h, x : x + tile_w] = pixels
            for number, caption in enumerate(tile.captions[row]):
                write(canvas, (x, y + tile_h + 1 + 14 * number), caption, tile_w + _GAP - 2, 12, PALE)
    return Picture(canvas, enlarged=tile_h > probes.pixels.shape[1])


def heat(maps: FloatArray, size: tuple[int, int], interpolation: Interpolation) -> FloatArray:
    """Resizes maps to the picture's resolution.

    Args:
        maps: ``[N, h, w]``.
        size: ``(H, W)``.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.

    Returns:
        ``[N, H, W]``; places are matched by area, corners not aligned.
    """
    if maps.shape[1:] == size:
        return maps
    smooth: dict[str, Any] = {} if interpolation == "nearest" else {"align_corners": False}
    values = torch.from_numpy(maps.copy())[:, None]
    resized = torch.nn.functional.interpolate(values, size=size, mode=interpolation, **smooth)
    return np.asarray(resized[:, 0].numpy())


def scaled(maps: FloatArray, drawing: Drawing, top: FloatArray) -> FloatArray:
    """Brings maps to 0…1 by the stated scale; a map without a positive value stays all zero.

    Args:
        maps: Signed maps ``[N, h, w]``.
        drawing: Its ``scale`` says how.
        top: What 1 stands for, ``[N]``; unused with ``"minmax"``.

    Returns:
        ``[N, h, w]`` in 0…1; places that are not finite become 0.
    """
    clean = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    if drawing.scale == "minmax":
        low, high = clean.min((1, 2), keepdims=True), clean.max((1, 2), keepdims=True)
        span = high - low
        return np.asarray(np.divide(clean - low, span, out=np.zeros_like(clean), where=span > 0))
    positive = np.maximum(clean, 0)
    limit = np.broadcast_to(top[:, None, None], positive.shape)
    return np.asarray(np.clip(np.divide(positive, limit, out=np.zeros_like(positive), where=limit > 0), 0, 1))


def maxima(maps: FloatArray, *, relu: bool = True) -> FloatArray:
    """Returns each map's largest finite value ``[N]``, after ReLU by default; 0 where none is finite."""
    largest = np.where(np.isfinite(maps), maps, -np.inf).max((1, 2))
    floor = 0 if relu else -np.inf
    return np.asarray(np.where(np.isfinite(largest), np.maximum(largest, floor), 0), np.float32)


@dataclass(frozen=True, eq=False)
class _Tiles:
    """One column of a sheet: pictures ``[N, H, W, 3]``, its heading and the lines below each."""

    heading: str
    pixels: Pixels
    captions: Sequence[tuple[str, ...]]


def _tiles(
    record: CamRecord,
    probes: ProbeSet,
    keys: Sequence[CamKey],
    drawing: Drawing,
    limits: Mapping[CamKey, FloatArray] | None,
) -> list[_Tiles]:
    base = _fitted(probes.pixels, drawing.max_tile)
    # Up to 112 on the shorter side, without letting an elongated picture outgrow the screen.
    shorter, longer = sorted(base.shape[1:3])
    factor = drawing.magnification or max(1, min(-(-112 // shorter), 512 // longer))
    own = {key: maxima(record.maps[key]) for key in keys}
    layer_top = np.full(len(base), max((float(top.max()) for top in own.values()), default=0.0), np.float32)
    run_top = np.max([(limits or own).get(key, own[key]) for key in keys], axis=0)
    table = lookup_table(drawing.colormap)
    columns: dict[str, list[_Tiles]] = {"input": [_Tiles("input", _enlarged(base, factor), [()] * len(base))]}
    for key in keys:
        top = {"layer": layer_top, "run": run_top}.get(drawing.scale, own[key])
        values = heat(scaled(record.maps[key], drawing, top), base.shape[1:3], drawing.interpolation)
        colors = table[(np.clip(values, 0, 1) * 255).round().astype(np.uint8)]
        mixed = (base * (1 - drawing.opacity) + colors * drawing.opacity).round().astype(np.uint8)
        # A map without any evidence shows the picture untouched, so that it can't be taken for a weak map.
        blank = own[key] <= 0 if drawing.scale != "minmax" else (record.maps[key] == 0).all(axis=(1, 2))
        mixed[blank] = base[blank]
        raw = maxima(record.maps[key], relu=False) if drawing.scale == "minmax" else own[key]
        captions = [_map_caption(record, key, row, raw[row], bool(blank[row])) for row in range(len(base))]
        if key.target not in ("predicted", "label") and not key.target.isdigit() and record.classes[key.target][0] >= 0:
            # Which class it is differs from row to row, and stands nowhere else.
            names = [probes.class_name(int(index)) for index in record.classes[key.target]]
            captions = [(name, *lines) for name, lines in zip(names, captions, strict=True)]
        shown = f"class {probes.class_name(int(key.target))}" if key.target.isdigit() else key.target
        columns.setdefault("overlay", []).append(_Tiles(f"overlay: {shown}", _enlarged(mixed, factor), captions))
        columns.setdefault("heatmap", []).append(_Tiles(f"map: {shown}", _enlarged(colors, factor), captions))
    return [tile for name in drawing.columns for tile in columns.get(name, [])]


def _map_caption(record: CamRecord, key: CamKey, row: int, top: float, blank: bool) -> tuple[str, ...]:
    kind = "p" if record.score == "probability" else "logit"
    kind = "difference" if "_vs_" in key.target else kind
    score = f"{kind if record.classes[key.target][row] >= 0 else 'score'} {record.scores[key.target][row]:.3g}"
    if not np.isfinite(record.maps[key][row]).all():
        return score, "map not finite"
    return score, "map all zero" if blank else f"map max {top:.3g}"


def _header(
    record: CamRecord, layer: str, method: str, drawing: Drawing, title: str, probes: ProbeSet
) -> list[tuple[str, Color]]:
    epoch = "untrained" if record.epoch == UNTRAINED_EPOCH else f"epoch {record.epoch}"
    explained = "softmax probability" if record.score == "probability" else "logit"
    lines = [
        (f"{title}  {layer}", INK),
        (f"{epoch}, step {record.step}, {record.stage}; {_METHODS.get(method, method)} of the {explained}", INK),
    ]
    if probes.note:
        lines.append((probes.note, WRONG))
    lines.append((f"colour scale '{drawing.scale}': {_SCALES[drawing.scale]}", PALE))
    if probes.display_source:
        lines.append((f"input pixels: {probes.display_source}", PALE))
    # On every sheet, so that its layout is the same in all epochs and a slider does not make it jump.
    lines.append(("picture without colours: the map is all zero", PALE))
    return lines


def _row_label(canvas: Pixels, y: int, record: CamRecord, probes: ProbeSet, row: int) -> None:
    label = None if probes.labels is None else int(probes.labels[row])
    predicted, confidence = int(record.predicted[row]), float(record.confidence[row])
    write(canvas, (_MARGIN, y), f"#{probes.ids[row]}", _LABELS - _GAP, 12, PALE)
    lines = []
    if label is not None:
        lines.append(("true", probes.class_name(label), INK))
    if predicted >= 0:
        color = INK if label is None else (RIGHT if predicted == label else WRONG)
        lines.append(("pred", f"{probes.class_name(predicted)}  {confidence:.0%}", color))
    for number, (head, text, color) in enumerate(lines):
        write(canvas, (_MARGIN, y + 19 + 17 * number), head, 30, 12, PALE)
        write(canvas, (_MARGIN + 32, y + 18 + 17 * number), text, _LABELS - 32 - _GAP, 13, color)
    if label is not None and predicted >= 0:
        stamp(canvas, (_MARGIN, y + 56), right=predicted == label)


def _color_bar(canvas: Pixels, at: tuple[int, int], drawing: Drawing) -> None:
    x, y = at
    low, high = ("minimum", "maximum") if drawing.scale == "minmax" else ("0", "maximum")
    start = x + (56 if drawing.scale == "minmax" else 14)
    write(canvas, (x, y - 1), low, 60, 12, PALE)
    canvas[y + 1 : y + 13, start : start + 128] = lookup_table(drawing.colormap)[None, ::2]
    write(canvas, (start + 136, y - 1), high, 80, 12, PALE)


def _fitted(display: Pixels, longest: int) -> Pixels:
    height, width = display.shape[1:3]
    if max(height, width) <= longest:
        return display
    share = longest / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in display])


def _enlarged(pixels: Pixels, factor: int) -> Pixels:
    return pixels if factor == 1 else pixels.repeat(factor, axis=1).repeat(factor, axis=2)
