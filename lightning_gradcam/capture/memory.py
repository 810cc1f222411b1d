"""When memory does not suffice."""

from __future__ import annotations

import re

import torch

# CUDA outside torch's own allocator, MPS, the libraries' own workspaces, and the host.
_TEXTS = re.compile(r"out of memory|can't allocate memory|_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory, of a device or of the host, does not suffice."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and _TEXTS.search(str(error)) is not None
