"""Computes all statistics for one logged step, for every probe and map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.stats import numbers
from lightning_gradcam.stats.boxes import bounding_boxes, iou
from lightning_gradcam.stats.masks import Masks, inside, points_inside
from lightning_gradcam.stats.settled import Flags, pictures

# Number of map values to measure at once: in float64 and with ranks, they need ten times their own memory.
_PLACES = 1 << 16
# Ten seconds' worth of map values: about six million are ranked and compared per second.
_AFFORDABLE = 60_000_000
_OTHER_TARGET = {"label": "predicted", "predicted": "label"}


def measure(
    maps: Mapping[CamKey, FloatArray],
    previous: Mapping[CamKey, FloatArray] | None = None,
    masks: Masks | None = None,
    *,
    boxes: FloatArray | None = None,
    size: tuple[int, int] | None = None,
    changed: Mapping[str, Flags] | None = None,
) -> dict[CamKey, dict[str, FloatArray]]:
    """Computes the statistics of the maps at one step.

    Args:
        maps: The step's signed maps by key, ``[N, h, w]`` or ``[N, d, h, w]``, or ``[N, l]`` for signals, which have no
            ``center_y`` and no ``box_iou``.
        previous: The same probes' maps at the previous logged step; ``None`` at the first step.
        masks: Masks of the evidence in each probe, bool ``[N, H, W]`` (``[N, 1, L]`` for signals); an empty mask counts
            as none. In maps with time or depth, a mask applies to all slices.
        boxes: Boxes around the objects, float32 ``[N, 4]`` (left, top, right, bottom), NaN for a probe without one. In
            maps with time or depth, a box applies to all slices.
        size: Height and width, in pixels, of the image that the boxes refer to; required with boxes.
        changed: For each target, flags for probes whose explained class differs from ``previous``, bool ``[N]``. Maps
            for different classes are not compared.

    Returns:
        For each key, its statistics by name, each float32 ``[N]``, in the order of :data:`~lightning_gradcam.STATS`.
        ``drift`` and ``rank_correlation`` are included if ``previous`` has the key with the same shape, and are NaN if
        either map is blank or the class ``changed``. With ``changed``, ``compared``, ``flipped``, ``went_blank`` and
        ``came_back`` are also included, each 1 or 0. ``agreement`` is included for the targets ``"label"`` and
        ``"predicted"`` if the layer and method have both; ``energy_inside`` and ``pointing_game`` with masks;
        ``box_iou`` with boxes. A value is NaN if it is undefined for a probe.

    Raises:
        ConfigurationError: The numbers of masks, boxes and maps differ, a map is invalid, or boxes lack a size.

    Example:
        >>> found = measure({CamKey("layer4", "gradcam", "label"): np.ones((1, 2, 2), np.float32)})
        >>> {name: float(values[0]) for name, values in found["layer4", "gradcam", "label"].items()}
        {'entropy': 1.0, 'half_area': 0.5, 'center_x': 0.5, 'center_y': 0.5, 'blank': 0.0, 'maximum': 1.0}
    """
    if boxes is not None and size is None:
        raise ConfigurationError("size: got None with boxes; pass the image's height and width")
    shown, before = ({key: pictures(each) for key, each in given.items()} for given in (maps, previous or {}))
    found: dict[CamKey, dict[str, FloatArray]] = {}
    for key, own in shown.items():
        earlier, stats = before.get(key), found.setdefault(key, {})
        empty = _by_parts(numbers.blank, own)
        if earlier is not None and earlier.shape == own.shape:
            flipped = None if changed is None else changed.get(key.target)
            stats |= _compared(own, earlier, flipped)
            if flipped is not None:
                stats |= _counted(stats["drift"], empty, _by_parts(numbers.blank, earlier), flipped)
        stats |= {"entropy": _by_parts(numbers.entropy, own), "half_area": _by_parts(numbers.half_area, own)}
        stats["center_x"], stats["center_y"] = _by_parts(numbers.center, own)
        stats |= {"blank": empty, "maximum": _by_parts(numbers.maximum, own)}
        other = shown.get(key._replace(target=_OTHER_TARGET.get(key.target, "")))
        if other is not None:
            stats["agreement"] = _without_blank(_by_parts(numbers.agreement, own, other), own, other)
        if masks is not None:
            stats["energy_inside"] = inside(own, masks).astype(np.float32)
            # A blank map points nowhere, so it does not count as a miss.
            stats["pointing_game"] = np.where(empty > 0, np.nan, points_inside(own, masks)).astype(np.float32)
        if maps[key].ndim == 2:
            # Signals and their boxes have no height.
            del stats["center_y"]
        elif boxes is not None and size is not None:
            stats["box_iou"] = _box_iou(maps[key], boxes, size)
    return found


def to_last(maps: FloatArray, last: FloatArray, changed: Flags | None = None) -> dict[str, FloatArray]:
    """Compares one step's maps with those at the run's last step.

    Args:
        maps: The step's maps, ``[N, h, w]`` or ``[N, d, h, w]``.
        last: The last step's maps, of the same shape.
        changed: Flags for probes with a different explained class at the last step, bool ``[N]``; ``None`` for none.

    Returns:
        ``drift_to_last`` and ``rank_correlation_to_last``, each float32 ``[N]``; NaN if either map is blank or the
        class changed.

    Raises:
        ConfigurationError: The shapes differ.

    Example:
        >>> maps = np.array([[[1.0, 2.0]]], np.float32)
        >>> {name: float(values[0]) for name, values in to_last(maps, maps).items()}
        {'drift_to_last': 0.0, 'rank_correlation_to_last': 1.0}
    """
    return {f"{name}_to_last": values for name, values in _compared(pictures(maps), pictures(last), changed).items()}


def affordable(maps: Mapping[CamKey, FloatArray]) -> int:
    """Returns the number of steps whose maps can be compared in about ten seconds; at least 24.

    Args:
        maps: The maps at one step.

    Example:
        >>> affordable({CamKey("layer4", "gradcam", "label"): np.ones((16, 56, 56), np.float32)})
        1195
    """
    return max(24, _AFFORDABLE // max(1, sum(values.size for values in maps.values())))


def _counted(drifts: FloatArray, now: FloatArray, before: FloatArray, flipped: Flags) -> dict[str, FloatArray]:
    """Returns each probe's change since the previous step, 1 or 0; at most one of the four is 1."""
    kinds = {
        "compared": np.isfinite(drifts),
        "flipped": flipped,
        "went_blank": ~flipped & (now == 1) & (before == 0),
        "came_back": ~flipped & (now == 0) & (before == 1),
    }
    return {name: flags.astype(np.float32) for name, flags in kinds.items()}


