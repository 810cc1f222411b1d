"""Targets for detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.errors import TargetError
from lightning_gradcam.targets.base import Given, Scored, Selector
from lightning_gradcam.targets.reading import described

_SAME_OBJECT = 0.5


@dataclass(frozen=True)
class Detect(Selector):
    """A detector's score for one box per image, for outputs in the format of torchvision's detectors.

    In a dict: ``{"detect": category}`` or ``{"detect": category, "boxes": [[x1, y1, x2, y2], …]}``.

    Such an output is a list with one dict for each image: ``boxes`` ``[K, 4]`` (x1, y1, x2, y2), ``labels`` ``[K]`` and
    ``scores`` ``[K]``.

    Attributes:
        category: A class index, or ``"predicted"``: the class of the box with the highest score.
        boxes: One box per image. Its match is the detection of the class with the largest overlap (intersection over
            union), which must be at least 0.5. Without boxes, the detection with the highest score is explained.
    """

    category: int | str
    boxes: Sequence[Sequence[float]] | None = None

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains the matched boxes' scores; an image without a match has the score 0."""
        found = self._checked(output, given.samples, name)
        boxes = None if self.boxes is None else given.own(self.boxes, name, "boxes")
        chosen: list[tuple[int, Tensor] | None] = []
        scores = []
        for row, detections in enumerate(found):
            box = None if boxes is None else torch.tensor(boxes[row], device=detections["boxes"].device)
            place = _matched(detections, None if self.category == "predicted" else int(self.category), box)
            scores.append(_score(detections, place))
            own = None if place is None else detections["boxes"][place].detach() if box is None else box
            chosen.append(None if place is None or own is None else (int(detections["labels"][place]), own))

        def again(other: Any, copies: int) -> Tensor:
            rows = []
            for row, detections in enumerate(self._checked(other, given.samples * copies, name)):
                wanted = chosen[row % given.samples]
                rows.append(_score(detections, None if wanted is None else _matched(detections, *wanted)))
            return torch.stack(rows)

        classes = torch.tensor([-1 if entry is None else entry[0] for entry in chosen], device=scores[0].device)
        return Scored(torch.stack(scores), classes, again, zero=classes < 0)

    @staticmethod
    def _checked(output: Any, samples: int, name: str) -> list[Mapping[str, Tensor]]:
        fits = isinstance(output, Sequence) and len(output) == samples
        if not fits or not all(
            isinstance(one, Mapping) and {"boxes", "labels", "scores"} <= set(one) for one in output
        ):
            raise TargetError(
                f"targets: {name!r} needs a detector's output, a list of {samples} dicts with 'boxes', 'labels' and"
                f" 'scores', got {described(output)}; pass a callable for another kind of output"
            )
        return list(output)


def _matched(detections: Mapping[str, Tensor], category: int | None, box: Tensor | None) -> int | None:
    rank = detections["scores"].detach()
    possible = torch.ones_like(rank, dtype=torch.bool) if category is None else detections["labels"] == category
    if box is not None:
        rank = overlaps(detections["boxes"].detach(), box)
        possible = possible & (rank >= _SAME_OBJECT)
    if not bool(possible.any()):
        return None
    return int(rank.where(possible, torch.full_like(rank, -1.0)).argmax())


def overlaps(boxes: Tensor, box: Tensor) -> Tensor:
    """Returns the intersection over union of each of ``boxes`` ``[K, 4]`` with ``box`` ``[4]``, in 0…1.

    Example:
        >>> overlaps(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
        tensor([0.3333])
    """
    box = box.to(boxes)
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    both = (high - low).clamp(min=0).prod(dim=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod() - both
    return both / union.clamp(min=1e-12)


def _score(detections: Mapping[str, Tensor], place: int | None) -> Tensor:
    # If the image has boxes, the sum keeps the score attached to the graph: without a match, the gradient is 0 rather
    # than missing.
    return detections["scores"].sum() * 0 if place is None else detections["scores"][place]
