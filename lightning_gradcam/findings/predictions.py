"""Findings about whether correct and wrong predictions use the marked region of the image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lightning_gradcam.findings.kinds import ELSEWHERE, INSIDE, NAMED, PROBES
from lightning_gradcam.findings.survey import RunSurvey
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.stats.numbers import mean


def predictions(survey: RunSurvey) -> Iterator[Finding]:
    """Yields correct predictions based on other regions, and wrong ones based on the marked region.

    Both use the layer with the most evidence in the marked regions, and only maps for the true or predicted class.
    """
    areas, predicted = survey.areas(), survey.last.predicted
    keys = [key for key in survey.main if key.target in ("predicted", "label")]
    known = {key: found for key in keys if np.isfinite(found := mean(survey.inside(key)))}
    if areas is None or survey.probes.true is None or not known:
        return
    key = max(known, key=lambda one: known[one])
    inside = survey.inside(key)
    labelled = np.array([bool(true) for true in survey.probes.true]) & (predicted >= 0)
    right = np.array([int(best) in true for best, true in zip(predicted, survey.probes.true, strict=True)])
    judged = labelled & np.isfinite(inside) & np.isfinite(areas)
    when, n = survey.when(), int(judged.sum())

    of = judged & right
    flags, total = of & (inside <= areas), int(of.sum())
    count = int(flags.sum())
    if total >= PROBES and count >= max(NAMED, ELSEWHERE * total):
        share, chance = float(inside[flags].mean()), float(areas[flags].mean())
        yield survey.finding(
            "right_elsewhere",
            key,
            flags,
            {"n": total, "count": count, "inside": share, "area": chance},
            f"{count} of {total} correctly predicted probes look elsewhere: {share:.0%} of their evidence is inside"
            f" masks that cover {chance:.0%} of the image ({survey.named(key)}, {when}; {survey.listed(flags)}).",
            "They may be right for another reason, such as the background or a mark: cover the masked part of these "
            "probes, and see whether the prediction changes.",
        )
    flags = judged & ~right & (inside >= INSIDE) & (inside >= 2 * areas)
    count = int(flags.sum())
    if n >= PROBES and count >= NAMED:
        share, wrong = float(inside[flags].mean()), int((judged & ~right).sum())
        yield survey.finding(
            "wrong_inside",
            key,
            flags,
            {"n": n, "wrong": wrong, "count": count, "inside": share},
            f"{count} of {wrong} wrongly predicted probes ({n} probes judged) look at the right place: {share:.0%} "
            f"of their evidence is inside their masks ({survey.named(key)}, {when}; {survey.listed(flags)}).",
            "The location is right but the class is not: check their labels, and classes that look alike.",
        )
