"""Runs a check of maps: inside the guard, chunk by chunk, with the cost stated before the long part begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Forward, Inputs, caller
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.checks.asking import Asked, dependence, emptied, knowledge, without_class
from lightning_gradcam.checks.chance import either, p_value, random_maps, standing
from lightning_gradcam.checks.hiding import forwards, hide_and_ask
from lightning_gradcam.checks.redrawn import from_the_top, redrawn
from lightning_gradcam.checks.result import Evidence, MapCheck
from lightning_gradcam.checks.similarity import (
    complexity,
    signed_correlation,
    signed_rank_correlation,
    structural_similarity,
)
from lightning_gradcam.checks.verdicts import MapVerdict, advise, decide
from lightning_gradcam.compute.batches import explain_in_parts
from lightning_gradcam.compute.callers import eager
from lightning_gradcam.compute.cam_maps import compute_cams
from lightning_gradcam.compute.request import Request
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, TargetError
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.methods import MODEL, available_methods, resolve_methods
from lightning_gradcam.record.cams import Cams
from lightning_gradcam.stats.masks import inside, points_inside
from lightning_gradcam.stats.numbers import drift
from lightning_gradcam.targets import Given, TargetSpec, check_score, resolve_targets
from lightning_gradcam.targets.classes import Class

Array = npt.NDArray[np.float64]
Pair = tuple[str, str]
Maps = dict[Pair, Array]
# The fewest random maps with which one picture alone comes to p = 0.05.
_RANDOM = 20
# How many more a map's agreement is compared with, which ask the model nothing.
_COMPARED = 200
# The noise, as a share of each picture's own spread, and how often it is halved where it changes the prediction.
_NOISE, _HALVED = 0.1, 4
# Random weights under which nothing moves at all are as good as any that much smaller.
_MOST = 1e6
# What an emptied picture has to lose, as a probability, for hiding pixels to tell anything.
_LOST = 0.05


@dataclass(frozen=True)
class _Effort:
    """How much is done: of networks with random weights, stages of the cascade, other classes, and noisy pictures."""

    networks: int
    stages: int
    others: int
    noisy: int


_FULL, _QUICK = _Effort(8, 4, 3, 3), _Effort(6, 1, 2, 1)


def check_maps(
    model: nn.Module,
    inputs: Tensor,
    layers: LayerSpec = "auto",
    *,
    methods: str | Sequence[str] = "gradcam",
    targets: TargetSpec = "predicted",
    labels: Tensor | None = None,
    masks: Tensor | None = None,
    score: str = "logit",
    layout: str | Mapping[str, str] | None = None,
    output_key: str | int | Callable[[Any], Any] | None = None,
    forward: Forward | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 32,
    quick: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MapCheck:
    """Checks whether maps can be trusted: a verdict for each layer and method, on your own model and pictures.

    Measured are: maps against maps of random weights (Adebayo et al. 2018; Hedström et al. 2024), deletion, insertion
    and ROAD against 20 random maps of the same smoothness (a permutation test), the inverted map, blank and negative
    maps, maps of other classes, and maps under noise that does not change the prediction. ``docs/checks.md`` has each
    measure with its paper, all thresholds and the cost.

    The model comes back bit for bit as it was (:func:`lightning_gradcam.guard.model.preserved`) and runs in evaluation
    mode meanwhile. The verdicts hold for these pictures: give 8 or more that the model is sure of, of several classes.

    Args:
        model: Any module whose output is logits ``[N, C]`` or a single logit; see
            :func:`~lightning_gradcam.compute_cams`.
        inputs: Pictures ``[N, C, H, W]`` on the model's device, preprocessed as for training.
        layers: Which layers, as in :func:`~lightning_gradcam.compute_cams`.
        methods: A method's name or several, or ``"all"``, which leaves out those that can't work on the model.
        targets: One class a picture: ``"predicted"`` (default), ``"label"``, an index or a class's name.
        labels: True classes ``[N]``, for the target ``"label"``.
        masks: bool ``[N, H, W]``, where the object is; adds energy inside and pointing game to the figures.
        score: What is explained: ``"logit"``, ``"probability"`` or ``"sigmoid"`` (each class on its own).
        layout: What a layer's axes mean, where that can't be seen.
        output_key: Where the logits are in what the model returns.
        forward: What to call instead of ``model``.
        class_names: Names of all classes by index.
        batch_size: How many pictures go through the model at once, at most; bounds the memory.
        quick: Fewer steps and no ROAD: about a third of the cost, and a little less power.
        seed: Of random maps, random weights and noise: the same seed gives the same figures.
        progress: Called with how many forwards of one picture are done, and of how many, for the first time before the
            long part begins: that states the cost.

    Returns:
        The verdicts with their figures; print it for a table, ``save`` it for a page with pictures.

    Raises:
        ConfigurationError: The inputs are no pictures, the model returns no classes, or an option does not fit.
        TargetError: The target is none of a class.
        LightningGradCAMError: What :func:`~lightning_gradcam.compute_cams` raises.

    Example::

        check = check_maps(model, images, ["layer3", "layer4"], methods=["gradcam", "hirescam"])
        print(check)
        check.verdicts["layer4", "gradcam"].verdict      # "sound"
        check.best                                       # ("layer4", "hirescam")
    """
    _check_pictures(inputs, batch_size)
    if masks is not None and (masks.dtype != torch.bool or masks.dim() != 3 or len(masks) != len(inputs)):
        raise ConfigurationError(f"masks: got {list(masks.shape)} of {masks.dtype}; give bool [N, H, W]")
    (target, *more) = resolve_targets(targets, class_names)
    if more or not isinstance(target.select, Class):
        raise TargetError(
            f"targets: got {targets!r:.80}; check_maps explains one class a picture: give 'predicted', 'label', an"
            " index or a class's name"
        )
    options: dict[str, Any] = {
        "targets": targets,
        "labels": labels,
        "score": score,
        "layout": layout,
        "output_key": output_key,
        "forward": forward,
        "batch_size": batch_size,
        "class_names": class_names,
        "relu": False,
    }
    names: list[str] = [methods] if isinstance(methods, str) else list(methods)
    remarks: list[str] = []
    if names == ["all"]:
        names, remarks = _working(model, inputs, layers, options)
    counter = _Counter(caller(model, forward, output_key))
    with preserved(model), eager(model):
        first = compute_cams(
            model, inputs, layers, methods=names, **{**options, "forward": counter, "output_key": None}
        )
        several = check_score(score) == "sigmoid"
        run = _Run(model, inputs, first, names, counter, several, batch_size, _QUICK if quick else _FULL, seed)
        run.layouts = layout
        found = run.checked(masks, progress, quick=quick)
    return replace(found, remarks=tuple(remarks))


class _Counter:
    """Calls the model, and counts the pictures that it gets."""

    def __init__(self, run: Forward) -> None:
        self._run = run
        self.count = 0

    def __call__(self, values: Any) -> Any:
        self.count += len(values)
        return self._run(values)


@dataclass(eq=False)
class _Run:
    """One check: the model, the pictures, and the classes that are explained."""

    model: nn.Module
    inputs: Tensor
    first: Cams
    methods: list[str]
    counter: _Counter
    several: bool
    batch_size: int
    effort: _Effort
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
            figures |= _evidence(own, finite[pair])
            usable = (own > 0).any(axis=(1, 2)) & (ends[0] - ends[1] >= _LOST)
            generator = np.random.default_rng(self.seed)
            fake = [random_maps(one, _RANDOM, generator) for one in own]
            last = cascade[-1][1].get(pair)
            figures |= self._faithful(own, fake, last, usable, generator, quick=quick)
            figures |= _against_weights(own, fake, last)
            if smooth is not None:
                averaged = np.mean([own, *(maps[pair] for maps in noisy)], axis=0)
                figures["random_weights_correlation_smooth"] = _mean(
                    signed_rank_correlation(averaged, smooth[pair]) if pair in smooth else np.array([np.nan])
                )
            figures["class_correlation"] = self._alike(own, [found[pair] for found in others])
            figures |= {"noise": noise, "largest_change": _largest_change(own, [m[pair] for m in noisy])}
            figures |= {} if masks is None else _on_object(own, masks)
            steps = tuple(
                (name, _mean(signed_rank_correlation(own, found[pair])), _mean(structural_similarity(own, found[pair])))
                for name, found in cascade
                if pair in found
            )
            verdict, reason = decide(figures)
            verdicts[pair] = MapVerdict(*pair, verdict, reason, "", figures, steps)
        verdicts = {pair: replace(row, advice=advise(row, verdicts)) for pair, row in verdicts.items()}
        self._finished()
        evidence = Evidence(
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
        return MapCheck(verdicts, count, self.total, quick, evidence)

    def _cost(self, each: int, pairs: int, *, quick: bool) -> int:
        count, effort = len(self.inputs), self.effort
        passes = effort.others + effort.stages + effort.noisy + (0 if quick else 1 + effort.noisy)
        networks = effort.networks * 6 * count
        return each * passes + networks + 6 * count + pairs * count * (_RANDOM + 3) * forwards(quick=quick)

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

    def _faithful(
        self,
        own: Array,
        fake: list[Array],
        last: Array | None,
        usable: npt.NDArray[np.bool_],
        generator: np.random.Generator,
        *,
        quick: bool,
    ) -> dict[str, float]:
        rows = np.flatnonzero(usable)
        none = float("nan")
        if not len(rows):
            names = ("deletion", "insertion", "road", "agreement", "faithful", "inverted", "random_weights_faithful")
            return {**dict.fromkeys(names, none), "used": 0, "p": 1.0, "inverted_p": 1.0}
        redrawn_maps = own if last is None else last
        maps = [np.concatenate([[own[row]], fake[row], [-own[row], redrawn_maps[row]]]) for row in rows]
        chosen = torch.from_numpy(rows).to(self.inputs.device)
        hidden = hide_and_ask(
            self.asked,
            self.inputs[chosen],
            self.empty[chosen],
            [int(self.classes[row]) for row in rows],
            maps,
            quick=quick,
            seed=self.seed,
        )
        chance = range(1, _RANDOM + 1)
        many = [random_maps(own[row], _COMPARED, generator) for row in rows]

        def tested(place: int) -> dict[str, float]:
            """How well the maps at a place do: their strength, and two tests combined."""
            standings = hidden.standing([place, *chance])
            agreed = hidden.agreement(
                [np.concatenate([each[place][None], null]) for each, null in zip(maps, many, strict=True)], chance
            )
            p_values = (
                p_value(standings[:, 0], standings[:, 1:], generator),
                p_value(agreed[:, 0], agreed[:, 1:], generator),
            )
            return {
                "strength": float((standings[:, 0].mean() + standing(agreed)[:, 0].mean()) / 2),
                "agreement": float(agreed[:, 0].mean()),
                "hiding_p": p_values[0],
                "agreement_p": p_values[1],
                "p": either(*p_values),
            }

        # The inverse and the map of random weights are compared in the map's own place among the random maps.
        ranks, inverse, kept = (tested(place) for place in (0, _RANDOM + 1, _RANDOM + 2))
        figures = {"used": float(len(rows))}
        for name in ("deletion", "insertion", "road"):
            values = getattr(hidden, name)
            figures |= {name: float(values[:, 0].mean()), f"{name}_random": float(values[:, list(chance)].mean())}
        return figures | {
            "agreement": ranks["agreement"],
            "faithful": ranks["strength"],
            **{name: ranks[name] for name in ("p", "hiding_p", "agreement_p")},
            "inverted": inverse["strength"],
            "inverted_p": inverse["p"],
            "random_weights_faithful": none if last is None else kept["strength"],
        }


def _check_pictures(inputs: Any, batch_size: Any) -> None:
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point() or not len(inputs):
        came = f"{list(inputs.shape)} of {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ConfigurationError(
            f"inputs: got {came}; check_maps hides pixels of pictures: give floating-point pictures [N, C, H, W]"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigurationError(f"batch_size: got {batch_size!r}; give a whole number, 1 or more")


def _working(
    model: nn.Module, inputs: Tensor, layers: LayerSpec, options: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Returns the methods that work on the model, and a remark for each of the others."""
    found, remarks = [], []
    labels = options["labels"]
    tried = {**options, "labels": None if labels is None else labels[:1]}
    for name in available_methods():
        try:
            compute_cams(model, inputs[:1], layers, methods=name, **tried)
            found.append(name)
        except LightningGradCAMError as error:
            remarks.append(f"{name!r} was left out: {error!s:.200}")
    if not found:
        raise ConfigurationError(f"methods: none works on this model; {remarks[0]:.300}")
    return found, remarks


