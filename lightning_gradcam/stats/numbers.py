r"""Statistics of single maps and of pairs of maps, with NumPy only.

They are computed in the drawing thread during training, so they use neither torch nor matrix products, whose libraries
start their own threads.

Throughout, maps are ``[N, h, w]`` or ``[N, d, h, w]``, signed and of any floating-point type. :math:`M` is a map after
its ReLU, :math:`s` one of its locations and :math:`S` the number of locations, including slices. Everything is computed
in float64, and only :func:`maximum` depends on a map's scale. All statistics of a non-finite map are NaN, which
``nanmean`` ignores.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats.ranks import ranks

Maps = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.float64]


def drift(maps: Maps, others: Maps) -> Numbers:
    r"""Returns the distance between two maps: :math:`1 - \cos(M, M') = 1 - \sum_s M_s M'_s / (\|M\| \|M'\|)`.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``.
        others: The maps to compare with, of the same shape, such as those from an earlier step.

    Returns:
        ``[N]``, 0 to 1; 0 if they are equal up to scale, 1 if no location is positive in both maps. 1 if exactly one
        map has no positive value; NaN if neither has one, because there is nothing to compare.

    Raises:
        ConfigurationError: The shapes differ, or the arrays are not maps.

    Example:
        >>> drift(np.array([[[3.0, 0.0]], [[1.0, 0.0]]]), np.array([[[5.0, -1.0]], [[0.0, 1.0]]])).tolist()
        [0.0, 1.0]
    """
    check_pair(maps, others)
    one, other = _relative(maps), _relative(others)
    for values in (one, other):
        lengths = np.sqrt((values * values).sum(axis=1, keepdims=True))
        np.divide(values, lengths, out=values, where=lengths > 0)
    # Half the squared distance between unit vectors equals 1 - cos, without the rounding error of 1 - 0.999…
    apart = np.minimum(((one - other) ** 2).sum(axis=1) / 2, 1)
    blanks = (one == 0).all(axis=1).astype(int) + (other == 0).all(axis=1)
    return np.asarray(np.where(_finite(maps) & _finite(others), np.choose(blanks, [apart, 1.0, np.nan]), np.nan))


def agreement(maps: Maps, others: Maps) -> Numbers:
    r"""Returns the similarity of two maps: :math:`\cos(M, M')`, which is 1 minus their :func:`drift`.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``, such as those for the true class.
        others: Maps of the same shape, such as those for the predicted class.

    Returns:
        ``[N]``, 0 to 1; 1 if they are equal up to scale. 0 if exactly one has no positive value; NaN if neither has.

    Raises:
        ConfigurationError: The shapes differ, or the arrays are not maps.

    Example:
        >>> agreement(np.array([[[3.0, 4.0]]]), np.array([[[1.0, 0.0]]])).round(6).tolist()
        [0.6]
    """
    return np.asarray(1 - drift(maps, others))


def rank_correlation(maps: Maps, others: Maps) -> Numbers:
    """Returns how well the order of importance of locations agrees between two maps: Spearman's rho.

    Spearman, "The Proof and Measurement of Association between Two Things", American Journal of Psychology 1904: the
    correlation of ranks. Equal values, such as the zeros after the ReLU, share the mean of their ranks.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``.
        others: Maps of the same shape.

    Returns:
        ``[N]``, -1 to 1; 1 for the same order, 0 for unrelated orders, -1 for the reverse order. NaN if either map is
        constant after its ReLU.

    Raises:
        ConfigurationError: The shapes differ, or the arrays are not maps.

    Example:
        >>> rank_correlation(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 4.0, 9.0]]])).tolist()
        [1.0]
    """
    check_pair(maps, others)
    one, other = ranks(_positive(maps)), ranks(_positive(others))
    lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    usable = _finite(maps) & _finite(others) & (lengths > 0)
    found = np.full(len(one), np.nan)
    np.divide((one * other).sum(axis=1), lengths, out=found, where=usable)
    return np.asarray(np.clip(found, -1, 1))


def entropy(maps: Maps) -> Numbers:
    r"""Returns how spread out a map is: :math:`-\sum_s p_s \log p_s / \log S` with :math:`p_s = M_s / \sum_t M_t`.

    Shannon, "A Mathematical Theory of Communication", Bell System Technical Journal 1948. Dividing by the maximum
    possible value makes layers with different resolutions comparable.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``.

    Returns:
        ``[N]``, 0 to 1; 0 if a single location is positive, 1 for a constant map. NaN without a positive value, and for
        maps with only one location, to which both would apply.

    Raises:
        ConfigurationError: The array does not contain maps.

    Example:
        >>> entropy(np.array([[[1.0, 1.0, 0.0, 0.0]], [[2.0, 2.0, 2.0, 2.0]]])).tolist()
        [0.5, 1.0]
    """
    values = _relative(maps)
    if values.shape[1] == 1:
        return np.full(len(values), np.nan)
    logarithms = np.log(values, out=np.zeros_like(values), where=values > 0)
    total = values.sum(axis=1)
    usable = total > 0
    bits = np.divide((values * logarithms).sum(axis=1), total, out=np.full(len(total), np.nan), where=usable)
    spread = np.log(total, out=np.zeros_like(total), where=usable) - bits
    return np.asarray(np.clip(spread / math.log(values.shape[1]), 0, 1))


def half_area(maps: Maps) -> Numbers:
    """Returns the smallest fraction of the area that contains half of the map's sum.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``.

    Returns:
        ``[N]``, the number of locations needed divided by their total number: from one location up to 0.5, the value
        for a constant map (even if the number of locations is odd). NaN without a positive value.

    Raises:
        ConfigurationError: The array does not contain maps.

    Example:
        >>> half_area(np.array([[[9.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, 1.0]]])).tolist()
        [0.25, 0.5]
    """
    reached = np.sort(_relative(maps), axis=1)[:, ::-1].cumsum(axis=1)
    total = reached[:, -1:]
    # An exact half must be found despite rounding.
    needed = 1 + (reached < total / 2 * (1 - 1e-12)).sum(axis=1)
    return np.where(total[:, 0] > 0, np.minimum(needed / reached.shape[1], 0.5), np.nan)


def center(maps: Maps) -> tuple[Numbers, Numbers]:
    r"""Returns the location of a map's centre of mass: :math:`\sum_s M_s x_s / \sum_s M_s`, and the same for :math:`y`.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``; all slices count equally.

    Returns:
        ``x`` and ``y``, each ``[N]``: fractions of width and height from the left and the top, 0 to 1. The centre of
        column i of w is at (i + 0.5) / w, so a constant map has 0.5. NaN without a positive value.

    Raises:
        ConfigurationError: The array does not contain maps.

    Example:
        >>> [place.tolist() for place in center(np.array([[[0.0, 0.0, 1.0, 1.0]]]))]
        [[0.75], [0.5]]
    """
    values = _relative(maps).reshape(maps.shape)
    slices = tuple(range(1, maps.ndim - 2))
    found = []
    for across in (maps.ndim - 2, maps.ndim - 1):
        along = values.sum(axis=(*slices, across))
        places = (np.arange(along.shape[1]) + 0.5) / along.shape[1]
        total = along.sum(axis=1)
        found.append(np.divide((along * places).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0))
    return found[0], found[1]


def blank(maps: Maps) -> Numbers:
    """Returns whether a map is zero everywhere after its ReLU, and so shows nothing.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``.

    Returns:
        ``[N]``: 1 without a positive value, else 0.

    Raises:
        ConfigurationError: The array does not contain maps.

    Example:
        >>> blank(np.array([[[-1.0, 0.0]], [[-1.0, 2.0]], [[np.nan, 2.0]]])).tolist()
        [1.0, 0.0, nan]
    """
    return np.where(_finite(maps), ~(_positive(maps) > 0).any(axis=1), np.nan)


def maximum(maps: Maps) -> Numbers:
    r"""Returns a map's largest value, :math:`\max_s M_s`, in the map's own units.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``.

    Returns:
        ``[N]``, 0 or more; 0 without a positive value.

    Raises:
        ConfigurationError: The array does not contain maps.

    Example:
        >>> maximum(np.array([[[-1.0, 0.5]], [[-1.0, -2.0]]])).tolist()
        [0.5, 0.0]
    """
    return np.where(_finite(maps), _positive(maps).max(axis=1).astype(np.float64), np.nan)


def mean(values: npt.NDArray[Any]) -> float:
    """Returns the mean of the finite values; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def check_arrays(maps: Any, name: str = "maps") -> None:
    """Checks that a value is a NumPy array of maps.

    Args:
        maps: The value to check.
        name: The argument's name, for the error.

    Raises:
        ConfigurationError: The value is not an array of maps.
    """
    if (
        not isinstance(maps, np.ndarray)
        or maps.ndim not in (3, 4)
        or not np.issubdtype(maps.dtype, np.floating)
        or 0 in maps.shape[1:]
    ):
        came = f"{list(maps.shape)} of {maps.dtype}" if isinstance(maps, np.ndarray) else type(maps).__name__
        raise ConfigurationError(
            f"{name}: got {came}; pass a floating-point NumPy array [N, h, w] or [N, d, h, w], such as those of"
            " Archive.maps at one step"
        )


