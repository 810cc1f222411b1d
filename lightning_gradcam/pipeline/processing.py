"""Processes records in order: measures, archives and draws them, and sends the results to the sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.findings import brief
from lightning_gradcam.monitors.base import EvolutionParts, Record, Reporter
from lightning_gradcam.pipeline.delivery import Delivery, Parcel
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.sinks import Entry, Evolution, Histograms, Numbers

RECALLING = "reading an earlier step for the run's scale"


@dataclass(frozen=True)
class Measured:
    """A step's results for which the training thread may wait.

    Attributes:
        numbers: All the step's numbers by tag.
        alarm: Whether this step raises the run's alarm.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    alarm: bool = False


@dataclass(eq=False)
class Step:
    """A record on its way from the training thread to the sinks.

    Attributes:
        record: The record, first without and then with its numbers.
        count: The number of steps up to this one; 0 until it is measured.
        archived: The number of these steps that were in the archive.
        limits: Each map's limits when it was measured.
        means: Its numbers for the loggers.
        measured: All its numbers, and the alarm.
        seconds: Seconds spent on measuring and archiving it.
    """

    record: Record
    count: int = 0
    archived: int = 0
    limits: Mapping[CamKey, FloatArray] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)
    seconds: float = 0.0


# The parts of the end of a run, each with its kind in reports, its name, and its function.
Parts = Iterator[tuple[str, str, Callable[[], object]]]


