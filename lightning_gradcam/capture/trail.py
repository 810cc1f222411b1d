"""One forward's tensors and the way between them, as far as it keeps an axis of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_gradcam.capture.graph import Origin
from lightning_gradcam.capture.layers import unwrapped
from lightning_gradcam.capture.tensors import floating_tensors, main_tensor


@dataclass(frozen=True, eq=False)
class Watched:
    """A tensor that went into a module or came out of one.

    Attributes:
        tensor: The tensor; with its graph.
        origin: Where it stood in the graph then.
        module: The module that returned it; ``None`` where it was seen as an input first.
        picture: It is the model's own picture.
    """

    tensor: Tensor
    origin: Origin
    module: nn.Module | None = None
    picture: bool = False


@dataclass(frozen=True, eq=False)
class Trail:
    """What a forward went through.

    Attributes:
        watched: Tensors of three axes or more, in order; each once.
        layers: Layer name to the place of its last call's feature map in ``watched``.
    """

    watched: list[Watched]
    layers: dict[str, int]
    _ways: dict[Node, int]
    _bits: dict[Origin, int]

    def before(self, at: int) -> list[int]:
        """Returns the places of those that a tensor's rows of tokens come from, the nearest first.

        Of an attention these are the queries: as many tokens leave it as there are queries, whatever they look at.
        """
        found = _way(self.watched[at].origin[0], self._ways, self._bits)
        return [place for place in range(at - 1, -1, -1) if found >> place & 1]


def watch(layers: Mapping[str, nn.Module], run: Callable[[], Any], picture: Tensor | None, *, force: bool) -> Trail:
    """Runs a forward with a graph and notes what goes into and comes out of all modules.

    Args:
        layers: Name to module.
        run: The forward.
        picture: The picture that it starts from; without a graph of its own, or ``None``, tokens are followed less far.
        force: Record the graph in the model's own ``torch.no_grad()``, too.

    Raises:
        Exception: What the forward raises.
    """
    watched: list[Watched] = []
    bits: dict[Origin, int] = {}
    last: dict[str, int] = {}

    def note(tensor: Tensor, module: nn.Module | None = None, *, is_picture: bool = False) -> int | None:
        if tensor.grad_fn is None or tensor.dim() < 3:
            return None
        origin = (tensor.grad_fn, tensor.output_nr)
        if origin not in bits:
            bits[origin] = len(watched)
            watched.append(Watched(tensor, origin, module, is_picture))
        return bits[origin]

    def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
        if force and not torch.is_inference_mode_enabled():
            torch.set_grad_enabled(True)
        for tensor in floating_tensors((args, kwargs)):
            note(tensor)

    def leave(module: nn.Module, _args: Any, output: Any) -> Any:
        main = main_tensor(output)
        if main is None or main[0].dim() < 3:
            return None
        tensor, rebuilt = main
        replaced = None
        if tensor.grad_fn is None and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            # Nothing that learns has come before.
            tensor = (tensor if tensor.requires_grad else tensor.detach().requires_grad_()).clone()
            replaced = rebuilt(tensor)
        place = note(tensor, unwrapped(module))
        for name in names[id(module)]:
            if place is None:
                last.pop(name, None)
            else:
                last[name] = place
        return replaced

    names: dict[int, list[str]] = {}
    for name, module in layers.items():
        names.setdefault(id(module), []).append(name)
    with ExitStack() as stack, torch.enable_grad():
        if picture is not None:
            note(picture, is_picture=True)
        for module in {id(module): module for module in layers.values()}.values():
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        run()
    return Trail(watched, last, {}, bits)


def _way(start: Node, ways: dict[Node, int], bits: Mapping[Origin, int]) -> int:
    """Returns which watched tensors lead to a node's results, a bit for each."""
    stack = [start]
    while stack:
        node = stack[-1]
        if node in ways:
            stack.pop()
            continue
        edges = _followed(node)
        missing = [before for before, _ in edges if before not in ways]
        if missing:
            stack.extend(missing)
            continue
        found = 0
        for before, place in edges:
            found |= ways[before]
            if (bit := bits.get((before, place))) is not None:
                found |= 1 << bit
        ways[stack.pop()] = found
    return ways[start]


def _followed(node: Node) -> list[Origin]:
    name, edges = node.name(), node.next_functions
    if name.startswith("Bmm") or ("Attention" in name and name.endswith(tuple("0123456789"))):
        edges = edges[:1]
    elif name.startswith("Baddbmm"):
        edges = edges[:2]
    return [(before, place) for before, place in edges if before is not None]


def has_rows(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether rows and columns are what they seem: lists of tokens are given to 2-D layers as ``[N, C, L, 1]``.

    Example:
        >>> has_rows(nn.Conv2d(8, 8, 1), (2, 8, 49, 1)), has_rows(nn.Conv2d(8, 8, (7, 1)), (2, 8, 1, 49))
        (False, True)
    """
    kernel = getattr(module, "kernel_size", 1)
    sides = kernel[-2:] if isinstance(kernel, tuple) else (kernel, kernel)
    # A patch as high as the picture makes a single row of many.
    return all(size > 1 or side > 1 for size, side in zip(shape[-2:], sides, strict=True))
