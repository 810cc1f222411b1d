"""Animations: a frame for each logged step, all probes side by side, in a file of bounded size."""

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
from lightning_gradcam.render.drawing import Drawing, lookup_table
from lightning_gradcam.render.overlay import Laid
from lightning_gradcam.render.picture import Pixels, palette_image
from lightning_gradcam.render.text import INK, LINE, PALE, SHADES
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.sheets.builder import ANY, FRAME, MARGIN, Caption, Line, Sheet, epoch_title, of_probes, remarks
from lightning_gradcam.sheets.cam_sheet import color_bar
from lightning_gradcam.sheets.film import Film

MAX_BYTES = 4_000_000
MOST_PROBES = 64
# If a file is too large: the sides of a picture and the numbers of frames to which it is reduced, step by step.
_LEAST = [(72, 8), (24, 1)]
SIDE, _GAP, _NARROWEST, _NARROWEST_TILE = 112, 12, 600, 76
# Below a tile: the true class, the predicted one, how sure the model is of it.
_CAPTION = 50
# Two lines on the progress, the colour bar and the marks.
_BELOW_HEADER = 76
# Milliseconds: one frame, within these; all but the last together; the last.
_SHORTEST, _LONGEST, _TOGETHER, _LAST = 250, 700, 8_000, 2_500
# One is left for what does not change between frames.
_COLORS = 255
_LEGEND = (
    (None, "below: true class, predicted class"),
    ("right", "right"),
    ("wrong", "wrong"),
    ("frame", "predicted class has just changed"),
)
# The palette is made from this many pixels of this many steps.
_SAMPLE, _SAMPLED = 5_000, 12


