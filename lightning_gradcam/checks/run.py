"""Runs a check inside the guard, in chunks, and reports the cost before the long part starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Forward, caller
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.checks.asking import Counter
from lightning_gradcam.checks.measuring import Measuring
from lightning_gradcam.checks.redrawn import can_be_redrawn
from lightning_gradcam.checks.result import MapCheck
from lightning_gradcam.checks.variations import FULL, QUICK
from lightning_gradcam.compute.callers import eager, outside_autocast
from lightning_gradcam.compute.cam_maps import compute_cams
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, TargetError
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.methods import available_methods
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.targets import TargetSpec, check_score, resolve_targets
from lightning_gradcam.targets.classes import Class


def check_maps(
    model: nn.Module,
    inputs: Tensor,
    layers: LayerSpec = "auto",
    *,
    methods: str | Sequence[str] = "gradcam",
    targets: TargetSpec = "predicted",
    labels: Tensor | None = None,
    masks: Tensor | None = None,
    score: str = "logit",
    layout: str | Mapping[str, str] | None = None,
    output_key: str | int | Callable[[Any], Any] | None = None,
    forward: Forward | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 32,
    quick: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MapCheck:
    """Checks whether maps can be trusted: one verdict for each layer and method, for your own model and images.

    The check compares the maps with maps from random weights (Adebayo et al. 2018; Hedström et al. 2024). It compares
    their deletion, insertion, ROAD and agreement with those of random maps of the same smoothness (permutation tests),
    and their agreement over classes with that of random weightings of the layer's channels. It also examines inverted,
    blank and negative maps, maps for different classes, and maps under noise that does not change the prediction.
    ``docs/checks.md`` describes each measure with its paper, all thresholds and the cost.

    The model runs in evaluation mode during the check and is restored bit for bit afterwards
    (:func:`lightning_gradcam.guard.model.preserved`). The verdicts apply only to these images: pass 8 or more, from
    several classes, on which the model is confident.

    Args:
        model: Any module whose output is logits ``[N, C]`` or a single logit; see
            :func:`~lightning_gradcam.compute_cams`.
        inputs: Images ``[N, C, H, W]`` on the model's device, preprocessed as for training.
        layers: The layers to check, as in :func:`~lightning_gradcam.compute_cams`.
        methods: One or more method names, or ``"all"``, which skips methods that don't work on the model.
        targets: One class for each image: ``"predicted"`` (default), ``"label"``, an index or a class name.
        labels: True classes ``[N]``, for the target ``"label"``.
        masks: Masks of the objects, bool ``[N, H, W]``; they add energy inside and pointing game to the figures.
        score: The score to explain: ``"logit"``, ``"probability"`` or ``"sigmoid"`` (independent classes).
        layout: The meaning of the layers' axes, if it can't be detected.
        output_key: Key, index or attribute name of the logits in the model's output, or a function that returns them.
        forward: Function to call instead of ``model``.
        class_names: Names of all classes by index.
        batch_size: Maximum number of images per forward pass, which limits memory.
        quick: Whether to use fewer steps and no ROAD, for about a third of the cost and slightly less statistical
            power. Default: ``False``.
        seed: Random seed for random maps, random weights and noise; the same seed produces the same figures.
        progress: Function to call with the number of single-image forward passes done and the total. The first call
            reports the cost, before the long part starts.

    Returns:
        The verdicts with their figures. Print the result for a table, or ``save`` it as a page with images.

    Raises:
        ConfigurationError: The inputs are not images, the model does not return classes, it has no weights that can be
            randomised, or an option is invalid.
        TargetError: The target is not a class.
        LightningGradCAMError: As raised by :func:`~lightning_gradcam.compute_cams`.

    Example::

        check = check_maps(model, images, ["layer3", "layer4"], methods=["gradcam", "hirescam"])
        print(check)
        check.verdicts["layer4", "gradcam"].verdict      # "sound"
        check.best                                       # ("layer4", "hirescam")
    """
    _check_pictures(inputs, batch_size)
    if masks is not None and (masks.dtype != torch.bool or masks.dim() != 3 or len(masks) != len(inputs)):
        raise ConfigurationError(f"masks: got shape {list(masks.shape)} of type {masks.dtype}; pass bool [N, H, W]")
    (target, *more) = resolve_targets(targets, class_names)
    if more or not isinstance(target.select, Class):
        raise TargetError(
            f"targets: got {targets!r:.80}; check_maps explains one class per image: pass 'predicted', 'label', an"
            " index or a class's name"
        )
    options: dict[str, Any] = {
        "targets": targets,
        "labels": labels,
        "score": score,
        "layout": layout,
        "output_key": output_key,
        "forward": forward,
        "batch_size": batch_size,
        "class_names": class_names,
        "relu": False,
    }
    names: list[str] = [methods] if isinstance(methods, str) else list(methods)
    remarks: list[str] = []
    if names == ["all"]:
        names, remarks = _working(model, inputs, layers, options)
    if not any(can_be_redrawn(weight) for weight in model.parameters()):
        raise ConfigurationError(
            "model: it has no parameters that can be randomised (none at all, or only quantised ones), but the check "
            "compares the maps with those from random weights; pass the model as it was before quantisation"
        )
    run = caller(model, forward, output_key)
    with preserved(model), eager(model), outside_autocast(run, inputs.device) as called:
        counter = Counter(called)
        first = compute_cams(
            model, inputs, layers, methods=names, **{**options, "forward": counter, "output_key": None}
        )
        several, effort = check_score(score) == "sigmoid", QUICK if quick else FULL
        measuring = Measuring(model, inputs, first, names, counter, several, batch_size, effort, seed, layout, progress)
        found = measuring.checked(masks)
    return replace(found, remarks=tuple(remarks))


def check_maps_of(model: nn.Module, probes: ProbeSet, inputs: Tensor, layers: LayerSpec, **options: Any) -> MapCheck:
    """Checks maps for probes, using their labels, masks or boxes, and names.

    Args:
        model: The module.
        probes: The probes; the page shows their display images and names.
        inputs: The probes' inputs, as passed to the model.
        layers: The layers.
        **options: Options for :func:`check_maps`.
    """
    known: dict[str, Any] = {"labels": probes.labels, "masks": _marked(probes), "class_names": probes.class_names}
    check, view = check_maps(model, inputs, layers, **known, **options), probes.view
    classes, others = (
        tuple(view.class_name(int(number)) for number in numbers)
        for numbers in (check.evidence.classes, check.evidence.others)
    )
    shown = view.pixels[:, 0] if view.pixels.ndim == 5 else None
    evidence = replace(check.evidence, names=probes.ids, classes=classes, others=others, shown=shown)
    return replace(check, evidence=evidence)


def _marked(probes: ProbeSet) -> Tensor | None:
    """Returns masks of the probes' objects, bool ``[N, H, W]``, from masks or else boxes; ``None`` if unknown."""
    view = probes.view
    if view.masks is not None:
        return torch.from_numpy(view.masks)
    if view.boxes is None or np.isnan(view.boxes).all():
        return None
    down, across = (np.arange(side) + 0.5 for side in view.size)
    left, top, right, bottom = (side[:, None, None] for side in view.boxes.T)
    return torch.from_numpy((across >= left) & (across < right) & (down[:, None] >= top) & (down[:, None] < bottom))


def _check_pictures(inputs: Any, batch_size: Any) -> None:
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point() or not len(inputs):
        came = f"{list(inputs.shape)} of {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ConfigurationError(
            f"inputs: got {came}; check_maps hides pixels of images: pass floating-point images [N, C, H, W]"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigurationError(f"batch_size: got {batch_size!r}; pass an integer >= 1")


def _working(
    model: nn.Module, inputs: Tensor, layers: LayerSpec, options: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Returns the methods that work on the model, and a remark for each method that does not."""
    found, remarks = [], []
    labels = options["labels"]
    tried = {**options, "labels": None if labels is None else labels[:1]}
    for name in available_methods():
        try:
            compute_cams(model, inputs[:1], layers, methods=name, **tried)
            found.append(name)
        except LightningGradCAMError as error:
            remarks.append(f"{name!r} was left out: {error!s:.200}")
    if not found:
        raise ConfigurationError(f"methods: none works on this model; {remarks[0]:.300}")
    return found, remarks
