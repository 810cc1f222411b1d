"""Measures of map similarity and complexity, for comparisons between weights or classes.

Maps are signed, finite NumPy arrays ``[N, h, w]``; everything is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from lightning_gradcam.stats.ranks import ranks

Array = npt.NDArray[np.float64]
# Wang et al.'s constants for values between 0 and 1, and the window size.
_C1, _C2, _WINDOW = 0.01**2, 0.03**2, 7
_BINS = 100


def signed_rank_correlation(maps: Array, others: Array) -> Array:
    """Returns Spearman's rho of signed maps, including negative evidence: -1 to 1, ``[N]``; NaN if one is constant.

    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, use it to compare maps from trained and random
    weights.

    Example:
        >>> signed_rank_correlation(np.array([[[1.0, 2.0, -3.0]]]), np.array([[[1.0, 4.0, -9.0]]])).round(6).tolist()
        [1.0]
    """
    return signed_correlation(_ranked(maps), _ranked(others))


def signed_correlation(maps: Array, others: Array) -> Array:
    """Returns Pearson's r of signed maps, ``[N]``; NaN if either is constant. -1: each is the negative of the other.

    Example:
        >>> signed_correlation(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[0.0, -2.0, -4.0]]])).round(6).tolist()
        [-1.0]
    """
    one, other = _unit(maps), _unit(others)
    return np.where(one.any(axis=1) & other.any(axis=1), np.clip((one * other).sum(axis=1), -1, 1), np.nan)


def structural_similarity(maps: Array, others: Array) -> Array:
    """Returns the mean SSIM of two maps scaled to 0…1, over windows of 7 by 7 locations (fewer for a smaller map).

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004; Adebayo et
    al. 2018 use it to compare maps.

    Returns:
        ``[N]``, -1 to 1; 1 if they are equal up to scale and offset, NaN if either is constant.

    Example:
        >>> ramp = np.arange(9.0).reshape(1, 3, 3)
        >>> structural_similarity(ramp, 2 * ramp + 1).tolist()
        [1.0]
    """
    window = tuple(min(_WINDOW, side) for side in maps.shape[1:])
    one, other = _scaled(maps), _scaled(others)
    mean = [sliding_window_view(values, window, axis=(1, 2)).mean(axis=(3, 4)) for values in (one, other)]
    products = (one * one, other * other, one * other)
    square = [sliding_window_view(values, window, axis=(1, 2)).mean(axis=(3, 4)) for values in products]
    spread = [square[0] - mean[0] ** 2, square[1] - mean[1] ** 2]
    both = square[2] - mean[0] * mean[1]
    score = (2 * mean[0] * mean[1] + _C1) * (2 * both + _C2)
    score = score / ((mean[0] ** 2 + mean[1] ** 2 + _C1) * (spread[0] + spread[1] + _C2))
    return np.where(_varies(maps) & _varies(others), score.mean(axis=(1, 2)), np.nan)


def complexity(maps: Array) -> Array:
    """Returns the entropy in nats of a map's magnitudes in 100 bins up to the largest one; 0 for a constant map.

    Hedström et al., "Sanity Checks Revisited: An Exploration to Repair the Model Parameter Randomisation Test", 2024:
    their efficient variant (eMPRT) reports the relative increase in complexity when all weights are randomised.

    Example:
        >>> complexity(np.array([[[0.0, 1.0]], [[2.0, 2.0]]])).round(3).tolist()
        [0.693, 0.0]
    """
    sizes = np.abs(maps).reshape(len(maps), -1)
    top = sizes.max(axis=1, keepdims=True)
    bins = np.minimum((np.divide(sizes, top, out=np.zeros_like(sizes), where=top > 0) * _BINS).astype(int), _BINS - 1)
    found = np.zeros(len(maps))
    for row, places in enumerate(bins):
        shares = np.bincount(places, minlength=_BINS) / len(places)
        shares = shares[shares > 0]
        found[row] = -(shares * np.log(shares)).sum()
    return np.abs(found)


def _varies(maps: Array) -> npt.NDArray[np.bool_]:
    return np.asarray(maps.min(axis=(1, 2)) < maps.max(axis=(1, 2)))


def _ranked(maps: Array) -> Array:
    # Ranking requires non-negative values.
    return ranks((maps - maps.min(axis=(1, 2), keepdims=True)).reshape(len(maps), -1)).reshape(maps.shape)


def _unit(maps: Array) -> Array:
    """Returns flattened maps with mean 0 and norm 1; a constant map becomes 0."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    # Scale first: squares of tiny or huge values would underflow or overflow.
    top = np.abs(flat).max(axis=1, keepdims=True)
    flat = np.divide(flat, top, out=np.zeros_like(flat), where=(top > 0) & _varies(maps)[:, None])
    length = np.sqrt((flat * flat).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(flat, length, out=np.zeros_like(flat), where=length > 0))


def _scaled(maps: npt.NDArray[Any]) -> Array:
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    span = (high - low).astype(np.float64)
    return np.asarray(np.divide(maps - low, span, out=np.zeros(maps.shape), where=span > 0))
