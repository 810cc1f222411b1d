"""Numbers of every logged step: measured once, kept with its record, and averaged for the loggers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from lightning_gradcam.errors import ProbeError, printable
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.blank import blank_remarks
from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH, CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.gradients import vanished_layers, vanished_of, vanishing_remark
from lightning_gradcam.render.scale import both_limits, raise_limits
from lightning_gradcam.stats import DEFAULT, STATS, measure, to_last
from lightning_gradcam.stats.boxes import known_boxes, picture_size


class Meter:
    """Measures steps in their order; each is compared with the one before.

    Attributes:
        limits: The values that each map's colours reach to so far, ``[N, 2]``, as :attr:`CamRecord.limits`.

    Args:
        monitor: Its ``min_energy_inside`` is the alarm.
        probes: Their masks or boxes are what maps are held against.

    Raises:
        ProbeError: There is an alarm, and no probe has a mask or box.
    """

    def __init__(self, monitor: CamMonitor, probes: ProbeSet) -> None:
        self.limits: dict[CamKey, FloatArray] = {}
        self._monitor = monitor
        self._regions = probes.regions
        self._boxes, self._size = known_boxes(probes), picture_size(probes)
        self._before: CamRecord | None = None
        self._alarmed = False
        self._vanished: set[str] = set()
        self._blank: set[str] = set()
        if monitor.min_energy_inside is not None and (self._regions is None or not self._regions.any()):
            raise ProbeError(
                f"min_energy_inside: got {monitor.min_energy_inside}, but no probe has a mask or a box to compare the"
                " maps with; give probes=ProbeSet(..., masks=...) or boxes=, define probe_mask(index) on the data set,"
                " or leave min_energy_inside out"
            )

    def measured(self, record: CamRecord) -> CamRecord:
        """Returns the record with its numbers, and the limits of its maps so far.

        Args:
            record: The next step's.
        """
        before = self._before
        numbers = measure(
            record.maps,
            None if before is None else before.maps,
            self._regions,
            boxes=self._boxes,
            size=self._size,
            changed=None if before is None else record.changed_from(before),
        )
        self._before = record
        raise_limits(self.limits, {key: both_limits(maps) for key, maps in record.maps.items()})
        return replace(
            record,
            numbers=MappingProxyType({key: MappingProxyType(stats) for key, stats in numbers.items()}),
            limits=MappingProxyType({key: self.limits[key] for key in record.maps}),
        )

    def remember(self, last: CamRecord, limits: Mapping[CamKey, FloatArray]) -> None:
        """Takes the steps into account that were measured earlier.

        Args:
            last: The latest of them.
            limits: Each map's largest in any of them, ``[N, 2]``.
        """
        self._before = last
        self.limits = dict(limits)

    def forget(self) -> None:
        """Begins anew: training continues from an earlier step."""
        self.limits = {}
        self._before = None

    def means(self, record: CamRecord) -> dict[str, float]:
        """Returns a measured step's numbers by tag: means over the probes that have the number, or how many do.

        What no probe has is left out, and so are all but a few numbers, unless the monitor's ``numbers`` is ``"all"``.

        Args:
            record: As :meth:`measured` returned it.
        """
        found: dict[str, FloatArray] = {}
        counts: dict[str, FloatArray] = {}
        every = self._monitor.numbers == "all"
        for place, target in enumerate(record.scores if every else ()):
            middle = "" if place == 0 else f"/{target}"
            found[f"{self._monitor.name}_stats{middle}/score"] = record.scores[target]
            found[f"{self._monitor.name}_stats{middle}/confidence"] = record.confidences.get(
                target, np.zeros(0, np.float32)
            )
        for key, stats in record.numbers.items():
            for name, values in stats.items():
                if not every and name not in DEFAULT:
                    continue
                kind = counts if name in STATS and STATS[name].counted else found
                kind[f"{self._monitor.stats_tag(key)}/{name}"] = values
        for (layer, target), values in vanished_of(record.gradients).items():
            found[f"{self._monitor.stats_tag(CamKey(layer, 'gradcam', target))}/vanished"] = values
        return _means(found) | {printable(tag): float(np.nansum(values)) for tag, values in counts.items()}

    def vanishing(self, record: CamRecord) -> list[str]:
        """Returns a warning, once per layer, where no gradient reaches it in a trained step."""
        if record.epoch == UNTRAINED_EPOCH:
            return []
        new = [layer for layer in vanished_layers(record.gradients) if layer not in self._vanished]
        self._vanished.update(new)
        return [vanishing_remark(layer, epoch=record.epoch, step=record.step, score=record.score) for layer in new]

    def blanks(self, record: CamRecord) -> list[str]:
        """Returns a warning, once per layer, where maps are blank in a trained step: how many, why, and what to use.

        Args:
            record: The step's.
        """
        if record.epoch == UNTRAINED_EPOCH:
            return []
        when = f"in epoch {record.epoch}, step {record.step}, "
        found = blank_remarks(record.maps, record.causes, when)
        # A layer that no gradient reaches has been warned of.
        new = [layer for layer in found if layer not in self._blank | self._vanished]
        self._blank.update(new)
        once = "(this is reported once a layer; sheets and the report show it for every step)"
        return [f"{found[layer]} {once}" for layer in new]

    def means_to_last(self, record: CamRecord, last: CamRecord) -> dict[str, float]:
        """Returns how far a step still is from the run's last one, by tag."""
        found, changed = {}, record.changed_from(last)
        for key, maps in record.maps.items():
            for name, values in to_last(maps, last.maps[key], changed.get(key.target)).items():
                found[f"{self._monitor.stats_tag(key)}/{name}"] = values
        return _means(found)

    def alarm(self, record: CamRecord) -> str | None:
        """Returns a warning, once per run, where a trained step's maps lie outside the probes' masks or boxes.

        Args:
            record: As :meth:`measured` returned it.
        """
        least = self._monitor.min_energy_inside
        if least is None or self._alarmed or record.epoch == UNTRAINED_EPOCH:
            return None
        tags = {self._monitor.stats_tag(key).split("/", 1)[1]: stats for key, stats in record.numbers.items()}
        shares = {tag: stats["energy_inside"] for tag, stats in tags.items() if "energy_inside" in stats}
        inside = _means(shares)
        known = {printable(tag): int(np.isfinite(values).sum()) for tag, values in shares.items()}
        low = {tag: share for tag, share in inside.items() if share < least}
        if not low:
            return None
        self._alarmed = True
        count = len(record.probe_ids)
        listed = ", ".join(f"{tag}: {share:.0%}, mean of {known[tag]} of {count} probes" for tag, share in low.items())
        return (
            f"min_energy_inside={least:g}: in epoch {record.epoch}, step {record.step}, less of the maps than that lies"
            f" inside the probes' masks or boxes ({listed}): the model may decide by something else, such as the"
            " background or a mark; look at its sheets, and follow energy_inside over the next steps (this is reported"
            " once a run)"
        )


def _means(values: Mapping[str, FloatArray]) -> dict[str, float]:
    known = {tag: found[np.isfinite(found)] for tag, found in values.items()}
    # Loggers write tags into files, where a layer's name can do harm.
    return {printable(tag): float(found.mean(dtype=np.float64)) for tag, found in known.items() if len(found)}
