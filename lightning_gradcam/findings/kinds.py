"""Defines the kinds of findings, with their titles and thresholds; docs/findings.md contains this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lightning_gradcam.record.finding import Severity
from lightning_gradcam.stats.settled import SETTLED, SETTLED_PROBES, SETTLED_STEPS

# Minimum number of probes for a conclusion about a layer.
PROBES = 3
# Minimum number of affected probes for findings about individual probes.
NAMED = 2

# Shortcuts: minimum number of probes, and the multiples of a uniform map's share in the region that must be exceeded.
PLACED, AT_CORNER, AT_BORDER = 5, 2, 1
MOSTLY = 0.75
# A corner is a third of the width and height, the border a sixth on each side.
CORNER, BORDER = 1 / 3, 1 / 6
# Minimum number of locations along a side for a map to have corners.
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
        severity: The severity of all findings of this kind.
        threshold: The condition for reporting a finding, with the minimum number of probes and steps.
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
            f"At the last step, {MOSTLY:.0%} or more of the probes have their map's maximum in the same corner (a third"
            f" of the width and height) and more than {AT_CORNER} times the share of evidence there that a uniform map"
            " would have; or they have the maximum at the border (a sixth of the width and height on each side) and a"
            f" larger share of evidence there than a uniform map would have. A probe with {INSIDE:.0%} or more of its"
            f" evidence inside its mask or box never meets this condition. Requires at least {PLACED} probes, and maps"
            f" with {SIDE} or more locations along each side.",
        ),
        "right_elsewhere": Kind(
            "Right, but looking elsewhere",
            "high",
            f"At the last step, {ELSEWHERE:.0%} or more of the correctly predicted probes, and at least {NAMED}, "
            "have no more of their evidence inside their mask or box than a uniform map would have. Judged at the "
            f"layer with the largest mean share of evidence inside. Requires at least {PROBES} correctly predicted "
            "probes, and `predicted` or `label` as the first target.",
        ),
        "blank": Kind(
            "Blank maps",
            "high",
            f"At the last step, {BLANK:.0%} or more of the maps for a layer and method are zero everywhere after the"
            f" ReLU; maps with nothing to explain are not counted. Requires at least {PROBES} probes. Not reported for"
            " the untrained model.",
        ),
        "moved_out": Kind(
            "Evidence moved out of the masks",
            "medium",
            f"For {NAMED} or more probes, the mean share of evidence inside the mask or box is lower by {TRAVEL:g} or "
            f"more in the last third of the logged steps than in the first third. Requires at least {PROBES} probes "
            f"and {TRAVEL_STEPS} logged steps, not counting the untrained model.",
        ),
        "late_jump": Kind(
            "Late jump while the loss is flat",
            "medium",
            f"At a step in the second half of the logged steps, the mean drift is {JUMP:g} or more and at least"
            f" {JUMP_TIMES:g} times its median over all earlier steps, while the validation loss changed by {STILL:.0%}"
            f" or less. Requires at least {JUMP_STEPS} logged steps, a drift for at least {PROBES} probes, at least"
            f" {JUMP_BEFORE} earlier steps with a mean drift, and a logged metric with `val` and `loss` in its name.",
        ),
        "same_for_classes": Kind(
            "Same map for all classes",
            "medium",
            "At the last step, each probe's maps for different classes are compared in pairs, using the first"
            f" {TARGETS} targets; 90% or more of all pairs have a cosine similarity of {ALIKE:g} or more. Requires such"
            f" pairs for at least {PROBES} probes, and a method that uses a score.",
        ),
        "one_sided": Kind(
            "No evidence against",
            "medium",
            f"At the last step, {MOSTLY:.0%} or more of the maps are positive at {EVERYWHERE:.0%} or more of their "
            f"locations, and so spread out that half of the evidence covers {FLAT:.0%} or more of the area. Requires "
            f"at least {PROBES} maps with {SIDE} or more locations each.",
        ),
        "wrong_inside": Kind(
            "Wrong, but looking at the right place",
            "medium",
            f"At the last step, {NAMED} or more wrongly predicted probes have {INSIDE:.0%} or more of their evidence"
            f" inside their mask or box, and at least twice as much as a uniform map would have. Requires at least"
            f" {PROBES} probes with a label and a mask or box. Judged at the layer with the largest mean share of"
            " evidence inside; requires `predicted` or `label` as the first target.",
        ),
        "moved_in": Kind(
            "Evidence moved into the masks",
            "low",
            f"As for *Evidence moved out of the masks*, but the mean share rises by {TRAVEL:g} or more.",
        ),
        "moved_most": Kind(
            "Where the maps moved most",
            "low",
            f"The step with the largest mean drift from the previous step, if that drift is {MOVED:g} or more over at"
            f" least {PROBES} probes. Requires at least {MOVED_STEPS} logged steps.",
        ),
        "settled": Kind(
            "Settled maps",
            "low",
            f"The first step from which the mean drift from the last step stays at {SETTLED:g} or less, over at least"
            f" {SETTLED_PROBES} probes, if at least {SETTLED_STEPS} logged steps follow it. The number `settled` is 1"
            " at a step if this finding would be reported for a run that ended there.",
        ),
    }
)
