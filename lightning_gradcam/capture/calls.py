"""A layer's calls, and the feature maps in its output: their names, and which of them run in parallel."""

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
    """Which of a layer's feature maps is meant.

    Attributes:
        call: The layer's call, counted from 0.
        tensor: The feature map in what that call returned, counted from 0; 0 is the one of :func:`main_tensor`.
    """

    call: int
    tensor: int


FIRST = MapPlace(0, 0)


def split_call(name: str) -> tuple[str, str | None]:
    """Splits a layer's name from the call that it names.

    Example:
        >>> split_call("encoder#0"), split_call("encoder#*"), split_call("encoder")
        (('encoder', '0'), ('encoder', '*'), ('encoder', None))
    """
    match = _CALL.fullmatch(name)
    return (match[1], match[2]) if match else (name, None)


def layer_of(name: str) -> str:
    """Returns a layer's name without a call."""
    return split_call(name)[0]


def call_of(name: str) -> int | None:
    """Returns the call that a layer's name means; ``None`` if it does not name one."""
    call = split_call(name)[1]
    return int(call) if call is not None and call != ALL_CALLS else None


def parallel(calls: Sequence[Sequence[Tensor]]) -> list[int]:
    """Returns the calls of a layer that are parallel to its last call, the last first.

    A head that is called once for each level of a pyramid has such calls, and so has an encoder of two pictures. Where
    a call's output went into a later call, as with a ReLU that a network uses everywhere, only the later one counts.

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
