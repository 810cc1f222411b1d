"""Checks maps for the images and checkpoints that :func:`~lightning_gradcam.explain` accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from lightning_gradcam.checks.result import MapCheck
from lightning_gradcam.checks.run import check_maps_of
from lightning_gradcam.errors import TargetError
from lightning_gradcam.probes.folder import Preparation
from lightning_gradcam.saved_models.explanation import prepared


def check_pictures(
    model: Any,
    images: Any,
    layers: Any = None,
    *,
    methods: Any = "gradcam",
    targets: Any = "predicted",
    score: str = "logit",
    output_key: Any = None,
    batch_size: int = 32,
    quick: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **reading: Any,
) -> tuple[MapCheck, tuple[str, ...]]:
    """Checks the maps of images.

    Args:
        model: A module, a checkpoint's path, or ``None``, as in :func:`~lightning_gradcam.explain`.
        images: Images, as in :func:`~lightning_gradcam.explain`.
        layers: The layers; default: those that the checkpoint's run explained, else ``"auto"``.
        methods: As in :func:`~lightning_gradcam.check_maps`, as are the next seven arguments.
        targets: The targets to explain.
        score: The kind of score.
        output_key: Where the logits are in the model's output.
        batch_size: Number of images per forward.
        quick: Use fewer steps.
        seed: Random seed.
        progress: Called with the number of forwards done and the total.
        **reading: How to load model and images: the other options of :func:`~lightning_gradcam.explain`.

    Returns:
        The check, and notes for the user on how model and images were loaded.
    """
    if isinstance(targets, list):
        raise TargetError(f"targets: got {targets!r:.80}; a check explains one class per image: pass one target")
    names = [one.name for one in fields(Preparation) if one.name in reading]
    given = Preparation(**{name: reading.pop(name) for name in names})
    read = prepared(model, images, layers, given, targets=targets, **reading)
    module, probes = read.loaded.module, read.probes
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0))
    inputs = probes.inputs.to(weight.device)
    found = check_maps_of(
        module,
        probes,
        inputs.to(weight.dtype) if inputs.is_floating_point() else inputs,
        read.layers,
        methods=methods,
        targets=read.targets,
        score=score,
        output_key=output_key,
        batch_size=batch_size,
        quick=quick,
        seed=seed,
        progress=progress,
    )
    return found, read.remarks
