"""Publishes the numbers that steer training to Lightning's callbacks on every rank, and acts on the alarm."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch

from lightning_gradcam.callbacks.host import Host, kinds, rank_zero_info, rank_zero_warn
from lightning_gradcam.errors import ConfigurationError, did_you_mean
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.storage import join

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

OnAlarm = Literal["warn", "stop", "checkpoint"]
_SAVING = "the checkpoint of the alarm"
# The method of Lightning's EarlyStopping that reads the number.
_CHECK = "_run_early_stopping_check"

# The metrics that this package's callbacks have added to each trainer.
_PUBLISHED: WeakKeyDictionary[Trainer, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SteeringOptions:
    """How a run's numbers may affect its training.

    Attributes:
        monitor: Numbers to add to ``trainer.callback_metrics``: all, none, or those with these names.
        on_alarm: Reaction to the alarm.
        min_energy_inside: The alarm's threshold; ``None``: no alarm.
    """

    monitor: bool | Sequence[str] = False
    on_alarm: OnAlarm = "warn"
    min_energy_inside: float | None = None


class _Held:
    """Replaces an EarlyStopping's method: calls the original only if the monitored number has a new value.

    Copies of the EarlyStopping, including pickled ones, keep the original method.
    """

    def __init__(self, callback: Any, check: Callable[..., Any], is_new: Callable[[Any], bool]) -> None:
        self._callback, self._check, self._is_new = callback, check, is_new

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._check(*args, **kwargs) if self._is_new(self._callback) else None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # This runs while the copy is still empty, so it finds the method of its class.
        return getattr, (self._callback, _CHECK)


class Steering:
    """Passes a run's numbers to its trainer. Rank zero measures, and all ranks get the same values.

    Args:
        options: The user's options.
        name: The callback's name.
        failures: Reports failures.
        log_dir: Returns the run's folder on rank zero, for checkpoints if the trainer has no folder for them.
    """

    def __init__(
        self, options: SteeringOptions, name: str, failures: Failures, log_dir: Callable[[], str | None]
    ) -> None:
        self._options = options
        # Whether training waits for the numbers of a logged step.
        self.active = bool(options.monitor) or options.on_alarm != "warn"
        self._name = name
        self._failures = failures
        self._log_dir = log_dir
        # Each number's value at the last measured step (NaN if it has none), and the names that have a new value.
        self._numbers: dict[str, float] = {}
        self._renewed: list[str] = []
        # How many values each number has had, and how many of them each EarlyStopping has read.
        self._values: Counter[str] = Counter()
        self._looked_at: Counter[int] = Counter()
        # Whether the alarm has been raised since the last :meth:`act`, and the path of its checkpoint.
        self._alarm, self._path = False, ""
        # Each modified EarlyStopping, with the method that was set on the instance before, if any.
        self._held: list[tuple[Any, dict[str, Any]]] = []

    def know(self, host: Host, tags: Sequence[str]) -> None:
        """Receives the names of all numbers that the run can have.

        Args:
            host: The trainer.
            tags: The names.

        Raises:
            ConfigurationError: The user or another callback requests a name that is not among them.
        """
        asked = self._asked(host)
        for wanted in asked:
            if wanted not in tags:
                near = did_you_mean(wanted, tags, limit=5)
                raise ConfigurationError(
                    f"monitor: this run logs no number named {wanted!r}{near}; energy_inside and pointing_game need "
                    "probes with masks or boxes"
                )
        self._numbers = self._known(tags if self._options.monitor is True else asked)

    def begin(self, host: Host) -> None:
        """Publishes the numbers when a stage begins, on every rank: as NaN, or with a resumed run's last values."""
        # EarlyStopping must not read an earlier stage's values as new ones.
        self._values.clear()
        self._looked_at.clear()
        if not self._options.monitor and (missing := self._looked_for(host)):
            rank_zero_warn(
                f"lightning-gradcam: another callback monitors {missing[0]!r}, which is not in "
                "trainer.callback_metrics; if GradCAMCallback computes this number, set monitor=True there"
            )
        if self.active:
            # :meth:`know` is called later if the model or the probes are only complete after the first batches.
            self._numbers = self._known([*self._numbers, *self._asked(host)])
            self.publish(host)

    def take(self, recorder: Recorder, blocked: float) -> float:
        """Waits for the numbers of the recorder's current step, if training depends on them.

        Args:
            recorder: The run's recorder.
            blocked: Seconds that training has waited for the step so far.

        Returns:
            The seconds including this wait.
        """
        if not self.active:
            return blocked
        measured, blocked = recorder.measured()
        self._renewed = [name for name in self._numbers if name in measured.numbers]
        if measured.numbers:
            # NaN for a number that no probe has: its last value would be mistaken for the current weights' value.
            self._numbers = {name: measured.numbers.get(name, math.nan) for name in self._numbers}
        self._alarm = measured.alarm
        return blocked

    def publish(self, host: Host) -> None:
        """Adds rank zero's numbers to the metrics on every rank; all ranks must call it at the same point."""
        if not self.active or host.checking:
            return
        path = self._checkpoint(host) if self._alarm and host.trainer.is_global_zero else ""
        said = host.trainer.strategy.broadcast((self._numbers, self._renewed, self._alarm, path))
        self._numbers, renewed, self._alarm, self._path = said
        self._values.update(renewed)
        self._renewed = []
        # Not `trainer.callback_metrics`: reading it would compute the user's metrics, which are not complete yet.
        metrics: dict[str, Any] = host.trainer._logger_connector._callback_metrics
        metrics.update({name: torch.tensor(v, device=host.module.device) for name, v in self._numbers.items()})
        _PUBLISHED.setdefault(host.trainer, set()).update(self._numbers)
        self._hold_back(host)

    def act(self, host: Host) -> None:
        """Acts on the alarm on every rank."""
        rings, self._alarm = self._alarm, False
        if not rings or not host.fitting or host.replays:
            return
        said = f"lightning-gradcam: min_energy_inside={self._options.min_energy_inside:g} was not reached, so"
        if self._options.on_alarm == "stop":
            host.trainer.should_stop = True
            rank_zero_warn(f"{said} on_alarm='stop' ends the training here, as EarlyStopping would")
        elif self._options.on_alarm == "checkpoint" and self._path and self._saved(host, self._path):
            rank_zero_info(f"{said} on_alarm='checkpoint' has saved {self._path}")

    def release(self) -> None:
        """Restores the trainer's callbacks."""
        for callback, before in self._held:
            vars(callback).pop(_CHECK, None)
            vars(callback).update(before)
        self._held = []

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: the last values."""
        known = {name: value for name, value in self._numbers.items() if not math.isnan(value)}
        return {"numbers": known} if known else {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restores the result of :meth:`state`."""
        self._numbers = dict(state.get("numbers", {}))

    def _asked(self, host: Host) -> list[str]:
        """Returns the names given by the user, and those that the trainer's other callbacks require."""
        if not self._options.monitor:
            return []
        listed = [] if self._options.monitor is True else list(self._options.monitor)
        return list(dict.fromkeys([*listed, *self._looked_for(host)]))

    def _looked_for(self, host: Host) -> list[str]:
        """Returns the names of this callback's numbers that the trainer's other callbacks require."""
        callbacks: list[Any] = host.trainer.callbacks  # type: ignore[attr-defined]
        names = [str(getattr(each, "monitor", "")) for each in callbacks if getattr(each, "strict", True)]
        return [name for name in names if name.startswith(f"{self._name}_stats/")]

    def _known(self, names: Sequence[str]) -> dict[str, float]:
        return {name: self._numbers.get(name, math.nan) for name in names}

    def _hold_back(self, host: Host) -> None:
        """Makes EarlyStopping read each value of a number once, so that its patience counts logged steps.

        Otherwise it would stop at the NaN before the first value, and count unlogged epochs as no improvement.
        """
        for callback in host.trainer.callbacks:  # type: ignore[attr-defined]
            # A user's class may have the same name without this method.
            own = "EarlyStopping" in kinds(callback) and str(getattr(callback, "monitor", None)) in self._numbers
            if own and hasattr(callback, _CHECK) and all(callback is not held for held, _ in self._held):
                self._held.append((callback, {_CHECK: vars(callback)[_CHECK]} if _CHECK in vars(callback) else {}))
                vars(callback)[_CHECK] = _Held(callback, getattr(callback, _CHECK), self._is_new)

    def _is_new(self, callback: Any) -> bool:
        name = str(callback.monitor)
        if name not in self._numbers:
            # Its ``monitor`` has been changed to another metric.
            return True
        seen, self._looked_at[id(callback)] = self._looked_at[id(callback)], self._values[name]
        return self._values[name] > seen

    def _checkpoint(self, host: Host) -> str:
        """Returns the path of the alarm's checkpoint: next to the others, with the reason in its name."""
        folder, log_dir = getattr(host.trainer.checkpoint_callback, "dirpath", None), self._log_dir()
        if folder is None and log_dir is not None:
            folder = join(log_dir, "checkpoints")
        if folder is None or host.tries:
            return ""
        reason = f"{self._name}-min_energy_inside={self._options.min_energy_inside:g}"
        return join(str(folder), f"epoch={host.epoch}-step={host.trainer.global_step}-{reason}.ckpt")

    def _saved(self, host: Host, path: str) -> bool:
        try:
            host.trainer.save_checkpoint(path)
        except Exception as error:
            if host.shards:
                raise  # the other ranks are waiting in the middle of saving
            # The other ranks wait at the end of saving.
            host.trainer.strategy.barrier("Trainer.save_checkpoint")
            self._failures.failed(_SAVING, host.step, error)
            return False
        return True


def without_published(trainer: Trainer, metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns a trainer's metrics without those that this package's callbacks added."""
    own = _PUBLISHED.get(trainer, set())
    return {name: value for name, value in metrics.items() if name not in own}
