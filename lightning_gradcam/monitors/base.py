"""What a callback observes at every logged step: CAMs, feature maps or filter patterns, behind one interface.

The recorder knows only this interface: a monitor observes the model on the training thread, and its reporter measures
and draws the resulting record on the recording thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import nn

from lightning_gradcam.archive import Archive, Manifest
from lightning_gradcam.capture.inputs import Forward, Inputs
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks import Evolution, Histogram, Numbers

if TYPE_CHECKING:
    from typing_extensions import Self


# The results of one logged step, frozen and on the CPU.
Record = CamRecord | ChannelRecord


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and how it receives the probes.

    Attributes:
        model: The model to explain, in evaluation mode under :attr:`guard`.
        load: Returns the inputs for ``forward``, on the model's device, for the probes from a start index to a stop
            index.
        forward: Computes the model's output from the inputs.
        guard: Returns a context in which the model can be used; on exit, the model is restored.
        halve: Whether to use half as many probes at once if memory runs out.
        from_one: The largest label in the probes' data set if its labels begin at 1; ``None`` otherwise.
    """

    model: nn.Module
    load: Callable[[int, int], Inputs]
    forward: Forward
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext
    halve: bool = True
    from_one: int | None = None

    @classmethod
    def of(cls, model: nn.Module, probes: ProbeSet) -> Subject:
        """Returns a subject for a model that accepts the probes' inputs unchanged, for custom training loops.

        Args:
            model: A model that returns logits; its parameters determine the device.
            probes: The run's probes.
        """
        device = next((parameter.device for parameter in model.parameters()), None)

        def load(start: int, stop: int) -> Inputs:
            picture = probes.inputs[start:stop].to(device)
            return Inputs(picture, picture)

        return cls(model, load, model, partial(preserved, model))

    def seen(self, monitor: Monitor, probes: ProbeSet, *, trial: bool = False) -> Any:
        """Returns a monitor's results for the model, on the model's device; see :meth:`Monitor.observe`."""
        with self.guard():
            return monitor.observe(self, probes, trial=trial)


@dataclass(frozen=True)
class Monitor(ABC):
    """What to observe, in plain values; runs on the training thread.

    Its fields have the names of the callbacks' options, and their unchanged values.

    Attributes:
        name: The callback's name, used for tags and the archive's folder.
        layers: The user's layers, or the names to which they were resolved.
        layout: The meaning of the layers' axes, if the user states it.
        batch_size: Maximum number of probes per forward pass.
        evolution: Draw film strips during the run, and the whole run at its end; for channels, only the report.
        tried: Whether the monitor has already run on this model, so everything independent of its weights is known.
    """

    name: str
    layers: LayerSpec
    _: KW_ONLY
    layout: str | Mapping[str, str] | None = None
    batch_size: int = 32
    evolution: bool = True
    tried: bool = False

    @abstractmethod
    def observe(self, subject: Subject, probes: ProbeSet, *, trial: bool = False) -> Any:
        """Observes the model and returns the results, on the model's device.

        Args:
            subject: The model, guarded by the caller and in evaluation mode.
            probes: The run's probes.
            trial: Only find out whether it works, and the layers' names and shapes. The first two probes are enough,
                provided that the other probes' labels are checked.
        """

    def of(self, probes: ProbeSet) -> Self:
        """Returns the monitor completed with data from the probes, such as class names."""
        return self

    def pinned(self, found: Any) -> Self:
        """Returns the monitor with the resolved layers and layouts, which are searched only once per run."""
        layouts = {layer: str(layout) for layer, layout in self.layouts_of(found).items()}
        return replace(self, layers=list(layouts), layout=layouts, tried=True)

    def layouts_of(self, found: Any) -> Mapping[str, Layout]:
        """Returns the resolved layers, with their layouts."""
        layouts: Mapping[str, Layout] = found.layouts
        return layouts

    @abstractmethod
    def manifest(self, probes: ProbeSet, found: Any, run: str) -> Manifest:
        """Returns the manifest for an archive of such records.

        Args:
            probes: The run's probes.
            found: The result of :meth:`observe`.
            run: The run's id.
        """

    @abstractmethod
    def record(self, found: Any, probes: ProbeSet, *, epoch: int, step: int, stage: str) -> Record:
        """Copies the results to the CPU and freezes them.

        Args:
            found: The result of :meth:`observe`.
            probes: The run's probes.
            epoch: The epoch, counted from 0.
            step: The x value.
            stage: ``"fit"``, ``"validate"`` or ``"test"``.
        """


