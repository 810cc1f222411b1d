"""The parts common to all targets: their inputs, their results, and the conversion of outputs to class scores."""

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
    """The data a target may use besides the output. Large batches are explained in parts.

    Attributes:
        samples: Number of samples in this part.
        labels: True classes ``[N]``, 0/1 for every class ``[N, C]`` (several labels per sample), regression values, or
            ``None``.
        masks: Region masks, bool ``[N, H, W]``, or ``None``.
        score: ``"logit"``, ``"probability"`` or ``"sigmoid"``; see :func:`class_scores`.
        first: Index of this part's first sample among all samples.
        total: Number of samples in all parts; ``None`` if this part is everything.
        output_of: Returns the model's output for one sample, given its index among all samples.
        several: Whether classes are independent, so that probabilities are sigmoids rather than a softmax. This is
            the default with ``score="sigmoid"``, and with ``"logit"`` if any label marks no class or several classes.
        names: Number of the user's class names; ``None`` if there are none.
        found_names: Number of class names found in the data set, which may be those of other classes; ``None`` if there
            are none.
        from_one: The largest label in the data set if its labels begin at 1; ``None`` otherwise.
        kind: The kind of output; see :func:`~lightning_gradcam.targets.reading.output_kind`.
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
    found_names: int | None = None
    from_one: int | None = None

    def __post_init__(self) -> None:
        if self.several is None:
            marked = self.score == "logit" and self.labels is not None and are_multi_hot(self.labels)
            object.__setattr__(self, "several", self.score == "sigmoid" or marked)

    @property
    def chances(self) -> ScoreKind:
        """How logits become class probabilities: ``"sigmoid"`` or ``"probability"``."""
        return "sigmoid" if self.several else "probability"

    @property
    def all(self) -> int:
        """Number of samples in all parts."""
        return self.samples if self.total is None else self.total

    def check(self) -> None:
        """Rejects labels and masks that are not one per sample; a slice of too many would look correct.

        Raises:
            TargetError: The number of labels or masks differs from the number of samples.
        """
        for name, values, wanted in (
            ("labels", self.labels, "one class for each, or 0 or 1 for every class"),
            ("masks", self.masks, "one for each, bool [N, H, W]"),
        ):
            if values is not None and (not values.dim() or len(values) != self.samples):
                raise TargetError(f"{name}: got shape {list(values.shape)} for {self.samples} inputs; pass {wanted}")

    def part(self, start: int, stop: int, output_of: Callable[[int], Any] | None = None) -> Given:
        """Returns the data for a range of this part's samples."""
        own = {name: getattr(self, name)[start:stop] for name in ("labels", "masks") if getattr(self, name) is not None}
        return replace(self, samples=stop - start, first=self.first + start, total=self.all, output_of=output_of, **own)

    def own(self, values: Sequence[T], name: str, what: str) -> Sequence[T]:
        """Returns this part's share of a target's values, one per sample.

        Args:
            values: One value per sample, for all parts.
            name: The target's name.
            what: What the values are, for the error.

        Raises:
            TargetError: The number of values differs from the number of samples.
        """
        if len(values) != self.all:
            raise TargetError(
                f"targets: {name!r} has {len(values)} {what} for {self.all} probes; pass one for each probe"
            )
        return values[self.first : self.first + self.samples]


@dataclass(frozen=True, eq=False)
class Scored:
    """A target's result for one output.

    Attributes:
        scores: The explained scores ``[N]``, attached to the graph.
        classes: The explained classes ``[N]`` (int64; -1 if there is none).
        again: Scores a different output with the same choices (classes, regions, boxes). It maps ``(output, m)``, where
            the output contains ``m`` consecutive copies of the batch, to scores ``[m * N]``.
        repeats: Whether ``again`` accepts more than one copy at a time; a user's callable may depend on the number of
            samples.
        of_classes: Whether the scores are exactly those of ``classes``.
        kind: The kind of output, if the scores are class scores.
        is_cut_off: Whether a callable detached its scores from the output's graph, by ``detach()`` or through NumPy.
        constant: Which scores have no gradient by definition, bool ``[N]``, such as a sample's similarity to itself.
            ``None`` if there are none.
        zero: Which scores are zero because there is nothing to explain, bool ``[N]``: no true class, no pixel or box of
            the class, or a class minus itself. ``None`` if there are none.
    """

    scores: Tensor
    classes: Tensor
    again: Callable[[Any, int], Tensor]
    repeats: bool = True
    of_classes: bool = False
    is_cut_off: bool = False
    kind: OutputKind = "logits"
    constant: Tensor | None = None
    zero: Tensor | None = None


