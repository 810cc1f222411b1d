"""The samples of a data set that a dataloader yields, found without advancing its sampler."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data

from lightning_gradcam.errors import ProbeError
from lightning_gradcam.guard.data import isolated
from lightning_gradcam.probes.wrapped import has_indices, nested_datasets

# A sampler may never end: at most this many of its samples are read.
_MOST = 100_000
_LISTS = (list, tuple, range, np.ndarray, Tensor)


class UnindexedError(ProbeError):
    """Samples can't be read by index here, for the reason in the text; probes have to come from passing batches."""


def sampled(loader: Any, *, seed: int = 0, batches: int | None = None) -> Sequence[int]:
    """Returns the samples of its data set that a dataloader yields, each once, in ascending order.

    A sampler of PyTorch's or Lightning's, or a list, is read. Of any other one a copy is iterated, from fixed random
    numbers, up to 100,000 samples; neither the sampler nor a generator that it holds is advanced. Every rank has the
    same result: of a distributed sampler, what it distributes.

    Args:
        loader: Has a ``dataset``; without a ``sampler``, it is assumed to yield all of it.
        seed: Of the random numbers that a copy gets.
        batches: The loader's first batches alone, in the order of the data set, as under ``overfit_batches``.

    Raises:
        UnindexedError: The data set has no numbered samples, or the sampler yields something else, or can't be copied.

    Example:
        >>> from torch.utils.data import DataLoader, SubsetRandomSampler
        >>> [*sampled(DataLoader(range(9), sampler=SubsetRandomSampler([7, 5])))]
        [5, 7]
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not has_indices(dataset):
        raise UnindexedError("probes: the data can't be indexed")
    if not hasattr(loader, "batch_sampler"):
        return range(len(dataset))
    sampler = loader.batch_sampler
    if sampler is None:
        raise UnindexedError("probes: batch_size=None leaves the batches to the data set")
    plain = isinstance(sampler, data.BatchSampler) and type(sampler).__iter__ is data.BatchSampler.__iter__
    if plain and batches is not None:
        # Lightning puts a sequential sampler in the place of any other one.
        return range(min(batches * sampler.batch_size, len(dataset)))
    try:
        if plain:
            found = _yielded(sampler.sampler, dataset, seed)
        else:
            found = _of_copy(sampler, dataset, seed, lambda each: _flat(islice(each, batches)))
    except UnindexedError:
        raise
    except Exception as error:  # whatever a user's sampler raises
        raise UnindexedError(
            f"probes: the sampler {type(sampler.sampler if plain else sampler).__name__} can't be copied and inspected"
            f" ({type(error).__name__}: {error!s:.80})"
        ) from error
    return found if isinstance(found, range) and found == range(len(dataset)) else _numbers(found, len(dataset))


def _yielded(sampler: Any, dataset: Any, seed: int) -> Iterable[Any]:
    """Returns what a sampler can yield, in any order."""
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
        # What Lightning puts around a sampler: a private class, in each of its namespaces.
        if type(whole).__name__ == "_DatasetSamplerWrapper":
            return _yielded(whole._sampler, dataset, seed)
        if iterates is data.DistributedSampler.__iter__:
            return range(len(whole))
    if isinstance(sampler, _LISTS):
        return sampler
    return _of_copy(sampler, dataset, seed, lambda each: islice(each, _MOST))


def _of_copy(sampler: Any, dataset: Any, seed: int, taken: Callable[[Iterator[Any]], Iterable[Any]]) -> list[Any]:
    """Returns what ``taken`` returns of what a copy of a sampler yields."""
    held = [*getattr(sampler, "__dict__", {}).values()]
    if any(isinstance(value, nn.Module) for value in held):
        raise UnindexedError(f"probes: the sampler {type(sampler).__name__} holds a model")
    # Data is not copied, and is given back as it was.
    shared = [*nested_datasets(dataset), *(value for value in held if isinstance(value, data.Dataset))]
    with isolated(sampler, *shared):
        copy = deepcopy(sampler, {id(each): each for each in shared})
        if isinstance(copy, data.DistributedSampler):
            copy.rank = 0
        # Not `torch.manual_seed`: it would seed a GPU that is not in use yet, too, which can't be undone.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        return [*taken(iter(copy))]


def _flat(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the first entries of a batch sampler's batches."""
    left = _MOST
    for batch in batches:
        if not isinstance(batch, _LISTS):
            raise UnindexedError(f"probes: the batch sampler yields {type(batch).__name__} instead of lists of numbers")
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
    except ValueError:  # entries of several lengths
        values = np.empty(0)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise UnindexedError(f"probes: the sampler yields {type(listed[0]).__name__} instead of numbers")
    if values.min() < 0 or values.max() >= total:
        raise UnindexedError(f"probes: the sampler yields numbers other than 0 to {total - 1}")
    # Of millions, faster than to sort them.
    yielded = np.zeros(total, bool)
    yielded[values] = True
    indices: list[int] = np.flatnonzero(yielded).tolist()
    return indices
