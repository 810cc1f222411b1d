"""Computes a model's confidence in the classes that maps explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradcam.errors import ConfigurationError, TargetError
from lightning_gradcam.stats.imputation import checked_pictures
from lightning_gradcam.stats.masks import upsampled
from lightning_gradcam.targets import ScoreKind, check_score, class_scores
from lightning_gradcam.targets.reading import OutputKind, described, traced_output

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """A metric's checked arguments, with maps resized to the images, and the way to query the model."""

    model: Model
    inputs: Tensor
    maps: Tensor
    classes: Tensor
    kind: ScoreKind
    output: OutputKind

    @classmethod
    def of(cls, model: Model, inputs: Tensor, maps: Tensor, classes: Tensor | None, score: str) -> Case:
        """Checks a metric's arguments; ``classes=None`` selects the most likely classes.

        Raises:
            ConfigurationError: A shape or option is invalid, or the model does not return logits.
        """
        if isinstance(inputs, Tensor) and isinstance(maps, Tensor) and (inputs.dim(), maps.dim()) == (3, 2):
            # Treat signals and their maps as images with one row.
            inputs, maps, model = inputs[:, :, None], maps[:, None], _of_rows(model)
        inputs, kind = checked_pictures("inputs", inputs), check_score(score)
        resized = upsampled(maps, (inputs.shape[2], inputs.shape[3])).to(inputs.device)
        if len(resized) != len(inputs):
            raise ConfigurationError(f"maps: got {len(resized)} for {len(inputs)} inputs; pass one map for each input")
        output, found = traced_output(model, inputs.clone())
        values = _class_scores(output, kind, found)
        if classes is None:
            classes = values.argmax(dim=1)
        elif classes.shape != (len(inputs),) or classes.is_floating_point() or classes.is_complex():
            raise ConfigurationError(
                f"classes: got {described(classes)}; pass one class for each of {len(inputs)} inputs"
            )
        elif bool(((classes < 0) | (classes >= values.shape[1])).any()):
            came, last = sorted(set(classes.tolist())), values.shape[1] - 1
            raise ConfigurationError(f"classes: got {came}; valid: 0 to {last}, the model's output classes")
        return cls(model, inputs, resized, classes.to(values.device, torch.int64), kind, found)

    def score(self, pictures: Tensor) -> Tensor:
        """Returns the confidence in the explained classes, ``[N]``; NaN if the map is not finite."""
        with torch.no_grad():
            # A model may modify its input in place.
            output = self.model(pictures.clone())
        found = _class_scores(output, self.kind, self.output).gather(1, self.classes[:, None])[:, 0]
        return found.where(self.maps.flatten(1).isfinite().all(dim=1), torch.nan)


def pixel_ranks(maps: Tensor, seed: int) -> Tensor:
    """Returns each pixel's rank by importance, ``[N, H, W]``, 0 for the most important."""
    flat = maps.flatten(1)
    # Stable sort of shuffled pixels; in reading order, ties would be removed starting from the top left corner.
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed), device="cpu").to(
        flat.device
    )
    order = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    return order.argsort(dim=1).view_as(maps)


def _of_rows(model: Model) -> Model:
    """Wraps a model for signals ``[N, C, L]`` as a model for images ``[N, C, 1, L]``."""
    return lambda pictures: model(pictures[:, :, 0])


def _class_scores(output: Tensor, score: ScoreKind, kind: OutputKind) -> Tensor:
    try:
        with torch.no_grad():
            values = class_scores(output, score, kind).detach()
    except TargetError:
        wanted = "pass a callable that returns logits [N, C], for instance lambda x: model(x).logits"
        raise ConfigurationError(f"model: returned {described(output)}; {wanted}") from None
    return values if values.dtype == torch.float64 else values.float()
