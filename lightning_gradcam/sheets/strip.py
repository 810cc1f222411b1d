"""Draws film strips: one image per layer, a row for each probe, a column for each logged step."""

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
from lightning_gradcam.sheets.cam_sheet import LABELS, color_bar, row_label, scale_end
from lightning_gradcam.sheets.film import Film
from lightning_gradcam.sheets.film_lines import film_footer, film_header
from lightning_gradcam.sheets.words import PERCENT, class_words

MOST_COLUMNS = 24
_SIDE, _GAP, _NARROWEST, _NARROWEST_TILE = 112, 10, 560, 62
# Height of the captions below a tile: the probability, and the class if it changed, else the drift.
_CAPTION = 34
# Width in pixels of the caption that states a scale's end.
_SCALE = 94
# Fraction of the mean change to add to each step; with it, stretches with little change keep some columns.
_QUIET = 0.25


def by_change(changes: Sequence[float], most: int = MOST_COLUMNS) -> list[int]:
    """Returns indices of at most ``most`` steps, with about the same change between consecutive ones.

    The first and the last step are always included. A large change is shown from the previous step onwards.

    Args:
        changes: The change in the maps from the previous step, for each step; the first value and NaN count as 0.
        most: Maximum number of steps. Default: 24.

    Example:
        >>> by_change([0, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1], 5)
        [0, 3, 4, 5, 9]
    """
    count, shown = len(changes), min(len(changes), max(1, most))
    values = np.nan_to_num(np.asarray(changes, np.float64))
    values[:1] = 0
    weights = values + (_QUIET * values[1:].mean() if values.any() else 1.0)
    total = np.cumsum(weights) - weights[0]
    places: list[int] = []
    for number, wanted in enumerate(np.linspace(0, total[-1], shown)):
        found = int(np.searchsorted(total, wanted * (1 + 1e-9), side="right")) - 1
        places.append(min(max(found, places[-1] + 1 if places else 0), count - shown + number))
    return places if shown > 1 else [0]


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
    """Draws how one map of each probe changed during training: one row for each probe, one column for each step.

    Below each overlay are the probability of the predicted class, marked as right or wrong, and the map's drift from
    the previous column. If the class has changed, its name replaces the drift, and the overlay has a thin frame. For a
    blank map (zero everywhere), the image has no colours and the caption is "blank". A map that is not finite is
    crossed out. For maps with time or depth, ``[N, d, h, w]``, each row shows the slice with the most evidence.

    Args:
        records: The steps to draw, in order (see :func:`by_change`); at least one. Steps without the map are omitted.
        probes: The probes, for display pixels, true classes and names.
        key: The map's key.
        drawing: Colour map, opacity, interpolation, scale. The scale ``"image"`` is drawn as ``"run"``, one scale per
            probe for the whole run, to make a row's overlays comparable. ``"layer"`` is one scale for all probes and
            steps, and ``"minmax"`` one scale per map. ``magnification`` and ``max_tile`` are upper limits: tiles are
            smaller than those on a sheet.
        title: The strip's first words.
        limits: Each probe's limit over the whole run, ``[N]``. Default: that over ``records``.
        total: Number of logged steps, for the header. Default: the number of records.
        note: A line below the images, for example about omitted maps.
        laid: Overlays of these probes drawn earlier, to be reused. Default: none.

    Returns:
        The strip, with at most ``drawing.max_sheet_pixels`` pixels and a height of at most about 15,000 pixels. If not
        all probes fit, evenly spaced ones are shown (at least one), and a line below the images reports it.

    Raises:
        DrawingError: No record contains the map.

    Example:
        >>> records = [archive.record(place) for place in evenly(len(archive.steps), 24, ends=True)]  # doctest: +SKIP
        >>> film_strip(records, archive.probes, key=key, drawing=Drawing(), title="gradcam")  # doctest: +SKIP
    """
    film = Film.of(records, probes, key=key, drawing=drawing, limits=limits, side=_SIDE, laid=laid)
    tile_h, tile_w = film.size
    pitch, row_h = max(tile_w, _NARROWEST_TILE) + _GAP, max(tile_h + _CAPTION, 84) + _GAP
    # The caption below the input states the end of the row's scale.
    beside = max(pitch, _SCALE) + _GAP
    pictured = beside + len(film.records) * pitch - _GAP
    width = max(MARGIN + LABELS + pictured + MARGIN, _NARROWEST)
    # Align columns with the right edge even if there are few.
    left = width - MARGIN - pictured
    first = left + beside
    lines, foot = film_header(film, title, total, width - 2 * MARGIN), film_footer(film, width - 2 * MARGIN)
    foot += remarks(note)
    # With several validations per epoch, the epoch alone does not identify a column.
    stepped = len({record.epoch for record in film.records}) < len(film.records)
    heads = 32 if stepped else 18
    legend = _legend(film)
    below = (1 + len(legend)) * LINE_HEIGHT + 8 + heads + FRAME + 2
    taken = LINE_HEIGHT * (len(lines) + len(foot) + 1) + below
    rows = evenly(len(film.rows), (min(drawing.max_sheet_pixels // width, TALLEST) - 2 * MARGIN - taken) // row_h)
    foot += remarks(of_probes(len(rows), len(film.rows)))
    film = film.part(rows)
    body = row_h * len(rows)
    page = Sheet(lines, width, head=below, body=body + LINE_HEIGHT * len(foot) + MARGIN)
    color_bar(page, page.below + 3, film.drawing, key.method, "the row's scale, stated below its input")
    for number, entries in enumerate(legend):
        page.legend(page.below + 4 + LINE_HEIGHT * (number + 1), *entries)
    y = page.top - FRAME - 2 - heads
    page.write((left, y), "input", pitch, 13, INK)
    inputs = film.inputs
    for place, row in enumerate(rows):
        at = left, page.top + place * row_h
        page.rule(at[1] - FRAME - 3)
        row_label(page, at[1], film.records[-1], film.probes, row, "last")
        page.cell(at, inputs[place], _notes(film, place), width=max(pitch, _SCALE), gap=4, pitch=15)
    for step, record in enumerate(film.records):
        x = first + step * pitch
        page.write((x, y), epoch_title(record.epoch), pitch - 2, 13, INK)
        if stepped:
            page.write((x, y + 15), f"step {record.step}", pitch - 2)
        (pictures, missing), drifts = film.overlays(step), film.drifts(step)
        for place in range(len(rows)):
            captions = _captions(film, step, place, missing[place])
            captions += film.moved(drifts, place) if len(captions) < 2 else []
            at, framed = (x, page.top + place * row_h), film.changed(step, place)
            page.cell(at, pictures[place], captions, width=pitch - 2, gap=FRAME, framed=framed)
    page.foot(page.top + body, foot)
    return page.picture(enlarged=film.factor > 1, format=drawing.format)


def _legend(film: Film) -> list[list[tuple[Pixels | str | None, str]]]:
    """Returns the lines of the legend; marks for right and wrong only if they occur."""
    seen = film.marks
    missing: list[tuple[Pixels | str | None, str]] = [
        ("blank", "blank: map zero everywhere"),
        ("cross", "map not finite"),
    ]
    if film.classed:
        seen.append((None, PERCENT))
        missing.insert(0, ("frame", "class changed, new class below"))
    return [*([seen] if seen else []), missing]


def _captions(film: Film, step: int, place: int, missing: str) -> list[Caption]:
    predicted, changed = film.predicted(step, place), film.changed(step, place)
    name = film.named(step, place, class_words(film.probes, predicted))
    captions = [film.state(step, place, missing)._replace(mark=name.mark)]
    if changed or (predicted >= 0 and film.earlier(step, place) < 0):
        captions.append(name._replace(mark="arrow" if changed else ""))
    return captions


def _notes(film: Film, place: int) -> list[Caption]:
    """Returns the captions below a probe's image."""
    notes = [] if film.drawing.scale == "minmax" else [scale_end(film.top[place], film.drawing)]
    shape = film.records[0].maps[film.key].shape
    if len(shape) == 4 and shape[1] > 1:
        notes.append(f"slice {film.places[place] + 1} of {shape[1]}")
    return list(map(Caption, notes))
