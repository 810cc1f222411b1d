"""Whether maps follow the model better than random maps do: two tests, of which one is enough."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_gradcam.checks.asking import Asked
from lightning_gradcam.checks.chance import either, p_value, random_maps, standing
from lightning_gradcam.checks.hiding import hide_and_ask

Array = npt.NDArray[np.float64]
# The fewest random maps with which one picture alone comes to p = 0.05.
RANDOM = 20
# How many more a map's agreement is compared with, which ask the model nothing.
_COMPARED = 200


def faithful(
    asked: Asked,
    inputs: Tensor,
    empty: Tensor,
    classes: Tensor,
    own: Array,
    fake: list[Array],
    last: Array | None,
    usable: npt.NDArray[np.bool_],
    *,
    quick: bool,
    seed: int,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Returns the figures of hiding and agreement, of the maps, their inverse, and the maps of random weights.

    Args:
        asked: Asks the model.
        inputs: Pictures ``[N, C, H, W]``.
        empty: The same without their class.
        classes: The explained class of each.
        own: Signed maps ``[N, h, w]``.
        fake: Random maps of each picture.
        last: The maps of random weights; ``None``: there are none.
        usable: Which pictures can be hidden at all, ``[N]``.
        quick: Fewer shares of pixels, and no ROAD.
        seed: Of the order of equal pixels, and of ROAD's noise.
        generator: Draws random maps and permutations.
    """
    rows = np.flatnonzero(usable)
    none = float("nan")
    if not len(rows):
        names = ("deletion", "insertion", "road", "agreement", "faithful", "inverted", "random_weights_faithful")
        return {**dict.fromkeys(names, none), "used": 0, "p": 1.0, "inverted_p": 1.0}
    redrawn_maps = own if last is None else last
    maps = [np.concatenate([[own[row]], fake[row], [-own[row], redrawn_maps[row]]]) for row in rows]
    chosen = torch.from_numpy(rows).to(inputs.device)
    hidden = hide_and_ask(
        asked,
        inputs[chosen],
        empty[chosen],
        [int(classes[row]) for row in rows],
        maps,
        quick=quick,
        seed=seed,
    )
    chance = range(1, RANDOM + 1)
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
    ranks, inverse, kept = (tested(place) for place in (0, RANDOM + 1, RANDOM + 2))
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
