"""Batches of separate images: in a tuple or list, or, if their sizes differ, in batches of one image each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gradcam.probes.batches import join_parts, part_of
from lightning_gradcam.probes.paths import entries_in, of_entries, tensors_in

# The forms of separate images: in a tuple, in a list, or in batches of one each.
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
    """Whether a batch entry holds separate images ``[C, H, W]`` rather than views ``[N, C, L]`` of the samples.

    The rest of the batch decides: it has one row for each image, or one for each of the ``N`` samples. If both numbers
    are equal, entries with one, three or four channels are taken as images.

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
