"""Film strips: one picture a layer, a row for each probe, a column for each logged step, on one stated scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.overlay import Laid
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.text import INK, LINE, PALE, WRONG, cross_out, write
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.sheets.cam_sheet import LABELS, MARGIN, TALLEST, bar_colors, color_bar, epoch_title, row_label
from lightning_gradcam.sheets.film import (
    CHART,
    FRAME,
    MARK,
    Film,
    header,
    mark,
    maxima_of,
    put_frame,
    tile_shape,
    with_map,
    write_lines,
)

MOST_COLUMNS = 24
_SIDE, _GAP, _NARROWEST, _NARROWEST_TILE = 112, 10, 920, 62
# Below a tile: how sure the model is, and the class where it is a new one.
_CAPTION = 34


def thinned(count: int, most: int = MOST_COLUMNS) -> list[int]:
    """Returns at most ``most`` places of ``count``, evenly chosen, the first and the last among them.

    Example:
        >>> thinned(100, 4)
        [0, 33, 66, 99]
    """
    return evenly(count, most, ends=True)


def film_strip(
    records: Sequence[CamRecord],
    probes: ProbeSet | ProbeView,
    *,
    key: CamKey,
    drawing: Drawing,
    title: str,
    limits: FloatArray | None = None,
    total: int | None = None,
    note: str = "",
    laid: Laid | None = None,
) -> Picture:
    """Draws how one map of each probe changed in training: a row a probe, a column a step.

    Below each overlay stands how sure the model is of its class, with a mark for right or wrong, and the class where it
    differs from the column before; that overlay is framed. A map that is all zero leaves the picture without colours,
    and is said to be; one that is not finite is crossed out. Of maps with time or depth, ``[N, d, h, w]``, each row
    shows the slice that holds most evidence.

    Args:
        records: The steps to draw, in order (see :func:`thinned`); one at least. Those without the map are left out.
        probes: Where display pixels, true classes and names come from.
        key: Which map.
        drawing: Colour map, opacity, interpolation. Its scale ``"image"`` is drawn as ``"run"``, each probe by its
            maximum in the whole run, so that a row can be compared; ``"layer"`` is one maximum for all probes and
            steps, and ``"minmax"`` each map's own. ``magnification`` and ``max_tile`` are upper limits: tiles are
            smaller than a sheet's.
        title: The picture's first words.
        limits: Each probe's largest value in the whole run, ``[N]``; in ``records`` where not given.
        total: How many steps were logged, for the header; as many as there are records where not given.
        note: A line of the header, such as what was left out.
        laid: Overlays of these probes that were drawn before; none by default.

    Returns:
        The strip, of at most ``drawing.max_sheet_pixels`` pixels and 15,000 rows of them; where that is too little for
        all probes they are evenly chosen, one at least, and the header says so.

    Raises:
        DrawingError: No record has the map.

    Example:
        >>> records = [archive.record(place) for place in thinned(len(archive.steps))]  # doctest: +SKIP
        >>> film_strip(records, archive.probes, key=key, drawing=Drawing(), title="gradcam")  # doctest: +SKIP
    """
    shown = with_map(records, key)
    probes, drawing = charted(probes.view, drawing, shown[0].maps[key].shape, CHART)
    tile_h, tile_w, factor = tile_shape(probes.pixels.shape, drawing, _SIDE)
    pitch, row_h = max(tile_w, _NARROWEST_TILE) + _GAP, max(tile_h + _CAPTION, 84) + _GAP
    left = MARGIN + LABELS
    first = left + pitch + _GAP
    width = max(first + len(shown) * pitch - _GAP + MARGIN, _NARROWEST)
    lines = header(
        shown,
        probes,
        key=key,
        drawing=drawing,
        title=title,
        whole=limits is not None,
        total=total,
        width=width - 2 * MARGIN,
    )
    if note:
        lines.append((note, PALE))
    # Where validation runs several times an epoch, epochs alone don't tell columns apart.
    stepped = len({record.epoch for record in shown}) < len(shown)
    below = 18 * 2 + 8 + (32 if stepped else 18) + FRAME + 2
    room = min(drawing.max_sheet_pixels // width, TALLEST) - MARGIN - 18 * (len(lines) + 1) - below
    rows = evenly(len(probes), room // row_h)
    if len(rows) < len(probes):
        lines.append((f"{len(rows)} of {len(probes)} probes, evenly chosen; all are in the archive", PALE))
    tops = maxima_of(shown, key) if limits is None else limits
    film = Film.of(shown, probes, key=key, drawing=drawing, limits=tops, rows=rows, side=_SIDE, laid=laid)
    top = MARGIN + 18 * len(lines) + below
    canvas = np.full((top + row_h * len(rows), width, 3), 255, np.uint8)
    write_lines(canvas, (MARGIN, MARGIN), lines, width - 2 * MARGIN)
    y = MARGIN + 18 * len(lines) + 4
    color_bar(canvas, (MARGIN, y), film.drawing)
    if film.drawing.scale != "minmax":
        write(canvas, (MARGIN + 216, y - 1), "in the map's own units, below each input", 400, 12, PALE)
    _legend(canvas, (MARGIN, y + 18))
    heads = top - FRAME - 2 - (32 if stepped else 18)
    write(canvas, (left, heads), "input", pitch, 13)
    inputs = film.inputs
    for place, row in enumerate(rows):
        y = top + place * row_h
        canvas[y - FRAME - 3, MARGIN : width - MARGIN] = LINE
        row_label(canvas, y, shown[-1], probes, row, "last")
        canvas[y : y + tile_h, left : left + tile_w] = inputs[place]
        for number, note in enumerate(_notes(film, place)):
            write(canvas, (left, y + tile_h + 4 + 15 * number), note, pitch, 12, PALE)
    for column, record in enumerate(shown):
        x = first + column * pitch
        write(canvas, (x, heads), epoch_title(record.epoch), pitch - 2, 13)
        if stepped:
            write(canvas, (x, heads + 15), f"step {record.step}", pitch - 2, 12, PALE)
        _column(canvas, (x, top), row_h, film, column, pitch)
    return Picture(canvas, factor > 1, drawing.format, bar_colors(drawing))


def _column(canvas: Pixels, at: tuple[int, int], row_h: int, film: Film, step: int, pitch: int) -> None:
    x, top = at
    pictures, blank, broken = film.overlays(step)
    height, width = pictures.shape[1:3]
    record = film.records[step]
    for place, row in enumerate(film.rows):
        y = top + place * row_h
        canvas[y : y + height, x : x + width] = pictures[place]
        below, indent = y + height + FRAME, 0
        right, predicted = film.right(step, place), film.predicted(step, place)
        if right is not None:
            mark(canvas, (x, below + 2), "right" if right else "wrong")
            indent = MARK + 4
        confidence = float(record.confidence[row])
        said = f"{confidence:.0%}" if predicted >= 0 and np.isfinite(confidence) else ""
        if predicted < 0:
            said = f"{float(record.scores[film.key.target][row]):.3g}"
        color = PALE
        if broken[place]:
            said, color = "not finite", WRONG
        elif blank[place]:
            said, color = "all zero", INK
        write(canvas, (x + indent, below), said, pitch - indent - 2, 12, color)
        if film.changed(step, place):
            put_frame(canvas, (x, y), (height, width))
            mark(canvas, (x, below + 16), "arrow")
            name = film.probes.class_name(predicted) if predicted >= 0 else "none"
            write(canvas, (x + MARK + 4, below + 14), name, pitch - MARK - 6, 12, film.color(step, place))
        elif step == 0 and predicted >= 0:
            write(canvas, (x, below + 14), film.probes.class_name(predicted), pitch - 2, 12, film.color(step, place))


def _notes(film: Film, place: int) -> list[str]:
    """Returns what stands below a probe's picture."""
    notes = [] if film.drawing.scale == "minmax" else [f"max {film.top[place]:.3g}"]
    shape = film.records[0].maps[film.key].shape
    return [*notes, f"slice {film.places[place] + 1} of {shape[1]}"] if len(shape) == 4 and shape[1] > 1 else notes


def _legend(canvas: Pixels, at: tuple[int, int]) -> None:
    """Writes what the marks mean, in one line of 18 pixels."""
    x, y = at
    for name, text, width in (
        ("right", "right", 46),
        ("wrong", "wrong", 52),
        ("frame", "predicted class changed, the new one below", 270),
        ("blank", "no colours: map all zero", 160),
        ("cross", "map not finite", 100),
    ):
        box = canvas[y + 1 : y + 1 + MARK, x : x + MARK]
        if name in ("right", "wrong"):
            mark(canvas, (x, y + 1), name)
        else:
            box[:] = 168
            if name == "frame":
                box[:3], box[-3:], box[:, :3], box[:, -3:] = INK, INK, INK, INK
            elif name == "cross":
                cross_out(box)
        write(canvas, (x + MARK + 4, y - 1), text, width, 12, PALE)
        x += MARK + width
    write(canvas, (x, y - 1), "%: probability of the predicted class", 230, 12, PALE)
