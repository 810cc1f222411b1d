"""The forward pass shared by all layers, targets and methods, and the maps computed from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from lightning_gradcam.capture.activations import Captured, capture
from lightning_gradcam.capture.calls import MapPlace
from lightning_gradcam.capture.inputs import detached, with_gradient
from lightning_gradcam.capture.layout import Layout, check_places
from lightning_gradcam.capture.moved import LayerMap
from lightning_gradcam.compute.blank import causes_of, rounding
from lightning_gradcam.compute.checks import require_reached
from lightning_gradcam.compute.levels import Choice, Unit, choices, merged, units_of
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import LayerError, MethodError, TargetError
from lightning_gradcam.methods.variants import full_precision
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.gradients import GradientSummary, summarised
from lightning_gradcam.targets import Given, Scored, output_kind
from lightning_gradcam.targets.reading import is_whole_numbers, whole_numbers


class _OverwrittenError(Exception):
    """The forward pass modified a stored activation."""


class _ShortGraphError(Exception):
    """A gradient is missing and the graph does not start at the input."""


@dataclass(frozen=True, eq=False)
class Shared:
    """The results of the forward pass shared by all layers, targets and methods.

    Attributes:
        chosen: The feature map at which each sample is explained, by layer name.
        explained: Scores and choices by target name.
        maps: Signed maps from the methods that use only activations and gradients.
        causes: Why maps are blank.
        gradients: Gradient statistics by ``(layer, target)``.
        output: The model's output, detached.
        given: The targets' additional data, including the kind of output.
        seen: The data needed to check for moved positions, by feature map name.
        copies: Whether the model continued with copies of the activations, because it modifies them in place.
        whole_graph: Whether the graph started at the input.
    """

    chosen: Mapping[str, Choice]
    explained: Mapping[str, Scored]
    maps: Mapping[CamKey, Tensor]
    causes: Mapping[CamKey, Tensor]
    gradients: Mapping[tuple[str, str], GradientSummary[Tensor]]
    output: Any
    given: Given
    seen: Mapping[str, LayerMap]
    copies: bool
    whole_graph: bool

    @property
    def layouts(self) -> dict[str, Layout]:
        """Layouts by layer name."""
        return {layer: choice.layout for layer, choice in self.chosen.items()}


def shared_forward(search: Search, modules: Mapping[str, nn.Module]) -> Shared:
    """Runs the model once, and again only if the short graph or the missing copies caused a failure.

    Args:
        search: The model, the request and the samples.
        modules: Modules by layer name.
    """
    copies, whole_graph = search.asked.copies, False
    while True:
        try:
            return _forward(search, modules, copies=copies, whole_graph=whole_graph)
        except _OverwrittenError:
            copies = True
        except (CheckpointError, _ShortGraphError):
            # A model that switches grad mode in its own forward pass or checkpoints activations loses the short graph.
            if whole_graph:
                raise
            whole_graph = True
        except RuntimeError as error:
            if copies or not re.search("in-?place", str(error)):
                raise
            copies = True


def _forward(search: Search, modules: Mapping[str, nn.Module], *, copies: bool, whole_graph: bool) -> Shared:
    asked, inputs = search.asked, search.inputs
    together = asked.trial and search.needs_look(modules)
    with capture(modules, whole_graph=whole_graph or together, copies=copies) as captured:
        picture = with_gradient(inputs.picture) if whole_graph else None
        output = search.look(captured.unhook) if together else asked.run(inputs.fresh(picture))
        if captured.overwritten:
            raise _OverwrittenError
        captured.unhook()
        units = units_of(captured)
        lay_out(search, units, modules)
        given = replace(search.given, kind=output_kind(output))
        explained = {target.name: target.explain(output, given) for target in asked.targets}
        maps, causes, summaries = _explain(search, captured, units, explained, output, strict=whole_graph)
        chosen = choices(units, list(explained), inputs.samples)
        gradients = {
            (layer, target): choice.summary([summaries[unit.name, target] for unit in choice.units], target)
            for target in explained
            for layer, choice in chosen.items()
            if (choice.units[0].name, target) in summaries
        }
        watched = asked.moves or (search.searched if asked.trial else search.looked)
        used = [choice.units[number] for choice in chosen.values() for number in choice.used()] if watched else []
        seen = {unit.name: _seen(unit, modules[unit.layer]) for unit in used}
        again = any(method.needs == "rerun" for method in asked.methods.values())
        for unit in units.values():
            unit.activation = unit.activation.detach() if again else unit.activation.new_empty(0)
        return Shared(
            chosen,
            {name: replace(scored, scores=scored.scores.detach()) for name, scored in explained.items()},
            merged(maps, chosen),
            merged(causes, chosen),
            gradients,
            detached(output),
            given,
            seen,
            copies,
            whole_graph,
        )


class _Layouts(Protocol):
    """Returns the layout of an activation; :meth:`Search.layout_of` documents the arguments."""

    def layout_of(self, name: str, module: nn.Module, activation: Tensor, *, single: bool = False) -> Layout: ...


def lay_out(search: _Layouts, units: Mapping[str, Unit], modules: Mapping[str, nn.Module]) -> None:
    """Finds the layout of every map; if a layer has several maps, some may have no spatial axes."""
    for layer, module in modules.items():
        own = [unit for unit in units.values() if unit.layer == layer]
        for unit in own:
            try:
                unit.layout = search.layout_of(layer, module, unit.activation, single=len(own) > 1)
            except LayerError as error:
                if len(own) == 1:
                    raise
                unit.error = error
        errors = [unit.error for unit in own if unit.error is not None]
        if len(errors) == len(own):
            raise errors[0]
        if not any(unit.layout is not None and prod(unit.layout.grid) > 1 for unit in own):
            check_places(layer, own[0].activation.shape, own[0].layout or Layout("NCHW", (1, 1)))


_Summaries = dict[tuple[str, str], GradientSummary[Tensor]]


def _explain(
    search: Search,
    captured: Captured,
    units: Mapping[str, Unit],
    explained: Mapping[str, Scored],
    output: Any,
    *,
    strict: bool,
) -> tuple[dict[CamKey, Tensor], dict[CamKey, Tensor], _Summaries]:
    """Returns maps by unit, causes of blank maps, and gradient statistics.

    Only the methods that need just activations and gradients are included. Also stores the strength of each unit's
    gradient in the unit.
    """
    found, causes, summaries = dict[CamKey, Tensor](), dict[CamKey, Tensor](), _Summaries()
    asked, samples = search.asked, search.inputs.samples
    layouts = {name: unit.layout for name, unit in units.items() if unit.layout is not None}
    # Frames folded into the batch are separate images: each has its own channel weights.
    features = {name: full_precision(layout.rows(units[name].activation.detach())) for name, layout in layouts.items()}
    several = any(name != unit.layer for name, unit in units.items())
    needed = [name for name, method in asked.methods.items() if method.needs == "gradients"]
    for target, scored in explained.items() if needed or several else ():
        last = target == asked.targets[-1].name
        by_layer = captured.level_gradients(scored.scores, retain_graph=not last)
        if not strict and any(all(g is None for g in levels.values()) for levels in by_layer.values()):
            raise _ShortGraphError
        slopes = _slopes(units, by_layer, target)
        by_layer.clear()
        if not needed:
            continue
        if scored.is_cut_off:
            raise TargetError(
                f"targets: the scores returned by the callable {target!r} have no gradient, because it leaves the "
                "graph through detach(), torch.no_grad() or NumPy; use only torch functions to compute them from "
                "the output"
            )
        if strict and is_whole_numbers(output) and not scored.scores.requires_grad:
            raise whole_numbers(output)
        require_reached(search, {unit.layer for unit in units.values()} - {units[name].layer for name in slopes})
        for unit in list(slopes):
            own, layout = slopes.pop(unit), layouts[unit]
            if asked.gradients:
                summaries[unit, target] = summarised(layout.of_rows(own), scored.scores)
            maps, noise = dict[CamKey, Tensor](), dict[CamKey, Tensor]()
            for name in needed:
                key = CamKey(unit, name, target)
                signed = asked.methods[name].function(features[unit], own)
                fits = signed.shape == own.shape[:1] + own.shape[2:]
                if fits and (rounded := rounding(name, signed, features[unit], own)) is not None:
                    signed = signed.masked_fill(rounded.reshape(-1, *[1] * (signed.dim() - 1)), 0)
                    noise[key] = layout.unfolded(rounded)
                maps[key] = checked_maps(layout.unfolded(signed), unit, name, [samples, *layout.grid])
            looked = layout.of_rows(features[unit]), layout.of_rows(own)
            causes.update(causes_of(maps, *looked, constant=scored.constant, noise=noise, zero=scored.zero))
            found.update(maps)
    for name, method in asked.methods.items():
        for unit in features if method.needs == "activations" else ():
            signed = layouts[unit].unfolded(method.function(features[unit]))
            signed = checked_maps(signed, unit, name, [samples, *layouts[unit].grid])
            found.update({CamKey(unit, name, target): signed for target in explained})
    return found, causes, summaries


def _slopes(
    units: Mapping[str, Unit], gradients: dict[str, dict[MapPlace, Tensor | None]], target: str
) -> dict[str, Tensor]:
    """Returns the gradients as feature maps, for the units that have one."""
    found: dict[str, Tensor] = {}
    for name, unit in units.items():
        slopes = unit.slopes(gradients[unit.layer].pop(unit.place), target, several=name != unit.layer)
        if slopes is not None:
            found[name] = slopes
    return found


def checked_maps(maps: Tensor, layer: str, method: str, expected: Sequence[int], *, places: bool = False) -> Tensor:
    """Returns a method's maps if they have the expected shape; ``places`` adds one to three spatial axes.

    Raises:
        MethodError: The maps have a different shape.
    """
    shape, wanted = list(maps.shape), [*expected, "h", "w"] if places else list(expected)
    if shape != wanted and not (places and shape[:2] == list(expected) and len(shape) in (3, 4, 5)):
        raise MethodError(f"methods: {method!r} returned {shape} at layer {layer!r}, expected {wanted}")
    return maps


def _seen(unit: Unit, module: nn.Module) -> LayerMap:
    assert unit.layout is not None
    # Copy, so that the rest of the batch is freed.
    return LayerMap(module, unit.place, unit.layout, unit.layout.rows(unit.activation.detach())[:2].clone())
