"""The Grad-CAM callback and its own options. Its base class defines the hooks, and the run does the work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import nn

from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.checks import check_gradients, check_on_alarm, checked_options
from lightning_gradcam.callbacks.options import RunOptions, documented, fill
from lightning_gradcam.callbacks.steering import OnAlarm
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.render.drawing import Drawing, check_columns
from lightning_gradcam.sinks import Sink
from lightning_gradcam.targets import TargetObject

# jsonargparse tries these types in order when it reads and saves a configuration. Values of types before `Callable`
# stay unchanged; a `Callable` before `str` or `list` would accept these and could not save them. A `dict` with typed
# entries would turn the name "3" into a number.
_PlainTarget = int | dict | str | TargetObject  # type: ignore[type-arg]


@documented
class GradCAMCallback(ProbeCallback):
    r"""Logs Grad-CAM overlays of a fixed probe set after every validation.

    Training is untouched: weights, gradients, buffers, modes and random numbers are what they would have been
    without the callback. The signed maps of every logged step are stored in an archive next to the logs.

    Args:
        methods: A name from :func:`~lightning_gradcam.available_methods`, or a list of names.
        targets: Score to explain: ``"predicted"`` (default), ``"label"``, a class index or name,
            ``{"per_probe": [3, 5, …]}``, ``{"top": 3}``, ``{"contrast": ["predicted", "label"]}`` (in Python also
            ``PerProbe([3, 5, …])``, ``Top(3)``, ``Contrast("predicted", "label")``), a callable from the model's
            output to scores ``[N]``, or a list of these; for segmentation, detection, regression and embeddings see
            :func:`~lightning_gradcam.resolve_targets`.
        score: ``"logit"`` (default), ``"probability"`` (softmax) or ``"sigmoid"`` (several labels per sample).
        num_probes: Number of probes to draw. Default: 8, or all samples if there are fewer.
        drawing: Options for drawing sheets: colour map, opacity, columns, scale, …
        output_key: Part of the model's output to explain: an index into a tuple, a key, an attribute, or a callable.
        batch_size: Maximum number of probes per forward pass; limits memory use. A callable target is called once per
            batch. If memory runs out, the number is halved.
        min_energy_inside: Warn once if, at any step except the untrained baseline, less than this share of a layer's
            maps (mean over the probes) is inside the probes' masks or boxes. Default: no warning.
        on_alarm: Reaction when ``min_energy_inside`` is not reached: ``"warn"`` (default) only warns; ``"stop"`` also
            ends training, as Lightning's ``EarlyStopping`` does; ``"checkpoint"`` also saves a checkpoint next to the
            run's others, with the reason in its name. With ``"stop"`` or ``"checkpoint"``, training waits for each
            logged step's numbers, as with ``monitor``.
        monitor: Add each logged step's numbers to ``trainer.callback_metrics``, with the same values on all ranks,
            before Lightning's ``EarlyStopping`` and ``ModelCheckpoint`` read them: all numbers (``True``) or a list of
            names, such as ``["gradcam_stats/backbone.layer4/energy_inside"]``. Training waits for the numbers;
            ``<name>_stats/seconds`` includes this time. In an epoch that is not logged, a number keeps its last value.
            It is NaN before its first value, and at a step for which no probe has a value. ``EarlyStopping`` reads each
            new value once, so its ``patience`` counts logged steps. Default: ``False``.
        gradients: Also log statistics of the gradients behind the maps: histograms of gradients and channel weights in
            loggers that support histograms, the channels with the largest weights in the archive
            (``archive.record(-1).gradients``), and a warning if no gradient reaches a layer. Needs no extra
            backward pass. Default: ``False``.
        evolution: Draw film strips after 1, 2, 4, 8, … logged steps. When training ends, also draw animations and
            write ``report.html``. Default: ``True``.
        check: When training ends, check once on the probes whether the maps can be trusted, as
            :func:`~lightning_gradcam.check_maps` does. At most three lines report the result; ``check.json`` and
            ``check.html`` in the run's folder contain the details. With several targets, or one that is not a class,
            only the predicted class is checked, and the first line states this. Takes hundreds of forward passes per
            probe, layer and method (fewer with several processes, because the others wait), and never stops training.
            Default: ``False``.
        numbers: Numbers to log: ``"default"`` (``drift``, ``half_area``, ``blank`` and, with masks or boxes,
            ``energy_inside``) or ``"all"`` (:data:`lightning_gradcam.STATS`, scores and confidences). The archive, the
            report and the findings always include all of them.

    Raises:
        ConfigurationError: In the constructor, if an option is invalid; at the start of training, if an option does not
            fit the model or the data (a layer that does not exist or is never reached, a class out of range, …).
        ArchiveError: At the start of training, if the archive's folder can't be written to.

    ``trainer.validate`` and ``trainer.test`` also log maps, except after training in the same run, whose record covers
    training only. A folder that contains another run's record stays unchanged: the new record is written to
    ``<name>-1``, ``<name>-2``, … next to it, and one line reports this.

    Logged:
        At the step at which Lightning logs the validation metrics, a sheet for each layer under ``<name>/<layer>``
        (``<name>/<layer>/<method>`` for methods other than Grad-CAM), and its maps' numbers under
        ``<name>_stats/<layer>/<stat>``: those of :data:`lightning_gradcam.STATS` selected by ``numbers``, as means over
        the probes that have a value (``compared``, ``flipped``, ``went_blank`` and ``came_back`` count probes).
        ``<name>_stats/seconds`` is how long training was blocked, ``<name>_stats/background_seconds`` how long drawing
        and writing took in the background. Film strips of the run so far are logged under
        ``<name>_evolution/<layer>``. With ``gradients=True``, histograms are logged under ``<name>_gradients/<layer>``
        and ``<name>_weights/<layer>``, and the share of probes whose gradient has vanished under
        ``<name>_stats/<layer>/vanished``.

    Example::

        from lightning_gradcam import GradCAMCallback

        trainer = Trainer(callbacks=[GradCAMCallback(layers=["backbone.layer4"])])
        trainer.fit(model, datamodule)
    """

    _kind: ClassVar[str] = "GradCAMCallback"

    def __init__(
        self,
        layers: str | list[str] | nn.Module | list[nn.Module] = "auto",
        *,
        methods: str | list[str] = "gradcam",
        targets: list[_PlainTarget | Callable[..., Any]] | _PlainTarget | Callable[..., Any] = "predicted",
        score: Literal["logit", "probability", "sigmoid"] = "logit",
        probes: str | os.PathLike[str] | ProbeSet | None = None,
        num_probes: int | None = None,
        seed: int = 0,
        every_n_epochs: int = 1,
        every_n_validations: int | None = None,
        log_untrained: bool = False,
        name: str = "gradcam",
        drawing: Drawing = Drawing(),  # noqa: B008 - frozen
        on_error: OnError = "warn",
        sinks: list[Sink] | None = None,
        input_key: int | str | list[int | str] | Callable[..., Any] | None = None,
        label_key: int | str | list[int | str] | Callable[..., Any] | None = None,
        class_names: list[str] | str | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        layout: str | dict[str, str] | None = None,
        output_key: str | int | Callable[..., Any] | None = None,
        forward_fn: Callable[..., Any] | None = None,
        batch_size: int = 32,
        background: bool = True,
        max_overhead: float | None = None,
        min_energy_inside: float | None = None,
        on_alarm: OnAlarm = "warn",
        monitor: bool | list[str] = False,
        gradients: bool = False,
        evolution: bool = True,
        check: bool = False,
        numbers: Literal["default", "all"] = "default",
    ) -> None:
        options = checked_options(locals(), Drawing)
        check_columns(options["drawing"], options["methods"])
        check_gradients(options["gradients"], options["methods"])
        check_on_alarm(options["on_alarm"], options["min_energy_inside"])
        super().__init__(RunOptions.of(options, fill(CamMonitor, options), CamReporter))
