"""From a model's output to the scores that are explained."""

from lightning_gradcam.targets.base import Explained, Given, ScoreKind, check_score, class_scores, prediction
from lightning_gradcam.targets.resolve import Target, TargetSpec, resolve_targets

__all__ = [
    "Explained",
    "Given",
    "ScoreKind",
    "Target",
    "TargetSpec",
    "check_score",
    "class_scores",
    "prediction",
    "resolve_targets",
]
