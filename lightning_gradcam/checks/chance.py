"""Chance baselines: random maps as smooth as a given map, and tests of whether the map is better than they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Number of permutations for a p-value.
_DRAWS = 9999


def random_maps(one: Array, count: int, generator: np.random.Generator) -> Array:
    """Draws random maps with a map's resolution and smoothness: its amplitude spectrum with random phases.

    Theiler et al., "Testing for Nonlinearity in Time Series: The Method of Surrogate Data", Physica D 1992. A blob
    becomes blobs of the same width at random locations, fine texture stays fine, and a constant map stays constant.

    Args:
        one: The map, ``[h, w]``.
        count: Number of random maps.
        generator: Random number generator for the phases.

    Returns:
        The random maps, ``[count, h, w]``.
    """
    sizes = np.abs(np.fft.rfft2(one - one.mean()))
    noise = np.fft.rfft2(generator.standard_normal((count, *one.shape)))
    phases = noise / np.maximum(np.abs(noise), np.finfo(np.float64).tiny)
    return np.asarray(np.fft.irfft2(sizes * phases, s=one.shape))


def standing(values: Array) -> Array:
    """Returns how each of an image's maps compares with all of them, in standard deviations from the mean.

    Args:
        values: A measure for every image and map, ``[N, M]``; larger is better.

    Returns:
        ``[N, M]``; 0 if the maps of an image do not differ.

    Example:
        >>> standing(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).round(2).tolist()
        [[-1.22, 0.0, 1.22], [0.0, 0.0, 0.0]]
    """
    spread = values.std(axis=1, keepdims=True)
    # Ignore differences due to rounding.
    differs = spread > 1e-6 * np.abs(values).max(axis=1, keepdims=True)
    apart = values - values.mean(axis=1, keepdims=True)
    return np.asarray(np.divide(apart, spread, out=np.zeros(values.shape), where=differs))


def p_value(own: Array, chance: Array, generator: np.random.Generator) -> float:
    """Returns the p-value of a permutation test of whether random maps do as well.

    Phipson and Smyth, "Permutation P-values Should Never Be Zero", 2010. Each draw picks, for each image, its own map
    or one of its random maps. The p-value is the fraction of draws whose mean is at least that of the maps, counting
    the maps themselves as a draw.

    Args:
        own: The measure of each image's map, ``[N]``.
        chance: The measures of its random maps, ``[N, R]``.
        generator: Random number generator.

    Returns:
        0 to 1; about ``1 / (R + 1)`` or more for one image, the N-th power of that for N images, and never below
        1/10000.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> p_value(np.array([9.0, 9.0]), np.zeros((2, 20)), generator) < 0.01
        True
    """
    if not len(own):
        return 1.0
    among = np.concatenate([own[:, None], chance], axis=1)
    drawn = among[np.arange(len(own)), generator.integers(0, among.shape[1], (_DRAWS, len(own)))].mean(axis=1)
    # Treat nearly equal values as equal: rounding must not exclude a draw of the maps themselves.
    return float((1 + (drawn >= own.mean() - 1e-9).sum()) / (1 + _DRAWS))


def ranked(own: float, others: Array) -> float:
    """Returns the fraction of rivals that do as well: a value's rank among theirs, as a p-value.

    Args:
        own: The value; larger is better.
        others: The rivals' values, ``[R]``.

    Returns:
        ``1 / (R + 1)`` to 1. If the value is drawn from the rivals' distribution, the result is uniformly distributed,
        as a p-value should be.

    Example:
        >>> ranked(3.0, np.array([1.0, 2.0, 3.0, 4.0]))
        0.6
    """
    return float((1 + (others >= own - 1e-9).sum()) / (1 + len(others)))


def either(*p_values: float) -> float:
    """Combines p-values for the same maps with Bonferroni's bound, which is valid for any dependence between them.

    Example:
        >>> either(0.02, 0.5), either(0.7, 0.6)
        (0.04, 1.0)
    """
    return min(1.0, len(p_values) * min(p_values))
