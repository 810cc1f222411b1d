"""Film strips: one picture a layer, a row for each probe, a column for each logged step, on one stated scale."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.overlay import Laid
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.render.text import INK
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.sheets.builder import (
    FRAME,
    LINE_HEIGHT,
    MARGIN,
    TALLEST,
    Caption,
    Sheet,
    epoch_title,
    of_probes,
    remarks,
)
from lightning_gradcam.sheets.cam_sheet import LABELS, color_bar, row_label
from lightning_gradcam.sheets.film import Film

MOST_COLUMNS = 24
_SIDE, _GAP, _NARROWEST, _NARROWEST_TILE = 112, 10, 920, 62
# Below a tile: how sure the model is, and the class where it is a new one.
_CAPTION = 34
_LEGEND = (
    ("right", "right"),
    ("wrong", "wrong"),
    ("frame", "predicted class changed, the new one below"),
    ("blank", "blank: map zero everywhere"),
    ("cross", "map not finite"),
    (None, "%: probability of the predicted class"),
)


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

    Below each overlay is the probability of the predicted class, with a mark for right or wrong, and the class where it
    differs from the column before; that overlay is framed. A blank map, zero everywhere, leaves the picture without
    colours, and its caption says so; one that is not finite is crossed out. Of maps with time or depth,
    ``[N, d, h, w]``, each row shows the slice that holds most evidence.

    Args:
        records: The steps to draw, in order (see :func:`thinned`); one at least. Those without the map are left out.
        probes: Where display pixels, true classes and names come from.
        key: Which map.
        drawing: Colour map, opacity, interpolation. Its scale ``"image"`` is drawn as ``"run"``, each probe by its
            maximum in the whole run, so that a row can be compared; ``"layer"`` is one maximum for all probes and
            steps, and ``"minmax"`` each map's own. ``magnification`` and ``max_tile`` are upper limits: tiles are
            smaller than a sheet's.
        title: The picture's first words.
        limits: Each probe's largest value in the whole run, ``[N]``; in ``records`` if not given.
        total: How many steps were logged, for the header; default: the number of records.
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
    film = Film.of(records, probes, key=key, drawing=drawing, limits=limits, side=_SIDE, laid=laid)
    tile_h, tile_w = film.size
    pitch, row_h = max(tile_w, _NARROWEST_TILE) + _GAP, max(tile_h + _CAPTION, 84) + _GAP
    left = MARGIN + LABELS
    first = left + pitch + _GAP
    width = max(first + len(film.records) * pitch - _GAP + MARGIN, _NARROWEST)
    lines = film.header(title, total, width - 2 * MARGIN) + remarks(note)
    # Where validation runs several times an epoch, epochs alone don't tell columns apart.
    stepped = len({record.epoch for record in film.records}) < len(film.records)
    heads = 32 if stepped else 18
    below = 2 * LINE_HEIGHT + 8 + heads + FRAME + 2
    room = min(drawing.max_sheet_pixels // width, TALLEST) - MARGIN - LINE_HEIGHT * (len(lines) + 1) - below
    rows = evenly(len(film.rows), room // row_h)
    lines += remarks(of_probes(len(rows), len(film.rows)))
    film = film.part(rows)
    page = Sheet(lines, width, head=below, body=row_h * len(rows))
    color_bar(page, page.below + 3, film.drawing, ", stated below each input")
    page.legend(page.below + 4 + LINE_HEIGHT, *_LEGEND)
    y = page.top - FRAME - 2 - heads
    page.write((left, y), "input", pitch, 13, INK)
    inputs = film.inputs
    for place, row in enumerate(rows):
        at = left, page.top + place * row_h
        page.rule(at[1] - FRAME - 3)
        row_label(page, at[1], film.records[-1], film.probes, row, "last")
        page.cell(at, inputs[place], [Caption(text) for text in _notes(film, place)], width=pitch, gap=4, pitch=15)
    for step, record in enumerate(film.records):
        x = first + step * pitch
        page.write((x, y), epoch_title(record.epoch), pitch - 2, 13, INK)
        if stepped:
            page.write((x, y + 15), f"step {record.step}", pitch - 2)
        pictures, missing = film.overlays(step)
        for place in range(len(rows)):
            captions = _captions(film, step, place, missing[place])
            at, framed = (x, page.top + place * row_h), film.changed(step, place)
            page.cell(at, pictures[place], captions, width=pitch - 2, gap=FRAME, framed=framed)
    return page.picture(enlarged=film.factor > 1, format=drawing.format)


def _captions(film: Film, step: int, place: int, missing: str) -> list[Caption]:
    predicted, changed = film.predicted(step, place), film.changed(step, place)
    name = film.named(step, place, film.probes.class_name(predicted) if predicted >= 0 else "none")
    captions = [film.state(step, place, missing)._replace(mark=name.mark)]
    if changed or (step == 0 and predicted >= 0):
        captions.append(name._replace(mark="arrow" if changed else ""))
    return captions


def _notes(film: Film, place: int) -> list[str]:
    """Returns the lines below a probe's picture."""
    notes = [] if film.drawing.scale == "minmax" else [f"max {film.top[place]:.3g}"]
    shape = film.records[0].maps[film.key].shape
    return [*notes, f"slice {film.places[place] + 1} of {shape[1]}"] if len(shape) == 4 and shape[1] > 1 else notes
