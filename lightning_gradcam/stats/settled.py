"""Defines when maps have settled, both for the statistic at a step and for the finding at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.stats.numbers import drift

# The number of previous logged steps that must be close, the largest mean drift that counts as close, and the minimum
# number of probes for that mean.
SETTLED_STEPS, SETTLED, SETTLED_PROBES = 3, 0.05, 3

Flags = npt.NDArray[np.bool_]


def shown(maps: npt.NDArray[Any]) -> Flags:
    """Returns flags for maps that are finite and not blank."""
    flat = maps.reshape(len(maps), -1)
    return np.asarray(np.isfinite(flat).all(axis=1) & (flat > 0).any(axis=1))


def pictures(maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns maps of signals as images with one row, and other maps unchanged."""
    return maps[:, None] if maps.ndim == 2 else maps


def comparable(maps: npt.NDArray[Any], others: npt.NDArray[Any], changed: Flags | None = None) -> Flags:
    """Returns flags for the probes whose maps at two steps can be compared; see :func:`are_close` for arguments."""
    same = shown(maps) & shown(others)
    return same if changed is None else same & ~changed


def are_close(maps: npt.NDArray[Any], others: npt.NDArray[Any], changed: Flags | None = None) -> int:
    """Returns the number of probes compared if the mean drift between two steps is small, else 0.

    Args:
        maps: The maps at one step, ``[N, ...]``.
        others: The same probes' maps at the other step, of the same shape.
        changed: Flags for probes whose explained class differs between the steps, bool ``[N]``. These are excluded, as
            are probes with a blank map at either step.

    Example:
        >>> maps = np.eye(3, dtype=np.float32).reshape(3, 1, 3)
        >>> are_close(maps, 2 * maps), are_close(maps, maps[::-1])
        (3, 0)
    """
    same = comparable(maps, others, changed)
    if int(same.sum()) < SETTLED_PROBES:
        return 0
    # Without the rank correlation, which takes most of the time in a full comparison.
    return int(same.sum()) if drift(pictures(maps)[same], pictures(others)[same]).mean() <= SETTLED else 0


def have_settled(
    maps: npt.NDArray[Any], earlier: Iterable[tuple[npt.NDArray[Any], Flags | None]]
) -> npt.NDArray[np.float32]:
    """Returns whether a step's maps have settled: the three previous logged steps' maps are :func:`are_close` to them.

    Args:
        maps: The step's maps, ``[N, ...]``.
        earlier: The maps at previous logged steps, latest first, each with flags for probes whose explained class
            differs, bool ``[N]``. Consumed only as far as needed.

    Returns:
        float32 ``[N]``: 1 or 0, the same for all probes, because the mean over probes is compared.
    """
    close = takewhile(lambda each: each[0].shape == maps.shape and are_close(maps, *each), earlier)
    settled = len(list(islice(close, SETTLED_STEPS))) == SETTLED_STEPS
    return np.full(len(maps), settled, np.float32)
