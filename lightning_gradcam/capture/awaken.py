"""Temporary random weights that show which layers a score depends on, independent of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# A prime number, so that the rows of a weight filled with this repeating sequence differ.
_DRAWN = 1_000_003


@contextmanager
def awakened(model: nn.Module) -> Iterator[None]:
    """Temporarily replaces the weights with random ones.

    A zero-initialised head or dead ReLUs would hide which layers the score depends on.

    The original storage is kept and restored bit for bit, even after an exception. Autocast's cache is cleared, so that
    autocast uses the random weights and not its earlier casts.

    Args:
        model: The model; parameters that are not plain tensors (sharded, quantized) are not replaced.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = nn.init.zeros_(model.weight)
        >>> with awakened(model):
        ...     bool(model.weight.any())
        True
        >>> bool(model.weight.any())
        False
    """
    drawn = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(0), device="cpu")
    # Statistics of the old weights would push every position to one side of a ReLU.
    statistics = [(name, b) for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    kept = [
        (name, tensor, tensor.data)
        for name, tensor in [*model.named_parameters(), *statistics]
        if type(tensor.data) is Tensor and tensor.is_floating_point()
    ]
    try:
        for name, tensor, data in kept:
            tensor.data = _other(name, data, drawn)
        torch.clear_autocast_cache()
        yield
    finally:
        for _, tensor, data in kept:
            tensor.data = data
        torch.clear_autocast_cache()


def _other(name: str, data: Tensor, drawn: Tensor) -> Tensor:
    other = torch.empty_like(data)
    if data.dim() < 2:
        # Biases and means are small, scales are one.
        return other.fill_(0.1 if name.endswith(("bias", "running_mean")) else 1.0)
    if not data.numel():
        return other
    values = drawn[: data.numel()] / data[0].numel() ** 0.5
    # A large model has hundreds of millions of weights, so write each only once.
    whole = other if other.is_contiguous() else torch.empty(data.shape, dtype=data.dtype, device=data.device)
    for start in range(0, data.numel(), _DRAWN):
        part = whole.view(-1)[start : start + _DRAWN]
        part.copy_(values[: len(part)])
    return other if whole is other else other.copy_(whole)
