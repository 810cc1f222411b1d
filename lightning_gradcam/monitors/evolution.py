"""Draws a run over its steps: film strips, animations and a table's rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lightning_gradcam.archive import Archive
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.table import table_rows
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.overlay import LAID_BYTES, Laid
from lightning_gradcam.render.picture import PackedPicture, Picture
from lightning_gradcam.render.scale import row_limits
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.sheets.animation import MAX_BYTES, SIDE, Animation, animate
from lightning_gradcam.sheets.animation import MOST_PROBES as MOST_ANIMATED
from lightning_gradcam.sheets.strip import MOST_COLUMNS, by_change, film_strip
from lightning_gradcam.sinks import Evolution, Row
from lightning_gradcam.stats.numbers import mean
from lightning_gradcam.storage import Storage, safe_name

FOLDER = "evolution"
# Maximum number of pairs of a layer and a method to draw: each strip and animation can take seconds and megabytes.
MOST_PAIRS = 32
# More probes do not fit into a strip.
MOST_PROBES = 128
# Pixels of all strips together. With many strips, each may still have the second number.
ALL_PIXELS, LEAST_PIXELS = 64_000_000, 4_000_000
# With more animations than this, each shows only as many probes as fit into a file without shrinking the images:
# finding the size takes seconds.
MANY_ANIMATIONS = 8
# Bytes of maps in memory at once: as many pairs as fit, or for a single pair as many probes as fit.
MAP_BYTES = 128_000_000
_MOST_ROW_PROBES, _MOST_ROW_PICTURES = 16, 1_500
# Maximum number of layers and methods named in a remark.
_NAMED = 5


class Evolving:
    """Draws the run so far, in parts that each take a few seconds at most.

    The amount of drawing is bounded: at most :data:`MOST_PAIRS` layers and methods and :data:`MOST_PROBES` probes,
    evenly spaced, and 24 steps. The more strips, the fewer pixels each has. Only maps that are drawn are read, for as
    many layers at once as fit into :data:`MAP_BYTES`. Headers state what was left out, as does the remark from
    :meth:`result` at the end of a run.

    Args:
        archive: The archive, with at least one step.
        monitor: Names the tags, and determines how to draw.
        probes: The run's probes.
        limits: Each map's limits over all steps, ``[N, 2]``; copied.
        ended: Whether the run is over; only then are animations drawn.
        rows: Whether to also create a table's rows if the run is over.
        count: Use only the first ``count`` steps. Default: all current steps.

    Example:
        >>> evolving = Evolving(archive, monitor, probes, limits, ended=True, rows=False)  # doctest: +SKIP
        >>> for name, draw in evolving.parts():  # doctest: +SKIP
        ...     draw()
        >>> evolving.result().strips  # doctest: +SKIP
    """

    def __init__(
        self,
        archive: Archive,
        monitor: CamMonitor,
        probes: ProbeSet,
        limits: Mapping[CamKey, FloatArray],
        *,
        ended: bool,
        rows: bool,
        count: int | None = None,
    ) -> None:
        steps, epochs = archive.steps, archive.epochs
        self._archive, self._monitor, self._ended = archive, monitor, ended
        self._count = len(steps) if count is None else min(count, len(steps))
        self._last = steps[self._count - 1], epochs[self._count - 1]
        # Chosen by change once the steps have been read.
        self._places = evenly(self._count, MOST_COLUMNS, ends=True)
        first: dict[tuple[str, str], CamKey] = {}
        for key in limits:
            first.setdefault((key.layer, key.method), key)
        chosen = evenly(len(first), MOST_PAIRS, ends=True)
        self._of = len(first)
        self._left_out = [monitor.evolution_tag(*pair) for place, pair in enumerate(first) if place not in chosen]
        keys = [list(first.values())[place] for place in chosen]
        # Bytes of one probe's map.
        self._sizes = {key: 4 * math.prod(archive.shape_of(key.layer, key.method) or (1,)) for key in keys}
        room = MAP_BYTES // (max(self._sizes.values(), default=1) * len(self._places))
        # The indices of the probes that are read.
        self._chosen = evenly(len(probes), min(MOST_PROBES, room))
        self._probes, self._all_probes = probes.view.part(self._chosen), len(probes)
        # For each layer and method to draw, the first target's map, and each probe's limit over all targets.
        self._limits = {key: row_limits(limits, key, signed=monitor.drawing.signed)[self._chosen] for key in keys}
        most = max(1, _MOST_ROW_PICTURES // max(1, len(self._places) * len(keys)))
        # The indices, among these, of the probes in the table.
        self._rows = evenly(len(self._chosen), min(most, _MOST_ROW_PROBES)) if ended and rows else []
        self._records: dict[int, CamRecord] = {}
        # Kept for the animation, which is drawn after the same map's strip.
        self._laid = Laid(LAID_BYTES if ended else 0)
        self._in_table: dict[int, CamRecord] = {}
        self._strips: dict[str, Picture] = {}
        self._animations: dict[str, Animation] = {}
        self._table: list[Row] = []

    def parts(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yields the parts of the work, each with a name for reports and a function; call these in order.

        Strips and animations are also written to ``evolution/`` in the archive's folder. If a call fails, its strip or
        animation, or the step that it would have read, is missing.
        """
        if len(self._places) < self._count:
            yield "choosing steps for film strips", self._choose
        for batch in self._batches():
            for number in range(len(self._places)):
                name = f"reading step {number + 1} of {len(self._places)} for film strips"
                yield name, partial(self._read, batch, number)
            for key in batch:
                yield f"the film strip of {self._short(key)}", partial(self._draw_strip, key)
                if self._ended:
                    yield f"the animation of {self._short(key)}", partial(self._draw_animation, key)
        if self._rows:
            yield "the rows of the table", self._draw_table

    def result(self) -> Evolution:
        """Returns what the finished parts drew."""
        strips, animations, remark = self._strips, self._animations, self._remark() if self._ended else ""
        return Evolution(self._monitor.name, *self._last, self._ended, strips, animations, self._table, remark=remark)

    def _batches(self) -> Iterator[list[CamKey]]:
        """Yields the maps in batches that fit into memory."""
        batch: list[CamKey] = []
        for key in self._limits:
            bytes_each = sum(self._sizes[one] for one in (*batch, key))
            if batch and len(self._places) * len(self._chosen) * bytes_each > MAP_BYTES:
                yield batch
                batch = []
            batch.append(key)
        yield batch

    def _choose(self) -> None:
        """Chooses steps by the mean drift of all maps to draw; a flipped class counts as a drift of 1."""
        changes = []
        for place in range(self._count):
            try:
                numbers = self._archive.record(place, keys=self._limits, maps=()).numbers
            except ArchiveError:
                changes.append(0.0)
                continue
            moved = [np.where(one.get("flipped", 0) > 0, 1, one["drift"]) for one in numbers.values() if "drift" in one]
            changes.append(mean(np.concatenate(moved)) if moved else 0.0)
        self._places = by_change(changes, MOST_COLUMNS)

    def _read(self, batch: Sequence[CamKey], number: int) -> None:
        place = self._places[number]
        if number == 0:
            # Discard the previous batch.
            self._records = {}
        record = self._archive.record(place, keys=batch).part(self._chosen)
        self._records[place] = record
        if self._rows:
            part = record.part(self._rows)
            earlier = self._in_table[place].maps if place in self._in_table else {}
            self._in_table[place] = replace(part, maps={**earlier, **part.maps})

    def _draw_strip(self, key: CamKey) -> None:
        pixels = max(LEAST_PIXELS, ALL_PIXELS // len(self._limits))
        drawing = self._monitor.drawing
        drawing = replace(drawing, max_sheet_pixels=min(drawing.max_sheet_pixels, pixels))
        picture = film_strip(list(self._records.values()), self._probes, drawing=drawing, **self._shared(key))
        format, content = picture.file()
        self._write(key, format, content, others=("png", "jpeg", "webp"))
        # The pixels of all strips at once would take too much memory.
        self._strips[self._tag(key)] = PackedPicture(picture)

    def _draw_animation(self, key: CamKey) -> None:
        records = list(self._records.values())
        fitting = max(4, MAX_BYTES // (max(1, len(records)) * SIDE**2))
        most = MOST_ANIMATED if len(self._limits) <= MANY_ANIMATIONS else min(MOST_ANIMATED, fitting)
        animation = animate(records, self._probes, drawing=self._monitor.drawing, most=most, **self._shared(key))
        self._write(key, *animation.file())
        self._animations[self._tag(key)] = animation

    def _shared(self, key: CamKey) -> dict[str, Any]:
        """Returns the data that a film strip and an animation of one map share."""
        name, shown = self._monitor.name, len(self._chosen)
        title = name if shown == self._all_probes else f"{name} ({shown} of {self._all_probes} probes)"
        drawn = f"drawn for {len(self._limits)} of {self._of} layers and methods, evenly chosen; all are in the archive"
        note = drawn if self._left_out else ""
        return {
            "key": key,
            "title": title,
            "limits": self._limits[key],
            "total": self._count,
            "note": note,
            "laid": self._laid,
        }

    def _draw_table(self) -> None:
        self._records = {}
        # Steps that could not be read for all maps are left out; the others are in order.
        whole = [record for record in self._in_table.values() if len(record.maps) == len(self._limits)]
        if whole:
            drawing = self._monitor.drawing
            tops = {key: top[self._rows] for key, top in self._limits.items()}
            if drawing.scale == "layer":
                # Over all probes, not only those in the table.
                tops = {key: np.full(len(self._rows), top.max(), np.float32) for key, top in self._limits.items()}
            tags = {self._monitor.tag(key.layer, key.method): key for key in tops}
            self._table = table_rows(whole, self._probes.part(self._rows), tags, tops, drawing)
        self._in_table = {}

    def _write(self, key: CamKey, format: str, content: bytes, others: Sequence[str] = ()) -> None:
        storage, stem = Storage(self._archive.path), f"{FOLDER}/{safe_name(self._short(key))}"
        storage.write(f"{stem}.{format}", content)
        # A strip that has become large has a different format than the earlier one.
        for other in others:
            if other != format and storage.exists(f"{stem}.{other}"):
                storage.remove(f"{stem}.{other}")

    def _remark(self) -> str:
        less = []
        if self._left_out:
            short = [tag.split("/", 1)[1] for tag in self._left_out]
            named = ", ".join(short[:_NAMED]) + (f" and {len(short) - _NAMED} more" if len(short) > _NAMED else "")
            less.append(f"{len(self._limits)} of {self._of} layers and methods (without {named:.200})")
        if len(self._chosen) < self._all_probes:
            less.append(f"{len(self._chosen)} of {self._all_probes} probes")
        if not less:
            return ""
        return (
            f"film strips and animations show {' and '.join(less)}, evenly chosen, to keep the end of the run short;"
            f" all maps are in the archive {self._archive.path} and its report.html"
        )

    def _tag(self, key: CamKey) -> str:
        return self._monitor.evolution_tag(key.layer, key.method)

    def _short(self, key: CamKey) -> str:
        return self._tag(key).removeprefix(f"{self._monitor.name}_evolution/")
