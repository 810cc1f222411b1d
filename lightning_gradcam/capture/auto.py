"""Chooses the layer for ``"auto"``: the last one with its own feature map on which the whole score depends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import capture
from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.graph import Origin, Paths, nearest_first
from lightning_gradcam.capture.tensors import floating_tensors, level_maps
from lightning_gradcam.errors import CaptureError, LayerError

if TYPE_CHECKING:
    from lightning_gradcam.capture.inspection import Survey

Score = Callable[[Any], Sequence[Tensor]]
"""Maps a model's output to the scores to explain: tensors of any shape."""

MOST_CANDIDATES = 48
"""Maximum number of layers hooked in one forward pass that computes their gradients."""
_MOST_LOOKS = 4
_MOST_TRIED = 16


class AutoLayer:
    """Chooses among the layers of a survey; keeps the graph of one forward pass alive.

    Args:
        survey: The model and its layers.
        score: Maps the model's output to the scores to explain.

    Raises:
        LayerError: No layer has a feature map.
    """

    def __init__(self, survey: Survey, score: Score) -> None:
        self._survey, self._score = survey, score
        self._spatial, self._names = survey.spatial, survey.sensible()
        if not self._names:
            raise LayerError(
                "layers: 'auto' found no layer whose output is a feature map [N, C, h, w] (or tokens, or [N, h, w, C]) "
                f"larger than 1 x 1{_regrouped(survey)}; specify the layer to explain, and its layout= if it is unusual"
            )
        seen, output = survey.with_graph()
        self._origins: dict[str, set[Origin]] = {name: set() for name in self._names}
        for one in seen:
            if one.name in self._origins:
                self._origins[one.name].update(one.origins)
        with torch.enable_grad():
            self._scores = score(output)
        # From here on, only this object holds the graph.
        survey.forget()
        self._paths = Paths(self._scores, self._origins)
        self._numbers = floating_tensors(output)
        self._has_columns = isinstance(output, Tensor) and output.dim() > 1
        self._looks = 0
        self._alive: dict[str, bool] = {}
        self._owning: dict[Any, bool] = {}
        self._several: dict[str, bool] = {}

    def layer(self) -> str:
        """Returns the name of the chosen layer.

        Raises:
            LayerError: The layers on which the score depends can't be determined.
        """
        survey, leading = self._survey, set(self._paths.leading)
        whole = [name for name in self._names if name in leading] or self._names
        stop = len(whole)
        while stop > 1 and self._owns(whole[stop - 1]):
            stop -= 1
        names = whole[:stop]
        # A container that only passes the feature map on is called after its last child and has the better name:
        # "layer4" rather than "layer4.1.relu".
        if not leading and survey.with_gradient(self._score, names[-1:]):
            return names[-1]
        if not any(tensor.numel() for tensor in self._numbers):
            raise LayerError(
                "layers: 'auto' can't tell what the score depends on: the output of the first samples is empty (a"
                " detector that finds nothing yet?) or contains only integers; specify a layer, one of:"
                f" {', '.join(names)}"
            )
        first = next(filter(self._is_sole, reversed(names)), None)
        if first is not None and self._is_alive(first):
            return first
        near = survey.alike(names)
        # A layer with a gradient now would have one with any weights, so only later layers remain to be checked.
        late = next(filter(self._is_sole, filter(self._is_alive, reversed(near[-_MOST_TRIED:]))), None)
        if late is not None:
            found = survey.alive(self._score, near[near.index(late) :])
            return next(filter(self._is_sole, reversed(found)), late)
        # Choose an output layer if the score depends on nothing else.
        for group in (near, whole[stop:]):
            for end in range(len(group), 0, -MOST_CANDIDATES):
                if found := survey.alive(self._score, group[max(end - MOST_CANDIDATES, 0) : end]):
                    last = (name for name in reversed(found) if not self._is_one_of_several(name))
                    first = next(last, found[-1])
                    # The output layer of another level may still be among them.
                    return next((name for name in chain([first], last) if not self._owns(name)), first)
        return names[-1]

    def _is_sole(self, name: str) -> bool:
        """Whether the whole output depends on a layer whose channels are not the output's own numbers."""
        return not self._is_one_of_several(name) and not self._owns(name)

    def _is_alive(self, name: str) -> bool:
        """Whether the gradient of any score reaches a layer's positions."""
        if name not in self._alive:
            # One backward pass to several layers costs as much as to the earliest of them, so check 1, then 3, then 12.
            before = [other for other in reversed(self._names[: self._names.index(name)]) if other not in self._alive]
            several = name, *before[: max(3 * len(self._alive) - 1, 0)]
            self._alive.update(self._reached({one: self._origins[one] for one in several}))
        return self._alive[name]

    def _reached(self, origins: Mapping[str, set[Origin]]) -> dict[str, bool]:
        """Returns whether the gradient of any score reaches a layer's positions, by layer name."""
        found = dict.fromkeys(origins, False)
        ordered = nearest_first(self._scores, set().union(*origins.values()))
        try:
            # Start with only the tensor with the fewest operations, as in `owns_numbers`.
            for group in filter(None, (ordered[:1], ordered[1:])):
                left = [(name, origin) for name, own in origins.items() if not found[name] for origin in own]
                edges = [GradientEdge(*origin) for _, origin in left]
                total = [one.sum() for one in group]
                gradients = torch.autograd.grad(total, edges, allow_unused=True, retain_graph=True) if edges else ()
                for (name, _), gradient in zip(left, gradients, strict=True):
                    found[name] = found[name] or self._survey.reaches(name, gradient)
        except RuntimeError:  # a reentrant checkpoint, for instance
            if len(origins) == 1:
                return dict.fromkeys(origins, False)
            return {name: self._reached({name: own})[name] for name, own in origins.items()}
        return found

    def _owns(self, name: str) -> bool:
        """Whether a layer's channels are the output's own numbers."""
        origins = self._origins[name]
        # A container often returns its last part's output.
        same = (frozenset(origins), self._spatial[name]) if origins else name
        if same not in self._owning:
            self._owning[same] = self._is_output(name, [GradientEdge(*origin) for origin in origins])
        return self._owning[same]

    def _is_output(self, name: str, edges: Sequence[GradientEdge]) -> bool:
        """Whether each number of the output depends on a single channel, or the only channel is that of a logit."""
        axis = self._spatial[name].axes.index("C")
        if self._survey.channels(name) == 1:
            return any(tensor.dim() > 1 and tensor.shape[1] == 1 for tensor in self._numbers)
        if edges:
            return owns_numbers(self._numbers, edges, axis)
        # The layer runs in the model's own `no_grad`.
        with capture({name: self._survey.module(name)}) as captured:
            try:
                output = self._survey.forward()
                return owns_numbers(floating_tensors(output), list(captured.maps[name].values()), axis)
            except (CaptureError, CheckpointError):
                return False

    def _is_one_of_several(self, name: str) -> bool:
        """Whether some part of the output, such as another head's, does not depend on a layer."""
        if name not in self._several:
            other = self._paths.beside(name)
            # After the first few checks, only the graph decides: each check costs three forward passes.
            self._looks += other is not None
            graph_decides = not self._has_columns or self._looks > _MOST_LOOKS
            self._several[name] = other is not None and (graph_decides or not self._covers(name, other))
        return self._several[name]

    def _covers(self, name: str, other: str) -> bool:
        """Whether all columns of the output that depend on another layer also depend on this one."""
        with awakened(self._survey.model), torch.no_grad():
            plain = self._survey.forward()
            mine, others = (self._changed(plain, layer) for layer in (name, other))
        return mine is None or others is None or not bool((others & ~mine).any())

    def _changed(self, plain: Tensor, name: str) -> Tensor | None:
        """Which columns of the output change with a layer's values; ``None`` if the output's shape changes."""

        def disturbed(_module: nn.Module, _args: Any, output: Any) -> Any:
            found = level_maps(output)
            if found is None:
                return None
            tensors, rebuilt = found
            return rebuilt([tensor.flip(-1) + tensor.std().nan_to_num() + 1 for tensor in tensors])

        handle = self._survey.module(name).register_forward_hook(disturbed)
        try:
            output = self._survey.forward()
        finally:
            handle.remove()
        if output.shape != plain.shape:
            return None
        different: Tensor = (output != plain).transpose(0, 1).flatten(1).any(1)
        return different


