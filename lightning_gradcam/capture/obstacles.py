"""Finds model parts that block hooks or gradients, with a workaround for the error message."""

from __future__ import annotations

import torch
from torch import nn

from lightning_gradcam.capture.layers import public_name

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "torchao.")


def quantised_part(model: nn.Module) -> str | None:
    """Returns the reason and the fix for the first quantised part; ``None`` if there is none.

    Example:
        >>> quantised_part(nn.Sequential(nn.ReLU())) is None
        True
    """
    for name, module in model.named_modules():
        if any(_is_quantised(type(each)) for each in (module, *module._parameters.values())):
            return (
                f"{_called(name, module)} is quantised, and no gradient passes through it; explain the model from "
                "before quantisation, with floating-point weights"
            )
    return None


def obstacle(model: nn.Module) -> str | None:
    """Returns the reason and the fix for the first part compiled by ``torch.jit``, or else the first quantised part.

    Returns:
        ``None`` if there is none.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            return (
                f"{_called(name, module)} is compiled by torch.jit, which calls no hooks; pass the model from before "
                "torch.jit.script or torch.jit.trace, with the same weights"
            )
    return quantised_part(model)


def _is_quantised(kind: type) -> bool:
    return f"{kind.__module__}.".startswith(_QUANTISED)


def _called(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    shown = public_name(name)
    return f"{shown!r:.80} ({kind})" if shown else f"the model ({kind})"
