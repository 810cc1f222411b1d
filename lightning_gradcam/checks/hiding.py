"""Whether the model's confidence follows maps: pixels are hidden in their order, and the model is asked again.

Deletion and insertion: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC
2018; ROAD: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022. As
:func:`~lightning_gradcam.deletion_curve`, :func:`~lightning_gradcam.insertion_curve` and
:func:`~lightning_gradcam.road`, of many maps of a picture at once, at the few shares of pixels that tell most.

Maps are compared by log-odds: where the softmax is near 1, a probability hides what a pixel is worth.

Agreement: Bhatt et al., "Evaluating and Aggregating Feature-based Model Explanations", IJCAI 2020 (their faithfulness
correlation), with the pixels that the other maps hide or show as subsets. Deletion and insertion judge a map by the
few pictures that it makes itself; agreement judges it by those of all others, and asks the model nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gradcam.checks.asking import Asked
from lightning_gradcam.checks.chance import standing
from lightning_gradcam.checks.similarity import signed_correlation
from lightning_gradcam.stats.imputation import impute
from lightning_gradcam.stats.masks import upsampled

Array = npt.NDArray[np.float64]
# The shares of pixels that are hidden or shown: from a small object to half of the picture.
SHARES, QUICK = (0.1, 0.25, 0.5), (0.1, 0.3)
REMOVED = (0.1, 0.3)
# ROAD's noise, and how exactly holes are filled: to a fifth of it.
_NOISE, _FILLED = 0.01, 1e-3
# The grid on which a map and the pixels that others hide are compared: finer than nearly every map.
_GRID = 32
# Log-odds end where float32 does.
_SUREST = 1e-6


@dataclass(frozen=True, eq=False)
class Hidden:
    """How the confidence follows maps, ``[N, M]`` each.

    Attributes:
        deletion: The mean confidence with the most important pixels hidden; low is good.
        insertion: The same with nothing but these shown; high is good.
        road: How much more it costs to lose the most important pixels than as many of the least important ones, filled
            in by their neighbours; NaN where it was left out.
        odds: The same three in log-odds, each so that high is good, ``[3, N, M]``.
        steps: The log-odds with each map's most important pixels hidden, and with these shown, at each share of pixels,
            ``[2, N, M, S]``.
        logits: The logits of the classes that were asked about, at the same places, ``[classes, 2, N, M, S]``.
        regions: Those pixels: how much of each cell of a grid they cover, ``[N, M, S, y, x]``.
    """

    deletion: Array
    insertion: Array
    road: Array
    odds: Array
    steps: Array
    logits: Array
    regions: Array

    def left(self, share: float) -> Array:
        """Returns the confidence with a share of pixels hidden, one of those asked for, ``[N, M]``."""
        shares = QUICK if self.steps.shape[3] == len(QUICK) else SHARES
        return np.asarray(1 / (1 + np.exp(-self.steps[0, :, :, shares.index(share)])))

    def agreement(self, maps: Sequence[Array], members: Sequence[int], *, of_classes: bool = False) -> Array:
        """Returns how well any maps tell what hiding and showing the pixels of others does to the model.

        Args:
            maps: Of each picture, signed ``[K, h, w]``; with ``of_classes`` one for each class, ``[classes, K, h, w]``.
            members: Whose pixels: places in ``M``, none of which is among ``maps``.
            of_classes: Compare the maps of several classes with the logit of each, in one correlation over all: a class
                that hiding hardly concerns hardly counts.

        Returns:
            Pearson's r between how much of a map is inside the pixels that are hidden or shown, and the log-odds, its
            sign turned for hiding; averaged over both and over shares of pixels. ``[N, K]``, -1 to 1; chance gives 0.
        """
        chosen, found = list(members), []
        grid = (self.regions.shape[3], self.regions.shape[4])
        returned = self.logits if of_classes else self.steps[None]
        for place, own in enumerate(maps):
            stacked = own if of_classes else own[None]
            large = np.stack([upsampled(torch.from_numpy(values), grid).flatten(1).numpy() for values in stacked])
            told = []
            for share in range(self.regions.shape[2]):
                # How much of each class's map is inside, and what the model returned for it, around their means.
                inside = self.regions[place, chosen, share].reshape(len(chosen), -1) @ large.transpose(0, 2, 1)
                inside -= inside.mean(axis=1, keepdims=True)
                inside = inside.transpose(2, 0, 1).reshape(len(inside[0, 0]), 1, -1)
                for values, sign in zip(returned[:, :, place, chosen, share].swapaxes(0, 1), (-1, 1), strict=True):
                    asked = (values - values.mean(axis=1, keepdims=True)).reshape(1, 1, -1)
                    asked = np.broadcast_to(asked, inside.shape)
                    told.append(sign * np.nan_to_num(signed_correlation(inside, asked)))
            found.append(np.mean(told, axis=0))
        return np.stack(found)

    def standing(self, members: Sequence[int]) -> Array:
        """Returns how each of some maps of a picture stands among these: the mean of the measures' standings.

        Args:
            members: Which maps, ``M`` at most.

        Returns:
            ``[N, len(members)]``.
        """
        measures = self.odds if np.isfinite(self.road).all() else self.odds[:2]
        return np.asarray(np.mean([standing(values[:, list(members)]) for values in measures], axis=0))


def hide_and_ask(
    asked: Asked,
    pictures: Tensor,
    emptied: Tensor,
    classes: list[list[int]],
    maps: list[Array],
    *,
    quick: bool,
    seed: int,
) -> Hidden:
    """Measures how the confidence follows maps.

    Args:
        asked: Asks the model.
        pictures: ``[N, C, H, W]``.
        emptied: The same without their class, which hidden pixels are taken from.
        classes: The explained class of each, and others whose logits are to be known, as many for each picture.
        maps: The maps of each picture, signed ``[M, h, w]``.
        quick: Fewer shares, and no ROAD.
        seed: Of the order of pixels that are equally important, and of ROAD's noise.
    """
    shares, removed = (QUICK, ()) if quick else (SHARES, REMOVED)
    size = (pictures.shape[2], pictures.shape[3])
    pixels = size[0] * size[1]
    shuffled = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed))

    grid = (min(size[0], _GRID), min(size[1], _GRID))
    regions = np.zeros((len(pictures), len(maps[0]), len(shares), *grid))

    def count(share: float) -> int:
        return min(max(round(share * pixels), 1), pixels - 1)

    def hidden() -> Iterator[tuple[Tensor, list[int]]]:
        for place, (picture, empty, numbers, own) in enumerate(zip(pictures, emptied, classes, maps, strict=True)):
            for row, values in enumerate(upsampled(torch.from_numpy(own), size)):
                ranks = _ranks(values, shuffled).to(picture.device)
                for step, share in enumerate(shares):
                    top = (ranks < count(share))[None]
                    regions[place, row, step] = F.adaptive_avg_pool2d(top.float(), grid)[0].cpu().numpy()
                    yield torch.where(top, empty, picture), numbers
                    yield torch.where(top, picture, empty), numbers
                if removed:
                    holes = [hole for s in removed for hole in (ranks < count(s), ranks >= pixels - count(s))]
                    several = picture.expand(len(holes), *picture.shape)
                    filled = impute(several, torch.stack(holes), noise=_NOISE, seed=seed, precision=_FILLED)
                    yield from ((one, numbers) for one in filled)

    confidences, raw = asked.answers(hidden())
    found = confidences.numpy().reshape(len(pictures), -1, forwards(quick=quick))
    odds = np.log(np.clip(found, _SUREST, 1 - _SUREST) / (1 - np.clip(found, _SUREST, 1 - _SUREST)))
    measured = [_measures(values, 2 * len(shares)) for values in (found, odds)]
    (deletion, insertion, road), (less, more, differs) = measured

    def curves(values: Array) -> Array:
        """Returns what belongs to hiding and to showing, ``[2, …, S]``."""
        return np.stack([values[..., 0 : 2 * len(shares) : 2], values[..., 1 : 2 * len(shares) : 2]])

    logits = np.stack([curves(values.reshape(found.shape)) for values in raw.numpy().T])
    return Hidden(deletion, insertion, road, np.stack([-less, more, differs]), curves(odds), logits, regions)


def forwards(*, quick: bool) -> int:
    """Returns how many pictures :func:`hide_and_ask` asks the model about for each map."""
    return 2 * len(QUICK) if quick else 2 * len(SHARES) + 2 * len(REMOVED)


def shown_share(*, quick: bool) -> float:
    """Returns the share of pixels at which a page shows what hiding them does."""
    return QUICK[1] if quick else SHARES[1]


def _measures(values: Array, curves: int) -> tuple[Array, Array, Array]:
    """Returns deletion, insertion and ROAD of values ``[N, M, S]``, the first ``curves`` being of the former."""
    steps, rest = values[:, :, :curves], values[:, :, curves:]
    road = np.full(values.shape[:2], np.nan)
    if rest.shape[2]:
        road = (rest[:, :, 1::2] - rest[:, :, 0::2]).mean(axis=2) / 2
    return steps[:, :, 0::2].mean(axis=2), steps[:, :, 1::2].mean(axis=2), road


def _ranks(values: Tensor, shuffled: Tensor) -> Tensor:
    """Each pixel's place in the order of importance ``[H, W]``, 0 for the most important; equal ones at random."""
    flat = values.flatten()
    order = shuffled[flat[shuffled].argsort(descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks.view(values.shape)
