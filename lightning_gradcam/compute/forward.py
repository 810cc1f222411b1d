"""One explanation: the forward that all layers, targets and methods share, and the methods that run the model again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import isfinite, nan, prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import Captured, capture, require_gradients
from lightning_gradcam.capture.calls import MapPlace, layer_of
from lightning_gradcam.capture.inputs import Forward, Inputs, detached, with_gradient
from lightning_gradcam.capture.inspection import Survey, mixed
from lightning_gradcam.capture.layers import LISTING, is_channels_first, unwrapped
from lightning_gradcam.capture.layout import Layout, check_places, find_layout, input_size
from lightning_gradcam.capture.obstacles import obstacle, quantised_part
from lightning_gradcam.compute.blank import causes_of
from lightning_gradcam.compute.levels import Choice, Unit, choices, merged, units_of
from lightning_gradcam.errors import CaptureError, LayerError, MethodError, TargetError, listed
from lightning_gradcam.methods import MODEL, Method
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

# Of as many classes, sorting all is faster than looking for the highest five times.
_LIKELIEST, _FEW = 5, 128
NO_LAYER = "(none)"


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


@dataclass(eq=False)
class Explanation:
    """What is asked of a model.

    Attributes:
        model: The model, in evaluation mode.
        run: From inputs to the explained output.
        inputs: The batch.
        targets: What is explained.
        methods: How, by name.
        given: What targets may look at besides the output.
        given_layouts: What the user says of layouts, by layer name; ``""`` stands for all.
        copies: The model changes a layer's output in place, and goes on with copies; becomes true where that is found.
        gradients: Put the gradients into numbers, too.
        halve: Run fewer variants of the samples at once where memory does not suffice.
    """

    model: nn.Module
    run: Forward
    inputs: Inputs
    targets: Sequence[Target]
    methods: Mapping[str, Method]
    given: Given
    given_layouts: Mapping[str, str]
    copies: bool = False
    gradients: bool = False
    halve: bool = True
    _searching: bool = field(default=False, init=False)

    @property
    def survey(self) -> Survey:
        """A look at the model with two of the samples; only where it is needed."""
        return self._look[0]

    @cached_property
    def _look(self) -> tuple[Survey, Inputs, Given]:
        """The survey, its samples, and what targets may look at of these."""
        try:
            return self._surveyed(self.inputs.part(0, 2), self.given.part(0, min(2, self.given.samples)))
        except Exception:
            # An input that all samples share can happen to have as many entries as there are samples, and a model of
            # bags may take no other number.
            return self._surveyed(self.inputs, self.given)

    def _surveyed(self, inputs: Inputs, given: Given) -> tuple[Survey, Inputs, Given]:
        def forward() -> Any:
            # Where the search follows the graph, it begins at the picture: weights may be frozen.
            graph = torch.is_grad_enabled() and inputs.picture.is_floating_point()
            return self.run(inputs.fresh(with_gradient(inputs.picture) if graph else None))

        survey = Survey(
            self.model,
            forward,
            samples=inputs.samples,
            picture=input_size(inputs.picture),
            given=self.given_layouts,
            own=inputs.picture,
            again=lambda picture: self.run(inputs.fresh(picture)),
            graph=self._searching,
        )
        return survey, inputs, given

    @cached_property
    def _search(self) -> tuple[Survey, Given]:
        """The survey that is asked what the targets depend on; of all samples where a callable can't do with two.

        Raises:
            Exception: What a callable target raises, as it came.
        """
        survey, inputs, given = self._look
        with suppress(Exception):
            self._try(inputs, given)
            return survey, given
        self._try(self.inputs, self.given)
        return self._surveyed(self.inputs, self.given)[0], self.given

    def _try(self, inputs: Inputs, given: Given) -> None:
        """Calls callable targets with the model as it is: in a search they may fail because the weights are others."""
        if any(target.select.is_particular for target in self.targets):
            with torch.no_grad():
                self._particular(self.run(inputs.fresh()), given)

    def _particular(self, output: Any, given: Given) -> list[Tensor]:
        """The scores of the targets that may look at a part of the output alone."""
        return [t.select.explain(output, given, t.name).scores for t in self.targets if t.select.is_particular]

    def auto(self) -> str:
        """Returns the layer that ``"auto"`` means."""
        self._searching = True
        try:
            return self._search[0].auto(self._meant)
        except LayerError as error:
            if why := obstacle(self.model):
                raise LayerError(f"layers: 'auto' finds no layer to explain: {why}") from None
            if isinstance(cause := self._of_whole_numbers(), TargetError):
                raise cause from None
            raise error
        finally:
            self._searching = False

    def calls(self, name: str) -> int:
        """Returns how often the forward calls a layer."""
        return self.survey.calls(name)

    def _of_whole_numbers(self) -> TargetError | None:
        """Returns the error about an output of whole numbers, where it is one."""
        if not any(method.needs == "gradients" for method in self.methods.values()):
            return None
        with torch.no_grad():
            output = self.run(self._look[1].fresh())
        return whole_numbers(output) if is_whole_numbers(output) else None

    def _meant(self, output: Any) -> Tensor:
        """One number that depends on all that the targets may look at, of the survey's samples."""
        try:
            own = self._particular(output, self._search[1])
        except Exception:  # under other weights a detector may find nothing, and a callable count on finding something
            own = []
        return mixed(own if len(own) == len(self.targets) else output)

    def possible(self, room: int) -> str:
        """Returns which layers could be named, for errors: all, or the last five where these take too much room."""
        try:
            names = list(self.survey.spatial())
        except Exception as error:  # the model itself fails; what was wrong before is what counts
            return f"unknown ({type(error).__name__}: {error})"[:room]
        whole = ", ".join(names)
        if len(whole) <= room:
            return whole or NO_LAYER
        tail = f" (the last of {len(names)}; `{LISTING}` lists all)"
        return f"{listed(names[:-6:-1], room=room - len(tail))}{tail}"

    def at(self, modules: Mapping[str, nn.Module], *, relu: bool, check: bool = True) -> Cams:
        """Computes the maps of these layers, by name; see :func:`lightning_gradcam.compute_cams`.

        Args:
            modules: Layer name to module.
            relu: Keep only what speaks for the target.
            check: Make sure that gradients which are zero everywhere are not so by construction.
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
        if check:
            if self._of_classes:
                check_classes(first.output, given.labels, given.names)
            # One look at all of them: each would wait for the device.
            totals = torch.stack([values.sum() for values in first.maps.values()]).tolist() if first.maps else []
            sums = dict(zip(first.maps, totals, strict=True))
            self._check_dependence(first, sums)
            self._remark(given)
        found = dict(first.maps)
        again = RerunModel(self.model, self.run, self.inputs, first.explained, whole_graph, self.halve)
        if check or any(method.needs in ("model", "rerun") for method in self.methods.values()):
            again = replace(again, axes=self.axes(first.layouts))
        for name, method in self.methods.items():
            if method.needs == "model":
                self._put(found, MODEL, name, method.function(Rerun(again)), targets=self.targets)
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
                        self._put({}, layer, name, parts[number], targets=self.targets)
                    for row, target in enumerate(self.targets):
                        own = {number: maps[row] for number, maps in parts.items()}
                        found[CamKey(layer, name, target.name)] = choice.merged(own, target.name)
        order = [CamKey(x, m, t.name) for x in [*modules, MODEL] for t in self.targets for m in self.methods]
        # Where a sum is finite, so are its parts, and there is nothing to mark.
        finite = {name: bool(sums) and isfinite(float(e.scores.sum())) for name, e in first.explained.items()}
        marked = {
            key: found[key]
            if finite[key.target] and isfinite(sums.get(key, nan))
            else _marked(found[key], first.explained[key.target].scores)
            for key in order
            if key in found
        }
        maps = {key: relu_step(values) if relu else values for key, values in marked.items()}
        # A callable may take an output that has no row for each sample: a bag's, or every window's.
        rows = isinstance(first.output, Tensor) and first.output.shape[:1] == (self.inputs.samples,)
        classes = rows and all(target.select.has_classes for target in self.targets)
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
        return self.survey.axes

    @property
    def _of_classes(self) -> bool:
        """Whether any target explains a class's own score."""
        return any(isinstance(target.select, (Class, Contrast, Segment)) for target in self.targets)

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
        with capture(modules, whole_graph=whole_graph, copies=self.copies) as captured:
            picture = with_gradient(self.inputs.picture) if whole_graph else None
            output = self.run(self.inputs.fresh(picture))
            if captured.overwritten:
                raise _OverwrittenError
            captured.unhook()
            units = units_of(captured)
            self._lay_out(units, modules)
            given = replace(self.given, kind=output_kind(output))
            explained = {target.name: target.explain(output, given) for target in self.targets}
            pure = self._pure(captured, units, explained, output, strict=whole_graph)
            if pure is None:
                return None
            parts, summaries, blanks = pure
            chosen = choices(units, [target.name for target in self.targets], self.inputs.samples)
            maps, causes = merged(parts, chosen), merged(blanks, chosen)
            gradients = {
                (layer, target.name): choice.summary(
                    [summaries[unit.name, target.name] for unit in choice.units], target.name
                )
                for layer, choice in chosen.items()
                for target in self.targets
                if (choice.units[0].name, target.name) in summaries
            }
            again = any(method.needs == "rerun" for method in self.methods.values())
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
            )

    def _lay_out(self, units: Mapping[str, Unit], modules: Mapping[str, nn.Module]) -> None:
        """Finds what the axes of every map mean; of a layer with several, some may have no places."""
        for layer, module in modules.items():
            own = [unit for unit in units.values() if unit.layer == layer]
            for unit in own:
                try:
                    unit.layout = self.layout_of(layer, module, unit.activation, single=len(own) > 1)
                except LayerError as error:
                    if len(own) == 1:
                        raise
                    unit.error = error
            errors = [unit.error for unit in own if unit.error is not None]
            if len(errors) == len(own):
                raise errors[0]
            if not any(unit.layout is not None and prod(unit.layout.grid) > 1 for unit in own):
                check_places(layer, own[0].activation.shape, own[0].layout or Layout("NCHW", (1, 1)))

    def layout_of(self, name: str, module: nn.Module, activation: Tensor, *, single: bool = False) -> Layout:
        """Returns what the axes of a layer's activation mean.

        Args:
            name: The layer's.
            module: The layer.
            activation: Its output.
            single: A single place will do: it is one of several levels.

        Raises:
            LayerError: It has no places, or what the user says of it does not fit.
        """
        first = activation.dim() > 3 and is_channels_first(unwrapped(module), activation.shape)
        given, samples = self._given_layout(name), self.inputs.samples
        # Signals, and frames that are folded into the batch: the shapes alone do not tell.
        signal = self.inputs.picture.dim() < 4 and activation.dim() == 3
        unknown = given is None and activation.dim() > 2 and (signal or activation.shape[0] != samples)
        layout = (
            None
            if unknown
            else find_layout(
                name,
                activation.shape,
                last=False if first else None,
                sure=True,
                samples=samples,
                picture=input_size(self.inputs.picture),
                given=given,
            )
        )
        if layout is None:
            # Nothing but the modules that ran tells: its axes hold for any number of samples.
            seen = self.survey.layout(name)
            if "L" in seen.axes and len(seen.grid) > 1 and self._other_tokens(activation, seen):
                raise LayerError(
                    f"layers: {name!r} gives {list(activation.shape)} for {self.inputs.samples} samples, and tokens"
                    f" {seen} for the first of them: as many tokens for each batch are needed"
                )
            shape = [size for size, axis in zip(activation.shape, seen.axes, strict=True) if axis not in "NCL"]
            layout = seen if "L" in seen.axes else replace(seen, grid=tuple(shape))
            if seen.fold:
                layout = replace(seen, grid=(activation.shape[0] // samples, *(shape or seen.grid[1:])))
            elif len(seen.grid) == 1:
                layout = replace(seen, grid=tuple(activation.shape[2:]))
        if not single:
            check_places(name, activation.shape, layout)
        return layout

    def _other_tokens(self, activation: Tensor, layout: Layout) -> bool:
        sizes = dict(zip(layout.axes, activation.shape, strict=True))
        frames, left = divmod(sizes["N"], self.inputs.samples)
        return left > 0 or (frames != 1 and not layout.fold) or sizes["L"] != layout.tokens

    def _given_layout(self, name: str) -> str | None:
        given = self.given_layouts
        return given.get(name, given.get(layer_of(name), given.get("")))

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
        needed = [name for name, method in self.methods.items() if method.needs == "gradients"]
        for target in self.targets:
            if not needed and not several:
                break
            last = target is self.targets[-1]
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
                if self.gradients:
                    summaries[unit, target.name] = summarised(layout.of_rows(own), explained[target.name].scores)
                for name in needed:
                    signed = layout.unfolded(self.methods[name].function(features[unit], own))
                    self._put(found, unit, name, signed[None], targets=[target], grid=layout.grid)
                keys = [CamKey(unit, name, target.name) for name in needed]
                blanks = {key: found[key] for key in keys}
                causes.update(causes_of(blanks, layout.of_rows(features[unit]), layout.of_rows(own)))
        for name, method in self.methods.items():
            for layer in features if method.needs == "activations" else ():
                signed = layouts[layer].unfolded(method.function(features[layer]))
                for target in self.targets:
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
        needed = [name for name, method in self.methods.items() if method.needs == "gradients"]
        if not needed:
            return
        # Where a map is not zero, neither is its gradient; nearly always its sum tells.
        alive = [
            any(
                sums[key] != 0 or bool(first.maps[key].any())
                for key in (CamKey(layer, name, target.name) for name in needed for target in self.targets)
            )
            for layer in first.layouts
        ]
        for layer, reached in zip(first.layouts, alive, strict=True):
            if reached:
                continue
            survey = self._search[0]
            if survey.alive(self._meant, [layer]) or not survey.has_map(layer):
                continue
            instead = survey.instead_of(layer, self._meant, later=False)
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
            survey, name = self._search[0], min(missing)
            instead = survey.instead_of(name, self._meant, later=True) or survey.instead_of(
                name, self._meant, later=False
            )
            raise CaptureError(f"{error}, for instance {instead!r}" if instead else str(error)) from None


def _marked(maps: Tensor, scores: Tensor) -> Tensor:
    """Puts NaN into the maps of samples whose score is not finite: ReLUs pass no gradient there, which looks clean.

    And where a map itself is infinite: the ReLU that follows would make a clean zero of what is below.
    """
    finite = scores.isfinite().reshape(-1, *[1] * (maps.dim() - 1))
    return torch.where(finite & maps.isfinite(), maps, torch.nan)


def _likeliest(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the most likely classes and their probabilities ``[N, k]``; of equals the first, as `topk` does not."""
    if shares.shape[1] <= _FEW:
        values, indices = shares.sort(dim=1, descending=True, stable=True)
        return indices[:, :_LIKELIEST], values[:, :_LIKELIEST]
    left, classes, found = shares.clone(), [], []
    for _ in range(min(_LIKELIEST, shares.shape[1])):
        highest = left.max(dim=1, keepdim=True)
        classes.append(highest.indices)
        found.append(highest.values)
        left.scatter_(1, highest.indices, -1.0)
    return torch.cat(classes, dim=1), torch.cat(found, dim=1)
