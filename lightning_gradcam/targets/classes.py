"""Targets for models that output classes, plain numbers or an embedding for each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from torch.utils._pytree import tree_leaves

from lightning_gradcam.errors import TargetError
from lightning_gradcam.targets.base import Given, Scored, Selector, check_place, check_samples, class_scores, no_classes
from lightning_gradcam.targets.labels import no_class_in
from lightning_gradcam.targets.reading import described

# Maximum difference of two directions due to rounding, in units of the floating-point precision.
_ROUNDING = 8


@dataclass(frozen=True)
class Class(Selector):
    """One class for each sample.

    Attributes:
        which: ``"predicted"``, ``"label"``, an index, an index for each sample, or a :class:`Rank`.
    """

    which: str | int | tuple[int, ...] | Rank
    has_classes = True

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains the score of that class; for several true labels, the sum of their scores."""
        # Binary cross-entropy on a single logit uses labels of shape [N, 1]: one class for each sample.
        if self.which == "label" and given.labels is not None and given.labels.shape[1:] not in ((), (1,)):
            return _several(output, given, name)
        (index,) = _indices(output, given, name, self.which)
        return _scored(output, given, index, lambda scores, m: _at(scores, index, m), of_classes=True)


@dataclass(frozen=True)
class ClassName(Selector):
    """A class given by name, spelled exactly as in the data set: ``{"class": name}``.

    The index of the class is unknown until the probes provide the class names.

    Attributes:
        name: The class name.
    """

    name: str
    has_classes = True

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Raises an error, since the class has no index without names."""
        raise TargetError(
            f"targets: class {self.name!r} is given by name, but no class names are known; pass class_names=, or the "
            "class's index"
        )


@dataclass(frozen=True)
class Rank:
    """Each sample's class at a given rank; rank 0 is the most likely."""

    place: int


@dataclass(frozen=True)
class Contrast(Selector):
    """One class's score minus another's: ``{"contrast": [first, second]}``.

    Attributes:
        first: A class index, ``"predicted"`` or ``"label"``.
        second: The class to subtract, in the same form.
    """

    first: int | str
    second: int | str
    has_classes = True

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains the difference; the explained class is the first."""
        first, second = _indices(output, given, name, self.first, self.second)
        found = _scored(output, given, first, lambda scores, m: _at(scores, first, m) - _at(scores, second, m))
        return replace(found, zero=first == second)


@dataclass(frozen=True)
class Output(Selector):
    """One number of the output, unchanged, for regression: ``{"output": index}``.

    Attributes:
        index: The number's index, from 0; outputs ``[N]`` and ``[N, 1]`` only have index 0.
    """

    index: int
    is_particular = True

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains that number."""

        def again(values: Any, _copies: int) -> Tensor:
            if not isinstance(values, Tensor) or values.dim() not in (1, 2):
                raise TargetError(
                    f"targets: {name!r} needs an output [N] or [N, K], got {described(values)}; select it with "
                    "output_key="
                )
            columns = values[:, None] if values.dim() == 1 else values
            count = columns.shape[1]
            check_place(name, "number", self.index, f" of an output with {count}", count)
            return columns[:, self.index]

        check_samples(output, given.samples)
        scores = again(output, 1)
        return Scored(scores, no_classes(scores), again)


@dataclass(frozen=True)
class Called(Selector):
    """A user's callable applied to the output."""

    function: Callable[[Any], Tensor]
    has_classes = True
    is_particular = True

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains the callable's scores, which must have the shape ``[N]``."""
        scores = self._scores(output, given.samples, name)
        attached = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output))
        return Scored(
            scores,
            no_classes(scores),
            lambda values, _copies: self._scores(values, given.samples, name),
            repeats=False,
            is_cut_off=attached and not scores.requires_grad,
        )

    def _scores(self, output: Any, samples: int, name: str) -> Tensor:
        scores = self.function(output)
        if not isinstance(scores, Tensor) or scores.shape != (samples,) or not scores.is_floating_point():
            raise TargetError(
                f"targets: the callable {name!r} returned {described(scores)}; it must return a tensor [{samples}] of "
                "floating-point scores, one for each sample (not the output's argmax, for example)"
            )
        return scores


