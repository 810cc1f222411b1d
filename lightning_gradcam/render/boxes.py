"""Draws boxes on images, with lines that are visible on any colour, and their legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.slices import SEAM, Slices
from lightning_gradcam.stats.boxes import bounding_boxes, iou, known_boxes, picture_size, strongest_slices

# Lines are two pixels wide with a dark edge of one pixel; dashes are six pixels long, with gaps of four.
FOUND, KNOWN = (255, 70, 220), (255, 255, 255)
_DARK = 16
_DASH, _PERIOD = 6, 10


def put_box(picture: Pixels, box: npt.NDArray[Any], size: tuple[int, int], *, known: bool = False) -> None:
    """Draws a box on an image in place; a box with NaN is not drawn.

    Args:
        picture: The image, uint8 ``[H, W, 3]``, at any magnification; at least 8 pixels per side.
        box: Left, top, right and bottom, in pixels of an image with the given ``size``.
        size: Height and width of that image.
        known: Whether it is the probe's own box, drawn as a dashed white line; otherwise it is a map's box, drawn as a
            solid line.
    """
    if np.isnan(box).any():
        return
    height, width = picture.shape[:2]
    # The line is centred on the box's edge, or just inside the image at its border.
    left, right = (min(max(round(float(x) * width / size[1]), 2), width - 2) for x in box[[0, 2]])
    top, bottom = (min(max(round(float(y) * height / size[0]), 2), height - 2) for y in box[[1, 3]])
    line = np.zeros((height, width), bool)
    across, down = slice(left - 1, right + 1), slice(top - 1, bottom + 1)
    flat, upright = (np.ones(count, bool) for count in (right - left + 2, bottom - top + 2))
    if known:
        flat, upright = (np.arange(len(pattern)) % _PERIOD < _DASH for pattern in (flat, upright))
    for y in (top, bottom):
        line[y - 1 : y + 1, across] |= flat
    for x in (left, right):
        line[down, x - 1 : x + 1] |= upright[:, None]
    # The dark edge: all pixels of the line and their neighbours.
    picture[np.asarray(Image.fromarray(line.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))) > 0] = _DARK
    picture[line] = KNOWN if known else FOUND


def put_boxes(
    pictures: Pixels, maps: FloatArray, probes: ProbeView, rows: Sequence[int], slices: Slices, threshold: float
) -> list[tuple[str, ...]]:
    """Draws the boxes of maps and probes on finished overlays in place.

    Args:
        pictures: The overlays, uint8 ``[n, H, W, 3]``, with slices side by side. Boxes are drawn only on the slice with
            the largest value, if it is shown.
        maps: The overlays' maps, ``[n, h, w]`` or ``[n, d, h, w]``.
        probes: All probes, for their known boxes.
        rows: The indices of the drawn probes, ``[n]``.
        slices: The slices shown.
        threshold: Fraction of a map's maximum from which a pixel belongs to its box.

    Returns:
        The captions for each overlay, with the intersection over union; empty if no probe has a known box.
    """
    known, size = known_boxes(probes), picture_size(probes)
    found = bounding_boxes(maps, size, threshold)
    own = np.full_like(found, np.nan) if known is None else known[list(rows)]
    overlaps = iou(found, own)
    depths = strongest_slices(maps) if maps.ndim == 4 else np.zeros(len(maps), np.int64)
    across = (pictures.shape[2] + SEAM) // len(slices.chosen)
    captions: list[tuple[str, ...]] = []
    for row, picture in enumerate(pictures):
        where = f", {slices.name(int(depths[row]))}" if slices.depth > 1 else ""
        if known is None:
            captions.append(())
        elif np.isnan(own[row]).any():
            captions.append(("no known box",))
        else:
            captions.append((f"IoU {overlaps[row]:.2f}{where}" if np.isfinite(overlaps[row]) else "IoU: no box found",))
        if depths[row] in slices.chosen and np.isfinite(maps[row]).all():
            x = slices.chosen.index(int(depths[row])) * across
            shown = picture[:, x : x + across - SEAM] if len(slices.chosen) > 1 else picture
            put_box(shown, found[row], size)
            put_box(shown, own[row], size, known=True)
    return captions


def legend(threshold: float, *, known: bool) -> list[tuple[Pixels, str]]:
    """Returns the legend: a sample of each kind of line, uint8 ``[14, 38, 3]``, with its meaning.

    Args:
        threshold: Fraction of a map's maximum from which a pixel belongs to its box.
        known: Whether known boxes are also drawn.
    """
    texts = [f"box around the largest part of the map above {threshold * 100:g}% of its maximum"]
    if known:
        texts.append("known box; IoU: shared area / combined area")
    samples = np.full((len(texts), 14, 38, 3), 168, np.uint8)
    for number, sample in enumerate(samples):
        put_box(sample, np.array([4, 3, 34, 11]), (14, 38), known=number == 1)
    return list(zip(samples, texts, strict=True))
