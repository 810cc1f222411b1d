"""Animations: a frame for each logged step, all probes beside each other, in a file of bounded size."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import Drawing, lookup_table
from lightning_gradcam.render.overlay import Laid
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.text import INK, LINE, PALE, SHADES
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.sheets.builder import (
    ANY,
    FRAME,
    MARGIN,
    Caption,
    Line,
    Sheet,
    epoch_title,
    mark,
    of_probes,
    remarks,
)
from lightning_gradcam.sheets.cam_sheet import color_bar
from lightning_gradcam.sheets.film import CHART, Film, header, maxima_of, tile_shape, with_map

MAX_BYTES = 4_000_000
MOST_PROBES = 64
_MEGABYTES = f"{MAX_BYTES / 1e6:g}"
# Where a file is too large: the side of a picture, and the number of frames, down to which it is made smaller in turn.
_LEAST = [(72, 8), (_SMALLEST_SIDE := 24, 1)]
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
    ("", "below: true class, predicted class"),
    ("right", "right"),
    ("wrong", "wrong"),
    ("frame", "predicted class has just changed"),
)
# The palette is made of so many pixels of so many steps.
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
    _files: dict[str, bytes] = field(default_factory=dict, repr=False)

    def file(self, formats: Sequence[str] = ("gif", "webp")) -> tuple[str, bytes]:
        """Returns the first possible format, and the file's content.

        Args:
            formats: What is possible, of ``"gif"`` and ``"webp"``.
        """
        return formats[0], self.encoded(formats[0])

    def encoded(self, format: str = "gif") -> bytes:
        """Returns the content of an animated GIF or WebP file; the latter is made when it is first asked for.

        WebP holds the GIF's colours, at the best quality that :data:`MAX_BYTES` allows.
        """
        if format == "gif":
            return self.content
        if format not in self._files:
            self._files[format] = _webp(self.frames, self.durations)
        return self._files[format]

    @property
    def frames(self) -> Pixels:
        """The frames as they are seen, uint8 ``[T, H, W, 3]``; decoded at each call, since they are large."""
        with Image.open(io.BytesIO(self.content)) as image:
            count, shown = getattr(image, "n_frames", 1), []
            for place in range(count):
                image.seek(place)
                shown.append(np.asarray(image.convert("RGB")))
        return np.stack(shown)


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
    """Draws how one map of each probe changed in training: a frame a step, all probes beside each other.

    Below each overlay stand the true and the predicted class, with a mark for right or wrong; the overlay is framed
    where the predicted class differs from the frame before. Scales, blank and broken maps, and maps with time or depth
    are drawn as by :func:`~lightning_gradcam.sheets.strip.film_strip`.

    Args:
        records: The steps to draw, in order; one at least. Those without the map are left out.
        probes: Where display pixels, true classes and names come from; at most ``most`` are shown, evenly chosen.
        key: Which map.
        drawing: Colour map, opacity, interpolation and scale, as for a film strip.
        title: The first words of each frame.
        limits: Each probe's largest value in the whole run, ``[N]``; in ``records`` where not given.
        total: How many steps were logged, for the header; as many as there are records where not given.
        note: A line of the header, such as what was left out.
        most: How many probes are shown at most.
        laid: Overlays of these probes that were drawn before; none by default.

    Returns:
        The animation. Where its file would exceed :data:`MAX_BYTES`, pictures are made smaller and frames fewer, in
        turn; the header says so.

    Raises:
        DrawingError: No record has the map.
    """
    shown = with_map(records, key)
    probes, drawing = charted(probes.view, drawing, shown[0].maps[key].shape, CHART)
    rows = evenly(len(probes), most)
    tops = maxima_of(shown, key) if limits is None else limits
    count, side, laid = len(shown), SIDE, laid or Laid()
    while True:
        chosen = [shown[place] for place in evenly(len(shown), count, ends=True)]
        film = Film.of(chosen, probes, key=key, drawing=drawing, limits=tops, rows=rows, side=side, laid=laid)
        area = film.factor**2 * film.base.shape[2] * film.base.shape[3]
        inner = max(_columns(len(rows)) * _pitch(film) - _GAP, _NARROWEST)
        lines = header(
            chosen,
            probes,
            key=key,
            drawing=drawing,
            title=title,
            whole=limits is not None,
            total=len(shown) if total is None else total,
            width=inner,
        )
        lines += remarks(note, of_probes(len(rows), len(probes)))
        less = [word for word, short in (("smaller", side < SIDE), ("fewer", count < len(shown))) if short]
        if less:
            lines += remarks(f"pictures are {' and '.join(less)}, so that the file stays below {_MEGABYTES} MB")
        size = _expected(film, lines, inner) if count * len(rows) * area > MAX_BYTES else 0
        if size <= 1.1 * MAX_BYTES:
            frames = _drawn(film, lines, inner)
            content = _gif(frames, _durations(count))
            if len(content) <= MAX_BYTES or (count, side) == (1, _SMALLEST_SIDE):
                return Animation(content, (frames[0].height, frames[0].width), _durations(count))
            size = len(content)
        share = 0.97 * MAX_BYTES / size
        least_side, least_count = next(least for least in _LEAST if side > least[0] or count > least[1])
        if side > least_side:
            side = _smaller(side, least_side, probes.pixels.shape, drawing, share * area)
        else:
            count = max(least_count, int(count * min(0.95, share)))


def _smaller(side: int, least: int, display: tuple[int, ...], drawing: Drawing, area: float) -> int:
    """Returns the next smaller side with which a tile has no more than this area, in pixels; or the least."""
    while side > least:
        side -= 1
        height, width, _ = tile_shape(display, drawing, side)
        if height * width <= area:
            break
    return side


def _columns(count: int) -> int:
    """Returns how many tiles stand beside each other: a wide grid with few places left empty.

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
    return max(film.factor * int(film.base.shape[3]), _NARROWEST_TILE) + _GAP


