"""Finds the samples that a dataloader yields without advancing its sampler, and draws from them class by class."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import data

from lightning_gradcam.errors import ProbeError
from lightning_gradcam.guard.data import isolated
from lightning_gradcam.probes.wrapped import has_indices, nested_datasets

# A sampler may be infinite, so read at most this many samples.
_MOST = 100_000
_LISTS = (list, tuple, range, np.ndarray, Tensor)


class UnindexedError(ProbeError):
    """Samples can't be read by index, for the reason in the message; probes must come from passing batches."""


def sampled(loader: Any, *, seed: int = 0, batches: int | None = None) -> Sequence[int]:
    """Returns the indices of the samples that a dataloader yields, each once, in ascending order.

    For a list or a sampler from PyTorch or Lightning, the indices are read directly. For any other sampler, a copy is
    iterated with fixed random numbers, up to 100,000 samples, so that neither the sampler nor its generator advances.
    Every rank gets the same result: for a distributed sampler, all the samples that it distributes.

    Args:
        loader: A loader with a ``dataset``; without a ``sampler``, it is assumed to yield every sample.
        seed: Random seed for the copy.
        batches: Number of the loader's first batches to use, in data set order, as with ``overfit_batches``; ``None``:
            all.

    Raises:
        UnindexedError: The data set can't be indexed, or the sampler does not yield indices or can't be copied.

    Example:
        >>> from torch.utils.data import DataLoader, SubsetRandomSampler
        >>> [*sampled(DataLoader(range(9), sampler=SubsetRandomSampler([7, 5])))]
        [5, 7]
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not has_indices(dataset):
        raise UnindexedError("probes: the data set can't be indexed")
    if not hasattr(loader, "batch_sampler"):
        return range(len(dataset))
    sampler = loader.batch_sampler
    if sampler is None:
        raise UnindexedError("probes: with batch_size=None, the data set makes the batches")
    plain = isinstance(sampler, data.BatchSampler) and type(sampler).__iter__ is data.BatchSampler.__iter__
    if plain and batches is not None:
        # Lightning replaces any other sampler with a sequential one.
        return range(min(batches * sampler.batch_size, len(dataset)))
    try:
        if plain:
            found = _yielded(sampler.sampler, dataset, seed)
        else:
            found = _of_copy(sampler, dataset, seed, lambda each: _flat(islice(each, batches)))
    except UnindexedError:
        raise
    except Exception as error:  # a user's sampler may raise anything
        raise UnindexedError(
            f"probes: the sampler {type(sampler.sampler if plain else sampler).__name__} can't be copied and inspected"
            f" ({type(error).__name__}: {error!s:.80})"
        ) from error
    return found if isinstance(found, range) and found == range(len(dataset)) else _numbers(found, len(dataset))


def _yielded(sampler: Any, dataset: Any, seed: int) -> Iterable[Any]:
    """Returns the indices a sampler can yield, in any order."""
    iterates = type(sampler).__iter__
    if iterates in (data.SequentialSampler.__iter__, data.RandomSampler.__iter__):
        return range(len(sampler.data_source))
    if iterates is data.SubsetRandomSampler.__iter__:
        indices: Iterable[Any] = sampler.indices
        return indices
    if iterates is data.WeightedRandomSampler.__iter__:
        return np.flatnonzero(np.asarray(sampler.weights))
    if isinstance(sampler, data.DistributedSampler):
        whole: Any = sampler.dataset
        # Lightning's private wrapper around a sampler, in each of its namespaces.
        if type(whole).__name__ == "_DatasetSamplerWrapper":
            return _yielded(whole._sampler, dataset, seed)
        if iterates is data.DistributedSampler.__iter__:
            return range(len(whole))
    if isinstance(sampler, _LISTS):
        return sampler
    return _of_copy(sampler, dataset, seed, lambda each: islice(each, _MOST))


def _of_copy(sampler: Any, dataset: Any, seed: int, taken: Callable[[Iterator[Any]], Iterable[Any]]) -> list[Any]:
    """Applies ``taken`` to the output of a copy of a sampler."""
    held = [*getattr(sampler, "__dict__", {}).values()]
    if any(isinstance(value, nn.Module) for value in held):
        raise UnindexedError(f"probes: the sampler {type(sampler).__name__} contains a model")
    # Data is not copied; its state is restored afterwards.
    shared = [*nested_datasets(dataset), *(value for value in held if isinstance(value, data.Dataset))]
    with isolated(sampler, *shared):
        copy = deepcopy(sampler, {id(each): each for each in shared})
        if isinstance(copy, data.DistributedSampler):
            copy.rank = 0
        # Not `torch.manual_seed`: it would also seed a GPU that is not in use yet, which can't be undone.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        return [*taken(iter(copy))]


def _flat(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the first entries of a batch sampler's batches."""
    left = _MOST
    for batch in batches:
        if not isinstance(batch, _LISTS):
            raise UnindexedError(f"probes: the batch sampler yields {type(batch).__name__} instead of lists of indices")
        yield from batch
        left -= max(len(batch), 1)
        if left <= 0:
            return


def _numbers(found: Iterable[Any], total: int) -> Sequence[int]:
    listed = found if isinstance(found, _LISTS) else [*found]
    if not len(listed):
        raise UnindexedError("probes: the sampler yields nothing")
    try:
        values = np.asarray(listed)
    except ValueError:  # entries of different lengths
        values = np.empty(0)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise UnindexedError(f"probes: the sampler yields {type(listed[0]).__name__} instead of indices")
    if values.min() < 0 or values.max() >= total:
        raise UnindexedError(f"probes: the sampler yields indices outside 0 to {total - 1}")
    # For millions of indices, this is faster than sorting.
    yielded = np.zeros(total, bool)
    yielded[values] = True
    indices: list[int] = np.flatnonzero(yielded).tolist()
    return indices


# Number of samples whose labels are read if the data set does not list them: a class with 1% of the samples is missed
# once in 20,000 draws.
LOOKED_AT = 1000
# Samples per probe to read first; how many follow depends on the time they would take, in seconds.
_POOL = 8
_PATIENCE = 20.0
# A prefix of the order that is long enough for a draw from many classes.
_FIRST_PART = 1 << 16


def balanced(labels: npt.NDArray[np.int64], order: npt.NDArray[np.int64], count: int) -> list[int]:
    """Takes samples from each class in turn, given the label of each sample.

    Args:
        labels: The class of each sample, by its index.
        order: The indices to draw from, in random order. Earlier ones take precedence, within and among classes.
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


def check_indices(indices: Sequence[int], total: int) -> None:
    """Rejects indices that a data set of this length does not have."""
    wrong = [int(index) for index in indices if not 0 <= index < total]
    if wrong or len(indices) == 0:
        came = f"index {wrong[0]}" if wrong else "no index"
        raise ProbeError(
            f"indices: got {came}; the data set has {total} samples, so pass indices from 0 to {total - 1}"
        )


def looked_up(
    class_at: Callable[[int], Hashable | None],
    order: npt.NDArray[np.int64],
    count: int,
    classes: int | None,
) -> dict[int, Hashable] | None:
    """Reads the classes of as many samples as a balanced draw needs: at most :data:`LOOKED_AT`, or 8 per probe if more.

    Reading stops once no further sample could change the draw: there are as many classes as probes, or enough samples
    of every class. Slow data sets are read less: if a thousand samples would take more than 20 seconds, only 8 samples
    per probe are read, and if those would also take longer, only as many as will be taken. Reading also stops if
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
