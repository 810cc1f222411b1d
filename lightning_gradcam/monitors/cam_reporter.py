"""Worker-side reporting for steps with CAMs: sheets, numbers, histograms, film strips and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lightning_gradcam.archive import Archive
from lightning_gradcam.findings import write_findings
from lightning_gradcam.monitors.evolution import LEAST_PIXELS, MOST_PAIRS, Evolving
from lightning_gradcam.monitors.meter import Meter
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.report import REPORT, write_report
from lightning_gradcam.sheets.cam_sheet import sheet
from lightning_gradcam.sinks import Histogram, Numbers
from lightning_gradcam.sinks.histograms import histograms_of
from lightning_gradcam.stats import affordable
from lightning_gradcam.storage import join

# An overlay with a larger share of colours hides the image.
MOST_OPAQUE = 0.6
# Minimum number of pixels that a probe occupies in a film strip with few steps.
_ROW_PIXELS = 150_000


class CamReporter(Meter):
    """Measures and draws CAMs.

    Args:
        monitor: What is explained, and how it is drawn.
        probes: The run's probes.
    """

    def pictures(self, record: CamRecord, limits: Mapping[CamKey, FloatArray]) -> dict[str, Picture]:
        """Returns a sheet for each layer and method.

        The inputs are the same at every step, and half of a sheet's bytes. During training, sheets omit them if
        overlays show them and the film strip contains them without colours.
        """
        found, drawing, note = {}, self.monitor.drawing, ""
        pairs = dict.fromkeys((key.layer, key.method) for key in record.maps)
        stripped = self.archived and self.monitor.evolution and record.stage == "fit" and drawing.opacity <= MOST_OPAQUE
        # The strip for the first step then shows every probe; with many layers or probes, strips omit some.
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

    def histograms(self, record: CamRecord) -> dict[str, Histogram]:
        """Returns histograms of the gradients and of the channel weights."""
        return histograms_of(record.gradients, self.monitor.name, next(iter(record.scores)))

    def evolving(
        self, archive: Archive, limits: Mapping[CamKey, FloatArray], count: int, *, ended: bool, rows: bool
    ) -> Evolving:
        """Returns a drawing of film strips and, at the end, animations; it writes to the archive's folder."""
        return Evolving(archive, self.monitor, self.probes, limits, ended=ended, rows=rows, count=count)

    def late_numbers(self, archive: Archive) -> Iterator[Numbers]:
        """Yields how far each step was from the last one, if all numbers are logged."""
        if self.monitor.numbers != "all":
            return
        count = len(archive.steps)
        last = archive.record(count - 1)
        # If maps are very many or large, only some steps are compared, evenly spaced.
        for place in evenly(count, affordable(last.maps), ends=True):
            record = archive.record(place)
            if means := self.means_to_last(record, last):
                yield Numbers(record.step, record.epoch, means)

    def findings(self, archive: Archive) -> tuple[Finding, ...]:
        """Writes ``findings.md``, and returns the findings."""
        return write_findings(archive)

    def report(self, archive: Archive) -> None:
        """Writes ``report.html``."""
        write_report([archive], join(archive.path, REPORT))