class Processor:
    """Owns the state with which steps are compared, the archive's writer, and drawing.

    All work is done on the recording thread. Steps are archived as they arrive, even while an earlier one is being
    drawn, so a process that is killed does not lose steps that are only waiting to be drawn. Steps are drawn one after
    the other, each with the data known when it was archived, so its sheets do not depend on how far training has
    advanced since then.

    Args:
        reporter: Measures and draws.
        archive: Stores the records; ``None``: nothing is written (``fast_dev_run``).
        delivery: Receives finished work.
        worker: Runs the jobs; notified of progress between the parts of a long job.
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
        # Seconds spent on later steps while one is being drawn.
        self._aside = 0.0
        # The number of steps, and that number when the run so far was last drawn.
        self._count = self._evolved = 0
        # The number of steps in the archive.
        self._archived = 0
        # Read by the training thread for checkpoints; `None` until the earlier steps have been taken over.
        self.earlier: int | None = None
        # The run's findings, once it is over.
        self.findings: tuple[Finding, ...] = ()

    def recall(self, parent: Mapping[str, Any] | None, step: int) -> None:
        """Takes over the resumed run's steps, and the state with which later steps are compared.

        Args:
            parent: The resumed run; ``None`` without one.
            step: The step from which training continues, for reports.
        """
        if self._archive is None:
            return
        if parent is not None:
            # Assume this number until it is known how many of them exist.
            self.earlier = parent.get("logged")
            self._delivery.attempt("the archive", step, partial(self._take_over, self._archive, parent))
        self._delivery.attempt(RECALLING, step, partial(self._remember, self._archive))

    def step(
        self, step: Step, blocked: float, metrics: Mapping[str, float] | None
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Returns the two parts of the work on a step: measure and archive it, then draw it for the sinks.

        Args:
            step: The next step.
            blocked: Seconds that training has waited for it.
            metrics: The trainer's metrics at this step.
        """
        return partial(self._keep, step, metrics), partial(self._show, step, blocked)

    def measure(self, kept: Step) -> Measured:
        """Measures a step once; if training waits for its numbers, this is called before the parts of :meth:`step`."""
        if kept.count:
            return kept.measured
        begin, record = time.perf_counter(), kept.record

        def measure() -> None:
            kept.record = self._reporter.measured(record)
            alarm = self._reporter.alarm(kept.record)
            kept.means = self._reporter.means(kept.record)
            kept.measured = Measured(self._reporter.numbers(kept.record), bool(alarm))
            for remark in filter(None, [alarm, *self._reporter.remarks(kept.record)]):
                self._delivery.remark(remark)

        self._delivery.attempt("measuring", record.step, measure)
        self._count += 1
        kept.count, kept.limits = self._count, self._reporter.limits
        kept.seconds = time.perf_counter() - begin
        return kept.measured

    def _keep(self, kept: Step, metrics: Mapping[str, float] | None) -> None:
        self.measure(kept)
        begin = time.perf_counter()
        if metrics:
            kept.record = replace(kept.record, metrics=metrics)
        if self._archive is not None:
            self._delivery.attempt("the archive", kept.record.step, partial(self._append, self._archive, kept.record))
        kept.archived = self._archived
        kept.seconds += time.perf_counter() - begin

    def _append(self, archive: ArchiveWriter, record: Record) -> None:
        archive.append(record)
        self._archived += 1

    def _show(self, kept: Step, blocked: float) -> None:
        begin, self._aside = time.perf_counter(), 0.0
        record = kept.record
        parcel = self._drawn(kept) if self._delivery else Parcel(record.step)
        evolution = self._evolution(kept) if kept.count & (kept.count - 1) == 0 else None
        name = self._reporter.monitor.name
        timed = f"{name}_stats/background_seconds"
        spent = kept.seconds + time.perf_counter() - begin - self._aside
        values = {f"{name}_stats/seconds": blocked, timed: spent, **kept.means}
        numbers = Numbers(record.step, record.epoch, values)
        self._delivery.send(replace(parcel, evolution=evolution, numbers=numbers, timed=timed))

    def _pause(self) -> None:
        """Called between two parts of drawing; archives the records that have arrived meanwhile."""
        begin = time.perf_counter()
        self._worker.ahead()
        self._aside += time.perf_counter() - begin
        self._worker.tick()

    def end(self, submit: Callable[[str, Callable[[], object]], None], step: int) -> None:
        """Schedules the drawing of the whole run, in parts of a few seconds each.

        Args:
            submit: Receives each part's name and function, in order.
            step: The last step.
        """
        for kind, name, part in self._ending(step):
            submit(name, partial(self._delivery.attempt, kind, step, part))

    def rewind(self, step: int) -> None:
        """Forgets the steps after ``step``, because training continues from an earlier checkpoint of this run."""
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
        last, limits, damaged = archive.recall()
        if last is not None:
            self._reporter.remember(last, limits, () if damaged else self._before_last(archive))
        for why in damaged:
            self._delivery.remark(f"an earlier step is not included in the scale of later sheets: {why}")

    def _before_last(self, archive: ArchiveWriter) -> list[Record]:
        rows = range(max(0, self._count - self._reporter.compared), self._count - 1)
        try:
            return [archive.any_record(row) for row in rows]
        except ArchiveError:
            # Reported where steps are read one by one. The next steps are compared with fewer earlier ones.
            return []

    def _drawn(self, kept: Step) -> Parcel:
        record = kept.record
        step, epoch = record.step, record.epoch
        parcels = [Parcel(step)]

        def draw() -> None:
            parcels.append(Parcel(step, Entry(step, epoch, self._reporter.pictures(record, kept.limits))))
            if found := self._reporter.histograms(record):
                parcels.append(replace(parcels[-1], histograms=Histograms(step, epoch, found)))

        self._delivery.attempt("drawing", step, draw)
        return parcels[-1]

    def _evolution(self, kept: Step) -> Evolution | None:
        """Draws the run so far in one job: during training there are no animations and no table."""
        if self._archive is None or not self._reporter.monitor.evolution or kept.record.stage != "fit":
            return None
        found: list[Evolution] = []

        def draw(archive: ArchiveWriter) -> None:
            # Without a step, the folder has disappeared, which the archive's own failure reports.
            if not kept.archived or not archive.steps:
                return
            evolving = self._reporter.evolving(archive, kept.limits, kept.archived, ended=False, rows=False)
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
            limits, rows = self._reporter.limits, self._delivery.takes_rows
            evolving = self._reporter.evolving(archive, limits, len(archive.steps), ended=True, rows=rows)
            if evolving is not None:
                drawn.append(evolving)

        self._delivery.attempt("the evolution", step, begin)
        for evolving in drawn:
            for name, part in evolving.parts():
                yield "the evolution", name, part
            yield "the evolution", "the evolution", partial(self._send, evolving, step, self._evolved == self._count)
        yield "the findings", "the findings", partial(self._find, archive, step)
        yield "the last numbers", "the last numbers", partial(self._compare_with_last, archive)
        yield "the report", "the report", partial(self._reporter.report, archive)

    def _send(self, evolving: EvolutionParts, step: int, repeated: bool) -> None:
        found = replace(evolving.result(), repeated=repeated)
        if found.remark:
            self._delivery.remark(found.remark)
        self._delivery.send(Parcel(step, evolution=found))

    def _find(self, archive: ArchiveWriter, step: int) -> None:
        self.findings = self._reporter.findings(archive)
        if sentences := brief(self.findings):
            name = f"{self._reporter.monitor.name}_findings"
            summary = {f"{name}/{number}": text for number, text in enumerate(sentences, 1)}
            self._delivery.send(Parcel(step, summary=summary))

    def _compare_with_last(self, archive: ArchiveWriter) -> None:
        for numbers in self._reporter.late_numbers(archive):
            self._delivery.send(Parcel(numbers.step, numbers=numbers))
            self._worker.tick()