class Selector(ABC):
    """Chooses the score to explain for one kind of target.

    Attributes:
        has_classes: Whether the model outputs classes, so that a most likely class exists.
        is_particular: Whether the score may depend on only a part of the output, whatever the weights.
    """

    has_classes = False
    is_particular = False

    @abstractmethod
    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Chooses and computes the scores; errors refer to the target by ``name``."""


def check_score(score: str) -> ScoreKind:
    """Returns ``score`` if it is valid.

    Raises:
        TargetError: ``score`` is not ``"logit"``, ``"probability"`` or ``"sigmoid"``.
    """
    if score in get_args(ScoreKind):
        return score  # type: ignore[return-value]
    raise TargetError(
        f"score: got {score!r}; valid: 'logit' (the unchanged output), 'probability' (its softmax) and 'sigmoid'"
        " (each class on its own, for several labels per sample)"
    )


def check_samples(output: Any, samples: int) -> None:
    """Rejects an output that does not have one row for each sample.

    Raises:
        TargetError: The number of rows differs; one sample's classes could be mistaken for many samples' single logits.
    """
    if isinstance(output, Tensor) and (not output.dim() or len(output) != samples):
        raise TargetError(
            f"targets: the model returned {described(output)} for {samples} sample{'s' if samples != 1 else ''}, "
            "expected one row for each; if forward() squeezes the batch axis away, specify the axis to squeeze "
            "(squeeze(1)); if output_key= selects one row, select the whole output; or pass a callable that turns it "
            "into scores [N]"
        )


def check_place(name: str, what: str, place: int, whole: str, count: int) -> None:
    """Rejects an index outside the output's range.

    Args:
        name: The target's name.
        what: What the target selects: ``"class"``.
        place: The index, from 0.
        whole: The rest of the error message: ``", but the output has 3 classes"``.
        count: The number of valid indices.

    Raises:
        TargetError: The index is out of range.
    """
    if not 0 <= place < count:
        raise TargetError(f"targets: {name!r} asks for {what} {place}{whole}; valid: 0 to {count - 1}")


def no_classes(scores: Tensor) -> Tensor:
    """Returns :attr:`Scored.classes` for scores ``[N]`` that belong to no class: -1 everywhere."""
    return torch.full((len(scores),), -1, device=scores.device)


def explained_score(score: ScoreKind, kind: OutputKind) -> ScoreKind:
    """Returns the kind of class score that ``score`` yields for an output of this kind."""
    if kind == "logits" or (score == "logit" and kind.startswith("log_")):
        return score
    return "probability" if kind in ("softmax", "log_softmax") else "sigmoid"


def class_scores(output: Any, score: ScoreKind, kind: OutputKind = "logits") -> Tensor:
    """Returns the score of every class.

    Args:
        output: Logits ``[N, C]`` with two or more classes; or one logit ``z`` for each sample, ``[N]`` or ``[N, 1]``,
            whose sign decides between class 0 and class 1; or probabilities of the same shapes. A single probability
            ``p`` yields the class scores ``1 - p`` and ``p``.
        score: ``"logit"``: the logits unchanged; for a single logit, ``-z`` and ``z``. ``"probability"``: their
            softmax; for a single logit, the sigmoids of ``-z`` and ``z``. ``"sigmoid"``: the sigmoid of each. Outputs
            that are probabilities stay unchanged in all three cases.
        kind: The kind of output.

    Returns:
        The scores ``[N, C]``, attached to the graph; ``[N, 2]`` for a single logit.

    Raises:
        TargetError: The output has a different form; a callable target can handle it.
    """
    if isinstance(output, Tensor) and output.is_floating_point():
        if output.dim() == 2 and output.shape[1] >= 2:
            return scored_axis(output, score, kind)
        if output.dim() == 1 or (output.dim() == 2 and output.shape[1] == 1):
            return scored_axis(output.reshape(-1, 1), score, kind)
    raise TargetError(
        f"targets: the model returned {described(output)}, expected logits [N, C], or a single logit [N] or [N, 1];"
        " select the logits in it with output_key=, or pass a target for this kind of output ({'segment': class},"
        " {'detect': class}, {'output': index}, or a callable that turns it into scores [N])"
    )


def scored_axis(values: Tensor, score: ScoreKind, kind: OutputKind = "logits") -> Tensor:
    """Returns the scores of an output ``[N, C, …]``.

    A single channel of logits ``z`` yields ``-z`` and ``z``; a single channel of probabilities ``p`` yields ``1 - p``
    and ``p``. Probabilities of half-precision outputs are float32: in bfloat16, 0.998 is 1, and its gradient is wrong.
    """
    if values.dtype in (torch.float16, torch.bfloat16) and (score, kind) != ("logit", "logits"):
        values = values.float()
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
    """Returns the logits of every class ``[N, C]``; for a softmax output, up to a constant per sample."""
    scores = class_scores(output, "logit", kind)
    if kind in ("logits", "log_softmax"):
        return scores
    if kind == "softmax":
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return torch.logit(class_scores(output, "sigmoid", kind), eps=torch.finfo(scores.dtype).eps)


def class_probabilities(output: Any, score: ScoreKind, kind: OutputKind = "logits") -> Tensor | None:
    """Returns the probability of every class, ``[N, C]``, float32 or float64; ``None`` if the output has no classes.

    Args:
        output: As in :func:`class_scores`.
        score: ``"sigmoid"`` treats each class independently; otherwise the softmax is used. Outputs that are
            probabilities stay unchanged.
        kind: The kind of output.
    """
    try:
        scores = class_scores(output, "sigmoid" if score == "sigmoid" else "probability", kind)
    except TargetError:
        return None
    return scores if scores.dtype == torch.float64 else scores.float()


def probability_of(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Returns the probability ``[N]`` of each sample's class; NaN if the class is -1 or out of range."""
    possible = classes.clamp(0, probabilities.shape[1] - 1)
    found = probabilities.gather(1, possible[:, None])[:, 0]
    return torch.where(classes == possible, found, torch.nan)