def check_pair(maps: Any, others: Any) -> None:
    """Checks that two values are maps of the same shape.

    Args:
        maps: The maps.
        others: The maps to compare with.

    Raises:
        ConfigurationError: The values are not maps, or their shapes differ.
    """
    check_arrays(maps)
    check_arrays(others, "others")
    if maps.shape != others.shape:
        raise ConfigurationError(
            f"others: got shape {list(others.shape)} for maps of shape {list(maps.shape)}; pass maps of the same "
            "probes and layer"
        )


def _flat(maps: Maps) -> Maps:
    check_arrays(maps)
    return maps.reshape(len(maps), math.prod(maps.shape[1:]))


def _finite(maps: Maps) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isfinite(_flat(maps)).all(axis=1))


def _positive(maps: Maps) -> Maps:
    """Returns the positive parts ``[N, S]`` in the maps' own dtype; a non-finite map becomes zero everywhere."""
    return np.asarray(np.where(_finite(maps)[:, None], np.maximum(_flat(maps), 0), 0))


def _relative(maps: Maps) -> Numbers:
    """Returns the positive parts ``[N, S]`` divided by their maximum; zero everywhere if there are none."""
    values = _positive(maps).astype(np.float64)
    top = values.max(axis=1, keepdims=True)
    # Sums and squares of tiny or huge values would underflow or overflow without this scaling.
    return np.asarray(np.divide(values, top, out=np.zeros_like(values), where=top > 0))
