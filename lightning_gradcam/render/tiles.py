"""Draws maps and display pixels as the columns of a sheet; maps with time or depth become strips of slices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_gradcam.errors import DrawingError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.boxes import put_boxes
from lightning_gradcam.render.drawing import GUIDED, Drawing
from lightning_gradcam.render.overlay import grey, lay_over, magnitudes, maxima, not_finite, scaled
from lightning_gradcam.render.picture import Pixels, resized_pictures
from lightning_gradcam.render.scale import run_limits
from lightning_gradcam.render.slices import SEAM, Slices
from lightning_gradcam.render.text import cross_out

BROKEN = "map not finite"
_WIDEST_STRIP = 640
# Names of targets that are not classes.
OUTPUT, SIMILAR = re.compile(r"output(\d+)"), re.compile(r"similar_to(\d+)")
# Names of targets whose score is that of a box, or a sum over pixels, and not the logit or probability of a class.
_OF_PLACES = re.compile(r"(detect|segment|segment_mask)(\d+|_predicted)(_boxes)?")


@dataclass(frozen=True, eq=False)
class Tiles:
    """One column of a sheet: its heading, images ``[N, H, W, 3]``, and the captions below each image."""

    heading: str
    pixels: Pixels
    captions: Sequence[tuple[str, ...]]


def draw_tiles(
    record: CamRecord,
    probes: ProbeSet | ProbeView,
    keys: Sequence[CamKey],
    drawing: Drawing,
    limits: Mapping[CamKey, FloatArray] | None,
    slices: Slices,
    rows: Sequence[int],
) -> list[Tiles]:
    """Colours maps and overlays them on the probes.

    Args:
        record: The step to draw.
        probes: The probes, for display pixels and class names.
        keys: The maps' keys, all with the same layer and method.
        drawing: Colour map, opacity, columns, scale.
        limits: For ``scale="run"``, both limits for each map so far, ``[N, 2]`` (:func:`run_limits`).
        slices: The slices to show for maps and displays with a third axis.
        rows: The indices of the probes to draw.

    Returns:
        The columns, in the order of ``drawing.columns``; all except the input once for each of ``keys``. There is no
        Guided Grad-CAM next to a map of the whole model, because it belongs to a layer.

    Raises:
        DrawingError: Guided Grad-CAM is requested, but the record does not contain any.
    """
    probes, chosen = probes.view, list(rows)
    base = fitted(slices.of_display(probes.pixels[chosen]), drawing.max_tile)
    factor = _factor(base.shape, drawing)
    # Exclude maps that are not finite: they are not shown, and their finite values would darken all others.
    tops_of = magnitudes if drawing.signed else maxima
    of_all = {key: np.where(not_finite(record.maps[key]), 0, tops_of(record.maps[key])) for key in keys}
    layer_top = np.full(len(base), max((float(top.max()) for top in of_all.values()), default=0.0), np.float32)
    run_top = run_limits(record, keys, limits, signed=drawing.signed)[chosen]
    columns: dict[str, list[Tiles]] = {"input": [Tiles("input", enlarged(base, factor), [()] * len(base))]}
    for key in keys:
        maps, target = record.maps[key][chosen], key.target
        top = {"layer": layer_top, "run": run_top}.get(drawing.scale, of_all[key][chosen])
        # Scale before selecting slices: hidden slices also count for the shared scale.
        over = lay_over(base, maps, slices.of_maps(scaled(maps, drawing, top)), drawing)
        raw, low = maxima(maps, relu=drawing.scale != "minmax"), maxima(-maps) if drawing.signed else None
        summed = [len(probes.true_classes(row)) if target == "label" else 1 for row in chosen]
        captions = [
            _map_caption(record, key, row, raw[i], bool(over.blank[i]), summed[i], low=None if low is None else low[i])
            for i, row in enumerate(chosen)
        ]
        if target not in ("predicted", "label") and not _is_class(target) and record.classes[target][0] >= 0:
            # The class differs between rows, and is not stated elsewhere.
            said = [probes.class_name(int(index)) for index in record.classes[target][chosen]]
            names = [f"class {name}" if _is_class(name) else name for name in said]
            captions = [(name, *lines) for name, lines in zip(names, captions, strict=True)]
        shown = _shown_target(target, probes)
        # Both classes of a contrast must fit above a small tile.
        heading = shown if "_vs_" in target else f"overlay: {shown}"
        pictures, below = enlarged(over.mixed, factor, over.broken), captions
        if drawing.boxes:
            overlaps = put_boxes(pictures, maps, probes, chosen, slices, drawing.box_threshold)
            below = [(*lines, *more) for lines, more in zip(captions, overlaps, strict=True)]
        columns.setdefault("overlay", []).append(Tiles(heading, pictures, below))
        if "heatmap" in drawing.columns:
            colors = enlarged(over.colors, factor, over.broken)
            columns.setdefault("heatmap", []).append(Tiles(f"map: {shown}", colors, captions))
        if "guided" in drawing.columns:
            columns.setdefault("guided", []).extend(_guided(record, probes, key, base, slices, chosen, factor))
    return [tile for name in drawing.columns for tile in columns.get(name, [])]


def tile_size(display: tuple[int, ...], drawing: Drawing, slices: Slices) -> tuple[int, int]:
    """Returns a tile's height and width, for display pixels of a shape ``[N, H, W, 3]``, or with frames."""
    shown = len(slices.chosen)
    height, width = fitted_size(shown, display[-3], display[-2], drawing.max_tile)
    factor = _factor((1, shown, height, width), drawing)
    return height * factor, shown * (width * factor + SEAM) - SEAM


