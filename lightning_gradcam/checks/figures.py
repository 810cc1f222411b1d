"""Computes the figures of a check that need no model: pure functions of signed maps ``[N, h, w]``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_gradcam.checks.similarity import Array, complexity, signed_rank_correlation, structural_similarity
from lightning_gradcam.stats.masks import inside, points_inside
from lightning_gradcam.stats.numbers import drift, mean


def evidence(own: Array, finite: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Returns the fraction of blank maps, of non-finite maps, and of evidence against the class."""
    against = np.maximum(-own, 0).sum(axis=(1, 2))
    total = np.abs(own).sum(axis=(1, 2))
    return {
        "blank": float(1 - (own > 0).any(axis=(1, 2)).mean()),
        "not_finite": float(1 - finite.mean()),
        "negative": mean(np.divide(against, total, out=np.full(len(own), np.nan), where=total > 0)),
    }


def against_weights(own: Array, fake: list[Array], last: Array | None) -> dict[str, float]:
    """Returns how similar the maps are to those from random weights, and to random maps."""
    none = float("nan")
    by_chance = [
        (mean(signed_rank_correlation(own, others)), mean(structural_similarity(own, others)))
        for others in (np.stack([maps[number] for maps in fake]) for number in range(len(fake[0])))
    ]
    bounds = np.quantile(np.nan_to_num(np.array(by_chance)), 0.95, axis=0)
    figures = {"random_maps_correlation": float(bounds[0]), "random_maps_ssim": float(bounds[1])}
    if last is None:
        return figures | {"random_weights_correlation": none, "random_weights_ssim": none, "complexity_rise": none}
    before, after = complexity(own), complexity(last)
    return figures | {
        "random_weights_correlation": mean(signed_rank_correlation(own, last)),
        "random_weights_ssim": mean(structural_similarity(own, last)),
        "complexity_rise": mean(np.divide(after - before, before, out=np.full(len(own), np.nan), where=before > 0)),
    }


def largest_change(own: Array, noisy: list[Array]) -> float:
    """Returns the largest drift between the maps and those for noisy images."""
    changes = np.array([drift(own, other) for other in noisy])
    known = changes[np.isfinite(changes)]
    return float(known.max()) if len(known) else float("nan")


def on_object(own: Array, masks: Tensor) -> dict[str, float]:
    """Returns energy inside, pointing game, and the fraction of the image covered by the object."""
    marked = masks.cpu().numpy()
    some = marked.any(axis=(1, 2))
    return {
        "energy_inside": mean(inside(own, marked)),
        "pointing_game": mean(points_inside(own, marked)),
        "object_area": float(marked[some].mean()) if some.any() else float("nan"),
    }
