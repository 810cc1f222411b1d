"""Draws animations: one frame per logged step, all probes side by side, in a file of limited size."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageSequence

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import Drawing, colors_of
from lightning_gradcam.render.overlay import Laid
from lightning_gradcam.render.picture import Pixels, palette_image
from lightning_gradcam.render.text import INK, LINE, PALE, SHADES
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.sheets.builder import (
    ANY,
    FRAME,
    LINE_HEIGHT,
    MARGIN,
    Caption,
    Line,
    Sheet,
    epoch_title,
    of_probes,
    remarks,
)
from lightning_gradcam.sheets.cam_sheet import color_bar
from lightning_gradcam.sheets.film import Film
from lightning_gradcam.sheets.film_lines import film_footer, film_header
from lightning_gradcam.sheets.words import PERCENT, class_words, probe_words

MAX_BYTES = 4_000_000
MOST_PROBES = 64
# Minimum image side and number of frames at each stage of reducing a file that is too large.
_LEAST = [(72, 8), (24, 1)]
SIDE, _GAP, _NARROWEST, _NARROWEST_TILE = 112, 12, 480, 76
# Maximum number of probes with the input next to the overlay, and the gap between the two in pixels.
MOST_PAIRED, _BESIDE = 16, 6
# Height of the captions (predicted class, probability, drift), and of one line. The true class is below the input, or
# on the first line.
_CAPTION, _LINE = 50, 15
# Height of the progress lines with the colour bar, and of the legend of marks.
_BELOW_HEADER, _MARKS = 54, 22
# Milliseconds: minimum and maximum for a frame; all frames except the last together; the last frame.
_SHORTEST, _LONGEST, _TOGETHER, _LAST = 250, 700, 8_000, 2_500
# One of 256 colours is reserved for pixels that do not change between frames.
_COLORS = 255
# Number of pixels per step, and of steps, from which the palette is computed.
_SAMPLE, _SAMPLED = 5_000, 12


@dataclass(frozen=True, eq=False)
class Animation:
    """A finished animation that every sink can use, as a file of at most :data:`MAX_BYTES` if possible.

    Attributes:
        content: A looping GIF, with one palette for all frames.
        size: Height and width of every frame, in pixels.
        durations: Duration of each frame in milliseconds, longest for the last. There is one frame for each record
            shown. Every frame contains its epoch and step, because Pillow would merge identical frames.
    """

    content: bytes
    size: tuple[int, int]
    durations: tuple[int, ...]

    def file(self) -> tuple[str, bytes]:
        """Returns the format, ``"gif"``, and the file's content."""
        return "gif", self.content

    def encoded(self, format: Literal["gif"] = "gif") -> bytes:
        """Returns the file's content in a format; only ``"gif"`` is available."""
        return {"gif": self.content}[format]

    @property
    def frames(self) -> Pixels:
        """The frames as displayed, uint8 ``[T, H, W, 3]``; decoded on every access, because they are large."""
        with Image.open(io.BytesIO(self.content)) as image:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def animate(
    records: Sequence[CamRecord],
    probes: ProbeSet | ProbeView,
    *,
    key: CamKey,
    drawing: Drawing,
    title: str,
    limits: FloatArray | None = None,
    total: int | None = None,
    note: str = "",
    most: int = MOST_PROBES,
    laid: Laid | None = None,
) -> Animation:
    """Draws how one map of each probe changed during training: one frame per step, all probes side by side.

    With up to 16 probes, the input is next to the overlay. Below are the true and the predicted class, with a mark for
    right or wrong, the probability, and the map's drift from the previous frame. The overlay has a thin frame if the
    predicted class has changed since the previous frame. Scales, blank and non-finite maps, and maps with time or depth
    are drawn as in :func:`~lightning_gradcam.sheets.strip.film_strip`.

    Args:
        records: The steps to draw, in order; at least one. Steps without the map are omitted.
        probes: The probes, for display pixels, true classes and names. If there are more than ``most``, evenly spaced
            ones are shown.
        key: The map's key.
        drawing: Colour map, opacity, interpolation and scale, as for a film strip.
        title: The first words on each frame.
        limits: Each probe's limit over the whole run, ``[N]``. Default: that over ``records``.
        total: Number of logged steps, for the header. Default: the number of records.
        note: A line below the images, for example about omitted maps.
        most: Maximum number of probes shown. Default: 64.
        laid: Overlays of these probes drawn earlier, to be reused. Default: none.

    Returns:
        The animation. If its file would exceed :data:`MAX_BYTES`, the images' size and the number of frames are reduced
        in turn, and a line reports it.

    Raises:
        DrawingError: No record contains the map.
    """
    side, count, laid = SIDE, len(records), laid or Laid()
    while True:
        whole = Film.of(records, probes, key=key, drawing=drawing, limits=limits, side=side, laid=laid)
        rows, steps = evenly(len(whole.rows), most), evenly(len(whole.records), count, ends=True)
        film = replace(whole.part(rows), records=tuple(whole.records[place] for place in steps))
        inner = max(_columns(len(rows)) * _pitch(film) - _GAP, _NARROWEST)
        lines = film_header(film, title, total or len(whole.records), inner)
        foot = film_footer(film, inner) + remarks(
            PERCENT if film.classed else "", note, of_probes(len(rows), len(whole.rows))
        )
        shorter = {"images are reduced": side < SIDE, "frames are left out": len(steps) < len(whole.records)}
        if less := " and ".join(word for word, short in shorter.items() if short):
            foot += remarks(f"{less} to keep the file below {MAX_BYTES / 1e6:g} MB")
        expected, last = 0.0, (side, len(steps)) == _LEAST[-1]
        if len(steps) * len(rows) * math.prod(film.size) > MAX_BYTES:
            # Estimate the size from a few frames before drawing all of them.
            few = replace(film, records=tuple(film.records[place] for place in evenly(len(steps), 4)))
            expected = len(_made(few, lines, foot, inner).content) * len(steps) / len(few.records)
        if last or expected <= 1.1 * MAX_BYTES:
            made = _made(film, lines, foot, inner)
            expected = len(made.content)
            if last or expected <= MAX_BYTES:
                return made
        share = 0.97 * MAX_BYTES / expected
        least_side, least_count = next(least for least in _LEAST if side > least[0] or len(steps) > least[1])
        if side > least_side:
            side = max(least_side, int(side * math.sqrt(share)))
        else:
            count = max(least_count, int(len(steps) * min(0.95, share)))


