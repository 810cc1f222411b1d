"""Opens, continues or replaces a run's recorder; the run decides when."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lightning_gradcam.archive import TakenError
from lightning_gradcam.callbacks.ending import check_at_end, missing, spoken
from lightning_gradcam.callbacks.feeding import Feeding
from lightning_gradcam.callbacks.host import Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.callbacks.options import RunOptions
from lightning_gradcam.callbacks.probing import Probing
from lightning_gradcam.callbacks.ranks import Ranks
from lightning_gradcam.callbacks.steering import Steering
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, LostRankError
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.pipeline.destination import Destination
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.probes.dataset import Drawn
from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH
from lightning_gradcam.targets.labels import LabelError

# The action that all ranks perform here, for errors.
_WRITING = "the archive"
_CHECKING = "the check of the maps"


@dataclass(eq=False)
class Recording:
    """A run's recorder, with its probes and the ranks that explain them.

    Args:
        _options: The callback's options.
        _find_log_dir: Returns the folder for archives; called when a recorder is opened.
        log_dir: The folder for archives, if known.
        _failures: Reports failures.
        _steering: Receives the numbers that a recorder will have.

    Attributes:
        recorder: ``None`` until it is opened.
        probing: Selects the probes.
        ranks: The ranks that explain together.
        id: The run's id, stored in its archive and checkpoints.
    """

    _options: RunOptions
    _find_log_dir: Callable[[Host], str | None]
    log_dir: str | None
    _failures: Failures
    _steering: Steering

    def __post_init__(self) -> None:
        self.recorder: Recorder | None = None
        self.probing = Probing(self._options.probes)
        self.ranks = Ranks(together=False)
        self.id = uuid.uuid4().hex
        # Why an existing record is not continued.
        self._why = ""

    def join(self, host: Host) -> None:
        """Makes ranks that explain together agree on each action from now on."""
        self.ranks.close()
        self.ranks = Ranks(together=host.shards)

    def take_over(self, earlier: Recording) -> None:
        """Continues the recorder of another callback's run."""
        self.recorder, self.id = earlier.recorder, earlier.id
        self.probing.drawn = earlier.probing.drawn

    def drop(self, *, discard: bool = False) -> None:
        """Closes the recorder and forgets it and its probes.

        Args:
            discard: Also delete its record.
        """
        if self.recorder is not None:
            self.recorder.close()
            if discard:
                self.recorder.discard()
        self.recorder = None
        self.probing.begin_anew()

    def start(self, host: Host, resumed: dict[str, Any], *, looking: bool, untrained: bool) -> bool:
        """Opens a recorder if none can be continued; returns ``False`` if the probes must come from the first batches.

        Args:
            host: The trainer.
            resumed: The checkpoint's state; empty without a checkpoint.
            looking: Whether this is ``validate`` or ``test`` after training, whose record they leave unchanged.
            untrained: Whether training has not begun, so a baseline may be logged.

        Raises:
            ConfigurationError: The options do not fit the model or the data.
        """
        if self.recorder is not None and self.probing.drawn is not None:
            if looking or self._goes_on(host, self.recorder, self.probing.drawn, resumed):
                return True
            self.recorder.close()
            self.id = uuid.uuid4().hex
        return self._open(host, resumed, baseline=self._options.log_untrained and untrained)

    def feeding(self, host: Host, drawn: Drawn) -> Feeding:
        """Returns the object that feeds the probes to the module."""
        return Feeding(host, drawn, self.ranks, self._options)

    def check(self, host: Host) -> None:
        """Checks the maps if the run records CAMs; a failure is only reported."""
        recorder, drawn = self.recorder, self.probing.drawn
        if recorder is None or drawn is None or not isinstance(recorder.monitor, CamMonitor):
            return
        try:
            for line in spoken(check_at_end(self.feeding(host, drawn), recorder.monitor), recorder.archive):
                rank_zero_info(f"lightning-gradcam: {line}")
        except Exception as error:  # a model may raise anything for changed images
            self._failures.failed(_CHECKING, host.step, error, final=True)

    def report(self) -> None:
        """Warns if nothing was recorded, with the reason."""
        archive = None if self.recorder is None else self.recorder.archive
        if self.recorder is not None and archive is not None:
            options = self._options
            schedule = f"every_n_epochs={options.every_n_epochs}, every_n_validations={options.every_n_validations}"
            if nothing := missing(archive, explained=self.recorder.last_step >= 0, schedule=schedule):
                rank_zero_warn(f"lightning-gradcam: {nothing}")

    def _goes_on(self, host: Host, recorder: Recorder, drawn: Drawn, resumed: dict[str, Any]) -> bool:
        """Whether the record continues; otherwise a new one starts with its probes or the checkpoint's."""
        try:
            found = self.feeding(host, drawn).tried(trial=True) if host.fitting else None
        except LostRankError:
            raise
        except LightningGradCAMError as error:
            # The module and its data were changed between two calls of `fit`, such as to larger images.
            why = str(error).split(";")[0]
            self._why = f"the probes of {recorder.place!r} no longer fit the model ({why:.200}), so new ones are drawn"
            self.probing.begin_anew()
            return False
        same = resumed.get("run") == recorder.state().get("run", self.id)
        self._why = ""
        with self.ranks.together(_WRITING):
            if resumed and not same:
                self._why, self.probing.drawn = "the checkpoint belongs to another run", None
            elif not resumed and host.fitting and host.step < recorder.last_step:
                # A loop over folds that resets one module, or a checkpoint without this callback.
                self._why = f"training restarts at step {host.step}, and {recorder.place!r} has later steps"
            else:
                try:
                    recorder.check(found)
                except TakenError as error:
                    self._why = error.remark
        if not self.ranks.as_first(not self._why):
            return False
        with self.ranks.together(_WRITING):
            if same:
                recorder.rewind(resumed["step"])
        return True

    def _tried(self, host: Host, drawn: Drawn, *, trial: bool) -> tuple[Drawn, Any]:
        """Tries the configuration; returns the monitor's results, and the probes without labels that mark no class."""
        try:
            return drawn, self.feeding(host, drawn).tried(trial=trial)
        except LabelError as error:
            drawn, remark = self.probing.unmarked(drawn, error)
        found = self.feeding(host, drawn).tried(trial=trial)
        rank_zero_warn(f"lightning-gradcam: {remark}")
        return drawn, found

    def _open(self, host: Host, resumed: dict[str, Any], *, baseline: bool) -> bool:
        drawn, warning = self.probing.take(host, resumed, self.ranks)
        baseline = baseline and host.fitting and host.untrained
        try:
            drawn, found = self._tried(host, drawn, trial=not baseline)
        except ConfigurationError as error:
            # The model may need more of a batch than an archive stores.
            if not drawn.rebuilt:
                raise
            new = self.probing.replaced(host, self.ranks, str(error).split(";")[0])
            if new is None:
                return False
            drawn, found = self._tried(host, new, trial=not baseline)
        drawn = self.probing.drawn = replace(drawn, probes=drawn.probes.read_as(getattr(found, "axes", "")))
        # The other ranks only compute; rank zero records and draws.
        first = host.trainer.is_global_zero
        with self.ranks.together(_WRITING):
            if self._steering.active:
                monitor = self.feeding(host, drawn).looks.of(drawn.probes).pinned(found)
                record = monitor.record(found, drawn.probes, epoch=UNTRAINED_EPOCH, step=host.step, stage=host.stage)
                self._steering.know(host, self._options.reporter(monitor, drawn.probes).tags(record))
            self.log_dir = self._find_log_dir(host) if first else None
            self.recorder = Recorder.start(
                self.feeding(host, drawn).looks,
                drawn.probes,
                found,
                reporter=self._options.reporter,
                to=Destination(
                    folder=self.log_dir,
                    loggers=host.loggers if first else [],
                    sinks=self._options.sinks if first else [],
                    run=self.id,
                    resumed=resumed if first else {},
                    copy_steps=host.fitting,
                ),
                worker=partial(Worker, background=self._options.background),
                failures=self._failures,
            )
        for remark in self.probing.remarks(found):
            rank_zero_info(f"lightning-gradcam: {remark}")
        if (why := self._why or self.recorder.aside) and first:
            rank_zero_info(f"lightning-gradcam: {why}; this record goes to {self.recorder.place}")
        self._why = ""
        moved = self.feeding(host, drawn).moved() if isinstance(self._options.monitor, CamMonitor) else None
        for text in (warning, moved):
            if text is not None:
                rank_zero_warn(f"lightning-gradcam: {text}")
        if baseline:
            began = time.perf_counter()
            self.recorder.hand_over(found, epoch=UNTRAINED_EPOCH, step=host.step, stage="fit", began=began)
            self.recorder.settle()
        return True
