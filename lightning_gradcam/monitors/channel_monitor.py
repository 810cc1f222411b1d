"""The base class of the monitors for feature maps and filter patterns: channels, as in archives and on sheets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from lightning_gradcam.archive import Manifest
from lightning_gradcam.monitors.base import Monitor
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.channel_record import ChannelKind, ChannelRecord
from lightning_gradcam.render.picture import Picture


class Channels(NamedTuple):
    """The results of observing channels.

    Attributes:
        pictures: Layer to its channels ``[N, C, h, w]``.
        chosen: Layer to the indices of these channels or filters.
        numbers: Layer to the channels' numbers, by name.
    """

    pictures: Mapping[str, Tensor]
    chosen: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class ChannelMonitor(Monitor):
    """A monitor for layers' channels, with a ``ChannelRecord`` for each step.

    Attributes:
        title: What its sheets show, such as ``"Feature maps"``.
        kind: The kind of archive and record.
        curve: The number that the report plots over the steps, one of :meth:`numbers`, and its title there.
    """

    title: ClassVar[str]
    kind: ClassVar[ChannelKind]
    curve: ClassVar[tuple[str, str]]

    @abstractmethod
    def channels(self, found: Any) -> Channels:
        """Returns the results of :meth:`observe` in the form of an archive's steps."""

    @abstractmethod
    def settings(self, found: Any) -> dict[str, Any]:
        """Returns the manifest's settings, in plain values: how the channels were found and are drawn."""

    @abstractmethod
    def sheet(self, record: ChannelRecord, layer: str, probes: ProbeSet) -> Picture:
        """Draws one layer's channels.

        Args:
            record: The step.
            layer: One of its layers.
            probes: The run's probes.
        """

    @abstractmethod
    def numbers(self, record: ChannelRecord) -> Mapping[str, Mapping[str, float]]:
        """Returns the step's numbers, by layer and name."""

    def manifest(self, probes: ProbeSet, found: Any, run: str) -> Manifest:
        """Returns the manifest for an archive of such channels; shapes of feature maps omit the probes' axis.

        Args:
            probes: The run's probes.
            found: The result of :meth:`observe`.
            run: The run's id.
        """
        own = 1 if self.kind == "features" else 0
        return Manifest(
            run=run,
            name=self.name,
            layers=tuple(found),
            methods=(),
            targets=(),
            score="logit",
            map_shapes={layer: list(maps.shape[own:]) for layer, maps in self.channels(found).pictures.items()},
            fingerprint=probes.fingerprint,
            kind=self.kind,
            settings=self.settings(found),
        )

    def record(self, found: Any, probes: ProbeSet, *, epoch: int, step: int, stage: str) -> ChannelRecord:
        """Copies the channels to the CPU and freezes them, with the step and epoch at which they were found."""
        pictures, chosen, numbers = self.channels(found)
        return ChannelRecord(
            epoch=epoch,
            step=step,
            stage=stage,
            kind=self.kind,
            # Patterns belong to no probe.
            probe_ids=probes.ids if self.kind == "features" else (),
            channels={layer: _array(maps) for layer, maps in pictures.items()},
            chosen=chosen,
            numbers={layer: {name: _array(n) for name, n in named.items()} for layer, named in numbers.items()},
        )

    def tag(self, layer: str) -> str:
        """Returns the loggers' tag for one sheet."""
        return f"{self.name}/{layer}"


def _array(values: Tensor) -> FloatArray:
    found: FloatArray = values.cpu().float().numpy()
    return found
