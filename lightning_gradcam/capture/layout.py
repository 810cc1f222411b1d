"""The meaning of an activation's axes: converts any layer's output to a feature map ``[N, C, *S]`` and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lightning_gradcam.errors import LayerError

SPEC = re.compile(
    r"(\([NT]{2}\)[CHWL]{2,3}|[NCDHWL]{3,5})"
    r"(?::(?:(\d+)\+)?(\d+(?:x\d+)+|(?<=NCL:)\d+)(?:\+(\d+)(?:@(\d+))?)?)?"
)
_AXES = ("NCHW", "NHWC", "NCDHW", "NDHWC", "NLC", "LNC", "NCL")
# Rows of the batch are frames: sample by sample, or all first frames first.
_FOLDED = tuple(f"({order}){axes}" for order in ("NT", "TN") for axes in ("CHW", "HWC", "LC"))
CHOICES = (
    f"one of {', '.join(repr(axes) for axes in _AXES)}, tokens with their grid ('NLC:14x14', 'NLC:1+14x14' with one "
    "token before it, 'NLC:14x14+4' with four after it), frames folded into the batch ('(NT)CHW', or '(TN)CHW' if the "
    "first frames of all samples come first), or a mapping from layer names to these"
)


@dataclass(frozen=True)
class Layout:
    """The meaning of an activation's axes.

    Attributes:
        axes: One letter for each axis: ``N`` samples, ``C`` channels, ``D``, ``H``, ``W`` spatial axes, ``L`` tokens.
        grid: The spatial shape ``(h, w)`` or ``(d, h, w)``; for clips, ``d`` counts time steps; ``(l,)`` for a signal;
            ``(t, h, w)`` for folded frames.
        prefix: Number of tokens before the grid (class and register tokens), which maps omit.
        suffix: Number of tokens after the grid or inside it, which maps omit.
        split: Number of grid tokens before the suffix; ``None`` means all of them.
        fold: The order of the rows if ``N`` counts frames: ``"NT"``, sample by sample, or ``"TN"``, the first frames of
            all samples first; ``""`` if it counts samples.

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
        """Number of tokens outside the grid."""
        return self.prefix + self.suffix

    @property
    def tokens(self) -> int:
        """Total number of tokens for each image."""
        return self.prefix + prod(self._places) + self.suffix

    def of_grid(self, tokens: Tensor) -> Tensor:
        """Reshapes the grid's tokens from ``[A, B, L]`` to ``[A, B, *S]`` and drops the others."""
        end = self.prefix + prod(self._places)
        if self.split is None:
            inner = tokens[:, :, self.prefix : end]
        else:
            first = self.prefix + self.split
            inner = torch.cat([tokens[:, :, self.prefix : first], tokens[:, :, first + self.suffix :]], 2)
        return inner.reshape(*tokens.shape[:2], *self._places)

    def order(self) -> Tensor:
        """Returns the index of each grid token among all tokens, ``[L]``."""
        return self.of_grid(torch.arange(self.tokens, device="cpu")[None, None]).flatten()

    def feature_map(self, values: Tensor) -> Tensor:
        """Returns an activation, or a gradient of its shape, as ``[N, C, *S]``, with only the grid's tokens."""
        return self.of_rows(self.rows(values))

    def rows(self, values: Tensor) -> Tensor:
        """Returns :meth:`feature_map` with one row for each image: for frames, ``[N * T, C, h, w]``."""
        moved = values.permute(*self._order())
        return self.of_grid(moved) if "L" in self.axes else moved

    def of_rows(self, rows: Tensor) -> Tensor:
        """Converts a result of :meth:`rows` to the shape of :meth:`feature_map`."""
        return self.unfolded(rows).transpose(1, 2) if self.fold else rows

    def unfolded(self, rows: Tensor) -> Tensor:
        """Splits rows into ``[N, T, …]`` if they are frames; otherwise returns them unchanged."""
        frames, rest = self.grid[0], rows.shape[1:]
        if self.fold == "TN":
            return rows.reshape(frames, -1, *rest).transpose(0, 1)
        return rows.reshape(-1, frames, *rest) if self.fold else rows

    def restored(self, feature_map: Tensor, like: Tensor) -> Tensor:
        """Returns a feature map in the layer's own layout; tokens outside the grid are copied from ``like``."""
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
    """Checks the user's layouts.

    Args:
        layout: One layout for all layers, a dict by layer name, or ``None``.

    Returns:
        Layouts by layer name; the name ``""`` means all layers.

    Raises:
        LayerError: A layout is invalid.
    """
    named = dict(layout) if isinstance(layout, Mapping) else {} if layout is None else {"": layout}
    for spec in named.values():
        match = SPEC.fullmatch(spec) if isinstance(spec, str) else None
        known = match is not None and match[1] in (*_AXES, *_FOLDED)
        if match is None or not known or (match[3] and "L" not in match[1]) or not _splits(match):
            raise LayerError(f"layout: got {spec!r}; pass {CHOICES}")
    return named


def _splits(match: re.Match[str]) -> bool:
    """Whether a suffix declared to lie inside the grid is really between its tokens."""
    return match[5] is None or (int(match[4]) > 0 and 0 < int(match[5]) < prod(map(int, match[3].split("x"))))


def input_size(inputs: Tensor | None) -> tuple[int, ...] | None:
    """Returns the spatial shape of a model's input: ``(H, W)``, ``(T, H, W)``, or ``None`` if it is not an image."""
    if inputs is None or not 3 <= inputs.dim() <= 5:
        return None
    shape = tuple(inputs.shape)
    if len(shape) == 3:
        return shape[1:]
    return shape[1:-1] if ends_in_channels(shape) else shape[2:]


def ends_in_channels(shape: Sequence[int]) -> bool:
    """Whether images, clips or volumes of this shape have their 1, 3 or 4 channels on the last axis.

    Example:
        >>> ends_in_channels((8, 16, 16, 3)), ends_in_channels((8, 12, 3, 3)), ends_in_channels((8, 3, 16, 3))
        (True, False, False)
    """
    few = (1, 3, 4)
    return len(shape) > 3 and shape[-1] in few and shape[1] not in few and min(shape[-3:-1]) > shape[-1]


def check_places(name: str, shape: Sequence[int], layout: Layout) -> None:
    """Rejects a layer with a single position, which has no map to draw.

    Raises:
        LayerError: The layer's grid has only one position.
    """
    if prod(layout.grid) <= 1:
        raise LayerError(
            f"layers: {name!r} has no spatial activation: its output {list(shape)} ({layout}) is a single value per "
            "channel; choose a layer before the global pooling, or give the model larger inputs"
        )
