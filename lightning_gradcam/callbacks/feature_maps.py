"""The feature-map callback: its options; hooks are their base's, and the work itself is the run's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.from_config import check_kept, plain
from lightning_gradcam.callbacks.host import check_forward_fn
from lightning_gradcam.callbacks.options import (
    check_choice,
    check_count,
    check_name,
    check_overhead,
    check_probes,
    check_schedule,
    check_sinks,
    checked_drawing,
)
from lightning_gradcam.callbacks.run import RunOptions
from lightning_gradcam.capture.layers import check_layers
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.monitors.channel_reporter import ChannelReporter
from lightning_gradcam.monitors.feature_monitor import FeatureMonitor
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.display import normalization
from lightning_gradcam.probes.source import ProbeOptions
from lightning_gradcam.render.grid import GridDrawing
from lightning_gradcam.sinks import Sink
from lightning_gradcam.targets import check_names


class FeatureMapCallback(ProbeCallback):
    r"""Logs every channel of chosen layers' activations, of fixed probes, after every validation.

    What a network keeps of a picture, layer by layer: the channel grids of François Chollet and Matthew Watson,
    *Deep Learning with Python*, 3rd edition, chapter 10, while the network trains. Training is untouched, as with
    :class:`~lightning_gradcam.GradCAMCallback`.

    Args:
        layers: What to show: dotted module names, shell patterns (``"backbone.layer*"``), modules, a list of these, or
            ``"auto"`` (default): the last layer with a spatial output.
        probes: A :class:`ProbeSet`, the path of a saved one, or a folder of pictures. Default: drawn from the
            validation data set.
        num_probes: How many to draw; each has a grid of its own on the sheet.
        seed: Of the draw.
        max_channels: Keep and show so many channels of a layer at most, evenly chosen; default: keep all, and show
            256. Of one probe and step, 64 channels of 112x112 take 1.6 MB in the archive.
        drawing: How grids are drawn: sixteen channels a row, each normalised by itself, by default.
        every_n_epochs: As in :class:`~lightning_gradcam.GradCAMCallback`, and so are the following.
        every_n_validations: Likewise.
        log_untrained: Log a baseline before the first training step.
        name: The root of tags, the archive's folder and the key of the state.
        report: Write ``report.html`` into the run's folder when training ends.
        on_error: What a failure in our own work does after training has begun: ``"warn"`` or ``"raise"``.
        sinks: Further places for the pictures, besides those of the trainer's loggers.
        input_key: Where a batch holds the model's input.
        label_key: Where it holds the true class.
        class_names: Names of the classes, where the data set has none: a list, ``"imagenet"``, or a file.
        mean: Per channel or one for all; undone for display where the data set's transform shows no ``Normalize``.
        std: Likewise.
        layout: What a layer's axes mean, where that can't be seen.
        forward_fn: ``forward_fn(module, batch)``, for modules without a ``forward(x)`` and with several inputs.
        batch_size: How many probes go through the model at once, at most.
        background: Draw, write and log in background threads (default).
        max_overhead: The largest share of the time that this may take.

    Raises:
        ConfigurationError: An option can't work; at the start of training, one that does not fit model or data.

    Logged:
        A sheet for each layer under ``<name>/<layer>``; how many of its channels are zero everywhere on all probes
        under ``<name>_stats/<layer>/dead``, and their share under ``<name>_stats/<layer>/dead_share``. The activations
        themselves are in the archive ``<log dir>/<name>/`` (:meth:`Archive.channels`).

    Example::

        from lightning_gradcam import FeatureMapCallback

        trainer = Trainer(callbacks=[FeatureMapCallback(layers=["backbone.layer1", "backbone.layer4"])])
    """

    _kind: ClassVar[str] = "FeatureMapCallback"

    def __init__(
        self,
        layers: str | list[str] | nn.Module | list[nn.Module] = "auto",
        *,
        probes: str | os.PathLike[str] | ProbeSet | None = None,
        num_probes: int = 1,
        seed: int = 0,
        max_channels: int | None = None,
        drawing: GridDrawing = GridDrawing(),  # noqa: B008 - frozen
        every_n_epochs: int = 1,
        every_n_validations: int | None = None,
        log_untrained: bool = False,
        name: str = "features",
        report: bool = True,
        on_error: OnError = "warn",
        sinks: list[Sink] | None = None,
        input_key: int | str | list[int | str] | Callable[..., Any] | None = None,
        label_key: int | str | list[int | str] | Callable[..., Any] | None = None,
        class_names: list[str] | str | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        layout: str | dict[str, str] | None = None,
        forward_fn: Callable[..., Any] | None = None,
        batch_size: int = 32,
        background: bool = True,
        max_overhead: float | None = None,
    ) -> None:
        check_kept(layers=layers, probes=probes, sinks=sinks, forward_fn=forward_fn)
        layers, layout = plain(layers), plain(layout)
        class_names, mean, std, sinks = plain(class_names), plain(mean), plain(std), plain(sinks)
        num_probes, seed, batch_size, max_channels = (
            plain(num_probes),
            plain(seed),
            plain(batch_size),
            plain(max_channels),
        )
        every_n_epochs, every_n_validations = plain(every_n_epochs), plain(every_n_validations)
        check_layers(layers)
        class_names = check_names(class_names)
        normalization(mean, std)
        check_probes(probes)
        check_count("num_probes", num_probes)
        check_count("batch_size", batch_size)
        check_count("seed", seed, least=0)
        if max_channels is not None:
            check_count("max_channels", max_channels)
        check_schedule(every_n_epochs, every_n_validations)
        check_overhead(max_overhead)
        parse_layouts(layout)
        check_forward_fn(forward_fn)
        check_choice("on_error", on_error, ("warn", "raise"))
        super().__init__(
            RunOptions(
                FeatureMonitor(
                    name=check_name(name),
                    layers=layers,
                    drawing=checked_drawing(drawing, GridDrawing),
                    layout=layout,
                    batch_size=batch_size,
                    max_channels=max_channels,
                    evolution=report,
                ),
                ChannelReporter,
                ProbeOptions(probes, num_probes, seed, plain(input_key), plain(label_key), class_names, mean, std),
                forward_fn,
                every_n_epochs,
                every_n_validations,
                max_overhead,
                log_untrained,
                background,
                on_error,
                check_sinks(sinks),
            )
        )
