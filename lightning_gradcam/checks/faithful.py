"""Tests whether maps follow the model better than random maps and randomly weighted channels do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_gradcam.checks.chance import Array, either, p_value, random_maps, ranked, standing
from lightning_gradcam.checks.hiding import Hidden, shown_share
from lightning_gradcam.stats.settled import Flags

# The smallest number of random maps with which a single image can reach p = 0.05.
RANDOM = 20
# Number of further random maps for agreement, which need no queries of the model.
_COMPARED = 200
# From the indices of images, and the maps of each, ``[M, h, w]``.
Hide = Callable[[npt.NDArray[np.intp], list[Array]], Hidden]


@dataclass(frozen=True, eq=False)
class Rivals:
    """The maps with which a layer and method's maps are compared.

    Attributes:
        fake: Random maps for each image, as smooth as its map, ``[RANDOM, h, w]`` each.
        last: The maps with random weights, ``[N, h, w]``, or ``None``.
        others: The maps of other classes, ``[N, h, w]`` each.
        weighted: The layer's channels weighted at random, as in the method ``"random"``, ``[R, N, h, w]``; ``None`` if
            the method has no layer.
    """

    fake: list[Array]
    last: Array | None
    others: list[Array]
    weighted: Array | None


@dataclass(frozen=True, eq=False)
class HiddenTop:
    """The confidence that remains when a map's top pixels are hidden, for the page.

    Attributes:
        share: The share of hidden pixels.
        own: The confidence with the map's top pixels hidden, ``[N]``; NaN if not measured.
        by_chance: The mean of the same for random maps.
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
        usable: Which images can be hidden at all, ``[N]``. The map is judged only on those where it has a positive
            value, since the others show nothing; its inverse is judged on all of them.
        hide: Hides pixels of some images by maps, and asks the model.
        quick: Use fewer shares of pixels and no ROAD.
        generator: Draws random maps and permutations.

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
        """Tests the maps at an index on some of the images: their strength and p-values."""
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
        # Random maps can be anywhere; a layer's channels follow the objects, whatever their weights.
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
    # The inverse and the map with random weights take the map's own place among the random maps.
    figures |= _named("", tested(0, shown)) | _named("inverted_", tested(RANDOM + 1, np.ones(len(rows), bool)))
    figures["random_weights_faithful"] = none if rivals.last is None else tested(RANDOM + 2, shown)["strength"]
    return figures, top


def _of_classes(hidden: Hidden, rows: npt.NDArray[np.intp], own: Array, rivals: Rivals) -> tuple[Array, Array | None]:
    """Measures how well maps of several classes predict each class's logit, and how well random weightings do.

    If an image has one object, any weighting of the channels marks it, and half of them with the right sign. To be
    right about several classes, each class needs its own weights, so a rival draws new weights for each.

    Returns:
        The agreement of the maps, ``[N]``, and that of the rivals, ``[N, R]``, or ``None``.
    """
    chance = range(1, RANDOM + 1)
    maps = np.stack([own, *rivals.others])[:, rows]
    found = hidden.agreement(list(maps.swapaxes(0, 1)[:, :, None]), chance, of_classes=True)[:, 0]
    if rivals.weighted is None:
        return found, None
    # One rival's weights for one class are the next rival's weights for the next class.
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
