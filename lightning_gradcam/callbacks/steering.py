"""Numbers that steer: put where Lightning's callbacks look, the same on every rank, and an alarm that may act."""

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
# The method of Lightning's EarlyStopping that looks at the number.
_CHECK = "_run_early_stopping_check"

# What callbacks of this package have put among a trainer's metrics.
_PUBLISHED: WeakKeyDictionary[Trainer, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SteeringOptions:
    """What a run's numbers may do to its training.

    Attributes:
        monitor: Put all numbers into ``trainer.callback_metrics``, none, or those of these names.
        on_alarm: What the alarm does.
        min_energy_inside: The alarm's threshold; ``None`` without an alarm.
    """

    monitor: bool | Sequence[str] = False
    on_alarm: OnAlarm = "warn"
    min_energy_inside: float | None = None


class _Held:
    """In the place of an EarlyStopping's method: calls it where there is something new to look at.

    A copy of the EarlyStopping, also by pickle, has the method itself.
    """

    def __init__(self, callback: Any, check: Callable[..., Any], is_new: Callable[[Any], bool]) -> None:
        self._callback, self._check, self._is_new = callback, check, is_new

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._check(*args, **kwargs) if self._is_new(self._callback) else None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Called while the copy is still empty, this finds the method of its class.
        return getattr, (self._callback, _CHECK)


class Steering:
    """What of a run's numbers its trainer knows. Rank zero measures; all ranks are told the same.

    Args:
        options: What is asked for.
        name: The callback's.
        failures: Reports what fails.
        log_dir: Returns the run's folder on rank zero, where the checkpoints of a trainer without its own go.
    """

    def __init__(
        self, options: SteeringOptions, name: str, failures: Failures, log_dir: Callable[[], str | None]
    ) -> None:
        self._options = options
        self._name = name
        self._failures = failures
        self._log_dir = log_dir
        # The last step's value of each number, NaN where it has none, and which of them the latest step has.
        self._numbers: dict[str, float] = {}
        self._renewed: list[str] = []
        # How many values each number has had, and how many of them each EarlyStopping has looked at.
        self._values: Counter[str] = Counter()
        self._looked_at: Counter[int] = Counter()
        # Rings until :meth:`act`; where its checkpoint goes.
        self._alarm, self._path = False, ""
        # Each EarlyStopping that is held back, with the method that a user had put on it.
        self._held: list[tuple[Any, dict[str, Any]]] = []

    @property
    def active(self) -> bool:
        """Whether training waits for the numbers of a logged step."""
        return bool(self._options.monitor) or self._options.on_alarm != "warn"

    def know(self, host: Host, tags: Sequence[str]) -> None:
        """Takes the names of all numbers that the run can have.

        Args:
            host: The trainer.
            tags: The names.

        Raises:
            ConfigurationError: Another name is asked for.
        """
        asked = self._asked(host)
        for wanted in asked:
            if wanted not in tags:
                near = did_you_mean(wanted, tags, limit=5)
                raise ConfigurationError(
                    f"monitor: no number of this run is named {wanted!r}{near}; energy_inside and pointing_game need"
                    " probes with masks or boxes"
                )
        self._numbers = self._known(tags if self._options.monitor is True else asked)

    def begin(self, host: Host) -> None:
        """A stage begins, on every rank: the numbers exist, as NaN or with the last value of a run that goes on."""
        # What an earlier stage has measured is no news for EarlyStopping.
        self._values.clear()
        self._looked_at.clear()
        if not self._options.monitor and (missing := self._looked_for(host)):
            rank_zero_warn(
                f"lightning-gradcam: another callback monitors {missing[0]!r}, which is not in"
                " trainer.callback_metrics; if it is a number of GradCAMCallback, give that monitor=True"
            )
        if self.active:
            # Without names from :meth:`know` yet: a model or probes that come with the first batches.
            self._numbers = self._known([*self._numbers, *self._asked(host)])
            self.publish(host)

    def take(self, recorder: Recorder, blocked: float) -> float:
        """Waits for the numbers of the step that a recorder holds, if they steer.

        Args:
            recorder: The run's.
            blocked: The seconds that training has waited for the step so far.

        Returns:
            The same with the wait.
        """
        if not self.active:
            return blocked
        measured, blocked = recorder.measured()
        self._renewed = [name for name in self._numbers if name in measured.numbers]
        if measured.numbers:
            # NaN for a number that no probe has: the last one would be taken for that of these weights.
            self._numbers = {name: measured.numbers.get(name, math.nan) for name in self._numbers}
        self._alarm = measured.alarm
        return blocked

    def publish(self, host: Host) -> None:
        """Puts rank zero's numbers among the metrics of every rank, at a place that all ranks come to."""
        if not self.active or host.checking:
            return
        path = self._checkpoint(host) if self._alarm and host.trainer.is_global_zero else ""
        said = host.trainer.strategy.broadcast((self._numbers, self._renewed, self._alarm, path))
        self._numbers, renewed, self._alarm, self._path = said
        self._values.update(renewed)
        self._renewed = []
        # Not `trainer.callback_metrics`: reading it computes the user's metrics, at a hook where they are not complete.
        metrics: dict[str, Any] = host.trainer._logger_connector._callback_metrics
        metrics.update({name: torch.tensor(v, device=host.module.device) for name, v in self._numbers.items()})
        _PUBLISHED.setdefault(host.trainer, set()).update(self._numbers)
        self._hold_back(host)

    def act(self, host: Host) -> None:
        """Does what the alarm is to do, on every rank."""
        rings, self._alarm = self._alarm, False
        if not rings or not host.fitting or host.replays:
            return
        said = f"lightning-gradcam: min_energy_inside={self._options.min_energy_inside:g} was not reached, and"
        if self._options.on_alarm == "stop":
            host.trainer.should_stop = True
            rank_zero_warn(f"{said} on_alarm='stop' ends the training here, as EarlyStopping would")
        elif self._options.on_alarm == "checkpoint" and self._path and self._saved(host, self._path):
            rank_zero_info(f"{said} on_alarm='checkpoint' has saved {self._path}")

    def release(self) -> None:
        """Leaves the trainer's callbacks as they were."""
        for callback, before in self._held:
            vars(callback).pop(_CHECK, None)
            vars(callback).update(before)
        self._held = []

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: the last values."""
        known = {name: value for name, value in self._numbers.items() if not math.isnan(value)}
        return {"numbers": known} if known else {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state` returned."""
        self._numbers = dict(state.get("numbers", {}))

    def _asked(self, host: Host) -> list[str]:
        """Returns the names given as an option, and those that other callbacks of the trainer have to find."""
        if not self._options.monitor:
            return []
        listed = [] if self._options.monitor is True else list(self._options.monitor)
        return list(dict.fromkeys([*listed, *self._looked_for(host)]))

    def _looked_for(self, host: Host) -> list[str]:
        """Returns the names under this callback's that other callbacks of the trainer have to find."""
        callbacks: list[Any] = host.trainer.callbacks  # type: ignore[attr-defined]
        names = [str(getattr(each, "monitor", "")) for each in callbacks if getattr(each, "strict", True)]
        return [name for name in names if name.startswith(f"{self._name}_stats/")]

    def _known(self, names: Sequence[str]) -> dict[str, float]:
        return {name: self._numbers.get(name, math.nan) for name in names}

    def _hold_back(self, host: Host) -> None:
        """Has EarlyStopping look once at each value of a number, whose epochs its patience then counts.

        It would stop at the NaN before the first value, and count the epochs that are not logged as no better.
        """
        for callback in host.trainer.callbacks:  # type: ignore[attr-defined]
            # A user's own class may have this name and nothing else in common.
            own = "EarlyStopping" in kinds(callback) and str(getattr(callback, "monitor", None)) in self._numbers
            if own and hasattr(callback, _CHECK) and all(callback is not held for held, _ in self._held):
                self._held.append((callback, {_CHECK: vars(callback)[_CHECK]} if _CHECK in vars(callback) else {}))
                vars(callback)[_CHECK] = _Held(callback, getattr(callback, _CHECK), self._is_new)

    def _is_new(self, callback: Any) -> bool:
        name = str(callback.monitor)
        if name not in self._numbers:
            # It looks at something else by now.
            return True
        seen, self._looked_at[id(callback)] = self._looked_at[id(callback)], self._values[name]
        return self._values[name] > seen

    def _checkpoint(self, host: Host) -> str:
        """Returns where the alarm's checkpoint goes: beside the others, with the reason in its name."""
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
                raise  # the others wait in the middle of it
            # At its end, the other ranks wait for all.
            host.trainer.strategy.barrier("Trainer.save_checkpoint")
            self._failures.failed(_SAVING, host.step, error)
            return False
        return True


def without_published(trainer: Trainer, metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns a trainer's metrics without those that this package's callbacks have put there."""
    own = _PUBLISHED.get(trainer, set())
    return {name: value for name, value in metrics.items() if name not in own}
