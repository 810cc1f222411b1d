"""Measures how the model's confidence changes when pixels are hidden in the order given by maps.

Deletion and insertion: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC
2018. ROAD: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022. These are
:func:`~lightning_gradcam.deletion_curve`, :func:`~lightning_gradcam.insertion_curve` and
:func:`~lightning_gradcam.road` for many maps of an image at once, at only the most informative fractions of pixels.

Maps are compared by log-odds, because a softmax probability near 1 hides the effect of a pixel.

Agreement: Bhatt et al., "Evaluating and Aggregating Feature-based Model Explanations", IJCAI 2020 (their faithfulness
correlation), with the pixels hidden or shown by the other maps as subsets. Deletion and insertion judge a map by the
few images that it produces itself. Agreement judges it by those of all other maps, without further queries to the
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gradcam.checks.asking import Asked
from lightning_gradcam.checks.chance import Array, standing
from lightning_gradcam.checks.similarity import signed_correlation
from lightning_gradcam.stats.asking import pixel_ranks
from lightning_gradcam.stats.imputation import impute
from lightning_gradcam.stats.masks import upsampled

# The fractions of pixels to hide or show, from a small object to half of the image.
SHARES, QUICK = (0.1, 0.25, 0.5), (0.1, 0.3)
REMOVED = (0.1, 0.3)
# The index of the fraction at which the page shows the effect of hiding.
_SHOWN = 1
# ROAD's noise, and the precision of filling holes.
_NOISE, _FILLED = 0.01, 1e-3
# The grid on which a map is compared with the pixels hidden by other maps, finer than nearly every map.
_GRID = 32
# Limit log-odds to the precision of float32.
_SUREST = 1e-6


@dataclass(frozen=True, eq=False)
class Hidden:
    """The confidence with pixels hidden in the order given by maps, ``[N, M]`` each.

    Attributes:
        deletion: The mean confidence with the most important pixels hidden; lower is better.
        insertion: The mean confidence with only these pixels shown; higher is better.
        road: Half the difference between the confidence without the least important pixels and without the same number
            of the most important ones, filled in from their neighbours; higher is better. NaN if skipped.
        odds: The same three in log-odds, with signs flipped where necessary, so higher is better, ``[3, N, M]``.
        steps: The log-odds with each map's most important pixels hidden, and with only these shown, at each fraction of
            pixels, ``[2, N, M, S]``.
        logits: The logits of the queried classes at the same steps, ``[classes, 2, N, M, S]``.
        regions: The fraction of each grid cell covered by these pixels, ``[N, M, S, y, x]``.
    """

    deletion: Array
    insertion: Array
    road: Array
    odds: Array
    steps: Array
    logits: Array
    regions: Array

    @property
    def left(self) -> Array:
        """The confidence after hiding the fraction of pixels that :func:`shown_share` returns, ``[N, M]``."""
        return np.asarray(1 / (1 + np.exp(-self.steps[0, :, :, _SHOWN])))

    def agreement(self, maps: Sequence[Array], members: Sequence[int], *, of_classes: bool = False) -> Array:
        """Returns how well maps predict the effect of hiding and showing the pixels of different maps.

        Args:
            maps: Signed maps for each image, ``[K, h, w]``; with ``of_classes``, one for each class,
                ``[classes, K, h, w]``.
            members: The maps whose pixels are hidden: indices into ``M``, none of them among ``maps``.
            of_classes: Whether to compare maps for several classes with each class's logit, in one correlation over
                all classes. A class hardly affected by hiding then hardly counts.

        Returns:
            Pearson's r between the part of a map inside the hidden or shown pixels and the log-odds, with the sign
            flipped for hiding, averaged over both and over fractions of pixels. ``[N, K]``, -1 to 1; 0 by chance.
        """
        chosen, found = list(members), []
        grid = (self.regions.shape[3], self.regions.shape[4])
        returned = self.logits if of_classes else self.steps[None]
        for place, own in enumerate(maps):
            stacked = own if of_classes else own[None]
            large = np.stack([upsampled(torch.from_numpy(values), grid).flatten(1).numpy() for values in stacked])
            told = []
            for share in range(self.regions.shape[2]):
                # The part of each class's map inside these pixels, and the model's logit for it, both centred.
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
        """Returns how each of some maps compares with all of them, averaged over the measures.

        Args:
            members: The maps: indices into ``M``.

        Returns:
            Standard deviations above the mean, ``[N, len(members)]``.
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
    """Measures the confidence with pixels hidden in the order given by maps.

    Args:
        asked: Queries the model.
        pictures: The images, ``[N, C, H, W]``.
        emptied: The images without their class, which replace hidden pixels, ``[N, C, H, W]``.
        classes: For each image, the explained class and further classes whose logits to record, the same number each.
        maps: The signed maps for each image, ``[M, h, w]``.
        quick: Whether to use fewer fractions of pixels and no ROAD.
        seed: Random seed for the order of equally important pixels and for ROAD's noise.
    """
    shares, removed = (QUICK, ()) if quick else (SHARES, REMOVED)
    size = (pictures.shape[2], pictures.shape[3])
    pixels = size[0] * size[1]
    grid = (min(size[0], _GRID), min(size[1], _GRID))
    regions = np.zeros((len(pictures), len(maps[0]), len(shares), *grid))

    def count(share: float) -> int:
        return min(max(round(share * pixels), 1), pixels - 1)

    def hidden() -> Iterator[tuple[Tensor, list[int]]]:
        for place, (picture, empty, numbers, own) in enumerate(zip(pictures, emptied, classes, maps, strict=True)):
            for row, values in enumerate(upsampled(torch.from_numpy(own), size)):
                # One map at a time: sorting needs several times a map's memory.
                ranks = pixel_ranks(values[None], seed)[0].to(picture.device)
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

    def curves(values: Array) -> Array:
        """Returns the values for hiding and for showing, ``[2, …, S]``."""
        return np.stack([values[..., 0 : 2 * len(shares) : 2], values[..., 1 : 2 * len(shares) : 2]])

    def road(values: Array) -> Array:
        rest = values[..., 2 * len(shares) :]
        return np.full(rest.shape[:2], np.nan) if quick else (rest[..., 1::2] - rest[..., 0::2]).mean(axis=2) / 2

    (deletion, insertion), (less, more) = curves(found).mean(axis=-1), curves(odds).mean(axis=-1)
    logits = np.stack([curves(values.reshape(found.shape)) for values in raw.numpy().T])
    return Hidden(deletion, insertion, road(found), np.stack([-less, more, road(odds)]), curves(odds), logits, regions)


def forwards(*, quick: bool) -> int:
    """Returns the number of images that :func:`hide_and_ask` runs through the model for each map."""
    return 2 * len(QUICK) if quick else 2 * len(SHARES) + 2 * len(REMOVED)


def shown_share(*, quick: bool) -> float:
    """Returns the fraction of pixels at which the page shows the effect of hiding."""
    return (QUICK if quick else SHARES)[_SHOWN]
