"""Decides when a run starts and when it explains. The callback owns the hooks and their conditions."""

from __future__ import annotations

import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import nn

from lightning_gradcam.callbacks.ending import Recorded, never_started
from lightning_gradcam.callbacks.host import Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.callbacks.options import RunOptions
from lightning_gradcam.callbacks.passed_on import PassedOn
from lightning_gradcam.callbacks.recording import Recording
from lightning_gradcam.callbacks.resume_state import SCHEMA, flaw
from lightning_gradcam.callbacks.steering import Steering, without_published
from lightning_gradcam.callbacks.weights import ValidatedWeights
from lightning_gradcam.errors import LightningGradCAMError
from lightning_gradcam.guard.model import uninitialized
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.pipeline.schedule import Schedule
from lightning_gradcam.probes.paths import any_picture
from lightning_gradcam.probes.streaming import Passing

EXPLAINING, TAKING, METRICS = "explaining", "taking probes", "reading the trainer's metrics"


class Run:
    """The state shared by one trainer's ``fit``, ``validate`` and ``test`` with one module.

    Args:
        options: The callback's options.
        find_log_dir: Returns the folder for archives; called when a recorder is opened.
        module: The model to explain.
        log_dir: The folder for archives, if known.
    """

    def __init__(
        self,
        options: RunOptions,
        find_log_dir: Callable[[Host], str | None],
        module: nn.Module | None = None,
        log_dir: str | None = None,
    ) -> None:
        self._module = None if module is None else weakref.ref(module)
        # Whether this run continues another callback's run, once there is something to record.
        self._successor = False
        self.waiting = self.fitted = False
        self._resumed: dict[str, Any] = {}
        self._schedule = Schedule(options.every_n_epochs, options.every_n_validations, options.max_overhead)
        if options.forward_fn is not None and options.probes.input_key is None:
            # It receives the whole batch, so it matters less on which entry the maps are drawn.
            options = replace(options, probes=replace(options.probes, input_key=any_picture))
        self._options = options
        self._failures = Failures(options.on_error, rank_zero_warn)
        self.steering = Steering(options.steering, options.monitor.name, self._failures, lambda: self.log_dir)
        self._recording = Recording(options, find_log_dir, log_dir, self._failures, self.steering)
        self._probing = self._recording.probing
        self._passed_on, self.weights = PassedOn(options), ValidatedWeights()
        self._lazy: list[str] = []
        # Whether a stage has started and has not ended.
        self.running = False
        # Whether there is a record that the run's final lines have not named yet.
        self._unsaid = self._early = self._told = False

    @property
    def recorder(self) -> Recorder | None:
        """The run's recorder; ``None`` until there are probes."""
        return self._recording.recorder

    @property
    def log_dir(self) -> str | None:
        """The folder for archives, if known."""
        return self._recording.log_dir

    def start_or_wait(self, host: Host) -> None:
        """Starts once all weights (of lazy modules) and inputs (from data that can't be indexed) exist.

        Raises:
            ConfigurationError: The options do not fit the model or the data.
        """
        self._passed_on.settle()
        waited = self.waiting
        self.running = True
        if self.recorder is not None and host.fitting and not self.fitted:
            # A training run's record does not include those of `validate` or `test`: the probes may differ.
            self._recording.drop(discard=True)
            self.steering.resume(self._resumed)
        elif self.recorder is not None and self._successor and (host.fitting or not self.fitted):
            # Continue with this callback's options and sinks, as if resumed from a checkpoint saved now.
            now = self.state(self.recorder)
            if not self._resumed and self.recorder.place:
                self.resume(now)
            elif self._resumed and self._resumed["run"] != now["run"]:
                self._recording.id = uuid.uuid4().hex
            self._recording.drop()
            self._successor = False
        if waited and self._probing.streams and host.fitting and host.validates:
            return  # until the end of the validation that provides the probes
        if not waited:
            self._recording.join(host)
            self._probing.look(host, self._resumed, needed=self.recorder is None)
        if not waited or self._lazy:
            self._lazy = uninitialized(host.module)
        streams = bool(self._probing.streams)
        self.waiting = bool(self._lazy) or (streams and not self._probing.passing.complete)
        if not self.waiting and waited and streams and host.fitting:
            self.waiting = True
            self._start_late(host, host.step)
        elif not self.waiting:
            self._start(host, untrained=not waited)
        elif not waited:
            # The sanity check uses the first batches, like the first validation.
            self._probing.passing = Passing(self._options.probes)
            self._probing.say_that_it_waits(host, self._lazy, baseline=self._options.log_untrained)

    def meet(self, host: Host, batch: Any, place: int = 0) -> None:
        """Collects samples from a batch if probes are needed and can't be read by index."""
        self._passed_on.watch(host, batch, place)
        if place or self.recorder is not None or not (self.waiting or host.checking) or self._failures.given_up(TAKING):
            return
        if self._probing.streams is None:
            self._probing.look(host, self._resumed, needed=self.recorder is None)
        if self._probing.streams:
            try:
                self._probing.passing.take(batch)
            except Exception as error:  # a batch of an unknown kind may raise anything
                if isinstance(error, LightningGradCAMError) and not self.waiting:
                    raise
                self._failures.failed(TAKING, host.step, error)

    def ending(self, host: Host) -> None:
        """Called after a validation's last batch, while its weights are still in place."""
        self._early = True
        self.ended(host, host.step)

    def validated(self, host: Host, *, averaged: bool) -> bool:
        """Called when a validation has ended; returns whether it was explained now.

        Args:
            host: The trainer.
            averaged: Whether the validation used averaged weights, which have since been swapped out.
        """
        early, self._early = self._early, False
        if averaged and early:
            return False
        if averaged and not self._told:
            self._told = True
            rank_zero_warn(
                "lightning-gradcam: the weights of the last training step are explained, not the averaged ones that "
                "were validated: with validation_step(dataloader_iter), the last batch can't be detected. List this "
                "callback before WeightAveraging"
            )
        return self.ended(host, host.step)

    def ended(self, host: Host, step: int) -> bool:
        """Explains at ``step`` if this validation, or this epoch without one, is due; returns whether it was."""
        self._passed_on.settle()
        if self.waiting and len(self._probing.passing) and not uninitialized(host.module):
            self._start_late(host, step)
        wanted = self._recording.ranks.as_first(self._is_wanted(host, step))
        if wanted:
            self._log(host, step)
        return wanted

    def trained(self, host: Host) -> None:
        """Called when a training epoch has ended: explains if there is no validation."""
        if not host.validates:
            if host.explains:
                self.ended(host, host.step - 1)
            self.steering.publish(host)
            self.steering.act(host)

    def measured(self, host: Host) -> None:
        """Called when Lightning has computed the metrics of the last explained step: records the step with them."""
        if self.recorder is not None and self.recorder.holds:
            found: dict[str, float] = {}
            if host.trainer.is_global_zero:
                with self._failures.contained(METRICS, step=self.recorder.last_step):
                    found = without_published(host.trainer, host.metrics())
            self.recorder.release(found)
            self.recorder.settle()
        self.steering.act(host)

    def looks_at(self, module: nn.Module) -> bool:
        """Whether this run belongs to the module."""
        return self._module is not None and self._module() is module

    def succeed(self, earlier: Run) -> None:
        """Continues the run of another callback, which this run's callback has replaced in the Trainer."""
        self._recording.log_dir = earlier.log_dir
        if earlier.recorder is not None:
            self._recording.take_over(earlier._recording)
            self.fitted, self._successor = earlier.fitted, True
            self._schedule.resume(earlier._schedule.state())
            self.steering.resume(earlier.steering.state())
        if self.fitted:
            self._module = earlier._module

    def check(self, host: Host) -> None:
        """Checks the maps if requested; a failure is only reported."""
        if self._options.check and host.explains:
            self._recording.check(host)

    def close(self) -> None:
        """Waits until everything is written, and closes the sinks."""
        self._passed_on.settle()
        self.running = False
        self.steering.release()
        if self.recorder is not None:
            self.recorder.close()
        self._recording.ranks.close()

    def recorded(self, host: Host) -> Recorded | None:
        """Returns a finished run's record, once for each recorded ``fit``, ``validate`` or ``test``."""
        recorder, self._unsaid = self.recorder if self._unsaid else None, False
        archive = None if recorder is None else recorder.archive
        with suppress(OSError):
            if recorder is not None and archive is not None and (host.fitting or not self.fitted) and archive.steps:
                return archive, self._options.monitor.layers == "auto", recorder.findings
        return None

    def report(self, host: Host) -> None:
        """Warns if nothing was recorded, with the reason."""
        if self.waiting:
            rank_zero_warn(f"lightning-gradcam: nothing was logged: {never_started(uninitialized(host.module))}")
        if host.fitting:
            self._recording.report()

    def state(self, recorder: Recorder) -> dict[str, Any]:
        """Returns the state for a checkpoint, in plain types."""
        indices = recorder.probes.indices
        return {
            "schema": SCHEMA,
            "indices": None if indices is None else list(indices),
            "fingerprint": recorder.probes.fingerprint,
            "run": self._recording.id,
            **self._probing.state(),
            **recorder.state(),
            **self._schedule.state(),
            **self.steering.state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Adopts a checkpoint's state when the run starts; a state that can't be used is reported and ignored."""
        if (why := flaw(state)) is not None:
            rank_zero_warn(
                f"lightning-gradcam: the checkpoint's state of this callback can't be used ({why}); training"
                " continues with new probes and a new record; to continue the earlier ones, resume from another"
                " checkpoint"
            )
            return
        self._resumed = dict(state)
        self._schedule.resume(state)
        self.steering.resume(state)

    def _start_late(self, host: Host, step: int) -> None:
        """Starts during training; ``on_error`` decides whether a configuration that does not fit stops it."""
        if not self._failures.given_up(EXPLAINING):
            with self._failures.contained(EXPLAINING, step=step):
                self._start(host, untrained=False)

    def _start(self, host: Host, *, untrained: bool) -> None:
        resumed, self._resumed = self._resumed, {}
        looking = self.fitted and not host.fitting
        self.fitted = self.fitted or host.fitting
        self._unsaid = host.fitting
        self.waiting = not self._recording.start(host, resumed, looking=looking, untrained=untrained)
        if self.waiting:
            self._probing.say_that_it_waits(host, self._lazy, baseline=self._options.log_untrained)

    def _is_wanted(self, host: Host, step: int) -> bool:
        if host.fitting and not self._schedule.due(host.epoch, time.monotonic()):
            return False
        if self.recorder is None or self._failures.given_up(EXPLAINING) or (self.fitted and not host.fitting):
            return False
        if not host.fitting and self.recorder.last_step == step:
            rank_zero_info(f"lightning-gradcam: step {step} is in the archive already and is not logged again")
            return False
        return True

    def _log(self, host: Host, step: int) -> None:
        drawn = self._probing.drawn
        if self.recorder is None or drawn is None:
            return
        with self._failures.contained(EXPLAINING, step=step):
            subject = self._recording.feeding(host, drawn).subject("explaining")
            blocked = self.recorder.log(subject, epoch=host.epoch, step=step, stage=host.stage, hold=True)
            self._unsaid = True
            blocked = self.steering.take(self.recorder, blocked)
            if remark := self._schedule.spent(blocked):
                rank_zero_info(f"lightning-gradcam: {remark}")
        if not self.recorder.holds:
            self.recorder.settle()
