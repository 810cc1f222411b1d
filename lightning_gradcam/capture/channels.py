"""Finds a feature map's channel axis by tracing it back through permutations to the module that computed it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.autograd.graph import Node

from lightning_gradcam.capture.graph import Origin
from lightning_gradcam.capture.layers import is_channels_first
from lightning_gradcam.capture.trail import Trail

_CHANNELS_LAST = (nn.LayerNorm, nn.Linear, nn.RMSNorm)
# Operations that keep every axis in its position.
_KEEPS_AXES = re.compile(
    r"(Add|Sub|Rsub|Mul|Div|Neg|Relu|Gelu|Silu|Sigmoid|Tanh|Hardswish|Hardsigmoid|Hardtanh|Clamp|LeakyRelu|Elu|Mish"
    r"|Softplus|Exp|Pow|Clone|Alias|ToCopy|NativeDropout|NativeLayerNorm|FusedRmsNorm|NativeBatchNorm|CudnnBatchNorm"
    r"|NativeGroupNorm)\w*Backward\d"
)


def is_channels_last(module: nn.Module) -> bool:
    """Whether a module's class implies channels last; a norm over several axes includes spatial axes.

    Example:
        >>> is_channels_last(nn.LayerNorm(8)), is_channels_last(nn.LayerNorm((8, 8)))
        (True, False)
    """
    return type(module) in _CHANNELS_LAST and len(getattr(module, "normalized_shape", (1,))) == 1


def channels_last(trail: Trail) -> dict[str, bool]:
    """Returns whether channels are last in a layer's output, for the layers where the graph shows it.

    The graph is followed back from the output through permutations, sums and activations to modules whose class shows
    their channel axis. If several are reached, as in a residual block, all must agree.

    Args:
        trail: The trace of the forward pass.

    Returns:
        Whether channels are last, by layer name; layers with fewer than four axes or an inconclusive graph are omitted.
    """
    known: dict[Origin, int] = {}
    for watched in trail.watched:
        shape = watched.shape
        if watched.module is None or len(shape) < 4:
            continue
        if is_channels_last(watched.module):
            known[watched.origin] = len(shape) - 1
        elif is_channels_first(watched.module, shape):
            known[watched.origin] = 1
    found = {}
    for name, at in trail.layers.items():
        watched = trail.watched[at]
        axes = _channels(watched.origin, len(watched.shape), known)
        if len(axes) == 1 and axes <= {1, len(watched.shape) - 1}:
            found[name] = axes != {1}
    return found


def _channels(start: Origin, rank: int, known: Mapping[Origin, int]) -> set[int]:
    """Returns the axes of a tensor that could be its channels, given all modules it is traced to."""
    found: set[int] = set()
    # For each origin, the axis of the first tensor that corresponds to each of its own axes.
    waiting = [(start, tuple(range(rank)))]
    done: set[tuple[Origin, tuple[int, ...]]] = set()
    while waiting:
        origin, axes = waiting.pop()
        if (origin, axes) in done:
            continue
        done.add((origin, axes))
        node = origin[0]
        if origin in known:
            found.add(axes[known[origin]])
        elif node.name().startswith("ConvolutionBackward"):
            found.add(axes[1])
        elif (before := _before(node, axes)) is not None:
            waiting.extend(((n, place), before) for n, place in node.next_functions if n is not None)
    return found


def _before(node: Node, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the axes of an operation's input; ``None`` if the operation does more than permute axes."""
    if _KEEPS_AXES.fullmatch(node.name()):
        return axes
    rank, order = len(axes), list(range(len(axes)))
    saved: Any = node
    if node.name().startswith("PermuteBackward"):
        order = [_signed(axis) % rank for axis in saved._saved_dims]
    elif node.name().startswith("TransposeBackward"):
        one, two = _signed(saved._saved_dim0) % rank, _signed(saved._saved_dim1) % rank
        order[one], order[two] = two, one
    else:
        return None
    if sorted(order) != list(range(rank)):
        return None
    return tuple(axes[order.index(axis)] for axis in range(rank))


def _signed(axis: int) -> int:
    # A negative axis is stored as an unsigned number.
    return axis - 2**64 if axis >= 2**63 else axis
