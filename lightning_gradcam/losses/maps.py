"""Computes differentiable maps from a watched forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lightning_gradcam.capture.graph import differentiate, require_gradients
from lightning_gradcam.compute.blank import rounding
from lightning_gradcam.compute.forward import checked_maps
from lightning_gradcam.compute.levels import Unit, choices
from lightning_gradcam.losses.watch import Watch
from lightning_gradcam.methods import Method, relu
from lightning_gradcam.methods.variants import full_precision
from lightning_gradcam.targets import Scored


def maps_of(watch: Watch, explained: Mapping[str, Scored], *, graph: bool) -> Iterator[tuple[str, Tensor]]:
    """Yields the layer's name and the maps ``[N, *S]`` after the ReLU, for each layer, method and target.

    A map that is only rounding error counts as blank, because its values are noise.

    Args:
        watch: The watched forward pass, with its layouts.
        explained: Scores by target name.
        graph: Whether to make the maps differentiable.

    Raises:
        CaptureError: No gradient reaches a layer.
        LayerError: The score depends on a level without spatial axes.
        MethodError: A method returns maps of the wrong shape.
    """
    units, methods = watch.units, watch.asked.methods
    features = {n: full_precision(u.layout.rows(u.activation)) for n, u in units.items() if u.layout is not None}
    slopes: dict[str, dict[str, Tensor]] = {}
    several = any(name != unit.layer for name, unit in units.items())
    for target, scored in explained.items():
        if several or any(method.needs == "gradients" for method in methods.values()):
            slopes[target] = _slopes(units, scored.scores, target, graph=graph, several=several)
            reached = {units[name].layer for name in slopes[target]}
            require_gradients({layer: None for layer in watch.modules if layer not in reached})
    samples = len(next(iter(explained.values())).scores)
    for layer, choice in choices(units, list(explained), samples).items():
        for target in explained:
            for name, method in methods.items():
                own = {
                    number: _map(unit, name, method, features[unit.name], slopes.get(target, {}).get(unit.name))
                    for number, unit in enumerate(choice.units)
                }
                yield layer, relu(choice.merged(own, target))


def _slopes(units: Mapping[str, Unit], scores: Tensor, target: str, *, graph: bool, several: bool) -> dict[str, Tensor]:
    """Returns the gradients as feature maps, for the units that have one."""
    activations = [unit.activation for unit in units.values()]
    gradients = differentiate(scores, activations, retain_graph=True, create_graph=graph)
    return {
        name: own
        for (name, unit), gradient in zip(units.items(), gradients, strict=True)
        if (own := unit.slopes(gradient, target, several=several)) is not None
    }


def _map(unit: Unit, name: str, method: Method, features: Tensor, slopes: Tensor | None) -> Tensor:
    assert unit.layout is not None
    if method.needs == "activations":
        signed = method.function(features)
    else:
        slopes = torch.zeros_like(features) if slopes is None else slopes
        signed = method.function(features, slopes)
        fits = signed.shape == features.shape[:1] + features.shape[2:]
        if fits and (noise := rounding(name, signed.detach(), features.detach(), slopes.detach())) is not None:
            signed = signed.masked_fill(noise.reshape(-1, *[1] * (signed.dim() - 1)), 0)
    samples = len(features) // (unit.layout.grid[0] if unit.layout.fold else 1)
    return checked_maps(unit.layout.unfolded(signed), unit.name, name, [samples, *unit.layout.grid])
