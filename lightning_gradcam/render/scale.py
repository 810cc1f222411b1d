"""Computes the value of the brightest colour: robust to a few extreme values, and shared within a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey

# In maps with up to 26 pixels, this is the largest value; with 49 pixels, one may exceed it, with 196 pixels four.
PERCENTILE = 98.0


def limits_of(maps: FloatArray, *, signed: bool = False) -> FloatArray:
    """Returns the value of the brightest colour for each map separately.

    Args:
        maps: Signed maps, ``[N, …]``; non-finite values count as 0.
        signed: Whether to use magnitudes, for colours around zero, instead of values after the ReLU.

    Returns:
        ``[N]``: the 98th percentile of a map's values (without interpolation), because a few extreme values would
        darken all others; the largest value if the percentile is 0; 0 for a map without evidence.

    Example:
        >>> maps = np.array([[[0.0, 2.0], [-3.0, 1.0]]])
        >>> limits_of(maps).tolist(), limits_of(maps, signed=True).tolist()
        ([2.0], [3.0])
    """
    clean = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0).reshape(len(maps), -1)
    values = np.abs(clean) if signed else np.maximum(clean, 0)
    robust = np.percentile(values, PERCENTILE, axis=1, method="nearest")
    return np.asarray(np.where(robust > 0, robust, values.max(axis=1)), np.float32)


def both_limits(maps: FloatArray) -> FloatArray:
    """Returns each map's limits as stored in a record, ``[N, 2]``: for colours from zero, and for signed colours.

    They are 0 for a map that is not finite: it is not shown, and its finite values would darken its row at all later
    steps.
    """
    limits = np.stack([limits_of(maps), limits_of(maps, signed=True)], axis=1)
    finite = np.asarray(np.isfinite(maps).all(axis=tuple(range(1, maps.ndim))))
    return np.asarray(np.where(finite[:, None], limits, 0), np.float32)


def raise_limits(limits: dict[CamKey, FloatArray], found: Mapping[CamKey, FloatArray]) -> None:
    """Raises each map's limits so far to those at a further step if these are larger.

    Args:
        limits: Both limits for each map, ``[N, 2]``; modified in place.
        found: The further step's limits.
    """
    for key, values in found.items():
        limits[key] = np.fmax(limits[key], values) if key in limits else values


def run_limits(
    record: CamRecord, keys: Sequence[CamKey], limits: Mapping[CamKey, FloatArray] | None, *, signed: bool
) -> FloatArray:
    """Returns each probe's limit on the run's scale, ``[N]``, over the given maps of one layer and method.

    Args:
        record: The step to draw.
        keys: The row's maps.
        limits: Both limits for each map in the run so far, ``[N, 2]``; ``None`` uses those in the record, or else those
            of its maps.
        signed: Whether colours are on both sides of zero.
    """
    known = limits or record.limits
    both = {key: known[key] if key in known else both_limits(record.maps[key]) for key in keys}
    return row_limits(both, keys[0], signed=signed)


def row_limits(limits: Mapping[CamKey, FloatArray], key: CamKey, *, signed: bool) -> FloatArray:
    """Returns each probe's limit over all targets for a map's layer and method, ``[N]``.

    Args:
        limits: Both limits for each map, ``[N, 2]``, as returned by :func:`both_limits`.
        key: One of the maps.
        signed: Whether colours are on both sides of zero.
    """
    of_row = [both for other, both in limits.items() if other[:2] == key[:2]]
    return np.asarray(np.max(of_row, axis=0)[:, int(signed)], np.float32)
