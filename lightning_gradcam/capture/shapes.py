"""Determines the meaning of an output's axes from its shape and the preceding modules, also for 1-D signals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lightning_gradcam.capture.layers import is_channels_first
from lightning_gradcam.capture.layout import CHOICES, SPEC, Layout
from lightning_gradcam.capture.trail import Seen
from lightning_gradcam.errors import LayerError

# Maximum number of extra tokens next to a grid seen in the forward pass: class token, distillation token, registers.
_MOST_PREFIX_TOKENS = 16
# Possible numbers of extra tokens (class, distillation, registers) next to a grid inferred from the token count alone.
_PREFIXES = (0, 1, 2, 4, 5, 8)


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
    """Determines the layout from an activation's shape.

    Args:
        name: The layer's name, for errors.
        shape: The activation's shape.
        samples: Number of samples given to the model.
        picture: The input's spatial shape, if it is an image.
        given: The user's layout, such as ``"NHWC"``.
        last: Whether the layer's class shows that channels are last (with three axes: ``False`` if they come before a
            single spatial axis); ``None`` if unknown.
        grids: Spatial shapes seen earlier in the forward pass, nearest first; ``None`` if not determined yet.
        sure: Whether to avoid inferring channels last from the image's proportions alone (with four or five axes): a
            convolution with unequal strides can produce them too.

    Returns:
        The layout; ``None`` if the shape alone is ambiguous and ``last`` or ``grids`` are not known yet.

    Raises:
        LayerError: The output has no spatial axes, does not match ``given``, or its tokens' grid is unknown.
    """
    output = _Output(name, tuple(shape), samples, picture, grids)
    return output.shown(last, sure=sure) if given is None else output.said(given)


def fits(grid: Sequence[int], picture: Sequence[int]) -> bool:
    """Whether a grid could be the image at a lower resolution: no larger, and with its proportions up to rounding."""
    if grid[-2] > picture[-2] or grid[-1] > picture[-1] or len(grid) > len(picture):
        return False
    if len(grid) == len(picture) == 3 and grid[0] > picture[0]:
        return False
    return same_proportions(grid, picture)


@dataclass(frozen=True)
class _Output:
    """A layer's output; its fields are the arguments of :func:`find_layout`."""

    name: str
    shape: tuple[int, ...]
    samples: int
    picture: Sequence[int] | None
    grids: Sequence[tuple[int, ...]] | None

    def shown(self, last: bool | None, *, sure: bool) -> Layout | None:
        """Returns the layout determined from the shape."""
        shape, samples = self.shape, self.samples
        if len(shape) in (4, 5) and shape[0] == samples:
            return self._image(last, sure=sure)
        if len(shape) == 3 and shape[0] == samples:
            return self._signal() if last is False else self._tokens("NLC")
        if len(shape) == 3 and shape[1] == samples:
            return self._tokens("LNC")
        if len(shape) >= 3 and shape[0] != samples:
            raise LayerError(
                f"layers: {self.name!r} has the output {list(shape)} for {samples} samples: it works on windows, crops "
                "or several images at a time; choose the block around it, whose output has one row for each sample"
            )
        raise LayerError(
            f"layers: {self.name!r} has no spatial activation: its output is {list(shape)}, expected [N, C, h, w],"
            " [N, h, w, C], [N, C, d, h, w] or tokens [N, L, C]; choose a layer before the flattening or pooling, such"
            " as the last convolution or block"
        )

    def said(self, given: str) -> Layout | None:
        """Returns the user's layout."""
        shape, match = self.shape, SPEC.fullmatch(given)
        assert match is not None
        fold = match[1][1:3] if match[1].startswith("(") else ""
        axes = f"N{match[1][4:]}" if fold else match[1]
        rows = shape[0] if fold and shape else self.samples
        if len(axes) != len(shape) or shape[axes.index("N")] != rows or rows % self.samples:
            raise LayerError(
                f"layout: {given!r} does not fit {self.name!r}, whose output is {list(shape)} for {self.samples}"
                f" samples; pass {CHOICES}"
            )
        layout: Layout | None
        if "L" not in axes:
            layout = Layout(axes, tuple(size for size, letter in zip(shape, axes, strict=True) if letter not in "NC"))
        elif match[3] is None:
            frame = self.picture[-2:] if fold and self.picture is not None else self.picture
            layout = replace(self, picture=frame)._tokens(axes)
        else:
            grid, split = tuple(map(int, match[3].split("x"))), None if match[5] is None else int(match[5])
            layout = Layout(axes, grid, int(match[2] or 0), int(match[4] or 0), split)
            if layout.tokens != (length := shape[axes.index("L")]):
                raise LayerError(
                    f"layout: {given!r} describes {layout.tokens} tokens, but {self.name!r} returns {length}; specify "
                    f"a grid with {length} tokens"
                )
        return replace(layout, grid=(rows // self.samples, *layout.grid), fold=fold) if fold and layout else layout

    def _image(self, last: bool | None, *, sure: bool) -> Layout | None:
        dims = len(self.shape) - 2
        first = Layout("NCHW" if dims == 2 else "NCDHW", self.shape[2:])
        final = Layout("NHWC" if dims == 2 else "NDHWC", self.shape[1:-1])
        if self.picture is None or last is not None:
            return final if last else first
        both = [fits(layout.grid, self.picture) for layout in (first, final)]
        if sure and not any(both):
            # An upsampled grid still has the image's proportions.
            both = [same_proportions(layout.grid, self.picture) for layout in (first, final)]
        if both[0] != both[1]:
            return first if both[0] else None if sure else final
        return None if both[0] or sure else first

    def _tokens(self, axes: str) -> Layout | None:
        if self.grids is None:
            # A patch may be taller than it is wide, which the number of tokens does not show.
            return None
        length = self.shape[axes.index("L")]
        possible = sorted(_grids(self.picture, length), key=lambda found: (found[0], not found[1]))
        # Several strides give the same grid; prefer one that divides the image's size.
        fitting = list({grid: (prefix, divides, grid) for prefix, divides, grid in reversed(possible)}.values())[::-1]
        exact = [(prefix, grid) for prefix, divides, grid in fitting if divides]
        clear = exact and exact[0][0] <= 1 and not any(p == exact[0][0] and g != exact[0][1] for p, _, g in fitting)
        seen = [(length - prod(grid), grid) for grid in self.grids if 0 <= length - prod(grid) <= _MOST_PREFIX_TOKENS]
        fewest = min((prefix for prefix, _ in seen), default=_MOST_PREFIX_TOKENS)
        if clear and (exact[0] in seen or not seen or exact[0][0] < fewest):
            return Layout(axes, exact[0][1], exact[0][0])
        if seen:
            # The nearest of the grids with the fewest extra tokens.
            prefix, grid = min(seen, key=lambda found: found[0])
            return Layout(axes, grid, prefix)
        if fitting and all(prefix != fitting[0][0] for prefix, _, _ in fitting[1:]):
            return Layout(axes, fitting[0][2], fitting[0][0])
        listed = ", ".join(f"{p}+{'x'.join(map(str, g))}" for p, _, g in fitting[:4])
        raise LayerError(
            f"layers: {self.name!r} returns {length} tokens {list(self.shape)}, whose grid can't be derived from "
            f"inputs of {'unknown size' if self.picture is None else 'x'.join(map(str, self.picture))} "
            f"({f'possible: {listed}' if listed else 'none fits'}); specify it with layout={{{self.name!r}: "
            "'NLC:1+14x14'} (one class token, 14 rows, 14 columns), or choose a layer with a feature map"
        )

    def _signal(self) -> Layout:
        """Channels before a single spatial axis: tokens of a grid seen in the forward pass, or a signal."""
        length = self.shape[2]
        for grid in self.grids or ():
            if prod(grid) == length:
                return Layout("NCL", grid)
        raise LayerError(
            f"layers: {self.name!r} has the output {list(self.shape)} of a 1-D layer, [N, C, L], and it is unclear how "
            f"its {length} values per channel form a map; pass layout={{{self.name!r}: 'NCL:1x{length}'}} (a signal, "
            "drawn as one row), or choose a layer with a feature map"
        )


def same_proportions(grid: Sequence[int], picture: Sequence[int]) -> bool:
    """Whether a grid has the image's proportions, up to rounding."""
    height, width = picture[-2:]
    h, w = grid[-2:]
    return abs(h * width - w * height) <= 2 * max(height, width)


def _grids(picture: Sequence[int] | None, length: int) -> Iterator[tuple[int, bool, tuple[int, ...]]]:
    """Yields (extra tokens, whether the stride divides the image's size, grid) for all possible strides."""
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


_ONE_AXIS = (nn.Conv1d, nn.ConvTranspose1d)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, nn.MultiheadAttention)


@dataclass(frozen=True)
class Signal:
    """The meaning of a signal's axes.

    Attributes:
        axes: ``"NL"``, ``"NCL"`` or ``"NLC"``.
        length: Number of time steps.
    """

    axes: str
    length: int


def find_signal(shape: Sequence[int], calls: Sequence[Seen]) -> Signal | None:
    """Detects whether a model accepts a signal: its first convolution runs along a single axis.

    With three axes, that convolution's number of input channels shows which one is time.

    Args:
        shape: The input's shape, ``[N, …]``.
        calls: The modules called, in order.

    Returns:
        The signal; ``None`` for images, and if neither axis has the convolution's number of input channels.
    """
    first = next((seen.module for seen in calls if isinstance(seen.module, _ConvNd)), None)
    if not isinstance(first, _ONE_AXIS) or len(shape) not in (2, 3):
        return None
    if len(shape) == 2:
        return Signal("NL", shape[1])
    before, behind = shape[1:]
    # A single channel may become several before the convolution, as in a spectrogram computed by the model.
    if before in (first.in_channels, 1):
        return Signal("NCL", behind)
    if behind in (first.in_channels, 1):
        return Signal("NLC", before)
    return None


def signal_layout(calls: Sequence[Seen], at: int, samples: int) -> Layout:
    """Returns the layout of a layer in a model for signals.

    Args:
        calls: The modules called, in order.
        at: Index of the layer's call.
        samples: Number of samples given to the model.

    Raises:
        LayerError: The layer's output can't be confirmed to be ``[N, C, l]``.
    """
    seen = calls[at]
    if len(seen.shape) == 3 and seen.shape[0] == samples and _is_channels_first(calls[: at + 1]):
        return Layout("NCL", seen.shape[2:])
    other = samples not in seen.shape[:2]
    why = "its rows do not correspond to samples" if other else "it is unclear whether channels come before time"
    raise LayerError(
        f"layers: {seen.name!r} has the output {list(seen.shape)} for {samples} signals, but {why}; choose a 1-D "
        f"convolution or a block of them, or pass layout={{{seen.name!r}: 'NLC:1x{seen.shape[1]}'}} where axis 1 is "
        "time (drawn as one row)"
    )


def _is_channels_first(calls: Sequence[Seen]) -> bool:
    """Whether the last call returned ``[N, C, l]``, judged by its class or by the module that computed this tensor."""
    last = calls[-1]
    alike = [seen for seen in reversed(calls) if len(seen.shape) == 3 and seen.shape[:2] == last.shape[:2]]
    for seen in sorted(alike, key=lambda seen: seen.value[0] != last.value[0]):
        if is_channels_first(seen.module, seen.shape):
            return True
        if isinstance(seen.module, _CHANNELS_LAST):
            return False
    return False
