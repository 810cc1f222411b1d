"""One reading of an archive: what findings are made of, by step and probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from lightning_gradcam.stats.settled import are_close

# Numbers of maps that findings need in every step.
_STATS = ("drift", "energy_inside")
# Names shown of probes.
_LISTED = 5


@dataclass(frozen=True, eq=False)
class RunSurvey:
    """A run, as far as findings need it.

    Attributes:
        steps: The logged steps.
        epochs: Their epochs, -1 for the untrained model.
        last: The last step, with all its maps.
        probes: The probes, without their inputs.
        regions: Their masks or boxes, bool ``[N, H, W]``; ``None`` if no probe has one.
        main: For each layer the key that speaks for it: the first method's and target's.
        series: Each main key's numbers, ``[steps, N]``, NaN where there is none.
        settled: Each main key's first step from which the maps stay close to the last ones, and of how many probes
            that was judged there; the last step and 0 where they never do.
        metrics: What the trainer had measured, ``[steps]``, NaN where a step has no such metric.
    """

    steps: tuple[int, ...]
    epochs: tuple[int, ...]
    last: CamRecord
    probes: ProbeView
    regions: npt.NDArray[np.bool_] | None
    main: tuple[CamKey, ...]
    series: Mapping[CamKey, Mapping[str, FloatArray]]
    settled: Mapping[CamKey, tuple[int, int]]
    metrics: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, archive: Archive) -> RunSurvey | None:
        """Reads an archive, each step once, from the last to the first.

        Of all but the last step, maps are read only as far back as they may have been settled, and of as many steps as
        are compared in some ten seconds; everything else is stored with the steps. A step that was not measured has no
        numbers.

        Args:
            archive: Of CAMs.

        Returns:
            ``None`` if it has no step.

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
        reading = _Reading(archive, main, last, count)
        for row in reversed(range(count)):
            reading.take(row)
        found = reading.series, reading.settled, reading.metrics
        return cls(steps, epochs, last, probes.view, probes.regions, main, *found)

    @property
    def count(self) -> int:
        """How many steps were logged."""
        return len(self.steps)

    def when(self, row: int) -> str:
        """Returns what a step is called: its epoch, and its step where an epoch has several."""
        epoch = self.epochs[row]
        if epoch < 0:
            return "the untrained model"
        several = self.epochs.count(epoch) > 1
        return f"epoch {epoch}{f' (step {self.steps[row]})' if several else ''}"

    def ids(self, flags: Any) -> tuple[str, ...]:
        """Returns the ids of the probes whose flag is set."""
        return tuple(name for name, flag in zip(self.probes.ids, flags, strict=True) if flag)

    def listed(self, flags: Any) -> str:
        """Returns these probes' ids for a sentence, a few of them if they are many."""
        ids = [f"{name:.40}" for name in self.ids(flags)]
        more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
        return f"probe{'s' if len(ids) > 1 else ''} {', '.join(ids[:_LISTED])}{more}"

    def named(self, key: CamKey) -> str:
        """Returns what a sentence calls a layer, with the method where it is not the only one, or not Grad-CAM."""
        several = len({other.method for other in self.last.maps}) > 1
        return f"layer {key.layer!r}" + (f" ({key.method})" if several or key.method != "gradcam" else "")

    def trained(self) -> range:
        """Returns the places of the steps after the untrained model's."""
        return range(sum(epoch < 0 for epoch in self.epochs), self.count)

    def areas(self) -> FloatArray | None:
        """Returns the share of the picture that each probe's mask or box covers, NaN for a probe without one."""
        if self.regions is None:
            return None
        shares = self.regions.reshape(len(self.regions), -1).mean(axis=1)
        return np.where(shares > 0, shares, np.nan).astype(np.float32)

    def inside(self, key: CamKey) -> FloatArray:
        """Returns the share of each map's evidence inside its mask or box at the last step, NaN where unknown."""
        return np.asarray(self.series[key]["energy_inside"][-1])


def finding(
    kind: str,
    key: CamKey,
    probes: tuple[str, ...],
    epochs: tuple[int, ...],
    figures: Mapping[str, Any],
    text: str,
    advice: str,
) -> Finding:
    """Returns a finding about a layer's maps, with its kind's severity and figures as plain floats."""
    numbers = {name: float(value) for name, value in figures.items()}
    return Finding(kind, KINDS[kind].severity, key.layer, key.method, probes, epochs, numbers, text, advice)


class _Reading:
    """Fills the arrays of a survey, from the last step to the first."""

    def __init__(self, archive: Archive, main: tuple[CamKey, ...], last: CamRecord, count: int) -> None:
        self._archive, self._main, self._last, self._count = archive, main, last, count
        shape = count, len(last.probe_ids)
        self.series = {key: {name: np.full(shape, np.nan, np.float32) for name in _STATS} for key in main}
        self.settled = dict.fromkeys(main, (count - 1, 0))
        self.metrics: dict[str, npt.NDArray[np.float64]] = {}
        # Keys whose maps may have been settled still earlier, and how many steps may be compared.
        self._open = list(main)
        self._most = affordable({key: last.maps[key] for key in main})

    def take(self, row: int) -> None:
        """Reads one step; the last one has been read."""
        record = self._last
        if row < self._count - 1:
            if self._count - row > self._most:
                self._open = []
            record = self._archive.record(row, keys=self._main, maps=self._open)
            judged = {key: self._close(record, key) for key in self._open}
            self._open = [key for key, n in judged.items() if n]
            self.settled.update({key: (row, judged[key]) for key in self._open})
        for key in self._main:
            for name in _STATS:
                if name in record.numbers.get(key, {}):
                    self.series[key][name][row] = record.numbers[key][name]
        for name, value in record.metrics.items():
            self.metrics.setdefault(name, np.full(self._count, np.nan))[row] = value

    def _close(self, record: CamRecord, key: CamKey) -> int:
        """Returns of how many probes the mean drift from the last step is small; 0 where it is not, or unknown."""
        return are_close(record.maps[key], self._last.maps[key], record.changed_from(self._last).get(key.target))