def _regrouped(survey: Survey) -> str:
    """Names the last feature map whose rows are not the samples, for the error that no layer was found."""
    found = [seen for seen in survey.seen if len(seen.shape) in (4, 5) and seen.shape[0] != survey.samples]
    if not found:
        return ""
    rows, name = found[-1].shape[0], found[-1].name
    return f" ({name!r:.80} has {rows} rows for {survey.samples} samples: views or crops in the batch)"


def owns_numbers(numbers: Sequence[Tensor], edges: Sequence[Tensor] | Sequence[GradientEdge], axis: int) -> bool:
    """Whether each output number that depends on a layer depends on only one of its channels.

    This is true for logits in any order of axes, after scaling, a sigmoid or upsampling, and when several levels are
    joined. It is false after a linear layer, a norm over channels or a softmax. Channels are numbered in binary; for
    each digit, the channels with 0 and those with 1 are changed separately, and no output number may respond to both.

    Args:
        numbers: The output's tensors, attached to the graph, which is kept.
        edges: The layer's feature maps, or their positions in the graph.
        axis: Their channel axis, of length two or more.

    Returns:
        The result, which is also ``False`` if at most one channel affects the output, or if the operations after the
        layer can't be differentiated twice.

    Example:
        >>> x = torch.rand(1, 3, 2, 2, requires_grad=True)
        >>> owns_numbers([x.flatten(2).mT.sigmoid()], [x], 1), owns_numbers([x.softmax(1)], [x], 1)
        (True, False)
    """
    # Start with only the tensor with the fewest operations: a detector's boxes show that channels mix without a
    # backward pass through its keypoints, which takes longer than the rest of the model.
    ordered = nearest_first(numbers, [e if isinstance(e, Tensor) else (e.node, e.output_nr) for e in edges])
    follows = [(False, False)]
    # An in-place change or a missing second derivative means more than scaling or reordering.
    with suppress(RuntimeError), torch.enable_grad():
        for group in filter(None, (ordered[:1], ordered[1:])):
            weights = [torch.ones_like(tensor, requires_grad=True) for tensor in group]
            found = torch.autograd.grad(group, edges, weights, create_graph=True, allow_unused=True)
            slopes = [slope for slope in found if slope is not None and slope.requires_grad]
            if not slopes:
                continue
            bits = (slopes[0].shape[axis] - 1).bit_length()
            follows += [(False, False)] * (bits - len(follows))
            for bit in range(bits):
                ones, others = (_followed(slopes, weights, axis, bit, digit) for digit in (0, 1))
                if bool((ones & others).any()):
                    return False
                either = bool(ones.any()), bool(others.any())
                if not any(either):
                    break  # no output number responds to any channel
                follows[bit] = follows[bit][0] or either[0], follows[bit][1] or either[1]
        return any(map(all, follows))
    return False


def _followed(slopes: Sequence[Tensor], weights: Sequence[Tensor], axis: int, bit: int, digit: int) -> Tensor:
    """Returns which output numbers respond to the channels with a given binary digit at a given position."""
    # A gradient is linear in its weights: its derivative with respect to them shows how each number responds.
    moved = torch.stack([(slope * _step(slope, axis, bit, digit)).sum() for slope in slopes]).sum()
    changes = torch.autograd.grad(moved, list(weights), retain_graph=True, allow_unused=True)
    known = zip(changes, weights, strict=True)
    return torch.cat([(torch.zeros_like(weight) if c is None else c).flatten() != 0 for c, weight in known])


def _step(like: Tensor, axis: int, bit: int, digit: int) -> Tensor:
    """Returns a step along some channels of a layer; its size differs at every position, so steps do not cancel."""
    count = like.shape[axis]
    chosen = (torch.arange(count, device="cpu") >> bit & 1 == digit).reshape(-1, *[1] * (like.dim() - axis - 1))
    sizes = torch.rand(like.shape, generator=torch.Generator().manual_seed(0), device="cpu") + 0.5
    return (sizes * chosen).to(like)
