"""Targets of models that tell classes apart, and plain numbers of the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.errors import TargetError
from lightning_gradcam.targets.base import Explained, Given, TargetCallable, class_scores, described


@dataclass(frozen=True)
class Class:
    """One class of each sample.

    Attributes:
        which: ``"predicted"``, ``"label"``, an index, an index for each sample, or a :class:`Rank`.
    """

    which: str | int | tuple[int, ...] | Rank
    has_classes = True

    def explain(self, output: Any, given: Given, name: str) -> Explained:
        """Explains the score of that class; of several true labels, the sum of their scores."""
        values = class_scores(output, given.score)
        if self.which == "label" and given.labels is not None and given.labels.dim() == 2:
            return _several(output, given)
        index = _index(self.which, values, given, name)
        return _scored(output, given, index, lambda scores, m: _at(scores, index.repeat(m)))


@dataclass(frozen=True)
class Rank:
    """The class at one place of each sample's ranking; 0 is the most likely."""

    place: int


@dataclass(frozen=True)
class Contrast:
    """One class's score less another's; each is an index, ``"predicted"`` or ``"label"``."""

    first: int | str
    second: int | str
    has_classes = True

    def explain(self, output: Any, given: Given, name: str) -> Explained:
        """Explains the difference; the explained class is the first."""
        values = class_scores(output, given.score)
        first, second = (_index(which, values, given, name) for which in (self.first, self.second))
        return _scored(
            output, given, first, lambda scores, m: _at(scores, first.repeat(m)) - _at(scores, second.repeat(m))
        )


@dataclass(frozen=True)
class Output:
    """One number of the output as it is: regression. ``[N]`` and ``[N, 1]`` have the index 0 alone."""

    index: int
    has_classes = False

    def explain(self, output: Any, given: Given, name: str) -> Explained:
        """Explains that number."""

        def again(values: Any, _copies: int) -> Tensor:
            if not isinstance(values, Tensor) or values.dim() not in (1, 2):
                raise TargetError(
                    f"targets: {name!r} needs an output [N] or [N, K], got {described(values)}; name it with"
                    " output_key=, or give a callable"
                )
            columns = values[:, None] if values.dim() == 1 else values
            if self.index >= columns.shape[1]:
                raise TargetError(
                    f"targets: {name!r} asks for number {self.index} of an output with {columns.shape[1]}; valid are 0"
                    f" to {columns.shape[1] - 1}"
                )
            return columns[:, self.index]

        scores = again(output, 1)
        return Explained(scores, torch.full((len(scores),), -1, device=scores.device), again)


@dataclass(frozen=True)
class Called:
    """What a user's callable makes of the output."""

    function: TargetCallable
    has_classes = True

    def explain(self, output: Any, given: Given, name: str) -> Explained:
        """Explains its scores, which have to be ``[N]``."""
        scores = self._scores(output, given.samples, name)
        return Explained(
            scores,
            torch.full((len(scores),), -1, device=scores.device),
            lambda values, _copies: self._scores(values, given.samples, name),
            repeats=False,
        )

    def _scores(self, output: Any, samples: int, name: str) -> Tensor:
        scores = self.function(output)
        if not isinstance(scores, Tensor) or scores.shape != (samples,):
            came = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise TargetError(
                f"targets: the callable {name!r} returned {came}; it needs to return a tensor [{samples}]: one score"
                " for each sample"
            )
        return scores


def _scored(output: Any, given: Given, classes: Tensor, select: Callable[[Tensor, int], Tensor]) -> Explained:
    def again(values: Any, copies: int) -> Tensor:
        return select(class_scores(values, given.score), copies)

    return Explained(again(output, 1), classes, again)


def _several(output: Any, given: Given) -> Explained:
    values, labels = class_scores(output, given.score), given.labels
    assert labels is not None
    if labels.shape != values.shape:
        raise TargetError(
            f"labels: got shape {list(labels.shape)} for an output {list(values.shape)}; give one class for each input,"
            " or a 0 or 1 for each of its classes"
        )
    chosen = labels.to(values)
    classes = torch.where(chosen.any(dim=1), chosen.argmax(dim=1), -1)
    return _scored(output, given, classes, lambda scores, m: (scores * chosen.repeat(m, 1)).sum(dim=1))


def _index(which: Any, values: Tensor, given: Given, name: str) -> Tensor:
    count, classes = values.shape
    if which == "predicted":
        return values.argmax(dim=1)
    if isinstance(which, Rank):
        if which.place >= classes:
            raise TargetError(f"targets: {name!r} asks for more than the model's {classes} classes")
        return values.argsort(dim=1, descending=True, stable=True)[:, which.place]
    if which == "label":
        index = _labels(given.labels, count).to(device=values.device, dtype=torch.int64)
    elif isinstance(which, tuple):
        index = torch.tensor(given.own(which, "per_probe", "indices"), device=values.device)
    else:
        index = torch.full((count,), int(which), device=values.device)
    wrong = index[(index < 0) | (index >= classes)]
    if len(wrong):
        raise TargetError(
            f"targets: {name!r} asks for class {int(wrong[0])}, but the model's output has {classes} classes; valid are"
            f" 0 to {classes - 1}"
        )
    return index


def _labels(labels: Tensor | None, count: int) -> Tensor:
    if labels is None:
        raise TargetError(
            "targets: 'label' needs the true classes, but there are none; give probes with integer labels (label_key"
            " names them in a batch), or use 'predicted' or a class index"
        )
    if labels.shape != (count,):
        raise TargetError(f"labels: got shape {list(labels.shape)} for {count} inputs; give one class for each")
    return labels


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[:, None])[:, 0]
