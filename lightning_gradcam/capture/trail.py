"""One forward's tensors and the way between them, as far as it keeps an axis of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_gradcam.capture.graph import Origin, way
from lightning_gradcam.capture.layers import unwrapped
from lightning_gradcam.capture.tensors import floating_tensors, main_tensor


@dataclass(frozen=True, eq=False)
class Watched:
    """A tensor that went into a module or came out of one.

    Attributes:
        shape: Its shape.
        tensor: The tensor with its graph, where it could be tokens: of three axes. Others are not held.
        origin: Where it stood in the graph then.
        module: The module that returned it; ``None`` where it was seen as an input first.
        picture: It is the model's own picture.
    """

    shape: tuple[int, ...]
    tensor: Tensor | None
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

    def origins(self) -> dict[str, Origin]:
        """Returns where the feature map of each layer's last call stood in the graph."""
        return {name: self.watched[at].origin for name, at in self.layers.items()}

    def before(self, at: int) -> list[int]:
        """Returns the places of those that a tensor's rows of tokens come from, the nearest first.

        Of an attention these are the queries: as many tokens leave it as there are queries, whatever they look at.
        """
        found = way(self.watched[at].origin[0], self._ways, self._bits, _followed)
        return [place for place in range(at - 1, -1, -1) if found >> place & 1]


class Watcher:
    """Notes what goes into and comes out of all modules of a forward with a graph.

    Args:
        layers: Name to module.
        picture: The picture that the forward starts from; without a graph of its own, or ``None``, tokens are followed
            less far.
        force: Record the graph in the model's own ``torch.no_grad()``, too.
        changing: Put a tensor with a graph in the place of one without. Otherwise nothing is changed or forced, and
            :attr:`whole` tells whether anything would have been.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], picture: Tensor | None, *, force: bool = True, changing: bool = True
    ) -> None:
        self._names: dict[int, list[str]] = {}
        for name, module in layers.items():
            self._names.setdefault(id(module), []).append(name)
        self._force, self._changing = force, changing
        self.trail = Trail([], {}, {}, {})
        self.whole = True
        """Whether each tensor had its graph by itself."""
        if picture is not None:
            self._note(picture, is_picture=True)

    def enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """Notes what a module gets; a forward pre-hook."""
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            self.whole = False
            if self._changing and self._force and not torch.is_inference_mode_enabled():
                torch.set_grad_enabled(True)
        for tensor in floating_tensors((args, kwargs)):
            self._note(tensor)

    def leave(self, module: nn.Module, _args: Any, output: Any) -> Any:
        """Notes what a module returns; a forward hook."""
        main = main_tensor(output)
        if main is None or main[0].dim() < 3:
            return None
        tensor, rebuilt = main
        replaced = None
        if tensor.grad_fn is None:
            self.whole = False
            if self._changing and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
                # Nothing that learns has come before.
                tensor = (tensor if tensor.requires_grad else tensor.detach().requires_grad_()).clone()
                replaced = rebuilt(tensor)
        place = self._note(tensor, unwrapped(module))
        for name in self._names[id(module)]:
            if place is None:
                self.trail.layers.pop(name, None)
            else:
                self.trail.layers[name] = place
        return replaced

    def _note(self, tensor: Tensor, module: nn.Module | None = None, *, is_picture: bool = False) -> int | None:
        if tensor.grad_fn is None or tensor.dim() < 3:
            return None
        origin, watched, bits = (tensor.grad_fn, tensor.output_nr), self.trail.watched, self.trail._bits
        if origin not in bits:
            bits[origin] = len(watched)
            tokens = tensor if tensor.dim() == 3 else None
            watched.append(Watched(tuple(tensor.shape), tokens, origin, module, is_picture))
        return bits[origin]


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
