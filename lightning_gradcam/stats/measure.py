"""All numbers of one logged step, for every probe and map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.stats.boxes import bounding_boxes, iou
from lightning_gradcam.stats.masks import Masks, inside, points_inside
from lightning_gradcam.stats.numbers import (
    agreement,
    blank,
    center,
    check_arrays,
    check_pair,
    drift,
    entropy,
    half_area,
    maximum,
    rank_correlation,
)

Flags = npt.NDArray[np.bool_]
# Places of maps that are measured at once: in float64 and with their ranks they take ten times their own memory.
_PLACES = 1 << 16
# About six million places a second are ranked and compared.
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
    """Measures the maps of one step.

    Args:
        maps: The step's: key to signed maps ``[N, h, w]`` or ``[N, d, h, w]``, or ``[N, l]`` of signals, which have no
            ``center_y`` and no ``box_iou``.
        previous: Those of the logged step before, of the same probes; ``None`` at the first.
        masks: Where the probes' telling parts are, bool ``[N, H, W]`` (``[N, 1, L]`` of signals); a probe whose mask
            is empty has none. In maps with time or depth a mask holds for all slices.
        boxes: Where the objects are, float32 ``[N, 4]`` (left, top, right, bottom), NaN for a probe without one; in
            maps with time or depth a box holds for all slices.
        size: Height and width of the picture in whose pixels the boxes are; needed with them.
        changed: Target to where the explained class is another than in ``previous``, bool ``[N]``: maps of two classes
            are not compared.

    Returns:
        For each key the numbers by name, each float32 ``[N]``, in the order of
        :data:`~lightning_gradcam.STATS`. ``drift`` and ``rank_correlation`` are there where ``previous`` has the
        key in the same shape, and NaN if either map is blank or the class ``changed``; with ``changed`` so are
        ``compared``, ``flipped``, ``went_blank`` and ``came_back``, each 1 or 0. ``agreement`` is there for the targets
        ``"label"`` and ``"predicted"`` where the layer and method have both; ``energy_inside`` and ``pointing_game``
        with masks, ``box_iou`` with boxes. NaN if a probe has no such number.

    Raises:
        ConfigurationError: The numbers of masks, boxes and maps differ, a map is not valid, or boxes lack a size.

    Example:
        >>> found = measure({CamKey("layer4", "gradcam", "label"): np.ones((1, 2, 2), np.float32)})
        >>> {name: float(values[0]) for name, values in found["layer4", "gradcam", "label"].items()}
        {'entropy': 1.0, 'half_area': 0.5, 'center_x': 0.5, 'center_y': 0.5, 'blank': 0.0, 'maximum': 1.0}
    """
    if boxes is not None and size is None:
        raise ConfigurationError("size: got None with boxes; give the height and width of the picture")
    shown, before = ({key: _pictures(each) for key, each in given.items()} for given in (maps, previous or {}))
    found = {key: _measured(key, shown, before, masks, changed) for key in maps}
    for key, numbers in found.items():
        if maps[key].ndim == 2:
            # Neither a signal nor its box has a height.
            del numbers["center_y"]
        elif boxes is not None and size is not None:
            numbers["box_iou"] = _box_iou(maps[key], boxes, size)
    return found


def to_last(maps: FloatArray, last: FloatArray, changed: Flags | None = None) -> dict[str, FloatArray]:
    """Compares one step's maps with those of the run's last step.

    Args:
        maps: ``[N, h, w]`` or ``[N, d, h, w]``.
        last: Of the same shape.
        changed: Where the last step's explained class is another one, bool ``[N]``; ``None``: nowhere.

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
    compared = _compared(_pictures(maps), _pictures(last), changed)
    return {f"{name}_to_last": values for name, values in compared.items()}