def evenly(count: int, most: int, *, ends: bool = False) -> list[int]:
    """Returns at most ``most`` evenly spaced indices into ``count`` items, but at least one.

    Args:
        count: Number of items.
        most: Maximum number of indices.
        ends: Whether to include the last item; the first is always included.

    Example:
        >>> evenly(10, 4), evenly(10, 4, ends=True)
        ([0, 2, 5, 7], [0, 3, 6, 9])
    """
    shown = min(count, max(1, most))
    if ends and shown > 1:
        return [(2 * place * (count - 1) + shown - 1) // (2 * (shown - 1)) for place in range(shown)]
    return [place * count // shown for place in range(shown)]


def _shown_target(target: str, probes: ProbeView) -> str:
    return f"class {probes.class_name(int(target))}" if _is_class(target) else target.replace("_vs_", " vs ")


def of_classes(record: CamRecord, target: str) -> npt.NDArray[np.bool_]:
    """Returns whether each probe's score is one of the scores that the model gives to classes, ``[N]``."""
    return (record.classes[target] >= 0) & (_OF_PLACES.fullmatch(target) is None)


def unclassed_word(target: str) -> str:
    """Returns the kind of score for a target that is not a class: ``"value"``, ``"similarity"`` or ``"score"``."""
    return "value" if OUTPUT.fullmatch(target) else "similarity" if SIMILAR.fullmatch(target) else "score"


def _is_class(target: str) -> bool:
    """Whether a target's name is a class index. Only ASCII digits count: a function's name may contain others."""
    return target.isascii() and target.isdigit()


def _map_caption(
    record: CamRecord, key: CamKey, row: int, top: float, blank: bool, summed: int = 1, low: float | None = None
) -> tuple[str, ...]:
    """Returns the captions below a map: its score (a sum over ``summed`` classes) and its maximum.

    For a signed map, ``low`` is the magnitude of the strongest evidence against the score.
    """
    kind = "difference" if "_vs_" in key.target else "logit" if record.score == "logit" else "p"
    value = f"{record.scores[key.target][row]:.3g}"
    if summed > 1:
        # Use two lines: one would be too long for the narrowest tile.
        score: tuple[str, ...] = (f"sum of {'logits' if kind == 'logit' else kind} over", f"{summed} classes: {value}")
    else:
        score = (f"{kind if of_classes(record, key.target)[row] else unclassed_word(key.target)} {value}",)
    if not np.isfinite(record.maps[key][row]).all():
        return *score, BROKEN
    if blank:
        return *score, "blank: map is zero"
    if low is None:
        return *score, f"map max {top:.3g}"
    # Both fit on one line of the narrowest tile.
    return *score, " / ".join(
        f"{sign}{value:.{3 if value >= 0.01 else 2}g}" if value else "0" for sign, value in (("+", top), ("-", low))
    )


def _guided(
    record: CamRecord, probes: ProbeView, key: CamKey, base: Pixels, slices: Slices, rows: Sequence[int], factor: int
) -> list[Tiles]:
    """Returns the column with Guided Grad-CAM for a key's layer and target; empty if the layer has none."""
    wanted = key._replace(method=GUIDED)
    if wanted not in record.maps:
        if any(other.method == GUIDED for other in record.maps):
            return []
        raise DrawingError(
            f"drawing.columns: 'guided' shows Guided Grad-CAM, which this step does not have; add {GUIDED!r} to"
            " methods, or leave the column out"
        )
    signed = record.maps[wanted][list(rows)]
    top, broken = magnitudes(signed), not_finite(signed)
    captions = [
        (BROKEN,) if broken[row] else ("blank: zero everywhere",) if top[row] <= 0 else (f"largest ±{top[row]:.3g}",)
        for row in range(len(signed))
    ]
    heading = f"guided: {_shown_target(key.target, probes)}"
    return [Tiles(heading, enlarged(grey(signed, base.shape[2:4], slices), factor, broken), captions)]


def fitted(frames: Pixels, longest: int) -> Pixels:
    """Scales images ``[N, s, H, W, 3]`` down to the maximum side length and strip width."""
    count, shown, height, width = frames.shape[:4]
    smaller_h, smaller_w = fitted_size(shown, height, width, longest)
    if (smaller_h, smaller_w) == (height, width):
        return frames
    smaller = resized_pictures(frames.reshape(-1, height, width, 3), (smaller_h, smaller_w))
    return smaller.reshape(count, shown, smaller_h, smaller_w, 3)


def fitted_size(shown: int, height: int, width: int, longest: int) -> tuple[int, int]:
    """Returns the height and width to which images are scaled down if ``shown`` of them are side by side."""
    share = min(1.0, longest / max(height, width), _room(shown, longest) / width)
    return max(1, round(height * share)), max(1, round(width * share))


def _room(shown: int, longest: int) -> int:
    """Returns the maximum width of each image in a strip of ``shown`` images."""
    return (max(_WIDEST_STRIP, longest) - SEAM * (shown - 1)) // shown


def _factor(shape: tuple[int, ...], drawing: Drawing) -> int:
    # About 112 pixels on the shorter side: twice that would need four times the bytes and show nothing more. Elongated
    # images and strips must not exceed the screen.
    shown, height, width = shape[1:4]
    shorter, longer = sorted((height, width))
    across = 512 // longer if shown == 1 else _room(shown, drawing.max_tile) // width
    return drawing.magnification or max(1, min(round(112 / shorter), 512 // longer, across))


def enlarged(pictures: Pixels, factor: int, crossed: npt.NDArray[np.bool_] | None = None) -> Pixels:
    """Enlarges images ``[N, s, H, W, 3]``, crosses out ``crossed`` ones, and joins each probe's images side by side."""
    # Repeat columns first: complete rows are copied faster.
    large = pictures if factor == 1 else pictures.repeat(factor, axis=3).repeat(factor, axis=2)
    for row in np.flatnonzero(crossed) if crossed is not None else ():
        for picture in large[row]:
            cross_out(picture)
    count, shown, height, width = large.shape[:4]
    if shown == 1:
        return large[:, 0]
    strip = np.full((count, height, shown * (width + SEAM) - SEAM, 3), 255, np.uint8)
    for place in range(shown):
        strip[:, :, place * (width + SEAM) : place * (width + SEAM) + width] = large[:, place]
    return strip
