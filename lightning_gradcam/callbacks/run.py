"""One run: its probes, its recorder, and what is explained when; hooks and their gates are the callback's."""

from __future__ import annotations

import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from lightning_gradcam.archive import Archive, TakenError
from lightning_gradcam.callbacks.feeding import Feeding
from lightning_gradcam.callbacks.host import Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.callbacks.ranks import Ranks, alone
from lightning_gradcam.callbacks.resume_state import SCHEMA, flaw
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, ProbeError
from lightning_gradcam.guard.model import uninitialized
from lightning_gradcam.monitors.base import Monitor, Reporter
from lightning_gradcam.pipeline.destination import Destination
from lightning_gradcam.pipeline.failures import Failures, OnError
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.pipeline.schedule import Schedule
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.dataset import Drawn
from lightning_gradcam.probes.listed import Apart
from lightning_gradcam.probes.paths import any_picture
from lightning_gradcam.probes.samplers import UnindexedError
from lightning_gradcam.probes.source import ProbeOptions, obtain_probes
from lightning_gradcam.probes.streaming import Passing
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
    """What one trainer's ``fit``, ``validate`` and ``test`` of one module have in common.

    Args:
        options: The callback's.
        find_log_dir: Returns the folder that archives stand in; called when a recorder is opened.
        module: What is looked at.
        log_dir: That folder, where it is known.
    """

    def __init__(
        self,
        options: RunOptions,
        find_log_dir: Callable[[Host], str | None],
        module: nn.Module | None = None,
        log_dir: str | None = None,
    ) -> None:
        self.recorder: Recorder | None = None
        self.log_dir = log_dir
        self._module = None if module is None else weakref.ref(module)
        # Goes on with the run of another callback, once there is something to record.
        self._successor = False
        self.waiting = False
        self._resumed: dict[str, Any] = {}
        self._schedule = Schedule(options.every_n_epochs, options.every_n_validations, options.max_overhead)
        if options.forward_fn is not None and options.probes.input_key is None:
            # It takes the whole batch; which entry is drawn on is a lesser matter.
            options = replace(options, probes=replace(options.probes, input_key=any_picture))
        self._options = options
        self._find_log_dir = find_log_dir
        self._drawn: Drawn | None = None
        self._found: tuple[Drawn, str | None] | None = None
        # Why samples can't be had by index.
        self._unindexed = ""
        self._passing = options.probes.passing()
        self._streams: bool | None = None
        self._lazy: list[str] = []
        self._id = uuid.uuid4().hex
        self._failures = Failures(options.on_error, rank_zero_warn)
        self.fitted = False
        # Between the beginning of a stage and its end.
        self.running = False
        # There is something that a run's last words have not said yet.
        self._unsaid = False
        # Why a record that was begun does not go on.
        self._why = ""
        self._early = self._told = False
        self._ranks = Ranks(together=False)

    def start_or_wait(self, host: Host) -> None:
        """Starts as soon as the model is whole and there are inputs: both may have to be the training's own.

        A lazy module's first forward, and data that can't be indexed.

        Raises:
            ConfigurationError: What is asked for does not fit the model or the data.
        """
        waited = self.waiting
        self.running = True
        if self.recorder is not None and host.fitting and not self.fitted:
            # What `validate` or `test` has left is no part of a training's record: its probes may be other ones.
            self.recorder.close()
            self.recorder.discard()
            self.recorder, self._drawn, self._found = None, None, None
            self._passing = self._options.probes.passing()
        elif self.recorder is not None and self._successor and (host.fitting or not self.fitted):
            # With its own options and sinks, as if resumed from a checkpoint of now.
            now = self.state(self.recorder)
            if not self._resumed and self.recorder.place:
                self.resume(now)
            elif self._resumed and self._resumed["run"] != now["run"]:
                self._id = uuid.uuid4().hex
            self.recorder.close()
            self.recorder, self._drawn, self._found, self._successor = None, None, None, False
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

    def validated(self, host: Host, *, averaged: bool) -> bool:
        """A validation has ended.

        Args:
            host: The trainer.
            averaged: It was that of averaged weights, which have been taken away again.

        Returns:
            Whether it was explained now.
        """
        early, self._early = self._early, False
        if averaged and early:
            return False
        if averaged and not self._told:
            self._told = True
            rank_zero_warn(
                "lightning-gradcam: the weights of the last training step are explained, not the averaged ones that"
                " were validated: a validation_step(dataloader_iter) does not show which batch is the last; list"
                " this callback before WeightAveraging"
            )
        return self.ended(host, host.step)

    def ended(self, host: Host, step: int) -> bool:
        """Explains at ``step`` if the end of this validation, or of an epoch without one, is due; returns whether."""
        if self.waiting and len(self._passing) and not uninitialized(host.module):
            self._start_late(host, step)
        wanted = self._ranks.as_first(self._is_wanted(host, step))
        if wanted:
            self._log(host, step)
        return wanted

    def looks_at(self, module: nn.Module) -> bool:
        """Whether this run is that of a module."""
        return self._module is not None and self._module() is module

    def succeed(self, earlier: Run) -> None:
        """Goes on with the run of a callback whose place this one's has taken in the same Trainer."""
        self.log_dir = earlier.log_dir
        if earlier.recorder is not None:
            self.recorder, self._drawn, self.fitted = earlier.recorder, earlier._drawn, earlier.fitted
            self._id, self._successor = earlier._id, True
            self._schedule.resume(earlier._schedule.state())
        if self.fitted:
            self._module = earlier._module

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
        self.running = False
        if self.recorder is not None:
            self.recorder.close()
        self._ranks.close()

    @property
    def automatic(self) -> bool:
        """Whether the layers were looked for."""
        return getattr(self._options.monitor, "layers", None) == "auto"

    def recorded(self, host: Host) -> Archive | None:
        """Returns the archive of a run that is over, once for each training and each look that is recorded."""
        unsaid, self._unsaid = self._unsaid, False
        archive = self.recorder.archive if self.recorder is not None and unsaid else None
        if archive is None or (self.fitted and not host.fitting):
            return None
        try:
            return archive if archive.steps else None
        except OSError:
            return None

    def report(self, host: Host) -> None:
        """Says why there is no record where there is none."""
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
            return
        if self.recorder is not None and self.recorder.last_step >= 0:
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
            "form": "" if self._drawn is None else self._drawn.form(self._options.probes.input_key),
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
        if self._found is not None:
            return False
        try:
            self._found = self._obtained(host, self._resumed)
            return False
        except UnindexedError as error:
            self._unindexed = str(error).split(";")[0]
        except Exception:  # comes again where all ranks hear of it
            return False
        if self._resumed:
            self._resumed = {}
            self._unindexed += ", nor is the checkpoint's archive readable, so that maps can't be compared"
        return True

    def _obtained(
        self, host: Host, resumed: dict[str, Any], passing: Passing | None = None
    ) -> tuple[Drawn, str | None]:
        """Returns the probes, and a remark."""
        # A sampler that waits for other ranks would wait for ever where these are not here.
        with nullcontext() if host.shards else alone():
            try:
                return obtain_probes(
                    replace(self._options.probes, apart=True, fewer=host.tries),
                    host.probe_loader,
                    resumed=resumed,
                    archived=lambda path: Archive.open(path).probes,
                    redraw=host.stage != "test",
                    passing=passing,
                    batches=host.overfitted,
                )
            except UnindexedError as error:
                if not host.shards:
                    raise
                raise ProbeError(
                    f"{str(error).split(';')[0]:.200}; each rank sees other samples of it, while all have to"
                    " explain the same; give probes=ProbeSet(...), a saved probe set, or a folder of pictures"
                ) from error

    def _passing_by(self) -> str:
        return f"{self._unindexed:.300}; the probes are the first samples that pass by (give probes= for chosen ones)"

    def _say_that_it_waits(self, host: Host) -> None:
        lazy = self._lazy
        if lazy:
            what = f"{', '.join(lazy)} get their parameters in the first forward"
        else:
            what, self._unindexed = self._passing_by(), ""
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
        looking = self.fitted and not host.fitting
        self.fitted = self.fitted or host.fitting
        self._unsaid = host.fitting
        if self.recorder is not None and self._drawn is not None:
            if looking or self._goes_on(host, self.recorder, self._drawn, resumed):
                return
            self.recorder.close()
            self._id = uuid.uuid4().hex
        self._open(host, resumed, untrained=untrained)

    def _goes_on(self, host: Host, recorder: Recorder, drawn: Drawn, resumed: dict[str, Any]) -> bool:
        """Whether the record goes on; else another one begins, with the probes of this one or of the checkpoint."""
        found = self._feeding(host, drawn).tried(trial=True) if host.fitting else None
        same = resumed.get("run") == self.state(recorder)["run"]
        self._why = ""
        with self._ranks.together("the archive"):
            if resumed and not same:
                self._why, self._drawn = "the checkpoint is of another run", None
            elif not resumed and host.fitting and host.step < recorder.last_step:
                # A loop over folds that resets one module, or a checkpoint without this callback.
                self._why = f"training begins again at step {host.step}, and {recorder.place!r} has later ones"
            else:
                try:
                    recorder.check(found)
                except TakenError as error:
                    self._why = error.remark
        if not self._ranks.as_first(not self._why):
            return False
        with self._ranks.together("the archive"):
            if same:
                recorder.rewind(resumed["step"])
        return True

    def _open(self, host: Host, resumed: dict[str, Any], *, untrained: bool) -> None:
        other_probes = None
        passing = self._passing if self._streams and len(self._passing) else None
        if self._drawn is None:
            with self._ranks.together("drawing probes"):
                self._drawn, other_probes = self._found or self._obtained(host, resumed, passing)
                self._found = None
        if not self._ranks.same(self._drawn.probes.fingerprint):
            raise ProbeError(
                "probes: the ranks have drawn different ones, though their weights are shards of one model; make the"
                " validation data set the same on all ranks, or give probes="
            )
        baseline = self._options.log_untrained and host.fitting and untrained and host.untrained
        try:
            found = self._feeding(host, self._drawn).tried(trial=not baseline)
        except ConfigurationError as error:
            # The model may need more of a batch than an archive keeps.
            if not self._drawn.rebuilt:
                raise
            self._drawn = self._other_probes(host, str(error).split(";")[0])
            if self._drawn is None:
                return
            found = self._feeding(host, self._drawn).tried(trial=not baseline)
        probes = self._drawn.probes.read_as(getattr(found, "axes", ""))
        self._drawn = replace(self._drawn, probes=probes)
        # The other ranks compute, and leave recording and drawing to the first.
        first = host.trainer.is_global_zero
        with self._ranks.together("the archive"):
            self.log_dir = self._find_log_dir(host) if first else None
            self.recorder = Recorder.start(
                self._feeding(host, self._drawn).looks,
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
        if isinstance(self._drawn.batch, Apart):
            size = " x ".join(map(str, self._drawn.probes.inputs.shape[-2:]))
            rank_zero_info(
                "lightning-gradcam: probes: the pictures have several sizes, and each is explained by itself, at its"
                f" own size; sheets and the archive show pictures and maps resized to {size}"
            )
        if passing is not None and self._unindexed:
            rank_zero_info(f"lightning-gradcam: {self._passing_by()}")
        if self._drawn.remark is not None:
            rank_zero_info(f"lightning-gradcam: {self._drawn.remark}")
        if probes.values is not None and getattr(found, "predicted", None) is not None:
            odd = next((x for x in probes.values.flatten().tolist() if not x.is_integer()), probes.values.flatten()[0])
            rank_zero_info(
                f"lightning-gradcam: labels: numbers such as {odd:.3g} are no classes, and the model predicts one, so"
                " sheets show no true class; name the labels with label_key=, or give probes=ProbeSet(inputs, labels=…)"
            )
        if (why := self._why or self.recorder.aside) and first:
            rank_zero_info(f"lightning-gradcam: {why}; this record goes to {self.recorder.place}")
        self._why = ""
        if other_probes is not None:
            rank_zero_warn(f"lightning-gradcam: {other_probes}")
        if baseline:
            began = time.perf_counter()
            self.recorder.hand_over(found, epoch=UNTRAINED_EPOCH, step=host.step, stage="fit", began=began)
            self.recorder.settle()

    def _other_probes(self, host: Host, why: str) -> Drawn | None:
        """Returns new probes where archived ones can't be fed to the model; ``None`` where these have to pass by."""
        rank_zero_warn(
            f"lightning-gradcam: the checkpoint's probes can't be used as they are archived ({why}); new ones are"
            " taken, maps can't be compared"
        )
        try:
            with self._ranks.together("drawing probes"):
                return self._obtained(host, {})[0]
        except UnindexedError as error:
            self._unindexed = str(error).split(";")[0]
        self._streams = self.waiting = True
        self._passing = self._options.probes.passing()
        self._say_that_it_waits(host)
        return None

    def _feeding(self, host: Host, drawn: Drawn) -> Feeding:
        options = self._options
        return Feeding(host, drawn, self._ranks, options.monitor, options.forward_fn, options.probes.input_key)

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
        if self.recorder is None or self._drawn is None:
            return
        with self._failures.contained(EXPLAINING, step=step):
            subject = self._feeding(host, self._drawn).subject("explaining")
            blocked = self.recorder.log(subject, epoch=host.epoch, step=step, stage=host.stage)
            self._unsaid = True
            if remark := self._schedule.spent(blocked):
                rank_zero_info(f"lightning-gradcam: {remark}")
        self.recorder.settle()