def _box_iou(maps: FloatArray, boxes: FloatArray, size: tuple[int, int]) -> FloatArray:
    if len(boxes) != len(maps):
        raise ConfigurationError(f"boxes: got {len(boxes)} for {len(maps)} maps; pass one box for each map")
    found = np.full(len(maps), np.nan, np.float32)
    known = ~np.isnan(boxes).any(axis=1)
    found[known] = iou(bounding_boxes(maps[known], size), boxes[known])
    return found


def _compared(maps: FloatArray, others: FloatArray, changed: Flags | None) -> dict[str, FloatArray]:
    found = {
        "drift": _by_parts(numbers.drift, maps, others),
        "rank_correlation": _by_parts(numbers.rank_correlation, maps, others),
    }
    for values in found.values():
        values[:] = _without_blank(values, maps, others)
        if changed is not None:
            values[changed] = np.nan
    return found


def _without_blank(values: FloatArray, maps: FloatArray, others: FloatArray) -> FloatArray:
    """Replaces comparisons with a blank map by NaN."""
    either = (_by_parts(numbers.blank, maps) > 0) | (_by_parts(numbers.blank, others) > 0)
    return np.asarray(np.where(either, np.nan, values), np.float32)


def _by_parts(number: Callable[..., Any], maps: FloatArray, *others: FloatArray) -> FloatArray:
    """Measures a few probes at a time, so memory does not grow with their number."""
    numbers.check_arrays(maps)
    for other in others:
        numbers.check_pair(maps, other)
    rows = max(1, _PLACES // math.prod(maps.shape[1:]))
    # At least one part, even without probes.
    starts = range(0, max(1, len(maps)), rows)
    parts = [number(*(array[start : start + rows] for array in (maps, *others))) for start in starts]
    return np.concatenate(parts, axis=-1).astype(np.float32)
