"""Targets of models that do not answer with classes a picture: segmentation, detection, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from lightning_gradcam.errors import TargetError
from lightning_gradcam.targets.base import Explained, Given, described

_SAME_OBJECT = 0.5


@dataclass(frozen=True)
class Segment:
    """A class of a segmentation: the sum of its logits over a region.

    Vinogradova et al., "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping",
    AAAI 2020 (Seg-Grad-CAM).

    Attributes:
        category: A class index, or ``"predicted"``: the class that covers most of each picture.
        masked: The region is the probes' masks, and not where the class is predicted.
    """

    category: int | str
    masked: bool
    has_classes = False

    def explain(self, output: Any, given: Given, name: str) -> Explained:
        """Explains the class over its region in this output; a sample without a region has the score 0."""
        values = self._values(output, given, name)
        found = values.argmax(dim=1)
        if self.category == "predicted":
            category = found.flatten(1).mode(dim=1).values
        else:
            category = torch.full((len(values),), int(self.category), device=values.device)
        places = [1] * (values.dim() - 2)
        region = found == category.reshape(-1, *places)
        if self.masked:
            if given.masks is None:
                raise TargetError(
                    f"targets: {name!r} needs the probes' masks, but there are none; give probes with masks, or use"
                    " {'segment': class}, which takes where the class is predicted"
                )
            masks = given.masks.to(device=values.device, dtype=torch.float32)[:, None]
            region = interpolate(masks, size=values.shape[2:], mode="nearest")[:, 0] > 0.5

        def again(other: Any, copies: int) -> Tensor:
            logits = self._values(other, given, name)
            index = category.repeat(copies).reshape(-1, 1, *places).expand(-1, 1, *logits.shape[2:])
            inside = logits.gather(1, index)[:, 0] * region.repeat(copies, *places)
            return inside.flatten(1).sum(dim=1)

        return Explained(again(output, 1), category, again)

    def _values(self, output: Any, given: Given, name: str) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() not in (4, 5):
            hint = " (torchvision's segmentation models: output_key='out')" if isinstance(output, Mapping) else ""
            raise TargetError(
                f"targets: {name!r} needs logits [N, C, H, W], got {described(output)}; name them with output_key="
                f"{hint}"
            )
        if isinstance(self.category, int) and self.category >= output.shape[1]:
            raise TargetError(
                f"targets: {name!r} asks for class {self.category}, but the output has {output.shape[1]} classes; valid"
                f" are 0 to {output.shape[1] - 1}"
            )
        return output if given.score == "logit" else output.softmax(dim=1)


@dataclass(frozen=True)
class Detect:
    """A detector's score of one box a picture, for outputs like those of torchvision's detectors.

    Such an output is a list with a dict for each picture: ``boxes`` ``[K, 4]`` (x1, y1, x2, y2), ``labels`` ``[K]`` and
    ``scores`` ``[K]``.

    Attributes:
        category: A class index, or ``"predicted"``: that of the box with the highest score.
        boxes: A box for each picture; its match is the detection of the class with the largest overlap
            (intersection over union), of at least ``min_iou``. Without boxes, the detection with the highest score.
        min_iou: The least overlap.
    """

    category: int | str
    boxes: tuple[tuple[float, ...], ...] | None = None
    min_iou: float = _SAME_OBJECT
    has_classes = False

    def explain(self, output: Any, given: Given, name: str) -> Explained:
        """Explains the matched boxes' scores; a picture without a match has the score 0."""
        found = self._checked(output, given.samples, name)
        boxes = None if self.boxes is None else given.own(self.boxes, name, "boxes")
        chosen: list[tuple[int, Tensor] | None] = []
        scores = []
        for row, detections in enumerate(found):
            box = None if boxes is None else torch.tensor(boxes[row], device=detections["boxes"].device)
            category = None if self.category == "predicted" else int(self.category)
            place = _matched(detections, category, box, self.min_iou)
            scores.append(_zero(detections) if place is None else detections["scores"][place])
            chosen.append(
                None
                if place is None
                else (int(detections["labels"][place]), detections["boxes"][place].detach() if box is None else box)
            )

        def again(other: Any, copies: int) -> Tensor:
            rows = []
            for row, detections in enumerate(self._checked(other, given.samples * copies, name)):
                wanted = chosen[row % given.samples]
                place = None if wanted is None else _matched(detections, *wanted, self.min_iou)
                rows.append(_zero(detections) if place is None else detections["scores"][place])
            return torch.stack(rows)

        classes = torch.tensor([-1 if entry is None else entry[0] for entry in chosen], device=scores[0].device)
        return Explained(torch.stack(scores), classes, again)

    @staticmethod
    def _checked(output: Any, samples: int, name: str) -> list[Mapping[str, Tensor]]:
        fits = isinstance(output, Sequence) and len(output) == samples
        if not fits or not all(
            isinstance(one, Mapping) and {"boxes", "labels", "scores"} <= set(one) for one in output
        ):
            raise TargetError(
                f"targets: {name!r} needs a detector's output, a list of {samples} dicts with 'boxes', 'labels' and"
                f" 'scores', got {described(output)}; give a callable for another kind of output"
            )
        return list(output)


@dataclass(frozen=True)
class Similar:
    """The cosine similarity of each sample's embedding to that of a reference among the probes.

    Attributes:
        reference: The reference's place among the probes, counted from 0.
    """

    reference: int
    has_classes = False

    def explain(self, output: Any, given: Given, name: str) -> Explained:
        """Explains what makes each picture similar to the reference, whose embedding is held."""
        if self.reference >= given.all:
            raise TargetError(
                f"targets: {name!r} asks for probe {self.reference} of {given.all}; valid are 0 to {given.all - 1}"
            )
        place = self.reference - given.first
        if 0 <= place < given.samples or given.output_of is None:
            anchor = _embedding(output, name)[place].detach()
        else:
            anchor = _embedding(given.output_of(self.reference), name)[0].detach()

        def again(other: Any, _copies: int) -> Tensor:
            return cosine_similarity(_embedding(other, name), anchor[None], dim=1)

        scores = again(output, 1)
        return Explained(scores, torch.full((len(scores),), -1, device=scores.device), again)


def _embedding(output: Any, name: str) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise TargetError(
            f"targets: {name!r} needs embeddings [N, D], got {described(output)}; name them with output_key="
        )
    return output.flatten(1)


def _matched(detections: Mapping[str, Tensor], category: int | None, box: Tensor | None, min_iou: float) -> int | None:
    scores = detections["scores"].detach()
    possible = torch.ones_like(scores, dtype=torch.bool) if category is None else detections["labels"] == category
    rank = scores
    if box is not None:
        rank = overlaps(detections["boxes"].detach(), box)
        possible = possible & (rank >= min_iou)
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


def _zero(detections: Mapping[str, Tensor]) -> Tensor:
    # Attached to the graph where the picture has boxes, so that one without a match has the gradient 0 and not none.
    return detections["scores"].sum() * 0
