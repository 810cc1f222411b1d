"""The feature-map callback and its own options. Its base class defines the hooks, and the run does the work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.checks import checked_options
from lightning_gradcam.callbacks.options import RunOptions, documented, fill
from lightning_gradcam.compute.callers import check_whole
from lightning_gradcam.monitors.channel_reporter import ChannelReporter
from lightning_gradcam.monitors.feature_monitor import FeatureMonitor
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.render.grid import GridDrawing
from lightning_gradcam.sinks import Sink


@documented
class FeatureMapCallback(ProbeCallback):
    r"""Logs all channels of the selected layers' activations on fixed probes after every validation.

    The channel grids show what each layer keeps of an image, as in François Chollet and Matthew Watson, *Deep Learning
    with Python*, 3rd edition, chapter 10, but while the network trains. Training is untouched, as with
    :class:`~lightning_gradcam.GradCAMCallback`.

    Args:
        num_probes: Number of probes to draw; the sheet shows one grid per probe.
        max_channels: Maximum number of channels to keep and show per layer, evenly spaced. Default: all are kept and
            256 are shown. Per probe and step, 64 channels of 112x112 take 1.6 MB in the archive.
        drawing: Options for drawing the grids. Default: sixteen channels per row, each normalised separately.
        batch_size: Maximum number of probes per forward pass.

    Raises:
        ConfigurationError: An option is invalid; at the start of training, an option does not fit the model or data.

    Logged:
        A sheet for each layer under ``<name>/<layer>``, the number of its channels that are zero everywhere on all
        probes under ``<name>_stats/<layer>/dead``, and their share under ``<name>_stats/<layer>/dead_share``. The
        activations themselves are in the archive ``<log dir>/<name>/`` (:meth:`Archive.channels`).

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
        options = checked_options(locals(), GridDrawing)
        check_whole("num_probes", options["num_probes"])
        monitor = fill(FeatureMonitor, options, evolution=report)
        super().__init__(RunOptions.of(options, monitor, ChannelReporter))
