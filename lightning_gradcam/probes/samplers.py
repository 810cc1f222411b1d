"""Finds the samples that a dataloader yields without advancing its sampler."""

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
        batches: Use only this many first batches of the loader, in data set order, as with ``overfit_batches``.

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
        raise UnindexedError(f"probes: the sampler {type(sampler).__name__} holds a model")
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
