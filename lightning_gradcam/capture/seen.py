"""What a forward calls: every module's feature map, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_gradcam.capture.graph import Origin
from lightning_gradcam.capture.layers import unwrapped
from lightning_gradcam.capture.tensors import level_maps, main_tensor
from lightning_gradcam.capture.trail import Watcher


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of a module.

    Attributes:
        name: The module's.
        module: The module, without what ``torch.compile`` and others wrap around it.
        shape: The shape of the feature map in its output.
        value: Which tensor that was, and how many changes had been made to it; calls that gave the same share it.
        made: It was none of the module's own inputs.
        call: Which of the module's calls it was, counted from 0.
        origins: Of all feature maps in its output, in the graph; the first one's first. Empty where none is recorded.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    value: tuple[int, int]
    made: bool
    call: int
    origins: tuple[Origin, ...] = ()


def executed(
    layers: Mapping[str, nn.Module],
    forward: Callable[[], Any],
    *,
    graph: bool = False,
    watcher: Watcher | None = None,
) -> tuple[list[Seen], Any, dict[str, int]]:
    """Runs a forward, with a graph where that is asked for.

    Args:
        layers: Name to module.
        forward: Runs it once.
        graph: Record its graph.
        watcher: Notes the way of tokens through it, which takes a graph, too.

    Returns:
        Every call that gave a floating-point tensor of three axes or more, in order; the model's own output; and how
        often each layer was called.
    """
    graph = graph or watcher is not None
    calls: dict[str, int] = {}
    order: list[Seen] = []
    # Not held: the outputs of all layers together can be larger than the model.
    numbers: dict[int, tuple[ref[Tensor], int]] = {}

    def seen(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            call = calls.get(name, 0)
            calls[name] = call + 1
            found = main_tensor(output)
            if found is None or found[0].dim() < 3:
                return
            tensor = found[0]
            known = numbers.get(id(tensor))
            if known is None or known[0]() is not tensor:
                numbers[id(tensor)] = known = ref(tensor), len(order)
            made = not any(leaf is tensor for leaf in tree_leaves((args, kwargs)))
            # In the model's own inference mode nobody counts.
            version = 0 if tensor.is_inference() else tensor._version
            levels = level_maps(output) if graph else None
            origins = tuple((t.grad_fn, t.output_nr) for t in (levels[0] if levels else ()) if t.grad_fn is not None)
            shape = tuple(tensor.shape)
            order.append(Seen(name, unwrapped(module), shape, (known[1], version), made, call, origins))

        return hook

    with ExitStack() as stack, torch.set_grad_enabled(graph):
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(seen(name), with_kwargs=True).remove)
        if watcher is not None:
            for module in {id(module): module for module in layers.values()}.values():
                stack.callback(module.register_forward_pre_hook(watcher.enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(watcher.leave).remove)
        output = forward()
    return order, output, calls
