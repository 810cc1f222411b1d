"""Slicing and joining collated batches of any structure by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.probes.paths import entries_in, of_entries, tensors_in


def part_of(batch: Any, start: int, stop: int, samples: int) -> Any:
    """Returns a range of samples from a collated batch.

    Args:
        batch: Tensors ``[N, …]`` and sequences of ``N`` entries, in tuples, lists, mappings and dataclasses; anything
            else is shared by all samples.
        start: The first sample.
        stop: The one after the last.
        samples: ``N``.

    Example:
        >>> part_of({"x": torch.arange(3), "names": ["a", "b", "c"], "scale": 2}, 1, 3, 3)
        {'x': tensor([1, 2]), 'names': ['b', 'c'], 'scale': 2}
    """
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() and len(batch) == samples else batch
    # For two samples, (x, y) also has as many entries as samples.
    if isinstance(batch, (tuple, list)) and len(batch) == samples and not _is_batch(batch, samples):
        return batch[start:stop]
    whole = entries_in(batch) is None
    return batch if whole else of_entries(lambda entry: part_of(entry, start, stop, samples), batch)


def join_parts(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Joins parts of batches: the reverse of :func:`part_of`.

    Args:
        parts: Parts with the same structure.
        sizes: Number of samples in each part.

    Example:
        >>> join_parts([(torch.tensor([1]), ["a"]), (torch.tensor([2, 3]), ["b", "c"])], [1, 2])
        (tensor([1, 2, 3]), ['a', 'b', 'c'])
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        fits = all(part.dim() and len(part) == size for part, size in zip(parts, sizes, strict=True))
        return torch.cat(list(parts)) if fits else first
    if isinstance(first, (tuple, list)) and all(
        len(part) == size and not any(isinstance(entry, Tensor) for entry in part)
        for part, size in zip(parts, sizes, strict=True)
    ):
        return [entry for part in parts for entry in part]
    whole = entries_in(first) is None
    return first if whole else of_entries(lambda *entries: join_parts(entries, sizes), *parts)


def origins(samples: Sequence[Any], pictures: Tensor) -> list[int]:
    """Returns the sample that each image of a collated batch comes from, as far as can be determined.

    A ``collate_fn`` may sort its samples, or replace a sample that it drops.

    Args:
        samples: The samples that were collated.
        pictures: The same number of collated images.

    Returns:
        The samples' positions. An image that equals none of them, such as a normalised one, is assumed to have kept its
        position.

    Example:
        >>> origins([(torch.zeros(2), 0), (torch.ones(2), 1)], torch.tensor([[1.0, 1.0], [5.0, 5.0]]))
        [1, 1]
    """
    held = [[tensor for _, tensor in tensors_in(sample)] for sample in samples]
    # The items of a data set may be whole batches, and `collate_fn` takes one of them.
    whole = next((place for place, tensors in enumerate(held) if any(_equal(pictures, t) for t in tensors)), None)
    if whole is not None and len(samples) > 1:
        return [whole] * len(samples)
    places = range(len(samples))

    def origin(row: int) -> int:
        tried = (row, *(place for place in places if place != row))
        return next((place for place in tried if any(_equal(pictures[row], t) for t in held[place])), row)

    return [origin(row) for row in places]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _is_batch(entries: Any, samples: int) -> bool:
    return _holds_tensors(entries) and all(_is_whole(entry, samples) for entry in entries)


def _is_whole(entry: Any, samples: int) -> bool:
    """Whether an entry of a batch holds data for every sample: a tensor, several tensors, or a list of strings."""
    if isinstance(entry, Tensor):
        return entry.dim() > 0 and len(entry) == samples
    if not isinstance(entry, (tuple, list)) or not entry:
        return False
    texts = len(entry) == samples and all(isinstance(inner, str) for inner in entry)
    return texts or all(_is_whole(inner, samples) for inner in entry)


def _holds_tensors(entry: Any) -> bool:
    return isinstance(entry, Tensor) or (isinstance(entry, (tuple, list)) and any(map(_holds_tensors, entry)))
