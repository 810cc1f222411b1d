"""Finds which part of the image each token comes from: measured where tokens are created, then traced onwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lightning_gradcam.capture.graph import Origin
from lightning_gradcam.capture.layers import is_channels_first
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.trail import Trail, Watched, has_rows

# How many times a position's influence on its own token must exceed its influence on half of the others together.
_DOMINANT = 3.0
# A position with less than this fraction of the largest influence feeds no token: a stride skips it.
_LEAST = 1e-4
# Fraction of positions that may have no clear token.
_UNCLEAR = 0.02


@dataclass(frozen=True, eq=False)
class Order:
    """The token at each position of a grid.

    Attributes:
        grid: The grid's shape.
        tokens: The token at each position, row by row.
        length: Total number of tokens.
    """

    grid: tuple[int, ...]
    tokens: Tensor
    length: int

    def layout(self, axes: str) -> Layout | None:
        """Returns the layout if the tokens are in the grid's order, with at most one group of others between them."""
        steps = self.tokens.diff()
        gaps = (steps > 1).nonzero().flatten().tolist()
        before, after = int(self.tokens[0]), self.length - 1 - int(self.tokens[-1])
        if bool((steps < 1).any()) or len(gaps) > 1 or (gaps and after):
            return None
        if not gaps:
            return Layout(axes, self.grid, before, after)
        return Layout(axes, self.grid, before, self.length - before - len(self.tokens), gaps[0] + 1)


@dataclass(frozen=True, eq=False)
class Source:
    """A tensor with known positions.

    Attributes:
        origin: Its position in the graph.
        read: Maps a gradient of its shape to the magnitude at each position, ``[N, *places]``.
        places: The shape of its grid.
        kept: Number of trailing axes that belong to every grid; an earlier axis belongs to it only if tokens differ
            along it.
        order: For tokens, the token at each position.
        axes: For tokens, their axes.
    """

    origin: Origin
    read: Callable[[Tensor], Tensor]
    places: tuple[int, ...]
    kept: int
    order: Order | None = None
    axes: str = ""


def token_layouts(trail: Trail, samples: int) -> dict[str, Layout | None]:
    """Finds the grids of all layers that output tokens.

    The positions of the image and of a convolution's output are known. Where tokens are created, a few short backward
    passes show which position feeds which token. All later tokens that derive from these share their grid if they are
    equal in number.

    Args:
        trail: The trace of the forward pass.
        samples: Number of samples in the forward pass.

    Returns:
        Layouts by layer name; ``None`` if the graph shows no grid, or if the tokens are in a different order. Layers
        without a graph are omitted.
    """
    found: list[Source | None] = []
    for at, watched in enumerate(trail.watched):
        way = trail.before(at)
        before = {place: source for place in way if (source := found[place]) is not None}
        if watched.picture:
            source = _of_picture(watched, samples)
        elif watched.tensor is None:
            source = _of_map(watched, list(before.values()), samples)
        elif _failed(watched, way, before, trail):
            source = None
        else:
            source = _of_tokens(watched, before, trail, samples)
        found.append(source)
    of_tokens = {name: found[at] for name, at in trail.layers.items() if trail.watched[at].tensor is not None}
    return {
        name: None if source is None or source.order is None else source.order.layout(source.axes)
        for name, source in of_tokens.items()
    }


def _failed(watched: Watched, way: Sequence[int], before: dict[int, Source], trail: Trail) -> bool:
    """Whether measuring failed for earlier tokens from which these derive, and nothing is known about later ones."""
    shape = watched.shape
    unknown = (place for place in way if place not in before and trail.watched[place].shape == shape)
    return next(unknown, -1) > next(iter(before), -1) and shape[1] != shape[2]


def _of_picture(watched: Watched, samples: int) -> Source | None:
    shape = watched.shape
    if len(shape) not in (4, 5) or shape[0] != samples:
        return None
    last = shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    if last or len(shape) == 4:
        places = shape[1:-1] if last else shape[2:]
        return Source(watched.origin, lambda gradient: gradient.abs().sum(-1 if last else 1), places, 2)
    # Frames may come before or after the channels: tokens differ along one of these axes or along neither.
    return Source(watched.origin, lambda gradient: gradient.abs(), shape[1:], 2)


