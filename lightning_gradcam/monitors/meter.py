"""Numbers for every logged step: measured once, stored in its record, and averaged for the loggers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lightning_gradcam.errors import ProbeError, printable
from lightning_gradcam.monitors.base import Reporter
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.blank import blank_remarks
from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH, CamRecord, FloatArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.gradients import vanished_layers, vanished_of, vanishing_remark
from lightning_gradcam.record.not_finite import not_finite_remark
from lightning_gradcam.render.scale import both_limits, raise_limits
from lightning_gradcam.stats import DEFAULT, STATS, measure, to_last
from lightning_gradcam.stats.boxes import known_boxes, picture_size
from lightning_gradcam.stats.settled import SETTLED_STEPS, have_settled


class Meter(Reporter):
    """Measures steps in their order; each is compared with the previous ones.

    Args:
        monitor: What is explained; its ``min_energy_inside`` is the alarm's threshold.
        probes: The probes; maps are compared with their masks or boxes.

    Raises:
        ProbeError: There is an alarm, but no probe has a mask or box.
    """

    monitor: CamMonitor
    compared = SETTLED_STEPS

    def __init__(self, monitor: CamMonitor, probes: ProbeSet) -> None:
        super().__init__(monitor, probes)
        self._limits: dict[CamKey, FloatArray] = {}
        self._regions = probes.regions
        self._boxes, self._size = known_boxes(probes), picture_size(probes)
        # The latest logged steps, oldest first: as many as are needed to decide whether maps have settled.
        self._earlier: deque[CamRecord] = deque(maxlen=SETTLED_STEPS)
        self._alarmed = False
        self._vanished: set[str] = set()
        self._blank: set[str] = set()
        self._broken: set[str] = set()
        if monitor.min_energy_inside is not None and (self._regions is None or not self._regions.any()):
            raise ProbeError(
                f"min_energy_inside: got {monitor.min_energy_inside}, but no probe has a mask or box to compare the "
                "maps with; pass probes=ProbeSet(..., masks=...) or boxes=, define probe_mask(index) on the data set, "
                "or leave min_energy_inside out"
            )

    @property
    def limits(self) -> Mapping[CamKey, FloatArray]:
        """Each map's limits in the steps measured so far, ``[N, 2]``, as :attr:`CamRecord.limits`."""
        return dict(self._limits)

    def measured(self, record: CamRecord) -> CamRecord:
        """Returns the record with its numbers and its maps' limits so far.

        Args:
            record: The next step's record.
        """
        last = self._earlier[-1] if self._earlier else None
        before, changed = (None, None) if last is None else (last.maps, record.changed_from(last))
        numbers = measure(record.maps, before, self._regions, boxes=self._boxes, size=self._size, changed=changed)
        for key, stats in numbers.items():
            stats["settled"] = have_settled(record.maps[key], self._back(record, key))
        self._earlier.append(record)
        raise_limits(self._limits, {key: both_limits(maps) for key, maps in record.maps.items()})
        return replace(
            record,
            numbers=MappingProxyType({key: MappingProxyType(stats) for key, stats in numbers.items()}),
            limits=MappingProxyType({key: self._limits[key] for key in record.maps}),
        )

    def remember(self, last: CamRecord, limits: Mapping[CamKey, FloatArray], before: Sequence[CamRecord] = ()) -> None:
        """Takes earlier measured steps into account.

        Args:
            last: The latest of these steps.
            limits: Each map's largest limits in any of them, ``[N, 2]``.
            before: The steps before the latest, oldest first; without them, maps count as settled only when enough new
                steps are close.
        """
        self._earlier.clear()
        self._earlier.extend([*before, last])
        self._limits = dict(limits)

    def forget(self) -> None:
        """Starts over, because training continues from an earlier step."""
        self._limits = {}
        self._earlier.clear()

    def _back(self, record: CamRecord, key: CamKey) -> Iterator[tuple[FloatArray, npt.NDArray[np.bool_] | None]]:
        """Yields a key's maps at the steps before a record, latest first, and which explain a different class."""
        for other in reversed(self._earlier):
            if key not in other.maps:
                return
            yield other.maps[key], record.changed_from(other).get(key.target)

    def means(self, record: CamRecord) -> dict[str, float]:
        """Returns a measured step's numbers by tag: means over the probes that have a value, or counts of probes.

        Means without any value are omitted. Unless the monitor's ``numbers`` is ``"all"``, only a few numbers are
        included.

        Args:
            record: As :meth:`measured` returned it.
        """
        found = self.numbers(record)
        if self.monitor.numbers == "all":
            return found
        # ``vanished`` is only measured on request.
        return {tag: value for tag, value in found.items() if tag.rsplit("/", 1)[1] in (*DEFAULT, "vanished")}

    def numbers(self, record: CamRecord) -> dict[str, float]:
        """Returns all numbers of a measured step by tag, in the form of :meth:`means`."""
        found, counts = self._tagged(record)
        return _means(found) | {printable(tag): float(np.nansum(values)) for tag, values in counts.items()}

    def tags(self, record: CamRecord) -> tuple[str, ...]:
        """Returns the tags of all numbers that steps with such maps can have, from the second one on.

        Args:
            record: An unmeasured record of some of the probes.
        """
        # Measure a single probe, which costs almost nothing, with itself as the previous step.
        one = record.part([0])
        masks = None if self._regions is None else self._regions[:1]
        boxes = None if self._boxes is None else self._boxes[~np.isnan(self._boxes).any(axis=1)][:1]
        numbers = measure(one.maps, one.maps, masks, boxes=boxes, size=self._size, changed=one.changed_from(one))
        named = {key: {**stats, "settled": stats["blank"]} for key, stats in numbers.items()}
        return tuple(printable(tag) for kind in self._tagged(replace(one, numbers=named)) for tag in kind)

    def _tagged(self, record: CamRecord) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """Returns a measured step's numbers by tag, each ``[N]``: those to average for loggers, and those to count."""
        found: dict[str, FloatArray] = {}
        counts: dict[str, FloatArray] = {}
        for place, target in enumerate(record.scores):
            stem = f"{self.monitor.name}_stats" + ("" if place == 0 else f"/{target}")
            found[f"{stem}/score"] = record.scores[target]
            found[f"{stem}/confidence"] = record.confidences.get(target, np.zeros(0, np.float32))
        for key, stats in record.numbers.items():
            for name, values in stats.items():
                kind = counts if name in STATS and STATS[name].counted else found
                kind[f"{self.monitor.stats_tag(key)}/{name}"] = values
        for (layer, target), values in vanished_of(record.gradients).items():
            found[f"{self.monitor.stats_tag(CamKey(layer, 'gradcam', target))}/vanished"] = values
        return found, counts

    def remarks(self, record: CamRecord) -> list[str]:
        """Returns why maps are blank or not finite, once per layer."""
        return [*self.vanishing(record), *self.blanks(record), *self.broken(record)]

    def vanishing(self, record: CamRecord) -> list[str]:
        """Returns warnings, once per layer, if no gradient reaches the layer; none for the untrained baseline."""
        if record.epoch == UNTRAINED_EPOCH:
            return []
        new = [layer for layer in vanished_layers(record.gradients) if layer not in self._vanished]
        self._vanished.update(new)
        return [vanishing_remark(layer, epoch=record.epoch, step=record.step, score=record.score) for layer in new]

    def blanks(self, record: CamRecord) -> list[str]:
        """Returns warnings, once per layer, if maps are blank: how many, why, and what to use instead.

        Args:
            record: The step's record; there are no warnings for the untrained baseline.
        """
        if record.epoch == UNTRAINED_EPOCH:
            return []
        found = blank_remarks(record.maps, record.causes, f"in epoch {record.epoch}, step {record.step}, ")
        # A layer that no gradient reaches has already been reported.
        new = [layer for layer in found if layer not in self._blank | self._vanished]
        self._blank.update(new)
        once = "(reported once per layer; sheets and the report show it for every step)"
        return [f"{found[layer]} {once}" for layer in new]

    def broken(self, record: CamRecord) -> list[str]:
        """Returns a warning about layers with maps that are not finite, once per layer."""
        state = "the untrained model" if record.epoch == UNTRAINED_EPOCH else f"epoch {record.epoch}"
        when = f"in {state}, step {record.step}, "
        text, layers = not_finite_remark(record.maps, record.scores, when, self._broken)
        self._broken.update(layers)
        return [f"{text} (reported once per layer; sheets and the report mark the maps)"] if text else []

    def means_to_last(self, record: CamRecord, last: CamRecord) -> dict[str, float]:
        """Returns how far a step is from the run's last one, by tag."""
        found, changed = {}, record.changed_from(last)
        for key, maps in record.maps.items():
            for name, values in to_last(maps, last.maps[key], changed.get(key.target)).items():
                found[f"{self.monitor.stats_tag(key)}/{name}"] = values
        return _means(found)

    def alarm(self, record: CamRecord) -> str | None:
        """Returns a warning, once per run, if too small a share of the maps is inside the probes' masks or boxes.

        Args:
            record: As :meth:`measured` returned it; the untrained baseline raises no alarm.
        """
        least = self.monitor.min_energy_inside
        if least is None or self._alarmed or record.epoch == UNTRAINED_EPOCH:
            return None
        tags = {self.monitor.stats_tag(key).split("/", 1)[1]: stats for key, stats in record.numbers.items()}
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
            f"min_energy_inside={least:g}: in epoch {record.epoch}, step {record.step}, the share of the maps inside "
            f"the probes' masks or boxes is lower ({listed}): the model may rely on something else, such as the "
            "background or a mark. Look at the layer's sheets, and follow energy_inside over the next steps (reported "
            "once per run)"
        )


def _means(values: Mapping[str, FloatArray]) -> dict[str, float]:
    known = {tag: found[np.isfinite(found)] for tag, found in values.items()}
    # Loggers write tags to files, where unprintable characters in a layer's name can do harm.
    return {printable(tag): float(found.mean(dtype=np.float64)) for tag, found in known.items() if len(found)}
