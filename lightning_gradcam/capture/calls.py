"""A layer's calls and the feature maps in its output: how they are named, and which calls run in parallel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

from lightning_gradcam.capture.graph import origins_of, upstream

_CALL = re.compile(r"(.+)#(\d+|\*)")
ALL_CALLS = "*"


class MapPlace(NamedTuple):
    """Identifies one of a layer's feature maps.

    Attributes:
        call: The layer's call, counted from 0.
        tensor: Index of the feature map in that call's output, from 0; 0 is the one that :func:`main_tensor` finds.
    """

    call: int
    tensor: int


FIRST = MapPlace(0, 0)


def split_call(name: str) -> tuple[str, str | None]:
    """Splits a layer reference into the layer's name and the call.

    Example:
        >>> split_call("encoder#0"), split_call("encoder#*"), split_call("encoder")
        (('encoder', '0'), ('encoder', '*'), ('encoder', None))
    """
    match = _CALL.fullmatch(name)
    return (match[1], match[2]) if match else (name, None)


def layer_of(name: str) -> str:
    """Returns a layer's name without its call."""
    return split_call(name)[0]


def call_of(name: str) -> int | None:
    """Returns the call in a layer reference; ``None`` if it does not name a single call."""
    call = split_call(name)[1]
    return int(call) if call is not None and call != ALL_CALLS else None


def parallel(calls: Sequence[Sequence[Tensor]]) -> list[int]:
    """Returns a layer's last call and all calls that run in parallel with it, latest first.

    Examples of parallel calls are a head called once for each level of a pyramid, and an encoder applied to two images.
    If a call's output feeds a later call, as with one ReLU used throughout a network, only the later call counts.

    Args:
        calls: The feature maps of each call, attached to the graph.

    Example:
        >>> import torch
        >>> first = torch.ones(1, requires_grad=True) * 2
        >>> parallel([[first], [first * 2]]), parallel([[first], [torch.ones(1, requires_grad=True) * 2]])
        ([1], [1, 0])
    """
    chosen: list[int] = []
    known: set[Node] = set()
    for call in reversed(range(len(calls))):
        if not any(node in known for node, _ in origins_of(calls[call])):
            chosen.append(call)
            known |= {node for node, _ in upstream(*calls[call])}
    return chosen
