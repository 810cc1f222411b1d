"""Records a forward pass's calls, and how its tensors derive from each other while the token axis is preserved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from lightning_gradcam.capture.graph import Origin, way
from lightning_gradcam.capture.layers import unwrapped
from lightning_gradcam.capture.tensors import floating_tensors, level_maps


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of a module.

    Attributes:
        name: The module's name.
        module: The module, without wrappers such as that of ``torch.compile``.
        shape: The shape of the feature map in its output.
        value: The tensor's identity and version; calls that returned the same tensor share it.
        made: Whether the tensor is new, not one of the module's own inputs.
        call: Index of this call among the module's calls, from 0.
        origins: The graph positions of all feature maps in its output, in order; empty without a graph.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    value: tuple[int, int]
    made: bool
    call: int
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, eq=False)
class Watched:
    """A tensor that a module received or returned.

    Attributes:
        shape: Its shape.
        tensor: The tensor with its graph if it could hold tokens (three axes); others are not kept.
        origin: Its position in the graph at that time.
        module: The module that returned it; ``None`` if it was first seen as an input.
        picture: Whether the tensor is the model's input image.
    """

    shape: tuple[int, ...]
    tensor: Tensor | None
    origin: Origin
    module: nn.Module | None = None
    picture: bool = False


@dataclass(frozen=True, eq=False)
class Trail:
    """The trace of a forward pass.

    Attributes:
        watched: Tensors with at least three axes, in order, each once.
        layers: For each layer name, the index in ``watched`` of its last call's feature map.
    """

    watched: list[Watched]
    layers: dict[str, int]
    _ways: dict[Node, int]
    _bits: dict[Origin, int]

    def origins(self) -> dict[str, Origin]:
        """Returns the graph position of the feature map of each layer's last call."""
        return {name: self.watched[at].origin for name, at in self.layers.items()}

    def before(self, at: int) -> list[int]:
        """Returns the indices of the tensors from which a tensor's tokens derive, nearest first.

        For attention these are the queries: it returns one token for each query, whichever keys they attend to.
        """
        found = way(self.watched[at].origin[0], self._ways, self._bits, _followed)
        return [place for place in range(at - 1, -1, -1) if found >> place & 1]


class Watcher:
    """Records the inputs and outputs of all modules in a forward pass with a graph.

    Args:
        picture: The model's input image; if it is ``None`` or has no graph, tokens are traced less far.
        force: Whether to record the graph even inside the model's own ``torch.no_grad()``.
        changing: Whether to replace tensors without a graph by tensors with a graph. If false, nothing is changed or
            forced, and :attr:`whole` shows whether it would have been.
    """

    def __init__(self, picture: Tensor | None, *, force: bool = True, changing: bool = True) -> None:
        self._force, self._changing = force, changing
        self.trail = Trail([], {}, {}, {})
        self.whole = True
        """Whether each tensor had its own graph."""
        if picture is not None:
            self._note(picture, is_picture=True)

    def enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """Records a module's inputs; a forward pre-hook."""
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            self.whole = False
            if self._changing and self._force and not torch.is_inference_mode_enabled():
                torch.set_grad_enabled(True)
        for tensor in floating_tensors((args, kwargs)):
            self._note(tensor)

    def leave(self, name: str, module: nn.Module, tensor: Tensor) -> Tensor | None:
        """Records the feature map that a layer returns; returns its replacement, or ``None``."""
        replaced = None
        if tensor.grad_fn is None:
            self.whole = False
            if self._changing and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
                # No trainable module has run yet.
                tensor = replaced = (tensor if tensor.requires_grad else tensor.detach().requires_grad_()).clone()
        place = self._note(tensor, module)
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


def executed(
    layers: Mapping[str, nn.Module],
    forward: Callable[[], Any],
    *,
    graph: bool = False,
    watcher: Watcher | None = None,
) -> tuple[list[Seen], Any, dict[str, int]]:
    """Runs a forward pass, with a graph if requested.

    Args:
        layers: Modules by name.
        forward: Runs the forward pass once.
        graph: Whether to record the graph.
        watcher: Traces tokens through the forward pass, which also needs a graph.

    Returns:
        Every call that returned a floating-point tensor with at least three axes, in order; the model's output; and the
        number of calls by layer name.
    """
    graph = graph or watcher is not None
    calls = Counter[str]()
    order: list[Seen] = []
    # Not kept: the outputs of all layers together can be larger than the model.
    numbers: dict[int, tuple[ref[Tensor], int]] = {}

    def seen(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        calls[name] += 1
        found = level_maps(output)
        if found is None or found[0][0].dim() < 3:
            return None
        tensors, rebuilt = found
        tensor, module = tensors[0], unwrapped(module)
        known = numbers.get(id(tensor))
        if known is None or known[0]() is not tensor:
            numbers[id(tensor)] = known = ref(tensor), len(order)
        made = not any(leaf is tensor for leaf in tree_leaves((args, kwargs)))
        # In the model's own inference mode, tensors have no version counter.
        version = 0 if tensor.is_inference() else tensor._version
        origins = tuple((t.grad_fn, t.output_nr) for t in tensors if t.grad_fn is not None) if graph else ()
        value = known[1], version
        order.append(Seen(name, module, tuple(tensor.shape), value, made, calls[name] - 1, origins))
        replaced = None if watcher is None else watcher.leave(name, module, tensor)
        return None if replaced is None else rebuilt([replaced, *tensors[1:]])

    with ExitStack() as stack, torch.set_grad_enabled(graph):
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(partial(seen, name), with_kwargs=True).remove)
            if watcher is not None:
                stack.callback(module.register_forward_pre_hook(watcher.enter, with_kwargs=True).remove)
        output = forward()
    return order, output, calls


def _followed(node: Node) -> list[Origin]:
    name, edges = node.name(), node.next_functions
    if name.startswith("Bmm") or ("Attention" in name and name.endswith(tuple("0123456789"))):
        edges = edges[:1]
    elif name.startswith("Baddbmm"):
        edges = edges[:2]
    return [(before, place) for before, place in edges if before is not None]


def has_rows(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the last two axes are real rows and columns: 2-D layers may also receive tokens as ``[N, C, L, 1]``.

    Example:
        >>> has_rows(nn.Conv2d(8, 8, 1), (2, 8, 49, 1)), has_rows(nn.Conv2d(8, 8, (7, 1)), (2, 8, 1, 49))
        (False, True)
    """
    kernel = getattr(module, "kernel_size", 1)
    sides = kernel[-2:] if isinstance(kernel, tuple) else (kernel, kernel)
    # Patches as high as the image form a single row.
    return all(size > 1 or side > 1 for size, side in zip(shape[-2:], sides, strict=True))
