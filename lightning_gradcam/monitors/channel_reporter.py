"""Worker-side reporting for steps with feature maps or filter patterns: sheets, numbers, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_gradcam.archive import Archive
from lightning_gradcam.monitors.base import Reporter
from lightning_gradcam.monitors.channel_monitor import ChannelMonitor
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.report import REPORT, Gallery, Shot, write_report
from lightning_gradcam.report.gallery import places_for
from lightning_gradcam.storage import join


class ChannelReporter(Reporter):
    """Draws and counts channels.

    Args:
        monitor: What is observed, and how it is drawn.
        probes: The run's fixed inputs.
    """

    monitor: ChannelMonitor

    def remember(
        self, last: ChannelRecord, limits: Mapping[CamKey, FloatArray], before: Sequence[ChannelRecord] = ()
    ) -> None:
        """Ignores earlier steps, because channels are not compared."""

    def forget(self) -> None:
        """Ignores earlier steps."""

    def pictures(self, record: ChannelRecord, limits: Mapping[CamKey, FloatArray]) -> dict[str, Picture]:
        """Returns a sheet for each layer."""
        found = {}
        for layer in record.channels:
            found[self.monitor.tag(layer)] = self.monitor.sheet(record, layer, self.probes)
            self.tick()
        return found

    def means(self, record: ChannelRecord) -> dict[str, float]:
        """Returns the step's numbers."""
        return {
            f"{self.monitor.name}_stats/{layer}/{name}": value
            for layer, named in self.monitor.numbers(record).items()
            for name, value in named.items()
        }

    def report(self, archive: Archive) -> None:
        """Writes ``report.html`` with the sheets of all steps, or of as many as a page can hold."""
        write_report([], join(archive.path, REPORT), galleries=[gallery_of(archive, self.monitor)])


def gallery_of(archive: Archive, monitor: ChannelMonitor, *, title: str | None = None) -> Gallery:
    """Draws the sheets of a run.

    Args:
        archive: An archive of feature maps or filter patterns.
        monitor: Determines how the sheets are drawn.
        title: The run's title; by default the last two parts of the archive's path.

    Raises:
        ArchiveError: A step can't be read.
    """
    count = len(archive.steps)
    last = _Step.of(archive, monitor, count - 1)
    # Only as many as fit are drawn, one at a time: all sheets of a run can take gigabytes.
    shown = places_for(count, last.shots.values())
    steps = [_Step.of(archive, monitor, place) if place < count - 1 else last for place in shown]
    shots = {layer: [step.shots[layer] for step in steps] for layer in last.shots}
    numbers = {layer: [step.numbers[layer] for step in steps] for layer in last.shots}
    named = title or "/".join(archive.path.rstrip("/").split("/")[-2:])
    remark = f"{len(shown)} of {count} steps, evenly chosen" if len(shown) < count else ""
    return Gallery(named, monitor.title, monitor.curve[1], shots, numbers, remark)


@dataclass(frozen=True)
class _Step:
    """One step's sheets and numbers, by layer."""

    shots: dict[str, Shot]
    numbers: dict[str, float]

    @classmethod
    def of(cls, archive: Archive, monitor: ChannelMonitor, place: int) -> _Step:
        record = archive.channel_record(place)
        told, name = monitor.numbers(record), monitor.curve[0]
        return cls(
            {
                layer: Shot(record.epoch, record.step, monitor.sheet(record, layer, archive.probes))
                for layer in record.channels
            },
            {layer: told.get(layer, {}).get(name, float("nan")) for layer in record.channels},
        )
