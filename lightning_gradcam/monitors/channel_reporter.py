"""Worker-side reporting for steps with feature maps or filter patterns: sheets, numbers, and the page."""

from __future__ import annotations

from collections.abc import Mapping

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
        probes: The run's probes.
    """

    monitor: ChannelMonitor

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
        """Writes ``report.html`` with the sheets for all steps, or for as many as fit on a page."""
        write_report([], join(archive.path, REPORT), galleries=[gallery_of(archive, self.monitor)])


def gallery_of(archive: Archive, monitor: ChannelMonitor) -> Gallery:
    """Draws a run's sheets.

    Args:
        archive: An archive of feature maps or filter patterns.
        monitor: Determines how the sheets are drawn.

    Raises:
        ArchiveError: A step can't be read.
    """
    count = len(archive.steps)

    def step(place: int) -> dict[str, tuple[Shot, float]]:
        record = archive.channel_record(place)
        told = monitor.numbers(record)
        return {
            layer: (
                Shot(record.epoch, record.step, monitor.sheet(record, layer, archive.probes)),
                told.get(layer, {}).get(monitor.curve[0], float("nan")),
            )
            for layer in record.channels
        }

    last = step(count - 1)
    # Draw only as many as fit, one after the other: all sheets of a run can take gigabytes.
    shown = places_for(count, [shot for shot, _ in last.values()])
    steps = [step(place) if place < count - 1 else last for place in shown]
    shots = {layer: [each[layer][0] for each in steps] for layer in last}
    numbers = {layer: [each[layer][1] for each in steps] for layer in last}
    remark = f"{len(shown)} of {count} steps, evenly chosen" if len(shown) < count else ""
    title = "/".join(archive.path.rstrip("/").split("/")[-2:])
    return Gallery(title, monitor.title, monitor.curve[1], shots, numbers, remark)
