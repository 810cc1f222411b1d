"""Draws 1-D signals as images: curves, with a band below for the map along time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.text import INK, LINE, PAPER, Color

# Fraction of the image's height for the map; the rest is for the curves.
_BAND = 0.2
# More curves can't be distinguished: instead, their mean is drawn over their range.
_MOST_CURVES = 6
_CURVES: tuple[Color, ...] = (INK, (31, 111, 180), (214, 96, 20), (30, 140, 80), (150, 70, 170), (160, 120, 20))
_SOURCE = "signal of "
# Sources of display images that need no remark, because the images look as they did before preprocessing; see
# `probes/display.py`.
_PLAIN = ("as loaded", "Normalize undone", "mean and std as given")
_RANGE: Color = (212, 214, 220)


def band_height(height: int) -> int:
    """Returns the height in pixels of the map's band at the bottom of a signal's image."""
    return max(1, round(_BAND * height))


def charted(
    probes: ProbeView, drawing: Drawing, shape: tuple[int, ...], size: tuple[int, int] = (112, 256)
) -> tuple[ProbeView, Drawing]:
    """Returns probes with curves as images if maps have only a time axis; otherwise everything unchanged.

    Args:
        probes: The probes with the signals.
        drawing: The options; boxes are turned off for signals, which have no height.
        shape: Shape of the maps, ``[N, l]`` for signals.
        size: Height and width of the curves' images in pixels. Default: 112 by 256.
    """
    if len(shape) != 2 or probes.signals is None:
        return probes, drawing
    if probes.display_source.startswith(_SOURCE) and probes.pixels.shape[1:3] == size:
        # The curves are already drawn.
        return probes, replace(drawing, boxes=False)
    _, channels, length = probes.signals.shape
    curves = f"{channels} curves: one per channel, on one scale"
    if channels == 1:
        curves = "curve: from its lowest to its highest value"
    elif channels > _MOST_CURVES:
        curves = f"curve: mean of {channels} channels; grey: their range"
    what = f"{channels} channels of {length} samples" if channels > 1 else f"{length} samples"
    source = f"{_SOURCE}{what}, time from left to right; {curves}; band below: the map for the samples above it"
    pixels = np.stack([_chart(signal, size) for signal in probes.signals])
    return replace(probes, pixels=pixels, boxes=None, display_source=source), replace(drawing, boxes=False)


def source_lines(source: str) -> list[str]:
    """Returns header lines on the source of display images; empty if they need no remark."""
    if source.startswith(_SOURCE):
        return source.split("; ")
    return [f"images: {source}"] if source and source not in _PLAIN else []


def _chart(signal: FloatArray, size: tuple[int, int]) -> Pixels:
    """Draws one signal ``[C, L]``: sample i is at (i + 1/2) / L of the width, like the values of its map."""
    height, width = size
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    band = band_height(height)
    values = np.nan_to_num(signal.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    rows = height - band - 6

    def row(value: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        share = (high - value) / (high - low) if high > low else np.full_like(value, 0.5)
        return np.asarray((2 + share * (rows - 1)).round(), np.int64)

    def fill(lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64], color: Color) -> None:
        places = np.arange(height)[:, None]
        canvas[(places >= row(upper)) & (places <= row(lower))] = color

    if low < 0 < high:
        canvas[row(np.zeros(1))[0]] = LINE
    if len(values) > _MOST_CURVES:
        fill(_spans(values.min(axis=0), width)[0], _spans(values.max(axis=0), width)[1], _RANGE)
        values = values.mean(axis=0, keepdims=True)
    for number, channel in enumerate(values):
        fill(*_spans(channel, width), _CURVES[number])
    # Draw the band's edge, which keeps the band visible for a map without colours.
    canvas[-band - 1] = LINE
    return canvas


def _spans(channel: npt.NDArray[np.float64], width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns a curve's lowest and highest value within each of ``width`` columns."""
    length = len(channel)
    fine = max(4, 2 * -(-length // width))
    at = np.arange(width * fine + 1) / (width * fine) * length - 0.5
    curve = np.interp(at, np.arange(length), channel)
    # A column's last point is the first point of the next one, which avoids gaps in the curve.
    columns = np.concatenate([curve[:-1].reshape(width, fine), curve[fine::fine, None]], axis=1)
    return columns.min(axis=1), columns.max(axis=1)
