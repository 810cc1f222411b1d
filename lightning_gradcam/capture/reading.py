"""Determines the meaning of each output's axes from a forward pass: its modules, grids, frames and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

from torch import Tensor, nn

from lightning_gradcam.capture.channels import channels_last, is_channels_last
from lightning_gradcam.capture.folded import Fold, find_folds, foldable
from lightning_gradcam.capture.inputs import with_gradient
from lightning_gradcam.capture.layers import is_channels_first
from lightning_gradcam.capture.layout import Layout, check_places, input_size
from lightning_gradcam.capture.places import token_layouts
from lightning_gradcam.capture.shapes import find_layout, find_signal, fits, signal_layout
from lightning_gradcam.capture.trail import Seen, Trail, Watcher, executed, has_rows
from lightning_gradcam.errors import LayerError
from lightning_gradcam.warn import warn

_Found = TypeVar("_Found")


@dataclass(eq=False)
class LayoutReader:
    """Determines layouts from one forward pass.

    Attributes:
        model: The model.
        layers: Its layers that can be hooked, by name.
        seen: The calls in the forward pass, in order.
        own: The input; it distinguishes signals from images, and frames and tokens are traced from it.
        again: Runs the forward pass on a given input.
        given: The user's layouts by layer name; ``""`` means all layers.
        trail: The trace of that forward pass, with its graph; if ``None``, another forward pass is traced when needed.
        signal: The input's axes, if it is a signal.
        picture: The input's spatial shape, or ``None`` if it is not an image.
        samples: Number of samples.
    """

    model: nn.Module
    layers: Mapping[str, nn.Module]
    seen: Sequence[Seen]
    own: Tensor
    again: Callable[[Tensor], Any]
    given: Mapping[str, str]
    trail: Trail | None

    def __post_init__(self) -> None:
        self.signal = find_signal(self.own.shape, self.seen)
        self.picture = input_size(self.own) if self.signal is None else (self.signal.length,)
        self.samples = len(self.own)
        self._followed: dict[int, dict[str, Layout | None]] = {}

    @cached_property
    def folds(self) -> dict[str, Fold]:
        """The layers whose rows are frames of the input, with the order of the frames."""
        return find_folds(self.model, self.layers, self.seen, self.own, self.again)

    @property
    def axes(self) -> str:
        """The meaning of the input's axes if its shape is ambiguous; see ``InputForm``."""
        if self.signal is not None:
            return self.signal.axes
        fold = next(iter(self.folds.values()), None)
        if fold is None or fold.axis != 1:
            return ""
        if self.own.dim() == 4:
            return "NTHW"
        # With channels last, the shape is unambiguous.
        return "NTCHW" if self.picture == tuple(self.own.shape[2:]) else ""

    def layout_of_map(self, at: int) -> Layout | None:
        """Returns the layout of a call's output if it is a map of the image or the signal; otherwise ``None``."""
        seen = self.seen[at]
        rows = seen.shape[:2] if len(seen.shape) == 3 else seen.shape[:1]
        given = self.given.get(seen.name, self.given.get(""))
        if given is None and self.samples not in rows and seen.name not in self.folds:
            return None
        try:
            layout = self.layout(at, say=False)
            check_places(seen.name, seen.shape, layout)
        except LayerError:
            return None
        if self.signal is not None:
            return layout
        # Unpadded convolutions and non-square patches change the proportions, but their class shows the layout.
        shown = layout.axes in ("NCHW", "NCDHW") and self._last(at) is False
        known = self.picture is None or shown or "L" in layout.axes
        grid = layout.grid[-2:] if layout.fold else layout.grid
        return layout if known or (self.picture is not None and fits(grid, self.picture)) else None

    def layout(self, at: int, *, say: bool = True) -> Layout:
        """Returns the layout of a call's output.

        Args:
            at: Index of the call among those seen.
            say: Whether to warn if two interpretations are possible and nothing decides between them.

        Raises:
            LayerError: The output has no layout, or it cannot be determined.
        """
        seen = self.seen[at]
        given = self.given.get(seen.name, self.given.get(""))
        if given is None and self.signal is not None and len(seen.shape) == 3:
            return signal_layout(self.seen, at, self.samples)
        if given is None and seen.shape[0] != self.samples:
            self._check_fold(seen)
            if fold := self.folds.get(seen.name):
                inner = self._read(at, seen.shape[0], None, say)
                return replace(inner, grid=(fold.frames, *inner.grid), fold=fold.order)
        try:
            return self._read(at, self.samples, given, say)
        except LayerError:
            if given is None:
                self._check_no_frames(seen)
            raise

    def _check_fold(self, seen: Seen) -> None:
        """Rejects a layer whose rows could be the input's frames but were not identified as such."""
        possible = foldable(seen.shape, self.own.shape, self.samples)
        if possible and seen.name not in self.folds and (len(seen.shape) > 3 or self.samples not in seen.shape[:2]):
            axes = "CHW" if len(seen.shape) == 4 else "LC:14x14"
            frames = next(iter(possible.values()))
            raise LayerError(
                f"layers: {seen.name!r} has the output {list(seen.shape)} for {self.samples} samples: it works on "
                "windows, crops or several images at a time, and changing one frame did not show which rows belong to "
                f"it. Choose the block around it, or, if its rows are the {frames} frames of each sample, pass "
                f"layout={{{seen.name!r}: '(NT){axes}'}} (all frames of a sample, then the next sample) or '(TN){axes}'"
            )

    def _check_no_frames(self, seen: Seen) -> None:
        """Rejects a sequence of frames, which is not a spatial grid, and names a better choice."""
        if len(seen.shape) != 3 or self.samples not in seen.shape[:2]:
            return
        length = seen.shape[1 if seen.shape[0] == self.samples else 0]
        frames = next((fold.frames for fold in self.folds.values() if length - fold.frames in (0, 1)), None)
        if frames is not None:
            raise LayerError(
                f"layers: {seen.name!r} returns {length} tokens {list(seen.shape)} for the input's {frames} frames: "
                "one row for each frame, not locations in an image; choose a layer before it, such as one of "
                f"{', '.join(list(self.folds)[-5:])}"
            )

    def _read(self, at: int, samples: int, given: str | None, say: bool) -> Layout:
        seen = self.seen[at]
        find = partial(find_layout, seen.name, seen.shape, samples=samples)
        picture = None if self.signal is not None else self.picture
        if picture is not None and samples != self.samples:
            # For each frame.
            picture = picture[-2:]
        if len(seen.shape) == 3 and (given in ("NLC", "LNC") or (given is None and self._last(at) is not False)):
            return self._layout_of_tokens(at, given, samples, picture)
        layout = find(picture=picture, given=given, sure=True)
        if layout is None:
            # If no module shows the layout, the proportions may.
            layout = find(picture=picture, given=given, last=self._seen_last(at), grids=self._grids(at))
        if layout is not None:
            return layout
        first = find(picture=None, last=False)
        assert first is not None
        if say:
            warn(
                f"layers: {seen.name!r} has the output {list(seen.shape)}, which could have its channels first"
                f" or last; {first.axes} is assumed. Choose with layout={{{seen.name!r}: 'NCHW'}} or 'NHWC'"
            )
        return first

    def _layout_of_tokens(self, at: int, given: str | None, samples: int, picture: tuple[int, ...] | None) -> Layout:
        seen = self.seen[at]
        followed = self._token_layouts(samples)
        layout = followed.get(seen.name)
        if layout is not None and given in (None, layout.axes):
            return layout
        find = partial(find_layout, seen.name, seen.shape, samples=samples, picture=picture)
        grids = self._grids(at)
        if given is not None:
            layout = find(given=given, grids=grids)
        elif seen.name not in followed and samples in seen.shape[:2]:
            # Without a graph (the model's own inference mode), only grids seen in the forward pass are trusted. If
            # samples and tokens are equal in number, the two axes can't be told apart.
            layout = find(grids=grids)
            layout = None if layout is None or layout.grid not in grids or seen.shape[0] == seen.shape[1] else layout
        elif samples not in seen.shape[:2]:
            find(grids=grids)
        if layout is not None:
            return layout
        raise LayerError(
            f"layers: {seen.name!r} returns {list(seen.shape)}, which may not be locations in the image: they could be "
            "time steps, words, queries or patches in another order. Choose a layer with a map, or, if they are tokens "
            f"of a grid, specify the grid: layout={{{seen.name!r}: 'NLC:1+14x14'}} (1 token before 14 rows of 14)"
        )

    def _token_layouts(self, samples: int) -> dict[str, Layout | None]:
        """Returns the layouts of the layers whose tokens could be traced back; runs a forward pass if needed.

        Args:
            samples: Number of rows: the samples, or all their frames if these are folded into the batch.
        """
        if samples not in self._followed:
            self._followed[samples] = self._watched(partial(token_layouts, samples=samples)) or {}
        return self._followed[samples]

    def follow(self) -> None:
        """Traces tokens through the trail, if there is one, before its graph is released."""
        if self.trail is not None:
            self._token_layouts(self.samples)

    def _seen_last(self, at: int) -> bool | None:
        """Whether channels are last if the proportions are ambiguous; the nearest modules alone don't decide.

        A block may permute to channels last for its linear layers and back again.
        """
        if len(self.seen[at].shape) == 3:
            return self._last_of_tokens(at)
        own = _last_of(seen for seen in self._alike(at) if seen.value[0] == self.seen[at].value[0])
        if own is None:
            own = self._traced_last.get(self.seen[at].name)
        if own is not None:
            return own
        every = {is_channels_last(seen.module) for seen in self._alike(at) if _last_of([seen]) is not None}
        return None if len(every) > 1 else self._last(at)

    @cached_property
    def _traced_last(self) -> dict[str, bool]:
        """The layers for which the graph shows whether channels are last; runs a forward pass if needed."""
        return self._watched(channels_last) or {}

    def _watched(self, look: Callable[[Trail], _Found]) -> _Found | None:
        """Applies a function to a forward pass's trail; returns ``None`` if the model does not run with a graph."""
        if self.trail is not None:
            with suppress(Exception):
                return look(self.trail)
        for force in (True, False):
            # A model that changes its weights in its own `no_grad` may fail if that block records a graph.
            with suppress(Exception):
                picture = with_gradient(self.own)
                watcher = Watcher(picture, force=force)
                executed(self.layers, partial(self.again, picture), watcher=watcher)
                return look(watcher.trail)
        return None

    def _alike(self, at: int) -> list[Seen]:
        """Returns the calls up to this one whose output has the same shape, nearest first."""
        return [seen for seen in reversed(self.seen[: at + 1]) if seen.shape == self.seen[at].shape]

    def _last(self, at: int) -> bool | None:
        """Whether channels are last, according to the nearest call up to this one with an output of this shape."""
        shape = self.seen[at].shape
        if len(shape) == 3:
            return self._last_of_tokens(at)
        # Start with the module that computed this very tensor.
        found = _last_of(sorted(self._alike(at), key=lambda seen: seen.value[0] != self.seen[at].value[0]))
        inputs = () if self.picture is None else self.picture
        return False if found is None and shape[2:] == tuple(inputs) else found

    def _last_of_tokens(self, at: int) -> bool | None:
        shape, before = self.seen[at].shape, self.seen[: at + 1]
        # An MLP-Mixer runs 1-D convolutions over token positions; its norms show the channel axis.
        if any(seen.shape == shape and is_channels_last(seen.module) for seen in before):
            return True
        same = (seen for seen in before if len(seen.shape) == 3 and seen.shape[:2] == shape[:2])
        return False if any(is_channels_first(seen.module, seen.shape) for seen in same) else None

    def _grids(self, at: int) -> list[tuple[int, ...]]:
        maps = [seen for seen in reversed(self.seen[:at]) if len(seen.shape) in (4, 5)]
        first = (seen for seen in maps if is_channels_first(seen.module, seen.shape))
        return [seen.shape[2:] for seen in first if has_rows(seen.module, seen.shape)]


def _last_of(calls: Iterable[Seen]) -> bool | None:
    """Whether channels are last, according to the first of these calls whose class shows it."""
    for seen in calls:
        if is_channels_last(seen.module):
            return True
        if is_channels_first(seen.module, seen.shape):
            return False
    return None
