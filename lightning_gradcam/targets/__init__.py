"""From a model's output to the scores that are explained.

Knows nothing of layers, CAM methods or training.
"""

from lightning_gradcam.targets.base import (
    Given,
    Scored,
    ScoreKind,
    check_score,
    class_probabilities,
    class_scores,
    probability_of,
)
from lightning_gradcam.targets.resolve import Target, TargetSpec, resolve_targets

__all__ = [
    "Given",
    "ScoreKind",
    "Scored",
    "Target",
    "TargetSpec",
    "check_score",
    "class_probabilities",
    "class_scores",
    "probability_of",
    "resolve_targets",
]
