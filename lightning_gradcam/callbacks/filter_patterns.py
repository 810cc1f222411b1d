"""The filter-pattern callback: its options; hooks are their base's, and the work itself is the run's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import nn

from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.from_config import check_kept, plain
from lightning_gradcam.callbacks.host import check_forward_fn
from lightning_gradcam.callbacks.options import (
    check_choice,
    check_count,
    check_filters,
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
from lightning_gradcam.compute.ascent import Ascent
from lightning_gradcam.monitors.channel_reporter import ChannelReporter
from lightning_gradcam.monitors.pattern_monitor import PatternMonitor
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.source import ProbeOptions
from lightning_gradcam.sheets.pattern_sheet import PatternDrawing
from lightning_gradcam.sinks import Sink


class FilterPatternCallback(ProbeCallback):
    r"""Logs the picture that each filter of chosen layers responds to most, after every validation.

    Gradient ascent in input space, as in François Chollet and Matthew Watson, *Deep Learning with Python*, 3rd
    edition, chapter 10, while the network trains. Training is untouched, as with
    :class:`~lightning_gradcam.GradCAMCallback`; it waits for the ascent, which takes
    ``steps`` forwards and backwards of the layers up to the one that is looked at, with all filters as one batch.
    ``every_n_epochs`` makes it rarer, ``filters`` shorter.

    Args:
        layers: What to look at: dotted module names, shell patterns, modules, a list of these, or ``"auto"``
            (default): the last layer with a spatial output.
        filters: ``None`` (default): all filters. A number: the first so many. A list: these, counted from 0.
        steps: How many steps of ascent.
        step_size: Their length; default: 10 for pictures of 200x200 in three colours, as in the chapter, and what
            changes each value as much for other sizes.
        border: How many places at each side of the feature map are left out of what is maximised.
        jitter: Move the picture by up to so many pixels before each step: less fine noise.
        total_variation: Also lessen the differences of neighbouring pixels; a weight, about 0.1 to 1.
        parametrisation: ``"pixels"`` (default), or ``"fourier"``: coarse forms come before fine noise.
        value_range: What black and white are in the model's inputs. The chapter's start is 0.4 to 0.6 of it.
        seed: Of the starts, each filter's own: they are the same at every step and in every run. Also of the draw of
            the one probe that the size of pictures is taken from.
        drawing: How the sheets are drawn.
        probes: Where the size of the pictures is taken from; default: a sample of the validation data set.
        every_n_epochs: As in :class:`~lightning_gradcam.GradCAMCallback`, and so are the following.
        every_n_validations: Likewise.
        log_untrained: Log a baseline before the first training step.
        name: The root of tags, the archive's folder and the key of the state.
        report: Write ``report.html`` into the run's folder when training ends.
        progress: Show a progress bar where the ascent takes more than a second or two.
        on_error: What a failure in our own work does after training has begun: ``"warn"`` or ``"raise"``.
        sinks: Further places for the pictures, besides those of the trainer's loggers.
        input_key: Where a batch holds the model's input.
        layout: What a layer's axes mean, where that can't be seen.
        forward_fn: ``forward_fn(module, batch)``, for modules without a ``forward(x)``.
        batch_size: How many pictures go through the model at once, at most.
        background: Draw, write and log in background threads (default).
        max_overhead: The largest share of the time that this may take.

    Raises:
        ConfigurationError: An option can't work; at the start of training, one that does not fit model or data.

    Logged:
        A sheet for each layer under ``<name>/<layer>``, the mean activation that its patterns reach under
        ``<name>_stats/<layer>/activation``, and how many of its filters never had a gradient under
        ``<name>_stats/<layer>/silent``. The patterns themselves are in the archive ``<log dir>/<name>/``
        (:meth:`Archive.channels`), 0.3 MB for each filter and step where pictures are 3x224x224.

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
        check_kept(layers=layers, probes=probes, sinks=sinks, forward_fn=forward_fn)
        layers, layout = plain(layers), plain(layout)
        filters, steps, value_range, sinks = plain(filters), plain(steps), plain(value_range), plain(sinks)
        border, jitter, seed, batch_size = plain(border), plain(jitter), plain(seed), plain(batch_size)
        every_n_epochs, every_n_validations = plain(every_n_epochs), plain(every_n_validations)
        check_layers(layers)
        check_probes(probes)
        check_count("batch_size", batch_size)
        check_schedule(every_n_epochs, every_n_validations)
        check_overhead(max_overhead)
        parse_layouts(layout)
        check_forward_fn(forward_fn)
        check_choice("on_error", on_error, ("warn", "raise"))
        super().__init__(
            RunOptions(
                PatternMonitor(
                    name=check_name(name),
                    layers=layers,
                    filters=check_filters(filters),
                    ascent=Ascent(
                        steps, step_size, border, seed, jitter, total_variation, parametrisation, value_range
                    ),
                    drawing=checked_drawing(drawing, PatternDrawing),
                    layout=layout,
                    batch_size=batch_size,
                    progress=progress,
                    evolution=report,
                    baseline=log_untrained,
                ),
                ChannelReporter,
                ProbeOptions(probes, 1, seed, plain(input_key), None, None, None, None),
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
