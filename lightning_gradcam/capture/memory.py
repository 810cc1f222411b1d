"""Handles out-of-memory errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

A = TypeVar("A")

# Messages from CUDA outside torch's allocator, from MPS, from library workspaces and from the host.
_TEXTS = re.compile(r"out of memory|can't allocate memory|_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that the device or the host is out of memory."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and _TEXTS.search(str(error)) is not None


def in_parts(
    total: int,
    size: int,
    call: Callable[[int, int], A],
    *,
    halve: bool = True,
    alone: Callable[[Exception], bool] = lambda _: False,
) -> Iterator[A]:
    """Calls a function for consecutive parts of the samples and yields its results.

    Args:
        total: Number of samples.
        size: Number of samples in the first part.
        call: Maps a part's start and stop index to its result.
        halve: Whether to halve the part size from there on if a part does not fit into memory.
        alone: Whether an error from ``call`` means that samples must be processed one by one from there on.

    Raises:
        Exception: The exception from ``call``, if smaller parts do not help.
    """
    start = 0
    while start < total:
        stop = min(start + size, total)
        try:
            found = call(start, stop)
        except (RuntimeError, MemoryError) as error:
            single = alone(error)
            if stop - start == 1 or not (single or (halve and is_out_of_memory(error))):
                raise
            size = 1 if single else (stop - start + 1) // 2
            # Retry outside this block: the error's traceback keeps this attempt's tensors alive.
            continue
        yield found
        start = stop