@dataclass(frozen=True, eq=False)
class Animation:
    """A finished animation that every sink can use, as a file of at most :data:`MAX_BYTES`.

    Attributes:
        content: A GIF that loops, with one palette for all frames.
        size: Height and width of every frame, in pixels.
        durations: How long each frame is shown, in milliseconds; the last is held. One for each record that is shown:
            every frame states its own epoch and step, so that no two are equal (which Pillow would store as one).
    """

    content: bytes
    size: tuple[int, int]
    durations: tuple[int, ...]

    def file(self) -> tuple[str, bytes]:
        """Returns the format, ``"gif"``, and the file's content."""
        return "gif", self.content

    def encoded(self, format: Literal["gif"] = "gif") -> bytes:
        """Returns the content of a file in this format; ``"gif"`` is the only one."""
        return {"gif": self.content}[format]

    @property
    def frames(self) -> Pixels:
        """The frames as they are seen, uint8 ``[T, H, W, 3]``; decoded at each call, since they are large."""
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
    """Draws how one map of each probe changed in training: one frame per step, all probes side by side.

    Below each overlay are the true and the predicted class, with a mark for right or wrong; the overlay is framed
    where the predicted class differs from the frame before. Scales, blank and broken maps, and maps with time or depth
    are drawn as by :func:`~lightning_gradcam.sheets.strip.film_strip`.

    Args:
        records: The steps to draw, in order; one at least. Those without the map are left out.
        probes: Where display pixels, true classes and names come from; at most ``most`` are shown, evenly chosen.
        key: Which map.
        drawing: Colour map, opacity, interpolation and scale, as for a film strip.
        title: The first words of each frame.
        limits: Each probe's largest value in the whole run, ``[N]``; in ``records`` if not given.
        total: How many steps were logged, for the header; default: the number of records.
        note: A line of the header, such as what was left out.
        most: How many probes are shown at most.
        laid: Overlays of these probes that were drawn before; none by default.

    Returns:
        The animation. Where its file would exceed :data:`MAX_BYTES`, pictures are made smaller and frames fewer, in
        turn; the header says so.

    Raises:
        DrawingError: No record has the map.
    """
    side, count, laid = SIDE, len(records), laid or Laid()
    while True:
        whole = Film.of(records, probes, key=key, drawing=drawing, limits=limits, side=side, laid=laid)
        rows, steps = evenly(len(whole.rows), most), evenly(len(whole.records), count, ends=True)
        film = replace(whole.part(rows), records=tuple(whole.records[place] for place in steps))
        inner = max(_columns(len(rows)) * _pitch(film) - _GAP, _NARROWEST)
        lines = film.header(title, total or len(whole.records), inner)
        lines += remarks(note, of_probes(len(rows), len(whole.rows)))
        shorter = {"smaller": side < SIDE, "fewer": len(steps) < len(whole.records)}
        if less := " and ".join(word for word, short in shorter.items() if short):
            lines += remarks(f"pictures are {less}, to keep the file below {MAX_BYTES / 1e6:g} MB")
        expected, last = 0.0, (side, len(steps)) == _LEAST[-1]
        if len(steps) * len(rows) * math.prod(film.size) > MAX_BYTES:
            # Drawing all frames only to find that they are too many would take long.
            few = replace(film, records=tuple(film.records[place] for place in evenly(len(steps), 4)))
            expected = len(_made(few, lines, inner).content) * len(steps) / len(few.records)
        if last or expected <= 1.1 * MAX_BYTES:
            made = _made(film, lines, inner)
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
    """Returns how many tiles are side by side: a wide grid with few places left empty.

    Example:
        >>> [_columns(count) for count in (1, 2, 5, 8, 10, 16, 64)]
        [1, 2, 3, 4, 5, 6, 11]
    """

    # A place left empty in every tenth counts as much as a grid that is a fifth wider or narrower than 2 to 1.
    def cost(across: int) -> float:
        rows = -(-count // across)
        return -count % across / count + 0.5 * abs(math.log(across / rows / 2))

    return min(range(1, count + 1), key=cost)


def _durations(count: int) -> tuple[int, ...]:
    each = int(np.clip(_TOGETHER // max(1, count - 1), _SHORTEST, _LONGEST)) // 10 * 10
    return (*[each] * (count - 1), _LAST)


def _pitch(film: Film) -> int:
    return max(film.size[1], _NARROWEST_TILE) + _GAP


def _made(film: Film, lines: Sequence[Line], inner: int) -> Animation:
    """Draws all frames, with one palette."""
    count, height = len(film.rows), film.size[0]
    across, pitch, row_h = _columns(count), _pitch(film), height + _CAPTION + _GAP
    still = Sheet(lines, inner + 2 * MARGIN, head=_BELOW_HEADER + FRAME + 6, body=row_h * -(-count // across))
    progress = still.below + 6
    color_bar(still, progress + 31, film.drawing)
    still.legend(progress + 53, *_LEGEND)
    places = [(MARGIN + place % across * pitch, still.top + place // across * row_h) for place in range(count)]
    for place, (x, y) in enumerate(places):
        true = ", ".join(map(film.probes.class_name, film.true(place)))
        still.write((x, y + height + FRAME), true, pitch - 4, 12, INK)
    palette, frames = _palette(film), []
    for step in range(len(film.records)):
        page = still.copy()
        _progress(page, (MARGIN, progress), film, step, inner)
        pictures, missing = film.overlays(step)
        for place, at in enumerate(places):
            # Below the true class, which is the same in all frames.
            gap, framed = FRAME + (15 if film.true(place) else 0), film.changed(step, place)
            captions = _captions(film, step, place, missing[place])
            page.cell(at, pictures[place], captions, width=pitch - 4, gap=gap, pitch=15, framed=framed)
        frames.append(Image.fromarray(page.pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    durations, buffer = _durations(len(frames)), io.BytesIO()
    options: dict[str, Any] = {"append_images": frames[1:], "duration": list(durations), "loop": 0, "optimize": False}
    frames[0].save(buffer, "GIF", save_all=True, **options)
    return Animation(buffer.getvalue(), (frames[0].height, frames[0].width), durations)


def _progress(page: Sheet, at: tuple[int, int], film: Film, step: int, width: int) -> None:
    """Draws which step it is, and its place among all steps."""
    (x, y), record, steps, canvas = at, film.records[step], len(film.records), page.pixels
    page.write((x, y - 4), epoch_title(record.epoch), 110, 17, INK)
    judged = [right for place in range(len(film.rows)) if (right := film.right(step, place)) is not None]
    said = f"step {record.step}" + (f",  {sum(judged)} of {len(judged)} right" if judged else "")
    page.write((x, y + 16), said, 300)
    first, last = x + 120, x + width - 8
    canvas[y + 5 : y + 9, first:last] = LINE
    for place in range(steps):
        middle = first + (last - first) * place // max(1, steps - 1)
        if place < step:
            canvas[y + 5 : y + 9, first:middle] = INK
        canvas[y + 3 : y + 11, middle : middle + 2] = INK if place <= step else PALE
    middle = first + (last - first) * step // max(1, steps - 1)
    canvas[y + 5 : y + 9, first:middle] = INK
    canvas[y - 1 : y + 15, middle - 4 : middle + 6] = INK


def _captions(film: Film, step: int, place: int, missing: str) -> list[Caption]:
    predicted = film.predicted(step, place)
    name = film.probes.class_name(predicted) if predicted >= 0 else f"score {film.score(step, place)}"
    stated = [film.state(step, place, missing)] if predicted >= 0 or missing else []
    return [film.named(step, place, name), *stated]


def _palette(film: Film) -> Image.Image:
    """Returns an image with one palette for all frames: the colours of text and marks, and what the overlays need."""
    fixed = np.array([*SHADES, (ANY, ANY, ANY), (210, 210, 214)], np.uint8)
    pixels = []
    for step in evenly(len(film.records), _SAMPLED, ends=True):
        flat = film.overlays(step)[0][:, :: film.factor, :: film.factor].reshape(-1, 3)
        pixels.append(flat[:: max(1, len(flat) // _SAMPLE)])
    needed = np.concatenate([fixed, lookup_table(film.drawing.colormap)[::8]])
    return palette_image(np.concatenate(pixels)[None], needed, _COLORS, Image.Quantize.MEDIANCUT)
