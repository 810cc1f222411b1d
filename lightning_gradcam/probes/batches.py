"""Slices and joins collated batches of any structure by sample, including batches of separate images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gradcam.probes.paths import entries_in, of_entries, tensors_in


def part_of(batch: Any, start: int, stop: int, samples: int) -> Any:
    """Returns a range of samples from a collated batch.

    Args:
        batch: Tensors ``[N, …]`` and sequences of ``N`` entries, in tuples, lists, mappings and dataclasses; anything
            else is shared by all samples.
        start: The first sample.
        stop: The sample after the last.
        samples: ``N``.

    Example:
        >>> part_of({"x": torch.arange(3), "names": ["a", "b", "c"], "scale": 2}, 1, 3, 3)
        {'x': tensor([1, 2]), 'names': ['b', 'c'], 'scale': 2}
    """
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() and len(batch) == samples else batch
    # For two samples, (x, y) also has as many entries as samples.
    listed = isinstance(batch, (tuple, list)) and len(batch) == samples
    if listed and not (_holds_tensors(batch) and all(_is_whole(entry, samples) for entry in batch)):
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
    """Returns the sample from which each image in a collated batch was made, as far as can be determined.

    A ``collate_fn`` may sort its samples, or replace a sample that it drops.

    Args:
        samples: The samples that were collated.
        pictures: The same number of collated images.

    Returns:
        The samples' indices. An image that equals none of them, such as a normalised one, is assumed to have kept its
        index.

    Example:
        >>> origins([(torch.zeros(2), 0), (torch.ones(2), 1)], torch.tensor([[1.0, 1.0], [5.0, 5.0]]))
        [1, 1]
    """
    held = [[tensor for _, tensor in tensors_in(sample)] for sample in samples]
    # A data set's items may be whole batches, from which `collate_fn` selects one.
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


def _is_whole(entry: Any, samples: int) -> bool:
    """Whether a batch entry contains data for every sample: a tensor, several tensors, or a list of strings."""
    if isinstance(entry, Tensor):
        return entry.dim() > 0 and len(entry) == samples
    if not isinstance(entry, (tuple, list)) or not entry:
        return False
    texts = len(entry) == samples and all(isinstance(inner, str) for inner in entry)
    return texts or all(_is_whole(inner, samples) for inner in entry)


def _holds_tensors(entry: Any) -> bool:
    return isinstance(entry, Tensor) or (isinstance(entry, (tuple, list)) and any(map(_holds_tensors, entry)))


# The forms of separate images: in a tuple, in a list, or in separate batches.
FORMS = ("tuple", "list", "apart")
# Channel counts of images: grey, colour, colour with alpha.
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Apart:
    """Batches of one sample each, with images of different sizes.

    Attributes:
        batches: The collated batches.
    """

    batches: tuple[Any, ...]


def is_listed(entry: Any, batch: Any) -> bool:
    """Whether a batch entry contains separate images ``[C, H, W]`` rather than views ``[N, C, L]`` of the samples.

    The rest of the batch decides: it has one row for each image, or one for each of the ``N`` samples. If both numbers
    are equal, entries with one, three or four channels are treated as images.

    Example:
        >>> pair = (torch.zeros(5, 2, 8), torch.ones(5, 2, 8))
        >>> is_listed(pair, (pair, torch.zeros(2))), is_listed(pair, (pair, torch.zeros(5)))
        (True, False)
    """
    if not are_flat(entry):
        return False
    rows = {len(other) for _, other in tensors_in(batch) if other.dim() and all(other is not each for each in entry)}
    first = len(entry[0])
    return first not in rows or (len(entry) in rows and (first != len(entry) or first in _CHANNELS))


def are_flat(entry: Any) -> bool:
    """Whether a batch entry is a tuple or list of tensors with three axes."""
    listed = isinstance(entry, (tuple, list)) and len(entry) > 0
    return listed and all(isinstance(each, Tensor) and each.dim() == 3 for each in entry)


def differ_in_size(entry: Any) -> bool:
    """Whether a batch entry is a tuple or list of images ``[C, H, W]`` of different sizes."""
    return are_flat(entry) and len({each.shape for each in entry}) > 1 and len({len(each) for each in entry}) == 1


def exchanged(batch: Any, old: Any, new: Any) -> Any:
    """Returns a batch with one object replaced by another; its containers are copied."""
    if batch is old:
        return new
    whole = entries_in(batch) is None
    return batch if whole else of_entries(lambda entry: exchanged(entry, old, new), batch)


def part_of_listed(batch: Any, start: int, stop: int, samples: int) -> Any:
    """Returns a range of samples from a batch in which each entry is a tuple, list or tensor of all samples.

    Example:
        >>> part_of_listed((("a", "b"), torch.tensor([3, 4])), 1, 2, 2)
        (('b',), tensor([4]))
    """
    if isinstance(batch, Apart):
        return batch.batches[start]

    def sliced(entry: Any) -> Any:
        listed = isinstance(entry, (tuple, list)) and len(entry) == samples
        return entry[start:stop] if listed else part_of(entry, start, stop, samples)

    return of_entries(sliced, batch)


def join_listed(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Joins parts of such batches: the reverse of :func:`part_of_listed`."""

    def joined(*entries: Any) -> Any:
        if all(isinstance(e, (tuple, list)) and len(e) == size for e, size in zip(entries, sizes, strict=True)):
            return type(entries[0])(chain.from_iterable(entries))
        return join_parts(entries, sizes)

    return of_entries(joined, *parts)


def one_size(pictures: Sequence[Tensor], mode: str = "bilinear") -> Tensor:
    """Joins images or maps ``[N, …, h, w]`` along ``N``, resized to the size of the first if sizes differ."""
    if all(each.shape[1:] == pictures[0].shape[1:] for each in pictures):
        return torch.cat(list(pictures))
    size = pictures[0].shape[-2:]
    flat = [each if each.dim() == 4 else each[:, None] for each in pictures]
    resized = [interpolate(each.float(), size, mode=mode).to(each.dtype) for each in flat]
    return torch.cat(resized).reshape(-1, *pictures[0].shape[1:])
