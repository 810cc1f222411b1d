"""Runs one check: queries the model inside the guard, and derives the verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_gradcam.checks.asking import dependence, emptied, knowledge, without_class
from lightning_gradcam.checks.chance import Array, random_maps
from lightning_gradcam.checks.faithful import RANDOM, HiddenTop, Rivals, faithful
from lightning_gradcam.checks.figures import against_weights, evidence, largest_change, on_object
from lightning_gradcam.checks.hiding import Hidden, forwards, hide_and_ask
from lightning_gradcam.checks.redrawn import from_the_top, redrawn
from lightning_gradcam.checks.result import Evidence, MapCheck
from lightning_gradcam.checks.similarity import signed_correlation, signed_rank_correlation, structural_similarity
from lightning_gradcam.checks.variations import Pair, Variations, Varied, arrays
from lightning_gradcam.checks.verdicts import MapVerdict, advise, decide
from lightning_gradcam.stats.numbers import mean

# Minimum loss of confidence on the emptied image for hiding pixels to be informative.
_LOST = 0.05


class Measuring(Variations):
    """One check of a model on images with their explained classes."""

    def checked(self, masks: Tensor | None) -> MapCheck:
        """Computes all figures and verdicts."""
        maps, count = arrays(self.first), len(self.inputs)
        each = self.counter.count + 2 * count * len({key.target for key in self.first.maps})
        self.total = self._cost(each, len(maps))
        self.moved(0)
        finite = {pair: np.asarray(np.isfinite(values).all(axis=(1, 2))) for pair, values in maps.items()}
        # A non-finite map shows nothing.
        raw, maps = maps, {pair: np.where(finite[pair][:, None, None], values, 0.0) for pair, values in maps.items()}
        versions = torch.cat([self.inputs[None], emptied(self.inputs)])
        logits = self.asked.logits(versions.flatten(0, 1)).view(len(versions), count, -1)
        shares = self.asked.probabilities(logits)
        known = shares.gather(2, self.classes.cpu().expand(len(versions), -1)[..., None])[..., 0].double()
        chance = 0.5 if self.several or self.asked.single else 1 / logits.shape[-1]
        way = without_class(known[0], known[1:], chance)
        self.empty = versions[1:].permute(1, 0, 2, 3, 4)[torch.arange(count, device="cpu"), way.to(versions.device)]
        ends = known[0].numpy(), known[1:].gather(0, way[None])[0].numpy()
        shared: dict[str, float] = {
            "pictures": count,
            "confidence": float(ends[0].mean()),
            "emptied_confidence": float(ends[1].mean()),
            "dependence": dependence(self.asked, logits[[0, 3, 4]]),
            "learnt": self._learnt(versions[[0, 3, 4]], knowledge(self.asked, logits[[0, 3, 4]])),
        }
        varied = self.varied(logits[0])
        verdicts: dict[Pair, MapVerdict] = {}
        tops: dict[Pair, HiddenTop] = {}
        for pair, own in maps.items():
            # A constant map does not rank pixels.
            usable = (own.min(axis=(1, 2)) < own.max(axis=(1, 2))) & (ends[0] - ends[1] >= _LOST)
            compared, tops[pair] = self._compared(pair, own, usable, varied)
            figures = {**shared, **evidence(own, finite[pair]), **compared}
            figures |= {} if masks is None else on_object(own, masks)
            steps = tuple(
                (name, mean(signed_rank_correlation(own, found[pair])), mean(structural_similarity(own, found[pair])))
                for name, found in varied.cascade
                if pair in found
            )
            verdicts[pair] = MapVerdict(*pair, *decide(figures), "", figures, steps)
        verdicts = {pair: replace(row, advice=advise(row, verdicts)) for pair, row in verdicts.items()}
        if self.done < self.total:
            self.moved(self.total)
        others = [("other class", found) for _, found in varied.others[:1]]
        kinds = [("map", raw), *others, ("random weights", varied.last)]
        shown = Evidence(
            self.inputs.detach().float().cpu().numpy(),
            tuple(map(str, range(count))),
            tuple(map(str, self.classes.tolist())),
            ends[0],
            {pair: {kind: found[pair] for kind, found in kinds if pair in found} for pair in maps},
            tops,
            tuple(str(number) for classes, _ in varied.others[:1] for number in classes.tolist()),
        )
        return MapCheck(verdicts, count, self.total, self.effort.quick, shown)

    def _compared(
        self, pair: Pair, own: Array, usable: npt.NDArray[np.bool_], varied: Varied
    ) -> tuple[dict[str, float], HiddenTop]:
        """Compares the maps for one layer and method with others; returns the figures and the page's data."""
        generator = np.random.default_rng(self.seed)
        fake = [random_maps(one, RANDOM, generator) for one in own]
        last, others = varied.last.get(pair), [maps[pair] for _, maps in varied.others]
        classes = torch.stack([self.classes.cpu(), *(each for each, _ in varied.others)], dim=1)

        def hide(rows: npt.NDArray[np.intp], maps: list[Array]) -> Hidden:
            chosen, numbers = torch.from_numpy(rows).to(self.inputs.device), classes[rows].tolist()
            pictures = self.inputs[chosen], self.empty[chosen]
            return hide_and_ask(self.asked, *pictures, numbers, maps, quick=self.effort.quick, seed=self.seed)

        rivals = Rivals(fake, last, others, varied.weighted.get(pair[0]))
        figures, top = faithful(own, rivals, usable, hide, quick=self.effort.quick, generator=generator)
        figures |= against_weights(own, fake, last)
        if varied.smooth is not None:
            averaged = np.mean([own, *(maps[pair] for maps in varied.noisy)], axis=0)
            figures["random_weights_correlation_smooth"] = mean(
                signed_rank_correlation(averaged, varied.smooth[pair]) if pair in varied.smooth else np.array([np.nan])
            )
        return figures | {
            "class_correlation": self._alike(own, others),
            "noise": varied.noise,
            "largest_change": largest_change(own, [maps[pair] for maps in varied.noisy]),
        }, top

    def _cost(self, each: int, pairs: int) -> int:
        count, effort = len(self.inputs), self.effort
        passes = effort.others + effort.stages + effort.noisy + (0 if effort.quick else 1 + effort.noisy)
        networks = effort.networks * 6 * count
        return each * passes + networks + 7 * count + pairs * count * (RANDOM + 3) * forwards(quick=effort.quick)

    def _learnt(self, versions: Tensor, own: tuple[float, float]) -> float:
        """Returns by which factor the output depends more on the image than with any random weights.

        The larger factor of the two signs from :func:`knowledge`.
        """
        flat, everything = versions.flatten(0, 1), from_the_top(self.model, 1)[-1][1]
        # Keep the versions of an image together: no batch should contain only emptied ones.
        mixed, moved = versions.transpose(0, 1).flatten(0, 1), [(0.0, 0.0)]
        for number in range(self.effort.networks):
            with redrawn(everything, self.seed + number, lambda: self.asked.shown(mixed)):
                logits = self.asked.logits(flat).view(len(versions), len(self.inputs), -1)
            if bool(logits.isfinite().all()):
                moved.append(knowledge(self.asked, logits))
        most = [max(values) for values in zip(*moved, strict=True)]
        return max(
            mine / other if other > 0 else float(mine > 0) * np.inf for mine, other in zip(own, most, strict=True)
        )

    def _alike(self, own: Array, others: list[Array]) -> float:
        """Returns how similar maps for different classes are; with two classes, opposite maps are expected."""
        if not others:
            return float("nan")
        found = np.array([signed_correlation(own, other) for other in others])
        likeliest = self.first.likeliest
        two_classes = self.asked.single or (likeliest is not None and likeliest.shape[1] == 2)
        found = found if two_classes else np.abs(found)
        found = found[:, np.isfinite(found).any(axis=0)]
        return float(np.median(np.nanmin(found, axis=0))) if found.size else float("nan")
