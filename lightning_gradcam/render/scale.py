"""The value of the brightest colour: robust against a few extreme places, and common to a row's targets and steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lightning_gradcam.record.cam_record import FloatArray
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


def common_limits(limits: Mapping[CamKey, FloatArray], keys: Iterable[CamKey]) -> FloatArray:
    """Returns each probe's limit over several targets of a layer and method: the largest, ``[N]``.

    Args:
        limits: Each map's, ``[N]``.
        keys: Keys of the row's maps.
    """
    return np.asarray(np.max([limits[key] for key in keys], axis=0), np.float32)
