"""Running out of memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

A = TypeVar("A")

# CUDA outside torch's own allocator, MPS, the libraries' own workspaces, and the host.
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
    """Calls a function for one part of the samples after the other and yields its results.

    Args:
        total: How many samples there are.
        size: How many a part has at first.
        call: From a part's first place, and the one behind its last, to its result.
        halve: If a part does not fit into memory, take half as many samples from there on.
        alone: Whether an error of ``call`` means that samples have to be taken one by one from there on.

    Raises:
        Exception: What ``call`` raises, where smaller parts do not help.
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
            # The next attempt is outside of this block: the error's traceback holds the tensors of this one.
            continue
        yield found
        start = stop
