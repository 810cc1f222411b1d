"""Whether a layer's channels are the model's outputs: logits at every position, letters at every step, box scores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lightning_gradcam.capture.graph import nearest_first


def owns_numbers(numbers: Sequence[Tensor], edges: Sequence[Tensor] | Sequence[GradientEdge], axis: int) -> bool:
    """Whether each output number that depends on a layer depends on only one of its channels.

    This is true for logits in any order of axes, after scaling, a sigmoid or upsampling, and when several levels are
    joined. It is false after a linear layer, a norm over channels or a softmax. Channels are numbered in binary; for
    each digit, the channels with 0 and those with 1 are changed separately, and no output number may respond to both.

    Args:
        numbers: The output's tensors, attached to the graph; it is kept.
        edges: The layer's feature maps, or their positions in the graph.
        axis: Their channel axis, of length two or more.

    Returns:
        ``False`` also if at most one channel affects the output, or if the operations after the layer can't be
        differentiated twice.

    Example:
        >>> x = torch.rand(1, 3, 2, 2, requires_grad=True)
        >>> owns_numbers([x.flatten(2).mT.sigmoid()], [x], 1), owns_numbers([x.softmax(1)], [x], 1)
        (True, False)
    """
    # First the tensor with the fewest operations, alone: a detector's boxes show that channels mix without a backward
    # through its keypoints, which takes longer than the rest of the model.
    ordered = nearest_first(numbers, [e if isinstance(e, Tensor) else (e.node, e.output_nr) for e in edges])
    follows = [(False, False)]
    # An in-place change or a missing second backward means more than scaling or reordering.
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
                    break  # no output number responds to any channel
                follows[bit] = follows[bit][0] or either[0], follows[bit][1] or either[1]
        return any(map(all, follows))
    return False


def _followed(slopes: Sequence[Tensor], weights: Sequence[Tensor], axis: int, bit: int, digit: int) -> Tensor:
    """Returns which output numbers respond to the channels with a given binary digit at a given position."""
    # A gradient is linear in its weights: its derivative with respect to them shows how each number responds.
    moved = torch.stack([(slope * _step(slope, axis, bit, digit)).sum() for slope in slopes]).sum()
    changes = torch.autograd.grad(moved, list(weights), retain_graph=True, allow_unused=True)
    known = zip(changes, weights, strict=True)
    return torch.cat([(torch.zeros_like(weight) if c is None else c).flatten() != 0 for c, weight in known])


def _step(like: Tensor, axis: int, bit: int, digit: int) -> Tensor:
    """Returns a step along some channels of a layer; its size differs at each position, so that no steps cancel."""
    count = like.shape[axis]
    chosen = (torch.arange(count) >> bit & 1 == digit).reshape(-1, *[1] * (like.dim() - axis - 1))
    sizes = torch.rand(like.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    return (sizes * chosen).to(like)
