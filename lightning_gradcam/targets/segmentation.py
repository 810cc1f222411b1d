"""Targets for segmentation models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_gradcam.errors import TargetError
from lightning_gradcam.targets.base import Given, Scored, Selector, check_place, check_samples, scored_axis
from lightning_gradcam.targets.reading import described


@dataclass(frozen=True)
class Segment(Selector):
    """The sum of one class's scores over a region, for segmentation models.

    In a dict: ``{"segment": category}``, or with masks ``{"segment_mask": category}``.

    A single channel represents two classes, like a single logit: its sign decides.

    Vinogradova et al., "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping",
    AAAI 2020 (Seg-Grad-CAM).

    Attributes:
        category: A class index, or ``"predicted"``: the class with the largest area in each image.
        masked: Whether to use the probes' masks as the region. Otherwise the region is where the class is predicted:
            where it is the most likely class or, with ``score="sigmoid"``, where its probability exceeds 0.5.
    """

    category: int | str
    masked: bool = False

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains the class over its region in this output; a sample without a region has the score 0."""
        logits = scored_axis(self._checked(output, name), "logit", given.kind)
        check_samples(logits, given.samples)
        several = given.score == "sigmoid"
        # On a CPU, argmax over an axis other than the last takes four times as long as max.
        even = 0.0 if given.kind == "logits" else math.log(0.5) if given.kind.startswith("log_") else 0.5
        found = logits > even if several else logits.max(dim=1).indices
        if self.category != "predicted":
            category = torch.full((len(logits),), int(self.category), device=logits.device)
        elif several:
            category = found.flatten(2).sum(dim=2).argmax(dim=1)
        else:
            category = found.flatten(1).mode(dim=1).values
        places = [1] * (logits.dim() - 2)
        if self.masked:
            region = _resized(given.masks, logits, name)
        elif several:
            region = _at(found, category)
        else:
            region = found == category.reshape(-1, *places)

        def again(other: Any, copies: int) -> Tensor:
            scores = _at(scored_axis(self._checked(other, name), given.score, given.kind), category.repeat(copies))
            inside = scores.where(region.repeat(copies, *places), 0)
            # Sums over an image exceed the range of half precision.
            return inside.flatten(1).sum(dim=1, dtype=torch.promote_types(inside.dtype, torch.float32))

        return Scored(again(output, 1), category, again, zero=~region.flatten(1).any(dim=1))

    def _checked(self, output: Any, name: str) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() not in (4, 5) or not output.is_floating_point():
            hint = " (torchvision's segmentation models: output_key='out')" if isinstance(output, Mapping) else ""
            what = f"needs logits [N, C, H, W], got {described(output)}"
            raise TargetError(f"targets: {name!r} {what}; select them with output_key={hint}")
        classes = max(output.shape[1], 2)
        if isinstance(self.category, int):
            check_place(name, "class", self.category, f", but the output has {classes} classes", classes)
        return output


def _at(values: Tensor, category: Tensor) -> Tensor:
    """Selects the channel of each sample's class: from ``[N, C, …]`` to ``[N, …]``."""
    index = category.reshape(-1, *[1] * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index)[:, 0]


def _resized(masks: Tensor | None, logits: Tensor, name: str) -> Tensor:
    if masks is None:
        raise TargetError(
            f"targets: {name!r} needs the probes' masks, but there are none; pass probes with masks, or use"
            " {'segment': class}, which covers the pixels where the class is predicted"
        )
    if masks.dtype != torch.bool or masks.dim() != logits.dim() - 1:
        raise TargetError(
            f"masks: got {described(masks)}, expected bool {'[N, H, W]' if logits.dim() == 4 else '[N, D, H, W]'}, "
            "true inside; for masks of class numbers, pass masks == class"
        )
    as_numbers = masks.to(device=logits.device, dtype=torch.float32)[:, None]
    return interpolate(as_numbers, size=logits.shape[2:], mode="nearest")[:, 0] > 0.5
