"""Statistics of maps: how much they change between steps, how focused they are, and whether they match masks or boxes.

:func:`measure` computes all of them for one logged step, and :data:`STATS` explains each one. :func:`energy_inside` and
:func:`pointing_game` accept torch tensors, for your own evaluations. The other statistics accept NumPy arrays, because
they run during training.

Does not depend on training or files.
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
