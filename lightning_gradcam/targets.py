"""From a model's output to the scores that are explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gradcam.errors import TargetError

ScoreKind = Literal["logit", "probability"]
TargetCallable = Callable[[Any], Tensor]
TargetSpec = str | int | Mapping[str, Any] | TargetCallable
_CHOICES = (
    "'predicted', 'label', a class index, {'per_probe': [index, …]}, {'top': k}, {'contrast': [class, class]}, a"
    " callable, or a list of these"
)


@dataclass(frozen=True)
class Rank:
    """The class at one place of each sample's ranking; 0 is the most likely."""

    place: int


@dataclass(frozen=True)
class Contrast:
    """One class's score less another's; each is an index, ``"predicted"`` or ``"label"``."""

    first: int | str
    second: int | str


@dataclass(frozen=True)
class Target:
    """One explained target: how it is named in keys, columns and files, and what it selects.

    Attributes:
        name: ``"predicted"``, ``"label"``, the class index as text (``"3"``), ``"per_probe"``, ``"top1"``,
            ``"3_vs_5"``, or the callable's own name.
        select: ``"predicted"``, ``"label"``, a class index, an index for each sample, a :class:`Rank`, a
            :class:`Contrast`, or a callable from the model's output to scores ``[N]``.
    """

    name: str
    select: str | int | tuple[int, ...] | Rank | Contrast | TargetCallable

    def scores(self, output: Any, *, labels: Tensor | None, score: ScoreKind) -> tuple[Tensor, Tensor]:
        """Computes what is explained.

        Args:
            output: The model's output; logits ``[N, C]``, or one logit a sample (``[N]`` or ``[N, 1]``, see
                :func:`class_scores`); for a callable target, anything.
            labels: True classes ``[N]``, needed for ``"label"``.
            score: ``"logit"``: the output at the class as it is. ``"probability"``: its softmax over the classes.
                A callable target gets the plain output either way.

        Returns:
            Scores ``[N]``, attached to the graph, and the explained classes ``[N]`` (int64; the first one of a
            contrast; -1 for a callable).

        Raises:
            TargetError: The output has another shape, there are no labels, an index is out of range, or a callable
                returns another shape.
        """
        if callable(self.select):
            return self._called(output)
        values = class_scores(output, score)
        if isinstance(self.select, Contrast):
            first, second = (self._index(part, values, labels) for part in (self.select.first, self.select.second))
            return _at(values, first) - _at(values, second), first
        index = self._index(self.select, values, labels)
        return _at(values, index), index

    def _index(self, select: Any, values: Tensor, labels: Tensor | None) -> Tensor:
        count, classes = values.shape
        if select == "predicted":
            return values.argmax(dim=1)
        if isinstance(select, Rank):
            if select.place >= classes:
                raise TargetError(f"targets: {self.name!r} asks for more than the model's {classes} classes")
            return values.argsort(dim=1, descending=True, stable=True)[:, select.place]
        if select == "label":
            index = self._labels(labels, count).to(device=values.device, dtype=torch.int64)
        elif isinstance(select, tuple):
            if len(select) != count:
                raise TargetError(
                    f"targets: 'per_probe' has {len(select)} indices for {count} probes; give one for each probe"
                )
            index = torch.tensor(select, device=values.device)
        else:
            index = torch.full((count,), int(select), device=values.device)
        wrong = index[(index < 0) | (index >= classes)]
        if len(wrong):
            raise TargetError(
                f"targets: {self.name!r} asks for class {int(wrong[0])}, but the model's output has {classes} classes;"
                f" valid are 0 to {classes - 1}"
            )
        return index

    def _labels(self, labels: Tensor | None, count: int) -> Tensor:
        if labels is None:
            raise TargetError(
                "targets: 'label' needs the true classes, but there are none; give probes with integer labels"
                " (label_key names them in a batch), or use 'predicted' or a class index"
            )
        if labels.shape != (count,):
            raise TargetError(f"labels: got shape {list(labels.shape)} for {count} inputs; give one class for each")
        return labels

    def _called(self, output: Any) -> tuple[Tensor, Tensor]:
        assert callable(self.select)
        scores = self.select(output)
        count = output.shape[0] if isinstance(output, Tensor) else None
        if not isinstance(scores, Tensor) or scores.dim() != 1 or (count is not None and len(scores) != count):
            came = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise TargetError(
                f"targets: the callable {self.name!r} returned {came}; it needs to return a tensor [{count or 'N'}]:"
                " one score for each sample"
            )
        return scores, torch.full((len(scores),), -1, device=scores.device)


