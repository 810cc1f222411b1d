"""The base class of this package's callbacks: what each Lightning hook does, and on which rank."""

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
from lightning_gradcam.callbacks.weights import averages_before, how_they_changed
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.probes import ProbeSet

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from typing_extensions import Self


class ProbeCallback(Callback):
    """Runs fixed probes through the model after every validation, without changing the training.

    The base of the public callbacks, which define the options. Each hook checks whether it applies and calls the
    :class:`Run`.

    Args:
        options: The checked options.
    """

    # The callback's name in errors and checkpoints, also for users' subclasses.
    _kind: ClassVar[str] = "ProbeCallback"

    def __init__(self, options: RunOptions) -> None:
        super().__init__()
        self._options = options
        # Identifies this callback when a process that trains for another one reports where the record is.
        self._token = uuid.uuid4().hex
        self._run = Run(options, _find_log_dir)
        self._runs: WeakKeyDictionary[Trainer, Run] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state to copy or pickle (tuners, spawned ranks), without the run: threads can't be copied."""
        return {**vars(self), "_run": None, "_runs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Starts with a new run."""
        vars(self).update(state)
        self._run, self._runs = Run(self._options, _find_log_dir), WeakKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns a callback with its own records; only pickling for another process preserves the identity."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__({**deepcopy(self.__getstate__(), memo), "_token": uuid.uuid4().hex})
        return copied

    @property
    def name(self) -> str:
        """The prefix of tags, and the default name of the archive's folder."""
        return self._options.monitor.name

    @property
    def probes(self) -> ProbeSet | None:
        """The probes in use; ``None`` before training has started and on ranks that compute no maps."""
        return self._run.recorder.probes if self._run.recorder is not None else None

    @property
    def archive(self) -> Archive | None:
        """The run's archive, readable during and after training; ``None`` before training has started.

        Waits until every explained step is written. If a strategy trains in separate processes (``ddp_spawn``,
        ``ddp_fork``, notebooks), the archive is available once they have ended.
        """
        elsewhere = record_of(self._token)
        return elsewhere if elsewhere is not None or self._run.recorder is None else self._run.recorder.archive

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return f"{type(self)._kind}{{'name': {self.name!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Rejects invalid configurations before any data is loaded."""
        same = [other for other in _siblings(trainer) if other.name == self.name]
        if len(same) > 1:
            kinds = " and ".join(dict.fromkeys(f"{other._kind}s" for other in same))
            raise ConfigurationError(
                f"name: {len(same)} {kinds} are named {self.name!r} and would write the same tags and archive; give "
                "each a different name="
            )
        if stage == "predict":
            return
        if self._options.forward_fn is None:
            check_forward(pl_module)
        forget(self._token)
        runs = _RUNS.setdefault(trainer, {})
        run = self._run_of(trainer, pl_module, stage, runs.get(self.state_key))
        self._run = self._runs[trainer] = runs[self.state_key] = run
        run.running = False  # Lightning may not have ended the last stage, after an error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the probes, tries the whole configuration on them, and logs the baseline if requested."""
        self._start(Host(trainer, pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under ``trainer.validate``: draws the probes and tries the configuration."""
        host = Host(trainer, pl_module)
        if host.stage == "validate":
            self._start(host)

    # Also under `trainer.test`.
    on_test_start = on_train_start

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collects probes from data that can't be indexed."""
        host = Host(trainer, pl_module)
        if host.explains:
            self._at(trainer).meet(host, batch, dataloader_idx)

    # Also under `trainer.test`.
    on_test_batch_start = on_validation_batch_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Collects probes from data that can't be indexed, if there is no validation."""
        host = Host(trainer, pl_module)
        if self._at(trainer).waiting and not host.validates:
            self._run.meet(host, batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts a waiting run; hands finished sheets to the loggers that can't be called in the background."""
        if self._at(trainer).waiting:
            self._run.start_or_wait(Host(trainer, pl_module))
        if self._run.recorder is not None:
            self._run.recorder.settle()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Explains after the last batch if another callback swaps out averaged weights before this one's epoch end."""
        host = Host(trainer, pl_module)
        if self._at(trainer).waiting and host.stage == "validate":
            self._run.start_or_wait(host)
        if host.explains and not host.checking and host.at_last_batch:
            if averages_before(trainer, self):
                self._run.ending(host)
            else:
                self._run.weights.remember(host)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains if this validation is due."""
        host = Host(trainer, pl_module)
        if host.explains and not host.checking:
            averaged = averages_before(trainer, self)
            self._compare(host, "on_validation_epoch_end", logged=self._at(trainer).validated(host, averaged=averaged))
        self._at(trainer).steering.publish(host)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the step together with the metrics, which Lightning has computed by now."""
        self._at(trainer).measured(Host(trainer, pl_module))

    # Also under `trainer.test`, and without validation, where the training epoch's own metrics are used.
    on_test_end = on_train_epoch_start = on_validation_end

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Under ``trainer.test``: starts once the first batch has created a lazy module's parameters."""
        host = Host(trainer, pl_module)
        if self._at(trainer).waiting:
            self._run.start_or_wait(host)
        if host.explains and host.at_last_batch:
            self._run.weights.remember(host)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains under ``trainer.test``."""
        host = Host(trainer, pl_module)
        if host.explains:
            self._compare(host, "on_test_epoch_end", logged=self._at(trainer).ended(host, host.step))
        self._at(trainer).steering.publish(host)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains at the end of the epoch if there is no validation."""
        self._at(trainer).trained(Host(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the whole run, meanwhile checks the maps if requested, and waits for the last sheets."""
        self._at(trainer).measured(Host(trainer, pl_module))
        if self._run.recorder is not None:
            self._run.recorder.conclude()
            self._run.check(Host(trainer, pl_module))
            self._run.recorder.finish()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stores the run's state, the module's class and the layers, in plain types."""
        # Not `state_dict`: Lightning rejects two stateful callbacks with the same key in the Trainer's constructor,
        # before `setup` can report that they need different names.
        run = self._at(trainer)
        if run.recorder is not None and trainer.is_global_zero:
            state = run.state(run.recorder)
            if (name := name_of_class(type(pl_module))) is not None:
                state["model"] = name
            layers = run.recorder.monitor.layers
            if isinstance(layers, list) and all(isinstance(layer, str) for layer in layers):
                state["layers"] = list(layers)
            checkpoint.setdefault("callbacks", {})[self.state_key] = state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the run that the checkpoint belongs to, with its probes and archive."""
        # A state loaded during training (a learning-rate finder restores its trial) resumes nothing: kept until the
        # next `fit`, it would delete the steps recorded since.
        if not self._run.running:
            self._run.resume(state_dict)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the sinks and reports where the record is: Lightning skips ``teardown`` after an exception."""
        self._at(trainer).close()
        self._end(Host(trainer, pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the sinks and reports where the record is."""
        self._at(trainer).close()
        self._run.report(Host(trainer, pl_module))
        self._end(Host(trainer, pl_module))
        if parent_process() is not None and self.archive is not None:
            # The launching process receives only the trainer's state.
            vars(trainer.state)[f"_lightning_gradcam_{self._token}"] = Note(self._token, self.archive.path)

    def _start(self, host: Host) -> None:
        if host.explains:
            self._at(host.trainer).start_or_wait(host)
        elif host.unsupported:
            rank_zero_warn(f"lightning-gradcam: nothing is logged: {host.unsupported}")
        self._at(host.trainer).steering.begin(host)

    def _compare(self, host: Host, hook: str, *, logged: bool) -> None:
        """Warns once if the logged weights are not the validated ones, such as after a user's EMA has swapped back."""
        if logged and self._run.weights.gone(host):
            rank_zero_warn(f"lightning-gradcam: {how_they_changed(host.trainer, self, hook)}")

    def _end(self, host: Host) -> None:
        """Prints where the results are; the trainer's last callback does so for all callbacks."""
        # A callback that wraps this one keeps it out of the trainer's list.
        callbacks = _siblings(host.trainer) or [self]
        if callbacks[-1]._run is self._run:
            found = [recorded for each in callbacks if (recorded := each._run.recorded(host)) is not None]
            for line in last_words(found, host.board()):
                rank_zero_info(line)

    def _at(self, trainer: Trainer) -> Run:
        """Returns the trainer's run: after a Trainer nested in a hook, the outer one goes on."""
        self._run = self._runs.get(trainer, self._run)
        return self._run

    def _run_of(self, trainer: Trainer, module: LightningModule, stage: str, earlier: Run | None) -> Run:
        """Returns the run to continue, or a new one if the trainer or the module has changed.

        Args:
            trainer: The trainer.
            module: The module that it trains, validates or tests.
            stage: The trainer's stage.
            earlier: The trainer's last run under this callback's key. Another callback may have started it, such as
                one that ``configure_callbacks`` created for the last ``fit``.
        """
        if earlier is None:
            return Run(self._options, _find_log_dir, module)
        same = earlier.looks_at(module)
        if earlier is self._run and (same or (earlier.fitted and stage != "fit")):
            return earlier
        # Without a logger, a trainer keeps its numbered folder.
        run = Run(self._options, _find_log_dir, module, None if trainer.loggers else earlier.log_dir)
        # Records of `validate` and `test` are deleted when training begins; `validate` and `test` with any module leave
        # a training run's record unchanged.
        if same or earlier.fitted != (stage == "fit"):
            run.succeed(earlier)
        return run


# Each trainer's last run under each key, for callbacks that replace another one; no entry outlives its trainer.
_RUNS: WeakKeyDictionary[Trainer, dict[str, Run]] = WeakKeyDictionary()


def _find_log_dir(host: Host) -> str | None:
    """Returns the folder for archives: callbacks in one trainer share the folder that the first of them found."""
    shared = [other._run.log_dir for other in _siblings(host.trainer) if other._run.log_dir]
    return shared[0] if shared else host.log_dir()


def _siblings(trainer: Trainer) -> list[ProbeCallback]:
    """Returns the trainer's callbacks from this package, in order."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, ProbeCallback)]
