"""Works on the autograd graph: differentiates scores, and finds the tensors from which they were computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from lightning_gradcam.errors import CaptureError

Origin = tuple[Node, int]
"""The operation that computed a tensor, and the tensor's index among its results."""


def upstream(*scores: Tensor) -> set[Origin]:
    """Returns the origins of the scores and of all tensors they were computed from.

    Args:
        scores: Any shapes.
    """
    return _walked(origins_of(scores), set())


def nearest_first(tensors: Sequence[Tensor], sources: Iterable[Tensor | Origin]) -> list[Tensor]:
    """Returns the tensors computed from any of the sources, those with the fewest operations first.

    Args:
        tensors: Any shapes.
        sources: Tensors, or their positions in the graph.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = x * 2
        >>> [t.tolist() for t in nearest_first([y.exp().log(), x * 3, y + 1], [y])]
        [[3.0, 3.0], [2.0, 2.0]]
    """
    origins = {one for each in sources for one in (origins_of([each]) if isinstance(each, Tensor) else [each])}
    found = [(tensor, upstream(tensor)) for tensor in tensors]
    return [tensor for tensor, way in sorted(found, key=lambda pair: len(pair[1])) if way & origins]


class Paths:
    """The paths from a score back to layers.

    Args:
        scores: Any shapes, attached to the graph.
        origins: The origins of each layer's feature maps, by layer name. They keep the graph alive.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> left, right = x * 2, x * 3
        >>> origins = {name: {(t.grad_fn, 0)} for name, t in {"left": left, "right": right}.items()}
        >>> paths = Paths([torch.cat([left, right]).sum()], origins)
        >>> paths.leading, paths.beside("left"), Paths([left.sum()], origins).leading
        (['left', 'right'], 'right', ['left'])
    """

    def __init__(self, scores: Sequence[Tensor], origins: Mapping[str, set[Origin]]) -> None:
        self._scores = origins_of(scores)
        self._origins = origins
        bits = {origin: bit for bit, origin in enumerate(set().union(*origins.values()))}
        ways = dict[Node, int]()

        def before(starts: Iterable[Origin]) -> int:
            found = 0
            for origin in starts:
                found |= way(origin[0], ways, bits, _followed) | (1 << bits[origin] if origin in bits else 0)
            return found

        self._own = {name: sum(1 << bits[origin] for origin in own) for name, own in origins.items()}
        self._before = {name: before(own) for name, own in origins.items()}
        found = before(self._scores)
        self.leading = [name for name, own in self._own.items() if own & found]
        """The layers whose feature maps feed the score, in order."""

    def beside(self, name: str) -> str | None:
        """Returns a layer neither before nor after layer ``name``, on a path to the score that bypasses ``name``."""
        own, before = self._own[name], self._before[name]
        apart = [n for n in self.leading if not self._own[n] & before and not own & self._before[n]]
        past = _walked(self._scores, self._origins[name]) if apart else set()
        return next((other for other in apart if self._origins[other] & past), None)


def way(
    start: Node, ways: dict[Node, int], bits: Mapping[Origin, int], followed: Callable[[Node], Iterable[Origin]]
) -> int:
    """Returns a bit mask of the tensors that feed a node's results.

    Args:
        start: The node.
        ways: Bit masks of other nodes; results are added to it.
        bits: Bit positions by tensor origin.
        followed: Maps a node to the origins of its inputs.
    """
    stack = [start]
    while stack:
        node = stack[-1]
        if node in ways:
            stack.pop()
            continue
        edges = list(followed(node))
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


def _followed(node: Node) -> Iterator[Origin]:
    return ((before, place) for before, place in node.next_functions if before is not None)


def origins_of(tensors: Iterable[Tensor]) -> list[Origin]:
    """Returns the graph positions of tensors; those without a graph are omitted."""
    edges = [get_gradient_edge(tensor) for tensor in tensors if tensor.requires_grad]
    return [(edge.node, edge.output_nr) for edge in edges]


def _walked(starts: Iterable[Origin], blocked: set[Origin]) -> set[Origin]:
    """Returns all origins reachable backwards from ``starts``, including those; the walk stops at ``blocked`` ones."""
    found: set[Origin] = set()
    walked: set[Node] = set()
    open_ends = list(starts)
    while open_ends:
        origin = open_ends.pop()
        found.add(origin)
        node = origin[0]
        if node not in walked and origin not in blocked:
            walked.add(node)
            open_ends.extend(_followed(node))
    return found


# Gradients at the last layers can be as small as 1e-6, which float16 flushes to zero; the factor is divided out again.
_HALF_SCALE = 1024.0


def differentiate(
    scores: Tensor, tensors: Sequence[Tensor], *, retain_graph: bool = False, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Differentiates the sum of ``scores``.

    Args:
        scores: Any shape.
        tensors: The tensors with respect to which to differentiate.
        retain_graph: Whether to keep the graph for another call.
        create_graph: Whether to make the gradients themselves differentiable.

    Returns:
        The gradients, in float32 for float16 tensors; ``None`` for a tensor on which the scores do not depend.

    Raises:
        CaptureError: The model uses reentrant activation checkpointing, which only works with ``backward()``.
    """
    reached = [tensor for tensor in tensors if tensor.requires_grad]
    if not scores.requires_grad or not reached:
        return (None,) * len(tensors)
    half = any(tensor.dtype == torch.float16 for tensor in reached)
    take = partial(_gradients, scores, reached, retain_graph=retain_graph or half, create_graph=create_graph)
    scale = _HALF_SCALE if half else 1.0
    found = take(scale)
    # If that overflows float16, try smaller factors; what then underflows is negligible.
    while half and scale > 1 / _HALF_SCALE and not all(g is None or bool(g.isfinite().all()) for g in found):
        scale /= _HALF_SCALE
        pairs = zip(found, take(scale), strict=True)
        found = [a if a is None or b is None else torch.where(a.isfinite(), a, b) for a, b in pairs]
    place = iter(found)
    return tuple(next(place) if tensor.requires_grad else None for tensor in tensors)


def _gradients(
    scores: Tensor, tensors: list[Tensor], scale: float, *, retain_graph: bool, create_graph: bool
) -> Sequence[Tensor | None]:
    total = scores.sum() if scale == 1.0 else scores.float().sum() * scale
    try:
        kept = retain_graph or create_graph
        found = torch.autograd.grad(total, tensors, allow_unused=True, retain_graph=kept, create_graph=create_graph)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise CaptureError(
            "layers: the model calls torch.utils.checkpoint.checkpoint with use_reentrant=True, so gradients can't be "
            "computed without changing the parameters' .grad; pass use_reentrant=False in the model, or choose a later "
            "layer"
        ) from error
    if scale == 1.0:
        return found
    return [None if g is None else (g.float() if g.dtype == torch.float16 else g) / scale for g in found]


def require_gradients(gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Returns ``gradients`` if every layer has one.

    Raises:
        CaptureError: A layer has none; the message explains the reason and names alternatives.
    """
    for name, gradient in gradients.items():
        if gradient is None:
            raise CaptureError(
                f"layers: no gradient reaches {name!r}: the score does not depend on its output through the graph (a "
                "layer inside the model's own torch.no_grad() or torch.inference_mode(), before a detach(), inside a "
                "reentrant activation checkpoint, or on a branch that the explained output does not use); choose a "
                "layer that the score depends on"
            )
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}
