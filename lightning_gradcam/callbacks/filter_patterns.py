"""The filter-pattern callback and its own options. Its base class defines the hooks, and the run does the work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import nn

from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.checks import checked_options
from lightning_gradcam.callbacks.options import RunOptions, documented, fill
from lightning_gradcam.compute.ascent import Ascent
from lightning_gradcam.monitors.channel_reporter import ChannelReporter
from lightning_gradcam.monitors.pattern_monitor import PatternMonitor
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.sheets.pattern_sheet import PatternDrawing
from lightning_gradcam.sinks import Sink


@documented
class FilterPatternCallback(ProbeCallback):
    r"""Logs the image that each filter in the selected layers responds to most, after every validation.

    The images are found by gradient ascent in input space, as in François Chollet and Matthew Watson, *Deep Learning
    with Python*, 3rd edition, chapter 10. Training is untouched, as with :class:`~lightning_gradcam.GradCAMCallback`,
    but it pauses for the ascent: ``steps`` forward and backward passes through the network up to each selected layer,
    with batches of filters. Raise ``every_n_epochs`` to run it less often, or limit ``filters`` to shorten it.

    Args:
        filters: Filters to show: ``None`` (default) for all, a number for the first ones, or a list of filter indices,
            counted from 0.
        steps: Number of ascent steps.
        step_size: Length of each step. Default: 10 for 200x200 RGB images, as in the chapter; scaled for other sizes
            so that each value changes by the same amount.
        border: Width of the feature map's border, in positions, excluded from the maximised mean.
        jitter: Largest random shift of the image before each step, in pixels; reduces fine noise.
        total_variation: Weight of a term that reduces differences between neighbouring pixels, about 0.1 to 1.
        parametrisation: ``"pixels"`` (default), or ``"fourier"``, which favours coarse shapes over fine noise.
        value_range: Values of black and white in the model's inputs. Starting images are drawn from 0.4 to 0.6 of this
            range.
        seed: Random seed for the starting images (one per filter, the same at every step and in every run), the jitter,
            and the probe drawn to find the image size.
        drawing: Options for drawing the sheets.
        probes: Source of the image size. Default: a sample from the validation data set.
        progress: Show a progress bar if the ascent takes more than two seconds.
        batch_size: Maximum number of images per forward pass.

    Raises:
        ConfigurationError: An option is invalid; at the start of training, an option does not fit the model or data.

    Logged:
        A sheet for each layer under ``<name>/<layer>``, the mean activation that its patterns reach under
        ``<name>_stats/<layer>/activation``, and the number of its filters that never had a gradient under
        ``<name>_stats/<layer>/silent``. The patterns themselves are in the archive ``<log dir>/<name>/``
        (:meth:`Archive.channels`), 0.3 MB per filter and step for images of 3x224x224.

    Example::

        from lightning_gradcam import FilterPatternCallback

        trainer = Trainer(callbacks=[FilterPatternCallback(layers=["backbone.conv1"], filters=16, every_n_epochs=5)])
    """

    _kind: ClassVar[str] = "FilterPatternCallback"

    def __init__(
        self,
        layers: str | list[str] | nn.Module | list[nn.Module] = "auto",
        *,
        filters: int | list[int] | None = None,
        steps: int = 30,
        step_size: float | None = None,
        border: int = 2,
        jitter: int = 0,
        total_variation: float = 0.0,
        parametrisation: Literal["pixels", "fourier"] = "pixels",
        value_range: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
        drawing: PatternDrawing = PatternDrawing(),  # noqa: B008 - frozen
        probes: str | os.PathLike[str] | ProbeSet | None = None,
        every_n_epochs: int = 1,
        every_n_validations: int | None = None,
        log_untrained: bool = False,
        name: str = "patterns",
        report: bool = True,
        progress: bool = True,
        on_error: OnError = "warn",
        sinks: list[Sink] | None = None,
        input_key: int | str | list[int | str] | Callable[..., Any] | None = None,
        layout: str | dict[str, str] | None = None,
        forward_fn: Callable[..., Any] | None = None,
        batch_size: int = 64,
        background: bool = True,
        max_overhead: float | None = None,
    ) -> None:
        options = {**checked_options(locals(), PatternDrawing), "num_probes": 1}
        monitor = fill(PatternMonitor, options, ascent=fill(Ascent, options), evolution=report)
        super().__init__(RunOptions.of(options, monitor, ChannelReporter))
