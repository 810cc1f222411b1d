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
TargetSpec = str | int | Mapping[str, Sequence[int]] | TargetCallable
_CHOICES = "'predicted', 'label', a class index, {'per_probe': [index, …]}, a callable, or a list of these"


@dataclass(frozen=True)
class Target:
    """One explained target: how it is named in keys, columns and files, and what it selects.

    Attributes:
        name: ``"predicted"``, ``"label"``, the class index as text (``"3"``), ``"per_probe"``, or the callable's
            own name.
        select: ``"predicted"``, ``"label"``, a class index, an index for each sample, or a callable from the
            model's output to scores ``[N]``.
    """

    name: str
    select: str | int | tuple[int, ...] | TargetCallable

    def scores(self, output: Any, *, labels: Tensor | None, score: ScoreKind) -> tuple[Tensor, Tensor]:
        """Computes what is explained.

        Args:
            output: The model's output; logits ``[N, C]``, except for a callable target, which may take anything.
            labels: True classes ``[N]``, needed for ``"label"``.
            score: ``"logit"``: the output at the class as it is. ``"probability"``: its softmax over the classes.
                A callable target gets the plain output either way.

        Returns:
            Scores ``[N]``, attached to the graph, and the explained classes ``[N]`` (int64; -1 for a callable).

        Raises:
            TargetError: The output is not ``[N, C]``, there are no labels, an index is out of range, or a callable
                returns another shape.
        """
        if callable(self.select):
            return self._called(output)
        logits = check_logits(output)
        count, classes = logits.shape
        index = self._index(logits, labels, count)
        wrong = index[(index < 0) | (index >= classes)]
        if len(wrong):
            raise TargetError(
                f"targets: {self.name!r} asks for class {int(wrong[0])}, but the model's output has {classes} classes;"
                f" valid are 0 to {classes - 1}"
            )
        values = logits.softmax(dim=1) if score == "probability" else logits
        return values.gather(1, index[:, None])[:, 0], index

    def _index(self, logits: Tensor, labels: Tensor | None, count: int) -> Tensor:
        if self.select == "predicted":
            return logits.argmax(dim=1)
        if self.select == "label":
            if labels is None:
                raise TargetError(
                    "targets: 'label' needs the true classes, but there are none; give probes with integer labels"
                    " (label_key names them in a batch), or use 'predicted' or a class index"
                )
            if labels.shape != (count,):
                raise TargetError(f"labels: got shape {list(labels.shape)} for {count} inputs; give one class for each")
            return labels.to(device=logits.device, dtype=torch.int64)
        if isinstance(self.select, tuple):
            if len(self.select) != count:
                raise TargetError(
                    f"targets: 'per_probe' has {len(self.select)} indices for {count} probes; give one for each probe"
                )
            return torch.tensor(self.select, device=logits.device)
        return torch.full((count,), int(str(self.select)), device=logits.device)

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
        targets: ``"predicted"``, ``"label"``, a class index, ``{"per_probe": [index, …]}``, a callable from the
            model's output to scores ``[N]``, or a list of these.

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
    resolved = tuple(map(_resolve, specs))
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


def check_logits(output: Any) -> Tensor:
    """Returns the model's output where it is ``[N, C]`` with two classes or more.

    Raises:
        TargetError: It is anything else; a callable target can take that.
    """
    if isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] >= 2 and output.is_floating_point():
        return output
    came = f"a tensor {list(output.shape)} of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
    raise TargetError(
        f"targets: the model returned {came}, expected logits [N, C] with at least two classes; give a callable target"
        " that turns this output into scores [N]"
    )


def _resolve(spec: Any) -> Target:
    if isinstance(spec, str) and spec in ("predicted", "label"):
        return Target(spec, spec)
    if isinstance(spec, int) and not isinstance(spec, bool):
        if spec < 0:
            raise TargetError(f"targets: got class index {spec}; indices begin at 0")
        return Target(str(spec), spec)
    if isinstance(spec, Mapping) and list(spec) == ["per_probe"]:
        indices = spec["per_probe"]
        if isinstance(indices, Sequence) and indices and all(type(i) is int and i >= 0 for i in indices):
            return Target("per_probe", tuple(indices))
    if callable(spec):
        return Target(getattr(spec, "__name__", type(spec).__name__), spec)
    raise TargetError(f"targets: got {spec!r}; give {_CHOICES}")
