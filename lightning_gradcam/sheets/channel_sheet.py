"""Draws sheets from a record of activations: for each probe, its input and the grid of a layer's channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.channel_record import DEAD, ChannelRecord
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.render.grid import GridDrawing, layer_limits, normalised, tiled
from lightning_gradcam.render.picture import Picture, Pixels, resized_pictures
from lightning_gradcam.render.signals import source_lines
from lightning_gradcam.render.slices import frame_under
from lightning_gradcam.render.text import INK, PAPER, WRONG, cross_out
from lightning_gradcam.render.tiles import enlarged, evenly, fitted
from lightning_gradcam.sheets.builder import MARGIN, TALLEST, Caption, Line, Sheet, of_probes, remarks, step_line

_GAP = 12
# Widths in pixels to the left of a grid: of the input, and of the number of each row's first channel.
_INPUT, _NUMBERS = 128, 34
_HATCHED, _HATCH = (226, 226, 230), (168, 168, 176)
_STRIPE = 6
_WIDEST_GAP = 4
_NARROWEST = 820
_SCALES = {
    "channel": "colours: each map has its own scale, centred on its mean; a map in the lowest colour only is zero "
    "everywhere",
    "layer": "colours: one scale for all channels and probes of this layer and step",
}
_ENDS = "mean - 2 deviations", "mean + 2 deviations"
# Minimum width of a column in pixels for its number to fit.
_NUMBERED = 26


def channel_sheet(
    record: ChannelRecord, probes: ProbeSet | ProbeView, *, layer: str, drawing: GridDrawing, title: str
) -> Picture:
    """Draws one layer's channels: for each probe, its input and the grid of all channels.

    For maps with time or depth, the middle slice is drawn, normalised together with all slices.

    Args:
        record: The step to draw, a record of kind ``"features"``.
        probes: The probes, for display pixels, true classes and names.
        layer: The layer, one of those in the record.
        drawing: Scale, colour map, columns, sizes.
        title: The sheet's first line.

    Returns:
        The sheet. Its header states layer, epoch, step, number of channels shown, scale, and number of dead channels,
        which are hatched.
    """
    probes, maps, numbers = probes.view, record.channels[layer], record.chosen[layer]
    dead = record.numbers.get(layer, {}).get(DEAD)
    sizes = _Sizes.of(maps.shape, drawing)
    rows = evenly(len(probes), sizes.probes)
    places = evenly(len(numbers), sizes.channels)
    shown = [numbers[place] for place in places]
    gone = np.zeros(len(shown), bool) if dead is None else dead[shown] > 0
    limits = layer_limits(maps)
    offsets = _offsets(shown, drawing.columns) if sizes.pitch >= _NUMBERED else []
    every = len(numbers) if dead is None else len(dead)
    counted = f"all {every} channels" if len(shown) == every else f"{len(shown)} of {every} channels, evenly chosen,"
    # For 3-D maps, only one slice fits on a sheet.
    slices = "" if maps.ndim == 4 else f"; slice {maps.shape[2] // 2 + 1} of {maps.shape[2]} is drawn"
    header = [
        (f"{title}  {layer}", INK),
        step_line("activation of each channel on each probe", record),
        (f"{counted} of {' x '.join(map(str, maps.shape[2:]))}{slices}", INK),
        *([] if dead is None else [_of_dead(int(dead.sum()), len(dead), len(record.probe_ids))]),
        *remarks(probes.note, color=WRONG),
        *remarks(_SCALES[drawing.scale], *source_lines(probes.display_source), of_probes(len(rows), len(probes))),
    ]
    if not np.isfinite(maps[rows][:, places]).all():
        header += remarks("crossed out: the map is not finite", color=WRONG)
    header += remarks(
        "a channel's number is the one on the left plus the one above"
        if offsets
        else "the number on the left is the row's first channel"
    )
    down = -(-len(shown) // drawing.columns) * (sizes.height + sizes.gap) - sizes.gap
    block = max(down, _INPUT + 40) + _GAP
    page = Sheet(header, sizes.width, head=46, body=block * len(rows))
    ends = tuple(f"{value:.3g}" for value in limits)
    page.color_bar(page.below + 2, drawing.colormap, *(_ENDS if drawing.scale == "channel" else ends))
    left = MARGIN + _INPUT + _GAP + _NUMBERS
    for column, offset in enumerate(offsets):
        page.write((left + column * sizes.pitch, page.top - 17), f"+{offset}", sizes.pitch, 11)
    pictures = _inputs(probes, rows, sizes)
    for order, row in enumerate(rows):
        y = page.top + order * block
        names = ", ".join(map(probes.class_name, probes.true_classes(row)))
        captions = [Caption(f"#{probes.ids[row]}"), Caption(names, INK)]
        page.cell((MARGIN, y), pictures[order], captions, width=_INPUT, gap=3, pitch=16)
        grid = _grid(maps[row, places], gone, drawing, sizes, limits)
        page.cell((left, y), grid, width=grid.shape[1])
        for first in range(0, len(shown), drawing.columns):
            at = y + first // drawing.columns * (sizes.height + sizes.gap) + max(0, sizes.height // 2 - 8)
            page.write((left - _NUMBERS, at), str(shown[first]), _NUMBERS - 4)
        page.rule(y + block - _GAP // 2 - 1)
    return page.picture(enlarged=sizes.factor > 1, format=drawing.format)


@dataclass(frozen=True)
class _Sizes:
    """Sizes in pixels of a channel's image and the gaps, and the numbers of channels and probes that fit."""

    factor: int
    height: int
    tile_width: int
    gap: int
    channels: int
    probes: int
    depth: int
    width: int

    @classmethod
    def of(cls, shape: tuple[int, ...], drawing: GridDrawing) -> _Sizes:
        longer = max(shape[-2:])
        factor, share = max(1, drawing.tile // longer), min(1.0, drawing.tile / longer)
        h, w = (max(1, round(size * share)) * factor for size in shape[-2:])
        # One pixel of the maps, which makes the grid a magnified version of the chapter's; limited, because small maps
        # are magnified more.
        gap = min(factor, _WIDEST_GAP)
        across = MARGIN + _INPUT + _GAP + _NUMBERS + drawing.columns * (w + gap) - gap + MARGIN
        tallest = max(min(drawing.max_sheet_pixels // across, TALLEST) - 200, h)
        channels = min(shape[1], drawing.max_channels, max(1, tallest // (h + gap)) * drawing.columns)
        block = max(-(-channels // drawing.columns) * (h + gap), _INPUT + 40) + _GAP
        depth, width = shape[2] if len(shape) == 5 else 0, max(across, _NARROWEST)
        return cls(factor, h, w, gap, channels, max(1, tallest // block), depth, width)

    @property
    def pitch(self) -> int:
        return self.tile_width + self.gap


def _grid(
    maps: FloatArray, dead: npt.NDArray[np.bool_], drawing: GridDrawing, sizes: _Sizes, limits: tuple[float, float]
) -> Pixels:
    """Returns one probe's channels ``[C, h, w]`` or ``[C, d, h, w]`` as a coloured grid."""
    shades = normalised(maps[None], drawing.scale, limits)[0]
    broken = ~np.isfinite(maps).reshape(len(maps), -1).all(axis=1)
    if sizes.depth:
        shades = shades[:, sizes.depth // 2]
    size = sizes.height // sizes.factor, sizes.tile_width // sizes.factor
    if shades.shape[1:] != size:
        shades = resized_pictures(shades, size)
    colors = lookup_table(drawing.colormap)
    tiles = colors[shades].repeat(sizes.factor, axis=1).repeat(sizes.factor, axis=2)
    tiles[dead] = _hatched(sizes.height, sizes.tile_width)
    for place in np.flatnonzero(broken):
        cross_out(tiles[place])
    grid = tiled(tiles, drawing.columns, sizes.gap, fill=colors[0])
    # Clear the rest of the last row, which has no channels.
    if left := -len(tiles) % drawing.columns:
        grid[-sizes.height :, (drawing.columns - left) * sizes.pitch :] = PAPER
    return grid


def _hatched(height: int, width: int) -> Pixels:
    """Returns an image of grey stripes, which can't be confused with a colour map."""
    stripes = (np.arange(height)[:, None] + np.arange(width)) % _STRIPE < 2
    return np.where(stripes[..., None], np.array(_HATCH, np.uint8), np.array(_HATCHED, np.uint8))


def _inputs(probes: ProbeView, rows: list[int], sizes: _Sizes) -> list[Pixels]:
    """Returns the probes' images, at most 128 pixels per side; for clips and volumes, the frame for the drawn slice."""
    pixels = probes.pixels[rows]
    if pixels.ndim == 5:
        pixels = pixels[:, frame_under(sizes.depth // 2, sizes.depth, pixels.shape[1])]
    small = fitted(pixels[:, None], _INPUT)
    return list(enlarged(small, max(1, _INPUT // max(small.shape[2:4]))))


def _offsets(shown: list[int], columns: int) -> list[int]:
    """Returns each column's offset from the number of a row's first channel; empty if rows have different offsets."""
    found = [
        {number - shown[place - place % columns] for place, number in enumerate(shown) if place % columns == column}
        for column in range(min(columns, len(shown)))
    ]
    return [offset for (offset,) in found] if all(len(same) == 1 for same in found) else []


def _of_dead(dead: int, channels: int, probes: int) -> Line:
    on = "this probe" if probes == 1 else f"all {probes} probes"
    text = f"{dead} of {channels} channels dead (zero everywhere on {on})"
    return (f"hatched: {text}", WRONG) if dead else (text, INK)
