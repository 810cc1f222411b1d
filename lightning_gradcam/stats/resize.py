"""Resizes maps to an image's resolution, with Pillow and NumPy.

Drawing runs during training. torch would start a thread pool for the drawing thread. That pool would compete with
training for cores, and must not be active while a dataloader forks its workers.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_gradcam.record.cam_record import FloatArray

Interpolation = Literal["bilinear", "nearest", "bicubic"]


def resized(maps: FloatArray, size: tuple[int, int], interpolation: Interpolation) -> FloatArray:
    """Resizes maps, with corners not aligned.

    Args:
        maps: The maps, ``[N, h, w]``.
        size: Height and width, ``(H, W)``.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``, with the same results as
            ``torch.nn.functional.interpolate`` (for ``"bicubic"``, with ``antialias=True``). If a map is finer than the
            image along either side, the map's values within each pixel are averaged instead.

    Returns:
        ``[N, H, W]``.

    Example:
        >>> resized(np.array([[[0.0, 1.0]]], np.float32), (1, 4), "bilinear").tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    height, width = maps.shape[-2:]
    if height > size[0] or width > size[1]:
        return _averaged(_averaged(maps, size[0]).swapaxes(1, 2), size[1]).swapaxes(1, 2).astype(np.float32)
    if interpolation == "nearest":
        return maps[:, np.arange(size[0])[:, None] * height // size[0], np.arange(size[1]) * width // size[1]]
    smooth = Image.Resampling[interpolation.upper()]
    found = np.empty((len(maps), *size), np.float32)
    for place, values in enumerate(maps.astype(np.float32, copy=False)):
        found[place] = np.asarray(Image.fromarray(values).resize(size[::-1], smooth))
    return found


def _averaged(maps: npt.NDArray[Any], target: int) -> npt.NDArray[Any]:
    """Averages the rows of ``[N, h, w]`` that fully or partly overlap each of ``target`` rows."""
    places = np.arange(target)
    begin, end = places * maps.shape[1] // target, -(-(places + 1) * maps.shape[1] // target)
    sums = np.insert(maps.cumsum(axis=1, dtype=np.float64), 0, 0, axis=1)
    return np.asarray((sums[:, end] - sums[:, begin]) / (end - begin)[:, None])
