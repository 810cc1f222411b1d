"""One run: its probes, its session, and what is explained when; hooks and their gates are the callback's."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.cams import Cams
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError
from lightning_gradcam.failures import Failures, OnError
from lightning_gradcam.guard import uninitialized
from lightning_gradcam.host import Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.inputs import Inputs, part_of
from lightning_gradcam.plan import Plan
from lightning_gradcam.probes.dataset import Drawn, input_of
from lightning_gradcam.probes.source import ProbeOptions, obtain_probes
from lightning_gradcam.record import UNTRAINED_EPOCH
from lightning_gradcam.schedule import Schedule
from lightning_gradcam.session import EXPLAINING, Session
from lightning_gradcam.sinks import Sink
from lightning_gradcam.storage import absolute
from lightning_gradcam.worker import Worker


@dataclass(frozen=True)
class RunOptions:
    """The callback's options, checked.

    Attributes:
        plan: What is explained.
        probes: Of which inputs.
        forward_fn: Instead of the module's ``forward``.
        every_n_epochs: The schedule.
        every_n_validations: Another one.
        max_overhead: The largest share of the time.
        log_untrained: Log a baseline before the first step.
        background: Draw and write in a thread.
        on_error: What a failure of ours does.
        sinks: The user's own.
    """

    plan: Plan
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
        find_log_dir: Returns the folder that archives stand in; called when the first session is opened.
    """

    def __init__(self, options: RunOptions, find_log_dir: Callable[[Host], str | None]) -> None:
        self.session: Session | None = None
        self.log_dir: str | None = None
        self.resumed: dict[str, Any] = {}
        self.schedule = Schedule(options.every_n_epochs, options.every_n_validations, options.max_overhead)
        self.waiting = False
        self._options = options
        self._find_log_dir = find_log_dir
        self._drawn: Drawn | None = None
        self._id = uuid.uuid4().hex
        self._failures = Failures(options.on_error, rank_zero_warn)
        self._fitted = False

    def start_or_wait(self, host: Host) -> None:
        """Starts as soon as the model is whole: a lazy module's first forward has to be the training's own.

        Raises:
            ConfigurationError: What is asked for does not fit the model or the data.
        """
        lazy, waited = uninitialized(host.module), self.waiting
        self.waiting = bool(lazy)
        if not lazy:
            self._start(host, untrained=not waited)
        elif not waited:
            rank_zero_info(
                f"lightning-gradcam: {', '.join(lazy)} get their parameters in the first forward; the configuration is"
                " tried after the first batch instead of before it"
            )
            if host.fitting and self._options.log_untrained and host.untrained:
                rank_zero_warn(
                    "lightning-gradcam: log_untrained=True: there is no baseline, because the weights are there only"
                    " after the first training batch; run one batch through the model before trainer.fit, or let"
                    " Lightning's sanity check do it (num_sanity_val_steps)"
                )

    def due(self, host: Host) -> bool:
        """Counts a validation, and says whether it is to be explained."""
        return not host.fitting or self.schedule.due(host.epoch, time.monotonic())

    def log(self, host: Host, step: int) -> None:
        """Explains, and has the maps recorded, drawn and logged at ``step``."""
        if self.session is None or self._drawn is None or self._failures.given_up(EXPLAINING):
            return
        if not host.fitting and self._fitted:
            return
        if not host.fitting and self.session.last_step == step:
            rank_zero_info(f"lightning-gradcam: step {step} is in the archive already and is not logged again")
            return
        with self._failures.contained(EXPLAINING, step=step):
            began = time.perf_counter()
            cams = self._explain(host, self._drawn, self.session.plan)
            blocked = self.session.log(cams, epoch=host.epoch, step=step, stage=host.stage, began=began)
            if remark := self.schedule.spent(blocked):
                rank_zero_info(f"lightning-gradcam: {remark}")
        self.session.settle()

    def settle(self) -> None:
        """Hands finished pictures to the loggers that can't be served in the background."""
        if self.session is not None:
            self.session.settle()

    def finish(self) -> None:
        """Waits until everything is written."""
        if self.session is not None:
            self.session.finish()

    def close(self) -> None:
        """Waits until everything is written, and closes the sinks."""
        if self.session is not None:
            self.session.close()

    def report(self, host: Host) -> None:
        """Says where the archive is, or why there is none."""
        if self.waiting:
            rank_zero_warn(
                f"lightning-gradcam: nothing was logged: {', '.join(uninitialized(host.module))} never ran, so that the"
                " model is not whole; remove them, or call them in its forward()"
            )
        archive = self.session.archive if self.session is not None else None
        if archive is None or not host.fitting:
            return
        if archive.steps:
            rank_zero_info(f"lightning-gradcam: maps of {len(archive.steps)} steps are in {archive.path}")
        else:
            options = self._options
            rank_zero_warn(
                "lightning-gradcam: nothing was logged: no validation was due (every_n_epochs="
                f"{options.every_n_epochs}, every_n_validations={options.every_n_validations}); lower these"
            )

    def state(self, session: Session) -> dict[str, Any]:
        """Returns what a checkpoint keeps, in plain types."""
        archive = session.archive
        indices = session.probes.indices
        return {
            "schema": 1,
            "indices": None if indices is None else list(indices),
            "fingerprint": session.probes.fingerprint,
            "archive": "" if archive is None else absolute(archive.path),
            "run": self._id if archive is None else archive.manifest.run,
            "step": session.last_step,
            "validations": self.schedule.validations,
            "every": self.schedule.every,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes a checkpoint's state over when the run starts."""
        self.resumed = dict(state)
        self.schedule.validations = int(state.get("validations", 0))
        self.schedule.every = int(state.get("every", self.schedule.every))

    def _start(self, host: Host, *, untrained: bool) -> None:
        resumed, self.resumed = self.resumed, {}
        if self.session is not None and host.fitting and not self._fitted:
            # What `validate` or `test` has left is no part of a training's record: its probes may be other ones.
            self.close()
            self.session.discard()
            self.session = None
        self._fitted = self._fitted or host.fitting
        if self.session is None or self._drawn is None:
            self._open(host, resumed, untrained=untrained)
        elif host.fitting:
            self.session.check(self._try(host, self._drawn))
            if resumed and resumed["run"] == self.state(self.session)["run"]:
                self.session.rewind(resumed["step"])

    def _open(self, host: Host, resumed: dict[str, Any], *, untrained: bool) -> None:
        self._drawn, other_probes = obtain_probes(
            self._options.probes,
            host.probe_loader,
            resumed=resumed,
            archived=lambda path: Archive.open(path).probes,
            redraw=host.stage != "test",
        )
        cams = self._try(host, self._drawn)
        self.log_dir = self._find_log_dir(host)
        self.session, no_copy = Session.start(
            self._options.plan,
            self._drawn.probes,
            cams,
            run=self._id,
            log_dir=self.log_dir,
            loggers=host.loggers,
            sinks=self._options.sinks,
            resumed=resumed,
            copy_steps=host.fitting,
            worker=Worker(background=self._options.background),
            failures=self._failures,
        )
        for remark in (other_probes, no_copy):
            if remark is not None:
                rank_zero_warn(f"lightning-gradcam: {remark}")
        if self._options.log_untrained and host.fitting and untrained and host.untrained:
            began = time.perf_counter()
            self.session.log(cams, epoch=UNTRAINED_EPOCH, step=host.step, stage="fit", began=began)
            self.session.settle()

    def _try(self, host: Host, drawn: Drawn) -> Cams:
        try:
            return self._explain(host, drawn, self._options.plan)
        except LightningGradCAMError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"model: its forward failed on the probes {list(drawn.probes.inputs.shape)} ({type(error).__name__}:"
                f" {error}); the input is taken from the batch by input_key, then goes through the module's transfer"
                " hooks to forward()"
            ) from error

    def _explain(self, host: Host, drawn: Drawn, plan: Plan) -> Cams:
        function = self._options.forward_fn

        def load(start: int, stop: int) -> Inputs:
            batch = host.prepared(part_of(drawn.batch, start, stop, len(drawn.probes)))
            picture = input_of(batch, self._options.probes.input_key)
            return Inputs(picture if function is None else batch, picture)

        with host.explaining():
            return plan.explain(host.module, load, drawn.probes, host.forward_of(function))
