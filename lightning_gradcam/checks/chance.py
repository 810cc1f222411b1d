"""What chance gives: random maps as smooth as a given one, and how surely a map does better than they do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Of the permutations that a p-value is counted in.
_DRAWS = 9999


def random_maps(one: Array, count: int, generator: np.random.Generator) -> Array:
    """Draws random maps of the same resolution and smoothness as a map: its spectrum's sizes, with random phases.

    Theiler et al., "Testing for Nonlinearity in Time Series: The Method of Surrogate Data", Physica D 1992. A blob
    becomes blobs of the same width anywhere, a fine grain stays a fine grain; a constant map stays constant.

    Args:
        one: ``[h, w]``.
        count: How many.
        generator: Draws the phases.

    Returns:
        ``[count, h, w]``.
    """
    sizes = np.abs(np.fft.rfft2(one - one.mean()))
    noise = np.fft.rfft2(generator.standard_normal((count, *one.shape)))
    phases = noise / np.maximum(np.abs(noise), np.finfo(np.float64).tiny)
    return np.asarray(np.fft.irfft2(sizes * phases, s=one.shape))


def standing(values: Array) -> Array:
    """Returns how each of several maps of a picture compares with all of them, in standard deviations from their mean.

    Args:
        values: A measure of every picture and map, ``[N, M]``; larger is better.

    Returns:
        ``[N, M]``; 0 where the maps of a picture do not differ.

    Example:
        >>> standing(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).round(2).tolist()
        [[-1.22, 0.0, 1.22], [0.0, 0.0, 0.0]]
    """
    spread = values.std(axis=1, keepdims=True)
    # What differs by rounding alone does not differ.
    differs = spread > 1e-6 * np.abs(values).max(axis=1, keepdims=True)
    apart = values - values.mean(axis=1, keepdims=True)
    return np.asarray(np.divide(apart, spread, out=np.zeros(values.shape), where=differs))


def p_value(own: Array, chance: Array, generator: np.random.Generator) -> float:
    """How often chance does as well: a permutation test, in which a map is one among the random maps of its picture.

    Phipson and Smyth, "Permutation P-values Should Never Be Zero", 2010: of the draws, one for each picture among its
    own map and its random ones, the share whose mean is as large as that of the maps, the maps themselves counted.

    Args:
        own: How well the map of each picture does, ``[N]``.
        chance: How well random maps of it do, ``[N, R]``.
        generator: Draws.

    Returns:
        0 to 1; at least ``1 / (R + 1)`` for one picture, its N-th power for N pictures, and 1/10000 in any case.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> p_value(np.array([9.0, 9.0]), np.zeros((2, 20)), generator) < 0.01
        True
    """
    if not len(own):
        return 1.0
    among = np.concatenate([own[:, None], chance], axis=1)
    drawn = among[np.arange(len(own)), generator.integers(0, among.shape[1], (_DRAWS, len(own)))].mean(axis=1)
    # Equal by hand is equal: a map that is one of the draws must not be missed by rounding.
    return float((1 + (drawn >= own.mean() - 1e-9).sum()) / (1 + _DRAWS))


def ranked(own: float, others: Array) -> float:
    """How often one of several rivals does as well: the rank of a figure among theirs, as a p-value.

    Args:
        own: The figure; larger is better.
        others: Theirs, ``[R]``.

    Returns:
        ``1 / (R + 1)`` to 1. If the figure is drawn as theirs are, it is below any level as often as the level says.

    Example:
        >>> ranked(3.0, np.array([1.0, 2.0, 3.0, 4.0]))
        0.6
    """
    return float((1 + (others >= own - 1e-9).sum()) / (1 + len(others)))


def either(*p_values: float) -> float:
    """Combines tests of the same maps, of which one is enough: Bonferroni's bound, valid however they depend.

    Example:
        >>> either(0.02, 0.5), either(0.7, 0.6)
        (0.04, 1.0)
    """
    return min(1.0, len(p_values) * min(p_values))
