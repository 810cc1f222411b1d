"""Gradients of scores with respect to tensors of one forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_gradcam.errors import CaptureError

# Gradients at the last layers can be as small as 1e-6, which float16 flushes to zero; the factor is divided out again.
_HALF_SCALE = 1024.0


def differentiate(
    scores: Tensor, tensors: Sequence[Tensor], *, retain_graph: bool = False, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Differentiates the sum of ``scores``.

    Args:
        scores: Any shape.
        tensors: The tensors with respect to which to differentiate.
        retain_graph: Keep the graph for another call.
        create_graph: Make the gradients differentiable themselves.

    Returns:
        The gradients, in float32 for float16 tensors; ``None`` for a tensor on which the scores do not depend.

    Raises:
        CaptureError: The model uses reentrant activation checkpointing, which only works with ``backward()``.
    """
    reached = [tensor for tensor in tensors if tensor.requires_grad]
    if not scores.requires_grad or not reached:
        return (None,) * len(tensors)
    half = any(tensor.dtype == torch.float16 for tensor in reached)
    take = partial(_gradients, scores, reached, retain_graph=retain_graph or half, create_graph=create_graph)
    scale = _HALF_SCALE if half else 1.0
    found = take(scale)
    # If that overflows float16, a smaller factor does not, and what then underflows is negligible.
    while half and scale > 1 / _HALF_SCALE and not all(g is None or bool(g.isfinite().all()) for g in found):
        scale /= _HALF_SCALE
        pairs = zip(found, take(scale), strict=True)
        found = [a if a is None or b is None else torch.where(a.isfinite(), a, b) for a, b in pairs]
    place = iter(found)
    return tuple(next(place) if tensor.requires_grad else None for tensor in tensors)


def _gradients(
    scores: Tensor, tensors: Sequence[Tensor], scale: float, *, retain_graph: bool, create_graph: bool
) -> Sequence[Tensor | None]:
    total = scores.sum() if scale == 1.0 else scores.float().sum() * scale
    try:
        kept = retain_graph or create_graph
        found = torch.autograd.grad(
            total, list(tensors), allow_unused=True, retain_graph=kept, create_graph=create_graph
        )
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise CaptureError(
            "layers: the model checkpoints activations with use_reentrant=True, which does not allow gradients without "
            "changing the parameters' .grad; call torch.utils.checkpoint.checkpoint(…, use_reentrant=False) there, or "
            "name a later layer"
        ) from error
    if scale == 1.0:
        return found
    return [None if g is None else (g.float() if g.dtype == torch.float16 else g) / scale for g in found]


def require_gradients(gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Returns ``gradients`` if every layer has one.

    Raises:
        CaptureError: A layer has none; the message explains the reason and names alternatives.
    """
    for name, gradient in gradients.items():
        if gradient is None:
            raise CaptureError(
                f"layers: no gradient reaches {name!r}: the score does not depend on its output through the graph (a"
                " layer inside the model's own torch.no_grad() or torch.inference_mode(), before a detach(), inside a"
                " reentrant activation checkpoint, or on a branch that the explained output does not use); name a layer"
                " that the score depends on"
            )
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}
