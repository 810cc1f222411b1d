"""One check: all that is asked of a model, inside the guard, and the verdicts on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Forward, Inputs
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.checks.asking import Asked, dependence, emptied, knowledge, without_class
from lightning_gradcam.checks.chance import random_maps
from lightning_gradcam.checks.faithful import RANDOM, faithful
from lightning_gradcam.checks.figures import against_weights, evidence, largest_change, mean, on_object
from lightning_gradcam.checks.hiding import forwards
from lightning_gradcam.checks.redrawn import from_the_top, redrawn
from lightning_gradcam.checks.result import Evidence, MapCheck
from lightning_gradcam.checks.similarity import (
    signed_correlation,
    signed_rank_correlation,
    structural_similarity,
)
from lightning_gradcam.checks.verdicts import MapVerdict, advise, decide
from lightning_gradcam.compute.batches import explain_in_parts
from lightning_gradcam.compute.request import Request
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, TargetError
from lightning_gradcam.methods import MODEL, resolve_methods
from lightning_gradcam.record.cams import Cams
from lightning_gradcam.targets import Given, check_score, resolve_targets

Array = npt.NDArray[np.float64]
Pair = tuple[str, str]
Maps = dict[Pair, Array]
# The noise, as a share of each picture's own spread, and how often it is halved where it changes the prediction.
_NOISE, _HALVED = 0.1, 4
# What an emptied picture has to lose, as a probability, for hiding pixels to tell anything.
_LOST = 0.05


@dataclass(frozen=True)
class Effort:
    """How much is done: of networks with random weights, stages of the cascade, other classes, and noisy pictures."""

    networks: int
    stages: int
    others: int
    noisy: int


FULL, QUICK = Effort(8, 4, 3, 3), Effort(6, 1, 2, 1)


class Counter:
    """Calls the model, and counts the pictures that it gets."""

    def __init__(self, run: Forward) -> None:
        self._run = run
        self.count = 0

    def __call__(self, values: Any) -> Any:
        """Returns the model's output."""
        self.count += len(values)
        return self._run(values)