def _expected(film: Film, lines: Sequence[Line], inner: int) -> float:
    """Returns about how many bytes an animation will take, from a few of its frames."""
    count = len(film.records)
    some = evenly(count, 4)
    few = replace(film, records=tuple(film.records[place] for place in some))
    return len(_gif(_drawn(few, lines, inner), _durations(len(some)))) * count / len(some)


def _drawn(film: Film, lines: Sequence[Line], inner: int) -> list[Image.Image]:
    """Draws all frames, with one palette."""
    count, steps = len(film.rows), len(film.records)
    height = film.factor * film.base.shape[2]
    across, pitch, row_h = _columns(count), _pitch(film), height + _CAPTION + _GAP
    still = Sheet(lines, inner + 2 * MARGIN, head=_BELOW_HEADER + FRAME + 6, body=row_h * -(-count // across))
    progress = still.below + 6
    color_bar(still, progress + 31, film.drawing)
    still.legend(progress + 53, *[(mark(name) if name else None, text) for name, text in _LEGEND])
    places = [(MARGIN + place % across * pitch, still.top + place // across * row_h) for place in range(count)]
    for (x, y), true in zip(places, film.true, strict=True):
        still.write((x, y + height + FRAME), ", ".join(map(film.probes.class_name, true)), pitch - 4, 12, INK)
    palette, frames = _palette(film), []
    for step in range(steps):
        page = still.copy()
        _progress(page, (MARGIN, progress), film, step, inner)
        pictures, blank, broken = film.overlays(step)
        for place, at in enumerate(places):
            captions = _captions(film, step, place, blank=bool(blank[place]), broken=bool(broken[place]))
            # Below the true class, which is the same in all frames.
            gap, changed = FRAME + (15 if film.true[place] else 0), film.changed(step, place)
            page.cell(at, pictures[place], captions, width=pitch - 4, gap=gap, pitch=15, framed=changed)
        frames.append(Image.fromarray(page.pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    return frames


def _progress(page: Sheet, at: tuple[int, int], film: Film, step: int, width: int) -> None:
    """Draws which step it is, and where it stands among all of them."""
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


def _captions(film: Film, step: int, place: int, *, blank: bool, broken: bool) -> list[Caption]:
    predicted = film.predicted(step, place)
    name = film.probes.class_name(predicted) if predicted >= 0 else f"score {film.score(step, place)}"
    captions = [Caption(name, film.color(step, place), film.mark(step, place))]
    if predicted >= 0 or blank or broken:
        captions.append(film.state(step, place, blank=blank, broken=broken))
    return captions


def _palette(film: Film) -> Image.Image:
    """Returns an image with one palette for all frames: the colours of text and marks, and what the overlays need."""
    fixed: list[tuple[int, ...]] = [*SHADES, (ANY, ANY, ANY), (210, 210, 214)]
    fixed += [tuple(map(int, color)) for color in lookup_table(film.drawing.colormap)[::8]]
    pixels = []
    for step in evenly(len(film.records), _SAMPLED, ends=True):
        flat = film.overlays(step)[0][:, :: film.factor, :: film.factor].reshape(-1, 3)
        pixels.append(flat[:: max(1, len(flat) // _SAMPLE)])
    sample = np.concatenate(pixels)[None]
    found = Image.fromarray(sample).quantize(_COLORS - len(fixed), Image.Quantize.MEDIANCUT).getpalette() or []
    adapted = np.array(found, int).reshape(-1, 3)
    # Almost white paper would be taken for it.
    adapted = adapted[(adapted < 248).any(axis=1)]
    colors = np.concatenate([np.array(fixed), adapted])[:_COLORS]
    image = Image.new("P", (1, 1))
    image.putpalette(colors.astype(np.uint8).tobytes())
    return image


def _gif(frames: Sequence[Image.Image], durations: Sequence[int]) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=list(durations), loop=0, optimize=False
    )
    return buffer.getvalue()


def _webp(frames: Pixels, durations: Sequence[int]) -> bytes:
    first, *others = (Image.fromarray(frame) for frame in frames)
    content = b""
    for quality in (80, 50, 20, 0):
        buffer = io.BytesIO()
        first.save(
            buffer, "WEBP", save_all=True, append_images=others, duration=list(durations), loop=0, quality=quality
        )
        content = buffer.getvalue()
        if len(content) <= MAX_BYTES:
            break
    return content
