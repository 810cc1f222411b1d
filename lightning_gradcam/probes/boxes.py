"""Bounding boxes around the regions that show the class in each probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_gradcam.errors import ProbeError


def check_boxes(boxes: Tensor) -> None:
    """Rejects boxes that are not ``[N, 4]`` with left < right and top < bottom, or NaN.

    Raises:
        ProbeError: A box is invalid; the message shows it and the valid form.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ProbeError(
            f"boxes: got shape {list(boxes.shape)}; pass left, top, right and bottom for each probe, [N, 4]"
        )
    wrong = ((boxes[:, :2] >= boxes[:, 2:]).any(dim=1) | boxes.isinf().any(dim=1)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ProbeError(
            f"boxes: got {boxes[row].tolist()} for probe {row}; pass left, top, right and bottom in pixels, left < "
            "right and top < bottom (from boxes with width and height: left + width, top + height); NaN for a probe "
            "without a box"
        )


def filled(boxes: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Converts boxes to masks, bool ``[N, *size]``: pixels with their centre inside are set; none for a NaN box.

    Args:
        boxes: ``[N, 4]``: left, top, right, bottom in pixels.
        size: Height and width.

    Example:
        >>> filled(np.array([[1.0, 0.0, 3.0, 1.0]]), (2, 4)).astype(int).tolist()
        [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    left, top, right, bottom = np.asarray(boxes).T[:, :, None]
    across, down = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    columns, rows = (left <= across) & (across < right), (top <= down) & (down < bottom)
    return np.asarray(rows[:, :, None] & columns[:, None, :])
