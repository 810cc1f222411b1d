"""Which places of the picture a layer's tokens come from: measured where tokens begin, and followed from there on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lightning_gradcam.capture.graph import Origin
from lightning_gradcam.capture.layers import is_channels_first
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.trail import Trail, Watched, has_rows

# How much stronger a place's influence on its own token must be than that on half of all others together.
_DOMINANT = 3.0
# A place with this part of the largest influence feeds no token: one that a stride passes over.
_LEAST = 1e-4
# How many of the places may show no clear token.
_UNCLEAR = 0.02


@dataclass(frozen=True, eq=False)
class Source:
    """A tensor whose places are known.

    Attributes:
        origin: Where it stands in the graph.
        read: From a gradient of its shape to the size at each place, ``[N, *places]``.
        places: Their shape.
        kept: How many of the last axes belong to any grid; one before them only where tokens differ along it.
        layout: Of tokens, their layout.
    """

    origin: Origin
    read: Callable[[Tensor], Tensor]
    places: tuple[int, ...]
    kept: int
    layout: Layout | None = None


def token_layouts(trail: Trail, samples: int) -> dict[str, Layout | None]:
    """Finds the grids of all layers that give tokens.

    The places of the picture, and of a convolution's output, are known. Where tokens begin, a few short backwards show
    which place feeds which token; all tokens that come from these, and are as many, have their grid.

    Args:
        trail: What the forward went through.
        samples: How many samples it was given.

    Returns:
        Layer name to layout; ``None`` where the graph shows no grid. A layer without a graph is left out.
    """
    found: dict[int, Source | None] = {}
    for at, watched in enumerate(trail.watched):
        before = {place: source for place in trail.before(at) if (source := found[place]) is not None}
        if watched.picture:
            found[at] = _of_picture(watched, samples)
        elif watched.tensor.dim() > 3:
            found[at] = _of_map(watched, list(before.values()), samples)
        else:
            found[at] = _of_tokens(watched, before, trail, samples)
    of_tokens = {name: found[at] for name, at in trail.layers.items() if trail.watched[at].tensor.dim() == 3}
    return {name: None if source is None else source.layout for name, source in of_tokens.items()}


def _of_picture(watched: Watched, samples: int) -> Source | None:
    shape = tuple(watched.tensor.shape)
    if len(shape) not in (4, 5) or shape[0] != samples:
        return None
    if shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        return Source(watched.origin, lambda gradient: gradient.abs().sum(-1), shape[1:-1], 2)
    if len(shape) == 4:
        return Source(watched.origin, lambda gradient: gradient.abs().sum(1), shape[2:], 2)
    # Frames may come before or after the channels: tokens differ along one of these axes, or along neither.
    return Source(watched.origin, lambda gradient: gradient.abs(), shape[1:], 2)


def _of_map(watched: Watched, known: Sequence[Source], samples: int) -> Source | None:
    shape = tuple(watched.tensor.shape)
    rows, left = divmod(shape[0], samples)
    if left or not rows or len(shape) > 5:
        return None
    # Frames, or heads, that are folded into the batch.
    folded = (rows,) if rows > 1 else ()
    module = watched.module
    first = module is not None and is_channels_first(module, shape) and has_rows(module, shape)
    first = first or any(source.places == (*folded, *shape[2:]) for source in known)
    if not first and not any(source.places == (*folded, *shape[1:-1]) for source in known):
        return None
    places = shape[2:] if first else shape[1:-1]

    def read(gradient: Tensor) -> Tensor:
        return gradient.abs().sum(1 if first else -1).reshape(samples, *folded, *places)

    return Source(watched.origin, read, (*folded, *places), len(places)) if prod(places) > 1 else None


def _of_tokens(watched: Watched, before: dict[int, Source], trail: Trail, samples: int) -> Source | None:
    shape = tuple(watched.tensor.shape)
    possible = [axes for axes in ("NLC", "LNC") if shape[axes.index("N")] == samples]
    if not before or not possible:
        return None
    known = list(before.values())
    if len(possible) > 1:
        possible = [axes for axes in possible if _keeps_samples(watched.tensor, axes, known[0])]
    for axes in possible:
        length = shape[axes.index("L")]
        same = (source.layout for source in known if source.layout is not None and source.layout.tokens == length)
        # As many channels as tokens could be tokens that were transposed.
        layout = None if shape[1] == shape[2] else next(same, None)
        layout = _measured(watched.tensor, axes, before, trail) if layout is None else replace(layout, axes=axes)
        if layout is not None:
            return Source(watched.origin, _reader(layout), layout.grid, len(layout.grid), layout)
    return None


def _reader(layout: Layout) -> Callable[[Tensor], Tensor]:
    return lambda gradient: layout.feature_map(gradient).abs().sum(1)


def _keeps_samples(tensor: Tensor, axes: str, source: Source) -> bool:
    """Whether the first sample, were the axes these, comes from the first sample alone."""
    rows = _influence(tensor, axes, source.origin, torch.ones(tensor.shape[axes.index("L")], dtype=torch.bool))
    return rows is not None and bool(rows[0].any()) and not bool(rows[1:].any())


def _influence(tensor: Tensor, axes: str, origin: Origin, chosen: Tensor) -> Tensor | None:
    """Returns the gradient of some of the first sample's tokens at a source; ``None`` where none leads there."""
    shape = [tensor.shape[axes.index(letter)] for letter in "LC"]
    # Weights of both signs: a norm's outputs have a constant sum.
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * chosen[:, None]
    slopes = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    (slopes if axes == "NLC" else slopes.transpose(0, 1))[0] = weights.to(slopes)
    edges = [GradientEdge(*origin)]
    # What was changed in place, or has no backward, shows nothing.
    with suppress(RuntimeError):
        (found,) = torch.autograd.grad(tensor, edges, slopes, retain_graph=True, allow_unused=True)
        return None if found is None else found.detach()
    return None


