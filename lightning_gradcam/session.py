"""One run: from the maps of a step to the record, the archive and the sinks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.cams import Cams
from lightning_gradcam.errors import StalledError
from lightning_gradcam.evolution import evolution_of, late_numbers, save_evolution
from lightning_gradcam.failures import Failures
from lightning_gradcam.meter import Meter
from lightning_gradcam.plan import Plan
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record import CamRecord
from lightning_gradcam.render import sheet
from lightning_gradcam.report import REPORT, write_report
from lightning_gradcam.serving import Service
from lightning_gradcam.sinks import Entry, FileSink, Numbers, Sink, sinks_for
from lightning_gradcam.storage import join
from lightning_gradcam.worker import Worker

EXPLAINING = "explaining"
RECALLING = "reading an earlier step for the run's scale"
# Seconds that the training thread waits while the worker writes to the archive.
_ARCHIVE_PATIENCE = 60.0


class Session:
    """Logs step after step of one run.

    The training thread computes maps, copies them to the CPU and gives them to the worker; that writes the archive,
    draws, encodes, and serves the sinks that can be called from it. The others are served by :meth:`settle`, on the
    training thread.

    Args:
        plan: What is explained.
        probes: The run's fixed inputs.
        archive: Where records go; ``None`` writes none (``fast_dev_run``).
        sinks: Where pictures go.
        worker: Draws and writes.
        failures: Says what happens where that fails, and what is given up.
    """

    def __init__(
        self,
        plan: Plan,
        probes: ProbeSet,
        archive: ArchiveWriter | None,
        sinks: Sequence[Sink],
        worker: Worker,
        failures: Failures,
    ) -> None:
        self.plan = plan
        self.probes = probes
        self.last_step = -1
        self._archive = archive
        self._worker = worker
        self._failures = failures
        self._service = Service(sinks, failures)
        self._meter = Meter(plan, probes)
        self._stage = ""
        self._concluded = -1
        self._evolved = 0
        self._lock = threading.Lock()
        self._unarchived: list[CamRecord] = []
        self._blocked = 0.0
        if archive is not None:
            self._recall(archive)

    @classmethod
    def start(
        cls,
        plan: Plan,
        probes: ProbeSet,
        cams: Cams,
        *,
        run: str,
        log_dir: str | None,
        loggers: Sequence[object],
        sinks: Sequence[Sink],
        resumed: Mapping[str, Any],
        copy_steps: bool,
        worker: Worker,
        failures: Failures,
    ) -> tuple[Session, str | None]:
        """Opens the archive and the sinks of a run.

        Args:
            plan: What is explained.
            probes: The run's fixed inputs.
            cams: Maps of them, for the layers' names and shapes.
            run: The run's own id.
            log_dir: Where the archive's folder goes; ``None``: nothing is written and no logger is served.
            loggers: The trainer's loggers.
            sinks: The user's own.
            resumed: The state in the checkpoint, empty without one.
            copy_steps: Take over the earlier run's steps.
            worker: Draws and writes.
            failures: Says what happens where that fails.

        Returns:
            The session, and a remark for the user where earlier steps could not be taken over.

        Raises:
            ArchiveError: The folder belongs to another run.
        """
        archive, remark, served = None, None, list(sinks)
        if log_dir is not None:
            root = join(log_dir, plan.name)
            manifest = plan.manifest(probes, cams, run)
            parent = {key: resumed[key] for key in ("archive", "run", "step")} if resumed.get("archive") else None
            archive, remark = ArchiveWriter.start(root, manifest, probes, parent=parent, copy_steps=copy_steps)
            served = [*sinks_for(loggers, partial(FileSink, join(root, "sheets"), prefix=plan.name)), *served]
        for sink in served:
            sink.prepare()
        return cls(plan.pinned(cams), probes, archive, served, worker, failures), remark

    @property
    def archive(self) -> ArchiveWriter | None:
        """The archive, with every step that was logged: what still waits to be written is written now."""
        self._catch_up()
        return self._archive

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Counts the body's time as what training has waited for."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._blocked += time.perf_counter() - begin

    def log(self, cams: Cams, *, epoch: int, step: int, stage: str, began: float) -> float:
        """Copies one step's maps to the CPU, and has it recorded, drawn and logged.

        Args:
            cams: The maps.
            epoch: Counted from 0.
            step: The x value.
            stage: ``"fit"``, ``"validate"`` or ``"test"``.
            began: When explaining began, by ``time.perf_counter()``.

        Returns:
            The seconds that training has waited for this step so far.
        """
        record = CamRecord.from_cams(
            cams, probe_ids=self.probes.ids, epoch=epoch, step=step, stage=stage, score=self.plan.score
        )
        self.last_step, self._stage = step, stage
        self._service.begin()
        blocked, self._blocked = self._blocked + time.perf_counter() - began, 0.0
        if self._archive is not None:
            self._unarchived.append(record)
        with self.blocking():
            self._waiting_for(partial(self._worker.submit, f"step {step}", partial(self._write, record, blocked)))
        return blocked

    def settle(self, *, final: bool = False) -> None:
        """Serves, on this thread, the sinks that ask for it, and reports what has failed since the last call.

        Args:
            final: The run is over: failures are only reported.
        """
        with self.blocking():
            self._service.settle(final=final)

    def check(self, cams: Cams) -> None:
        """Refuses maps that do not fit those recorded so far: training goes on with another model.

        Raises:
            ArchiveError: Layers or their sizes changed.
        """
        if self._archive is not None:
            self._archive.check(self.plan.manifest(self.probes, cams, self._archive.manifest.run))

    def discard(self) -> None:
        """Deletes the archive's steps and manifest, to begin again in its folder."""
        if self._archive is not None:
            self._archive.discard()

    def rewind(self, step: int) -> None:
        """Forgets what was logged after ``step``: training goes on from an earlier checkpoint of this run."""
        self._worker.finish()
        self.last_step = min(self.last_step, step)
        self._meter.forget()
        self._evolved = 0
        if self._archive is not None:
            self._archive.rewind(step)
            self._recall(self._archive)

    def conclude(self) -> None:
        """Has the whole run drawn, once, where it was a training."""
        done = self._concluded == self.last_step
        if self._archive is None or self._stage != "fit" or done or not self.plan.evolution:
            return
        self._concluded = self.last_step
        self._waiting_for(partial(self._worker.submit, "the end of the run", partial(self._end, self._archive)))

    def finish(self) -> None:
        """Waits until everything is written; what has failed is raised or reported."""
        self._waiting_for(self._worker.finish)
        self.settle()

    def close(self) -> None:
        """Waits until everything is written, and closes the sinks, once; failures are reported and not raised."""
        self.conclude()
        self._waiting_for(self._worker.close)
        # An interrupt can come while a step waits for room in the worker's queue, which it then never reaches.
        self._catch_up()
        self._service.close(self.last_step)

    def _waiting_for(self, call: Callable[[], None]) -> None:
        try:
            call()
        except StalledError as error:
            self._service.note("the background worker", self.last_step, error)
            # A logger that hangs costs pictures, but no maps.
            self._catch_up()

    def _catch_up(self) -> None:
        for record in list(self._unarchived):
            self._record(record)

    def _record(self, record: CamRecord) -> None:
        """Writes a record to the archive, where that has not been done."""
        if not self._lock.acquire(timeout=_ARCHIVE_PATIENCE):
            return
        try:
            if self._archive is not None and record in self._unarchived:
                self._service.attempt("the archive", record.step, partial(self._archive.append, self._measured(record)))
                self._unarchived.remove(record)
        finally:
            self._lock.release()

    def _write(self, record: CamRecord, blocked: float) -> None:
        """The worker's part of one step."""
        begin = time.perf_counter()
        step, epoch = record.step, record.epoch
        self._record(record)
        measured = self._measured(record)
        if (alarm := self._meter.alarm(measured)) is not None:
            self._service.remark(alarm)
        drawn: list[Entry] = []
        if self._service:
            self._service.attempt("drawing", step, lambda: drawn.append(self._draw(record)))
        if drawn:
            self._service.pictures(drawn[0])
        spent = {"seconds": blocked, "background_seconds": time.perf_counter() - begin}
        values = {f"{self.plan.name}_stats/{key}": value for key, value in spent.items()}
        self._service.numbers(Numbers(step, epoch, {**values, **self._meter.means(measured)}))
        due = self._meter.count & (self._meter.count - 1) == 0
        if due and record.stage == "fit" and self._archive is not None and self.plan.evolution:
            self._service.attempt("the evolution", step, partial(self._evolve, self._archive, ended=False))

    def _measured(self, record: CamRecord) -> CamRecord:
        """Returns the record with its numbers, or as it is where measuring fails."""
        found = [record]
        self._service.attempt("measuring", record.step, lambda: found.append(self._meter.measured(record)))
        return found[-1]

    def _end(self, archive: ArchiveWriter) -> None:
        """The worker's part of the end of a run."""
        parts: dict[str, Callable[[], None]] = {
            "the evolution": partial(self._evolve, archive, ended=True),
            "the last numbers": partial(self._compare_with_last, archive),
            "the report": partial(self._report, archive),
        }
        for kind, part in parts.items():
            self._service.attempt(kind, self.last_step, part)

    def _compare_with_last(self, archive: ArchiveWriter) -> None:
        if archive.steps:
            for numbers in late_numbers(archive, self._meter):
                self._service.numbers(numbers)

    def _report(self, archive: ArchiveWriter) -> None:
        if archive.steps:
            write_report([archive], join(archive.path, REPORT))

    def _evolve(self, archive: ArchiveWriter, *, ended: bool) -> None:
        if not archive.steps:
            # The folder went away, which the archive's own failure says.
            return
        rows, peaks = self._service.takes_rows, self._meter.peaks
        evolution = evolution_of(archive, self.plan, self.probes, peaks, ended=ended, rows=rows)
        evolution = replace(evolution, repeated=self._evolved == self._meter.count)
        self._evolved = self._meter.count
        save_evolution(evolution, archive.path)
        self._service.evolution(evolution)

    def _draw(self, record: CamRecord) -> Entry:
        pairs = dict.fromkeys((key.layer, key.method) for key in record.maps)
        pictures = {
            self.plan.tag(layer, method): sheet(
                record,
                self.probes,
                layer=layer,
                method=method,
                drawing=self.plan.drawing,
                title=self.plan.name,
                limits=self._meter.peaks,
            )
            for layer, method in pairs
        }
        return Entry(step=record.step, epoch=record.epoch, pictures=pictures)

    def _recall(self, archive: ArchiveWriter) -> None:
        for index, step in enumerate(archive.steps):
            if not self._failures.given_up(RECALLING):
                with self._failures.contained(RECALLING, step=step):
                    self._meter.remember(archive.record(index))
        self.last_step = max(archive.steps, default=self.last_step)