class EvolutionParts(Protocol):
    """A drawing of the run so far, in parts that take a few seconds each."""

    def parts(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yields each part's name for reports, and the function that draws it."""

    def result(self) -> Evolution:
        """Returns what the parts have drawn; parts that failed are missing."""


class Reporter(ABC):
    """Measures and draws a run's steps in their order, on the recording thread and without torch.

    Attributes:
        monitor: What to observe.
        probes: The run's probes.
        tick: Called between the sheets of a step, because the drawing thread also has other work.
        archived: Whether the run has an archive, from which film strips are drawn.
        compared: The number of previous steps with which a step is compared.
    """

    compared: ClassVar[int] = 1

    def __init__(self, monitor: Any, probes: ProbeSet) -> None:
        self.monitor = monitor
        self.probes = probes
        self.tick: Callable[[], object] = lambda: None
        self.archived = False

    @property
    def limits(self) -> Mapping[CamKey, FloatArray]:
        """Each map's limits in the steps measured so far, ``[N, 2]``; later steps do not change them."""
        return {}

    def remember(  # noqa: B027 - channels are not compared
        self, last: Any, limits: Mapping[CamKey, FloatArray], before: Sequence[Any] = ()
    ) -> None:
        """Takes earlier recorded steps into account; does nothing by default.

        Args:
            last: The latest of these steps.
            limits: Each map's largest limits in any of them, ``[N, 2]``; empty for channels.
            before: The steps before the latest, oldest first: with the latest, up to :attr:`compared` steps; empty if
                they can't be read.
        """

    def forget(self) -> None:  # noqa: B027 - as above
        """Forgets all measured steps, because training continues from an earlier step; does nothing by default."""

    def measured(self, record: Any) -> Any:
        """Returns the next step's record with its numbers; by default it already has them."""
        return record

    @abstractmethod
    def pictures(self, record: Any, limits: Mapping[CamKey, FloatArray]) -> dict[str, Picture]:
        """Returns one step's sheets by tag.

        Args:
            record: The step.
            limits: :attr:`limits` when the step was measured; later steps may have been measured since.
        """

    @abstractmethod
    def means(self, record: Any) -> dict[str, float]:
        """Returns a measured step's numbers for the loggers, by tag."""

    def numbers(self, record: Any) -> dict[str, float]:
        """Returns all numbers of a measured step by tag; loggers may get only some of them."""
        return self.means(record)

    def histograms(self, record: Any) -> Mapping[str, Histogram]:
        """Returns a step's histograms by tag; none by default."""
        return {}

    def tags(self, record: Any) -> tuple[str, ...]:
        """Returns the tags of all numbers that steps with such a record can have; none by default.

        Unlike the other methods, this one may be called on any thread, because it changes nothing.

        Args:
            record: An unmeasured record of some of the probes.
        """
        return ()

    def alarm(self, record: Any) -> str | None:
        """Returns the user's alarm, once per run, if a measured step raises it; none by default."""
        return None

    def remarks(self, record: Any) -> Iterable[str]:
        """Returns warnings for the user after a measured step; none by default."""
        return ()

    def evolving(
        self, archive: Archive, limits: Mapping[CamKey, FloatArray], count: int, *, ended: bool, rows: bool
    ) -> EvolutionParts | None:
        """Returns a drawing of the run so far, in parts, which writes to the archive's folder; ``None`` by default.

        Args:
            archive: The archive, with at least one step.
            limits: :attr:`limits` after the latest of the drawn steps.
            count: Use only the first ``count`` steps.
            ended: Whether the run is over.
            rows: Whether any sink supports tables.
        """
        return None

    def late_numbers(self, archive: Archive) -> Iterator[Numbers]:
        """Yields the numbers that are known only at the end of a run; none by default."""
        return iter(())

    def findings(self, archive: Archive) -> tuple[Finding, ...]:
        """Writes the run's findings to the archive's folder, and returns them; none by default."""
        return ()

    @abstractmethod
    def report(self, archive: Archive) -> None:
        """Writes the run's page to the archive's folder."""
