"""Class-balanced draws, from known labels or from the labels of a bounded number of samples."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

# Number of samples whose labels are read if the data set does not list them: a class of 1 % is missed once in 20,000
# draws.
LOOKED_AT = 1000
# Samples read first, for each probe; how many follow depends on the time they would take, in seconds.
_POOL = 8
_PATIENCE = 20.0
# A prefix of the order that is long enough for a draw from many classes.
_FIRST_PART = 1 << 16


def balanced(labels: npt.NDArray[np.int64], order: npt.NDArray[np.int64], count: int) -> list[int]:
    """Takes samples from each class in turn, given the label of each sample.

    Args:
        labels: The class of each sample, by its index.
        order: The indices to draw from, in random order. Within a class, and among the classes, the first come first.
        count: Number of samples to take, at most ``len(order)``.

    Returns:
        Their indices, sorted by class, then by index.

    Example:
        >>> balanced(np.array([0, 0, 0, 1, 0]), np.array([4, 2, 1, 3, 0]), 3)
        [2, 4, 3]
    """
    low, high = int(labels.min()), int(labels.max())
    # Small integer types are faster to gather and to sort (radix sort).
    compact = (labels - low).astype(np.uint16) if high - low < 1 << 16 else labels
    part = order[:_FIRST_PART]
    members = _members(compact[part], count)
    # With `count` classes found, the rest of the order can't add an earlier one.
    if len(members) < count and len(part) < len(order):
        part = order
        members = _members(compact[part], count)
    chosen = [int(index) for index in part[_in_turn(members, count)]]
    return sorted(chosen, key=lambda index: (int(labels[index]), index))


def looked_up(
    class_at: Callable[[int], Hashable | None],
    order: npt.NDArray[np.int64],
    count: int,
    classes: int | None,
) -> dict[int, Hashable] | None:
    """Reads the classes of as many samples as a balanced draw needs, at most :data:`LOOKED_AT`.

    Reading stops once no further sample could change the draw: there are as many classes as probes, or enough samples
    of every class. Slow data sets are read less: if a thousand samples would take more than 20 seconds, 8 samples for
    each probe are read, and if those would take longer too, only as many as will be taken. Reading also stops if
    samples become slow on the way.

    Args:
        class_at: Decodes the sample at an index and returns its class; ``None`` if it has none.
        order: The indices to read, in random order.
        count: Number of samples that will be taken.
        classes: Number of classes, if known.

    Returns:
        Index to class, in the order given; ``None`` if any sample has no class.
    """
    found: dict[int, Hashable] = {}
    seen: Counter[Hashable] = Counter()
    began, pool, check = 0.0, _POOL * count, count
    for index in order[: max(LOOKED_AT, pool)].tolist():
        if (label := class_at(index)) is None:
            return None
        found[index] = label
        seen[label] += 1
        if len(seen) >= count or (len(seen) == classes and min(seen.values()) * classes >= count):
            break
        if len(found) == 1:  # the first sample may have opened files for all others
            began = time.perf_counter()
        if len(found) == check:
            # Decide only at a few fixed positions, so that the same data gives the same draw again and on every rank.
            planned = pool if check < pool else LOOKED_AT
            if check > 1 and (time.perf_counter() - began) / (check - 1) * planned > _PATIENCE:
                break
            check *= 2
    return found


def balanced_of(found: Mapping[int, Hashable], count: int) -> list[int]:
    """Takes samples from each class in turn, among those that :func:`looked_up` found.

    Returns:
        Their indices, sorted by class, then by index.
    """
    kinds = sorted(set(found.values()), key=lambda label: (str(type(label)), label))
    numbers = {label: number for number, label in enumerate(kinds)}
    labels = np.array([numbers[label] for label in found.values()], np.int64)
    indices = list(found)
    chosen = [indices[place] for place in balanced(labels, np.arange(len(labels)), count)]
    return sorted(chosen, key=lambda index: (numbers[found[index]], index))


def _members(labels: npt.NDArray[Any], most: int) -> list[npt.NDArray[np.int64]]:
    """Returns the first positions of each class; classes are ordered by their first position."""
    places = np.argsort(labels, kind="stable")
    sorted_labels = labels[places]
    starts = np.concatenate([[0], np.flatnonzero(sorted_labels[1:] != sorted_labels[:-1]) + 1, [len(labels)]])
    groups = [places[a : min(b, a + most)] for a, b in pairwise(starts)]
    return sorted(groups, key=lambda group: int(group[0]))


def _in_turn(members: Sequence[npt.NDArray[np.int64]], count: int) -> list[int]:
    chosen: list[int] = []
    for depth in range(count):
        chosen += [int(group[depth]) for group in members if depth < len(group)]
        if len(chosen) >= count:
            break
    return chosen[:count]
