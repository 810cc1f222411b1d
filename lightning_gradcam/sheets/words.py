"""Captions for a probe: its class or classes with probabilities, or its value or similarity."""

from __future__ import annotations

import numpy as np

from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.render.text import INK, RIGHT, WRONG
from lightning_gradcam.render.tiles import OUTPUT, SIMILAR, of_classes, unclassed_word
from lightning_gradcam.sheets.builder import Caption

PERCENT = "%: probability of the predicted class"
"""What the percentages beside predictions are, for legends."""

# Minimum probability for a class to count as predicted, with several labels per probe.
_AMONG = 0.5


def quantity(record: CamRecord, target: str) -> str:
    """Returns the kind of a target's scores, such as ``"logit"``, ``"value"`` for a regression, or ``"similarity"``.

    The score of a box, or a sum over pixels, is a ``"score"``.
    """
    if of_classes(record, target).any():
        return score_title(record.score)
    return unclassed_word(target)


def score_title(score: str) -> str:
    """Returns the name of a class score for a header."""
    return {"probability": "softmax probability", "sigmoid": "sigmoid"}.get(score, "logit")


def target_words(target: str, probes: ProbeView) -> str:
    """Returns a description of a target that is an output value or a similarity; empty for other targets."""
    if found := OUTPUT.fullmatch(target):
        return f"value {found[1]} of the output"
    if found := SIMILAR.fullmatch(target):
        place = int(found[1])
        return f"the similarity to probe #{probes.ids[place] if place < len(probes) else place}"
    return ""


def true_value(probes: ProbeView, target: str, row: int) -> float | None:
    """Returns a regression's true value; ``None`` if it is unknown."""
    found = OUTPUT.fullmatch(target)
    if found is None or probes.values is None:
        return None
    values = np.atleast_1d(probes.values[row])
    return float(values[int(found[1])]) if int(found[1]) < len(values) else None


def class_words(probes: ProbeView, index: int) -> str:
    """Returns a class's name, or ``"class 4"`` if it has none."""
    name = probes.class_name(index)
    return f"class {name}" if name == str(index) else name


def probe_words(record: CamRecord, probes: ProbeView, row: int) -> tuple[Caption, str]:
    """Returns a probe's prediction, marked as right or wrong if the truth is known, and the truth, or ``""``.

    Args:
        record: The step's record.
        probes: The probes, for class names and true classes.
        row: The probe's index.
    """
    true, predicted = probes.true_classes(row), int(record.predicted[row])
    known = ", ".join(class_words(probes, index) for index in true)
    if predicted < 0:
        target = next(iter(record.scores))
        value = true_value(probes, target, row)
        text = f"{quantity(record, target)} {record.scores[target][row]:.3g}"
        return Caption(text, INK), known if value is None else f"{value:.3g}"
    found = [(predicted, float(record.confidence[row]))]
    if record.score == "sigmoid":
        pairs = zip(record.likeliest[row].tolist(), record.likeliest_confidence[row].tolist(), strict=True)
        found = [(index, share) for index, share in pairs if share >= _AMONG] or found
    said = ", ".join(_said(class_words(probes, index), share) for index, share in found)
    if not true:
        return Caption(said, INK), ""
    right = predicted in true
    return Caption(said, RIGHT if right else WRONG, "right" if right else "wrong"), known


def _said(name: str, share: float) -> str:
    return f"{name}  {share:.0%}" if np.isfinite(share) else name
