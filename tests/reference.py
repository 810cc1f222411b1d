"""Grad-CAM written out plainly, independent of the package."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_gradcam.methods import resolve_methods


def plain_gradcam(
    head: Callable[[Tensor], Tensor], body: nn.Module, inputs: Tensor, classes: list[int], *, relu: bool = True
) -> Tensor:
    """Loops over samples, channels and places: `body` up to the layer's output, `head` from there to the scores."""
    maps = []
    for sample, wanted in zip(inputs, classes, strict=True):
        activation = body(sample[None]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(head(activation)[0, wanted], activation)
        channels, height, width = activation.shape[1:]
        weights = [sum(gradient[0, k].flatten().tolist()) / (height * width) for k in range(channels)]
        summed = torch.zeros(height, width, dtype=inputs.dtype)
        for k, weight in enumerate(weights):
            summed += weight * activation[0, k].detach()
        maps.append(summed.clamp(min=0) if relu else summed)
    return torch.stack(maps)


def apply(name: str, activations: Tensor, gradients: Tensor) -> Tensor:
    """Calls a method of the registry that is a function of activations, or of these and gradients."""
    method = resolve_methods(name)[name]
    return method.function(activations, *([gradients] if method.needs == "gradients" else []))
