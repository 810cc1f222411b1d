"""Tests whether maps predict the model's behaviour better than random maps and randomly weighted channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_gradcam.checks.chance import Array, either, p_value, random_maps, ranked, standing
from lightning_gradcam.checks.hiding import Hidden, shown_share
from lightning_gradcam.stats.settled import Flags

# The smallest number of random maps per image with which a single image can reach p = 0.05.
RANDOM = 20
# Number of additional random maps for agreement, which need no queries to the model.
_COMPARED = 200
# Arguments: indices of images, and the maps for each, ``[M, h, w]``.
Hide = Callable[[npt.NDArray[np.intp], list[Array]], Hidden]


@dataclass(frozen=True, eq=False)
class Rivals:
    """The maps to compare with those for one layer and method.

    Attributes:
        fake: Random maps for each image, as smooth as its map, ``[RANDOM, h, w]`` each.
        last: The maps computed with random weights, ``[N, h, w]``, or ``None``.
        others: The maps for different classes, ``[N, h, w]`` each.
        weighted: Random weightings of the layer's channels, as in the method ``"random"``, ``[R, N, h, w]``; ``None``
            if the method has no layer.
    """

    fake: list[Array]
    last: Array | None
    others: list[Array]
    weighted: Array | None


@dataclass(frozen=True, eq=False)
class HiddenTop:
    """The confidence that remains when a map's top pixels are hidden, for the page.

    Attributes:
        share: The fraction of pixels hidden.
        own: The confidence with the map's top pixels hidden, ``[N]``; NaN if not measured.
        by_chance: The mean confidence with the random maps' top pixels hidden, ``[N]``.
    """

    share: float
    own: Array
    by_chance: Array


def faithful(
    own: Array,
    rivals: Rivals,
    usable: npt.NDArray[np.bool_],
    hide: Hide,
    *,
    quick: bool,
    generator: np.random.Generator,
) -> tuple[dict[str, float], HiddenTop]:
    """Computes the hiding and agreement figures for the maps, their inverse, and the maps with random weights.

    Args:
        own: Signed maps ``[N, h, w]``.
        rivals: The maps to compare with.
        usable: Flags for the images on which hiding pixels is informative, ``[N]``. Of these, the maps are judged only
            on images where they have a positive value; their inverse is judged on all.
        hide: Hides pixels of some images in the maps' order, and queries the model.
        quick: Whether to use fewer fractions of pixels and no ROAD.
        generator: Random number generator for random maps and permutations.

    Returns:
        The figures, and the effect on each image of hiding some of its pixels.
    """
    rows = np.flatnonzero(usable)
    none = float("nan")
    top = HiddenTop(shown_share(quick=quick), np.full(len(own), none), np.full(len(own), none))
    if not len(rows):
        figures = dict.fromkeys(("deletion", "insertion", "road", "random_weights_faithful"), none)
        return figures | _named("", _NOTHING) | _named("inverted_", _NOTHING), top
    redrawn_maps = own if rivals.last is None else rivals.last
    maps = [np.concatenate([[own[row]], rivals.fake[row], [-own[row], redrawn_maps[row]]]) for row in rows]
    hidden = hide(rows, maps)
    chance = range(1, RANDOM + 1)
    many = [random_maps(own[row], _COMPARED, generator) for row in rows]
    distinct, rest = _of_classes(hidden, rows, own, rivals)

    def tested(place: int, among: Flags) -> dict[str, float]:
        """Tests the maps at an index on some of the images; returns their strength and p-values."""
        if not among.any():
            return _NOTHING
        standings = hidden.standing([place, *chance])[among]
        agreed = hidden.agreement(
            [np.concatenate([each[place][None], null]) for each, null in zip(maps, many, strict=True)], chance
        )[among]
        p_values = {
            "hiding_p": p_value(standings[:, 0], standings[:, 1:], generator),
            "agreement_p": p_value(agreed[:, 0], agreed[:, 1:], generator),
        }
        # Random maps are independent of the objects; a layer's channels follow them with any weights.
        turned = -1 if place == RANDOM + 1 else 1
        channels = none if rest is None else ranked(turned * distinct[among].mean(), rest[among].mean(axis=0))
        return {
            "used": float(among.sum()),
            "strength": float((standings[:, 0].mean() + standing(agreed)[:, 0].mean()) / 2),
            "agreement": float(agreed[:, 0].mean()),
            **p_values,
            "p": either(*p_values.values()),
            "channels_p": channels,
        }

    shown = np.asarray((own[rows] > 0).any(axis=(1, 2)))
    figures = {}
    for name in ("deletion", "insertion", "road"):
        values = getattr(hidden, name)
        figures |= {name: float(values[:, 0].mean()), f"{name}_random": float(values[:, list(chance)].mean())}
    top.own[rows], top.by_chance[rows] = hidden.left[:, 0], hidden.left[:, list(chance)].mean(axis=1)
    # The inverse and the map with random weights are each compared with the random maps in the map's place.
    figures |= _named("", tested(0, shown)) | _named("inverted_", tested(RANDOM + 1, np.ones(len(rows), bool)))
    figures["random_weights_faithful"] = none if rivals.last is None else tested(RANDOM + 2, shown)["strength"]
    return figures, top


def _of_classes(hidden: Hidden, rows: npt.NDArray[np.intp], own: Array, rivals: Rivals) -> tuple[Array, Array | None]:
    """Measures how well maps for several classes predict each class's logit, and how well random weightings do.

    If an image contains one object, any weighting of the channels highlights it, half of them with the right sign.
    Correct maps for several classes need different weights for each, so a rival draws new weights for each class.

    Returns:
        The agreement of the maps, ``[N]``, and that of the rivals, ``[N, R]``, or ``None``.
    """
    chance = range(1, RANDOM + 1)
    maps = np.stack([own, *rivals.others])[:, rows]
    found = hidden.agreement(list(maps.swapaxes(0, 1)[:, :, None]), chance, of_classes=True)[:, 0]
    if rivals.weighted is None:
        return found, None
    # A rival's weights for one class are the next rival's weights for the next class.
    drawn = [np.stack([np.roll(rivals.weighted[:, row], n, axis=0) for n in range(len(maps))]) for row in rows]
    return found, hidden.agreement(drawn, chance, of_classes=True)


_NOTHING = {
    "used": 0.0,
    **dict.fromkeys(("strength", "agreement", "hiding_p", "agreement_p", "channels_p"), float("nan")),
    "p": 1.0,
}


def _named(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    named = {"strength": "inverted" if prefix else "faithful"}
    return {named.get(name, prefix + name): value for name, value in figures.items()}
