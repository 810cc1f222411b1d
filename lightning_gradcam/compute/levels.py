"""Layers with several feature maps: each sample is explained at the one that determines its score.

A detector's pyramid returns one level in each entry of a dict, and its head is called once for each level. The score of
a box depends on only one level, and the boxes of a batch can come from different levels. All maps of such a layer have
the size of its finest level; coarser ones are enlarged by repetition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from lightning_gradcam.capture.activations import Captured
from lightning_gradcam.capture.calls import MapPlace, call_of
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.errors import LayerError
from lightning_gradcam.methods.variants import full_precision
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.gradients import GradientSummary

# A level counts for a sample if its gradient is at least this fraction of the strongest level's: a softmax over all
# boxes passes a small gradient to every level.
_LEAST_SHARE = 1e-3


@dataclass(eq=False)
class Unit:
    """One feature map of a layer.

    Attributes:
        name: The layer's name, with the call and the index of the map if there are several.
        layer: The layer's name.
        place: The map's call and index in the layer.
        activation: The layer's unchanged output, attached to the graph.
        layout: The meaning of the activation's axes.
        error: Why the activation has no layout.
        strengths: The sum of the gradient's magnitudes ``[N]``, by target name.
    """

    name: str
    layer: str
    place: MapPlace
    activation: Tensor
    layout: Layout | None = None
    error: LayerError | None = None
    strengths: dict[str, Tensor] = field(default_factory=dict)

    def slopes(self, gradient: Tensor | None, target: str, *, several: bool) -> Tensor | None:
        """Returns a target's gradient as feature maps; ``None`` if there is no gradient or no layout.

        Args:
            gradient: The gradient with respect to the activation.
            target: The target's name.
            several: Whether the layer has several maps; gradient strengths then decide between them.

        Raises:
            LayerError: The target depends on a map with an unknown layout.
        """
        if gradient is None:
            return None
        if self.layout is None:
            if self.error is not None and bool((gradient != 0).any()):
                raise self.error
            return None
        found = full_precision(self.layout.rows(gradient))
        if several:
            sizes = self.layout.unfolded(found.detach()).abs()
            self.strengths[target] = sizes.flatten(1).sum(1, dtype=torch.float64)
        return found


@dataclass(frozen=True, eq=False)
class Choice:
    """Which of a layer's maps explains each sample.

    Attributes:
        units: The maps on which the scores depend through the graph, the preferred one first.
        layout: The layout of the layer's merged maps, that of the finest unit.
        places: The index of each sample's unit ``[N]``, by target name.
    """

    units: Sequence[Unit]
    layout: Layout
    places: Mapping[str, Tensor]

    def used(self) -> list[int]:
        """Returns the indices of the units at which any sample is explained."""
        if len(self.units) == 1:
            return [0]
        return sorted({int(place) for places in self.places.values() for place in places.tolist()})

    def merged(self, maps: Mapping[int, Tensor], target: str) -> Tensor:
        """Merges the units' maps into one ``[N, *S]`` tensor, with each sample's map from its own unit.

        Args:
            maps: The maps ``[N, *S]`` of the units in use, by unit index.
            target: The target's name.
        """
        first = next(iter(maps.values()))
        if len(self.units) == 1:
            return first
        sized = {unit: self._resized(values, unit) for unit, values in maps.items()}
        found = torch.zeros_like(next(iter(sized.values())))
        for unit, values in sized.items():
            mine = (self.places[target] == unit).reshape(-1, *[1] * (values.dim() - 1))
            found = torch.where(mine, values, found)
        return found

    def summary(self, parts: Sequence[GradientSummary[Tensor]], target: str) -> GradientSummary[Tensor]:
        """Merges gradient statistics, with each sample's from its own level."""
        if len(parts) == 1:
            return parts[0]
        arrays, rows = [part.arrays() for part in parts], self.places[target]

        def own(name: str, values: Tensor) -> Tensor:
            every = [array[name] for array in arrays]
            # Levels with fewer channels list fewer channels.
            most = min((values.shape[1] for values in every), default=0) if values.dim() > 1 else None
            stacked = torch.stack([values if most is None else values[:, :most] for values in every])
            return stacked[rows, torch.arange(len(rows), device=rows.device)]

        return parts[0].each(own)

    def names(self, target: str) -> tuple[str, ...]:
        """Returns the name of each sample's unit; empty if the layer has only one unit."""
        if len(self.units) == 1:
            return ()
        return tuple(self.units[place].name for place in self.places[target].tolist())

    def _resized(self, maps: Tensor, unit: int) -> Tensor:
        own = self.units[unit].layout
        assert own is not None
        if tuple(maps.shape[1:]) != tuple(own.grid) or tuple(own.grid) == tuple(self.layout.grid):
            return maps
        return functional.interpolate(maps[:, None], size=tuple(self.layout.grid), mode="nearest-exact")[:, 0]


