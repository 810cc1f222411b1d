"""What all callbacks of this package have in common: which of Lightning's hooks does what on which rank."""

from __future__ import annotations

import uuid
from copy import deepcopy
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from lightning_gradcam.archive import Archive
from lightning_gradcam.callbacks.ending import Note, forget, last_words, record_of
from lightning_gradcam.callbacks.feeding import check_forward
from lightning_gradcam.callbacks.host import Callback, Host, rank_zero_info, rank_zero_warn
from lightning_gradcam.callbacks.options import RunOptions
from lightning_gradcam.callbacks.resume_state import name_of_class
from lightning_gradcam.callbacks.run import Run
from lightning_gradcam.callbacks.weights import ValidatedWeights, averages_before, called_before
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.probes import ProbeSet

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from typing_extensions import Self


class ProbeCallback(Callback):
    """Runs fixed probes through the model after every validation, without changing the training.

    The base of the public callbacks, which have the options; each hook checks if it applies and calls the :class:`Run`.

    Args:
        options: The checked options.
    """

    # The callback's name in errors and checkpoints, for users' subclasses too.
    _kind: ClassVar[str] = "ProbeCallback"

    def __init__(self, options: RunOptions) -> None:
        super().__init__()
        self._options = options
        # Identifies this callback when a process that trains for another one reports where the record is.
        self._token = uuid.uuid4().hex
        self._run = Run(options, _find_log_dir)
        self._validated = ValidatedWeights()

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles (from tuners or spawned ranks) have the options but no run: threads can't be copied."""
        return {**vars(self), "_run": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Starts with a new run."""
        vars(self).update(state)
        self._run = Run(self._options, _find_log_dir)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns a callback with its own records; only pickling for another process preserves the identity."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__({**deepcopy(self.__getstate__(), memo), "_token": uuid.uuid4().hex})
        return copied

    @property
    def name(self) -> str:
        """The root of tags and the archive's folder."""
        return self._options.monitor.name

    @property
    def probes(self) -> ProbeSet | None:
        """The probes in use; ``None`` before training has started, and on all ranks but zero."""
        return self._run.recorder.probes if self._run.recorder is not None else None

    @property
    def archive(self) -> Archive | None:
        """The run's archive, to read while it grows and afterwards; ``None`` before training has started.

        Waits until every explained step is written. If a strategy trains in its own processes (``ddp_spawn``,
        ``ddp_fork``, notebooks), the archive is available once they have ended.
        """
        elsewhere = record_of(self._token)
        return elsewhere if elsewhere is not None or self._run.recorder is None else self._run.recorder.archive

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return f"{type(self)._kind}{{'name': {self.name!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Rejects configurations that are wrong before any data is loaded."""
        same = [other for other in _siblings(trainer) if other.name == self.name]
        if len(same) > 1:
            kinds = " and ".join(dict.fromkeys(f"{other._kind}s" for other in same))
            raise ConfigurationError(
                f"name: {len(same)} {kinds} are named {self.name!r} and would write the same tags and archive; give"
                " each its own name="
            )
        if stage == "predict":
            return
        if self._options.forward_fn is None:
            check_forward(pl_module)
        forget(self._token)
        runs = _RUNS.setdefault(trainer, {})
        run = self._run_of(trainer, pl_module, stage, runs.get(self.state_key))
        if run is not self._run:
            self._validated = ValidatedWeights()
        self._run = runs[self.state_key] = run
        # Lightning may not have ended the last stage, after an error.
        run.running = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the probes, tries the whole configuration on them, and logs the baseline if requested."""
        self._start(Host(trainer, pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under ``trainer.validate``: draws the probes and tries the configuration."""
        host = Host(trainer, pl_module)
        if host.stage == "validate":
            self._start(host)

    # Under `trainer.test` too.
    on_test_start = on_train_start

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Takes probes from data that can't be indexed."""
        host = Host(trainer, pl_module)
        if host.explains and dataloader_idx == 0:
            self._run.meet(host, batch)

    # Under `trainer.test` too.
    on_test_batch_start = on_validation_batch_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Takes probes from data that can't be indexed, if there is no validation."""
        host = Host(trainer, pl_module)
        if self._run.waiting and not host.validates:
            self._run.meet(host, batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hands finished pictures to the loggers that can't be served in the background."""
        if self._run.waiting:
            self._run.start_or_wait(Host(trainer, pl_module))
        if self._run.recorder is not None:
            self._run.recorder.settle()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Explains here if another callback removes the averaged weights before this one runs."""
        host = Host(trainer, pl_module)
        if self._run.waiting and host.stage == "validate":
            self._run.start_or_wait(host)
        if host.explains and not host.checking and host.at_last_batch:
            if averages_before(trainer, self):
                self._run.ending(host)
            else:
                self._validated.remember(host)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains, if this validation is due."""
        host = Host(trainer, pl_module)
        if host.explains and not host.checking:
            averaged = averages_before(trainer, self)
            self._compare(host, "on_validation_epoch_end", logged=self._run.validated(host, averaged=averaged))
        self._run.steering.publish(host)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has the step recorded, with the metrics, which Lightning has computed by now."""
        self._run.measured(Host(trainer, pl_module))

    # Under `trainer.test`, and without a validation, whose place an epoch's own metrics take.
    on_test_end = on_train_epoch_start = on_validation_end

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Under ``trainer.test``: starts where the first batch has made a lazy module's parameters."""
        host = Host(trainer, pl_module)
        if self._run.waiting:
            self._run.start_or_wait(host)
        if host.explains and host.at_last_batch:
            self._validated.remember(host)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains under ``trainer.test``."""
        host = Host(trainer, pl_module)
        if host.explains:
            self._compare(host, "on_test_epoch_end", logged=self._run.ended(host, host.step))
        self._run.steering.publish(host)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains if there is no validation whose end could be used."""
        self._run.trained(Host(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the whole run, checks the maps meanwhile, and waits until the last pictures are finished."""
        self._run.measured(Host(trainer, pl_module))
        if self._run.recorder is not None:
            self._run.recorder.conclude()
            self._run.check(Host(trainer, pl_module))
            self._run.recorder.finish()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stores which probes are in use, where the archive is, the module's class and the layers, in plain types."""
        # Not `state_dict`: Lightning refuses two stateful callbacks of one key in the Trainer's constructor, before
        # `setup` can say that they need different names.
        if self._run.recorder is not None and trainer.is_global_zero:
            state = self._run.state(self._run.recorder)
            if (name := name_of_class(type(pl_module))) is not None:
                state["model"] = name
            layers = self._run.recorder.monitor.layers
            if isinstance(layers, list) and all(isinstance(layer, str) for layer in layers):
                state["layers"] = list(layers)
            checkpoint.setdefault("callbacks", {})[self.state_key] = state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over probes and archive of the run that the checkpoint belongs to."""
        # What is loaded in the middle of a training (a learning rate finder puts its trial back) resumes nothing: kept
        # until the next `fit`, it would delete the steps recorded since.
        if not self._run.running:
            self._run.resume(state_dict)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the sinks and reports where the record is: Lightning calls no ``teardown`` after an exception."""
        self._run.close()
        self._end(Host(trainer, pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the sinks and reports where the record is."""
        self._run.close()
        self._run.report(Host(trainer, pl_module))
        self._end(Host(trainer, pl_module))
        if parent_process() is not None and self.archive is not None:
            # What a process that launched this one gets back is the trainer's state.
            vars(trainer.state)[f"_lightning_gradcam_{self._token}"] = Note(self._token, self.archive.path)

    def _start(self, host: Host) -> None:
        if host.explains:
            self._run.start_or_wait(host)
        elif host.unsupported:
            rank_zero_warn(f"lightning-gradcam: nothing is logged: {host.unsupported} can be explained")
        self._run.steering.begin(host)

    def _compare(self, host: Host, hook: str, *, logged: bool) -> None:
        """Reports, once, that other weights were logged than validated: a user's own EMA had swapped them back."""
        if logged and self._validated.gone(host):
            before = " and ".join(called_before(host.trainer, self, hook))
            rank_zero_warn(
                "lightning-gradcam: the maps do not show the validated weights: they were changed after the last batch,"
                " before this callback ran (by an EMA that swaps its weights out?); "
                + (f"list this callback before {before}" if before else f"change them later, at {hook[:-10]}_end")
            )

    def _end(self, host: Host) -> None:
        """Prints where the results are, once for all callbacks of the trainer: the last of them does it."""
        # A callback that calls this one's hooks keeps it out of the trainer's list.
        callbacks = _siblings(host.trainer) or [self]
        if callbacks[-1]._run is self._run:
            found = [recorded for each in callbacks if (recorded := each._run.recorded(host)) is not None]
            for line in last_words(found, host.board()):
                rank_zero_info(line)

    def _run_of(self, trainer: Trainer, module: LightningModule, stage: str, earlier: Run | None) -> Run:
        """Returns the run that goes on, or a new one: of another trainer, or of another module than the earlier one.

        Args:
            trainer: The trainer.
            module: What it trains, or looks at.
            stage: What it does.
            earlier: The last run of this trainer under this callback's key; another callback may have begun it, such as
                one that ``configure_callbacks`` had made for the last ``fit``.
        """
        if earlier is None:
            return Run(self._options, _find_log_dir, module)
        same = earlier.looks_at(module)
        if earlier is self._run and (same or (earlier.fitted and stage != "fit")):
            return earlier
        # Without a logger, a trainer keeps the numbered folder that it has.
        run = Run(self._options, _find_log_dir, module, None if trainer.loggers else earlier.log_dir)
        # What looks have recorded goes away when training begins; looks at any module leave a training's record alone.
        if same or earlier.fitted != (stage == "fit"):
            run.succeed(earlier)
        return run


# The last run under each key, for callbacks that take another's place; none outlives its trainer.
_RUNS: WeakKeyDictionary[Trainer, dict[str, Run]] = WeakKeyDictionary()


def _find_log_dir(host: Host) -> str | None:
    """Callbacks side by side share the folder that the first of them has found."""
    shared = [other._run.log_dir for other in _siblings(host.trainer) if other._run.log_dir]
    return shared[0] if shared else host.log_dir()


def _siblings(trainer: Trainer) -> list[ProbeCallback]:
    """Returns this package's callbacks of a trainer, in their order."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, ProbeCallback)]