def _of_map(watched: Watched, known: Sequence[Source], samples: int) -> Source | None:
    shape = watched.shape
    rows, left = divmod(shape[0], samples)
    if left or not rows or len(shape) > 5:
        return None
    # Frames or heads folded into the batch.
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
    tensor, shape = watched.tensor, watched.shape
    assert tensor is not None
    possible = [axes for axes in ("NLC", "LNC") if shape[axes.index("N")] == samples]
    if not before or not possible:
        return None
    known = list(before.values())
    if len(possible) > 1:
        possible = [axes for axes in possible if _keeps_samples(tensor, axes, known[0])]
    for axes in possible:
        length = shape[axes.index("L")]
        orders = (source.order for source in known if source.order is not None and source.order.length == length)
        # If channels and tokens are equal in number, the tokens could be transposed.
        order = None if shape[1] == shape[2] else next(orders, None)
        # torch's own layers preserve the order of their tokens.
        kept = type(watched.module).__module__.startswith("torch.nn.")
        if order is None or (not kept and _moved(tensor, axes, known[0], order)):
            order = _measured(tensor, axes, before, trail) or _of_patches(tensor, axes, before, trail)
        if order is not None:
            read = partial(_size_at_places, order, axes)
            return Source(watched.origin, read, order.grid, len(order.grid), order, axes)
    return None


def _size_at_places(order: Order, axes: str, gradient: Tensor) -> Tensor:
    sizes = gradient.abs().sum(2)
    sizes = sizes if axes == "NLC" else sizes.T
    return sizes[:, order.tokens.to(sizes.device)].reshape(len(sizes), *order.grid)


def _moved(tensor: Tensor, axes: str, source: Source, order: Order) -> bool:
    """Whether one of the tokens clearly comes from a position other than its own."""
    if source.order is None or source.order.length != order.length:
        return False
    place = len(order.tokens) * 3 // 8
    chosen = torch.zeros(order.length, dtype=torch.bool, device="cpu")
    chosen[order.tokens[place]] = True
    gradient = _influence(tensor, axes, source.origin, chosen)
    if gradient is None:
        return False
    sizes = source.read(gradient)[0].float().flatten()
    nearest = int(sizes.argmax())
    return nearest != place and bool(sizes[nearest] > _DOMINANT * (sizes.sum() - sizes[nearest]))


def _keeps_samples(tensor: Tensor, axes: str, source: Source) -> bool:
    """Whether, with these axes, the first sample depends only on the first input sample."""
    rows = _influence(
        tensor, axes, source.origin, torch.ones(tensor.shape[axes.index("L")], dtype=torch.bool, device="cpu")
    )
    return rows is not None and bool(rows[0].any()) and not bool(rows[1:].any())


def _influence(tensor: Tensor, axes: str, origin: Origin, chosen: Tensor) -> Tensor | None:
    """Returns the gradient of some of the first sample's tokens at a source; ``None`` if none depends on it."""
    return _influences(tensor, axes, [origin], chosen)[0]


def _influences(tensor: Tensor, axes: str, origins: Sequence[Origin], chosen: Tensor) -> list[Tensor | None]:
    channels = tensor.shape[2]
    # Weights of both signs, equal for each token, because a norm's outputs have a constant sum.
    weights = torch.randn(channels, generator=torch.Generator().manual_seed(0), device="cpu").to(tensor)
    slopes = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    (slopes if axes == "NLC" else slopes.transpose(0, 1))[0] = chosen.to(slopes)[:, None] * weights
    edges = [GradientEdge(*origin) for origin in origins]
    # A tensor that was changed in place or can't be differentiated reveals nothing.
    with suppress(RuntimeError):
        found = torch.autograd.grad(tensor, edges, slopes, retain_graph=True, allow_unused=True)
        return [None if gradient is None else gradient.detach() for gradient in found]
    return [None] * len(origins)