def _measured(tensor: Tensor, axes: str, before: dict[int, Source], trail: Trail) -> Layout | None:
    """Finds the grid by the token that each place of the nearest source feeds: the digits of its number, bit by bit."""
    length = tensor.shape[axes.index("L")]
    nearest, source = next(iter(before.items()))
    numbers = torch.arange(length)
    token, clear = torch.zeros((), dtype=torch.long), torch.ones((), dtype=torch.bool)
    for bit in range(max((length - 1).bit_length(), 1)):
        sizes = []
        for half in (0, 1):
            gradient = _influence(tensor, axes, source.origin, (numbers >> bit & 1) == half)
            if gradient is None:
                return None
            influence = source.read(gradient).float()
            if bool(influence[1:].any()):
                return None
            sizes.append(influence[0])
        total = sizes[0] + sizes[1]
        here = total > _LEAST * total.max()
        unclear = here & (torch.maximum(*sizes) < _DOMINANT * torch.minimum(*sizes))
        if not bool(here.any()) or int(unclear.sum()) > _UNCLEAR * int(here.sum()):
            return None
        token = token.to(total.device) + (sizes[1] > sizes[0]).long() * 2**bit
        clear = clear.to(total.device) & here & ~unclear
    layout = _grid(token.cpu(), clear.cpu(), length, axes, source.kept)
    if layout is None or layout.tokens == prod(layout.grid):
        return layout
    return None if _has_others(tensor, layout, [before[p] for p in _beside(nearest, before, trail)]) else layout


def _grid(token: Tensor, clear: Tensor, length: int, axes: str, kept: int) -> Layout | None:
    """From the token of each place to the grid, if the tokens stand in its order."""
    where = clear.nonzero()
    tokens = token[clear]
    used = torch.unique(tokens)
    if not len(used) or int(used[-1]) >= length:
        return None
    sizes, order = [], torch.zeros(len(used), dtype=torch.long)
    for axis in range(token.dim()):
        first = torch.full((length,), token.shape[axis]).scatter_reduce(0, tokens, where[:, axis], "amin")[used]
        steps = torch.unique(first)
        if axis >= token.dim() - kept or len(steps) > 1:
            sizes.append(len(steps))
        order = order * len(steps) + torch.searchsorted(steps, first)
    if len(sizes) > 3 or prod(sizes) != len(used) or not torch.equal(order, torch.arange(len(used))):
        return None
    # Frames alone, or a single place, are no picture.
    if prod(sizes[-2:]) == 1:
        return None
    gaps = (used.diff() > 1).nonzero().flatten().tolist()
    before, after = int(used[0]), length - 1 - int(used[-1])
    if not gaps:
        return Layout(axes, tuple(sizes), before, after)
    inside = length - before - after - len(used)
    return Layout(axes, tuple(sizes), before, inside, gaps[0] + 1) if len(gaps) == 1 and not after else None


def _beside(nearest: int, before: dict[int, Source], trail: Trail) -> list[int]:
    """The sources that lead to the tokens by another way than through the nearest."""
    through = {nearest, *trail.before(nearest)}
    return [place for place in before if place not in through]


def _has_others(tensor: Tensor, layout: Layout, others: Sequence[Source]) -> bool:
    """Whether the tokens outside the grid come from another level, or another picture."""
    chosen = torch.ones(layout.tokens, dtype=torch.bool)
    chosen[layout.order()] = False
    found = (_influence(tensor, layout.axes, source.origin, chosen) for source in others)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)
