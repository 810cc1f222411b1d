"""What a model does on a few samples: which layers have feature maps, how these are laid out, and which to explain."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import capture
from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.calls import layer_of, split_call
from lightning_gradcam.capture.graph import Origin, Paths, nearest_first, upstream
from lightning_gradcam.capture.inputs import with_gradient
from lightning_gradcam.capture.layers import named_layers, no_hooks
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.outputs import owns_numbers
from lightning_gradcam.capture.reading import LayoutReader
from lightning_gradcam.capture.seen import executed
from lightning_gradcam.capture.tensors import floating_tensors, level_maps
from lightning_gradcam.capture.trail import Watcher
from lightning_gradcam.errors import CaptureError, LayerError

# Their outputs are spatial, but show what the layer before them found: coarser, thinned out, moved or unchanged.
_PASSIVE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample)
_PASSIVE_TYPES = re.compile(
    r"(Pool|Pooling|Dropout|DropPath|DropBlock|StochasticDepth|Pad|Permute|Rearrange|Transpose)(\dd)?(Same)?$"
)
# Queries, keys and values have places too, but stand in the middle of an attention.
_PROJECTIONS = re.compile(
    r"(to_?|w_?|in_|conv_proj_)?(q|k|v|qk|kv|qkv|query|key|value)(_?(proj|projection|norm|conv|linear|layer))?"
)
Score = Callable[[Any], Sequence[Tensor]]
"""From a model's output to what will be explained: tensors of any shape."""

