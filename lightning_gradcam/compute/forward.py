"""One explanation: the forward that all layers, targets and methods share, and the methods that run the model again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import isfinite, nan, prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import Captured, capture
from lightning_gradcam.capture.calls import MapPlace, layer_of
from lightning_gradcam.capture.gradients import require_gradients
from lightning_gradcam.capture.inputs import Inputs, detached, with_gradient
from lightning_gradcam.capture.layout import Layout, check_places
from lightning_gradcam.capture.moved import LayerMap
from lightning_gradcam.capture.obstacles import quantised_part
from lightning_gradcam.compute.blank import causes_of
from lightning_gradcam.compute.levels import Choice, Unit, choices, merged, units_of
from lightning_gradcam.compute.pictures import frames_seen, seen_elsewhere
from lightning_gradcam.compute.request import Request
from lightning_gradcam.compute.rounding import rounding
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import CaptureError, LayerError, MethodError, TargetError
from lightning_gradcam.methods import MODEL
from lightning_gradcam.methods import relu as relu_step
from lightning_gradcam.methods.rerun import Rerun
from lightning_gradcam.methods.variants import RerunModel, full_precision
from lightning_gradcam.record.cams import CamKey, Cams
from lightning_gradcam.record.gradients import GradientSummary, summarised
from lightning_gradcam.targets import (
    Given,
    Scored,
    Target,
    check_classes,
    class_probabilities,
    explained_score,
    no_class_in,
    output_kind,
    probability_of,
)
from lightning_gradcam.targets.base import is_whole_numbers, whole_numbers
from lightning_gradcam.targets.classes import Class, Contrast
from lightning_gradcam.targets.segmentation import Segment
from lightning_gradcam.warn import warn

_LIKELIEST = 10


class _OverwrittenError(Exception):
    """The forward has changed an activation that was stored."""


@dataclass(frozen=True, eq=False)
class Shared:
    """What the forward that all layers, targets and methods share has given."""

    chosen: Mapping[str, Choice]
    layouts: Mapping[str, Layout]
    explained: Mapping[str, Scored]
    maps: Mapping[CamKey, Tensor]
    output: Any
    gradients: Mapping[tuple[str, str], GradientSummary[Tensor]]
    given: Given
    causes: Mapping[CamKey, Tensor]
    seen: Mapping[str, LayerMap]


@dataclass(eq=False)
class Explanation:
    """What is asked of a model, with the samples.

    Attributes:
        model: The model, in evaluation mode.
        asked: What is asked.
        inputs: The batch.
        given: What targets may look at besides the output.
        copies: The model changes a layer's output in place, and goes on with copies; becomes true where that is found.
    """

    model: nn.Module
    asked: Request
    inputs: Inputs
    given: Given
    copies: bool = field(init=False)

    def __post_init__(self) -> None:
        self.copies = self.asked.copies

    @cached_property
    def search(self) -> Search:
        """The search for layers and layouts; it runs nothing before it is asked."""
        return Search(self.model, self.asked, self.inputs, self.given)

    def at(self, modules: Mapping[str, nn.Module]) -> Cams:
        """Computes the maps of these layers, by name; see :func:`lightning_gradcam.compute_cams`.

        Args:
            modules: Layer name to module.
        """
        try:
            first = self._first(modules, whole_graph=False)
        except CheckpointError:
            first = None
        # A model that switches grad mode in its own forward, or checkpoints activations, drops the short graph.
        whole_graph = first is None
        first = self._first(modules, whole_graph=True) if first is None else first
        assert first is not None
        given = first.given
        sums: dict[CamKey, float] = {}
        if self.asked.check:
            if self._of_classes:
                check_classes(first.output, given.labels, given.names)
            # One look at all of them: each would wait for the device.
            totals = torch.stack([values.sum() for values in first.maps.values()]).tolist() if first.maps else []
            sums = dict(zip(first.maps, totals, strict=True))
            self._check_dependence(first, sums)
            self._remark(given)
            self._remark_on_pictures(modules)
            self._remark_on_frames({n: m for n, m in modules.items() if len(first.layouts[n].grid) == 2})
        if first.seen:
            self.search.check_moves(first.seen, self.axes(first.layouts))
        found = dict(first.maps)
        again = RerunModel(self.model, self.asked.run, self.inputs, first.explained, whole_graph, self.asked.halve)
        if self.asked.check or any(method.needs in ("model", "rerun") for method in self.asked.methods.values()):
            axes = self.axes(first.layouts)
            again = replace(again, axes=axes) if axes else again
        for name, method in self.asked.methods.items():
            if method.needs == "model":
                self._put(found, MODEL, name, method.function(Rerun(again)), targets=self.asked.targets)
            elif method.needs == "rerun":
                for layer, module in modules.items():
                    choice, parts = first.chosen[layer], dict[int, Tensor]()
                    for number in choice.used():
                        unit = choice.units[number]
                        rerun = partial(
                            Rerun,
                            layer=layer,
                            module=module,
                            activation=unit.activation,
                            layout=unit.layout,
                            place=unit.place,
                        )
                        try:
                            parts[number] = method.function(rerun(again))
                        except (CaptureError, CheckpointError):
                            if again.whole_graph:
                                raise
                            # A method that needs no gradient of the first forward has not shown that it drops the
                            # graph.
                            again = replace(again, whole_graph=True)
                            parts[number] = method.function(rerun(again))
                        self._put({}, layer, name, parts[number], targets=self.asked.targets)
                    for row, target in enumerate(self.asked.targets):
                        own = {number: maps[row] for number, maps in parts.items()}
                        found[CamKey(layer, name, target.name)] = choice.merged(own, target.name)
        order = [
            CamKey(x, m, t.name) for x in [*modules, MODEL] for t in self.asked.targets for m in self.asked.methods
        ]
        # Where a sum is finite, so are its parts, and there is nothing to mark.
        finite = {name: bool(sums) and isfinite(float(e.scores.sum())) for name, e in first.explained.items()}
        marked = {
            key: found[key]
            if finite[key.target] and isfinite(sums.get(key, nan))
            else _marked(found[key], first.explained[key.target].scores)
            for key in order
            if key in found
        }
        maps = {key: relu_step(values) if self.asked.relu else values for key, values in marked.items()}
        # A callable may take an output that has no row for each sample: a bag's, or every window's.
        rows = isinstance(first.output, Tensor) and first.output.shape[:1] == (self.inputs.samples,)
        classes = rows and all(target.select.has_classes for target in self.asked.targets)
        classes = classes and no_class_in(first.output, given.labels) is None
        shares = class_probabilities(detached(first.output), given.chances, given.kind) if classes else None
        ranked = None if shares is None else _likeliest(shares)
        return Cams(
            MappingProxyType(maps),
            MappingProxyType({name: full_precision(e.scores.detach()) for name, e in first.explained.items()}),
            MappingProxyType({name: e.classes for name, e in first.explained.items()}),
            detached(first.output),
            None if ranked is None else ranked[0][:, 0],
            None if ranked is None else ranked[1][:, 0],
            MappingProxyType(dict(first.layouts)),
            self.copies,
            {} if shares is None else {n: probability_of(shares, e.classes) for n, e in first.explained.items()},
            likeliest=None if ranked is None else ranked[0],
            likeliest_confidence=None if ranked is None else ranked[1],
            gradients=first.gradients,
            levels={
                (layer, target): choice.names(target)
                for layer, choice in first.chosen.items()
                for target in choice.places
            },
            causes=first.causes,
            score=explained_score(given.score, given.kind) if self._of_classes else given.score,
            axes=again.axes,
        )

    def axes(self, layouts: Mapping[str, Layout]) -> str:
        """Returns what the input's axes mean where its layers show more than its shape; ``""`` where they do not.

        Args:
            layouts: Those of the layers.
        """
        if not any(layout.fold or len(layout.grid) == 1 for layout in layouts.values()):
            return ""
        return self.search.survey.axes

    @property
    def _of_classes(self) -> bool:
        """Whether any target explains a class's own score."""
        return any(isinstance(target.select, (Class, Contrast, Segment)) for target in self.asked.targets)

    def _remark(self, given: Given) -> None:
        """Warns, once a run, where probabilities are explained and logits were asked for."""
        name = {"softmax": "softmax", "sigmoid": "sigmoid"}.get(given.kind)
        if name is None or given.score != "logit" or given.first or not self._of_classes:
            return
        warn(
            f"lightning-gradcam: the model ends in a {name}: percentages are its output as it is, and the maps explain"
            " this probability, whose gradient vanishes where the model is sure. To explain the logit, return it from"
            f" forward() and apply the {name} outside the model; where the model returns both, name the logit with"
            " output_key=; or give a forward without the last layer (forward=, of a callback forward_fn=)"
        )

    def _remark_on_pictures(self, modules: Mapping[str, nn.Module]) -> None:
        """Warns, once a run, where a layer's map has places of another picture than the one it is shown over."""
        if self.given.first or self.inputs.pictures < 2:
            return
        own = list(self.inputs.picture.shape)
        for layer, other in seen_elsewhere(self.asked.run, self.inputs, modules).items():
            name = layer_of(layer)
            instead = f"call of it ({name + '#0'!r})" if self.search.calls(name) > 1 else "layer"
            warn(
                f"lightning-gradcam: layer {layer!r} sees another of the inputs ({other}) than the picture ({own}): its"
                " maps show places of that other one. Name that tensor with picture=, or another"
                f" {instead} that sees the picture"
            )

    def _remark_on_frames(self, modules: Mapping[str, nn.Module]) -> None:
        """Warns, once a run, where a layer sees only some frames of a clip, or one picture of a pair."""
        if self.given.first:
            return
        for layer, (axis, seen, count) in frames_seen(self.asked.run, self.inputs, modules).items():
            name, shape = layer_of(layer), list(self.inputs.picture.shape)
            calls = f" (a call of {name!r} each: '{name}#0', …)" if self.search.calls(name) > 1 else ""
            warn(
                f"lightning-gradcam: layer {layer!r} sees {', '.join(map(str, seen[:5]))} alone of the {count} along"
                f" axis {axis} of the input {shape}: its maps belong to that part, whatever part of the input they are"
                f" drawn over{calls}"
            )

    def _first(self, modules: Mapping[str, nn.Module], *, whole_graph: bool) -> Shared | None:
        """The forward that all share, without copies of activations where nothing overwrites them."""
        try:
            return self._shared(modules, whole_graph=whole_graph)
        except _OverwrittenError:
            pass
        except RuntimeError as error:
            if self.copies or isinstance(error, CheckpointError) or not re.search("in-?place", str(error)):
                raise
        self.copies = True
        return self._shared(modules, whole_graph=whole_graph)

    def _shared(self, modules: Mapping[str, nn.Module], *, whole_graph: bool) -> Shared | None:
        """``None`` where a gradient is missing and the whole graph has not been tried."""
        together = self.asked.trial and self.search.needs_look(modules)
        with capture(modules, whole_graph=whole_graph or together, copies=self.copies) as captured:
            picture = with_gradient(self.inputs.picture) if whole_graph else None
            output = self.search.look(captured.unhook) if together else self.asked.run(self.inputs.fresh(picture))
            if captured.overwritten:
                raise _OverwrittenError
            captured.unhook()
            units = units_of(captured)
            self._lay_out(units, modules)
            given = replace(self.given, kind=output_kind(output))
            explained = {target.name: target.explain(output, given) for target in self.asked.targets}
            pure = self._pure(captured, units, explained, output, strict=whole_graph)
            if pure is None:
                return None
            parts, summaries, blanks = pure
            chosen = choices(units, [target.name for target in self.asked.targets], self.inputs.samples)
            maps, causes = merged(parts, chosen), merged(blanks, chosen)
            gradients = {
                (layer, target.name): choice.summary(
                    [summaries[unit.name, target.name] for unit in choice.units], target.name
                )
                for target in self.asked.targets
                for layer, choice in chosen.items()
                if (choice.units[0].name, target.name) in summaries
            }
            watched = self.asked.moves or (self.search.searched if self.asked.trial else self.search.looked)
            seen = {unit.name: _seen(unit, modules) for unit in _used(chosen)} if watched else {}
            again = any(method.needs == "rerun" for method in self.asked.methods.values())
            for unit in units.values():
                unit.activation = unit.activation.detach() if again else unit.activation.new_empty(0)
            return Shared(
                chosen,
                {layer: choice.layout for layer, choice in chosen.items()},
                {name: replace(e, scores=e.scores.detach()) for name, e in explained.items()},
                maps,
                detached(output),
                gradients,
                given,
                causes,
                seen,
            )

    def _lay_out(self, units: Mapping[str, Unit], modules: Mapping[str, nn.Module]) -> None:
        """Finds what the axes of every map mean; of a layer with several, some may have no places."""
        for layer, module in modules.items():
            own = [unit for unit in units.values() if unit.layer == layer]
            for unit in own:
                try:
                    unit.layout = self.search.layout_of(layer, module, unit.activation, single=len(own) > 1)
                except LayerError as error:
                    if len(own) == 1:
                        raise
                    unit.error = error
            errors = [unit.error for unit in own if unit.error is not None]
            if len(errors) == len(own):
                raise errors[0]
            if not any(unit.layout is not None and prod(unit.layout.grid) > 1 for unit in own):
                check_places(layer, own[0].activation.shape, own[0].layout or Layout("NCHW", (1, 1)))

    def _pure(
        self,
        captured: Captured,
        units: Mapping[str, Unit],
        explained: Mapping[str, Scored],
        output: Any,
        *,
        strict: bool,
    ) -> tuple[dict[CamKey, Tensor], dict[tuple[str, str], GradientSummary[Tensor]], dict[CamKey, Tensor]] | None:
        """Maps of the methods that are functions of activations and gradients, by unit, and the gradients in numbers.

        ``None`` where a gradient is missing. Besides, why maps are blank, and the units learn how strong their
        gradients are.
        """
        found: dict[CamKey, Tensor] = {}
        causes: dict[CamKey, Tensor] = {}
        summaries: dict[tuple[str, str], GradientSummary[Tensor]] = {}
        layouts = {name: unit.layout for name, unit in units.items() if unit.layout is not None}
        # Frames that are folded into the batch are pictures of their own: each weighs its channels by itself.
        features = {
            name: full_precision(layout.rows(units[name].activation.detach())) for name, layout in layouts.items()
        }
        several = any(name != unit.layer for name, unit in units.items())
        needed = [name for name, method in self.asked.methods.items() if method.needs == "gradients"]
        for target in self.asked.targets:
            if not needed and not several:
                break
            last = target is self.asked.targets[-1]
            by_layer = captured.level_gradients(explained[target.name].scores, retain_graph=not last)
            if not strict and any(all(g is None for g in levels.values()) for levels in by_layer.values()):
                return None
            slopes = self._slopes(units, by_layer, target.name)
            by_layer.clear()
            if not needed:
                continue
            if explained[target.name].is_cut_off:
                raise TargetError(
                    f"targets: the scores of the callable {target.name!r} have no gradient: it leaves the graph, by a"
                    " detach(), torch.no_grad() or NumPy; compute them from the output by torch functions alone"
                )
            if strict and is_whole_numbers(output) and not explained[target.name].scores.requires_grad:
                raise whole_numbers(output)
            self._require({unit.layer for unit in units.values()} - {units[name].layer for name in slopes})
            for unit in list(slopes):
                own, layout = slopes.pop(unit), layouts[unit]
                if self.asked.gradients:
                    summaries[unit, target.name] = summarised(layout.of_rows(own), explained[target.name].scores)
                noise: dict[CamKey, Tensor] = {}
                for name in needed:
                    signed = self.asked.methods[name].function(features[unit], own)
                    if signed.shape == own.shape[:1] + own.shape[2:]:
                        rounded = rounding(name, signed, features[unit], own)
                        if rounded is not None:
                            signed = signed.masked_fill(rounded.reshape(-1, *[1] * (signed.dim() - 1)), 0)
                            noise[CamKey(unit, name, target.name)] = layout.unfolded(rounded)
                    self._put(found, unit, name, layout.unfolded(signed)[None], targets=[target], grid=layout.grid)
                keys = [CamKey(unit, name, target.name) for name in needed]
                blanks = {key: found[key] for key in keys}
                looked = layout.of_rows(features[unit]), layout.of_rows(own)
                causes.update(causes_of(blanks, *looked, constant=explained[target.name].constant, noise=noise))
        for name, method in self.asked.methods.items():
            for layer in features if method.needs == "activations" else ():
                signed = layouts[layer].unfolded(method.function(features[layer]))
                for target in self.asked.targets:
                    self._put(found, layer, name, signed[None], targets=[target], grid=layouts[layer].grid)
        return found, summaries, causes

    def _slopes(
        self, units: Mapping[str, Unit], gradients: dict[str, dict[MapPlace, Tensor | None]], target: str
    ) -> dict[str, Tensor]:
        """The gradients as feature maps, by unit; of those that have one."""
        found: dict[str, Tensor] = {}
        for name, unit in units.items():
            gradient = gradients[unit.layer].pop(unit.place)
            if gradient is None:
                continue
            if unit.layout is None:
                if unit.error is not None and bool((gradient != 0).any()):
                    raise unit.error
                continue
            found[name] = full_precision(unit.layout.rows(gradient))
            if name != unit.layer:
                strengths = unit.layout.unfolded(found[name]).abs()
                unit.strengths[target] = strengths.flatten(1).sum(1, dtype=torch.float64)
        return found

    def _put(
        self,
        found: dict[CamKey, Tensor],
        layer: str,
        method: str,
        maps: Tensor,
        *,
        targets: Sequence[Target],
        grid: Sequence[int] | None = None,
    ) -> None:
        """Files maps ``[T, N, *S]``, where they are that."""
        expected = [len(targets), self.inputs.samples, *(grid or ())]
        fits = list(maps.shape) == expected if grid else list(maps.shape[:2]) == expected and maps.dim() in (3, 4, 5)
        if not fits:
            came, wanted = (list(maps.shape)[1:], expected[1:]) if grid else (list(maps.shape), [*expected, "h", "w"])
            raise MethodError(f"methods: {method!r} returned {came} at layer {layer!r}, expected {wanted}")
        found.update({CamKey(layer, method, target.name): maps[place] for place, target in enumerate(targets)})

    def _check_dependence(self, first: Shared, sums: Mapping[CamKey, float]) -> None:
        """Refuses a layer on whose places no score can depend, whatever the weights; ``sums`` are those of its maps."""
        needed = [name for name, method in self.asked.methods.items() if method.needs == "gradients"]
        if not needed:
            return
        # Where a map is not zero, neither is its gradient; nearly always its sum tells.
        alive = [
            any(
                sums[key] != 0 or bool(first.maps[key].any())
                for key in (CamKey(layer, name, target.name) for name in needed for target in self.asked.targets)
            )
            for layer in first.layouts
        ]
        for layer, reached in zip(first.layouts, alive, strict=True):
            if reached:
                continue
            if self.search.is_reached(layer):
                continue
            instead = self.search.instead_of(layer, later=False)
            why = (
                "what follows reads its class or register tokens alone"
                if first.layouts[layer].extra
                else "nothing that follows reads it"
            )
            raise LayerError(
                f"layers: the gradient at {layer!r} is zero everywhere by construction: {why}; name"
                f" {repr(instead) if instead else 'an earlier layer'} instead"
            )

    def _require(self, missing: set[str]) -> None:
        """Refuses layers that no gradient reaches."""
        try:
            require_gradients(dict.fromkeys(sorted(missing)))
        except CaptureError as error:
            if why := quantised_part(self.model):
                raise CaptureError(f"layers: no gradient reaches {min(missing)!r:.80}: {why}") from None
            # Behind it, where a part of the model runs without a graph; or before it, where it does not lead there.
            name = min(missing)
            instead = self.search.instead_of(name, later=True) or self.search.instead_of(name, later=False)
            raise CaptureError(f"{error}, for instance {instead!r}" if instead else str(error)) from None