def _arrays(cams: Cams) -> Maps:
    found = {}
    for key, values in cams.maps.items():
        if values.dim() != 3:
            raise ConfigurationError(
                f"layers: {key.layer!r} gives maps {list(values.shape)}; check_maps takes maps of pictures, [N, h, w]"
            )
        found[key.layer, key.method] = values.detach().double().cpu().numpy()
    return found


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _evidence(own: Array, finite: npt.NDArray[np.bool_]) -> dict[str, float]:
    against = np.maximum(-own, 0).sum(axis=(1, 2))
    total = np.abs(own).sum(axis=(1, 2))
    return {
        "blank": float(1 - (own > 0).any(axis=(1, 2)).mean()),
        "not_finite": float(1 - finite.mean()),
        "negative": _mean(np.divide(against, total, out=np.full(len(own), np.nan), where=total > 0)),
    }


def _against_weights(own: Array, fake: list[Array], last: Array | None) -> dict[str, float]:
    none = float("nan")
    by_chance = [
        (_mean(signed_rank_correlation(own, others)), _mean(structural_similarity(own, others)))
        for others in (np.stack([maps[number] for maps in fake]) for number in range(_RANDOM))
    ]
    bounds = np.quantile(np.nan_to_num(np.array(by_chance)), 0.95, axis=0)
    figures = {"random_maps_correlation": float(bounds[0]), "random_maps_ssim": float(bounds[1])}
    if last is None:
        return figures | {"random_weights_correlation": none, "random_weights_ssim": none, "complexity_rise": none}
    before, after = complexity(own), complexity(last)
    return figures | {
        "random_weights_correlation": _mean(signed_rank_correlation(own, last)),
        "random_weights_ssim": _mean(structural_similarity(own, last)),
        "complexity_rise": _mean(np.divide(after - before, before, out=np.full(len(own), np.nan), where=before > 0)),
    }


def _largest_change(own: Array, noisy: list[Array]) -> float:
    changes = np.array([drift(own, other) for other in noisy])
    known = changes[np.isfinite(changes)]
    return float(known.max()) if len(known) else float("nan")


def _on_object(own: Array, masks: Tensor) -> dict[str, float]:
    marked = masks.cpu().numpy()
    some = marked.any(axis=(1, 2))
    return {
        "energy_inside": _mean(inside(own, marked)),
        "pointing_game": _mean(points_inside(own, marked)),
        "object_area": float(marked[some].mean()) if some.any() else float("nan"),
    }
