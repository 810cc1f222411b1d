"""What a model does on a few samples: which layers have feature maps, how these are laid out, and which to explain."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import capture, floating_tensors, level_maps, main_tensor
from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.calls import layer_of, split_call
from lightning_gradcam.capture.folded import Fold, find_folds, foldable
from lightning_gradcam.capture.graph import Origin, Paths, traced, upstream
from lightning_gradcam.capture.inputs import with_gradient
from lightning_gradcam.capture.layers import is_channels_first, named_layers, no_hooks, unwrapped
from lightning_gradcam.capture.layout import Layout, check_places, find_layout, fits
from lightning_gradcam.capture.places import token_layouts
from lightning_gradcam.capture.signals import find_signal, signal_layout
from lightning_gradcam.capture.trail import has_rows, watch
from lightning_gradcam.errors import CaptureError, LayerError
from lightning_gradcam.warn import warn

# Their outputs are spatial, but show what the layer before them found: coarser, thinned out, moved or unchanged.
_PASSIVE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample)
_PASSIVE_TYPES = re.compile(
    r"(Pool|Pooling|Dropout|DropPath|DropBlock|StochasticDepth|Pad|Permute|Rearrange|Transpose)(\dd)?(Same)?$"
)
# Queries, keys and values have places too, but stand in the middle of an attention.
_PROJECTIONS = re.compile(
    r"(to_?|w_?|in_|conv_proj_)?(q|k|v|qk|kv|qkv|query|key|value)(_?(proj|projection|norm|conv|linear|layer))?"
)
_CHANNELS_LAST = (nn.LayerNorm, nn.Linear, nn.RMSNorm)
_MOST_CANDIDATES = 48
_MOST_LOOKS = 4


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


class Survey:
    """One forward of a few samples, looked at from every module.

    Args:
        model: The model.
        forward: Runs it once.
        samples: How many samples that is.
        picture: The input's spatial shape, or ``None`` where it is no picture.
        given: What the user says of layouts, by layer name; ``""`` stands for all.
        own: The input itself, which tells signals from pictures, and from which frames and tokens are followed.
        again: Runs the forward on another input in its place.
        graph: Record the graph of the forward, which :meth:`auto` needs and would run another one for.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[], Any],
        *,
        samples: int,
        picture: tuple[int, ...] | None,
        given: Mapping[str, str],
        own: Tensor | None = None,
        again: Callable[[Tensor], Any] | None = None,
        graph: bool = False,
    ) -> None:
        self._model = model
        self._forward = forward
        self._samples = samples
        self._picture = picture
        self._given = given
        self._layers = {name: module for name, module in named_layers(model).items() if no_hooks(module) is None}
        self._seen, self._output, self._calls = _executed(self._layers, forward, graph=graph)
        tensors = floating_tensors(self._output)
        self._widths = {tensor.shape[1] for tensor in tensors if tensor.dim() > 1}
        self._has_numbers = any(tensor.numel() for tensor in tensors)
        self._has_columns = isinstance(self._output, Tensor) and self._output.dim() > 1
        # Only with its graph; it can be larger than all that is explained.
        self._output = self._output if graph else None
        self._looks = 0
        self._place = {seen.name: at for at, seen in enumerate(self._seen)}
        self._own, self._again = own, again
        self._followed: dict[int, dict[str, Layout | None]] = {}
        self.signal = None if own is None else find_signal(own.shape, self._seen)
        if self.signal is not None:
            self._picture = (self.signal.length,)

    def layout(self, name: str) -> Layout:
        """Returns a layer's layout.

        Raises:
            LayerError: It has none, or nothing tells it.
        """
        at = self._at(name)
        if at is None:
            raise LayerError(f"layers: {name!r} exists, but the forward never reached it")
        return self._layout(at)

    def calls(self, name: str) -> int:
        """Returns how often the forward calls a layer."""
        return self._calls.get(name, 0)

    def has_map(self, name: str) -> bool:
        """Whether a layer, or the call that its name means, has a feature map at the picture's proportions."""
        at = self._at(name)
        return name in self._spatial or (at is not None and self._layout_of_map(at) is not None)

    def _at(self, name: str) -> int | None:
        """Where a layer's call stands among all: that which is named, or else the last."""
        layer, call = split_call(name)
        if name in self._place or call is None:
            return self._place.get(name)
        return next((at for at, seen in enumerate(self._seen) if (seen.name, str(seen.call)) == (layer, call)), None)

    def _module(self, name: str) -> nn.Module:
        return self._layers[name] if name in self._layers else self._layers[layer_of(name)]

    def spatial(self) -> dict[str, Layout]:
        """Returns the layers with a feature map at the picture's proportions, in the order of their last calls."""
        return dict(self._spatial)

    def auto(self, score: Callable[[Any], Tensor]) -> str:
        """Returns the last layer with a feature map of its own that the score depends on.

        Where that is not simply the last of the forward, the graph leads back from the score: a second branch of any
        length that was called later is not on that way.

        Passed over are layers that only hand on a feature map (pooling, dropout, permutation), queries, keys and
        values, and layers whose channels are the output's own numbers (logits at every place).

        Args:
            score: From the model's output to what will be explained; any shape.

        Raises:
            LayerError: There is none.
        """
        names = self._sensible()
        if not names:
            raise LayerError(
                "layers: 'auto' found no layer whose output is a feature map [N, C, h, w] (or tokens, or [N, h, w, C])"
                " with more than one place; name the layer to explain, and its layout= where that is unusual"
            )
        paths, alive = self._paths(score, names)
        names = self._without_outputs(names)
        # A container that only passes the feature map on fires after its last child and is the better name:
        # "layer4" and not "layer4.1.relu".
        if not paths.leading and self._with_gradient(score, names[-1:]):
            return names[-1]
        if not self._has_numbers:
            raise LayerError(
                "layers: 'auto' can't tell what the score depends on: the output of the first samples is empty (a"
                " detector that finds nothing yet?) or holds whole numbers alone; name the layer, one of:"
                f" {', '.join(names)}"
            )
        leading = set(paths.leading)
        names = self._without_outputs([name for name in names if name in leading] or names)
        for name in reversed(names):
            if not self._is_one_of_several(name, paths):
                if alive(name):
                    return name
                break
        near = self._alike(names)
        for stop in range(len(near), 0, -_MOST_CANDIDATES):
            if found := self.alive(score, near[max(stop - _MOST_CANDIDATES, 0) : stop]):
                return next((name for name in reversed(found) if not self._is_one_of_several(name, paths)), found[-1])
        return names[-1]

    def _paths(self, score: Callable[[Any], Tensor], names: Sequence[str]) -> tuple[Paths, Callable[[str], bool]]:
        """Returns the ways from the score back to layers, and whether a gradient arrives at the places of one."""
        seen, output, self._output = self._seen, self._output, None
        if output is None:
            seen, output, _ = _executed(self._layers, self._forward, graph=True)
        origins: dict[str, set[Origin]] = {name: set() for name in names}
        for one in seen:
            if one.name in origins:
                origins[one.name].update(one.origins)
        with torch.enable_grad():
            total = score(output)
        # The graph lives no longer than what this returns.
        self._seen = [replace(one, origins=()) for one in self._seen]

        def alive(name: str) -> bool:
            edges = [GradientEdge(*origin) for origin in origins[name]]
            try:
                found = torch.autograd.grad(total.sum(), edges, allow_unused=True, retain_graph=True)
            except RuntimeError:  # a reentrant checkpoint, for instance
                return False
            return any(self._reaches(name, gradient) for gradient in found)

        return Paths(total, origins), alive

    def _is_one_of_several(self, name: str, paths: Paths) -> bool:
        """Whether a part of the output, another head's for instance, does not depend on a layer."""
        other = paths.beside(name)
        if other is None:
            return False
        # Beyond a few, the graph alone decides: each look costs three forwards.
        self._looks += 1
        return not self._has_columns or self._looks > _MOST_LOOKS or not self._covers(name, other)

    def _covers(self, name: str, other: str) -> bool:
        """Whether all columns of the output that depend on another layer depend on this one, too."""
        with awakened(self._model), torch.no_grad():
            plain = self._forward()
            mine, others = (self._changed(plain, layer) for layer in (name, other))
        return mine is None or others is None or not bool((others & ~mine).any())

    def _changed(self, plain: Tensor, name: str) -> Tensor | None:
        """Which columns of the output change where a layer gives something else; ``None``: its shape does."""

        def disturbed(_module: nn.Module, _args: Any, output: Any) -> Any:
            found = level_maps(output)
            if found is None:
                return None
            tensors, rebuilt = found
            return rebuilt([tensor.flip(-1) + tensor.std().nan_to_num() + 1 for tensor in tensors])

        handle = self._module(name).register_forward_hook(disturbed)
        try:
            output = self._forward()
        finally:
            handle.remove()
        if output.shape != plain.shape:
            return None
        different: Tensor = (output != plain).transpose(0, 1).flatten(1).any(1)
        return different

    def _leading(self, score: Callable[[Any], Tensor], names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` whose output leads to the score, in one forward and whatever the gradient is."""
        with torch.enable_grad(), traced({name: self._layers[name] for name in names}) as nodes:
            found = upstream(score(self._forward()))
            return [name for name in names if nodes.get(name) in found]

    def _without_outputs(self, names: Sequence[str]) -> list[str]:
        stop = len(names)
        while stop > 1 and self._is_output(names[stop - 1]):
            stop -= 1
        return list(names[:stop])

    def alive(self, score: Callable[[Any], Tensor], names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` on whose places the score depends, whatever the weights are now.

        Of very many, only the last are looked at. Where the output holds no numbers, as a detector's that finds
        nothing, there is no telling: all of them are returned.
        """
        chosen = [name for name in names if self.has_map(name)][-_MOST_CANDIDATES:]
        with awakened(self._model):
            return chosen if self._is_empty() else self._with_gradient(score, chosen)

    def _is_empty(self) -> bool:
        with torch.no_grad():
            return not any(tensor.numel() for tensor in floating_tensors(self._forward()))

    def instead_of(self, name: str, score: Callable[[Any], Tensor], *, later: bool) -> str | None:
        """Returns the nearest layer with a gradient, before ``name`` or ``later`` in the forward; ``None``: no such."""
        if name not in self._place:
            return None
        place = self._place[name]
        near = [n for n in self._sensible() if (self._place[n] > place if later else self._place[n] < place)]
        if not later and name in self._spatial:
            near = self._alike([*near, name])[:-1]
        near = self._leading(score, near) or near
        alive = self.alive(score, near[:_MOST_CANDIDATES] if later else near) if near else []
        return (alive[0] if later else alive[-1]) if alive else None

    @cached_property
    def folds(self) -> dict[str, Fold]:
        """The layers whose rows are frames of the input, and how these are ordered."""
        if self._own is None or self._again is None:
            return {}
        return find_folds(self._model, self._layers, self._seen, self._own, self._again)

    @property
    def axes(self) -> str:
        """What the input's axes mean where its shape does not tell; see ``InputForm``."""
        if self.signal is not None:
            return self.signal.axes
        fold = next(iter(self.folds.values()), None)
        if fold is None or self._own is None or fold.axis != 1:
            return ""
        if self._own.dim() == 4:
            return "NTHW"
        # With channels last, the shape has told.
        return "NTCHW" if self._picture == tuple(self._own.shape[2:]) else ""

    @cached_property
    def _spatial(self) -> dict[str, Layout]:
        found = {name: self._layout_of_map(at) for name, at in sorted(self._place.items(), key=lambda item: item[1])}
        return {name: layout for name, layout in found.items() if layout is not None}

    def _sensible(self) -> list[str]:
        """The layers worth explaining, in the order of the forward; where none is, those that at least have places."""
        found = [name for name in self._spatial if not self._hands_on(name)]
        return [n for n in found if not any(_PROJECTIONS.fullmatch(part) for part in n.split("."))] or found

    def _hands_on(self, name: str) -> bool:
        at = self._place[name]
        if _is_passive(self._seen[at].module):
            return True
        # A residual block may add to its last part's output in place, which makes more of it than that part did; and
        # an identity at its end made nothing.
        same = (seen for seen in self._seen if seen.value == self._seen[at].value and seen.made)
        return any(_is_passive(seen.module) for seen in same if seen.name.startswith(f"{name}."))

    def _is_output(self, name: str) -> bool:
        """Whether each number of the output depends on one channel alone."""
        channels = self._channels(name)
        if channels not in self._widths:
            return False

        def first(output: Any) -> Tensor:
            same = [t for t in floating_tensors(output) if t.dim() > 1 and t.shape[1] == channels]
            return torch.stack([tensor[:, 0].float().sum() for tensor in same])

        gradient = self._gradient(first, name)
        return gradient is not None and bool((gradient[:, 0] != 0).any()) and not bool((gradient[:, 1:] != 0).any())

    def _alike(self, names: Sequence[str]) -> list[str]:
        """Of tokens with others before them, those of the same stream: with as many channels as the last."""
        if not self._spatial[names[-1]].extra:
            return list(names)
        return [name for name in names if self._channels(name) == self._channels(names[-1])]

    def _channels(self, name: str) -> int:
        return self._seen[self._place[name]].shape[self._spatial[name].axes.index("C")]

    def _gradient(self, score: Callable[[Any], Tensor], name: str) -> Tensor | None:
        with capture({name: self._module(name)}) as captured:
            try:
                gradient = captured.gradients(score(self._forward()))[name]
            except (CaptureError, CheckpointError):
                return None
            return None if gradient is None else self._spatial[name].feature_map(gradient)

    def _with_gradient(self, score: Callable[[Any], Tensor], names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` of which a map, of any level and call, has a gradient at its places."""
        if not names:
            return []
        with capture({name: self._module(name) for name in names}, whole_graph=True) as captured:
            try:
                found = captured.level_gradients(score(self._forward()))
            except (CaptureError, CheckpointError):
                # Some of them stand before a reentrant checkpoint, which fails the others too.
                half = len(names) // 2
                parts = (names[:half], names[half:]) if half else ()
                return [name for part in parts for name in self._with_gradient(score, part)]
            return [name for name, levels in found.items() if any(self._reaches(name, g) for g in levels.values())]

    def _reaches(self, name: str, gradient: Tensor | None) -> bool:
        if gradient is None:
            return False
        at = self._at(name)
        layout = self._layout_of_map(at) if at is not None else None
        if layout is not None and ("L" not in layout.axes or gradient.shape[1:] == self._seen[at or 0].shape[1:]):
            gradient = layout.feature_map(gradient)
        return bool((gradient != 0).any())

    def _layout_of_map(self, at: int) -> Layout | None:
        seen = self._seen[at]
        rows = seen.shape[:2] if len(seen.shape) == 3 else seen.shape[:1]
        given = self._given.get(seen.name, self._given.get(""))
        if given is None and self._samples not in rows and seen.name not in self.folds:
            return None
        try:
            layout = self._layout(at, say=False)
            check_places(seen.name, seen.shape, layout)
        except LayerError:
            return None
        if self.signal is not None:
            return layout
        # Convolutions without padding and patches that are no squares change the proportions, but show what they give.
        shown = layout.axes in ("NCHW", "NCDHW") and self._last(at) is False
        known = self._picture is None or shown or "L" in layout.axes
        grid = layout.grid[-2:] if layout.fold else layout.grid
        return layout if known or (self._picture is not None and fits(grid, self._picture)) else None

    def _layout(self, at: int, *, say: bool = True) -> Layout:
        seen = self._seen[at]
        given = self._given.get(seen.name, self._given.get(""))
        if given is None and self.signal is not None and len(seen.shape) == 3:
            return signal_layout(self._seen, at, self._samples)
        if given is None and seen.shape[0] != self._samples and self._own is not None:
            self._check_fold(seen)
            if fold := self.folds.get(seen.name):
                inner = self._read(at, seen.shape[0], None, say)
                return replace(inner, grid=(fold.frames, *inner.grid), fold=fold.order)
        layout = self._read(at, self._samples, given, say)
        self._check_no_frames(seen, layout, given)
        return layout

    def _check_fold(self, seen: Seen) -> None:
        """Refuses a layer whose rows could be the input's frames, and have not been found to be."""
        assert self._own is not None
        possible = foldable(seen.shape, self._own.shape, self._samples)
        if possible and seen.name not in self.folds and (len(seen.shape) > 3 or self._samples not in seen.shape[:2]):
            axes = "CHW" if len(seen.shape) == 4 else "LC:14x14"
            frames = next(iter(possible.values()))
            raise LayerError(
                f"layers: {seen.name!r} has the output {list(seen.shape)} for {self._samples} samples: it works on"
                " windows, crops or several pictures at a time, and a changed frame did not show which row is whose;"
                f" name the block around it, or, where its rows are the {frames} frames of each sample, give"
                f" layout={{{seen.name!r}: '(NT){axes}'}} (all frames of a sample, then the next sample) or"
                f" '(TN){axes}'"
            )

    def _check_no_frames(self, seen: Seen, layout: Layout, given: str | None) -> None:
        """Refuses a sequence of frames, which is no grid of places."""
        if given is not None or "L" not in layout.axes or len(seen.shape) != 3:
            return
        length = seen.shape[layout.axes.index("L")]
        frames = next((fold.frames for fold in self.folds.values() if length - fold.frames in (0, 1)), None)
        if frames is not None:
            raise LayerError(
                f"layers: {seen.name!r} gives {length} tokens {list(seen.shape)} for the input's {frames} frames: a row"
                " a frame, and no places of a picture; name a layer before it, such as one of"
                f" {', '.join(list(self.folds)[-5:])}"
            )

    def _read(self, at: int, samples: int, given: str | None, say: bool) -> Layout:
        seen = self._seen[at]
        find = partial(find_layout, seen.name, seen.shape, samples=samples)
        picture = None if self.signal is not None else self._picture
        if picture is not None and samples != self._samples:
            # Of each frame.
            picture = picture[-2:]
        if len(seen.shape) == 3 and (given in ("NLC", "LNC") or (given is None and self._last(at) is not False)):
            return self._layout_of_tokens(at, given, samples, picture)
        layout = find(picture=picture, given=given, sure=True)
        if layout is None:
            # What no module shows, the proportions tell after all.
            layout = find(picture=picture, given=given, last=self._last(at), grids=self._grids(at))
        if layout is not None:
            return layout
        first = find(picture=None, last=False)
        assert first is not None
        if say:
            warn(
                f"layers: {seen.name!r} has the output {list(seen.shape)}, which could have its channels first"
                f" or last; taken as {first.axes}. Say which with layout={{{seen.name!r}: 'NCHW'}} or 'NHWC'"
            )
        return first

    def _layout_of_tokens(self, at: int, given: str | None, samples: int, picture: tuple[int, ...] | None) -> Layout:
        seen = self._seen[at]
        followed = self._token_layouts(samples)
        layout = followed.get(seen.name)
        if layout is not None and given in (None, layout.axes):
            return layout
        find = partial(find_layout, seen.name, seen.shape, samples=samples, picture=picture)
        grids = self._grids(at)
        if given is not None:
            layout = find(given=given, grids=grids)
        elif seen.name not in followed and samples in seen.shape[:2]:
            # Without a graph (the model's own inference mode): only what the forward went through is believed.
            layout = find(grids=grids)
            layout = None if layout is None or layout.grid not in grids or self._is_square(at) else layout
        elif samples not in seen.shape[:2]:
            find(grids=grids)
        if layout is not None:
            return layout
        raise LayerError(
            f"layers: {seen.name!r} gives {list(seen.shape)}, and nothing shows that these are places of the picture:"
            " they could be time steps, words, queries or patches in another order; name a layer with a map, or, where"
            f" they are tokens of a grid, say of which: layout={{{seen.name!r}: 'NLC:1+14x14'}} (1 token before 14 rows"
            " of 14)"
        )

    def _is_square(self, at: int) -> bool:
        """Whether samples and tokens are as many, so that either axis could be either."""
        return self._seen[at].shape[0] == self._seen[at].shape[1]

    def _token_layouts(self, samples: int) -> dict[str, Layout | None]:
        """The layers whose tokens could be followed back, with their layouts; one forward, where it is needed.

        Args:
            samples: How many rows are counted: the samples, or all frames of them that are folded into the batch.
        """
        if samples not in self._followed:
            self._followed[samples] = self._follow(samples)
        return self._followed[samples]

    def _follow(self, samples: int) -> dict[str, Layout | None]:
        for force in (True, False):
            # With a graph in its own `no_grad`, a model may fail that changes its weights there.
            with suppress(Exception):
                picture, run = None, self._forward
                if self._own is not None and self._again is not None:
                    picture = with_gradient(self._own)
                    run = partial(self._again, picture)
                return token_layouts(watch(self._layers, run, picture, force=force), samples)
        return {}

    def _last(self, at: int) -> bool | None:
        """Whether channels stand last, by the nearest module up to there with such an output that shows it."""
        shape = self._seen[at].shape
        if len(shape) == 3:
            return self._last_of_tokens(at)
        alike = [seen for seen in reversed(self._seen[: at + 1]) if seen.shape == shape]
        # What made this very tensor before all others.
        for seen in sorted(alike, key=lambda seen: seen.value[0] != self._seen[at].value[0]):
            if _is_channels_last(seen.module):
                return True
            if is_channels_first(seen.module, shape):
                return False
        inputs = () if self._picture is None else self._picture
        return False if shape[2:] == tuple(inputs) else None

    def _last_of_tokens(self, at: int) -> bool | None:
        shape, before = self._seen[at].shape, self._seen[: at + 1]
        # An MLP-Mixer runs 1-D convolutions over the places of tokens; its norms tell.
        if any(seen.shape == shape and _is_channels_last(seen.module) for seen in before):
            return True
        same = (seen for seen in before if len(seen.shape) == 3 and seen.shape[:2] == shape[:2])
        return False if any(is_channels_first(seen.module, seen.shape) for seen in same) else None

    def _grids(self, at: int) -> list[tuple[int, ...]]:
        before = (seen for seen in reversed(self._seen[:at]) if len(seen.shape) in (4, 5))
        return [
            seen.shape[2:]
            for seen in before
            if is_channels_first(seen.module, seen.shape) and has_rows(seen.module, seen.shape)
        ]


def mixed(output: Any) -> Tensor:
    """Returns one number that depends on all numbers of an output, each with a weight of its own."""
    # A plain sum would not do: the sum of a softmax is constant.
    leaves = [tensor.float().flatten() for tensor in floating_tensors(output) if tensor.numel()]
    parts = [(leaf * torch.arange(1, len(leaf) + 1, device=leaf.device).cos()).sum() for leaf in leaves]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum() if parts else torch.zeros(())


def _is_passive(module: nn.Module) -> bool:
    return isinstance(module, _PASSIVE) or _PASSIVE_TYPES.search(type(module).__name__) is not None


def _is_channels_last(module: nn.Module) -> bool:
    # A norm of several axes is over places too.
    return type(module) in _CHANNELS_LAST and len(getattr(module, "normalized_shape", (1,))) == 1


def _executed(
    layers: Mapping[str, nn.Module], forward: Callable[[], Any], *, graph: bool = False
) -> tuple[list[Seen], Any, dict[str, int]]:
    """Runs a forward, with a graph where that is asked for.

    Returns:
        Every call that gave a floating-point tensor of three axes or more, in order; the model's own output; and how
        often each layer was called.
    """
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
        output = forward()
    return order, output, calls
