"""What a recorder is given: the model that is looked at, and where the results go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from lightning_gradcam.capture.inputs import Forward, Inputs
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.monitors.base import Monitor
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.sinks import Sink


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and how the probes get into it.

    Attributes:
        model: What is explained.
        load: Returns what ``forward`` takes, on the model's device, of the probes from one place to before another.
        forward: From inputs to the model's output.
        guard: A context in which the model can be used and is given back as it was.
        halve: Take half as many probes at once where memory does not suffice.
    """

    model: nn.Module
    load: Callable[[int, int], Inputs]
    forward: Forward
    guard: Callable[[], AbstractContextManager[Any]]
    halve: bool = True

    @classmethod
    def of(cls, model: nn.Module, probes: ProbeSet) -> Subject:
        """Returns a model that takes the probes' inputs as they are, in a training loop of one's own.

        Args:
            model: It returns logits; its parameters say on which device.
            probes: The run's.
        """
        device = next((parameter.device for parameter in model.parameters()), None)

        def load(start: int, stop: int) -> Inputs:
            picture = probes.inputs[start:stop].to(device)
            return Inputs(picture, picture)

        return cls(model, load, model, partial(preserved, model))

    def seen(self, monitor: Monitor, probes: ProbeSet, *, trial: bool = False) -> Any:
        """Returns what a monitor finds in the model, on the model's device.

        Args:
            monitor: What is looked at.
            probes: The run's.
            trial: See :meth:`Monitor.observe`.
        """
        with self.guard():
            return monitor.observe(self.model, self.load, probes, self.forward, halve=self.halve, trial=trial)


@dataclass(frozen=True)
class Destination:
    """Where a run's results go.

    Attributes:
        folder: What the archive's folder stands in, local or a URL; ``None``: nothing is written.
        loggers: Those that pictures and numbers go to.
        sinks: Further ones.
        run: The run's own id.
        resumed: What a checkpoint kept of the run that goes on here, empty without one.
        copy_steps: Take over that run's steps.
    """

    folder: str | None
    loggers: Sequence[object] = ()
    sinks: Sequence[Sink] = ()
    run: str = ""
    resumed: Mapping[str, Any] | None = None
    copy_steps: bool = True
