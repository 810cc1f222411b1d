"""Draws a sheet of a layer's filter patterns: images side by side, eight per row, as in the book chapter.

François Chollet and Matthew Watson, *Deep Learning with Python*, 3rd edition, chapter 10 (listings 10.1 to 10.23).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.render.drawing import FILE_FORMATS, Format, check_look
from lightning_gradcam.render.grid import normalised
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.text import INK, PALE, WRONG, cross_out
from lightning_gradcam.render.tiles import fitted
from lightning_gradcam.sheets.builder import MARGIN, TALLEST, Sheet, remarks, step_line

SILENT = "silent"
# The chapter crops 25 of 200 pixels on each side.
_CUT = Fraction(25, 200)
_GAP, _CAPTION = 5, 17
_EMPTY = 232
_NARROWEST = 480


@dataclass(frozen=True)
class PatternDrawing:
    """Options for sheets of filter patterns.

    Attributes:
        columns: Number of patterns per row.
        tile: Size of a pattern's longer side in pixels. Smaller patterns are magnified by the largest whole number that
            does not exceed it; larger ones are scaled down.
        crop: Whether to crop an eighth on each side to remove edge effects, as in the chapter.
        max_filters: Maximum number of patterns shown. The sheet shows the first ones and states the total; the archive
            contains all.
        format: The sheets' file format, as in :class:`~lightning_gradcam.Drawing`.

    Raises:
        DrawingError: An option is unknown or out of range.

    Example:
        >>> PatternDrawing(columns=4).tile
        168
    """

    columns: int = 8
    tile: int = 168
    crop: bool = True
    max_filters: int = 256
    format: Format = "auto"

    def __post_init__(self) -> None:
        ranges = {"columns": (1, 64), "tile": (32, 512), "max_filters": (1, 10**5)}
        check_look(self, {"format": FILE_FORMATS}, ranges, ["crop"])


def deprocessed(pictures: FloatArray) -> Pixels:
    """Converts images from a model's input space to 0…255, like the chapter's ``deprocess_image`` before its crop.

    The mean of each image is subtracted. The result is divided by the standard deviation, multiplied by 64, increased
    by 128, clipped to 0…255 and truncated to whole numbers. Mean and standard deviation are computed over all channels,
    including the edges.

    Args:
        pictures: The images, ``[..., c, H, W]``.

    Returns:
        uint8, of the same shape. A constant image becomes 128 (or 0 if it is 0), and non-finite values become 0.

    Example:
        >>> deprocessed(np.array([[[1.0, 3.0]]], np.float32)).tolist()
        [[[64, 192]]]
    """
    # Treat each image as one map: its channels share one scale.
    flat = pictures.reshape(-1, pictures.shape[-3] * pictures.shape[-2], pictures.shape[-1])
    return normalised(flat, "channel").reshape(pictures.shape)


def cropped(pictures: Pixels) -> Pixels:
    """Crops an eighth on each side (25 of 200 pixels, 3 of 28), because gradients at the edges depend on the padding.

    Args:
        pictures: The images, ``[..., H, W]``.

    Example:
        >>> cropped(np.zeros((3, 200, 28), np.uint8)).shape
        (3, 150, 22)
    """
    top, left = (int(size * _CUT) for size in pictures.shape[-2:])
    return pictures[..., top : pictures.shape[-2] - top, left : pictures.shape[-1] - left]


def in_colour(pictures: Pixels) -> Pixels:
    """Converts ``[F, c, H, W]`` to ``[F, H, W, 3]``: one channel to grey, three or four to colour, others to the mean.

    Example:
        >>> in_colour(np.full((1, 1, 2, 2), 7, np.uint8))[0, 0, 0].tolist()
        [7, 7, 7]
    """
    if pictures.shape[1] in (3, 4):
        chosen = pictures[:, :3]
    else:
        chosen = pictures.mean(axis=1, keepdims=True).round().astype(np.uint8).repeat(3, axis=1)
    return np.ascontiguousarray(chosen.transpose(0, 2, 3, 1))


def pattern_sheet(
    record: ChannelRecord, layer: str, *, drawing: PatternDrawing, title: str, settings: str = "", note: str = ""
) -> Picture:
    """Draws a layer's patterns, each with its filter's number and the mean activation that it reaches.

    The cell of a filter that never had a gradient is left empty, because its pattern would be the initial noise.

    Args:
        record: A record of kind ``"patterns"``.
        layer: The layer, one of those in the record.
        drawing: Columns and sizes.
        title: The sheet's first line.
        settings: Settings with which the patterns were computed, for the header.
        note: A remark for the header, for example that the data is synthetic.
    """
    whole, numbers = record.channels[layer], record.chosen[layer]
    named = record.numbers.get(layer, {})
    reached = named.get("activation", np.full(len(numbers), np.nan, np.float32))
    silent = np.asarray(named.get(SILENT, np.zeros(len(numbers), np.float32)) > 0)
    shown = min(len(numbers), drawing.max_filters, _most(whole.shape, drawing))
    pictures = deprocessed(whole[:shown])
    tiles = in_colour(cropped(pictures) if drawing.crop else pictures)
    factor = max(1, drawing.tile // max(tiles.shape[1:3]))
    tiles = fitted(tiles[:, None], drawing.tile)[:, 0].repeat(factor, axis=1).repeat(factor, axis=2)
    broken = np.asarray(~np.isfinite(whole[:shown]).all(axis=(1, 2, 3)))
    columns, (height, width) = min(drawing.columns, shown), tiles.shape[1:3]
    edges = "; an eighth of each side is cropped" if drawing.crop else ""
    less = f"first {shown} of {len(numbers)} patterns; all are in the archive; " if shown < len(numbers) else ""
    header = [
        (f"{title}  {layer}", INK),
        step_line("the pattern that each filter responds to most strongly", record),
        *remarks(note, color=WRONG),
        *remarks(settings, f"colours: grey is a pattern's own mean, black and white two deviations from it{edges}"),
        # Every sheet states the number of silent filters: the layout must be the same in all epochs.
        *remarks(
            f"{less}below each pattern: filter, mean activation reached; {silent.sum()} silent (never had a gradient)"
        ),
        *remarks(f"crossed out: {broken.sum()} not finite" if broken.any() else "", color=WRONG),
    ]
    across, down = columns * (width + _GAP) - _GAP, -(-shown // columns) * (height + _CAPTION + _GAP) - _GAP
    page = Sheet(header, max(across + 2 * MARGIN, _NARROWEST), head=8, body=down + MARGIN)
    for place, tile in enumerate(tiles):
        x, y = MARGIN + place % columns * (width + _GAP), page.top + place // columns * (height + _CAPTION + _GAP)
        value, tail = float(reached[place]), ""
        if broken[place] or silent[place]:
            tail, tile = "not finite" if broken[place] else "silent", np.full_like(tile, _EMPTY)
        elif np.isfinite(value):
            tail = f"{value:.3g}"
        if broken[place]:
            cross_out(tile)
        page.cell((x, y), tile, width=width)
        if tail == "silent":
            page.write((x + 4, y + height // 2 - 9), "no gradient", width - 6)
        left = page.write((x, y + height + 1), str(numbers[place]), width, 12, INK) + 5
        color = WRONG if broken[place] else PALE
        page.write((x + left, y + height + 1), tail, max(1, width - left), 12, color)
    return page.picture(enlarged=factor > 1, format=drawing.format)


def _most(shape: tuple[int, ...], drawing: PatternDrawing) -> int:
    """Returns the number of patterns that fit on a sheet, given the maximum height of image files."""
    height, width = shape[-2:]
    row = round(drawing.tile * height / max(height, width)) + _CAPTION + _GAP
    return max(1, (TALLEST - 200) // row) * drawing.columns