def affordable(maps: Mapping[CamKey, FloatArray]) -> int:
    """Returns of how many steps such maps can be compared with others in some ten seconds; 24 at least.

    Args:
        maps: One step's.

    Example:
        >>> affordable({CamKey("layer4", "gradcam", "label"): np.ones((16, 56, 56), np.float32)})
        1195
    """
    return max(24, _AFFORDABLE // max(1, sum(values.size for values in maps.values())))


def _pictures(maps: FloatArray) -> FloatArray:
    """Returns maps of signals as those of pictures of one row."""
    return maps[:, None] if maps.ndim == 2 else maps


def _measured(
    key: CamKey,
    maps: Mapping[CamKey, FloatArray],
    previous: Mapping[CamKey, FloatArray],
    masks: Masks | None,
    changed: Mapping[str, Flags] | None,
) -> dict[str, FloatArray]:
    own, before = maps[key], previous.get(key)
    found: dict[str, FloatArray] = {}
    empty = _by_parts(blank, own)
    if before is not None and before.shape == own.shape:
        flipped = None if changed is None else changed.get(key.target)
        found |= _compared(own, before, flipped)
        if flipped is not None:
            found |= _counted(found["drift"], empty, _by_parts(blank, before), flipped)
    found |= {"entropy": _by_parts(entropy, own), "half_area": _by_parts(half_area, own)}
    found["center_x"], found["center_y"] = _by_parts(center, own)
    found |= {"blank": empty, "maximum": _by_parts(maximum, own)}
    other = maps.get(key._replace(target=_OTHER_TARGET.get(key.target, "")))
    if other is not None:
        found["agreement"] = _without_blank(_by_parts(agreement, own, other), own, other)
    if masks is not None:
        found["energy_inside"] = inside(own, masks).astype(np.float32)
        # A map that points nowhere misses nothing.
        found["pointing_game"] = np.where(empty > 0, np.nan, points_inside(own, masks)).astype(np.float32)
    return found


def _counted(drifts: FloatArray, now: FloatArray, before: FloatArray, flipped: Flags) -> dict[str, FloatArray]:
    """Returns what became of each probe since the step before, 1 or 0; at most one of the four is 1."""
    kinds = {
        "compared": np.isfinite(drifts),
        "flipped": flipped,
        "went_blank": ~flipped & (now == 1) & (before == 0),
        "came_back": ~flipped & (now == 0) & (before == 1),
    }
    return {name: flags.astype(np.float32) for name, flags in kinds.items()}


def _box_iou(maps: FloatArray, boxes: FloatArray, size: tuple[int, int]) -> FloatArray:
    if len(boxes) != len(maps):
        raise ConfigurationError(f"boxes: got {len(boxes)} for {len(maps)} maps; give one box for each map")
    found = np.full(len(maps), np.nan, np.float32)
    known = ~np.isnan(boxes).any(axis=1)
    found[known] = iou(bounding_boxes(maps[known], size), boxes[known])
    return found


def _compared(maps: FloatArray, others: FloatArray, changed: Flags | None) -> dict[str, FloatArray]:
    found = {"drift": _by_parts(drift, maps, others), "rank_correlation": _by_parts(rank_correlation, maps, others)}
    for values in found.values():
        values[:] = _without_blank(values, maps, others)
        if changed is not None:
            values[changed] = np.nan
    return found


def _without_blank(values: FloatArray, maps: FloatArray, others: FloatArray) -> FloatArray:
    """Leaves out what was compared with a blank map: it has no places to compare."""
    either = (_by_parts(blank, maps) > 0) | (_by_parts(blank, others) > 0)
    return np.asarray(np.where(either, np.nan, values), np.float32)


def _by_parts(number: Callable[..., Any], maps: FloatArray, *others: FloatArray) -> FloatArray:
    """Measures some probes at a time, so that the memory does not grow with their number."""
    check_arrays(maps)
    for other in others:
        check_pair(maps, other)
    rows = max(1, _PLACES // math.prod(maps.shape[1:]))
    # Once even without probes.
    starts = range(0, max(1, len(maps)), rows)
    parts = [number(*(array[start : start + rows] for array in (maps, *others))) for start in starts]
    return np.concatenate(parts, axis=-1).astype(np.float32)
