"""Draws channel grids: every channel of a layer, sixteen per row, as in tutorials on feature maps.

The grid and its normalisation follow François Chollet and Matthew Watson, "Deep Learning with Python", 3rd edition,
chapter 10 (listings 10.1 to 10.23), "Visualizing intermediate activations".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.render.drawing import FILE_FORMATS, check_look, lookup_table
from lightning_gradcam.render.picture import Pixels

Normalisation = Literal["channel", "layer"]


@dataclass(frozen=True)
class GridDrawing:
    """Options for channel grids.

    Attributes:
        scale: ``"channel"`` (default): one scale per map, with its mean at the middle colour and two standard
            deviations on either side. ``"layer"``: one scale for all channels and probes at this layer and step, from 0
            (or the smallest value if any is negative) to the largest.
        colormap: As in :class:`~lightning_gradcam.Drawing`. Default: ``"viridis"``.
        columns: Number of channels per row. Default: 16.
        tile: Size of a channel's longer side in pixels. Smaller maps are magnified by the largest whole number that
            does not exceed it; larger ones are scaled down. Default: 64.
        max_channels: Maximum number of channels shown, evenly spaced and the same at every step; the sheet states their
            number. Default: 256.
        format: The sheets' file format, as in :class:`~lightning_gradcam.Drawing`.
        max_sheet_pixels: Maximum size of a sheet in pixels. If a sheet would be larger, it shows fewer probes, or fewer
            channels if a single probe is too large, and states their number. Default: 16 million.

    Raises:
        DrawingError: An option is unknown or out of range.

    Example:
        >>> GridDrawing(scale="layer", colormap="gray").columns
        16
    """

    scale: Normalisation = "channel"
    colormap: str = "viridis"
    columns: int = 16
    tile: int = 64
    max_channels: int = 256
    format: str = "auto"
    max_sheet_pixels: int = 16_000_000

    def __post_init__(self) -> None:
        ranges = {
            "columns": (1, 64),
            "tile": (8, 512),
            "max_channels": (1, 10**5),
            "max_sheet_pixels": (100_000, 10**9),
        }
        check_look(self, {"scale": ("channel", "layer"), "format": FILE_FORMATS}, ranges)
        lookup_table(self.colormap)


def normalised(maps: FloatArray, scale: Normalisation, limits: tuple[float, float] | None = None) -> Pixels:
    """Scales maps to 0…255, the first of three steps: normalise, tile, colour.

    ``"channel"`` is the chapter's scale. The mean of each map is subtracted. The result is divided by the standard
    deviation, multiplied by 64, increased by 128, clipped to 0…255 and truncated to whole numbers. A map that is zero
    everywhere stays 0; any other constant map becomes 128 (the chapter would divide by zero). ``"layer"`` is linear
    between two limits, rounded.

    Args:
        maps: The maps, ``[..., h, w]``. With a third spatial axis, ``[N, C, d, h, w]``, mean and standard deviation are
            computed over a channel's whole volume.
        scale: ``"channel"`` or ``"layer"``.
        limits: The values that become 0 and 255 with ``"layer"``. Default: the :func:`layer_limits` of ``maps``.

    Returns:
        uint8, of the same shape; non-finite values become 0.

    Example:
        >>> maps = np.array([[[[1.0, 3.0]], [[0.0, 0.0]], [[5.0, 5.0]]]], np.float32)
        >>> normalised(maps, "channel").tolist()
        [[[[64, 192]], [[0, 0]], [[128, 128]]]]
        >>> normalised(maps, "layer").tolist()
        [[[[51, 153]], [[0, 0]], [[255, 255]]]]
    """
    finite = np.isfinite(maps)
    # In float64: the standard deviation of float32 values in the thousands would be off by more than a shade.
    values = np.where(finite, maps, 0.0).astype(np.float64)
    if scale == "layer":
        low, high = limits if limits is not None else layer_limits(maps)
        shares = (values - low) / (high - low) if high > low else np.zeros_like(values)
        shown = np.clip(shares * 255, 0, 255).round()
    else:
        axes = tuple(range(2, values.ndim)) if values.ndim > 3 else (-2, -1)
        count = np.maximum(finite.sum(axis=axes, keepdims=True), 1)
        centred = np.where(finite, values - values.sum(axis=axes, keepdims=True) / count, 0.0)
        deviation = np.sqrt((centred**2).sum(axis=axes, keepdims=True) / count)
        # Detect constant maps by minimum and maximum: the mean of equal numbers can differ from them in the last bit,
        # and that difference would be amplified.
        ends = (
            np.where(finite, maps, np.inf).min(axis=axes, keepdims=True),
            np.where(finite, maps, -np.inf).max(axis=axes, keepdims=True),
        )
        varied = (ends[0] < ends[1]) & (deviation > 0)
        scores = np.divide(centred, deviation, out=np.zeros_like(values), where=np.broadcast_to(varied, values.shape))
        empty = ~(np.where(finite, maps, 0) != 0).any(axis=axes, keepdims=True)
        shown = np.where(empty, 0, np.clip(scores * 64 + 128, 0, 255))
    return np.asarray(np.where(finite, shown, 0), np.uint8)


def layer_limits(maps: FloatArray) -> tuple[float, float]:
    """Returns the values at the ends of a layer's common scale.

    Args:
        maps: All of the layer's maps, of any shape.

    Returns:
        0 and the largest finite value, or the smallest and the largest if any value is negative.
    """
    values = maps[np.isfinite(maps)]
    return (min(0.0, float(values.min())), float(values.max())) if values.size else (0.0, 0.0)


def tiled(tiles: npt.NDArray[Any], columns: int = 16, gap: int = 1, fill: Any = 0) -> npt.NDArray[Any]:
    """Arranges images in a grid, row by row, and fills the rest of the last row.

    Args:
        tiles: The images, ``[C, h, w]`` or ``[C, h, w, 3]``.
        columns: Number of images per row. Default: 16.
        gap: Number of pixels between two images. Default: 1.
        fill: Value of the gaps. Default: 0, as in the chapter.

    Returns:
        ``[rows * (h + gap) - gap, columns * (w + gap) - gap]``, with a last axis for colours if ``tiles`` have one.

    Example:
        >>> tiled(np.array([[[1]], [[2]], [[3]]]), columns=2).tolist()
        [[1, 0, 2], [0, 0, 0], [3, 0, 0]]
    """
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    grid = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles.shape[3:]), tiles.dtype)
    grid[:] = fill
    for place in range(count):
        y, x = place // columns * (height + gap), place % columns * (width + gap)
        grid[y : y + height, x : x + width] = tiles[place]
    return grid