@dataclass(eq=False)
class Measuring:
    """One check: the model, the pictures, and the classes that are explained."""

    model: nn.Module
    inputs: Tensor
    first: Cams
    methods: list[str]
    counter: Counter
    several: bool
    batch_size: int
    effort: Effort
    seed: int
    layouts: Any = None
    total: int = 0
    done: int = 0
    tell: Callable[[int, int], None] | None = None
    asked: Asked = field(init=False)

    def __post_init__(self) -> None:
        (classes,) = self.first.classes.values()
        if bool((classes < 0).any()):
            raise TargetError("targets: a picture has no class to explain; give one class for each")
        self.classes = classes
        self.asked = Asked(self.counter, self.several, self.batch_size, self._moved)

    def checked(self, masks: Tensor | None, tell: Callable[[int, int], None] | None, *, quick: bool) -> MapCheck:
        """Measures everything, and decides."""
        maps, count = _arrays(self.first), len(self.inputs)
        each = self.counter.count + 2 * count * len({key.target for key in self.first.maps})
        self.tell, self.total = tell, self._cost(each, len(maps), quick=quick)
        self._moved(0)
        finite = {pair: np.asarray(np.isfinite(values).all(axis=(1, 2))) for pair, values in maps.items()}
        # A map that is not finite shows nothing.
        maps = {pair: np.where(finite[pair][:, None, None], values, 0.0) for pair, values in maps.items()}
        versions = torch.cat([self.inputs[None], emptied(self.inputs)])
        logits = self.asked.logits(versions.flatten(0, 1)).view(len(versions), count, -1)
        shares = self.asked.probabilities(logits)
        known = shares.gather(2, self.classes.cpu().expand(len(versions), -1)[..., None])[..., 0].double()
        chance = 0.5 if self.several or self.asked.single else 1 / logits.shape[-1]
        way = without_class(known[0], known[1:], chance)
        self.empty = versions[1:].permute(1, 0, 2, 3, 4)[torch.arange(count), way.to(versions.device)]
        ends = known[0].numpy(), known[1:].gather(0, way[None])[0].numpy()
        shared: dict[str, float] = {
            "pictures": count,
            "confidence": float(ends[0].mean()),
            "emptied_confidence": float(ends[1].mean()),
            "dependence": dependence(self.asked, logits[[0, 3, 4]]),
            "learnt": self._learnt(versions[[0, 3, 4]], knowledge(self.asked, logits[[0, 3, 4]])),
        }
        others = self._others(logits[0])
        cascade = self._cascade()
        noise, noisy = self._noisy()
        smooth = self._redrawn_noisy(noisy) if noisy and not quick else None
        verdicts: dict[Pair, MapVerdict] = {}
        for pair, own in maps.items():
            figures = dict(shared)
            figures |= evidence(own, finite[pair])
            usable = (own > 0).any(axis=(1, 2)) & (ends[0] - ends[1] >= _LOST)
            generator = np.random.default_rng(self.seed)
            fake = [random_maps(one, RANDOM, generator) for one in own]
            last = cascade[-1][1].get(pair)
            figures |= faithful(
                self.asked,
                self.inputs,
                self.empty,
                self.classes,
                own,
                fake,
                last,
                usable,
                quick=quick,
                seed=self.seed,
                generator=generator,
            )
            figures |= against_weights(own, fake, last)
            if smooth is not None:
                averaged = np.mean([own, *(maps[pair] for maps in noisy)], axis=0)
                figures["random_weights_correlation_smooth"] = mean(
                    signed_rank_correlation(averaged, smooth[pair]) if pair in smooth else np.array([np.nan])
                )
            figures["class_correlation"] = self._alike(own, [found[pair] for found in others])
            figures |= {"noise": noise, "largest_change": largest_change(own, [m[pair] for m in noisy])}
            figures |= {} if masks is None else on_object(own, masks)
            steps = tuple(
                (name, mean(signed_rank_correlation(own, found[pair])), mean(structural_similarity(own, found[pair])))
                for name, found in cascade
                if pair in found
            )
            verdict, reason = decide(figures)
            verdicts[pair] = MapVerdict(*pair, verdict, reason, "", figures, steps)
        verdicts = {pair: replace(row, advice=advise(row, verdicts)) for pair, row in verdicts.items()}
        self._finished()
        shown = Evidence(
            self.inputs.detach().float().cpu().numpy(),
            tuple(map(str, range(count))),
            tuple(map(str, self.classes.tolist())),
            ends[0],
            {
                pair: {
                    "map": own,
                    **({"other class": others[0][pair]} if others else {}),
                    **({"random weights": cascade[-1][1][pair]} if pair in cascade[-1][1] else {}),
                }
                for pair, own in maps.items()
            },
        )
        return MapCheck(verdicts, count, self.total, quick, shown)

    def _cost(self, each: int, pairs: int, *, quick: bool) -> int:
        count, effort = len(self.inputs), self.effort
        passes = effort.others + effort.stages + effort.noisy + (0 if quick else 1 + effort.noisy)
        networks = effort.networks * 6 * count
        return each * passes + networks + 6 * count + pairs * count * (RANDOM + 3) * forwards(quick=quick)

    def _moved(self, pictures: int) -> None:
        self.done = min(self.done + pictures, self.total)
        if self.tell is not None:
            self.tell(self.done, self.total)

    def _finished(self) -> None:
        if self.done < self.total:
            self._moved(self.total - self.done)

    def _maps(self, pictures: Tensor, classes: Tensor) -> Maps:
        """Returns signed maps of given classes; nothing where the model, as it is, lets none be computed."""
        before = self.counter.count
        asked = Request(
            resolve_targets("label"),
            resolve_methods(self.methods),
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
        self._moved(self.counter.count - before + 2 * len(pictures))
        return {pair: np.nan_to_num(values, posinf=0.0, neginf=0.0) for pair, values in _arrays(found).items()}

    def _learnt(self, versions: Tensor, own: tuple[float, float]) -> float:
        """How many times as much the output depends on the picture as with any random weights, by the clearer sign."""
        flat, everything = versions.flatten(0, 1), from_the_top(self.model, 1)[-1][1]
        moved = [(0.0, 0.0)]
        for number in range(self.effort.networks):
            with redrawn(everything, self.seed + number, lambda: self.asked.logits(flat)):
                logits = self.asked.logits(flat).view(len(versions), len(self.inputs), -1)
            if bool(logits.isfinite().all()):
                moved.append(knowledge(self.asked, logits))
        most = [max(values) for values in zip(*moved, strict=True)]
        return max(
            mine / other if other > 0 else float(mine > 0) * np.inf for mine, other in zip(own, most, strict=True)
        )

    def _others(self, logits: Tensor) -> list[Maps]:
        """Maps of other classes: each picture's second most likely, its least likely, and one between."""
        order = logits.argsort(dim=1, descending=True)
        own = self.classes.cpu()
        rest = torch.stack([row[row != number] for row, number in zip(order, own, strict=True)])
        last = rest.shape[1] - 1
        places = list(dict.fromkeys([0, last, last // 2]))[: self.effort.others]
        found = [self._maps(self.inputs, rest[:, place].to(self.inputs.device)) for place in places]
        return [maps for maps in found if maps]

    def _alike(self, own: Array, others: list[Array]) -> float:
        """How much the maps of other classes are the same map; of two, one is naturally the other's negative."""
        if not others:
            return float("nan")
        found = np.array([signed_correlation(own, other) for other in others])
        found = found if self._two_classes else np.abs(found)
        found = found[:, np.isfinite(found).any(axis=0)]
        return float(np.median(np.nanmin(found, axis=0))) if found.size else float("nan")

    @property
    def _two_classes(self) -> bool:
        return self.asked.single or len(self.first.likeliest[0] if self.first.likeliest is not None else []) == 2

    def _cascade(self) -> list[tuple[str, Maps]]:
        """Maps with random weights, from the last layer alone to all layers."""
        found = []
        for name, modules in from_the_top(self.model, self.effort.stages):
            with redrawn(modules, self.seed, lambda: self.counter(self.inputs.clone())):
                found.append((name or type(self.model).__name__, self._maps(self.inputs, self.classes)))
        return found

    def _noisy(self) -> tuple[float, list[Maps]]:
        """Maps under noise that does not change the prediction, and the noise's mean size in the pictures' units."""
        spread = self.inputs.flatten(1).std(dim=1).cpu()
        size = _NOISE * spread
        drawn = [self._draw(number) for number in range(self.effort.noisy)]
        before = self.asked.logits(self.inputs).argmax(dim=1)
        for _ in range(_HALVED):
            same = torch.stack([self.asked.logits(self._added(noise, size)).argmax(dim=1) == before for noise in drawn])
            if bool(same.all()):
                break
            size = torch.where(same.all(dim=0), size, size / 2)
        found = [self._maps(self._added(noise, size), self.classes) for noise in drawn]
        return float(size.mean()), [maps for maps in found if maps]

    def _redrawn_noisy(self, noisy: list[Maps]) -> Maps:
        """Maps of random weights, averaged over noise: the smoothed variant (sMPRT) of Hedström et al. 2024."""
        _, modules = from_the_top(self.model, 1)[-1]
        size = _NOISE * self.inputs.flatten(1).std(dim=1).cpu()
        with redrawn(modules, self.seed, lambda: self.counter(self.inputs.clone())):
            found = [self._maps(self.inputs, self.classes)]
            found += [self._maps(self._added(self._draw(n), size), self.classes) for n in range(len(noisy))]
        found = [maps for maps in found if maps]
        return {pair: np.mean([maps[pair] for maps in found], axis=0) for pair in (found[0] if found else {})}

    def _draw(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + number)
        # The same for every picture: a result does not depend on the batch.
        return torch.randn(self.inputs.shape[1:], generator=generator)

    def _added(self, noise: Tensor, size: Tensor) -> Tensor:
        return self.inputs + (size[:, None, None, None] * noise).to(self.inputs)


def _arrays(cams: Cams) -> Maps:
    found = {}
    for key, values in cams.maps.items():
        if values.dim() != 3:
            raise ConfigurationError(
                f"layers: {key.layer!r} gives maps {list(values.shape)}; check_maps takes maps of pictures, [N, h, w]"
            )
        found[key.layer, key.method] = values.detach().double().cpu().numpy()
    return found
