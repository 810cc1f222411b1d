"""What says in Python what the dicts of ``targets=`` say in YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_gradcam.targets.classes import ClassName, Contrast, Output, SimilarTo
from lightning_gradcam.targets.detection import Detect
from lightning_gradcam.targets.segmentation import Segment


@dataclass(frozen=True)
class PerProbe:
    """A class for each probe: ``{"per_probe": [index, …]}``.

    Attributes:
        classes: The indices, in the order of the probes.
    """

    classes: Sequence[int]


@dataclass(frozen=True)
class Top:
    """The most likely classes of each sample, as the targets ``top1`` to ``topk``: ``{"top": k}``.

    Attributes:
        count: How many.
    """

    count: int


TargetObject = ClassName | PerProbe | Top | Contrast | Output | Segment | Detect | SimilarTo


def written(target: Any) -> Any:
    """Returns an object that says what to explain as the dict that says the same in YAML; all else as it is.

    Example:
        >>> written(Contrast("predicted", 3))
        {'contrast': ['predicted', 3]}
    """
    match target:
        case ClassName(name):
            return {"class": name}
        case PerProbe(classes):
            return {"per_probe": plain_numbers(classes)}
        case Top(count):
            return {"top": count}
        case Contrast(first, second):
            return {"contrast": [first, second]}
        case Output(index):
            return {"output": index}
        case Segment(category, masked):
            return {"segment_mask" if masked else "segment": category}
        case Detect(category, boxes):
            return {"detect": category} if boxes is None else {"detect": category, "boxes": plain_numbers(boxes)}
        case SimilarTo(reference):
            return {"similar_to": reference}
        case _:
            return target


def plain_numbers(value: Any) -> Any:
    """Returns numbers, arrays and tensors of other libraries as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain_numbers(entry) for entry in value] if isinstance(value, (list, tuple)) else value
