"""Probe data for drawing, in NumPy only: drawing runs during training, which torch's threads would slow down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.probes.display import Pixels

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ProbeView:
    """Images, names and known regions of probes.

    A torch operation on a large tensor starts a pool of threads for its calling thread. In a background thread, this
    second pool competes with training's own for the same cores. Therefore, all drawing, measuring and writing in the
    background takes its probes from here.

    Attributes:
        ids: One unique name for each probe.
        pixels: The images to draw on, uint8 ``[N, H, W, 3]`` or ``[N, T, H, W, 3]``.
        true: The true classes of each probe; ``None`` if no labels are known.
        masks: Pixels that show the class, bool ``[N, H, W]``, or ``None``.
        boxes: The same regions as boxes, float32 ``[N, 4]``, or ``None``.
        size: Height and width of the image in whose pixels the boxes are given: the mask's or the input's.
        class_names: Class names by index, or ``None``.
        note: A note for every header.
        display_source: How ``pixels`` was recovered.
        signals: Inputs with a single spatial axis, float32 ``[N, C, L]``, drawn as curves if their maps have that axis;
            ``None`` for images.
        values: True values of a regression, ``[N]`` or ``[N, K]``, or ``None``.
    """

    ids: tuple[str, ...]
    pixels: Pixels
    true: tuple[tuple[int, ...], ...] | None
    masks: npt.NDArray[np.bool_] | None
    boxes: npt.NDArray[np.float32] | None
    size: tuple[int, int]
    class_names: tuple[str, ...] | None
    note: str
    display_source: str
    signals: npt.NDArray[np.float32] | None = None
    values: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def view(self) -> ProbeView:
        """The view itself, so that drawing accepts a probe set or its view."""
        return self

    def class_name(self, index: int) -> str:
        """Returns the class's name, or its index as text if it has none."""
        names = self.class_names or ()
        return names[index] if 0 <= index < len(names) else str(index)

    def true_classes(self, row: int) -> tuple[int, ...]:
        """Returns the true classes of one probe; empty if unknown."""
        return () if self.true is None else self.true[row]

    def part(self, rows: Sequence[int]) -> ProbeView:
        """Returns the probes at these indices."""
        if list(rows) == list(range(len(self))):
            return self
        each = ("ids", "pixels", "true", "masks", "boxes", "signals", "values")
        return replace(self, **{name: rows_of(getattr(self, name), rows) for name in each})


def rows_of(values: Any, rows: Sequence[int]) -> Any:
    """Returns some rows of a tuple, array or tensor; ``None`` stays ``None``."""
    if isinstance(values, tuple):
        return tuple(values[row] for row in rows)
    return None if values is None else values[list(rows)]


def true_classes_of(labels: Tensor | None) -> tuple[tuple[int, ...], ...] | None:
    """Returns each probe's true classes: one class, or all those marked in a multi-class label.

    Args:
        labels: int64 ``[N]``, negative if a sample has none; or 0/1 for each class ``[N, C]``.

    Example:
        >>> import torch
        >>> true_classes_of(torch.tensor([2, -1])), true_classes_of(torch.tensor([[1, 0, 1]]))
        (((2,), ()), ((0, 2),))
    """
    if labels is None:
        return None
    values = labels.numpy()
    if values.ndim == 1:
        return tuple((int(index),) if index >= 0 else () for index in values)
    return tuple(tuple(int(index) for index in np.argwhere(label)[:, 0]) for label in values)


def signals_of(inputs: Tensor, axes: str) -> npt.NDArray[np.float32] | None:
    """Returns inputs with a single spatial axis as float32 ``[N, C, L]``; ``None`` for other inputs.

    Args:
        inputs: ``[N, L]``, ``[N, C, L]`` or ``[N, L, C]``.
        axes: ``"NLC"`` if the channels come last.
    """
    if inputs.dim() not in (2, 3) or not inputs.is_floating_point():
        return None
    numbers = inputs.float()
    whole = numbers[:, None] if numbers.dim() == 2 else numbers.transpose(1, 2) if axes == "NLC" else numbers
    return np.asarray(whole)