def resolve_targets(targets: TargetSpec | Sequence[TargetSpec]) -> tuple[Target, ...]:
    """Reads what the user asked to have explained.

    Args:
        targets: ``"predicted"``, ``"label"``, a class index, ``{"per_probe": [index, …]}`` (one for each sample),
            ``{"top": k}`` (each sample's k most likely classes, as ``top1`` to ``topk``), ``{"contrast": [a, b]}``
            (the score of a less that of b, each an index, ``"predicted"`` or ``"label"``), a callable from the model's
            output to scores ``[N]``, or a list of these.

    Returns:
        The targets in the order asked for, names unique.

    Raises:
        TargetError: An entry is none of these, or two have the same name.

    Example:
        >>> [target.name for target in resolve_targets(["predicted", 3])]
        ['predicted', '3']
    """
    listed = isinstance(targets, Sequence) and not isinstance(targets, str)
    specs = list(targets) if listed else [targets]  # type: ignore[arg-type]
    if not specs:
        raise TargetError(f"targets: got an empty list; give {_CHOICES}")
    resolved = tuple(target for spec in specs for target in _resolve(spec))
    names = [target.name for target in resolved]
    for name in names:
        if names.count(name) > 1:
            raise TargetError(
                f"targets: {name!r} is asked for {names.count(name)} times; name each target once (a callable goes by"
                " its __name__: define it with def)"
            )
    return resolved


def check_score(score: str) -> ScoreKind:
    """Returns ``score`` where it is possible.

    Raises:
        TargetError: It is neither ``"logit"`` nor ``"probability"``.
    """
    if score == "logit" or score == "probability":
        return score  # type: ignore[return-value]
    raise TargetError(f"score: got {score!r}; valid are 'logit' (the output as it is) and 'probability' (its softmax)")


def class_scores(output: Any, score: ScoreKind) -> Tensor:
    """Returns the score of every class.

    Args:
        output: Logits ``[N, C]`` with two classes or more; or one logit ``z`` a sample, ``[N]`` or ``[N, 1]``, whose
            sign decides between class 0 and class 1.
        score: ``"logit"``: the logits as they are; of a single one, ``-z`` and ``z``. ``"probability"``: their softmax;
            of a single one, the sigmoid of ``-z`` and of ``z``.

    Returns:
        ``[N, C]``, attached to the graph; ``[N, 2]`` for a single logit.

    Raises:
        TargetError: The output is anything else; a callable target can take that.
    """
    if isinstance(output, Tensor) and output.is_floating_point():
        if output.dim() == 2 and output.shape[1] >= 2:
            return output.softmax(dim=1) if score == "probability" else output
        if output.dim() == 1 or (output.dim() == 2 and output.shape[1] == 1):
            both = torch.stack([-output.flatten(), output.flatten()], dim=1)
            return both.sigmoid() if score == "probability" else both
    came = f"a tensor {list(output.shape)} of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
    raise TargetError(
        f"targets: the model returned {came}, expected logits [N, C], or a single logit [N] or [N, 1]; give a callable"
        " target that turns this output into scores [N]"
    )


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[:, None])[:, 0]


def _resolve(spec: Any) -> list[Target]:
    if isinstance(spec, str) and spec in ("predicted", "label"):
        return [Target(spec, spec)]
    if isinstance(spec, int) and not isinstance(spec, bool):
        if spec < 0:
            raise TargetError(f"targets: got class index {spec}; indices begin at 0")
        return [Target(str(spec), spec)]
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((kind, value),) = spec.items()
        found = _resolve_kind(kind, value)
        if found:
            return found
    if callable(spec):
        return [Target(getattr(spec, "__name__", type(spec).__name__), spec)]
    raise TargetError(f"targets: got {spec!r}; give {_CHOICES}")


def _resolve_kind(kind: str, value: Any) -> list[Target]:
    listed = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if kind == "per_probe" and listed and all(map(_is_class, listed)):
        return [Target("per_probe", tuple(listed))]
    if kind == "top" and _is_class(value) and value >= 1:
        return [Target(f"top{place + 1}", Rank(place)) for place in range(value)]
    if kind == "contrast" and len(listed) == 2 and all(_is_class(v) or v in ("predicted", "label") for v in listed):
        return [Target(f"{listed[0]}_vs_{listed[1]}", Contrast(*listed))]
    return []


def _is_class(value: Any) -> bool:
    return type(value) is int and value >= 0
