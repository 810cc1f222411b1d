"""A run over its steps: film strips, animations, a table's rows, and what only its end can tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lightning_gradcam.animation import Animation, animate
from lightning_gradcam.archive import Archive
from lightning_gradcam.cams import CamKey
from lightning_gradcam.film import Film
from lightning_gradcam.meter import Meter
from lightning_gradcam.picture import Picture
from lightning_gradcam.plan import Plan
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record import CamRecord, FloatArray
from lightning_gradcam.sinks import Evolution, Numbers, Row
from lightning_gradcam.stats import affordable
from lightning_gradcam.storage import Storage, safe_name
from lightning_gradcam.strip import film_strip, thinned
from lightning_gradcam.tiles import evenly

FOLDER = "evolution"
# More have no room in a strip; steps are cut down to these as they are read, so that memory stays small.
_MOST_PROBES = 128
# One takes up to a second and the end of a run waits for them.
_MOST_ANIMATIONS = 32
_MOST_ROW_PROBES, _MOST_ROW_PICTURES = 16, 1_500
# Of a table's pictures, in pixels.
_SIDE = 112


def evolution_of(
    archive: Archive,
    plan: Plan,
    probes: ProbeSet,
    peaks: Mapping[CamKey, FloatArray],
    *,
    ended: bool,
    rows: bool,
) -> Evolution:
    """Draws the run so far.

    Args:
        archive: Its steps, one at least.
        plan: Names the tags, and says how to draw.
        probes: The run's.
        peaks: Each map's largest value in any step, ``[N]``.
        ended: Draw animations, too; of more than 32 layers and methods, of as many evenly chosen.
        rows: And the rows of a table.

    Raises:
        ArchiveError: A step can't be read.
    """
    count = len(archive.steps)
    chosen = evenly(len(probes), _MOST_PROBES)
    records = [archive.record(place).part(chosen) for place in thinned(count)]
    shown = probes.view.part(chosen)
    title = plan.name if len(chosen) == len(probes) else f"{plan.name} ({len(chosen)} of {len(probes)} probes)"
    first: dict[str, CamKey] = {}
    for key in records[-1].maps:
        first.setdefault(plan.evolution_tag(key.layer, key.method), key)
    animated = {list(first)[place] for place in evenly(len(first), _MOST_ANIMATIONS)}
    strips: dict[str, Picture] = {}
    animations: dict[str, Animation] = {}
    for tag, key in first.items():
        how = {"key": key, "drawing": plan.drawing, "title": title, "limits": peaks[key][chosen], "total": count}
        strips[tag] = film_strip(records, shown, **how)  # type: ignore[arg-type]
        if ended and tag in animated:
            animations[tag] = animate(records, shown, **how)  # type: ignore[arg-type]
    last = records[-1]
    limits = {key: peaks[key][chosen] for key in first.values()}
    sheets = {plan.tag(key.layer, key.method): key for key in first.values()}
    table = list(_rows(records, shown, plan, sheets, limits)) if ended and rows else []
    return Evolution(plan.name, last.step, last.epoch, ended, strips, animations, table)


def save_evolution(evolution: Evolution, path: str) -> None:
    """Writes strips and animations into the archive's folder; those of earlier steps are replaced.

    Args:
        evolution: The run so far.
        path: The archive's folder.
    """
    storage = Storage(path)
    prefix = f"{evolution.name}_evolution/"
    for tag, picture in evolution.strips.items():
        storage.write(f"{FOLDER}/{safe_name(tag.removeprefix(prefix))}.png", picture.encoded("png"))
    for tag, animation in evolution.animations.items():
        format, content = animation.file()
        storage.write(f"{FOLDER}/{safe_name(tag.removeprefix(prefix))}.{format}", content)


def late_numbers(archive: Archive, meter: Meter) -> Iterator[Numbers]:
    """Yields what each step's maps have in common with the last one's; of very many or large ones, evenly chosen.

    Args:
        archive: With all steps.
        meter: Names the numbers.
    """
    count = len(archive.steps)
    last = archive.record(count - 1)
    for place in evenly(count, affordable(last.maps), ends=True):
        record = archive.record(place)
        if means := meter.means_to_last(record, last):
            yield Numbers(record.step, record.epoch, means)


def _rows(
    records: Sequence[CamRecord],
    probes: ProbeView,
    plan: Plan,
    keys: Mapping[str, CamKey],
    peaks: Mapping[CamKey, FloatArray],
) -> Iterator[Row]:
    """Yields a table's rows, probe by probe; of so many probes that the pictures do not become too many."""
    most = max(1, _MOST_ROW_PICTURES // (len(records) * len(keys)))
    places = evenly(len(probes), min(most, _MOST_ROW_PROBES))
    films = {
        tag: Film.of(records, probes, key=key, drawing=plan.drawing, limits=peaks[key], rows=places, side=_SIDE)
        for tag, key in keys.items()
    }
    target = next(iter(keys.values())).target
    drawn = {tag: [film.overlays(step)[0] for step in range(len(records))] for tag, film in films.items()}
    inputs = next(iter(films.values())).inputs
    for place, row in enumerate(places):
        original = Picture(inputs[place], enlarged=True)
        true = probes.true_classes(row)
        for step, record in enumerate(records):
            predicted = int(record.predicted[row])
            yield Row(
                probe=probes.ids[row],
                original=original,
                epoch=record.epoch,
                step=record.step,
                true=", ".join(map(probes.class_name, true)),
                predicted=probes.class_name(predicted) if predicted >= 0 else "",
                confidence=float(record.confidence[row]),
                score=float(record.scores[target][row]),
                overlays={tag: Picture(pictures[step][place], enlarged=True) for tag, pictures in drawn.items()},
            )
