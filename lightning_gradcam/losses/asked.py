"""Checks a loss's targets and methods, and computes the targets' scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.errors import MethodError, did_you_mean
from lightning_gradcam.methods import Method, available_methods, resolve_methods
from lightning_gradcam.methods.variants import full_precision
from lightning_gradcam.targets import (
    Given,
    Scored,
    Target,
    TargetSpec,
    check_names,
    class_scores,
    output_kind,
    resolve_targets,
)
from lightning_gradcam.targets.base import ScoreKind, Selector, check_samples, no_classes
from lightning_gradcam.targets.reading import probabilities


class EveryClass(Selector):
    """The sum of all classes' log-probabilities, which "right for the right reasons" explains."""

    has_classes = True

    def explain(self, output: Any, given: Given, name: str) -> Scored:
        """Explains the sum; with several labels per sample, the probabilities are sigmoids."""
        check_samples(output, given.samples)

        def again(values: Any, _copies: int) -> Tensor:
            scores = class_scores(values, "logit", given.kind)
            if given.kind != "logits":
                shares = probabilities(class_scores(values, "probability", given.kind), "softmax")
                return shares.clamp_min(torch.finfo(shares.dtype).tiny).log().sum(dim=1)
            single = values.dim() == 1 or values.shape[1] == 1
            return (logsigmoid(scores) if single or given.several else scores.log_softmax(dim=1)).sum(dim=1)

        scores = again(output, 1)
        return Scored(scores, no_classes(scores), again, kind=given.kind)


def asked_of(
    objective: str,
    methods: str | Sequence[str],
    targets: TargetSpec | Sequence[TargetSpec] | None,
    layout: str | Mapping[str, str] | None,
    class_names: Sequence[str] | str | None,
) -> Request:
    """Parses the options for a loss.

    Raises:
        ConfigurationError: An option is invalid.
    """
    if targets is None:
        every = [Target("every_class", EveryClass())]
        found: Sequence[Target] = every if objective == "reasons" else resolve_targets("label")
    else:
        found = resolve_targets(targets, check_names(class_names))
    return Request(found, _methods(methods), parse_layouts(layout), run=_run)


def explained_by(
    targets: Sequence[Target], score: ScoreKind, output: Any, labels: Tensor | None, masks: Any
) -> dict[str, Scored]:
    """Returns the scores of all targets, by name.

    Args:
        targets: The targets to explain.
        score: The kind of class score.
        output: The model's output.
        labels: The true classes, if known.
        masks: The region where the evidence should be, if known.

    Raises:
        TargetError: A target does not fit the output or the labels.
    """
    kind = output_kind(output)
    samples = len(output) if isinstance(output, Tensor) and output.dim() else 0
    samples = samples or (len(labels) if labels is not None else 0)
    whole = full_precision(output) if isinstance(output, Tensor) and output.is_floating_point() else output
    given = Given(samples, labels, masks, score, kind=kind)
    given.check()
    return {target.name: target.explain(whole, given) for target in targets}


def _methods(names: str | Sequence[str]) -> dict[str, Method]:
    methods = resolve_methods(names)
    for name, method in methods.items():
        if method.needs not in ("gradients", "activations"):
            known = [n for n in available_methods() if resolve_methods(n)[n].needs in ("gradients", "activations")]
            raise MethodError(
                f"methods: {name!r} reruns the model, which a loss on the training forward pass can't do; use a method "
                f"that needs activations and gradients only{did_you_mean(name, known)}"
            )
    return methods


def _run(_values: Any) -> Any:
    raise AssertionError("the forward is the user's")
