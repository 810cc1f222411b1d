"""Ranks the values of many maps at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def ranks(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Ranks the values of each row; equal values share the mean of their ranks.

    Args:
        values: Non-negative, finite values, ``[N, S]``.

    Returns:
        ``[N, S]``: twice the difference between the rank and the row's mean rank. These are integers, so sums of them
        are exact.

    Example:
        >>> ranks(np.array([[0.5, 0.1, 0.5]])).tolist()
        [[1.0, -2.0, 1.0]]
    """
    count, size = values.shape
    order = (values.argsort(axis=1) + np.arange(count)[:, None] * size).ravel()
    ordered = values.ravel()[order].reshape(count, size)
    begins = np.ones(values.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    # Start and end of each run of equal values, as indices into all rows concatenated.
    first = np.flatnonzero(begins)
    after = np.append(first[1:], values.size)
    twice = first + after - 1 - first // size * (2 * size)
    found = np.empty(values.size)
    found[order] = (twice - (size - 1)).repeat(after - first)
    return found.reshape(values.shape)