def _of_patches(tensor: Tensor, axes: str, before: dict[int, Source], trail: Trail) -> Order | None:
    """Finds the grid of tokens that each come from one row of the batch: patches cut out of an image."""
    nearest = next(iter(before.values()))
    if nearest.order is not None or len(nearest.places) <= nearest.kept:
        return None
    pictures = {place: source for place, source in before.items() if trail.watched[place].picture}
    return _measured(tensor, axes, pictures, trail) if pictures else None


def _measured(tensor: Tensor, axes: str, before: dict[int, Source], trail: Trail) -> Order | None:
    """Finds the grid from the token that each position of the nearest source feeds, reading its number bit by bit."""
    length = tensor.shape[axes.index("L")]
    nearest, source = next(iter(before.items()))
    numbers = torch.arange(length, device="cpu")
    token, clear = torch.zeros((), dtype=torch.long, device="cpu"), torch.ones((), dtype=torch.bool, device="cpu")
    whole = _influence(tensor, axes, source.origin, torch.ones(length, dtype=torch.bool, device="cpu"))
    for bit in range(max((length - 1).bit_length(), 1)):
        half = _influence(tensor, axes, source.origin, (numbers >> bit & 1) == 1)
        if whole is None or half is None:
            return None
        # A gradient is linear in its starting vector.
        sizes = [source.read(part).float() for part in (whole - half, half)]
        if any(bool(size[1:].any()) for size in sizes):
            return None
        sizes = [size[0] for size in sizes]
        total = sizes[0] + sizes[1]
        here = total > _LEAST * total.max()
        unclear = here & (torch.maximum(*sizes) < _DOMINANT * torch.minimum(*sizes))
        if not bool(here.any()) or int(unclear.sum()) > _UNCLEAR * int(here.sum()):
            return None
        token = token.to(total.device) + (sizes[1] > sizes[0]).long() * 2**bit
        clear = clear.to(total.device) & here & ~unclear
    order = _order(token.cpu(), clear.cpu(), length, source.kept)
    if order is None or length == prod(order.grid):
        return order
    return None if _has_others(tensor, axes, order, nearest, before, trail) else order


def _order(token: Tensor, clear: Tensor, length: int, kept: int) -> Order | None:
    """Derives the grid from the token of each position; each token covers a block of positions."""
    where, tokens = clear.nonzero(), token[clear]
    used = torch.unique(tokens)
    if not len(used) or int(used[-1]) >= length:
        return None
    sizes, place = [], torch.zeros(len(used), dtype=torch.long, device="cpu")
    for axis in range(token.dim()):
        first = torch.full((length,), token.shape[axis], device="cpu").scatter_reduce(
            0, tokens, where[:, axis], "amin"
        )[used]
        steps = torch.unique(first)
        if axis >= token.dim() - kept or len(steps) > 1:
            sizes.append(len(steps))
        place = place * len(steps) + torch.searchsorted(steps, first)
    # Frames alone or a single position do not make an image.
    if len(sizes) > 3 or prod(sizes) != len(used) or prod(sizes[-2:]) == 1:
        return None
    in_order = place.argsort()
    return Order(tuple(sizes), used[in_order], length) if len(torch.unique(place)) == len(place) else None


def _has_others(tensor: Tensor, axes: str, order: Order, nearest: int, before: dict[int, Source], trail: Trail) -> bool:
    """Whether the tokens outside the grid come from another level or another image."""
    chosen = torch.ones(order.length, dtype=torch.bool, device="cpu")
    chosen[order.tokens] = False

    gradients = _influences(tensor, axes, [source.origin for source in before.values()], chosen)
    reached = {p for p, g in zip(before, gradients, strict=True) if g is not None and bool(g.any())}
    # A class token that is the grid's mean depends on all sources of the grid.
    return bool(reached - {nearest, *trail.before(nearest)} if nearest in reached else reached)