def _used(chosen: Mapping[str, Choice]) -> list[Unit]:
    return [choice.units[number] for choice in chosen.values() for number in choice.used()]


def _seen(unit: Unit, modules: Mapping[str, nn.Module]) -> LayerMap:
    assert unit.layout is not None
    # A copy, so that the rest of the batch is freed.
    return LayerMap(
        modules[unit.layer], unit.place, unit.layout, unit.layout.rows(unit.activation.detach())[:2].clone()
    )


def _marked(maps: Tensor, scores: Tensor) -> Tensor:
    """Puts NaN into the maps of samples whose score is not finite: ReLUs pass no gradient there, which looks clean.

    And where a map itself is infinite: the ReLU that follows would make a clean zero of what is below.
    """
    finite = scores.isfinite().reshape(-1, *[1] * (maps.dim() - 1))
    return torch.where(finite & maps.isfinite(), maps, torch.nan)


def _likeliest(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the most likely classes and their probabilities ``[N, k]``; of equals the first, as `topk` does not."""
    if shares.device.type == "cpu" and shares.shape[1] > _LIKELIEST:
        # Sorting thousands of classes takes twenty times as long.
        values, indices = shares.topk(_LIKELIEST + 1)
        if bool((values.diff(dim=1) < 0).all()):
            return indices[:, :_LIKELIEST], values[:, :_LIKELIEST]
    values, indices = shares.sort(dim=1, descending=True, stable=True)
    return indices[:, :_LIKELIEST], values[:, :_LIKELIEST]
