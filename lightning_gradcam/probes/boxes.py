"""Boxes around the parts of probes that show the class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_gradcam.errors import ProbeError


def check_boxes(boxes: Tensor) -> None:
    """Rejects anything but ``[N, 4]`` with left below right and top below bottom, or NaN.

    Raises:
        ProbeError: The message shows the box and what is valid.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ProbeError(f"boxes: got {list(boxes.shape)}; give left, top, right and bottom of each probe, [N, 4]")
    wrong = ((boxes[:, :2] >= boxes[:, 2:]).any(dim=1) | boxes.isinf().any(dim=1)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ProbeError(
            f"boxes: got {boxes[row].tolist()} for probe {row}; give left, top, right and bottom in pixels, left <"
            " right and top < bottom (of boxes with width and height: left + width, top + height); NaN for none"
        )


def filled(boxes: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Returns boxes as masks, bool ``[N, *size]``: the pixels whose centres are inside; none for a box of NaN.

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
