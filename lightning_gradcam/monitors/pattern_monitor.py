"""Filter patterns as a monitor: which filters are observed, and how their patterns are found and drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.compute.ascent import Ascent, spatial_axes
from lightning_gradcam.compute.patterns import Filters, LayerPatterns, Progress, climb
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.channel_monitor import ChannelMonitor, Channels
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.channel_record import ACTIVATION, ChannelKind, ChannelRecord
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.pattern_sheet import SILENT, PatternDrawing, pattern_sheet

Patterns = dict[str, LayerPatterns]

# Shorter work needs no progress bar.
_PATIENCE = 2.0
# Seconds between two updates of the bar; if rich draws Lightning's own bar, each update takes a new line.
_INTERVAL, _INTERVAL_OF_LINES = 0.1, 10.0


@dataclass(frozen=True)
class PatternMonitor(ChannelMonitor):
    """Which filters are observed, and how their patterns are found and drawn.

    Attributes:
        filters: ``None`` for all filters, a number for the first ones, or a list of filters.
        ascent: How patterns are found.
        drawing: How sheets are drawn.
        progress: Show a bar in a terminal if finding patterns takes more than two seconds.
        log_untrained: Whether the first result is logged; if not, the ascent takes only a single step for it.
    """

    filters: Filters = None
    ascent: Ascent = Ascent()  # noqa: RUF009 - frozen
    drawing: PatternDrawing = PatternDrawing()  # noqa: RUF009 - frozen
    progress: bool = True
    log_untrained: bool = True

    title: ClassVar[str] = "Filter patterns"
    kind: ClassVar[ChannelKind] = "patterns"
    curve: ClassVar[tuple[str, str]] = (ACTIVATION, "mean activation")

    def observe(self, subject: Subject, probes: ProbeSet, *, trial: bool = False) -> Patterns:
        """Finds the patterns of all selected filters.

        Args:
            subject: The model; its first probe determines the images' shape, and provides any other inputs.
            probes: The run's probes.
            trial: Take a single step only.

        Raises:
            ConfigurationError: The model accepts clips, volumes or integers, not floating-point images.
        """
        first = subject.load(0, 1)
        if not first.picture.is_floating_point():
            raise ConfigurationError(
                f"inputs: the model takes {first.picture.dtype}, which has no gradient; if it also accepts "
                "floating-point images, pass probes=ProbeSet(images.float()) and their value_range"
            )
        shape = tuple(first.picture.shape[1:])
        if len(spatial_axes(shape)) != 2:
            raise ConfigurationError(
                f"inputs: got shape {list(shape)} for a sample, but patterns are drawn for images [C, H, W]; call"
                " lightning_gradcam.filter_patterns() for patterns of clips and volumes"
            )
        short = trial or (not self.tried and not self.log_untrained)
        with _bar(self.name, shown=self.progress) as progress:
            return climb(
                subject.model,
                self.layers,
                lambda pictures: subject.forward(first.fresh(pictures, copies=len(pictures))),
                first.picture[:0],
                replace(self.ascent, steps=1) if short else self.ascent,
                self.filters,
                self.layout,
                batch_size=self.batch_size,
                halve=subject.halve,
                progress=progress,
            )

    def layouts_of(self, found: Patterns) -> Mapping[str, Layout]:
        """Returns the resolved layers, and the meaning of their axes."""
        return {layer: patterns.layout for layer, patterns in found.items()}

    def channels(self, found: Patterns) -> Channels:
        """Returns the patterns, ``[F, c, H, W]``, whatever the form of the model's input images."""
        return Channels(
            {layer: _channels_first(p.pictures) for layer, p in found.items()},
            {layer: p.filters for layer, p in found.items()},
            {layer: {ACTIVATION: p.activations, SILENT: p.silent} for layer, p in found.items()},
        )

    def settings(self, found: Patterns) -> dict[str, Any]:
        """Returns how the patterns are found and drawn, and which filters they belong to."""
        filters = {layer: list(p.filters) for layer, p in found.items()}
        return {"drawing": asdict(self.drawing), "ascent": asdict(self.ascent), "filters": filters}

    def sheet(self, record: ChannelRecord, layer: str, probes: ProbeSet) -> Picture:
        """Draws one layer's patterns; see :func:`~lightning_gradcam.sheets.pattern_sheet.pattern_sheet`."""
        # A step's length depends on the number of values, wherever the channel axis is.
        settings = self.ascent.described(record.channels[layer].shape[1:])
        return pattern_sheet(record, layer, drawing=self.drawing, title=self.name, settings=settings, note=probes.note)

    def numbers(self, record: ChannelRecord) -> Mapping[str, Mapping[str, float]]:
        """Returns the mean activation that each layer's patterns reach, and the number of its silent filters."""
        return {
            layer: {ACTIVATION: float(named[ACTIVATION].mean()), SILENT: float(named[SILENT].sum())}
            for layer, named in record.numbers.items()
        }


def _channels_first(pictures: Tensor) -> Tensor:
    """Returns images ``[F, c, H, W]``, from the model's input format."""
    if pictures.dim() == 3:
        return pictures[:, None]
    return pictures if spatial_axes(pictures.shape[1:]) == (2, 3) else pictures.permute(0, 3, 1, 2)


@contextmanager
def _bar(name: str, *, shown: bool) -> Iterator[Progress | None]:
    """Shows a progress bar in a terminal on rank zero if the work takes long, and removes it at the end."""
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
    # `disable=None`: no bar where the output is not a terminal.
    with tqdm(desc=name, unit="step", delay=_PATIENCE, mininterval=interval, leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
