"""Whether a layer's channels are the output's own numbers: logits at every place, letters at every step, box scores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lightning_gradcam.capture.graph import nearest_first


def owns_numbers(numbers: Sequence[Tensor], edges: Sequence[Tensor] | Sequence[GradientEdge], axis: int) -> bool:
    """Whether each number of an output that depends on a layer depends on one of its channels alone.

    This holds for logits in any order of axes, behind a scale, a sigmoid or an enlargement, and where several levels
    are joined; it does not hold behind a linear layer, a norm over channels or a softmax. Channels are numbered in
    binary, and for each digit the channels with 0 and those with 1 are moved by themselves: no number may follow both.

    Args:
        numbers: The output's tensors, attached to the graph; it is kept.
        edges: The layer's feature maps, or where they are in the graph.
        axis: Their axis of channels, of which there are two at least.

    Returns:
        ``False`` also where no more than one channel leads to any number, or what follows the layer can't be
        differentiated twice.

    Example:
        >>> x = torch.rand(1, 3, 2, 2, requires_grad=True)
        >>> owns_numbers([x.flatten(2).mT.sigmoid()], [x], 1), owns_numbers([x.softmax(1)], [x], 1)
        (True, False)
    """
    # The tensor of the fewest operations comes first, and alone: a detector's boxes show that channels mix, without a
    # backward through its keypoints, which takes longer than the rest of the model.
    ordered = nearest_first(numbers, [e if isinstance(e, Tensor) else (e.node, e.output_nr) for e in edges])
    follows = [(False, False)]
    # What was changed in place, or has no second backward, is more than a scale or another order.
    with suppress(RuntimeError), torch.enable_grad():
        for group in filter(None, (ordered[:1], ordered[1:])):
            weights = [torch.ones_like(tensor, requires_grad=True) for tensor in group]
            found = torch.autograd.grad(group, edges, weights, create_graph=True, allow_unused=True)
            slopes = [slope for slope in found if slope is not None and slope.requires_grad]
            if not slopes:
                continue
            bits = (slopes[0].shape[axis] - 1).bit_length()
            follows += [(False, False)] * (bits - len(follows))
            for bit in range(bits):
                ones, others = (_followed(slopes, weights, axis, bit, digit) for digit in (0, 1))
                if bool((ones & others).any()):
                    return False
                either = bool(ones.any()), bool(others.any())
                if not any(either):
                    break  # no number follows any channel
                follows[bit] = follows[bit][0] or either[0], follows[bit][1] or either[1]
        return any(map(all, follows))
    return False


def _followed(slopes: Sequence[Tensor], weights: Sequence[Tensor], axis: int, bit: int, digit: int) -> Tensor:
    """Returns which of the output's numbers follow the channels with a digit at a place of their number."""
    # A gradient is linear in its weights: differentiated by these, it tells how each number follows the layer.
    moved = torch.stack([(slope * _step(slope, axis, bit, digit)).sum() for slope in slopes]).sum()
    changes = torch.autograd.grad(moved, list(weights), retain_graph=True, allow_unused=True)
    known = zip(changes, weights, strict=True)
    return torch.cat([(torch.zeros_like(weight) if c is None else c).flatten() != 0 for c, weight in known])


def _step(like: Tensor, axis: int, bit: int, digit: int) -> Tensor:
    """Returns a step of a layer along some of its channels; of another size at each place, so that none cancel."""
    count = like.shape[axis]
    chosen = (torch.arange(count) >> bit & 1 == digit).reshape(-1, *[1] * (like.dim() - axis - 1))
    sizes = torch.rand(like.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    return (sizes * chosen).to(like)
