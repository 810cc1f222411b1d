"""Feature maps as a monitor: which layers are looked at, and how their channels are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_gradcam.archive import Manifest
from lightning_gradcam.capture.inputs import Forward, Inputs
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.compute.feature_maps import FeatureMaps, feature_maps
from lightning_gradcam.compute.search import TRIED
from lightning_gradcam.monitors.base import ChannelMonitor
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.channel_record import DEAD, ChannelRecord, dead_numbers
from lightning_gradcam.render.grid import GridDrawing
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.channel_sheet import channel_sheet


@dataclass(frozen=True)
class FeatureMonitor(ChannelMonitor):
    """Which layers' channels are looked at, and how they are drawn.

    Attributes:
        name: The root of tags and the archive's folder.
        layers: As the user gives them, or the names that were found.
        drawing: How sheets are drawn.
        layout: What the user says of layouts.
        batch_size: How many probes go through the model at once, at most.
        max_channels: Of a layer with more channels, so many are kept, evenly chosen; ``None``: all.
        evolution: Write the report at the end.
        tried: The monitor has been carried out once on this model: what can't change with its weights is known.
    """

    name: str
    layers: LayerSpec
    drawing: GridDrawing
    layout: str | Mapping[str, str] | None = None
    batch_size: int = 32
    max_channels: int | None = None
    evolution: bool = True
    tried: bool = False

    title: ClassVar[str] = "Feature maps"
    curve: ClassVar[tuple[str, str]] = (DEAD, "dead channels")

    @classmethod
    def of_settings(cls, name: str, layers: Sequence[str], settings: Mapping[str, Any]) -> FeatureMonitor:
        """Returns the monitor whose sheets look like those of an archive.

        Args:
            name: The root of tags.
            layers: Their names.
            settings: Those of the archive's manifest.
        """
        return cls(name, list(layers), drawing=GridDrawing(**settings.get("drawing", {})))

    def observe(
        self,
        model: nn.Module,
        load: Callable[[int, int], Inputs],
        probes: ProbeSet,
        forward: Forward,
        *,
        halve: bool = True,
        trial: bool = False,
    ) -> FeatureMaps:
        """Takes the feature maps of all probes, to the CPU: those of many layers can be larger than the model.

        Args:
            model: In evaluation mode, guarded by the caller.
            load: Returns what ``forward`` takes, on the model's device, of the probes from one place to before another.
            probes: The probes.
            forward: From inputs to the model's output.
            halve: Take half as many probes at once where memory does not suffice.
            trial: Take those of the first two probes alone.
        """
        return feature_maps(
            model,
            self.layers,
            load,
            min(len(probes), TRIED) if trial else len(probes),
            run=forward,
            batch_size=self.batch_size,
            layouts=parse_layouts(self.layout),
            max_channels=self.max_channels,
            device="cpu",
            check=not self.tried,
            halve=halve,
        )

    def pinned(self, found: FeatureMaps) -> FeatureMonitor:
        """Returns the monitor with the layers and layouts that were found, so that they are looked for once a run."""
        layouts = {layer: str(layout) for layer, layout in found.layouts.items()}
        return replace(self, layers=list(layouts), layout=layouts, tried=True)

    def manifest(self, probes: ProbeSet, found: FeatureMaps, run: str) -> Manifest:
        """Returns what an archive of such maps says of itself.

        Args:
            probes: The run's fixed inputs.
            found: Maps of them, for the layers' names and shapes.
            run: The run's own id.
        """
        return Manifest(
            run=run,
            name=self.name,
            layers=tuple(found),
            methods=(),
            targets=(),
            score="logit",
            map_shapes={layer: list(_pictures(maps).shape[1:]) for layer, maps in found.items()},
            fingerprint=probes.fingerprint,
            kind="features",
            settings={"drawing": asdict(self.drawing)},
        )

    def record(self, found: FeatureMaps, probes: ProbeSet, *, epoch: int, step: int, stage: str) -> ChannelRecord:
        """Freezes the maps, with the step and epoch at which they were made."""
        return ChannelRecord(
            epoch=epoch,
            step=step,
            stage=stage,
            kind="features",
            probe_ids=probes.ids,
            channels={layer: _pictures(maps).cpu().float().numpy() for layer, maps in found.items()},
            chosen=found.chosen,
            numbers={layer: {DEAD: dead.cpu().float().numpy()} for layer, dead in found.dead.items()},
        )

    def sheet(self, record: ChannelRecord, layer: str, probes: ProbeSet) -> Picture:
        """Draws one layer's channels; see :func:`~lightning_gradcam.sheets.channel_sheet.channel_sheet`."""
        return channel_sheet(record, probes, layer=layer, drawing=self.drawing, title=self.name)

    def numbers(self, record: ChannelRecord) -> Mapping[str, Mapping[str, float]]:
        """Returns how many channels of each layer are dead, and which share of them that is."""
        return dead_numbers(record)


def _pictures(maps: Tensor) -> Tensor:
    """Returns feature maps as they are, those of signals ``[N, C, l]`` as one row: ``[N, C, 1, l]``."""
    return maps[:, :, None] if maps.dim() == 3 else maps
