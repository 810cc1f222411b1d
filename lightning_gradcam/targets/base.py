"""What every target has in common: what it is given, what it gives, and how outputs become scores of classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from lightning_gradcam.errors import TargetError
from lightning_gradcam.targets.labels import are_multi_hot
from lightning_gradcam.targets.reading import OutputKind, described, probabilities

ScoreKind = Literal["logit", "probability", "sigmoid"]
TargetCallable = Callable[[Any], Tensor]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Given:
    """What a target may look at besides the output. Many samples are explained in parts.

    Attributes:
        samples: How many there are in this part.
        labels: True classes ``[N]``, or 0 and 1 for every class ``[N, C]`` (several labels a sample), or a regression's
            numbers, or ``None``.
        masks: bool ``[N, H, W]``, or ``None``.
        score: ``"logit"``, ``"probability"`` or ``"sigmoid"``; see :func:`class_scores`.
        first: The place of this part's first sample among all.
        total: How many samples there are in all parts; ``None``: this part is all.
        output_of: The model's output for the one sample at a place among all.
        several: Each class is likely or not on its own, so that probabilities are sigmoids and no softmax. Where not
            given: under ``score="sigmoid"``, and under ``"logit"`` where any label marks none or more than one class.
        names: How many names of classes the user gives; ``None``: none.
        kind: What the output is; see :func:`~lightning_gradcam.targets.reading.output_kind`.
    """

    samples: int
    labels: Tensor | None = None
    masks: Tensor | None = None
    score: ScoreKind = "logit"
    first: int = 0
    total: int | None = None
    output_of: Callable[[int], Any] | None = None
    kind: OutputKind = "logits"
    several: bool | None = None
    names: int | None = None

    def __post_init__(self) -> None:
        if self.several is None:
            marked = self.score == "logit" and self.labels is not None and are_multi_hot(self.labels)
            object.__setattr__(self, "several", self.score == "sigmoid" or marked)

    @property
    def chances(self) -> ScoreKind:
        """What turns logits into probabilities of classes: ``"sigmoid"`` or ``"probability"``."""
        return "sigmoid" if self.several else "probability"

    @property
    def all(self) -> int:
        """How many samples there are in all parts."""
        return self.samples if self.total is None else self.total

    def check(self) -> None:
        """Rejects labels and masks that are not as many as the samples; a part of too many would look right.

        Raises:
            TargetError: They are not.
        """
        for name, values, wanted in (
            ("labels", self.labels, "one class for each, or a 0 or 1 for each of its classes"),
            ("masks", self.masks, "one for each, bool [N, H, W]"),
        ):
            if values is not None and (not values.dim() or len(values) != self.samples):
                raise TargetError(f"{name}: got shape {list(values.shape)} for {self.samples} inputs; give {wanted}")

    def part(self, start: int, stop: int, output_of: Callable[[int], Any] | None = None) -> Given:
        """Returns what belongs to some of this part's samples."""
        own = {name: getattr(self, name)[start:stop] for name in ("labels", "masks") if getattr(self, name) is not None}
        return replace(self, samples=stop - start, first=self.first + start, total=self.all, output_of=output_of, **own)

    def own(self, values: Sequence[T], name: str, what: str) -> Sequence[T]:
        """Returns this part's of the values that a target has for each sample.

        Args:
            values: One for each sample of all parts.
            name: The target's.
            what: What they are, for the error.

        Raises:
            TargetError: They are not as many as the samples.
        """
        if len(values) != self.all:
            raise TargetError(
                f"targets: {name!r} has {len(values)} {what} for {self.all} probes; give one for each probe"
            )
        return values[self.first : self.first + self.samples]


@dataclass(frozen=True, eq=False)
class Scored:
    """What a target makes of one output.

    Attributes:
        scores: ``[N]``, attached to the graph.
        classes: The explained classes ``[N]`` (int64; -1 if there is none).
        again: The scores of the same choices (classes, regions, boxes) in another output, of ``m`` copies of the batch
            one after the other: ``(output, m)`` to ``[m * N]``.
        repeats: Whether ``again`` takes more than one copy at a time; a user's callable may count samples.
        of_classes: Whether the scores are those of ``classes`` and of nothing else.
        kind: What the output was, where the scores are those of classes.
        is_cut_off: Whether a callable left the output's graph, by a ``detach()`` or through NumPy.
        constant: Where a score has no gradient by its nature, bool ``[N]``: a sample compared with itself. ``None``:
            nowhere.
    """

    scores: Tensor
    classes: Tensor
    again: Callable[[Any, int], Tensor]
    repeats: bool = True
    of_classes: bool = False
    is_cut_off: bool = False
    kind: OutputKind = "logits"
    constant: Tensor | None = None


