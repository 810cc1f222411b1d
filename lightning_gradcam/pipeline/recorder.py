"""One run's recorder: explains on the calling thread and does the rest in the background; needs no Trainer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning_gradcam.archive import Archive, ArchiveWriter
from lightning_gradcam.errors import StalledError
from lightning_gradcam.monitors.base import Monitor, Reporter, Subject
from lightning_gradcam.pipeline.delivery import WORKER, Delivery, reportable
from lightning_gradcam.pipeline.destination import Destination
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.processing import Measured, Processor, Step
from lightning_gradcam.pipeline.threads import Threads
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.sinks import Sink
from lightning_gradcam.storage import absolute


class Recorder:
    """Records one run's steps.

    The calling thread explains and hands over a frozen record. One thread measures it, writes it to the archive and
    draws it. Another calls the thread-safe sinks, and :meth:`settle` calls the others on the calling thread.

    Args:
        reporter: Measures and draws.
        archive: Stores the records; ``None``: nothing is written (``fast_dev_run``).
        sinks: Destinations for images and numbers.
        worker: Creates the two background workers.
        failures: Reports failures, and decides what is disabled.

    Example::

        recorder = Recorder.start(monitor, probes, found, reporter=CamReporter, to=Destination("runs/1"), ...)
        for epoch in range(10):
            train(model)
            recorder.log(Subject.of(model, probes), epoch=epoch, step=100 * (epoch + 1))
        recorder.close()
    """

    def __init__(
        self,
        reporter: Reporter,
        archive: ArchiveWriter | None,
        sinks: Sequence[Sink],
        worker: Callable[..., Worker],
        failures: Failures,
    ) -> None:
        self.monitor: Monitor = reporter.monitor
        self.probes = reporter.probes
        self.last_step = -1
        # Why the archive is not in the folder named after the monitor, as a note for the user; empty if it is.
        self.aside = ""
        self._archive = archive
        self._failures = failures
        self._threads = Threads(worker, self._stalled)
        self._delivery = Delivery(sinks, failures, self._threads.serving)
        self._processor = Processor(reporter, archive, self._delivery, self._threads.recording)
        # The latest step, and the seconds that training has waited for it, until its metrics are known.
        self._held: tuple[Step, float] | None = None
        self._stage = ""
        self._handed, self._concluded = 0, -1
        self._process = os.getpid()

    @classmethod
    def start(
        cls,
        monitor: Monitor,
        probes: ProbeSet,
        found: Any,
        *,
        reporter: Callable[[Any, ProbeSet], Reporter],
        to: Destination,
        worker: Callable[..., Worker],
        failures: Failures,
    ) -> Recorder:
        """Opens the archive and the sinks of a run.

        Args:
            monitor: What is observed.
            probes: The run's probes.
            found: The monitor's results for the probes, from which the layers' names and shapes are read.
            reporter: Creates the object that measures and draws.
            to: The destination of the results.
            worker: Creates a background worker.
            failures: Reports failures.

        Raises:
            ArchiveError: The folder can't be written to.
        """
        monitor = monitor.of(probes)
        archive, aside, sinks = to.opened(monitor, probes, found)
        recorder = cls(reporter(monitor.pinned(found), probes), archive, sinks, worker, failures)
        recorder.aside = aside
        recorder._recall(to.parent if to.copy_steps else None)
        return recorder

    @property
    def archive(self) -> Archive | None:
        """The archive, for reading; waits until every step that was handed over is written."""
        if self._archive is None:
            return None
        if not self._threads.recording.here:
            # A sink may call this during training, but only the training thread may release a held step.
            if not self._threads.serving.here:
                self.release()
            self._threads.recorded()
        return self._archive.reader()

    @property
    def place(self) -> str:
        """The archive's folder; empty if there is none."""
        return "" if self._archive is None else absolute(self._archive.path)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The run's findings, most severe first; empty until it is over and everything is written."""
        return self._processor.findings

    def state(self) -> dict[str, Any]:
        """Returns the record's state for a checkpoint, up to the last step handed over, in plain types.

        Does not wait: if the process is killed before that step is written, a resumed run reports it missing.
        """
        state: dict[str, Any] = {"archive": self.place, "step": self.last_step}
        if self._archive is not None:
            state["run"] = self._archive.manifest.run
            if self._processor.earlier is not None:
                state["logged"] = self._processor.earlier + self._handed
        return state

    def log(self, subject: Subject, *, epoch: int, step: int, stage: str = "fit", hold: bool = False) -> float:
        """Explains a model, and schedules recording, drawing and logging of the result.

        Args:
            subject: The model.
            epoch: The epoch, counted from 0.
            step: The x value.
            stage: ``"fit"``, ``"validate"`` or ``"test"``.
            hold: Record it only at :meth:`release`, which receives this step's metrics, or before the next request.

        Returns:
            Seconds that the caller has waited for this step so far.
        """
        began = time.perf_counter()
        found = subject.seen(self.monitor, self.probes)
        return self.hand_over(found, epoch=epoch, step=step, stage=stage, began=began, hold=hold)

    def hand_over(self, found: Any, *, epoch: int, step: int, stage: str, began: float, hold: bool = False) -> float:
        """Copies the results to the CPU, and schedules recording, drawing and logging; returns the same as :meth:`log`.

        Args:
            found: The monitor's results.
            epoch: The epoch, counted from 0.
            step: The x value.
            stage: As in :meth:`log`.
            began: When explaining began, as ``time.perf_counter()``.
            hold: As in :meth:`log`.
        """
        self.release()
        record = self.monitor.record(found, self.probes, epoch=epoch, step=step, stage=stage)
        self.last_step, self._stage = step, stage
        self._handed += 1
        self._delivery.begin()
        blocked = self._threads.blocked_before() + time.perf_counter() - began
        self._held = Step(record), blocked
        if not hold:
            self.release()
        return blocked

    @property
    def holds(self) -> bool:
        """Whether a step waits for :meth:`release`."""
        return self._held is not None

    def measured(self) -> tuple[Measured, float]:
        """Waits for the held step's numbers; returns them, and the seconds that training has waited for the step."""
        if self._held is None:
            return Measured(), 0.0
        began, (step, blocked) = time.perf_counter(), self._held
        found = self._threads.answer(f"measuring step {self.last_step}", partial(self._processor.measure, step))
        self._held = step, blocked + time.perf_counter() - began
        return found or Measured(), self._held[1]

    def release(self, metrics: Mapping[str, float] | None = None) -> None:
        """Schedules recording, drawing and logging of the step that :meth:`log` holds, if there is one.

        Args:
            metrics: The trainer's metrics at this step.
        """
        if self._held is None:
            return
        (step, blocked), self._held = self._held, None
        keep, show = self._processor.step(step, blocked, metrics)
        self._threads.hand_over(f"step {self.last_step}", keep, show, step.record.nbytes)

    def settle(self, *, final: bool = False) -> None:
        """Calls the sinks that require this thread, and reports failures; see :meth:`Delivery.settle`."""
        if self._is_forked:
            return
        self.release()
        with self._threads.blocking():
            for name, error in self._threads.failed():
                self._delivery.note(f"{WORKER}, at {name}", self.last_step, reportable(error))
            self._delivery.settle(final=final)

    def check(self, found: Any = None) -> None:
        """Rejects a change after which new steps do not match those recorded so far.

        Args:
            found: The monitor's current results, if there are any.

        Raises:
            TakenError: Layers or their sizes changed, or the archive no longer belongs to this run.
        """
        if self._archive is None:
            return
        if found is not None:
            self._archive.check(self.monitor.manifest(self.probes, found, self._archive.manifest.run))
        self._archive.reclaim()

    def discard(self) -> None:
        """Deletes the archive, so that a new one can start in its folder; call it on a closed recorder."""
        if self._archive is not None:
            self._archive.discard()

    def rewind(self, step: int) -> None:
        """Forgets the steps after ``step``, because training continues from an earlier checkpoint of this run.

        Raises:
            Exception: Later steps could not be deleted, so new steps would be mixed with them.
        """
        self.release()
        self.last_step = min(self.last_step, step)
        self._handed, self._concluded = 0, -1
        failed: list[Exception] = []

        def rewind() -> None:
            try:
                self._processor.rewind(step)
            except Exception as error:
                failed.append(error)

        self._threads.submit("the archive", rewind)
        self._threads.recorded()
        if failed:
            raise failed[0]

    def conclude(self) -> None:
        """Schedules the drawing of the whole run, once, if it was a training run."""
        unneeded = self._concluded == self.last_step or self._is_forked or not self.monitor.evolution
        if self._archive is None or self._stage != "fit" or unneeded:
            return
        self.release()
        self._concluded = self.last_step
        end, what = partial(self._processor.end, self._threads.submit, self.last_step), "the end of the run"
        self._threads.submit(what, partial(self._delivery.attempt, what, self.last_step, end))

    def wait(self) -> None:
        """Waits until all background writing is finished."""
        self.release()
        self._threads.finish()

    def finish(self) -> None:
        """Waits until everything is written; failures are raised or reported."""
        self.wait()
        self.settle()

    def close(self) -> None:
        """Waits until everything is written, and closes the sinks once; failures are reported, not raised."""
        if self._is_forked:
            return
        self.release()
        self.conclude()
        self._threads.close()
        self.settle(final=True)
        self._delivery.close(self.last_step)
        if self._archive is not None:
            self._archive.release()

    @property
    def _is_forked(self) -> bool:
        """Whether this is a forked child of the run's process, with copies of the sinks; it owns nothing."""
        return self._process != os.getpid()

    def _recall(self, parent: Mapping[str, Any] | None) -> None:
        if self._archive is None:
            return
        self.last_step = int(parent["step"]) if parent is not None else max(self._archive.steps, default=-1)
        self._threads.submit("the earlier steps", partial(self._processor.recall, parent, self.last_step))

    def _stalled(self, error: StalledError) -> None:
        self._delivery.note(WORKER, self.last_step, error)
