r"""Bounding boxes from maps, and their overlap with known boxes.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017, section
4.1 (weakly supervised localisation): the map is thresholded at 15% of its maximum, and the box encloses the largest
connected segment. Uses only NumPy, because it runs during training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import FloatArray, IntArray
from lightning_gradcam.stats.resize import resized

THRESHOLD = 0.15


def bounding_boxes(maps: npt.NDArray[Any], size: tuple[int, int], threshold: float = THRESHOLD) -> FloatArray:
    """Returns the bounding box of each map's largest connected segment.

    A map is resized to the image as in an overlay: bilinearly, or by averaging if it is finer. Positive pixels with at
    least ``threshold`` times its maximum are kept. Pixels that touch at a corner are connected (eight neighbours, as in
    OpenCV's contours, which localisation benchmarks use: Choe et al., "Evaluating Weakly Supervised Object Localization
    Methods Right", CVPR 2020). The largest segment is the one with the most pixels; in a tie, the first in reading
    order.

    Args:
        maps: Signed or non-negative maps, ``[N, h, w]``; for ``[N, d, h, w]``, the slice with the largest value is used
            (:func:`strongest_slices`).
        size: Height and width of the image in pixels.
        threshold: Fraction of the map's maximum, at least 0 and below 1. Default: 0.15. With 0, all positive pixels are
            kept.

    Returns:
        float32 ``[N, 4]``: left, top, right and bottom in pixels of the image. Right and bottom are exclusive, as in
        ``ProbeSet.boxes``. NaN if the map has no positive value or is not finite.

    Raises:
        ConfigurationError: The maps, the size or the threshold are invalid.

    Example:
        >>> maps = np.array([[[0.0, 0.0, 9.0], [0.1, 0.0, 2.0]], [[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> bounding_boxes(maps, (2, 3)).tolist()
        [[2.0, 0.0, 3.0, 2.0], [nan, nan, nan, nan]]
    """
    if not isinstance(maps, np.ndarray) or maps.ndim not in (3, 4) or 0 in maps.shape[1:]:
        came = list(maps.shape) if isinstance(maps, np.ndarray) else type(maps).__name__
        raise ConfigurationError(f"maps: got {came}; pass a NumPy array [N, h, w] or [N, d, h, w]")
    if len(size) != 2 or min(size) < 1:
        raise ConfigurationError(f"size: got {size!r}; pass the image's height and width, 1 or more each")
    if not 0 <= threshold < 1:
        raise ConfigurationError(
            f"threshold: got {threshold!r}; pass a fraction of the map's maximum, at least 0 and below 1, such as 0.15"
        )
    flat = maps[np.arange(len(maps)), strongest_slices(maps)] if maps.ndim == 4 else maps
    found = np.full((len(maps), 4), np.nan, np.float32)
    # One at a time: many large images need only the memory for one.
    for row, signed in enumerate(flat):
        # Check all slices: if one is not finite, the others can't be trusted.
        if np.isfinite(maps[row]).all() and signed.max() > 0:
            # Scale in float64 first: float32 could not represent tiny or huge values.
            values = np.maximum(signed, 0).astype(np.float64)
            shares = (values / values.max()).astype(np.float32)
            if shares.shape != tuple(size):
                shares = resized(shares[None], size, "bilinear")[0]
            # Rounding must not exclude values exactly at the threshold.
            found[row] = _largest((shares > 0) & (shares >= threshold * float(shares.max()) * (1 - 1e-6)))
    return found


def iou(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    r"""Returns the intersection over union of pairs of boxes: :math:`|A \cap B| / |A \cup B|` (the Jaccard index).

    Args:
        boxes: The boxes, ``[N, 4]``: left, top, right, bottom.
        others: The boxes to compare with, ``[N, 4]``.

    Returns:
        ``[N]``, 0 to 1; 1 for identical boxes. NaN if either box is NaN.

    Raises:
        ConfigurationError: The boxes are not ``[N, 4]``, or their numbers differ.

    Example:
        >>> iou(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])).round(3).tolist()
        [0.333]
    """
    for name, values in (("boxes", boxes), ("others", others)):
        if not isinstance(values, np.ndarray) or values.shape != (len(boxes), 4):
            came = list(values.shape) if isinstance(values, np.ndarray) else type(values).__name__
            raise ConfigurationError(
                f"{name}: got {came}; pass left, top, right and bottom as [N, 4], with the same N for both"
            )
    one, other = boxes.astype(np.float64), others.astype(np.float64)
    both = (np.minimum(one, other)[:, 2:] - np.maximum(one, other)[:, :2]).clip(min=0).prod(axis=1)
    areas = [(values[:, 2:] - values[:, :2]).prod(axis=1) for values in (one, other)]
    union = areas[0] + areas[1] - both
    return np.asarray(np.divide(both, union, out=np.full(len(one), np.nan), where=union > 0))


def strongest_slices(maps: npt.NDArray[Any]) -> IntArray:
    """Returns the index of each map's slice with the largest value (the first in a tie), ``[N]``.

    Example:
        >>> strongest_slices(np.array([[[[1.0]], [[5.0]], [[5.0]]]])).tolist()
        [1]
    """
    return np.asarray(np.where(np.isfinite(maps), maps, -np.inf).max(axis=(-2, -1)).argmax(axis=1), np.int64)


def picture_size(probes: ProbeSet | ProbeView) -> tuple[int, int]:
    """Returns the height and width, in pixels, of the image that the probes' boxes refer to: the mask or the input."""
    return probes.view.size


def known_boxes(probes: ProbeSet | ProbeView) -> FloatArray | None:
    """Returns the probes' known boxes, float32 ``[N, 4]``, NaN for a probe without one; ``None`` if no box is known."""
    boxes = probes.view.boxes
    return None if boxes is None or np.isnan(boxes).any(axis=1).all() else boxes


def _largest(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Returns the bounding box of the largest segment of a non-empty mask ``[H, W]``."""
    begins, ends, wide = _runs(mask)
    parts = _parts(begins, ends, wide)
    # In a tie, the first segment wins, because a segment has the number of its first run.
    chosen = parts == np.bincount(parts, weights=ends - begins).argmax()
    rows, lefts, rights = begins[chosen] // wide, begins[chosen] % wide, ends[chosen] % wide
    return int(lefts.min()), int(rows.min()), int(rights.max()), int(rows.max()) + 1


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[IntArray, IntArray, int]:
    """Returns the starts and ends of runs in a mask's concatenated rows, and the row width."""
    height, width = mask.shape
    # An extra column separates each row's runs from those in the next row.
    padded = np.zeros((height, width + 1), np.int8)
    padded[:, :width] = mask
    steps = np.diff(padded.ravel(), prepend=np.int8(0))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), width + 1


def _parts(begins: IntArray, ends: IntArray, wide: int) -> IntArray:
    """Returns the number of each run's segment, which is that of its first run: a union-find over all runs at once."""
    # A run touches runs in the next row from one pixel before its first to one after its last (corners count).
    first = np.searchsorted(ends, begins + wide - 1, side="right")
    last = np.searchsorted(begins, ends + wide + 1, side="left")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(begins)), counts)
    lower = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts - first, counts)
    parent = np.arange(len(begins))
    while True:
        one, other = parent[upper], parent[lower]
        apart = one != other
        if not apart.any():
            return np.asarray(parent, np.int64)
        low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
        np.minimum.at(parent, high, low)
        while (parent[parent] != parent).any():
            parent = parent[parent]
