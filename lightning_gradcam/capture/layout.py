"""What the axes of an activation mean: from any layer's output to a feature map ``[N, C, *S]`` and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import torch
from torch import Tensor

from lightning_gradcam.errors import LayerError

# Beside a grid that the forward went through: a class token, one more with distillation, registers, some room.
_MOST_PREFIX_TOKENS = 16
# Beside a grid that the number of tokens alone shows: with and without a class token, 0, 1 (distillation), 4 or 8.
_PREFIXES = (0, 1, 2, 4, 5, 8)
_SPEC = re.compile(
    r"(\([NT]{2}\)[CHWL]{2,3}|[NCDHWL]{3,5})"
    r"(?::(?:(\d+)\+)?(\d+(?:x\d+)+|(?<=NCL:)\d+)(?:\+(\d+)(?:@(\d+))?)?)?"
)
_AXES = ("NCHW", "NHWC", "NCDHW", "NDHWC", "NLC", "LNC", "NCL")
# Rows of the batch are frames: of one sample after the other, or all first frames first.
_FOLDED = tuple(f"({order}){axes}" for order in ("NT", "TN") for axes in ("CHW", "HWC", "LC"))
_CHOICES = (
    f"one of {', '.join(repr(axes) for axes in _AXES)}, tokens with their grid ('NLC:14x14', 'NLC:1+14x14' with one"
    " token before it, 'NLC:14x14+4' with four behind it), frames folded into the batch ('(NT)CHW', or '(TN)CHW' where"
    " the first frames of all samples come first), or a mapping from layer names to these"
)


@dataclass(frozen=True)
class Layout:
    """The meaning of an activation's axes.

    Attributes:
        axes: A letter an axis: ``N`` samples, ``C`` channels, ``D``, ``H``, ``W`` places, ``L`` tokens.
        grid: The spatial shape ``(h, w)`` or ``(d, h, w)``; of clips, ``d`` counts time steps; ``(l,)`` of a signal;
            ``(t, h, w)`` of folded frames.
        prefix: Number of tokens before the grid's (class and register tokens); maps leave them out.
        suffix: Number of tokens behind the grid's, or between them; maps leave them out.
        split: Number of the grid's tokens before the suffix; ``None``: all of them.
        fold: Where ``N`` counts frames: ``"NT"``, those of a sample after each other, or ``"TN"``, the first frames of
            all samples first; ``""`` where it counts samples.

    Example:
        >>> import torch
        >>> Layout("NLC", (14, 14), prefix=1).feature_map(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
        >>> str(Layout("NLC", (14, 14), prefix=1))
        'NLC:1+14x14'
        >>> str(Layout("NLC", (14, 14), suffix=4)), str(Layout("NLC", (14, 14), suffix=1, split=98))
        ('NLC:14x14+4', 'NLC:14x14+1@98')
    """

    axes: str
    grid: tuple[int, ...]
    prefix: int = 0
    suffix: int = 0
    split: int | None = None
    fold: str = ""

    def __str__(self) -> str:
        axes = f"({self.fold}){self.axes[1:]}" if self.fold else self.axes
        if "L" not in self.axes:
            return axes
        shape = "x".join(map(str, self._places))
        behind = f"+{self.suffix}{'' if self.split is None else f'@{self.split}'}" if self.suffix else ""
        return f"{axes}:{f'{self.prefix}+' if self.prefix else ''}{shape}{behind}"

    @property
    def extra(self) -> int:
        """Number of tokens that are no place of the grid."""
        return self.prefix + self.suffix

    @property
    def tokens(self) -> int:
        """Number of all tokens, of each picture."""
        return self.prefix + prod(self._places) + self.suffix

    def of_grid(self, tokens: Tensor) -> Tensor:
        """Arranges the grid's tokens of ``[A, B, L]`` as ``[A, B, *S]``, without the others."""
        end = self.prefix + prod(self._places)
        if self.split is None:
            inner = tokens[:, :, self.prefix : end]
        else:
            first = self.prefix + self.split
            inner = torch.cat([tokens[:, :, self.prefix : first], tokens[:, :, first + self.suffix :]], 2)
        return inner.reshape(*tokens.shape[:2], *self._places)

    def order(self) -> Tensor:
        """Returns the place of each of the grid's tokens among all, ``[L]``."""
        return self.of_grid(torch.arange(self.tokens)[None, None]).flatten()

    def feature_map(self, values: Tensor) -> Tensor:
        """Returns an activation, or a gradient of its shape, as ``[N, C, *S]``, with the grid's tokens alone."""
        return self.of_rows(self.rows(values))

    def rows(self, values: Tensor) -> Tensor:
        """Returns the same with a row for each picture: :meth:`feature_map`, or ``[N * T, C, h, w]`` of frames."""
        moved = values.permute(*self._order())
        return self.of_grid(moved) if "L" in self.axes else moved

    def of_rows(self, rows: Tensor) -> Tensor:
        """Returns what :meth:`rows` has made as :meth:`feature_map` makes it."""
        return self.unfolded(rows).transpose(1, 2) if self.fold else rows

    def unfolded(self, rows: Tensor) -> Tensor:
        """Returns what there is of each row as ``[N, T, …]``, where rows are frames; else as it is."""
        frames, rest = self.grid[0], rows.shape[1:]
        if self.fold == "TN":
            return rows.reshape(frames, -1, *rest).transpose(0, 1)
        return rows.reshape(-1, frames, *rest) if self.fold else rows

    def restored(self, feature_map: Tensor, like: Tensor) -> Tensor:
        """Returns a feature map in the layer's own layout; tokens outside the grid are those of ``like``."""
        moved = feature_map
        if self.fold:
            moved = moved.transpose(1, 2)
            moved = (moved.transpose(0, 1) if self.fold == "TN" else moved).flatten(0, 1)
        if "L" in self.axes:
            whole, places = like.permute(*self._order()), moved.flatten(2)
            moved = places
            if self.extra:
                moved = places.new_empty(*places.shape[:2], whole.shape[2]).copy_(whole)
                moved[:, :, self.order().to(moved.device)] = places
        order = self._order()
        return moved.permute(*[order.index(axis) for axis in range(len(order))])

    @property
    def _places(self) -> tuple[int, ...]:
        return self.grid[1:] if self.fold else self.grid

    def _order(self) -> list[int]:
        canonical = "NC" + "".join(letter for letter in "DHWL" if letter in self.axes)
        return [self.axes.index(letter) for letter in canonical]


def parse_layouts(layout: str | Mapping[str, str] | None) -> dict[str, str]:
    """Checks what the user says of layouts.

    Args:
        layout: For all layers, by layer name, or ``None``.

    Returns:
        Layer name to layout; the name ``""`` stands for all layers.

    Raises:
        LayerError: A layout is none of those that exist.
    """
    named = dict(layout) if isinstance(layout, Mapping) else {} if layout is None else {"": layout}
    for spec in named.values():
        match = _SPEC.fullmatch(spec) if isinstance(spec, str) else None
        known = match is not None and match[1] in (*_AXES, *_FOLDED)
        if match is None or not known or (match[3] and "L" not in match[1]) or not _splits(match):
            raise LayerError(f"layout: got {spec!r}; give {_CHOICES}")
    return named


def _splits(match: re.Match[str]) -> bool:
    """Whether tokens between the grid's stand between these."""
    return match[5] is None or (int(match[4]) > 0 and 0 < int(match[5]) < prod(map(int, match[3].split("x"))))


def input_size(inputs: Tensor | None) -> tuple[int, ...] | None:
    """Returns the spatial shape of a model's input: ``(H, W)``, ``(T, H, W)``, or ``None`` where it is no picture."""
    if inputs is None or not 3 <= inputs.dim() <= 5:
        return None
    shape = tuple(inputs.shape)
    if len(shape) == 3:
        return shape[1:]
    return shape[1:-1] if ends_in_channels(shape) else shape[2:]


def ends_in_channels(shape: Sequence[int]) -> bool:
    """Whether pictures, clips or volumes of this shape have their 1, 3 or 4 channels behind their places.

    Example:
        >>> ends_in_channels((8, 16, 16, 3)), ends_in_channels((8, 12, 3, 3)), ends_in_channels((8, 3, 16, 3))
        (True, False, False)
    """
    few = (1, 3, 4)
    return len(shape) > 3 and shape[-1] in few and shape[1] not in few and min(shape[-3:-1]) > shape[-1]


def find_layout(
    name: str,
    shape: Sequence[int],
    *,
    samples: int,
    picture: Sequence[int] | None,
    given: str | None = None,
    last: bool | None = None,
    grids: Sequence[tuple[int, ...]] | None = None,
    sure: bool = False,
) -> Layout | None:
    """Reads the layout off an activation's shape.

    Args:
        name: The layer's name, for errors.
        shape: The activation's.
        samples: How many samples the model was given.
        picture: The input's spatial shape, where it is a picture.
        given: What the user says, such as ``"NHWC"``.
        last: Whether what the layer does shows that channels stand last (of three axes: ``False`` where they stand
            before a single axis of places); ``None`` where nothing is known.
        grids: Spatial shapes that the forward went through before, the nearest first; ``None`` where that has not been
            looked at.
        sure: Of four axes or five, channels last is not believed for the picture's proportions alone: a convolution
            with strides that differ can give them too.

    Returns:
        The layout; ``None`` where the shape alone does not tell and ``last`` or ``grids`` are not known yet.

    Raises:
        LayerError: The output has no places, or is not laid out as ``given``, or nothing tells the tokens' grid.
    """
    shape = tuple(shape)
    if given is not None:
        return _as_given(name, shape, given, samples, picture, grids)
    if len(shape) in (4, 5) and shape[0] == samples:
        return _image(shape, picture, last, sure)
    if len(shape) == 3 and samples in shape[:2]:
        axes = "NLC" if shape[0] == samples else "LNC"
        if axes == "NLC" and last is False:
            return _signal(name, shape, grids or ())
        return _tokens(name, axes, shape, picture, grids)
    if len(shape) >= 3 and shape[0] != samples:
        raise LayerError(
            f"layers: {name!r} has the output {list(shape)} for {samples} samples: it works on windows, crops or"
            " several pictures at a time; name the block around it, whose output has a row a sample"
        )
    raise LayerError(
        f"layers: {name!r} has no spatial activation: its output is {list(shape)}, expected [N, C, h, w], [N, h, w, C],"
        " [N, C, d, h, w] or tokens [N, L, C]; name a layer before the flattening or pooling, such as the last"
        " convolution or block"
    )


def check_places(name: str, shape: Sequence[int], layout: Layout) -> None:
    """Refuses a layer with a single place, of which no map can be drawn.

    Raises:
        LayerError: It has one.
    """
    if prod(layout.grid) <= 1:
        raise LayerError(
            f"layers: {name!r} has no spatial activation: its output {list(shape)} ({layout}) has a single place;"
            " name a layer before the global pooling, or give the model larger inputs"
        )


def _image(shape: tuple[int, ...], picture: Sequence[int] | None, last: bool | None, sure: bool) -> Layout | None:
    dims = len(shape) - 2
    first = Layout("NCHW" if dims == 2 else "NCDHW", shape[2:])
    final = Layout("NHWC" if dims == 2 else "NDHWC", shape[1:-1])
    if picture is None or last is not None:
        return final if last else first
    both = [fits(layout.grid, picture) for layout in (first, final)]
    if sure and not any(both):
        # Enlarged, a grid has the picture's proportions still.
        both = [_alike(layout.grid, picture) for layout in (first, final)]
    if both[0] != both[1]:
        return first if both[0] else None if sure else final
    return None if both[0] or sure else first


def fits(grid: Sequence[int], picture: Sequence[int]) -> bool:
    """Whether a grid could be the picture at a lower resolution: smaller, and of its proportions up to rounding."""
    if grid[-2] > picture[-2] or grid[-1] > picture[-1] or len(grid) > len(picture):
        return False
    if len(grid) == len(picture) == 3 and grid[0] > picture[0]:
        return False
    return _alike(grid, picture)


def _alike(grid: Sequence[int], picture: Sequence[int]) -> bool:
    """Whether a grid has the picture's proportions, up to rounding."""
    height, width = picture[-2:]
    h, w = grid[-2:]
    return abs(h * width - w * height) <= 2 * max(height, width)


def _tokens(
    name: str,
    axes: str,
    shape: tuple[int, ...],
    picture: Sequence[int] | None,
    grids: Sequence[tuple[int, ...]] | None,
) -> Layout | None:
    if grids is None:
        # A patch may be higher than wide, of which the number of tokens shows nothing.
        return None
    length = shape[axes.index("L")]
    possible = sorted(_grids(picture, length), key=lambda found: (found[0], not found[1]))
    # Several strides give the same grid; one that divides the picture stands for them.
    fitting = list({grid: (prefix, divides, grid) for prefix, divides, grid in reversed(possible)}.values())[::-1]
    exact = [(prefix, grid) for prefix, divides, grid in fitting if divides]
    clear = exact and exact[0][0] <= 1 and not any(p == exact[0][0] and g != exact[0][1] for p, _, g in fitting)
    seen = [(length - prod(grid), grid) for grid in grids if 0 <= length - prod(grid) <= _MOST_PREFIX_TOKENS]
    fewest = min((prefix for prefix, _ in seen), default=_MOST_PREFIX_TOKENS)
    if clear and (exact[0] in seen or not seen or exact[0][0] < fewest):
        return Layout(axes, exact[0][1], exact[0][0])
    if seen:
        # The nearest of those with the fewest tokens left over.
        prefix, grid = min(seen, key=lambda found: found[0])
        return Layout(axes, grid, prefix)
    if fitting and all(prefix != fitting[0][0] for prefix, _, _ in fitting[1:]):
        return Layout(axes, fitting[0][2], fitting[0][0])
    listed = ", ".join(f"{p}+{'x'.join(map(str, g))}" for p, _, g in fitting[:4])
    raise LayerError(
        f"layers: {name!r} gives {length} tokens {list(shape)}, whose grid is not clear from inputs"
        f" {'of unknown size' if picture is None else 'x'.join(map(str, picture))}"
        f" ({f'possible: {listed}' if listed else 'none fits'}); say it with layout={{{name!r}: 'NLC:1+14x14'}}"
        " (one class token, 14 rows, 14 columns), or name a layer with a feature map"
    )


def _signal(name: str, shape: tuple[int, ...], grids: Sequence[tuple[int, ...]]) -> Layout:
    """Channels before a single axis of places: the tokens of a grid that the forward went through, or a 1-D signal."""
    length = shape[2]
    for grid in grids:
        if prod(grid) == length:
            return Layout("NCL", grid)
    raise LayerError(
        f"layers: {name!r} has the output {list(shape)} of a 1-D layer, [N, C, L], and nothing tells how its {length}"
        f" places form a map; say it with layout={{{name!r}: 'NCL:1x{length}'}} (a signal, drawn as one row), or name a"
        " layer with a feature map"
    )


def _grids(picture: Sequence[int] | None, length: int) -> Iterator[tuple[int, bool, tuple[int, ...]]]:
    """Yields (tokens left over, whether the stride divides the picture, grid) of all strides that could fit."""
    if picture is None:
        return
    height, width = picture[-2:]
    frames = [(1, True)] if len(picture) == 2 else [(picture[0] // s, picture[0] % s == 0) for s in (1, 2, 4, 8, 16)]
    for stride, (depth, even) in product(range(1, min(height, width) + 1), frames):
        h, w = height // stride, width // stride
        left = length - depth * h * w
        if depth and h * w > 1 and left in _PREFIXES:
            divides = even and height % stride == 0 and width % stride == 0
            yield left, divides, (h, w) if len(picture) == 2 else (depth, h, w)


def _as_given(
    name: str,
    shape: tuple[int, ...],
    given: str,
    samples: int,
    picture: Sequence[int] | None,
    grids: Sequence[tuple[int, ...]] | None,
) -> Layout | None:
    match = _SPEC.fullmatch(given)
    assert match is not None
    axes = match[1]
    if axes.startswith("("):
        rows = shape[0] if shape else 0
        if rows % samples or len(shape) != len(axes) - 3:
            raise LayerError(
                f"layout: {given!r} does not fit {name!r}, whose output is {list(shape)} for {samples} samples:"
                f" give {_CHOICES}"
            )
        inner = _as_given(name, shape, f"N{given[4:]}", rows, None if picture is None else picture[-2:], grids)
        return inner and replace(inner, grid=(rows // samples, *inner.grid), fold=axes[1:3])
    if len(axes) != len(shape) or shape[axes.index("N")] != samples:
        raise LayerError(
            f"layout: {given!r} does not fit {name!r}, whose output is {list(shape)} for {samples} samples; give"
            f" {_CHOICES}"
        )
    if "L" not in axes:
        return Layout(axes, tuple(size for size, letter in zip(shape, axes, strict=True) if letter not in "NC"))
    if match[3] is None:
        return _tokens(name, axes, shape, picture, grids)
    grid, split = tuple(map(int, match[3].split("x"))), None if match[5] is None else int(match[5])
    layout = Layout(axes, grid, int(match[2] or 0), int(match[4] or 0), split)
    if layout.tokens != shape[axes.index("L")]:
        raise LayerError(f"layout: {given!r} means {layout.tokens} tokens, but {name!r} gives {shape[axes.index('L')]}")
    return layout