_MOST_CANDIDATES = 48
_MOST_LOOKS = 4
_MOST_TRIED = 16


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
        tokens: Follow tokens through that forward at once, which :meth:`layout` would run another one for.
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
        tokens: bool = False,
    ) -> None:
        self._model = model
        self._forward = forward
        self._layers = {name: module for name, module in named_layers(model).items() if no_hooks(module) is None}
        watcher, first = None, forward
        if graph or tokens:
            watcher, first = self._watched(own, again)
        self._seen, self._output, self._calls = executed(self._layers, first, graph=graph, watcher=watcher)
        tensors = floating_tensors(self._output)
        self._widths = {tensor.shape[1] for tensor in tensors if tensor.dim() > 1}
        self._has_numbers = any(tensor.numel() for tensor in tensors)
        self._has_columns = isinstance(self._output, Tensor) and self._output.dim() > 1
        # Only with its graph; it can be larger than all that is explained.
        self._output = self._output if graph else None
        self._looks = 0
        self._samples = samples
        self._place = {seen.name: at for at, seen in enumerate(self._seen)}
        self._reader = LayoutReader(
            model,
            self._layers,
            self._seen,
            forward,
            samples=samples,
            picture=picture,
            given=given,
            own=own,
            again=again,
            trail=watcher.trail if watcher is not None and watcher.whole else None,
        )
        if not graph:
            self._reader.follow()
            self._forget()

    def _watched(
        self, own: Tensor | None, again: Callable[[Tensor], Any] | None
    ) -> tuple[Watcher | None, Callable[[], Any]]:
        """Returns what notes the way of tokens through the first forward, and that forward."""
        if own is None or again is None or not own.is_floating_point():
            return None, self._forward
        with torch.enable_grad():
            picture = with_gradient(own)
            return Watcher(self._layers, picture, changing=False), partial(again, picture)

    def _forget(self) -> None:
        """Lets go of the first forward's graph."""
        self._seen[:] = [replace(one, origins=()) if one.origins else one for one in self._seen]
        self._reader.forget()

    def layout(self, name: str) -> Layout:
        """Returns a layer's layout.

        Raises:
            LayerError: It has none, or nothing tells it.
        """
        at = self._at(name)
        if at is None:
            raise LayerError(f"layers: {name!r} exists, but the forward never reached it")
        return self._reader.layout(at)

    @property
    def axes(self) -> str:
        """What the input's axes mean where its shape does not tell; see ``InputForm``."""
        return self._reader.axes

    def calls(self, name: str) -> int:
        """Returns how often the forward calls a layer."""
        return self._calls.get(name, 0)

    def has_map(self, name: str) -> bool:
        """Whether a layer, or the call that its name means, has a feature map at the picture's proportions."""
        at = self._at(name)
        return name in self._spatial or (at is not None and self._reader.layout_of_map(at) is not None)

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

    def auto(self, score: Score) -> str:
        """Returns the last layer with a feature map of its own that the score depends on.

        Where that is not simply the last of the forward, the graph leads back from the score: a second branch of any
        length that was called later is not on that way.

        Passed over are layers that only hand on a feature map (pooling, dropout, permutation), queries, keys and
        values, and layers whose channels are the output's own numbers (logits at every place).

        Args:
            score: From the model's output to what will be explained.

        Raises:
            LayerError: There is none.
        """
        names = self._sensible()
        if not names:
            raise LayerError(
                "layers: 'auto' found no layer whose output is a feature map [N, C, h, w] (or tokens, or [N, h, w, C])"
                f" with more than one place{self._regrouped()}; name the layer to explain, and its layout= where that"
                " is unusual"
            )
        paths, alive, owns = self._paths(score, names)
        leading = set(paths.leading)
        whole = [name for name in names if name in leading] or names
        names = self._without_outputs(whole, owns)
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
        several = cache(partial(self._is_one_of_several, paths=paths))
        for name in reversed(names):
            if not several(name) and not owns(name):
                if alive(name):
                    return name
                break
        near = self._alike(names)
        # What has a gradient now has one whatever the weights are: only later layers are in question.
        tried = (name for name in reversed(near[-_MOST_TRIED:]) if alive(name))
        late = next((name for name in tried if not several(name) and not owns(name)), None)
        if late is not None:
            found = self.alive(score, near[near.index(late) :])
            return next((name for name in reversed(found) if not several(name) and not owns(name)), late)
        # An output layer where the score depends on nothing else.
        for group in (near, whole[len(names) :]):
            for stop in range(len(group), 0, -_MOST_CANDIDATES):
                if found := self.alive(score, group[max(stop - _MOST_CANDIDATES, 0) : stop]):
                    last = (name for name in reversed(found) if not several(name))
                    first = next(last, found[-1])
                    # That of another level is among them still.
                    return next((name for name in chain([first], last) if not owns(name)), first)
        return names[-1]

    def _regrouped(self) -> str:
        """Names the last feature map whose rows are not the samples, for the error that there is no other."""
        found = [seen for seen in self._seen if len(seen.shape) in (4, 5) and seen.shape[0] != self._samples]
        if not found:
            return ""
        rows, name = found[-1].shape[0], found[-1].name
        return f" ({name!r:.80} has {rows} rows for {self._samples} samples: views or parts of them in the batch)"

    def _paths(self, score: Score, names: Sequence[str]) -> tuple[Paths, Callable[[str], bool], Callable[[str], bool]]:
        """Returns the ways from the score back to layers, and what is asked of one of these.

        Whether a gradient arrives at its places, and whether its channels are the output's own numbers.
        """
        seen, output, self._output = self._seen, self._output, None
        if output is None:
            seen, output, _ = executed(self._layers, self._forward, graph=True)
        origins: dict[str, set[Origin]] = {name: set() for name in names}
        for one in seen:
            if one.name in origins:
                origins[one.name].update(one.origins)
        with torch.enable_grad():
            scores = score(output)
        # The graph lives no longer than what this returns.
        self._forget()
        known = dict[str, bool]()

        def alive(name: str) -> bool:
            if name not in known:
                # One backward for several costs as much as that for the earliest of them: 1, then 3, then 12 layers.
                before = [other for other in reversed(names[: names.index(name)]) if other not in known]
                several = name, *before[: max(3 * len(known) - 1, 0)]
                known.update(self._reached({one: origins[one] for one in several}, scores))
            return known[name]

        numbers = floating_tensors(output)
        own_numbers: dict[Any, bool] = {}

        def owns(name: str) -> bool:
            # A container often returns what its last part does.
            same = (frozenset(origins[name]), self._spatial[name]) if origins[name] else name
            if same not in own_numbers:
                own_numbers[same] = self._is_output(name, numbers, [GradientEdge(*o) for o in origins[name]])
            return own_numbers[same]

        return Paths(scores, origins), alive, owns

    def _reached(self, origins: Mapping[str, set[Origin]], scores: Sequence[Tensor]) -> dict[str, bool]:
        """Returns at which layers' places a gradient of any score arrives."""
        found = dict.fromkeys(origins, False)
        ordered = nearest_first(scores, set().union(*origins.values()))
        try:
            # The tensor of the fewest operations comes first, and alone: as in `owns_numbers`.
            for group in filter(None, (ordered[:1], ordered[1:])):
                left = [(name, origin) for name, own in origins.items() if not found[name] for origin in own]
                edges = [GradientEdge(*origin) for _, origin in left]
                total = [one.sum() for one in group]
                gradients = torch.autograd.grad(total, edges, allow_unused=True, retain_graph=True) if edges else ()
                for (name, _), gradient in zip(left, gradients, strict=True):
                    found[name] = found[name] or self._reaches(name, gradient)
        except RuntimeError:  # a reentrant checkpoint, for instance
            if len(origins) == 1:
                return dict.fromkeys(origins, False)
            return {name: self._reached({name: own}, scores)[name] for name, own in origins.items()}
        return found

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

    def _leading(self, score: Score, names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` whose output leads to the score, in one forward and whatever the gradient is."""
        layers = {name: self._layers[name] for name in names}
        watcher = Watcher(layers, None, force=False)
        _, output, _ = executed(layers, self._forward, watcher=watcher)
        with torch.enable_grad():
            found = upstream(*score(output))
        origins = watcher.trail.origins()
        return [name for name in names if origins.get(name) in found]

    def _without_outputs(self, names: Sequence[str], owns: Callable[[str], bool]) -> list[str]:
        stop = len(names)
        while stop > 1 and owns(names[stop - 1]):
            stop -= 1
        return list(names[:stop])

    def alive(self, score: Score, names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` on whose places the score depends, whatever the weights are now.

        Of very many, only the last are looked at. Where the output holds no numbers, as a detector's that finds
        nothing, there is no telling: all of them are returned.
        """
        chosen = [name for name in names if self.has_map(name)][-_MOST_CANDIDATES:]
        with awakened(self._model):
            return self._with_gradient(score, chosen, empty=chosen)

    def instead_of(self, name: str, score: Score, *, later: bool) -> str | None:
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
    def _spatial(self) -> dict[str, Layout]:
        found = {
            name: self._reader.layout_of_map(at) for name, at in sorted(self._place.items(), key=lambda item: item[1])
        }
        return {name: layout for name, layout in found.items() if layout is not None}

    def _sensible(self) -> list[str]:
        """The layers worth explaining, in the order of the forward; where none is, those that at least have places."""
        found = [name for name in self._spatial if not self._hands_on(name)]
        return [n for n in found if not any(_PROJECTIONS.fullmatch(part) for part in n.split("."))] or found

    def _came_in(self, at: int) -> bool:
        """Whether a module only returned a feature map, unchanged, that another one had made before."""
        own = self._seen[at]
        others = (seen for seen in self._seen[:at] if seen.value == own.value and seen.name != own.name)
        return not own.made and any(not seen.name.startswith(f"{own.name}.") for seen in others)

    def _hands_on(self, name: str) -> bool:
        at = self._place[name]
        if _is_passive(self._seen[at].module) or self._came_in(at):
            return True
        # A residual block may add to its last part's output in place, which makes more of it than that part did; and
        # an identity at its end made nothing.
        same = (seen for seen in self._seen if seen.value == self._seen[at].value and seen.made)
        return any(_is_passive(seen.module) for seen in same if seen.name.startswith(f"{name}."))

    def _is_output(self, name: str, numbers: Sequence[Tensor], edges: Sequence[GradientEdge]) -> bool:
        """Whether each number of the output depends on one channel alone, or the only channel is that of a logit."""
        axis = self._spatial[name].axes.index("C")
        if self._channels(name) == 1:
            return 1 in self._widths
        if edges:
            return owns_numbers(numbers, edges, axis)
        # It stands in the model's own `no_grad`.
        with capture({name: self._module(name)}) as captured:
            try:
                output = self._forward()
                return owns_numbers(floating_tensors(output), list(captured.maps[name].values()), axis)
            except (CaptureError, CheckpointError):
                return False

    def _alike(self, names: Sequence[str]) -> list[str]:
        """Of tokens with others before them, those of the same stream: with as many channels as the last."""
        if not self._spatial[names[-1]].extra:
            return list(names)
        return [name for name in names if self._channels(name) == self._channels(names[-1])]

    def _channels(self, name: str) -> int:
        return self._seen[self._place[name]].shape[self._spatial[name].axes.index("C")]

    def _with_gradient(self, score: Score, names: Sequence[str], *, empty: Sequence[str] = ()) -> list[str]:
        """Returns those of ``names`` of which a map, of any level and call, has a gradient at its places.

        Args:
            score: From the model's output to what will be explained.
            names: Layers.
            empty: What is returned where the output holds no numbers.
        """
        if not names:
            return []
        with capture({name: self._module(name) for name in names}, whole_graph=True) as captured:
            try:
                output = self._forward()
                if empty and not any(tensor.numel() for tensor in floating_tensors(output)):
                    return list(empty)
                found = captured.level_gradients(_total(score(output)))
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
        layout = self._reader.layout_of_map(at) if at is not None else None
        if layout is not None and ("L" not in layout.axes or gradient.shape[1:] == self._seen[at or 0].shape[1:]):
            gradient = layout.feature_map(gradient)
        elif layout is not None and "L" in layout.axes and gradient.dim() == 3:
            # Another level: its grid is its own, and the tokens before it are as many.
            gradient = gradient.movedim(layout.axes.index("L"), 0)[layout.prefix :]
        return bool((gradient != 0).any())


def mixed(output: Any) -> list[Tensor]:
    """Returns one number for each tensor of an output: it depends on all numbers there, each with its own weight."""
    # A plain sum would not do: the sum of a softmax is constant.
    leaves = [tensor.float().flatten() for tensor in floating_tensors(output) if tensor.numel()]
    return [(leaf * torch.arange(1, len(leaf) + 1, device=leaf.device).cos()).sum() for leaf in leaves]


def _total(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([score.sum().to(scores[0].device) for score in scores]).sum() if scores else torch.zeros(())


def _is_passive(module: nn.Module) -> bool:
    return isinstance(module, _PASSIVE) or _PASSIVE_TYPES.search(type(module).__name__) is not None
