"""Feature maps as a monitor: which layers are observed, and how their channels are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.compute.feature_maps import FeatureMaps, feature_maps
from lightning_gradcam.compute.search import TRIED
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.channel_monitor import ChannelMonitor, Channels
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.channel_record import DEAD, ChannelKind, ChannelRecord, dead_numbers
from lightning_gradcam.render.grid import GridDrawing
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.channel_sheet import channel_sheet


@dataclass(frozen=True)
class FeatureMonitor(ChannelMonitor):
    """Which layers' channels are observed, and how they are drawn.

    Attributes:
        drawing: How sheets are drawn.
        max_channels: Maximum number of channels to keep per layer, evenly spaced; ``None``: all.
    """

    drawing: GridDrawing
    max_channels: int | None = None

    title: ClassVar[str] = "Feature maps"
    kind: ClassVar[ChannelKind] = "features"
    curve: ClassVar[tuple[str, str]] = (DEAD, "dead channels")

    def observe(self, subject: Subject, probes: ProbeSet, *, trial: bool = False) -> FeatureMaps:
        """Copies the probes' feature maps to the CPU: those of many layers can be larger than the model."""
        return feature_maps(
            subject.model,
            self.layers,
            subject.load,
            min(len(probes), TRIED) if trial else len(probes),
            run=subject.forward,
            batch_size=self.batch_size,
            layouts=parse_layouts(self.layout),
            max_channels=self.max_channels,
            device="cpu",
            check=not self.tried,
            halve=subject.halve,
        )

    def channels(self, found: FeatureMaps) -> Channels:
        """Returns the maps; those for signals, ``[N, C, l]``, get one row: ``[N, C, 1, l]``."""
        pictures = {layer: maps[:, :, None] if maps.dim() == 3 else maps for layer, maps in found.items()}
        return Channels(pictures, found.chosen, {layer: {DEAD: dead} for layer, dead in found.dead.items()})

    def settings(self, found: FeatureMaps) -> dict[str, Any]:
        """Returns how the maps are drawn."""
        return {"drawing": asdict(self.drawing)}

    def sheet(self, record: ChannelRecord, layer: str, probes: ProbeSet) -> Picture:
        """Draws one layer's channels; see :func:`~lightning_gradcam.sheets.channel_sheet.channel_sheet`."""
        return channel_sheet(record, probes, layer=layer, drawing=self.drawing, title=self.name)

    def numbers(self, record: ChannelRecord) -> Mapping[str, Mapping[str, float]]:
        """Returns the number and share of each layer's dead channels."""
        return dead_numbers(record)
