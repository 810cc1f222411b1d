"""What becomes of a record: measured, archived, drawn and sent to the sinks, in the order of the steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.monitors.base import EvolutionParts, Record, Reporter
from lightning_gradcam.pipeline.delivery import Delivery, Parcel
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.sinks import Entry, Evolution, Histograms, Numbers

RECALLING = "reading an earlier step for the run's scale"


@dataclass(eq=False)
class _Step:
    """A record on its way from the training thread to the sinks.

    Attributes:
        record: As it came, and then with its numbers.
        blocked: How many seconds training has waited for it.
        count: How many steps there were with it.
        archived: How many of them the archive had.
        peaks: Each map's largest value by then.
        means: Its numbers for the loggers.
        seconds: What has been spent on it.
    """

    record: Record
    blocked: float
    count: int = 0
    archived: int = 0
    peaks: Mapping[CamKey, FloatArray] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


# Of the end of a run: what a report calls such a part, its own name, and the call that does it.
Parts = Iterator[tuple[str, str, Callable[[], object]]]


class Processor:
    """Owns what steps are compared with, the archive's writing side, and drawing.

    All of it is called on one thread, the recording one. Steps are archived as they come, also while an earlier one is
    drawn, so that a process that is killed has lost none; they are drawn one after the other, each from what was known
    when it was archived, so that its pictures do not depend on how far training has got meanwhile.

    Args:
        reporter: Measures and draws.
        archive: Where records go; ``None`` writes none (``fast_dev_run``).
        delivery: Takes what is finished.
        worker: Does all of it; told of progress between the parts of a long job.
    """

    def __init__(self, reporter: Reporter, archive: ArchiveWriter | None, delivery: Delivery, worker: Worker) -> None:
        self._reporter = reporter
        self._worker = worker
        self._archive = archive
        self._delivery = delivery
        if archive is not None:
            archive.tick = worker.tick
        reporter.tick = self._pause
        reporter.archived = archive is not None
        # Spent on later steps while one is drawn.
        self._aside = 0.0
        # How many steps there were, and how many when the run was last drawn as a whole.
        self._count = self._evolved = 0
        # How many of them the archive has.
        self._archived = 0
        # Read by the training thread for checkpoints; `None` until the earlier steps have been taken over.
        self.earlier: int | None = None

    def recall(self, parent: Mapping[str, Any] | None, step: int) -> None:
        """Takes the earlier steps over: those of the run that is resumed, and what later ones are compared with.

        Args:
            parent: The resumed run.
            step: The step that training continues from, for reports.
        """
        if self._archive is None:
            return
        if parent is not None:
            # Until it is known how many of them are there.
            self.earlier = parent.get("logged")
            self._delivery.attempt("the archive", step, partial(self._take_over, self._archive, parent))
        self._delivery.attempt(RECALLING, step, partial(self._remember, self._archive))

    def step(self, record: Record, blocked: float) -> tuple[Callable[[], None], Callable[[], None]]:
        """Returns the two parts of the work on a record: measure and archive it, then draw it for the sinks.

        Args:
            record: The next step's.
            blocked: How many seconds training has waited for it.
        """
        step = _Step(record, blocked)
        return partial(self._keep, step), partial(self._show, step)

    def _keep(self, kept: _Step) -> None:
        begin = time.perf_counter()
        record = kept.record
        step, attempt = record.step, self._delivery.attempt

        def measure() -> None:
            kept.record = self._reporter.measured(record)
            kept.means = self._reporter.means(kept.record)
            for remark in self._reporter.remarks(kept.record):
                self._delivery.remark(remark)

        attempt("measuring", step, measure)
        self._count += 1
        kept.count, kept.peaks = self._count, self._reporter.peaks
        if self._archive is not None:
            attempt("the archive", step, partial(self._append, self._archive, kept.record))
        kept.archived = self._archived
        kept.seconds = time.perf_counter() - begin

    def _append(self, archive: ArchiveWriter, record: Record) -> None:
        archive.append(record)
        self._archived += 1

    def _show(self, kept: _Step) -> None:
        begin, self._aside = time.perf_counter(), 0.0
        record = kept.record
        parcel = self._drawn(kept) if self._delivery else Parcel(record.step)
        evolution = self._evolution(kept) if kept.count & (kept.count - 1) == 0 else None
        name = self._reporter.monitor.name
        timed = f"{name}_stats/background_seconds"
        spent = kept.seconds + time.perf_counter() - begin - self._aside
        values = {f"{name}_stats/seconds": kept.blocked, timed: spent, **kept.means}
        numbers = Numbers(record.step, record.epoch, values)
        self._delivery.send(replace(parcel, evolution=evolution, numbers=numbers, timed=timed))

    def _pause(self) -> None:
        """Between two parts of drawing: archives what has come meanwhile."""
        begin = time.perf_counter()
        self._worker.ahead()
        self._aside += time.perf_counter() - begin
        self._worker.tick()

    def end(self, submit: Callable[[str, Callable[[], object]], None], step: int) -> None:
        """Has the whole run drawn, in parts of a few seconds each.

        Args:
            submit: Takes a part's name and the call that does it, in order.
            step: The last step.
        """
        for kind, name, part in self._ending(step):
            submit(name, partial(self._delivery.attempt, kind, step, part))

    def rewind(self, step: int) -> None:
        """Forgets what was recorded after ``step``: training continues from an earlier checkpoint of this run."""
        if self._archive is not None:
            self._archive.rewind(step)
        self._reporter.forget()
        self._count = self._evolved = self._archived = 0
        if self._archive is not None:
            self._delivery.attempt(RECALLING, step, partial(self._remember, self._archive))

    def _take_over(self, archive: ArchiveWriter, parent: Mapping[str, Any]) -> None:
        if remark := archive.take_over(parent):
            self._delivery.remark(remark)

    def _remember(self, archive: ArchiveWriter) -> None:
        self.earlier = self._count = self._archived = len(archive.steps)
        last, peaks, damaged = archive.recall()
        if last is not None:
            self._reporter.remember(last, peaks)
        for why in damaged:
            self._delivery.remark(f"an earlier step does not count in the scale of the coming pictures: {why}")

    def _drawn(self, kept: _Step) -> Parcel:
        record = kept.record
        step, epoch = record.step, record.epoch
        parcels = [Parcel(step)]

        def draw() -> None:
            parcels.append(Parcel(step, Entry(step, epoch, self._reporter.pictures(record, kept.peaks))))
            if found := self._reporter.histograms(record):
                parcels.append(replace(parcels[-1], histograms=Histograms(step, epoch, found)))

        self._delivery.attempt("drawing", step, draw)
        return parcels[-1]

    def _evolution(self, kept: _Step) -> Evolution | None:
        """Draws the run so far at once: while training goes on there are no animations and no table."""
        if self._archive is None or not self._reporter.monitor.evolution or kept.record.stage != "fit":
            return None
        found: list[Evolution] = []

        def draw(archive: ArchiveWriter) -> None:
            # Without a step the folder went away, which the archive's own failure reports.
            if not kept.archived or not archive.steps:
                return
            evolving = self._reporter.evolving(archive, kept.peaks, count=kept.archived, ended=False, rows=False)
            if evolving is not None:
                for _, part in evolving.parts():
                    self._delivery.attempt("the evolution", kept.record.step, part)
                    self._pause()
                found.append(evolving.result())
                self._evolved = kept.count

        self._delivery.attempt("the evolution", kept.record.step, partial(draw, self._archive))
        return found[0] if found else None

    def _ending(self, step: int) -> Parts:
        archive = self._archive
        if archive is None or not archive.steps:
            return
        drawn: list[EvolutionParts] = []

        def begin() -> None:
            rows = self._delivery.takes_rows
            if (evolving := self._reporter.evolving(archive, self._reporter.peaks, ended=True, rows=rows)) is not None:
                drawn.append(evolving)

        self._delivery.attempt("the evolution", step, begin)
        for evolving in drawn:
            for name, part in evolving.parts():
                yield "the evolution", name, part
            yield "the evolution", "the evolution", partial(self._send, evolving, step, self._evolved == self._count)
        yield "the last numbers", "the last numbers", partial(self._compare_with_last, archive)
        yield "the report", "the report", partial(self._reporter.report, archive)

    def _send(self, evolving: EvolutionParts, step: int, repeated: bool) -> None:
        found = replace(evolving.result(), repeated=repeated)
        if found.remark:
            self._delivery.remark(found.remark)
        self._delivery.send(Parcel(step, evolution=found))

    def _compare_with_last(self, archive: ArchiveWriter) -> None:
        for numbers in self._reporter.late_numbers(archive):
            self._delivery.send(Parcel(numbers.step, numbers=numbers))
            self._worker.tick()
