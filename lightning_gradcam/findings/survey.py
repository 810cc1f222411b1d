"""Reads an archive once and collects the data for findings by step and probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.archive import Archive
from lightning_gradcam.findings.kinds import KINDS
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.stats import affordable
from lightning_gradcam.stats.settled import are_close, comparable

# Statistics that findings need at every step.
_STATS = ("drift", "energy_inside")
# Maximum number of probe names to list.
_LISTED = 5


@dataclass(frozen=True, eq=False)
class RunSurvey:
    """A run's data for findings.

    Attributes:
        steps: The logged steps.
        epochs: The epoch of each step, -1 for the untrained model.
        last: The record of the last step, with all its maps.
        probes: The probes, without their inputs.
        regions: The probes' masks or boxes, bool ``[N, H, W]``; ``None`` if no probe has one.
        main: One key for each layer, with its first method and target.
        series: Statistics for each main key, ``[steps, N]``, NaN if missing.
        settled: For each main key, the index of the first step from which maps stay close to the last ones, and flags
            for the probes compared; the last index and no flags if the maps never settle.
        metrics: The trainer's metrics by name, ``[steps]``, NaN if a step lacks the metric.
    """

    steps: tuple[int, ...]
    epochs: tuple[int, ...]
    last: CamRecord
    probes: ProbeView
    regions: npt.NDArray[np.bool_] | None
    main: tuple[CamKey, ...]
    series: Mapping[CamKey, Mapping[str, FloatArray]]
    settled: Mapping[CamKey, tuple[int, npt.NDArray[np.bool_]]]
    metrics: Mapping[str, npt.NDArray[np.float64]]

    @classmethod
    def of(cls, archive: Archive) -> RunSurvey | None:
        """Reads each step in an archive once, from the last to the first.

        Apart from the last step, maps are read only as far back as they may have settled, and for at most as many steps
        as can be compared in about ten seconds. All other data is stored with the steps. A step that was not measured
        has no statistics.

        Args:
            archive: An archive of CAMs.

        Returns:
            The survey; ``None`` if the archive has no steps.

        Raises:
            ArchiveError: A step is damaged.
        """
        steps, epochs = archive.steps, archive.epochs
        count = len(steps)
        if not count:
            return None
        last = archive.record(count - 1)
        probes = archive.probes
        first: dict[str, CamKey] = {}
        for key in last.maps:
            first.setdefault(key.layer, key)
        main = tuple(first.values())
        shape = count, len(last.probe_ids)
        series = {key: {name: np.full(shape, np.nan, np.float32) for name in _STATS} for key in main}
        settled = {key: (count - 1, np.zeros(len(last.probe_ids), np.bool_)) for key in main}
        metrics: dict[str, npt.NDArray[np.float64]] = {}
        # Keys whose maps may have settled even earlier, and the maximum number of steps to compare.
        unsettled, most = list(main), affordable({key: last.maps[key] for key in main})
        for row in reversed(range(count)):
            record = last
            if row < count - 1:
                if count - row > most:
                    unsettled = []
                record = archive.record(row, keys=main, maps=unsettled)
                changed = record.changed_from(last)
                for key in tuple(unsettled):
                    pair = record.maps[key], last.maps[key], changed.get(key.target)
                    if are_close(*pair):
                        settled[key] = row, comparable(*pair)
                    else:
                        unsettled.remove(key)
            for key, stats in series.items():
                for name in stats.keys() & record.numbers.get(key, {}).keys():
                    stats[name][row] = record.numbers[key][name]
            for name, value in record.metrics.items():
                metrics.setdefault(name, np.full(count, np.nan))[row] = value
        return cls(steps, epochs, last, probes.view, probes.regions, main, series, settled, metrics)

    @property
    def count(self) -> int:
        """Number of logged steps."""
        return len(self.steps)

    def when(self, row: int = -1) -> str:
        """Returns a step's label, by default for the last step: its epoch, plus its step if the epoch has several."""
        epoch = self.epochs[row]
        if epoch < 0:
            return "the untrained model"
        return f"epoch {epoch}" + (f" (step {self.steps[row]})" if self.epochs.count(epoch) > 1 else "")

    def ids(self, flags: Any) -> tuple[str, ...]:
        """Returns the ids of the probes whose flag is set."""
        return tuple(name for name, flag in zip(self.probes.ids, flags, strict=True) if flag)

    def listed(self, flags: Any) -> str:
        """Returns the ids of the probes whose flag is set, as text for a sentence; at most five are listed."""
        ids = [f"{name:.40}" for name in self.ids(flags)]
        more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
        return f"probe{'s' if len(ids) > 1 else ''} {', '.join(ids[:_LISTED])}{more}"

    def named(self, key: CamKey) -> str:
        """Returns a layer's label for a sentence, with the method unless Grad-CAM is the only method."""
        several = len({other.method for other in self.last.maps}) > 1
        return f"layer {key.layer!r}" + (f" ({key.method})" if several or key.method != "gradcam" else "")

    def areas(self) -> FloatArray | None:
        """Returns the fraction of the image covered by each probe's mask or box, NaN for a probe without one."""
        if self.regions is None:
            return None
        shares = self.regions.reshape(len(self.regions), -1).mean(axis=1)
        return np.where(shares > 0, shares, np.nan).astype(np.float32)

    def inside(self, key: CamKey) -> FloatArray:
        """Returns the fraction of each map's evidence inside its mask or box at the last step, NaN if unknown."""
        return np.asarray(self.series[key]["energy_inside"][-1])

    def finding(
        self, kind: str, key: CamKey, flags: Any, figures: Mapping[str, Any], text: str, advice: str, row: int = -1
    ) -> Finding:
        """Returns a finding about a layer's maps for the flagged probes at one step, by default the last."""
        numbers = {name: float(value) for name, value in figures.items()}
        severity, epochs, steps = KINDS[kind].severity, (self.epochs[row],), (self.steps[row],)
        return Finding(kind, severity, key.layer, key.method, self.ids(flags), epochs, numbers, text, advice, steps)
