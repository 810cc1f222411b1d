"""The title, range and interpretation of each statistic, for pages and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lightning_gradcam.stats.settled import SETTLED, SETTLED_PROBES, SETTLED_STEPS

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Stat:
    """One statistic of a map, measured for every probe.

    Attributes:
        title: A short display name.
        low: The smallest possible value; ``None`` if unbounded.
        high: The largest possible value; ``None`` if unbounded.
        reading: One sentence on how to interpret it.
        better: ``"higher"`` or ``"lower"``; ``None`` if neither is better in itself.
        counted: Whether loggers receive the number of probes with a value of 1 instead of the mean over probes.
    """

    title: str
    low: float | None
    high: float | None
    reading: str
    better: Better | None = None
    counted: bool = False


# The statistics that loggers receive by default; the archive and the report contain every statistic.
DEFAULT = ("drift", "half_area", "blank", "energy_inside")


def _share(title: str, reading: str, better: Better | None = None, *, counted: bool = False) -> Stat:
    """Returns a statistic with values from 0 to 1."""
    return Stat(title, 0, 1, reading, better, counted)


STATS: Mapping[str, Stat] = MappingProxyType(
    {
        "drift": _share(
            "drift from the previous step",
            "Distance from the map at the previous step: 0 means the same map up to scale, 1 means no overlap. "
            "Excludes probes whose explained class changed and probes with a blank map at either step.",
        ),
        "rank_correlation": Stat(
            "rank correlation with the previous step",
            -1,
            1,
            "Whether the pixels have the same order of importance as at the previous step: 1 means the same order, 0 "
            "no relation, -1 the reverse order. Excludes the same probes as drift.",
        ),
        "compared": _share(
            "compared with the previous step",
            "How many probes were compared: neither flipped nor blank at either step.",
            counted=True,
        ),
        "flipped": _share(
            "flipped since the previous step",
            "How many probes have a different explained class from the previous step; their maps are not compared.",
            "lower",
            counted=True,
        ),
        "went_blank": _share(
            "went blank",
            "How many maps are blank now but were not at the previous step, for the same class.",
            "lower",
            counted=True,
        ),
        "came_back": _share(
            "came back from blank",
            "How many maps were blank at the previous step but are not now, for the same class.",
            counted=True,
        ),
        "entropy": _share("spread (entropy)", "How spread out the map is: 0 means a single pixel, 1 a uniform map."),
        "half_area": Stat(
            "area containing half the map",
            0,
            0.5,
            "The smallest share of the area that contains half of the map. Smaller means more focused; 0.5 means a "
            "uniform map.",
        ),
        "center_x": _share(
            "centre, from the left",
            "Horizontal position of the map's centre of mass: 0 is the left edge, 1 the right edge.",
        ),
        "center_y": _share(
            "centre, from the top",
            "Vertical position of the map's centre of mass: 0 is the top edge, 1 the bottom edge.",
        ),
        "blank": _share(
            "blank maps",
            "1 if the map is zero everywhere after its ReLU, else 0; the mean is the share of blank maps.",
            "lower",
        ),
        "maximum": Stat(
            "largest value",
            0,
            None,
            "The map's largest raw value, 0 if it is blank. Compare it only between steps of one layer and method.",
        ),
        "agreement": _share(
            "agreement between label and predicted",
            "How similar the maps for the true and the predicted class are: 1 means the same map up to scale, as when "
            "the prediction is right; 0 means no overlap. Excludes probes with a blank map for either class.",
        ),
        "energy_inside": _share(
            "evidence inside the mask",
            "The share of the map inside the probe's mask or box. By chance, it equals the mask's share of the image.",
            "higher",
        ),
        "pointing_game": _share(
            "pointing game",
            "1 if the map's maximum is inside the probe's mask or box, else 0; the mean is the share of hits among "
            "the maps that are not blank.",
            "higher",
        ),
        "box_iou": _share(
            "overlap with the known box",
            "How well the box around the map's largest part matches the probe's known box (intersection over union): "
            "1 means the same box, 0 no overlap; 0.5 or more counts as found.",
            "higher",
        ),
        "settled": _share(
            "settled maps",
            f"1 if the maps of the previous {SETTLED_STEPS} logged steps are all close to this step's: a mean drift "
            f"of {SETTLED:g} or less for each of them, over at least {SETTLED_PROBES} probes; else 0. It is the same "
            "for all probes.",
        ),
        "drift_to_last": _share(
            "drift from the last step",
            "Distance from the map at the run's last step: once it is near 0, the map has settled. Excludes probes "
            "whose explained class differs from that at the last step and probes with a blank map at either step.",
        ),
        "rank_correlation_to_last": Stat(
            "rank correlation with the last step",
            -1,
            1,
            "Whether the pixels have the same order of importance as at the run's last step: once it is near 1, the "
            "map has settled.",
        ),
        "score": Stat(
            "score", None, None, "The score that the map explains, such as the logit of the explained class."
        ),
        "confidence": _share("confidence", "The probability that the model assigns to the explained class."),
    }
)
