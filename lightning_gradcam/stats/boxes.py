r"""Boxes from maps: where a map says that the object is, and how well that fits a known box.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017, section
4.1 (weakly supervised localisation): the map is cut at 15 % of its maximum, and the box drawn around the single largest
connected segment. By NumPy alone: it is done while training goes on.
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
    """Returns the box around the largest connected part of each map.

    A map is resized to the picture as in an overlay: bilinearly, averaged where it is finer. Positive pixels with at
    least ``threshold`` of its maximum are kept. Pixels that touch at a corner are connected (eight neighbours,
    as in the contours of OpenCV that evaluations of localisation use: Choe et al., "Evaluating Weakly
    Supervised Object Localization Methods Right", CVPR 2020). The largest part is the one with the most pixels; in a
    tie, the one whose first pixel comes first in reading order.

    Args:
        maps: Signed or not, ``[N, h, w]``; of ``[N, d, h, w]``, the slice with the largest value
            (:func:`strongest_slices`).
        size: Height and width of the picture.
        threshold: Share of the map's maximum, from 0 to less than 1; with 0, all that is positive.

    Returns:
        float32 ``[N, 4]``: left, top, right and bottom in pixels of the picture; right and bottom are the edges after
        the last pixel, as in ``ProbeSet.boxes``. NaN where the map has no positive value or one that is not finite.

    Raises:
        ConfigurationError: The maps, the size or the threshold are not valid.

    Example:
        >>> maps = np.array([[[0.0, 0.0, 9.0], [0.1, 0.0, 2.0]], [[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> bounding_boxes(maps, (2, 3)).tolist()
        [[2.0, 0.0, 3.0, 2.0], [nan, nan, nan, nan]]
    """
    if not isinstance(maps, np.ndarray) or maps.ndim not in (3, 4) or 0 in maps.shape[1:]:
        came = list(maps.shape) if isinstance(maps, np.ndarray) else type(maps).__name__
        raise ConfigurationError(f"maps: got {came}; give a NumPy array [N, h, w] or [N, d, h, w]")
    if len(size) != 2 or min(size) < 1:
        raise ConfigurationError(f"size: got {size!r}; give height and width of the picture, 1 or more each")
    if not 0 <= threshold < 1:
        raise ConfigurationError(f"threshold: got {threshold!r}; give a share from 0 to less than 1, such as 0.15")
    flat = maps[np.arange(len(maps)), strongest_slices(maps)] if maps.ndim == 4 else maps
    found = np.full((len(maps), 4), np.nan, np.float32)
    # One at a time, so that large pictures of many probes take the memory of one.
    for row, signed in enumerate(flat):
        # All slices: what is broken in one is not to be trusted in another.
        if np.isfinite(maps[row]).all() and signed.max() > 0:
            # Scaled first: neither tiny nor huge values are lost.
            values = np.maximum(signed, 0).astype(np.float64)
            shares = (values / values.max()).astype(np.float32)
            if shares.shape != tuple(size):
                shares = resized(shares[None], size, "bilinear")[0]
            # What is at the threshold by hand is not missed by rounding.
            found[row] = _largest((shares > 0) & (shares >= threshold * float(shares.max()) * (1 - 1e-6)))
    return found


def iou(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    r"""Intersection over union of boxes, pair by pair: :math:`|A \cap B| / |A \cup B|` (the Jaccard index).

    Args:
        boxes: ``[N, 4]``: left, top, right, bottom.
        others: The boxes to compare with, ``[N, 4]``.

    Returns:
        ``[N]``, 0 to 1; 1: the same box. NaN if either is NaN.

    Raises:
        ConfigurationError: They are not ``[N, 4]``, or their numbers differ.

    Example:
        >>> iou(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])).round(3).tolist()
        [0.333]
    """
    for name, values in (("boxes", boxes), ("others", others)):
        if not isinstance(values, np.ndarray) or values.shape != (len(boxes), 4):
            came = list(values.shape) if isinstance(values, np.ndarray) else type(values).__name__
            raise ConfigurationError(f"{name}: got {came}; give left, top, right and bottom, [N, 4], N alike for both")
    one, other = boxes.astype(np.float64), others.astype(np.float64)
    both = (np.minimum(one, other)[:, 2:] - np.maximum(one, other)[:, :2]).clip(min=0).prod(axis=1)
    areas = [(values[:, 2:] - values[:, :2]).prod(axis=1) for values in (one, other)]
    union = areas[0] + areas[1] - both
    return np.asarray(np.divide(both, union, out=np.full(len(one), np.nan), where=union > 0))


def strongest_slices(maps: npt.NDArray[Any]) -> IntArray:
    """Returns which slice of each map ``[N, d, h, w]`` holds its largest value, the first of equals, ``[N]``.

    Example:
        >>> strongest_slices(np.array([[[[1.0]], [[5.0]], [[5.0]]]])).tolist()
        [1]
    """
    tops = np.where(np.isfinite(maps), maps, -np.inf).max(axis=(-2, -1))
    return np.asarray(tops.argmax(axis=1), np.int64)


def picture_size(probes: ProbeSet | ProbeView) -> tuple[int, int]:
    """Returns height and width of the picture in whose pixels the boxes of probes are: the mask's, or the input's."""
    return probes.view.size


def known_boxes(probes: ProbeSet | ProbeView) -> FloatArray | None:
    """Returns the known boxes of probes, float32 ``[N, 4]``, NaN for a probe without one; ``None`` if all are."""
    boxes = probes.view.boxes
    return None if boxes is None or np.isnan(boxes).any(axis=1).all() else boxes


def _largest(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Returns the box around the largest part of a mask ``[H, W]`` that has one."""
    begins, ends, wide = _runs(mask)
    parts = _parts(begins, ends, wide)
    # The first of the largest is that of the first run, whose number the part has.
    chosen = parts == np.bincount(parts, weights=ends - begins).argmax()
    rows, lefts, rights = begins[chosen] // wide, begins[chosen] % wide, ends[chosen] % wide
    return int(lefts.min()), int(rows.min()), int(rights.max()), int(rows.max()) + 1


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[IntArray, IntArray, int]:
    """Returns where runs of a mask's rows begin and end, as places of the rows one after the other, and their width."""
    height, width = mask.shape
    # A place behind each row keeps its runs from those of the next.
    padded = np.zeros((height, width + 1), np.int8)
    padded[:, :width] = mask
    steps = np.diff(padded.ravel(), prepend=np.int8(0))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), width + 1


def _parts(begins: IntArray, ends: IntArray, wide: int) -> IntArray:
    """Returns each run's connected part, called by the number of its first run: a union-find on all runs at once."""
    # A run touches those of the next row from the place before its first to the one after its last, corners included.
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
