"""One run: its probes, its recorder, and what is explained when; hooks and their gates are the callback's."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.callbacks.host import Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.callbacks.ranks import Ranks, alone
from lightning_gradcam.callbacks.resume_state import SCHEMA, flaw
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.compute.search import TRIED
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, LostRankError, ProbeError
from lightning_gradcam.guard.model import uninitialized
from lightning_gradcam.monitors.base import Monitor, Reporter
from lightning_gradcam.pipeline.failures import Failures, OnError
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.pipeline.schedule import Schedule
from lightning_gradcam.pipeline.subject import Destination, Subject
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.batches import part_of
from lightning_gradcam.probes.dataset import Drawn, input_of
from lightning_gradcam.probes.paths import fed, inputs_in
from lightning_gradcam.probes.source import ProbeOptions, obtain_probes
from lightning_gradcam.probes.wrapped import has_indices
from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH
from lightning_gradcam.sinks import Sink

EXPLAINING, TAKING = "explaining", "taking probes"


@dataclass(frozen=True)
class RunOptions:
    """A callback's options, checked.

    Attributes:
        monitor: What is looked at.
        reporter: Measures and draws its steps.
        probes: Of which inputs.
        forward_fn: Instead of the module's ``forward``.
        every_n_epochs: The schedule.
        every_n_validations: Another one.
        max_overhead: The largest share of the time.
        log_untrained: Log a baseline before the first step.
        background: Draw, write and log in background threads.
        on_error: What a failure of ours does.
        sinks: The user's own.
    """

    monitor: Monitor
    reporter: Callable[[Any, ProbeSet], Reporter]
    probes: ProbeOptions
    forward_fn: Callable[..., Any] | None
    every_n_epochs: int
    every_n_validations: int | None
    max_overhead: float | None
    log_untrained: bool
    background: bool
    on_error: OnError
    sinks: Sequence[Sink]


class Run:
    """What one trainer's ``fit``, ``validate`` and ``test`` have in common.

    Args:
        options: The callback's.
        find_log_dir: Returns the folder that archives stand in; called when the first recorder is opened.
    """

    def __init__(self, options: RunOptions, find_log_dir: Callable[[Host], str | None]) -> None:
        self.recorder: Recorder | None = None
        self.log_dir: str | None = None
        self.waiting = False
        self._resumed: dict[str, Any] = {}
        self._schedule = Schedule(options.every_n_epochs, options.every_n_validations, options.max_overhead)
        self._options = options
        self._find_log_dir = find_log_dir
        self._drawn: Drawn | None = None
        self._passing = options.probes.passing()
        self._streams: bool | None = None
        self._lazy: list[str] = []
        self._id = uuid.uuid4().hex
        self._failures = Failures(options.on_error, rank_zero_warn)
        self._fitted = False
        self._early = self._told = False
        self._ranks = Ranks(together=False)

    def start_or_wait(self, host: Host) -> None:
        """Starts as soon as the model is whole and there are inputs: both may have to be the training's own.

        A lazy module's first forward, and data that can't be indexed.

        Raises:
            ConfigurationError: What is asked for does not fit the model or the data.
        """
        waited = self.waiting
        if self.recorder is not None and host.fitting and not self._fitted:
            # What `validate` or `test` has left is no part of a training's record: its probes may be other ones.
            self.recorder.close()
            self.recorder.discard()
            self.recorder, self._passing = None, self._options.probes.passing()
        if waited and self._streams and host.fitting and host.validates:
            # The end of the validation that the probes come from is soon enough.
            return
        if not waited:
            self._join(host)
            self._streams = self._needs_stream(host)
        if not waited or self._lazy:
            self._lazy = uninitialized(host.module)
        self.waiting = bool(self._lazy) or (bool(self._streams) and not self._passing.complete)
        if not self.waiting and waited and self._streams and host.fitting:
            self.waiting = True
            self._start_late(host, host.step)
        elif not self.waiting:
            self._start(host, untrained=not waited)
        elif not waited:
            # The sanity check takes its batches from the beginning, as the first validation does.
            self._passing = self._options.probes.passing()
            self._say_that_it_waits(host)

    def meet(self, host: Host, batch: Any) -> None:
        """Takes samples of a batch that passes by, where probes are needed and can't be had by index."""
        if self.recorder is not None or not (self.waiting or host.checking) or self._failures.given_up(TAKING):
            return
        if self._streams is None:
            self._streams = self._needs_stream(host)
        if self._streams:
            try:
                self._passing.take(batch)
            except LightningGradCAMError as error:
                if not self.waiting:
                    raise
                self._failures.failed(TAKING, host.step, error)
            except Exception as error:  # whatever a batch of an unknown kind raises
                self._failures.failed(TAKING, host.step, error)

    def ending(self, host: Host) -> None:
        """The last batch of a validation has been seen, and its weights are still there."""
        self._early = True
        self.ended(host, host.step)

    def validated(self, host: Host, *, averaged: bool) -> None:
        """A validation has ended.

        Args:
            host: The trainer.
            averaged: It was that of averaged weights, which have been taken away again.
        """
        early, self._early = self._early, False
        if averaged and early:
            return
        if averaged and not self._told:
            self._told = True
            rank_zero_warn(
                "lightning-gradcam: the weights of the last training step are explained, not the averaged ones that"
                " were validated: a validation_step(dataloader_iter) does not show which batch is the last; list"
                " this callback before WeightAveraging"
            )
        self.ended(host, host.step)

    def ended(self, host: Host, step: int) -> None:
        """A validation, or what stands for it, has ended: explains if it is due, at ``step``."""
        if self.waiting and len(self._passing) and not uninitialized(host.module):
            self._start_late(host, step)
        if self._ranks.as_first(self._is_wanted(host, step)):
            self._log(host, step)

    def settle(self) -> None:
        """Hands finished pictures to the loggers that can't be served in the background."""
        if self.recorder is not None:
            self.recorder.settle()

    def finish(self) -> None:
        """Waits until everything is written."""
        if self.recorder is not None:
            self.recorder.finish()

    def conclude(self) -> None:
        """Training has ended: has the whole run drawn, and waits until everything is written."""
        if self.recorder is not None:
            self.recorder.conclude()
            self.recorder.finish()

    def close(self) -> None:
        """Waits until everything is written, and closes the sinks."""
        if self.recorder is not None:
            self.recorder.close()
        self._ranks.close()

    def report(self, host: Host) -> None:
        """Says where the archive is, or why there is none."""
        if self.waiting:
            why = "no validation batch came by to take probes from"
            if lazy := uninitialized(host.module):
                why = (
                    f"{', '.join(lazy)} never ran, so that the model is not whole; remove them, or call them in its"
                    " forward()"
                )
            rank_zero_warn(f"lightning-gradcam: nothing was logged: {why}")
        archive = self.recorder.archive if self.recorder is not None else None
        if archive is None or not host.fitting:
            return
        try:
            steps = archive.steps
        except OSError as error:
            rank_zero_warn(f"lightning-gradcam: the archive {archive.path} can't be listed ({error})")
            return
        if steps:
            rank_zero_info(f"lightning-gradcam: maps of {len(steps)} steps are in {archive.path}")
        elif self.recorder is not None and self.recorder.last_step >= 0:
            rank_zero_warn(f"lightning-gradcam: no maps are in {archive.path}; the warnings above say why")
        else:
            options = self._options
            rank_zero_warn(
                "lightning-gradcam: nothing was logged: no validation was due (every_n_epochs="
                f"{options.every_n_epochs}, every_n_validations={options.every_n_validations}); lower these"
            )

    def state(self, recorder: Recorder) -> dict[str, Any]:
        """Returns what a checkpoint keeps, in plain types."""
        indices = recorder.probes.indices
        return {
            "schema": SCHEMA,
            "indices": None if indices is None else list(indices),
            "fingerprint": recorder.probes.fingerprint,
            "run": self._id,
            "transferred": self._drawn is not None and self._drawn.transferred,
            **recorder.state(),
            **self._schedule.state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes a checkpoint's state over when the run starts; what can't be used is said, and stops nobody."""
        if (why := flaw(state)) is not None:
            rank_zero_warn(
                f"lightning-gradcam: the checkpoint's state of this callback can't be used ({why}); training goes on"
                " with new probes and a record that begins here; resume from another checkpoint to go on with the"
                " earlier ones"
            )
            return
        self._resumed = dict(state)
        self._schedule.resume(state)

    def _join(self, host: Host) -> None:
        """Where all ranks explain together, they agree on every step of it from here on."""
        self._ranks.close()
        self._ranks = Ranks(together=host.shards)

    def _needs_stream(self, host: Host) -> bool:
        """Whether probes can only be had from batches that pass by."""
        if self.recorder is not None or self._options.probes.given is not None:
            return False
        if self._resumed.get("transferred"):
            try:
                _ = Archive.open(self._resumed["archive"]).probes
                return False
            except LightningGradCAMError as error:
                self._resumed = {}
                rank_zero_warn(
                    f"lightning-gradcam: the probes are in an archive that can't be read ({error}); new ones are taken,"
                    " maps can't be compared"
                )
        elif self._resumed:
            return False
        try:
            streams = not has_indices(getattr(host.probe_loader(), "dataset", None))
        except ProbeError:
            streams = True
        if streams and host.shards:
            raise ProbeError(
                "probes: the data can't be indexed, and each rank sees other samples of it, while all have to explain"
                " the same; give probes=ProbeSet(...), a saved probe set, or a folder of pictures"
            )
        return streams

    def _say_that_it_waits(self, host: Host) -> None:
        lazy = self._lazy
        if lazy:
            what = f"{', '.join(lazy)} get their parameters in the first forward"
        else:
            what = "the data can't be indexed, and the probes are its first samples (give probes= for chosen ones)"
        rank_zero_info(
            f"lightning-gradcam: {what}; the configuration is tried after that and not before training begins"
        )
        if host.fitting and self._options.log_untrained and host.untrained:
            instead = (
                "the weights are there only after the first training batch; run one batch through the model before"
                " trainer.fit, or let Lightning's sanity check do it (num_sanity_val_steps)"
                if lazy
                else "there are no probes yet; give probes=, or let Lightning's sanity check see as many samples"
                " (num_sanity_val_steps)"
            )
            rank_zero_warn(f"lightning-gradcam: log_untrained=True: there is no baseline, because {instead}")

    def _start_late(self, host: Host, step: int) -> None:
        """Starts while training is under way: what does not fit now is reported, and does not stop it."""
        if not self._failures.given_up(EXPLAINING):
            with self._failures.contained(EXPLAINING, step=step):
                self._start(host, untrained=False)
                self.waiting = False

    def _start(self, host: Host, *, untrained: bool) -> None:
        resumed, self._resumed = self._resumed, {}
        self._fitted = self._fitted or host.fitting
        if self.recorder is None or self._drawn is None:
            self._open(host, resumed, untrained=untrained)
        elif host.fitting:
            found = self._try(host, self._drawn, trial=True)
            with self._ranks.together("the archive"):
                self.recorder.check(found)
                if resumed and resumed["run"] == self.state(self.recorder)["run"]:
                    self.recorder.rewind(resumed["step"])

    def _open(self, host: Host, resumed: dict[str, Any], *, untrained: bool) -> None:
        with self._ranks.together("drawing probes"):
            self._drawn, other_probes = obtain_probes(
                self._options.probes,
                host.probe_loader,
                resumed=resumed,
                archived=lambda path: Archive.open(path).probes,
                redraw=host.stage != "test",
                passing=self._passing if self._streams and len(self._passing) else None,
            )
        if not self._ranks.same(self._drawn.probes.fingerprint):
            raise ProbeError(
                "probes: the ranks have drawn different ones, though their weights are shards of one model; make the"
                " validation data set the same on all ranks, or give probes="
            )
        baseline = self._options.log_untrained and host.fitting and untrained and host.untrained
        found = self._try(host, self._drawn, trial=not baseline)
        probes = self._drawn.probes.read_as(getattr(found, "axes", ""))
        self._drawn = replace(self._drawn, probes=probes)
        # The other ranks compute, and leave recording and drawing to the first.
        first = host.trainer.is_global_zero
        with self._ranks.together("the archive"):
            self.log_dir = self._find_log_dir(host) if first else None
            self.recorder = Recorder.start(
                self._options.monitor,
                self._drawn.probes,
                found,
                reporter=self._options.reporter,
                to=Destination(
                    folder=self.log_dir,
                    loggers=host.loggers if first else [],
                    sinks=self._options.sinks if first else [],
                    run=self._id,
                    resumed=resumed if first else {},
                    copy_steps=host.fitting,
                ),
                worker=partial(Worker, background=self._options.background),
                failures=self._failures,
            )
        if other_probes is not None:
            rank_zero_warn(f"lightning-gradcam: {other_probes}")
        if baseline:
            began = time.perf_counter()
            self.recorder.hand_over(found, epoch=UNTRAINED_EPOCH, step=host.step, stage="fit", began=began)
            self.recorder.settle()

    def _try(self, host: Host, drawn: Drawn, *, trial: bool) -> Any:
        """Returns what the monitor finds; of a trial, in two of the probes where the model can do with two."""
        try:
            subject = self._subject(host, drawn, "trying the configuration")
            seen = partial(subject.seen, self._options.monitor, drawn.probes)
            if trial:
                try:
                    return seen(trial=True)
                except LostRankError:
                    raise
                except Exception:
                    # A model of bags, or a callable target, may take no other number than all of them.
                    if len(drawn.probes) <= TRIED:
                        raise
            return seen()
        except LightningGradCAMError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"model: its forward failed on the probes {list(drawn.probes.inputs.shape)} ({type(error).__name__}:"
                f" {error!s:.160}); the input is taken from the batch by input_key, then goes through the module's"
                f" transfer hooks to forward(){self._several(drawn, error)}"
            ) from error

    def _several(self, drawn: Drawn, error: Exception) -> str:
        """Returns what to do where a forward may have missed the batch's other inputs."""
        inputs = inputs_in(drawn.batch)
        if self._options.forward_fn is not None or not isinstance(error, TypeError) or len(inputs) < 2:
            return ""
        return f"; where that takes several inputs, {fed(inputs)}"

    def _subject(self, host: Host, drawn: Drawn, what: str) -> Subject:
        """The module in its trainer, for the recorder.

        Args:
            host: The trainer.
            drawn: The probes, as a batch.
            what: Happens on all ranks that explain together, for errors.
        """
        function = self._options.forward_fn

        def load(start: int, stop: int) -> Inputs:
            batch = part_of(drawn.batch, start, stop, len(drawn.probes))
            # What fails here on one rank must not leave the others alone in the forward.
            with self._ranks.together("preparing the probes"):
                batch = host.prepared(batch, transferred=drawn.transferred)
            picture = input_of(batch, self._options.probes.input_key)
            return Inputs(picture if function is None else batch, picture)

        def guard() -> AbstractContextManager[Any]:
            with ExitStack() as stack:
                stack.enter_context(self._ranks.together(what))
                stack.enter_context(host.explaining())
                if not host.shards:
                    stack.enter_context(alone())
                return stack.pop_all()

        # Ranks that explain together have to take the same parts.
        return Subject(host.module, load, host.forward_of(function), guard, halve=not host.shards)

    def _is_wanted(self, host: Host, step: int) -> bool:
        if host.fitting and not self._schedule.due(host.epoch, time.monotonic()):
            return False
        if self.recorder is None or self._failures.given_up(EXPLAINING) or (self._fitted and not host.fitting):
            return False
        if not host.fitting and self.recorder.last_step == step:
            rank_zero_info(f"lightning-gradcam: step {step} is in the archive already and is not logged again")
            return False
        return True

    def _log(self, host: Host, step: int) -> None:
        if self.recorder is None or self._drawn is None:
            return
        with self._failures.contained(EXPLAINING, step=step):
            subject = self._subject(host, self._drawn, "explaining")
            blocked = self.recorder.log(subject, epoch=host.epoch, step=step, stage=host.stage)
            if remark := self._schedule.spent(blocked):
                rank_zero_info(f"lightning-gradcam: {remark}")
        self.recorder.settle()
