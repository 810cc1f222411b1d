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
from lightning_gradcam.errors import StalledError
from lightning_gradcam.failures import Failures
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.serving import Service
from lightning_gradcam.sinks import Entry, FileSink, Histograms, Numbers, Sink, sinks_for
from lightning_gradcam.storage import join
from lightning_gradcam.study import Account, Record, Study
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
        account: Tells of the steps: what is measured and drawn.
        archive: Where records go; ``None`` writes none (``fast_dev_run``).
        sinks: Where pictures go.
        worker: Draws and writes.
        failures: Says what happens where that fails, and what is given up.
    """

    def __init__(
        self,
        account: Account,
        archive: ArchiveWriter | None,
        sinks: Sequence[Sink],
        worker: Worker,
        failures: Failures,
    ) -> None:
        self.study: Study = account.study
        self.probes = account.probes
        self.last_step = -1
        self._account = account
        self._archive = archive
        self._worker = worker
        self._failures = failures
        self._service = Service(sinks, failures)
        self._stage = ""
        self._concluded = -1
        self._evolved = 0
        self._lock = threading.RLock()
        # The record is kept with what is known of it: another one could get its id.
        self._told: dict[int, tuple[Record, Record]] = {}
        self._unarchived: list[Record] = []
        self._blocked = 0.0
        if archive is not None:
            self._recall(archive)

    @classmethod
    def start(
        cls,
        study: Study,
        probes: ProbeSet,
        found: Any,
        *,
        account: Callable[[Any, ProbeSet], Account],
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
            study: What is looked at.
            probes: The run's fixed inputs.
            found: What it found in them, for the layers' names and shapes.
            account: Tells of the steps.
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
        study = study.of(probes)
        archive, remark, served = None, None, list(sinks)
        if log_dir is not None:
            root = join(log_dir, study.name)
            manifest = study.manifest(probes, found, run)
            parent = {key: resumed[key] for key in ("archive", "run", "step")} if resumed.get("archive") else None
            archive, remark = ArchiveWriter.start(root, manifest, probes, parent=parent, copy_steps=copy_steps)
            served = [*sinks_for(loggers, partial(FileSink, join(root, "sheets"), prefix=study.name)), *served]
        for sink in served:
            sink.prepare()
        return cls(account(study.pinned(found), probes), archive, served, worker, failures), remark

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

    def log(self, found: Any, *, epoch: int, step: int, stage: str, began: float) -> float:
        """Copies what one step found to the CPU, and has it recorded, drawn and logged.

        Args:
            found: What the study found.
            epoch: Counted from 0.
            step: The x value.
            stage: ``"fit"``, ``"validate"`` or ``"test"``.
            began: When explaining began, by ``time.perf_counter()``.

        Returns:
            The seconds that training has waited for this step so far.
        """
        record = self.study.record(found, self.probes, epoch=epoch, step=step, stage=stage)
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

    def check(self, found: Any) -> None:
        """Refuses what does not fit the steps recorded so far: training goes on with another model.

        Raises:
            ArchiveError: Layers or their sizes changed.
        """
        if self._archive is not None:
            self._archive.check(self.study.manifest(self.probes, found, self._archive.manifest.run))

    def discard(self) -> None:
        """Deletes the archive's steps and manifest, to begin again in its folder."""
        if self._archive is not None:
            self._archive.discard()

    def rewind(self, step: int) -> None:
        """Forgets what was logged after ``step``: training goes on from an earlier checkpoint of this run."""
        self._worker.finish()
        self.last_step = min(self.last_step, step)
        self._account.forget()
        self._evolved = 0
        if self._archive is not None:
            self._archive.rewind(step)
            self._recall(self._archive)

    def conclude(self) -> None:
        """Has the whole run drawn, once, where it was a training."""
        done = self._concluded == self.last_step
        if self._archive is None or self._stage != "fit" or done or not self.study.evolution:
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

    def _record(self, record: Record) -> None:
        """Writes a record to the archive, where that has not been done."""
        if not self._lock.acquire(timeout=_ARCHIVE_PATIENCE):
            return
        try:
            if self._archive is not None and record in self._unarchived:
                self._service.attempt("the archive", record.step, partial(self._archive.append, self._measured(record)))
                self._unarchived.remove(record)
        finally:
            self._lock.release()

    def _write(self, record: Record, blocked: float) -> None:
        """The worker's part of one step."""
        begin = time.perf_counter()
        step, epoch = record.step, record.epoch
        self._record(record)
        measured = self._measured(record)
        for remark in self._account.remarks(measured):
            self._service.remark(remark)
        drawn: list[Entry] = []
        if self._service:
            self._service.attempt(
                "drawing", step, lambda: drawn.append(Entry(step, epoch, self._account.pictures(record)))
            )
        if drawn:
            self._service.pictures(drawn[0])
        spent = {"seconds": blocked, "background_seconds": time.perf_counter() - begin}
        values = {f"{self.study.name}_stats/{key}": value for key, value in spent.items()}
        self._service.numbers(Numbers(step, epoch, {**values, **self._account.means(measured)}))
        if histograms := self._account.histograms(record):
            self._service.histograms(Histograms(step, epoch, histograms))
        due = self._account.count & (self._account.count - 1) == 0
        if due and record.stage == "fit" and self._archive is not None and self.study.evolution:
            self._service.attempt("the evolution", step, partial(self._evolve, self._archive, ended=False))
        self._told.pop(id(record), None)

    def _measured(self, record: Record) -> Record:
        """Returns the record with its numbers, or as it is where measuring fails.

        Steps are measured once, in their order: the training thread may be ahead of the worker, see :meth:`_catch_up`.
        """
        with self._lock:
            if id(record) not in self._told:
                found = [record]
                self._service.attempt("measuring", record.step, lambda: found.append(self._account.measured(record)))
                self._told[id(record)] = record, found[-1]
            return self._told[id(record)][1]

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
            for numbers in self._account.late_numbers(archive):
                self._service.numbers(numbers)

    def _report(self, archive: ArchiveWriter) -> None:
        if archive.steps:
            self._account.report(archive)

    def _evolve(self, archive: ArchiveWriter, *, ended: bool) -> None:
        if not archive.steps:
            # The folder went away, which the archive's own failure says.
            return
        evolution = self._account.evolution(archive, ended=ended, rows=self._service.takes_rows)
        if evolution is not None:
            evolution = replace(evolution, repeated=self._evolved == self._account.count)
            self._evolved = self._account.count
            self._service.evolution(evolution)

    def _recall(self, archive: ArchiveWriter) -> None:
        for index, step in enumerate(archive.steps):
            if not self._failures.given_up(RECALLING):
                with self._failures.contained(RECALLING, step=step):
                    self._account.remember(archive.any_record(index))
        self.last_step = max(archive.steps, default=self.last_step)
