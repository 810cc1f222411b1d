"""A table's rows of probes, steps and overlays, for loggers that support tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.film import Film
from lightning_gradcam.sinks import Row

# The size of a table's images, in pixels.
_SIDE = 112


def table_rows(
    records: Sequence[CamRecord],
    probes: ProbeView,
    keys: Mapping[str, CamKey],
    limits: Mapping[CamKey, FloatArray],
    drawing: Drawing,
) -> list[Row]:
    """Returns a table's rows: for each probe, one row per step.

    Args:
        records: The steps, in order; each has all of the maps.
        probes: The records' probes, all of which are in the table.
        keys: Sheet's tag to map key; the table contains the score for the first map's target.
        limits: Each map's limit in the whole run, ``[N]``, over all targets.
        drawing: Drawing options, as for a film strip.
    """
    films = {
        tag: Film.of(records, probes, key=key, drawing=drawing, limits=limits[key], side=_SIDE)
        for tag, key in keys.items()
    }
    target = next(iter(keys.values())).target
    drawn = {tag: [film.overlays(step)[0] for step in range(len(records))] for tag, film in films.items()}
    # The same object in all of a probe's rows, so that loggers send it once.
    originals = [Picture(pixels, enlarged=True) for pixels in next(iter(films.values())).inputs]
    return [
        Row(
            probe=probes.ids[row],
            original=original,
            epoch=record.epoch,
            step=record.step,
            true=", ".join(map(probes.class_name, probes.true_classes(row))),
            predicted=probes.class_name(int(record.predicted[row])) if record.predicted[row] >= 0 else "",
            confidence=float(record.confidence[row]),
            score=float(record.scores[target][row]),
            overlays={tag: Picture(pictures[step][row], enlarged=True) for tag, pictures in drawn.items()},
        )
        for row, original in enumerate(originals)
        for step, record in enumerate(records)
    ]
