"""The lines of text above and below the images in film strips and animations."""

from __future__ import annotations

import numpy as np

from lightning_gradcam.render.scale import PERCENTILE
from lightning_gradcam.render.signals import source_lines
from lightning_gradcam.render.text import INK, WRONG
from lightning_gradcam.sheets import header
from lightning_gradcam.sheets.builder import Line, folded_lines, remarks
from lightning_gradcam.sheets.film import Film
from lightning_gradcam.stats.boxes import known_boxes


def film_header(film: Film, title: str, total: int | None, width: int) -> list[Line]:
    """Returns the lines above the images: title and layer, what is explained, and the probes' note.

    Args:
        film: The steps and the map to draw.
        title: The first words.
        total: Number of logged steps; ``None`` for the number shown.
        width: Width in pixels at which lines are wrapped.
    """
    records, key, count = film.records, film.key, len(film.records)
    steps = "logged epochs" if len({one.epoch for one in records}) == count else "logged steps"
    total = max(total or 0, count)
    which = f"all {count} {steps}" if total == count else f"{count} of {total} {steps}, more of them where maps change"
    what = f"{header.method_title(key.method)} of {header.explained_title(records[-1], key.target, film.probes)}"
    lines = [(f"{what}; {'one logged step' if total == 1 else which}", INK), *remarks(film.probes.note, color=WRONG)]
    return [(f"{title}  {header.layer_title(key.layer, key.method)}", INK), *folded_lines(lines, width)]


def film_footer(film: Film, width: int) -> list[Line]:
    """Returns the lines below the images, which explain how to read them; see :func:`film_header` for arguments."""
    drawing, key, probes, records = film.drawing, film.key, film.probes, film.records
    known = "this run so far" if film.whole else "the steps shown"
    ends = f"it ends at the {PERCENTILE:g}th percentile of the strongest map in {known}"
    if drawing.signed:
        ends = f"both ends are the {PERCENTILE:g}th percentile of the strongest map's magnitudes in {known}"
    meaning = {
        "image": f"one scale per probe rather than per map, so that its steps can be compared; {ends}",
        "run": f"one scale for each probe, over all its targets and steps; {ends}",
        "layer": f"one scale for all probes, targets and steps; {ends}",
        "minmax": "each signed map from its minimum to its maximum (no ReLU); not comparable between steps",
    }[drawing.scale]
    signed = header.signed_line(key.method) if drawing.signed else ""
    lines = remarks(f"colours: {meaning}", signed, *_slice_lines(records[-1].maps[key].shape, probes.pixels.shape))
    if len(records) > 1:
        lines += remarks(
            "drift: how far the map has moved since the previous one, 0 to 1; only between maps for the same class"
        )
    if drawing.boxes:
        dashed = "; dashed: the known box" if known_boxes(probes) is not None else ""
        least = f"{drawing.box_threshold * 100:g}%"
        lines += remarks(f"outline: box around the map's largest part above {least} of its maximum{dashed}")
    lines += remarks(*source_lines(probes.display_source))
    # With "minmax", a map without a positive value is also coloured.
    if drawing.scale != "minmax":
        codes = np.concatenate([header.blank_codes(one, [key], drawing) for one in records])
        lines += remarks(header.blank_remark(codes, drawing, "maps in these steps"), color=INK)
    return folded_lines(lines, width)


def _slice_lines(maps: tuple[int, ...], display: tuple[int, ...]) -> list[str]:
    depth, length = (maps[1] if len(maps) == 4 else 0), (display[1] if len(display) == 5 else 0)
    if depth < 2:
        return [f"drawn on frame {length // 2 + 1} of {length}, the middle one"] if length else []
    under = f"its central frame, of {length}" if length else "the probe's image"
    return [f"shown: the slice, of {depth} (time or depth), with the most evidence over all steps, drawn on {under}"]