class Selector(ABC):
    """How one kind of target chooses what is explained.

    Attributes:
        has_classes: Whether the model's output is one of classes, so that there is a most likely one.
        is_particular: Whether it may look at a part of the output alone, whatever the weights.
    """

    has_classes = False
    is_particular = False

    @abstractmethod
    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Chooses, and computes the scores; ``name`` is what errors call the target."""


def check_score(score: str) -> ScoreKind:
    """Returns ``score`` where it is possible.

    Raises:
        TargetError: It is not ``"logit"``, ``"probability"`` or ``"sigmoid"``.
    """
    if score in get_args(ScoreKind):
        return score  # type: ignore[return-value]
    raise TargetError(
        f"score: got {score!r}; valid: 'logit' (the output as it is), 'probability' (its softmax) and 'sigmoid'"
        " (each class on its own, for several labels a sample)"
    )


def check_samples(output: Any, samples: int) -> None:
    """Rejects an output that has not one row for each sample.

    Raises:
        TargetError: It has more or fewer; a single sample's classes would pass for many samples' single logits.
    """
    if isinstance(output, Tensor) and (not output.dim() or len(output) != samples):
        raise TargetError(
            f"targets: the model returned {described(output)} for {samples} sample{'s' if samples != 1 else ''},"
            " expected one row for each; if forward() squeezes the batch axis away, name the axis it means"
            " (squeeze(1)); if output_key= selects one row, name the whole output; or give a callable that turns it"
            " into scores [N]"
        )


def check_place(name: str, what: str, place: int, whole: str, count: int) -> None:
    """Rejects a place that is not among those of the output.

    Args:
        name: The target's name.
        what: What it asks for: ``"class"``.
        place: Which, counted from 0.
        whole: What it is a place of, as it follows in the error: ``", but the output has 3 classes"``.
        count: How many there are.

    Raises:
        TargetError: There is no such place.
    """
    if not 0 <= place < count:
        raise TargetError(f"targets: {name!r} asks for {what} {place}{whole}; valid: 0 to {count - 1}")


def no_classes(scores: Tensor) -> Tensor:
    """Returns what :attr:`Scored.classes` is where scores ``[N]`` are of no class: -1 everywhere."""
    return torch.full((len(scores),), -1, device=scores.device)


def explained_score(score: ScoreKind, kind: OutputKind) -> ScoreKind:
    """Returns what the scores of classes are where ``score`` is requested of an output of this kind."""
    if kind == "logits" or (score == "logit" and kind.startswith("log_")):
        return score
    return "probability" if kind in ("softmax", "log_softmax") else "sigmoid"


def class_scores(output: Any, score: ScoreKind, kind: OutputKind = "logits") -> Tensor:
    """Returns the score of every class.

    Args:
        output: Logits ``[N, C]`` with two classes or more; or one logit ``z`` a sample, ``[N]`` or ``[N, 1]``, whose
            sign decides between class 0 and class 1. Or probabilities of the same shapes; of a single ``p`` a sample,
            the classes have ``1 - p`` and ``p``.
        score: ``"logit"``: the logits as they are; of a single one, ``-z`` and ``z``. ``"probability"``: their softmax;
            of a single one, the sigmoid of ``-z`` and of ``z``. ``"sigmoid"``: the sigmoid of each. Probabilities are
            taken as they are under each of these.
        kind: What the output is.

    Returns:
        ``[N, C]``, attached to the graph; ``[N, 2]`` for a single logit.

    Raises:
        TargetError: The output is anything else; a callable target can take that.
    """
    if isinstance(output, Tensor) and output.is_floating_point():
        if output.dim() == 2 and output.shape[1] >= 2:
            return scored_axis(output, score, kind)
        if output.dim() == 1 or (output.dim() == 2 and output.shape[1] == 1):
            return scored_axis(output.reshape(-1, 1), score, kind)
    raise TargetError(
        f"targets: the model returned {described(output)}, expected logits [N, C], or a single logit [N] or [N, 1];"
        " name the logits in it with output_key=, or give a target for this kind of output ({'segment': class},"
        " {'detect': class}, {'output': index}, or a callable that turns it into scores [N])"
    )


def scored_axis(values: Tensor, score: ScoreKind, kind: OutputKind = "logits") -> Tensor:
    """Returns the scores of an output ``[N, C, …]``.

    Of a single channel: of logits ``z``, those of ``-z`` and ``z``; of probabilities, ``1 - p`` and ``p``.
    """
    if values.shape[1] == 1:
        if kind == "logits":
            both = torch.cat([-values, values], dim=1)
            return both if score == "logit" else both.sigmoid()
        if score == "logit" and kind.startswith("log_"):
            return torch.cat([(-torch.expm1(values)).log(), values], dim=1)
        share = probabilities(values, kind)
        return torch.cat([1 - share, share], dim=1)
    if score == "logit":
        return values
    if kind != "logits":
        return probabilities(values, kind)
    return values.softmax(dim=1) if score == "probability" else values.sigmoid()


def class_logits(output: Any, kind: OutputKind) -> Tensor:
    """Returns the logits of every class ``[N, C]``; those of a softmax are known up to a number for each sample."""
    scores = class_scores(output, "logit", kind)
    if kind in ("logits", "log_softmax"):
        return scores
    if kind == "softmax":
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return torch.logit(class_scores(output, "sigmoid", kind), eps=torch.finfo(scores.dtype).eps)


def class_probabilities(output: Any, score: ScoreKind, kind: OutputKind = "logits") -> Tensor | None:
    """Returns the probability of every class, ``[N, C]``, float32 or float64; ``None`` if there are no classes.

    Args:
        output: As in :func:`class_scores`.
        score: ``"sigmoid"``: each class on its own; else the softmax. An output of probabilities is taken as it is.
        kind: What the output is.
    """
    try:
        scores = class_scores(output, "sigmoid" if score == "sigmoid" else "probability", kind)
    except TargetError:
        return None
    return scores if scores.dtype == torch.float64 else scores.float()


def probability_of(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Returns the probabilities ``[N]`` of one class each; NaN if the class is -1, or not among them."""
    possible = classes.clamp(0, probabilities.shape[1] - 1)
    found = probabilities.gather(1, possible[:, None])[:, 0]
    return torch.where(classes == possible, found, torch.nan)
