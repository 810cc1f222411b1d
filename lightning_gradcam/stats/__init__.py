"""Numbers of maps: how they change from step to step, how focused they are, and whether they are where they should be.

:func:`measure` gives all of one logged step, and :data:`STATS` says how each is read. Those of maps in torch
(:func:`energy_inside`, :func:`pointing_game`) are for one's own evaluations; all others take NumPy arrays, because they
are measured while training goes on.

Knows nothing of training or files.
"""

from lightning_gradcam.stats.masks import energy_inside, inside, pointing_game, points_inside, upsampled
from lightning_gradcam.stats.measure import affordable, measure, to_last
from lightning_gradcam.stats.numbers import (
    agreement,
    blank,
    center,
    drift,
    entropy,
    half_area,
    maximum,
    rank_correlation,
)
from lightning_gradcam.stats.table import DEFAULT, STATS, Stat

__all__ = [
    "DEFAULT",
    "STATS",
    "Stat",
    "affordable",
    "agreement",
    "blank",
    "center",
    "drift",
    "energy_inside",
    "entropy",
    "half_area",
    "inside",
    "maximum",
    "measure",
    "pointing_game",
    "points_inside",
    "rank_correlation",
    "to_last",
    "upsampled",
]
