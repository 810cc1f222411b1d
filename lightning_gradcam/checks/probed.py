"""Takes a check's inputs from probes, and shows the probes on its page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lightning_gradcam.checks.result import MapCheck
from lightning_gradcam.probes import ProbeSet


def shown_as(check: MapCheck, probes: ProbeSet) -> MapCheck:
    """Returns a check whose page shows the probes' display images and names."""
    view = probes.view
    classes, others = (
        tuple(view.class_name(int(number)) for number in numbers)
        for numbers in (check.evidence.classes, check.evidence.others)
    )
    shown = view.pixels[:, 0] if view.pixels.ndim == 5 else None
    return replace(
        check, evidence=replace(check.evidence, names=probes.ids, classes=classes, others=others, shown=shown)
    )


def marked(probes: ProbeSet) -> torch.Tensor | None:
    """Returns where the probes' objects are, bool ``[N, H, W]``, from masks or else boxes; ``None`` if unknown."""
    view = probes.view
    if view.masks is not None:
        return torch.from_numpy(view.masks)
    if view.boxes is None or np.isnan(view.boxes).all():
        return None
    down, across = (np.arange(side) + 0.5 for side in view.size)
    left, top, right, bottom = (side[:, None, None] for side in view.boxes.T)
    return torch.from_numpy((across >= left) & (across < right) & (down[:, None] >= top) & (down[:, None] < bottom))
