"""Filter patterns as a monitor: which filters are looked at, how their patterns are found, and how they are drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_gradcam.archive import Manifest
from lightning_gradcam.capture.inputs import Forward, Inputs
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.compute.ascent import Ascent, spatial_axes
from lightning_gradcam.compute.patterns import Filters, LayerPatterns, Progress, climb
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.monitors.base import ChannelMonitor
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.channel_record import ACTIVATION, ChannelRecord
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.pattern_sheet import SILENT, PatternDrawing, pattern_sheet

Patterns = dict[str, LayerPatterns]

# What takes less needs no bar.
_PATIENCE = 2.0
# Seconds between two looks of the bar; rich, where it draws Lightning's own bar, makes a new line of each.
_INTERVAL, _INTERVAL_OF_LINES = 0.1, 10.0


@dataclass(frozen=True)
class PatternMonitor(ChannelMonitor):
    """Which filters are looked at, how their patterns are found, and how they are drawn.

    Attributes:
        name: The root of tags and the archive's folder.
        layers: As the user gives them, or the names that were found.
        filters: ``None``: all; a number: the first so many; a list: these.
        ascent: How patterns are found.
        drawing: How sheets are drawn.
        layout: What the user says of layouts.
        batch_size: How many pictures go through the model at once, at most.
        progress: Show a bar where finding them takes more than two seconds, in a terminal.
        evolution: Write the report at the end.
        baseline: What the first look finds is logged; where it is not, that look takes a single step.
        tried: The monitor has been carried out once on this model.
    """

    name: str
    layers: LayerSpec
    filters: Filters = None
    ascent: Ascent = Ascent()  # noqa: RUF009 - frozen
    drawing: PatternDrawing = PatternDrawing()  # noqa: RUF009 - frozen
    layout: str | Mapping[str, str] | None = None
    batch_size: int = 64
    progress: bool = True
    evolution: bool = True
    baseline: bool = True
    tried: bool = False

    title: ClassVar[str] = "Filter patterns"
    curve: ClassVar[tuple[str, str]] = (ACTIVATION, "mean activation")

    @classmethod
    def of_settings(cls, name: str, layers: Sequence[str], settings: Mapping[str, Any]) -> PatternMonitor:
        """Returns the monitor whose sheets look like those of an archive.

        Args:
            name: The root of tags.
            layers: Their names.
            settings: Those of the archive's manifest.
        """
        return cls(
            name,
            list(layers),
            drawing=PatternDrawing(**settings.get("drawing", {})),
            ascent=Ascent(**settings.get("ascent", {})),
        )

    def observe(
        self,
        model: nn.Module,
        load: Callable[[int, int], Inputs],
        probes: ProbeSet,
        forward: Forward,
        *,
        halve: bool = True,
        trial: bool = False,
    ) -> Patterns:
        """Finds the patterns of all filters that are meant.

        Args:
            model: In evaluation mode, guarded by the caller.
            load: Returns what ``forward`` takes of the probes; the first shows what pictures look like, and gives all
                inputs but the picture where there are several.
            probes: The probes.
            forward: From inputs to the model's output.
            halve: Take half as many pictures at once where memory does not suffice.
            trial: No patterns are kept: a single step is taken.

        Raises:
            ConfigurationError: The model takes clips or volumes.
        """
        first = load(0, 1)
        if not first.picture.is_floating_point():
            raise ConfigurationError(
                f"inputs: the model takes {first.picture.dtype}, along which no gradient leads; where it takes the same"
                " as floating-point numbers too, give probes=ProbeSet(pictures.float()), and the value_range of these"
            )
        shape = tuple(first.picture.shape[1:])
        if len(spatial_axes(shape)) != 2:
            raise ConfigurationError(
                f"inputs: got {list(shape)} for a sample, but patterns are drawn for pictures [C, H, W]; call"
                " lightning_gradcam.filter_patterns() for those of clips and volumes"
            )
        short = trial or (not self.tried and not self.baseline)
        with _bar(self.name, shown=self.progress) as progress:
            return climb(
                model,
                self.layers,
                lambda pictures: forward(first.fresh(pictures, copies=len(pictures))),
                first.picture[:0],
                replace(self.ascent, steps=1) if short else self.ascent,
                self.filters,
                self.layout,
                batch_size=self.batch_size,
                halve=halve,
                progress=progress,
            )

    def pinned(self, found: Patterns) -> PatternMonitor:
        """Returns the monitor with the layers and layouts that were found, so that they are looked for once a run."""
        layouts = {layer: str(patterns.layout) for layer, patterns in found.items()}
        return replace(self, layers=list(layouts), layout=layouts, tried=True)

    def manifest(self, probes: ProbeSet, found: Patterns, run: str) -> Manifest:
        """Returns what an archive of such patterns says of itself.

        Args:
            probes: The run's.
            found: Patterns, for the layers' names and the pictures' shape.
            run: The run's own id.
        """
        return Manifest(
            run=run,
            name=self.name,
            layers=tuple(found),
            methods=(),
            targets=(),
            score="logit",
            map_shapes={layer: list(_channels_first(p.pictures).shape) for layer, p in found.items()},
            fingerprint=probes.fingerprint,
            kind="patterns",
            settings={
                "drawing": asdict(self.drawing),
                "ascent": asdict(self.ascent),
                "filters": {layer: list(p.filters) for layer, p in found.items()},
            },
        )

    def record(self, found: Patterns, probes: ProbeSet, *, epoch: int, step: int, stage: str) -> ChannelRecord:
        """Copies the patterns to the CPU and freezes them, with the step and epoch at which they were found."""
        return ChannelRecord(
            epoch=epoch,
            step=step,
            stage=stage,
            kind="patterns",
            probe_ids=(),
            channels={name: _channels_first(p.pictures).cpu().float().numpy() for name, p in found.items()},
            chosen={name: p.filters for name, p in found.items()},
            numbers={
                name: {ACTIVATION: p.activations.cpu().float().numpy(), SILENT: p.silent.cpu().float().numpy()}
                for name, p in found.items()
            },
        )

    def sheet(self, record: ChannelRecord, layer: str, probes: ProbeSet) -> Picture:
        """Draws one layer's patterns; see :func:`~lightning_gradcam.sheets.pattern_sheet.pattern_sheet`."""
        # The step's length goes by the number of values, wherever the channels stand.
        settings = self.ascent.described(record.channels[layer].shape[1:])
        return pattern_sheet(record, layer, drawing=self.drawing, title=self.name, settings=settings, note=probes.note)

    def numbers(self, record: ChannelRecord) -> Mapping[str, Mapping[str, float]]:
        """Returns the mean activation that each layer's patterns reach, and how many of its filters are silent."""
        return {
            layer: {ACTIVATION: float(named[ACTIVATION].mean()), SILENT: float(named[SILENT].sum())}
            for layer, named in record.numbers.items()
        }


def _channels_first(pictures: Tensor) -> Tensor:
    """Returns pictures ``[F, c, H, W]``, of whatever a model takes."""
    if pictures.dim() == 3:
        return pictures[:, None]
    return pictures if spatial_axes(pictures.shape[1:]) == (2, 3) else pictures.permute(0, 3, 1, 2)


@contextmanager
def _bar(name: str, *, shown: bool) -> Iterator[Progress | None]:
    """Shows a bar in a terminal once it takes long, on the first rank, and takes it away again."""
    ranked = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not shown or (ranked and torch.distributed.get_rank()):
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    lines = type(sys.stderr).__module__.split(".")[0] == "rich"
    interval = _INTERVAL_OF_LINES if lines else _INTERVAL
    # `disable=None`: nothing where nobody watches.
    with tqdm(desc=name, unit="step", delay=_PATIENCE, mininterval=interval, leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
