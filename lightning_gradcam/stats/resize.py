"""Maps at the resolution of a picture, by NumPy alone.

Drawing runs beside the training. torch would give its thread a pool of threads of its own, which take the training's
cores and have to be left alone while a dataloader forks its workers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_gradcam.record.cam_record import FloatArray

Interpolation = Literal["bilinear", "nearest", "bicubic"]

# Of the cubic convolution kernel, as torch and OpenCV take it.
_SHARPNESS = -0.75


def resized(maps: FloatArray, size: tuple[int, int], interpolation: Interpolation) -> FloatArray:
    """Resizes maps; places are matched by area, corners not aligned.

    Args:
        maps: ``[N, h, w]``.
        size: ``(H, W)``.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``, with the numbers of
            ``torch.nn.functional.interpolate``; where a map is finer than the picture along either side, what falls
            on one pixel is averaged instead.

    Returns:
        ``[N, H, W]``.

    Example:
        >>> resized(np.array([[[0.0, 1.0]]], np.float32), (1, 4), "bilinear").tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    height, width = maps.shape[-2:]
    mode = "area" if height > size[0] or width > size[1] else interpolation
    rows = np.einsum("Hh,nhw->nHw", _weights(height, size[0], mode), maps)
    return np.asarray(np.einsum("Ww,nHw->nHW", _weights(width, size[1], mode), rows), np.float32)


@lru_cache(maxsize=64)
def _weights(source: int, target: int, mode: str) -> npt.NDArray[np.float32]:
    """Returns what each of the source's places gives to each of the target's, ``[target, source]``."""
    places = np.arange(target)
    found = np.zeros((target, source), np.float32)
    if mode == "area":
        for place in places:
            begin, end = place * source // target, -(-(place + 1) * source // target)
            found[place, begin:end] = 1 / (end - begin)
        return found
    if mode == "nearest":
        found[places, places * source // target] = 1
        return found
    at = (places + 0.5) * source / target - 0.5
    if mode == "bilinear":
        at = np.maximum(at, 0)
    below = np.floor(at).astype(int)
    share = at - below
    taps = [(0, 1 - share), (1, share)] if mode == "bilinear" else [(k, _cubic(abs(share - k))) for k in (-1, 0, 1, 2)]
    for offset, weight in taps:
        # Places beyond the edge repeat it.
        np.add.at(found, (places, np.clip(below + offset, 0, source - 1)), weight)
    return found


def _cubic(distance: npt.NDArray[Any]) -> npt.NDArray[Any]:
    a, x = _SHARPNESS, distance
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.asarray(np.where(x <= 1, near, far))