def _columns(count: int) -> int:
    """Returns the number of tiles side by side: a wide grid with few empty cells.

    Example:
        >>> [_columns(count) for count in (1, 2, 5, 8, 10, 16, 64)]
        [1, 2, 3, 4, 5, 6, 11]
    """

    # An empty cell in ten costs as much as an aspect ratio a fifth away from 2 to 1.
    def cost(across: int) -> float:
        rows = -(-count // across)
        return -count % across / count + 0.5 * abs(math.log(across / rows / 2))

    return min(range(1, count + 1), key=cost)


def _durations(count: int) -> tuple[int, ...]:
    each = int(np.clip(_TOGETHER // max(1, count - 1), _SHORTEST, _LONGEST)) // 10 * 10
    return (*[each] * (count - 1), _LAST)


def _paired(film: Film) -> bool:
    """Whether each input is next to its overlay."""
    return len(film.rows) <= MOST_PAIRED


def _pitch(film: Film) -> int:
    across = 2 * film.size[1] + _BESIDE if _paired(film) else film.size[1]
    return max(across, _NARROWEST_TILE) + _GAP


def _made(film: Film, lines: Sequence[Line], foot: Sequence[Line], inner: int) -> Animation:
    """Draws all frames, with one palette."""
    count, (height, width), paired = len(film.rows), film.size, _paired(film)
    across, pitch = _columns(count), _pitch(film)
    # The true class is below the input, or on its own line.
    above = 0 if paired else _LINE
    row_h, legend = height + above + _CAPTION + _GAP, _legend(film)
    head = _BELOW_HEADER + (_MARKS if legend else 0) + FRAME + 6
    body = row_h * -(-count // across)
    still = Sheet(lines, inner + 2 * MARGIN, head=head, body=body + LINE_HEIGHT * len(foot) + MARGIN)
    progress = still.below + 6
    color_bar(still, progress + 31, film.drawing, film.key.method, "the probe's scale")
    still.legend(progress + 53, *legend)
    still.foot(still.top + body, foot)
    aside = width + _BESIDE if paired else 0
    for place, picture in enumerate(film.inputs):
        x, y = MARGIN + place % across * pitch, still.top + place // across * row_h
        if paired:
            still.pixels[y : y + height, x : x + width] = picture
        true = probe_words(film.records[-1], film.probes, film.rows[place])[1]
        # A number alone would have no meaning.
        true = f"true {true}" if true and not film.classed else true
        still.write((x, y + height + FRAME), true, (width if paired else pitch) - 4, 12, INK)
    palette, frames = _palette(film), []
    for step in range(len(film.records)):
        page = still.copy()
        _progress(page, (MARGIN, progress), film, step, inner)
        (pictures, missing), drifts = film.overlays(step), film.drifts(step)
        for place in range(count):
            at = MARGIN + place % across * pitch + aside, still.top + place // across * row_h
            captions = _captions(film, step, place, missing[place]) + film.moved(drifts, place)
            framed, gap = film.changed(step, place), FRAME + above
            page.cell(at, pictures[place], captions, width=pitch - aside - 4, gap=gap, pitch=_LINE, framed=framed)
        frames.append(Image.fromarray(page.pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    durations, buffer = _durations(len(frames)), io.BytesIO()
    options: dict[str, Any] = {"append_images": frames[1:], "duration": list(durations), "loop": 0, "optimize": False}
    frames[0].save(buffer, "GIF", save_all=True, **options)
    return Animation(buffer.getvalue(), (frames[0].height, frames[0].width), durations)


def _legend(film: Film) -> list[tuple[Pixels | str | None, str]]:
    """Returns the legend's marks with their meanings; right and wrong only if they occur."""
    return [*film.marks, *([("frame", "predicted class has just changed")] if film.classed else [])]


def _progress(page: Sheet, at: tuple[int, int], film: Film, step: int, width: int) -> None:
    """Draws the step's label, and a progress bar of all steps."""
    (x, y), record, steps, canvas = at, film.records[step], len(film.records), page.pixels
    page.write((x, y - 4), epoch_title(record.epoch), 110, 17, INK)
    judged = [right for place in range(len(film.rows)) if (right := film.right(step, place)) is not None]
    said = f"step {record.step}" + (f",  {sum(judged)} of {len(judged)} right" if judged else "")
    page.write((x, y + 16), said, 300)
    first, last = x + 120, x + width - 8
    canvas[y + 5 : y + 9, first:last] = LINE
    places = [first + (last - first) * place // max(1, steps - 1) for place in range(steps)]
    for place, middle in enumerate(places):
        canvas[y + 3 : y + 11, middle : middle + 2] = INK if place <= step else PALE
    canvas[y + 5 : y + 9, first : places[step]] = INK
    canvas[y - 1 : y + 15, places[step] - 4 : places[step] + 6] = INK


def _captions(film: Film, step: int, place: int, missing: str) -> list[Caption]:
    predicted, state = film.predicted(step, place), film.state(step, place, missing)
    if predicted < 0:
        return [film.state(step, place, ""), *([state] if missing else [])]
    return [film.named(step, place, class_words(film.probes, predicted)), state]


def _palette(film: Film) -> Image.Image:
    """Returns an image with one palette for all frames: the colours of text and marks, and those in the overlays."""
    fixed = np.array([*SHADES, (ANY, ANY, ANY), (210, 210, 214)], np.uint8)
    pixels = []
    for step in evenly(len(film.records), _SAMPLED, ends=True):
        flat = film.overlays(step)[0][:, :: film.factor, :: film.factor].reshape(-1, 3)
        pixels.append(flat[:: max(1, len(flat) // _SAMPLE)])
    if _paired(film):
        flat = film.base.reshape(-1, 3)
        pixels.append(flat[:: max(1, len(flat) // _SAMPLE)])
    needed = np.concatenate([fixed, colors_of(film.drawing)[::8]])
    return palette_image(np.concatenate(pixels)[None], needed, _COLORS, Image.Quantize.MEDIANCUT)
