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
        low: The smallest value; ``None`` if unbounded.
        high: The largest value; ``None`` if unbounded.
        reading: One sentence on how to read it.
        better: ``"higher"`` or ``"lower"``; ``None`` if neither is good by itself.
        counted: Loggers get the number of probes with a value of 1 instead of the mean over probes.
    """

    title: str
    low: float | None
    high: float | None
    reading: str
    better: Better | None = None
    counted: bool = False


# What loggers get by default, of what each map has; the archive and the report have all.
DEFAULT = ("drift", "half_area", "blank", "energy_inside")


def _share(title: str, reading: str, better: Better | None = None, *, counted: bool = False) -> Stat:
    """Returns a statistic with values from 0 to 1."""
    return Stat(title, 0, 1, reading, better, counted)


STATS: Mapping[str, Stat] = MappingProxyType(
    {
        "drift": _share(
            "drift from the step before",
            "How far the map is from the map at the step before: 0 is the same up to scale, 1 means no overlap."
            " A probe whose explained class changed, or with a blank map at either step, is left out.",
        ),
        "rank_correlation": Stat(
            "rank correlation with the step before",
            -1,
            1,
            "Whether the pixels have the same order of importance as at the step before: 1 is the same order, 0 an"
            " unrelated one, -1 the reverse. The same probes are left out as in drift.",
        ),
        "compared": _share(
            "compared with the step before",
            "How many probes were compared: neither flipped nor blank at either step.",
            counted=True,
        ),
        "flipped": _share(
            "flipped since the step before",
            "How many probes have a new explained class since the step before; their two maps are not compared.",
            "lower",
            counted=True,
        ),
        "went_blank": _share(
            "went blank",
            "How many maps of the same class were not blank at the step before, and are now.",
            "lower",
            counted=True,
        ),
        "came_back": _share(
            "came back from blank",
            "How many maps of the same class were blank at the step before, and are not now.",
            counted=True,
        ),
        "entropy": _share("spread (entropy)", "How spread out the map is: 0 is a single pixel, 1 the same everywhere."),
        "half_area": Stat(
            "area that holds half",
            0,
            0.5,
            "The smallest share of the area that holds half of the map: the smaller, the more focused; 0.5 is the"
            " same everywhere.",
        ),
        "center_x": _share(
            "centre, from the left",
            "Where the map's centre of mass is, between the left edge, 0, and the right edge, 1.",
        ),
        "center_y": _share(
            "centre, from the top",
            "Where the map's centre of mass is, between the top edge, 0, and the bottom edge, 1.",
        ),
        "blank": _share(
            "blank maps",
            "1 where the map is zero everywhere after its ReLU; the mean is the share of such probes.",
            "lower",
        ),
        "maximum": Stat(
            "largest value",
            0,
            None,
            "The map's largest raw value, 0 where it is blank: compare it between steps of one layer and method only.",
        ),
        "agreement": _share(
            "agreement of label and predicted",
            "How alike the maps of the true and the predicted class are: 1 is the same up to scale, as where the"
            " prediction is right, and 0 means no overlap. A probe with a blank map of either is left out.",
        ),
        "energy_inside": _share(
            "evidence inside the mask",
            "The share of the map inside the probe's mask or box: by chance, it is the mask's share of the image.",
            "higher",
        ),
        "pointing_game": _share(
            "pointing game",
            "1 where the map's maximum is inside the probe's mask or box, else 0; the mean is the share of hits"
            " among the maps that are not blank.",
            "higher",
        ),
        "box_iou": _share(
            "overlap with the known box",
            "How well the box around the map's largest part fits the probe's known box: 1 is the same box, 0 has"
            " nothing in common (intersection over union; 0.5 and more counts as found).",
            "higher",
        ),
        "settled": _share(
            "settled maps",
            f"1 if the maps of the {SETTLED_STEPS} logged steps before are close to those of this step: a mean drift of"
            f" {SETTLED:g} or less for each of them, of at least {SETTLED_PROBES} probes. Else 0; the same for all"
            " probes.",
        ),
        "drift_to_last": _share(
            "drift from the last step",
            "How far the map is from the map at the run's last step: once it is near 0, the map has settled. A probe "
            "whose explained class differs from that at the last step, or with a blank map at either, is left out.",
        ),
        "rank_correlation_to_last": Stat(
            "rank correlation with the last step",
            -1,
            1,
            "Whether the pixels have the same order of importance as at the run's last step: near 1, the map has "
            "settled.",
        ),
        "score": Stat(
            "score", None, None, "The score that the map explains, such as the logit of the explained class."
        ),
        "confidence": _share("confidence", "The probability that the model gives to the explained class."),
    }
)