def units_of(captured: Captured) -> dict[str, Unit]:
    """Returns all feature maps at which layers may be explained, by name; each layer's preferred one first."""
    found: dict[str, Unit] = {}
    for layer, maps in captured.maps.items():
        if len(maps) == 1:
            place, activation = next(iter(maps.items()))
            found[layer] = Unit(layer, layer, place, activation)
            continue
        calls, numbers = {place.call for place in maps}, {place.tensor for place in maps}
        for place, activation in maps.items():
            name = layer if len(calls) == 1 or call_of(layer) is not None else f"{layer}#{place.call}"
            name = name if len(numbers) == 1 else f"{name}[{place.tensor}]"
            found[name] = Unit(name, layer, place, activation)
    return found


def choices(units: Mapping[str, Unit], targets: Sequence[str], samples: int) -> dict[str, Choice]:
    """Chooses, for each layer, the map at which each sample is explained.

    This is the first map with a gradient, in order of preference: the last call before earlier ones, and a pyramid's
    first level before later ones.

    Args:
        units: All maps of all layers.
        targets: The targets' names.
        samples: Number of samples.

    Returns:
        Choices by layer name.
    """
    layers: dict[str, list[Unit]] = {}
    for unit in units.values():
        layers.setdefault(unit.layer, []).append(unit)
    found: dict[str, Choice] = {}
    for layer, whole in layers.items():
        known = [unit for unit in whole if unit.layout is not None]
        own = [unit for unit in known if unit.strengths] or known[:1]
        finest = max((unit.layout for unit in own if unit.layout is not None), key=lambda layout: prod(layout.grid))
        places = {target: _deciding(own, target, samples) for target in targets} if len(own) > 1 else {}
        found[layer] = Choice(own, finest, places)
    return found


def _deciding(units: Sequence[Unit], target: str, samples: int) -> Tensor:
    device = units[0].activation.device
    none = torch.zeros(samples, device=device, dtype=torch.float64)
    strengths = torch.stack([unit.strengths.get(target, none).to(device) for unit in units])
    strengths = strengths.nan_to_num(nan=1e300, posinf=1e300)
    # Calls with maps of equal size are not levels: any gradient counts, and a pair of images uses the last call.
    levels = len({unit.layout.grid for unit in units if unit.layout is not None}) > 1
    counts = (strengths > 0) & (strengths >= (_LEAST_SHARE if levels else 0.0) * strengths.amax(0))
    order = torch.arange(len(units), 0, -1, device=device)[:, None]
    # If no level has a gradient, keep the preferred one.
    counts[0] |= ~counts.any(0)
    return (counts * order).argmax(0)


def merged(parts: Mapping[CamKey, Tensor], chosen: Mapping[str, Choice]) -> dict[CamKey, Tensor]:
    """Merges maps by unit into maps by layer.

    Args:
        parts: Maps keyed by unit name instead of layer name.
        chosen: Choices by layer name.
    """
    found: dict[CamKey, Tensor] = {}
    for layer, choice in chosen.items():
        numbers = {unit.name: number for number, unit in enumerate(choice.units)}
        own: dict[CamKey, dict[int, Tensor]] = {}
        for key, maps in parts.items():
            if key.layer in numbers:
                own.setdefault(key._replace(layer=layer), {})[numbers[key.layer]] = maps
        found.update({key: choice.merged(maps, key.target) for key, maps in own.items()})
    return found
