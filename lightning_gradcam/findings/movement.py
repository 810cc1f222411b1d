"""Findings about movement: the largest move, when maps settled, late jumps, and moves into or out of masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.findings import kinds
from lightning_gradcam.findings.survey import RunSurvey
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.stats.settled import SETTLED_STEPS

Numbers = npt.NDArray[np.float64]


def moved_most(survey: RunSurvey) -> Iterator[Finding]:
    """Yields, for each layer, the step at which its maps moved most."""
    for key in survey.main:
        means, counts = _drifts(survey, key)
        if survey.count < kinds.MOVED_STEPS or np.isnan(means).all():
            continue
        row = int(np.nanargmax(means))
        if means[row] >= kinds.MOVED:
            n = int(counts[row])
            yield survey.finding(
                "moved_most",
                key,
                np.isfinite(survey.series[key]["drift"][row]),
                {"n": n, "drift": means[row]},
                f"The maps of {survey.named(key)} moved most in {survey.when(row)}: mean drift {means[row]:.2f} from"
                f" {survey.when(row - 1)}, {n} of {len(survey.probes)} probes.",
                f"Look at the maps of {survey.when(row - 1)} and {survey.when(row)} side by side.",
                row=row,
            )


def settled(survey: RunSurvey) -> Iterator[Finding]:
    """Yields, for each layer, the first step from which its maps stay close to those at the last step."""
    for key in survey.main:
        row, flags = survey.settled[key]
        n, after = int(flags.sum()), survey.count - 1 - row
        if after >= SETTLED_STEPS:
            yield survey.finding(
                "settled",
                key,
                flags,
                {"n": n, "steps": after},
                f"The maps of {survey.named(key)} have settled by {survey.when(row)}: in the {after} logged steps after"
                f" it, they stay close to the maps at the last step ({n} of {len(survey.probes)} probes).",
                "If the validation metric has settled too, shorter training gives the same maps.",
                row=row,
            )


def late_jump(survey: RunSurvey) -> Iterator[Finding]:
    """Yields, for each layer, its largest late jump at a step where the validation loss hardly changed."""
    name = loss_name(survey.metrics)
    if name is None or survey.count < kinds.JUMP_STEPS:
        return
    loss = survey.metrics[name]
    for key in survey.main:
        means, counts = _drifts(survey, key)
        found = [row for row in range((survey.count + 1) // 2, survey.count) if _jumps(means, loss, row)]
        if found:
            row = max(found, key=lambda one: float(means[one]))
            usual, n = float(np.nanmedian(means[:row])), int(counts[row])
            yield survey.finding(
                "late_jump",
                key,
                survey.series[key]["drift"][row] >= kinds.JUMP,
                {"n": n, "drift": means[row], "drift_before": usual, "loss_before": loss[row - 1], "loss": loss[row]},
                f"The maps of {survey.named(key)} jumped in {survey.when(row)} (mean drift {means[row]:.2f} of {n}"
                f" probes, {usual:.2f} in the steps before) while {name} stayed flat ({loss[row - 1]:.4g},"
                f" then {loss[row]:.4g}).",
                f"The model may have found another reason for the same loss: compare the checkpoints before and after"
                f" {survey.when(row)} on other data, and look at what changed there, such as the learning rate.",
                row=row,
            )


def moved_across_masks(survey: RunSurvey) -> Iterator[Finding]:
    """Yields, for each layer, the probes whose evidence moved out of or into their masks or boxes."""
    # Exclude the untrained model.
    rows = range(sum(epoch < 0 for epoch in survey.epochs), survey.count)
    third = len(rows) // 3
    if len(rows) < kinds.TRAVEL_STEPS or survey.regions is None:
        return
    for key in survey.main:
        shares = survey.series[key]["energy_inside"][rows.start :].astype(np.float64)
        begin, end = _means(shares[:third]), _means(shares[-third:])
        judged = np.isfinite(begin) & np.isfinite(end)
        n, change = int(judged.sum()), np.where(judged, end - begin, 0)
        for kind, flags in (("moved_out", change <= -kinds.TRAVEL), ("moved_in", change >= kinds.TRAVEL)):
            count = int(flags.sum())
            if n < kinds.PROBES or count < kinds.NAMED:
                continue
            before, after = float(begin[flags].mean()), float(end[flags].mean())
            row = rows.start + _crossing(_means(shares[:, flags].T), (before + after) / 2, rising=after > before)
            into = "into" if kind == "moved_in" else "out of"
            yield survey.finding(
                kind,
                key,
                flags,
                {"n": n, "count": count, "inside_before": before, "inside_after": after},
                f"For {count} of {n} probes, the evidence moved {into} the mask in {survey.when(row)}"
                f" ({survey.named(key)}): {before:.0%} of it was inside at first, {after:.0%} at the end"
                f" ({survey.listed(flags)}).",
                "The model learnt to look at the marked part."
                if kind == "moved_in"
                else "Look at what these probes' maps show instead: a background, a mark, or a class that looks alike.",
                row=row,
            )


def loss_name(metrics: Mapping[str, Any]) -> str | None:
    """Returns the name of the validation loss among the trainer's metrics, or ``None``.

    Example:
        >>> loss_name({"val_accuracy": 0, "val/ce_loss": 0, "val_loss": 0, "train_loss": 0})
        'val_loss'
    """
    named = [name for name in metrics if "val" in name.lower() and "loss" in name.lower()]
    return min(named, key=lambda name: (len(name), name), default=None)


def _jumps(means: Numbers, loss: Numbers, row: int) -> bool:
    """Whether maps jump at a step while the loss hardly changes; unknown values do not count as jumps."""
    earlier = means[:row][np.isfinite(means[:row])]
    if len(earlier) < kinds.JUMP_BEFORE or not means[row] >= max(kinds.JUMP, kinds.JUMP_TIMES * np.median(earlier)):
        return False
    return bool(abs(loss[row] - loss[row - 1]) <= kinds.STILL * abs(loss[row - 1]))


def _drifts(survey: RunSurvey, key: CamKey) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """Returns each step's mean drift (NaN if too few probes were compared) and the number of probes compared."""
    drifts = survey.series[key]["drift"].astype(np.float64)
    counts = np.isfinite(drifts).sum(axis=1)
    return np.where(counts >= kinds.PROBES, _means(drifts.T), np.nan), counts


def _means(values: Numbers) -> Numbers:
    """Returns means of the finite values along the first axis; NaN if there are none."""
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def _crossing(values: Numbers, middle: float, *, rising: bool) -> int:
    """Returns the first index from which values stay beyond the middle value."""
    back = values < middle if rising else values > middle
    return min(int(np.flatnonzero(back).max(initial=-1)) + 1, len(values) - 1)
