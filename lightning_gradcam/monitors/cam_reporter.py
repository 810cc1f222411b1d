"""Worker-side reporting for steps with CAMs: sheets, numbers, histograms, film strips and the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lightning_gradcam.archive import Archive
from lightning_gradcam.findings import write_findings
from lightning_gradcam.monitors.base import Reporter
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.evolution import LEAST_PIXELS, MOST_PAIRS, Evolving, late_numbers
from lightning_gradcam.monitors.meter import Meter
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.report import REPORT, write_report
from lightning_gradcam.sheets.cam_sheet import sheet
from lightning_gradcam.sinks import Histogram, Numbers
from lightning_gradcam.sinks.histograms import histograms_of
from lightning_gradcam.stats.settled import SETTLED_STEPS
from lightning_gradcam.storage import join

# An overlay with a larger share of colours hides the image.
MOST_OPAQUE = 0.6
# The fewest pixels that a probe takes in a film strip with few steps.
_ROW_PIXELS = 150_000


class CamReporter(Reporter):
    """Measures and draws CAMs.

    Args:
        monitor: What is explained, and how it is drawn.
        probes: The run's fixed inputs.
    """

    monitor: CamMonitor
    compared = SETTLED_STEPS

    def __init__(self, monitor: CamMonitor, probes: ProbeSet) -> None:
        super().__init__(monitor, probes)
        self._meter = Meter(monitor, probes)

    def remember(self, last: CamRecord, limits: Mapping[CamKey, FloatArray], before: Sequence[CamRecord] = ()) -> None:
        """Takes earlier recorded steps into account."""
        self._meter.remember(last, limits, before)

    def forget(self) -> None:
        """Starts over, because training continues from an earlier step."""
        self._meter.forget()

    def measured(self, record: CamRecord) -> CamRecord:
        """Returns the record with its numbers, and the limits of its maps so far."""
        return self._meter.measured(record)

    @property
    def limits(self) -> Mapping[CamKey, FloatArray]:
        """Each map's limits in the steps measured so far, ``[N, 2]``."""
        return dict(self._meter.limits)

    def pictures(self, record: CamRecord, limits: Mapping[CamKey, FloatArray]) -> dict[str, Picture]:
        """Returns a sheet for each layer and method.

        The inputs are the same at every step. If an overlay shows them, and the film strip has them without colours, a
        training's sheets leave them out: they are half of a sheet's bytes.
        """
        found, drawing, note = {}, self.monitor.drawing, ""
        pairs = dict.fromkeys((key.layer, key.method) for key in record.maps)
        stripped = self.archived and self.monitor.evolution and record.stage == "fit" and drawing.opacity <= MOST_OPAQUE
        # A strip of the first step shows each of them; those of many layers or probes leave some out.
        room = min(drawing.max_sheet_pixels, LEAST_PIXELS) // _ROW_PIXELS
        stripped = stripped and len(pairs) <= MOST_PAIRS and len(self.probes) <= room
        if stripped and {"input", "overlay"} <= set(drawing.columns):
            drawing = replace(drawing, columns=tuple(name for name in drawing.columns if name != "input"))
        for layer, method in pairs:
            if drawing is not self.monitor.drawing:
                note = f"inputs alone: {self.monitor.evolution_tag(layer, method)}"
            found[self.monitor.tag(layer, method)] = sheet(
                record,
                self.probes,
                layer=layer,
                method=method,
                drawing=drawing,
                title=self.monitor.name,
                limits=limits,
                note=note,
            )
            self.tick()
        return found

    def means(self, record: CamRecord) -> dict[str, float]:
        """Returns a measured step's numbers, means over the probes."""
        return self._meter.means(record)

    def numbers(self, record: CamRecord) -> dict[str, float]:
        """Returns all numbers of a measured step, means over the probes."""
        return self._meter.every_mean(record)

    def tags(self, record: CamRecord) -> tuple[str, ...]:
        """Returns the tags of all numbers that steps of such a record can have."""
        return self._meter.tags(record)

    def alarm(self, record: CamRecord) -> str | None:
        """Returns the alarm of ``min_energy_inside``, once per run."""
        return self._meter.alarm(record)

    def remarks(self, record: CamRecord) -> Iterable[str]:
        """Returns why maps are blank or not finite, once per layer."""
        return [*self._meter.vanishing(record), *self._meter.blanks(record), *self._meter.broken(record)]

    def histograms(self, record: CamRecord) -> dict[str, Histogram]:
        """Returns histograms of the gradients and of the channel weights."""
        return histograms_of(record.gradients, self.monitor.name, next(iter(record.scores)))

    def evolving(
        self,
        archive: Archive,
        limits: Mapping[CamKey, FloatArray],
        *,
        count: int | None = None,
        ended: bool,
        rows: bool,
    ) -> Evolving:
        """Returns the drawing of film strips and, at the end, animations into the archive's folder."""
        return Evolving(archive, self.monitor, self.probes, limits, ended=ended, rows=rows, count=count)

    def late_numbers(self, archive: Archive) -> Iterator[Numbers]:
        """Yields how far each step was from the last one, if all numbers are logged."""
        return late_numbers(archive, self._meter) if self.monitor.numbers == "all" else iter(())

    def findings(self, archive: Archive) -> tuple[Finding, ...]:
        """Writes ``findings.md``, and returns the findings."""
        return write_findings(archive)

    def report(self, archive: Archive) -> None:
        """Writes ``report.html``."""
        write_report([archive], join(archive.path, REPORT))
