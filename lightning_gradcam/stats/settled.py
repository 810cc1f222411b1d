"""Whether maps have settled: one definition for the number of a logged step and the finding at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.stats.numbers import drift

# How many logged steps before a step have to be close to it, the largest mean drift that is close, and how many probes
# it has to be a mean of.
SETTLED_STEPS, SETTLED, SETTLED_PROBES = 3, 0.05, 3

Flags = npt.NDArray[np.bool_]


def shown(maps: npt.NDArray[Any]) -> Flags:
    """Returns which maps are finite and not blank."""
    flat = maps.reshape(len(maps), -1)
    return np.asarray(np.isfinite(flat).all(axis=1) & (flat > 0).any(axis=1))


def pictures(maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns maps of signals as those of pictures of one row."""
    return maps[:, None] if maps.ndim == 2 else maps


def are_close(maps: npt.NDArray[Any], others: npt.NDArray[Any], changed: Flags | None = None) -> int:
    """Returns of how many probes the mean drift between two steps is small; 0 if it is not, or is of too few probes.

    Args:
        maps: One step's, ``[N, ...]``.
        others: The other step's, of the same probes and shape.
        changed: Where the two steps explain different classes, bool ``[N]``: these probes are left out, as are those
            with a blank map at either step.

    Example:
        >>> maps = np.eye(3, dtype=np.float32).reshape(3, 1, 3)
        >>> are_close(maps, 2 * maps), are_close(maps, maps[::-1])
        (3, 0)
    """
    same = shown(maps) & shown(others)
    if changed is not None:
        same &= ~changed
    if int(same.sum()) < SETTLED_PROBES:
        return 0
    # Without the rank correlation, which takes most of the time of a full comparison.
    return int(same.sum()) if drift(pictures(maps)[same], pictures(others)[same]).mean() <= SETTLED else 0


def have_settled(
    maps: npt.NDArray[Any], earlier: Iterable[tuple[npt.NDArray[Any], Flags | None]]
) -> npt.NDArray[np.float32]:
    """Whether the maps of a step have settled: those of the three logged steps before it are :func:`are_close` to them.

    Args:
        maps: The step's, ``[N, ...]``.
        earlier: The maps of the logged steps before it, the latest first, each with where its explained class is
            another one, bool ``[N]``. Read no further than needed.

    Returns:
        float32 ``[N]``: 1 or 0, the same for all probes, since a mean over them decides.
    """
    count = 0
    for others, changed in earlier:
        if others.shape != maps.shape or not are_close(maps, others, changed):
            break
        count += 1
        if count == SETTLED_STEPS:
            break
    return np.full(len(maps), float(count == SETTLED_STEPS), np.float32)
