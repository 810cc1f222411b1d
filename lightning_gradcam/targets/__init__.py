"""Converts a model's output to the scores to explain.

Does not depend on layers, CAM methods or training.
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
from lightning_gradcam.targets.classes import ClassName, Contrast, Output, SimilarTo
from lightning_gradcam.targets.detection import Detect
from lightning_gradcam.targets.labels import check_names
from lightning_gradcam.targets.reading import output_kind
from lightning_gradcam.targets.resolve import PerProbe, Target, TargetObject, TargetSpec, Top, resolve_targets, written
from lightning_gradcam.targets.segmentation import Segment

__all__ = [
    "ClassName",
    "Contrast",
    "Detect",
    "Given",
    "Output",
    "PerProbe",
    "ScoreKind",
    "Scored",
    "Segment",
    "SimilarTo",
    "Target",
    "TargetObject",
    "TargetSpec",
    "Top",
    "check_names",
    "check_score",
    "class_probabilities",
    "class_scores",
    "output_kind",
    "probability_of",
    "resolve_targets",
    "written",
]
