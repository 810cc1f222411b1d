"""The value of the brightest colour: robust against a few extreme places, and common to a row's targets and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey

# Maps of up to 26 places keep their largest value; of 49 places one may be brighter, of 196 four.
PERCENTILE = 98.0


def limits_of(maps: FloatArray, *, signed: bool = False) -> FloatArray:
    """Returns the value that each map's colours reach to, if it is seen alone.

    Args:
        maps: Signed maps, ``[N, …]``; places that are not finite count as 0.
        signed: Of the magnitudes, for colours around zero; by default of what is left after the ReLU.

    Returns:
        ``[N]``: the 98th percentile of a map's places (the nearest one's value), so that few places can't darken all
        others; the largest value where that is 0; 0 for a map without any.

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
    """Returns each map's limits as a record keeps them, ``[N, 2]``: for colours from zero, and for signed ones.

    0 for a map that is not finite: it is not shown, and what is left of it would darken its row in all later steps.
    """
    limits = np.stack([limits_of(maps), limits_of(maps, signed=True)], axis=1)
    finite = np.asarray(np.isfinite(maps).all(axis=tuple(range(1, maps.ndim))))
    return np.asarray(np.where(finite[:, None], limits, 0), np.float32)


def raise_limits(limits: dict[CamKey, FloatArray], found: Mapping[CamKey, FloatArray]) -> None:
    """Raises each map's limits so far to those of another step, where these are larger.

    Args:
        limits: Both of each map, ``[N, 2]``; changed.
        found: The other step's.
    """
    for key, values in found.items():
        limits[key] = np.fmax(limits[key], values) if key in limits else values


def run_limits(
    record: CamRecord, keys: Sequence[CamKey], limits: Mapping[CamKey, FloatArray] | None, *, signed: bool
) -> FloatArray:
    """Returns each probe's limit ``[N]`` on the run's scale, over some maps of one layer and method.

    Args:
        record: The step that is drawn.
        keys: The row's maps.
        limits: Both of each map in the run so far, ``[N, 2]``; by default what the record has, or else its own maps'.
        signed: Whether colours are on both sides of zero.
    """
    known = limits or record.limits
    both = {key: known[key] if key in known else both_limits(record.maps[key]) for key in keys}
    return row_limits(both, keys[0], signed=signed)


def row_limits(limits: Mapping[CamKey, FloatArray], key: CamKey, *, signed: bool) -> FloatArray:
    """Returns each probe's limit ``[N]`` over all targets of a map's layer and method.

    Args:
        limits: Both of each map, ``[N, 2]``, as :func:`both_limits` returns them.
        key: One of them.
        signed: Whether colours are on both sides of zero.
    """
    of_row = [both for other, both in limits.items() if other[:2] == key[:2]]
    return np.asarray(np.max(of_row, axis=0)[:, int(signed)], np.float32)
