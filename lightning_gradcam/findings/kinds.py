"""The kinds of findings with their titles and thresholds; docs/findings.md shows this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lightning_gradcam.record.finding import Severity
from lightning_gradcam.stats.settled import SETTLED, SETTLED_PROBES, SETTLED_STEPS

# With fewer probes, nothing can be concluded about a layer.
PROBES = 3
# Maximum number of probes named individually.
NAMED = 2

# The shortcut.
PLACED, AT_CORNER, AT_BORDER = 5, 2, 1
MOSTLY = 0.75
# A corner is a third of the width and height, the border a sixth on each side.
CORNER, BORDER = 1 / 3, 1 / 6
# Maps with fewer positions along a side have no corners.
SIDE = 5

INSIDE = 0.5
BLANK = 0.5
EVERYWHERE, FLAT = 0.99, 0.3
ALIKE, TARGETS = 0.98, 5
MOVED_STEPS, MOVED = 4, 0.15
TRAVEL_STEPS, TRAVEL = 3, 0.25
JUMP_STEPS, JUMP_BEFORE, JUMP, JUMP_TIMES, STILL = 6, 3, 0.2, 3.0, 0.05
ELSEWHERE = 1 / 3


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Attributes:
        title: A short display name.
        severity: The severity of all its findings.
        threshold: The condition for reporting it, with the minimum number of probes and steps.
    """

    title: str
    severity: Severity
    threshold: str


# In the order in which findings of equal severity are listed.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "shortcut": Kind(
            "Evidence in a corner or at the border",
            "high",
            f"At the last step, {MOSTLY:.0%} or more of at least {PLACED} probes have the largest value of their map in"
            f" the same corner (a third of width and height) and {AT_CORNER} times as much of their evidence there as"
            " an even map would, or the largest value at the border (a sixth of width and height on each side) and more"
            f" of their evidence there than an even map would. A probe with {INSIDE:.0%} or more of its evidence inside"
            f" its mask or box does not count. Only of maps with {SIDE} or more places along each side.",
        ),
        "right_elsewhere": Kind(
            "Right, but looking elsewhere",
            "high",
            f"At the last step, {ELSEWHERE:.0%} or more of at least {PROBES} correctly predicted probes, and at least "
            f"{NAMED}, have no larger share of their evidence inside the mask or box than the mask's share of the "
            "image. Judged in the layer with the largest mean share inside.",
        ),
        "blank": Kind(
            "Blank maps",
            "high",
            f"At the last trained step, {BLANK:.0%} or more of a layer's and method's maps, of at least {PROBES}"
            " probes, are zero everywhere after the ReLU.",
        ),
        "moved_out": Kind(
            "Evidence moved out of the masks",
            "medium",
            f"For {NAMED} or more of at least {PROBES} probes, the share of evidence inside the mask or box fell by"
            f" {TRAVEL:g} or more from the first third of the logged steps to the last third, of at least"
            f" {TRAVEL_STEPS} steps; the untrained model does not count.",
        ),
        "late_jump": Kind(
            "Late jump while the loss is flat",
            "medium",
            f"In the second half of at least {JUMP_STEPS} logged steps, the mean drift of at least {PROBES} probes is"
            f" {JUMP:g} or more and {JUMP_TIMES:g} or more times the median of all earlier steps, of which at least"
            f" {JUMP_BEFORE} have one, and the validation loss changed by {STILL:.0%} or less of its value. Needs a"
            " logged metric with `val` and `loss` in its name.",
        ),
        "same_for_classes": Kind(
            "Same map for all classes",
            "medium",
            f"At the last step, of all pairs of the first {TARGETS} targets whose classes differ for a probe, 90% or"
            f" more have maps with a cosine similarity of {ALIKE:g} or more; pairs of at least {PROBES} probes. Not for"
            " methods that use no score.",
        ),
        "one_sided": Kind(
            "No evidence against",
            "medium",
            f"At the last step, {MOSTLY:.0%} or more of at least {PROBES} maps are positive at {EVERYWHERE:.0%} of"
            f" their places or more, and spread out: half of the map needs {FLAT:.0%} of the area or more.",
        ),
        "wrong_inside": Kind(
            "Wrong, but looking at the right place",
            "medium",
            f"At the last step, {NAMED} or more wrongly predicted probes, of at least {PROBES} probes with label and "
            f"mask or box, have {INSIDE:.0%} or more of their evidence inside it, and at least twice the mask's share "
            "of the image. Judged in the layer with the largest mean share inside.",
        ),
        "moved_in": Kind(
            "Evidence moved into the masks",
            "low",
            "As for *Evidence moved out of the masks*, with a share that rose.",
        ),
        "moved_most": Kind(
            "Where the maps moved most",
            "low",
            f"Of at least {MOVED_STEPS} logged steps, the one with the largest mean drift from the step before, of at"
            f" least {PROBES} probes, if that is {MOVED:g} or more.",
        ),
        "settled": Kind(
            "Settled maps",
            "low",
            f"The first step from which the mean drift from the last step stays at {SETTLED:g} or less, of at least"
            f" {SETTLED_PROBES} probes, if at least {SETTLED_STEPS} logged steps follow it. The number `settled` is 1"
            " at a step if this would be reported of a run that ended there.",
        ),
    }
)
