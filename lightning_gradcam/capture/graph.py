"""The way from a score back through the graph, without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_gradcam.capture.tensors import main_tensor

Origin = tuple[Node, int]
"""The operation that made a tensor, and which of its results that is."""


@contextmanager
def traced(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Origin | None]]:
    """Watches where the layers' outputs stand in the graph of one forward.

    Args:
        layers: Name to module.

    Yields:
        A dict that the forward fills: layer name to the origin of its last call's feature map; ``None`` where no graph
        is recorded. It keeps the graph alive and is emptied in the end.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> with traced({"0": model[0], "1": model[1]}) as origins:
        ...     found = upstream(model[0](torch.rand(1, 2)).sum() + 0 * model[1](torch.rand(1, 2)).detach().sum())
        ...     [name for name, origin in origins.items() if origin in found]
        ['0']
    """
    origins: dict[str, Origin | None] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            found = main_tensor(output)
            if found is None:
                return None
            tensor, rebuilt = found
            replaced = None
            if tensor.grad_fn is None and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
                # Nothing that learns has come before.
                tensor = (tensor if tensor.requires_grad else tensor.detach().requires_grad_()).clone()
                replaced = rebuilt(tensor)
            origins[name] = None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)
            return replaced

        return hook

    with ExitStack() as stack:
        stack.callback(origins.clear)
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(keep(name)).remove)
        yield origins


def upstream(score: Tensor) -> set[Origin]:
    """Returns the origins of all tensors that a score was computed from, its own among them.

    Args:
        score: Any shape.
    """
    return _walked([] if score.grad_fn is None else [(score.grad_fn, score.output_nr)], set())


class Paths:
    """The ways from a score back to layers.

    Args:
        score: Any shape, attached to the graph.
        origins: Layer name to the origins of its feature maps; the paths keep the graph alive.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> left, right = x * 2, x * 3
        >>> origins = {name: {(t.grad_fn, 0)} for name, t in {"left": left, "right": right}.items()}
        >>> paths = Paths(torch.cat([left, right]).sum(), origins)
        >>> paths.leading, paths.beside("left"), Paths(left.sum(), origins).leading
        (['left', 'right'], 'right', ['left'])
    """

    def __init__(self, score: Tensor, origins: Mapping[str, set[Origin]]) -> None:
        self._score: list[Origin] = [] if score.grad_fn is None else [(score.grad_fn, score.output_nr)]
        self._origins = origins
        found = _walked(self._score, set())
        self.leading = [name for name, own in origins.items() if own & found]
        """The layers whose feature maps lead to the score, in their order."""

    def beside(self, name: str) -> str | None:
        """Returns a layer by which the score is reached past another, and that neither precedes nor follows it."""
        own = self._origins[name]
        before = _walked(own, set())
        past = _walked(self._score, own) - before - own
        possible = (other for other in self.leading if self._origins[other] & past)
        apart = (other for other in possible if not self._origins[other] & (before | own))
        return next((other for other in apart if not own & _walked(self._origins[other], set())), None)


def _walked(starts: Iterable[Origin], blocked: set[Origin]) -> set[Origin]:
    """Returns all origins from ``starts`` backwards, those included; from ``blocked`` ones it goes no further."""
    found: set[Origin] = set()
    walked: set[Node] = set()
    open_ends = list(starts)
    while open_ends:
        origin = open_ends.pop()
        found.add(origin)
        node = origin[0]
        if node not in walked and origin not in blocked:
            walked.add(node)
            open_ends.extend((before, place) for before, place in node.next_functions if before is not None)
    return found
