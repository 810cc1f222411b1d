"""Gives tensors their former content back."""

from __future__ import annotations

import torch
from torch import Tensor

# Whole numbers with the same number of bytes, to compare bits: 0.0 equals -0.0, and NaN does not equal itself.
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def give_back(tensor: Tensor, content: Tensor) -> None:
    """Writes ``content`` into a tensor whose values, shape or dtype may have changed.

    Args:
        tensor: The tensor.
        content: A clone from before.

    Example:
        >>> tensor = torch.zeros(2)
        >>> before = tensor.clone()
        >>> give_back(tensor.add_(1), before)
        >>> tensor
        tensor([0., 0.])
    """
    strided = tensor.layout == torch.strided
    # A nested tensor has no shape.
    if (tensor.is_nested and strided) or tensor.shape != content.shape or tensor.dtype != content.dtype:
        tensor.data = content
        return
    strides = tensor.stride() if strided else ()
    # Compare values even if the version is unchanged: writing through `.data` does not increase it. We write through
    # `.data` for the same reason: training's own graph must not see a later version.
    now, then = _once(tensor.data, strides), _once(content, strides)
    # Memory that is mapped from a file may be read-only; writing to it would end the process.
    if not _same_bits(now, then):
        now.copy_(then)


def _once(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Returns a view with each memory location once; ``expand()`` repeats locations, which can't be written."""
    if 0 not in strides:
        return tensor
    for axis, stride in enumerate(strides):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors in main memory hold the same bits; false if they can't be compared."""
    # Comparing on a device would wait for it; comparing the bits of quantised numbers ends the process.
    if one.device.type != "cpu" or one.is_quantized:
        return False
    try:
        if one.is_complex():
            one, two = torch.view_as_real(one), torch.view_as_real(two)
        whole = _WHOLE[one.element_size()]
        return torch.equal(one.view(whole), two.view(whole))
    except Exception:  # sparse and wrapped tensors may raise anything
        return False