@dataclass(frozen=True)
class SimilarTo(Selector):
    """The cosine similarity between each sample's embedding and that of a reference probe.

    In a dict: ``{"similar_to": reference}``.

    Attributes:
        reference: Index of the reference probe, from 0.
    """

    reference: int

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains what makes each image similar to the reference, whose embedding is kept constant."""
        check_samples(output, given.samples)
        check_place(name, "probe", self.reference, f" of {given.all}", given.all)
        place = self.reference - given.first
        if 0 <= place < given.samples or given.output_of is None:
            anchor = _embedding(output, name)[place].detach()
        else:
            anchor = _embedding(given.output_of(self.reference), name)[0].detach()

        def again(other: Any, _copies: int) -> Tensor:
            return cosine_similarity(_embedding(other, name), anchor[None], dim=1)

        scores = again(output, 1)
        # At its maximum, a similarity has no gradient; the computed one is rounding error, which a map would show in
        # full colour.
        same = _as_similar_as_can_be(_embedding(output, name).detach(), anchor)
        scores = torch.where(same, scores.detach(), scores)
        return Scored(scores, no_classes(scores), again, constant=same)


def _as_similar_as_can_be(embeddings: Tensor, anchor: Tensor) -> Tensor:
    """Whether embeddings ``[N, D]`` are parallel to the anchor (same or opposite direction), up to rounding."""
    own, other = normalize(embeddings, dim=1), normalize(anchor, dim=0)
    along = own @ other
    across = (own - along[:, None] * other).norm(dim=1)
    # A zero vector has no direction.
    found: Tensor = (across <= _ROUNDING * torch.finfo(embeddings.dtype).eps) & (along.abs() > 0.5)
    return found


def _scored(
    output: Any, given: Given, classes: Tensor, select: Callable[[Tensor, int], Tensor], *, of_classes: bool = False
) -> Scored:
    def again(values: Any, copies: int) -> Tensor:
        return select(class_scores(values, given.score, given.kind), copies)

    return Scored(again(output, 1), classes, again, of_classes=of_classes, kind=given.kind)


def _several(output: Any, given: Given, name: str) -> Scored:
    _check_classes("label", output, given, name)
    values, labels = class_scores(output, given.score, given.kind), given.labels
    assert labels is not None
    if labels.shape != values.shape:
        raise TargetError(
            f"labels: got shape {list(labels.shape)} for an output {list(values.shape)}; pass one class for each input,"
            " or 0 or 1 for every class"
        )
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise TargetError(
            "labels: got numbers other than 0 and 1 for several classes per sample; pass one class, or 0 or 1 for each "
            "class"
        )
    chosen = labels.to(values)
    classes = torch.where(chosen.any(dim=1), chosen.argmax(dim=1), -1)
    found = _scored(output, given, classes, lambda scores, m: (scores * chosen.repeat(m, 1)).sum(dim=1))
    return replace(found, zero=classes < 0)


def _check_classes(which: Any, output: Any, given: Given, name: str) -> None:
    """Rejects an output without one row per sample, and a predicted, ranked or true class if labels show numbers."""
    check_samples(output, given.samples)
    if not isinstance(which, (str, Rank)) or (wrong := no_class_in(output, given.labels)) is None:
        return
    numbers = 1 if output.dim() == 1 else output.shape[1]
    valid = " to ".join(f"{{'output': {index}}}" for index in sorted({0, numbers - 1}))
    shares = "; if labels are probabilities of class 1, pass the class's index, 0 or 1" if numbers == 1 else ""
    raise TargetError(
        f"targets: {name!r} explains a class, but for an output of {numbers} number{'s' if numbers > 1 else ''} per "
        f"sample, the label {wrong:g} is not a class: this is a regression; choose the number to explain: "
        f"{valid}{shares}"
    )


def _indices(output: Any, given: Given, name: str, *which: Any) -> list[Tensor]:
    for each in which:
        _check_classes(each, output, given, name)
    values = class_scores(output, given.score, given.kind)
    return [_index(each, values, given, name) for each in which]


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
    for wrong in index[(index < 0) | (index >= classes)].tolist():
        check_place(name, "class", wrong, f", but the model's output has {classes} classes", classes)
    return index


def _embedding(output: Any, name: str) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise TargetError(
            f"targets: {name!r} needs embeddings [N, D], got {described(output)}; select them with output_key="
        )
    return output.flatten(1)


def _labels(labels: Tensor | None, count: int) -> Tensor:
    if labels is None:
        raise TargetError(
            "targets: 'label' needs the true classes, but there are none; pass probes with integer labels (label_key= "
            "selects them in a batch), or use 'predicted' or a class index"
        )
    if labels.shape not in ((count,), (count, 1)):
        raise TargetError(f"labels: got shape {list(labels.shape)} for {count} inputs; pass one class for each")
    flat = labels.flatten()
    broken = flat[flat != flat.round()] if flat.is_floating_point() else flat[:0]
    if len(broken):
        raise TargetError(
            f"labels: got {broken[0].item():g}, which is not a class; pass integers, or use a callable as the target"
        )
    return flat


def _at(values: Tensor, index: Tensor, copies: int) -> Tensor:
    whole = index if copies == 1 else index.repeat(copies)
    return values.gather(1, whole[:, None])[:, 0]
