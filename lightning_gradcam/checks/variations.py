"""Computes maps under varied conditions: different classes, random weights, noisy images, random channel weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.checks.asking import Asked, Counter
from lightning_gradcam.checks.chance import Array
from lightning_gradcam.checks.redrawn import from_the_top, redrawn
from lightning_gradcam.compute.batches import explain_in_parts
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, TargetError
from lightning_gradcam.methods import MODEL, Method, resolve_methods
from lightning_gradcam.methods.components import weighted_at_random
from lightning_gradcam.record.cams import Cams
from lightning_gradcam.targets import Given, check_score, resolve_targets

Pair = tuple[str, str]
Maps = dict[Pair, Array]
# The noise relative to each image's standard deviation, and how often it may be halved if it changes the prediction.
_NOISE, _HALVED = 0.1, 4
# Number of random weightings of a layer's channels. A map that is better than all of them has p = 0.01.
_WEIGHTINGS = 99


@dataclass(frozen=True)
class Effort:
    """Amount of work: the number of random networks, cascade stages, other classes, and noisy versions per image."""

    networks: int
    stages: int
    others: int
    noisy: int
    quick: bool = False


FULL, QUICK = Effort(8, 4, 4, 3), Effort(6, 1, 4, 1, quick=True)


@dataclass(frozen=True, eq=False)
class Varied:
    """Maps for the same images under varied conditions.

    Attributes:
        others: Pairs of a different class for each image, ``[N]``, and the maps for it.
        cascade: Maps with random weights in only the last layer, up to all layers; each with the name of the lowest
            randomised layer.
        noise: The mean standard deviation of the noise, in the images' units.
        noisy: Maps for noisy images.
        smooth: Maps with random weights, averaged over noise; ``None`` if skipped.
        weighted: Random weightings of each layer's channels, ``[R, N, h, w]``.
    """

    others: list[tuple[Tensor, Maps]]
    cascade: list[tuple[str, Maps]]
    noise: float
    noisy: list[Maps]
    smooth: Maps | None
    weighted: dict[str, Array]

    @property
    def last(self) -> Maps:
        """The maps with all weights randomised."""
        return self.cascade[-1][1]


@dataclass(eq=False)
class Variations:
    """Computes maps for one set of images under varied conditions.

    Attributes:
        model: The model.
        inputs: The images ``[N, C, H, W]``.
        first: The maps under normal conditions.
        methods: The methods' names.
        counter: Calls the model and counts images.
        several: Whether classes are independent.
        batch_size: Maximum number of images per forward pass.
        effort: The amount of work.
        seed: Random seed for weights and noise.
        layouts: The user's layouts.
        tell: Function to call with the number of single-image forward passes done and :attr:`total`.
        total: Estimated number of single-image forward passes, known before the long part starts.
        classes: The explained class of each image, ``[N]``.
        asked: Queries the model for logits.
    """

    model: nn.Module
    inputs: Tensor
    first: Cams
    methods: list[str]
    counter: Counter
    several: bool
    batch_size: int
    effort: Effort
    seed: int
    layouts: Any
    tell: Callable[[int, int], None] | None
    total: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    classes: Tensor = field(init=False)
    asked: Asked = field(init=False)

    def __post_init__(self) -> None:
        (self.classes,) = self.first.classes.values()
        if bool((self.classes < 0).any()):
            raise TargetError("targets: at least one image has no class to explain; pass a class for every image")
        self.asked = Asked(self.counter, self.several, self.batch_size, self.moved)

    def moved(self, pictures: int) -> None:
        """Reports progress by the given number of images."""
        self.done = min(self.done + pictures, self.total)
        if self.tell is not None:
            self.tell(self.done, self.total)

    def varied(self, logits: Tensor) -> Varied:
        """Computes all variations; ``logits`` of the images select other classes. A quick check skips ``smooth``."""
        others, cascade, (noise, noisy) = self._others(logits), self._cascade(), self._noisy()
        smooth = self._redrawn_noisy(noisy) if noisy and not self.effort.quick else None
        return Varied(others, cascade, noise, noisy, smooth, self._weighted())

    def _weighted(self) -> dict[str, Array]:
        """Returns random weightings of each layer's channels, ``[R, N, h, w]``."""
        methods = {
            str(n): Method(partial(weighted_at_random, seed=n), "activations") for n in range(1, 1 + _WEIGHTINGS)
        }
        found = self._maps(self.inputs, self.classes, methods)
        layers = dict.fromkeys(layer for layer, _ in found)
        return {layer: np.stack([found[layer, name] for name in methods]) for layer in layers}

    def _others(self, logits: Tensor) -> list[tuple[Tensor, Maps]]:
        """Returns different classes and their maps: the most and least likely of the others, and some in between."""
        order = logits.argsort(dim=1, descending=True)
        rest = torch.stack([row[row != number] for row, number in zip(order, self.classes.cpu(), strict=True)])
        last = rest.shape[1] - 1
        places = list(dict.fromkeys([0, last, last // 2, last // 4]))[: self.effort.others]
        found = [(rest[:, place], self._maps(self.inputs, rest[:, place].to(self.inputs.device))) for place in places]
        return [(classes, maps) for classes, maps in found if maps]

    def _cascade(self) -> list[tuple[str, Maps]]:
        """Returns maps with random weights in only the last layer, up to all layers."""
        found = []
        for name, modules in from_the_top(self.model, self.effort.stages):
            with redrawn(modules, self.seed, lambda: self.asked.shown(self.inputs)):
                found.append((name or type(self.model).__name__, self._maps(self.inputs, self.classes)))
        return found

    def _noisy(self) -> tuple[float, list[Maps]]:
        """Returns the mean standard deviation of noise that does not change the prediction, and the maps under it.

        If even the weakest noise changes an image's prediction, its maps are NaN.
        """
        size = _NOISE * self.inputs.flatten(1).std(dim=1).cpu()
        drawn = [self._draw(number) for number in range(self.effort.noisy)]
        before = self.asked.logits(self.inputs).argmax(dim=1)
        for tries in range(1 + _HALVED):
            kept = [self.asked.logits(self._added(noise, size)).argmax(dim=1) == before for noise in drawn]
            same = torch.stack(kept).all(dim=0)
            if bool(same.all()) or tries == _HALVED:
                break
            size = torch.where(same, size, size / 2)
        found = [self._maps(self._added(noise, size), self.classes) for noise in drawn]
        for values in (values for maps in found for values in maps.values()):
            values[~same.numpy()] = np.nan
        return float(size[same].mean()), [maps for maps in found if maps]

    def _redrawn_noisy(self, noisy: list[Maps]) -> Maps:
        """Returns maps with random weights, averaged over noise, as in the smooth MPRT of Hedström et al. 2024."""
        ((_, modules),) = from_the_top(self.model, 1)
        size = _NOISE * self.inputs.flatten(1).std(dim=1).cpu()
        with redrawn(modules, self.seed, lambda: self.asked.shown(self.inputs)):
            found = [self._maps(self.inputs, self.classes)]
            found += [self._maps(self._added(self._draw(n), size), self.classes) for n in range(len(noisy))]
        found = [maps for maps in found if maps]
        return {pair: np.mean([maps[pair] for maps in found], axis=0) for pair in (found[0] if found else {})}

    def _draw(self, number: int) -> Tensor:
        # The same noise for every image: results must not depend on the batch.
        return torch.randn(
            self.inputs.shape[1:], generator=torch.Generator().manual_seed(self.seed + number), device="cpu"
        )

    def _added(self, noise: Tensor, size: Tensor) -> Tensor:
        return self.inputs + (size[:, None, None, None] * noise).to(self.inputs)

    def _maps(self, pictures: Tensor, classes: Tensor, methods: Mapping[str, Method] | None = None) -> Maps:
        """Returns signed maps for the given classes; empty if computing them fails."""
        before = self.counter.count
        asked = Request(
            resolve_targets("label"),
            resolve_methods(self.methods) if methods is None else methods,
            parse_layouts(self.layouts),
            self.counter,
            relu=False,
            batch_size=self.batch_size,
            check=False,
            keep_output=False,
        )
        given = Given(len(pictures), classes, score=check_score(self.first.score))
        layers = [name for name in dict.fromkeys(key.layer for key in self.first.maps) if name != MODEL]
        try:
            found = explain_in_parts(
                self.model, layers or list(self.first.layouts), Inputs(pictures).part, given, asked
            )
        except LightningGradCAMError:
            return {}
        backward = 2 * len(pictures) if methods is None else 0
        self.moved(self.counter.count - before + backward)
        return {pair: np.nan_to_num(values, posinf=0.0, neginf=0.0) for pair, values in arrays(found).items()}


def arrays(cams: Cams) -> Maps:
    """Returns signed maps as float64, by layer and method."""
    found = {}
    for key, values in cams.maps.items():
        if values.dim() != 3:
            raise ConfigurationError(
                f"layers: {key.layer!r} has maps {list(values.shape)}; check_maps needs one map per image, [N, h, w]"
            )
        found[key.layer, key.method] = values.detach().double().cpu().numpy()
    return found
