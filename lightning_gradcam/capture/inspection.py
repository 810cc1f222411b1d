"""Runs a model on a few samples to find the layers with feature maps, their layouts, and which layer to explain."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import capture
from lightning_gradcam.capture.auto import MOST_CANDIDATES, AutoLayer, Score
from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.calls import layer_of, split_call
from lightning_gradcam.capture.graph import upstream
from lightning_gradcam.capture.inputs import with_gradient
from lightning_gradcam.capture.layers import named_layers, no_hooks
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.reading import LayoutReader
from lightning_gradcam.capture.tensors import floating_tensors
from lightning_gradcam.capture.trail import Seen, Watcher, executed
from lightning_gradcam.errors import CaptureError, LayerError

# Layers whose spatial outputs only repeat the previous layer's features: coarser, thinned out, moved or unchanged.
_PASSIVE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample)
_PASSIVE_TYPES = re.compile(
    r"(Pool|Pooling|Dropout|DropPath|DropBlock|StochasticDepth|Pad|Permute|Rearrange|Transpose)(\dd)?(Same)?$"
)
# Queries, keys and values are spatial, too, but they are internal to an attention block.
_PROJECTIONS = re.compile(
    r"(to_?|w_?|in_|conv_proj_)?(q|k|v|qk|kv|qkv|query|key|value)(_?(proj|projection|norm|conv|linear|layer))?"
)


class Survey:
    """One forward pass of a few samples, observed at every module.

    Args:
        model: The model.
        run: Runs the model once on an image, which it may change in place.
        picture: The samples' image; it distinguishes signals from images, and frames and tokens are traced from it.
        given: The user's layouts by layer name; ``""`` means all layers.
        graph: Whether to record the graph of the forward pass. Without it, :meth:`auto` runs another forward pass.
        tokens: Whether to trace tokens in the same forward pass. Otherwise :meth:`layout` runs another forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Callable[[Tensor], Any],
        picture: Tensor,
        given: Mapping[str, str],
        *,
        graph: bool = False,
        tokens: bool = False,
    ) -> None:
        self.model, self._run, self._picture = model, run, picture
        self.layers = {name: module for name, module in named_layers(model).items() if no_hooks(module) is None}
        watcher, first = None, self.forward
        if (graph or tokens) and picture.is_floating_point():
            start = with_gradient(picture)
            watcher, first = Watcher(start, changing=False), partial(run, start)
        self.seen, output, self._calls = executed(self.layers, first, graph=graph, watcher=watcher)
        # Kept only together with its graph; it can be larger than everything that is explained.
        self._output = output if graph else None
        self.samples = len(picture)
        self._place = {seen.name: at for at, seen in enumerate(self.seen)}
        trail = watcher.trail if watcher is not None and watcher.whole else None
        self._reader = LayoutReader(model, self.layers, self.seen, picture, run, given, trail)
        if not graph:
            self._reader.follow()
            self.forget()

    def forward(self) -> Any:
        """Runs the model once; a graph starts at the image, because weights may be frozen."""
        return self._run(with_gradient(self._picture) if torch.is_grad_enabled() else self._picture.clone())

    def with_graph(self) -> tuple[list[Seen], Any]:
        """Returns the calls and output of a forward pass with a graph: the first one, as long as its graph is kept."""
        output, self._output = self._output, None
        return (self.seen, output) if output is not None else executed(self.layers, self.forward, graph=True)[:2]

    def forget(self) -> None:
        """Releases the graph of the first forward pass."""
        self.seen[:] = [replace(one, origins=()) if one.origins else one for one in self.seen]
        self._reader.trail = None

    def layout(self, name: str) -> Layout:
        """Returns a layer's layout.

        Raises:
            LayerError: The layer has no layout, or it cannot be determined.
        """
        at = self._at(name)
        if at is None:
            raise LayerError(
                f"layers: {name!r} exists, but the forward pass never reached it; choose a layer that the forward pass "
                "calls"
            )
        return self._reader.layout(at)

    @property
    def axes(self) -> str:
        """The meaning of the input's axes if its shape is ambiguous; see ``InputForm``."""
        return self._reader.axes

    def calls(self, name: str) -> int:
        """Returns the number of calls of a layer in one forward pass."""
        return self._calls.get(name, 0)

    def has_map(self, name: str) -> bool:
        """Whether a layer, or the call given in its name, has a feature map with the image's proportions."""
        at = self._at(name)
        return name in self.spatial or (at is not None and self._reader.layout_of_map(at) is not None)

    def _at(self, name: str) -> int | None:
        """Returns the index of a layer's call among all calls: the named one, or else the last."""
        layer, call = split_call(name)
        if name in self._place or call is None:
            return self._place.get(name)
        return next((at for at, seen in enumerate(self.seen) if (seen.name, str(seen.call)) == (layer, call)), None)

    def module(self, name: str) -> nn.Module:
        """Returns the module of a layer; the name may include a call."""
        return self.layers[name] if name in self.layers else self.layers[layer_of(name)]

    @cached_property
    def spatial(self) -> dict[str, Layout]:
        """The layers with a feature map of the image's proportions, in the order of their last calls."""
        places = sorted(self._place.items(), key=lambda item: item[1])
        found = ((name, self._reader.layout_of_map(at)) for name, at in places)
        return {name: layout for name, layout in found if layout is not None}

    def auto(self, score: Score) -> str:
        """Returns the last layer with its own feature map on which the score depends.

        If this is not simply the last layer called, the graph is followed back from the score. This excludes a second
        branch that was called later.

        Layers that only pass a feature map on (pooling, dropout, permutation) are skipped, and so are queries, keys and
        values, and layers whose channels are the output's own numbers (logits at every position).

        Args:
            score: Maps the model's output to the scores to explain.

        Raises:
            LayerError: No layer qualifies.
        """
        return AutoLayer(self, score).layer()

    def _leading(self, score: Score, names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` whose output feeds the score, whatever the gradient; runs one forward pass."""
        layers = {name: self.layers[name] for name in names}
        watcher = Watcher(None, force=False)
        _, output, _ = executed(layers, self.forward, watcher=watcher)
        with torch.enable_grad():
            found = upstream(*score(output))
        origins = watcher.trail.origins()
        return [name for name in names if origins.get(name) in found]

    def alive(self, score: Score, names: Sequence[str]) -> list[str]:
        """Returns those of ``names`` on whose positions the score depends, regardless of the current weights.

        If there are very many, only the last ones are checked. If the output is empty, as when a detector finds
        nothing, the check is impossible and all names are returned.
        """
        chosen = [name for name in names if self.has_map(name)][-MOST_CANDIDATES:]
        with awakened(self.model):
            return self.with_gradient(score, chosen, empty=chosen)

    def instead_of(self, name: str, score: Score, *, later: bool) -> str | None:
        """Returns the nearest layer with a gradient, before ``name`` (after it if ``later``), or ``None``."""
        if name not in self._place:
            return None
        place = self._place[name]
        near = [n for n in self.sensible() if (self._place[n] > place if later else self._place[n] < place)]
        if not later and name in self.spatial:
            near = self.alike([*near, name])[:-1]
        near = self._leading(score, near) or near
        alive = self.alive(score, near[:MOST_CANDIDATES] if later else near) if near else []
        return (alive[0] if later else alive[-1]) if alive else None

    def sensible(self) -> list[str]:
        """Returns the layers worth explaining, in call order; if there are none, all spatial layers."""
        found = [name for name in self.spatial if not self._hands_on(name)]
        return [n for n in found if not any(_PROJECTIONS.fullmatch(part) for part in n.split("."))] or found

    def _came_in(self, at: int) -> bool:
        """Whether a module only passed on a feature map that another module had computed."""
        own = self.seen[at]
        others = (seen for seen in self.seen[:at] if seen.value == own.value and seen.name != own.name)
        return not own.made and any(not seen.name.startswith(f"{own.name}.") for seen in others)

    def _hands_on(self, name: str) -> bool:
        at = self._place[name]
        if _is_passive(self.seen[at].module) or self._came_in(at):
            return True
        # A residual block may add to its last part's output in place, so the block computes more than that part. An
        # identity at its end computes nothing.
        same = (seen for seen in self.seen if seen.value == self.seen[at].value and seen.made)
        return any(_is_passive(seen.module) for seen in same if seen.name.startswith(f"{name}."))

    def alike(self, names: Sequence[str]) -> list[str]:
        """Returns the layers with the last one's channel count if it has tokens outside its grid; otherwise all."""
        if not self.spatial[names[-1]].extra:
            return list(names)
        return [name for name in names if self.channels(name) == self.channels(names[-1])]

    def channels(self, name: str) -> int:
        """Returns the number of channels of a layer from :meth:`spatial`."""
        return self.seen[self._place[name]].shape[self.spatial[name].axes.index("C")]

    def with_gradient(self, score: Score, names: Sequence[str], *, empty: Sequence[str] = ()) -> list[str]:
        """Returns those of ``names`` with a map, of any level and call, that receives a gradient at its positions.

        Args:
            score: Maps the model's output to the scores to explain.
            names: Layers to check.
            empty: The result if the output is empty.
        """
        if not names:
            return []
        with capture({name: self.module(name) for name in names}, whole_graph=True) as captured:
            try:
                output = self.forward()
                if empty and not any(tensor.numel() for tensor in floating_tensors(output)):
                    return list(empty)
                scores = score(output)
                total = [one.sum().to(scores[0].device) for one in scores]
                found = captured.level_gradients(torch.stack(total).sum() if total else torch.zeros((), device="cpu"))
            except (CaptureError, CheckpointError):
                # Some layers come before a reentrant checkpoint, which makes the backward pass fail for all of them.
                half = len(names) // 2
                parts = (names[:half], names[half:]) if half else ()
                return [name for part in parts for name in self.with_gradient(score, part)]
            return [name for name, levels in found.items() if any(self.reaches(name, g) for g in levels.values())]

    def reaches(self, name: str, gradient: Tensor | None) -> bool:
        """Whether the gradient of a layer's feature map is non-zero anywhere on its grid."""
        if gradient is None:
            return False
        at = self._at(name)
        layout = self._reader.layout_of_map(at) if at is not None else None
        if layout is not None and ("L" not in layout.axes or gradient.shape[1:] == self.seen[at or 0].shape[1:]):
            gradient = layout.feature_map(gradient)
        elif layout is not None and "L" in layout.axes and gradient.dim() == 3:
            # Another level has its own grid, with the same number of tokens before it.
            gradient = gradient.movedim(layout.axes.index("L"), 0)[layout.prefix :]
        return bool((gradient != 0).any())


def mixed(output: Any) -> list[Tensor]:
    """Returns one number for each tensor of an output: a weighted sum in which each entry has its own weight."""
    # A plain sum would not work: the sum of a softmax is constant.
    leaves = [tensor.float().flatten() for tensor in floating_tensors(output) if tensor.numel()]
    return [(leaf * torch.arange(1, len(leaf) + 1, device=leaf.device).cos()).sum() for leaf in leaves]


def _is_passive(module: nn.Module) -> bool:
    return isinstance(module, _PASSIVE) or _PASSIVE_TYPES.search(type(module).__name__) is not None
