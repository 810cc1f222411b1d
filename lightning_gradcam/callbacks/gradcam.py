"""The Grad-CAM callback: its options; hooks are their base's, and the work itself is the run's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import nn

from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.from_config import check_kept, output_key_of, plain, recovered, with_functions
from lightning_gradcam.callbacks.host import check_forward_fn
from lightning_gradcam.callbacks.options import (
    check_choice,
    check_count,
    check_drawing,
    check_gradients,
    check_name,
    check_overhead,
    check_probes,
    check_schedule,
    check_share,
    check_sinks,
)
from lightning_gradcam.callbacks.run import RunOptions
from lightning_gradcam.capture.inputs import check_output_key
from lightning_gradcam.capture.layers import check_layers
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.pipeline.failures import OnError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.display import normalization
from lightning_gradcam.probes.source import ProbeOptions
from lightning_gradcam.render.drawing import Drawing, check_columns
from lightning_gradcam.sinks import Sink
from lightning_gradcam.targets import TargetObject, check_names, check_score, resolve_targets

# jsonargparse tries one after the other, when it reads and when it saves a configuration. What comes before `Callable`
# is kept as it is; a `Callable` before `str` or `list` takes these, and can't save them. A `dict` with types of its
# entries would turn the name "3" into a number.
_PlainTarget = int | dict | str | TargetObject  # type: ignore[type-arg]


class GradCAMCallback(ProbeCallback):
    r"""Logs Grad-CAM overlays of a fixed probe set after every validation.

    Training is untouched: weights, gradients, buffers, modes and random numbers are what they would have been
    without the callback. Signed maps of every logged step are kept in an archive beside the logs.

    Args:
        layers: What to explain: dotted module names, shell patterns (``"backbone.layer*"``), modules, a list of
            these, or ``"auto"`` (default): the last layer with a spatial output.
        methods: A name of :func:`~lightning_gradcam.available_methods`, or a list.
        targets: Which score: ``"predicted"`` (default), ``"label"``, a class index or name,
            ``{"per_probe": [3, 5, …]}``, ``{"top": 3}``, ``{"contrast": ["predicted", "label"]}`` (in Python also
            ``PerProbe([3, 5, …])``, ``Top(3)``, ``Contrast("predicted", "label")``), a callable from the model's
            output to scores ``[N]``, or a list of these; for segmentation, detection, regression and embeddings see
            :func:`~lightning_gradcam.resolve_targets`.
        score: ``"logit"`` (default), ``"probability"`` (its softmax) or ``"sigmoid"`` (several labels a sample).
        probes: A :class:`ProbeSet`, the path of a saved one, or a folder of pictures. Default: drawn, class-balanced,
            from the samples that the validation loader's sampler yields; of data that can't be indexed, the first
            samples that pass by.
        num_probes: How many to draw. Default: 8, or all samples where there are fewer.
        seed: Of the draw.
        every_n_epochs: Log at every validation of every n-th epoch, counted as Lightning's ``ModelCheckpoint`` counts:
            with 2, in epochs 1, 3, 5, … (epochs begin at 0).
        every_n_validations: Log at every n-th validation instead, for validation inside an epoch.
        log_untrained: Log a baseline before the first training step.
        name: The root of tags, the archive's folder and the key of the state; callbacks side by side need different
            ones.
        drawing: Colour map, opacity, columns, scale and so on.
        on_error: What a failure in our own work does after training has begun: ``"warn"`` (default) reports it,
            goes on, and gives up after three in a row; ``"raise"`` stops training. A wrong configuration always raises
            before the first training step.
        sinks: Further places for the pictures, besides those of the trainer's loggers.
        input_key: Where a batch holds the model's input: a key of a dict, a field, a place in a tuple, a path of these
            (``["t1", "data"]``, ``"inputs.image"``; a key with a dot in it comes before a path), or a function that
            takes it out of the batch. Default: the first of a tuple, or the usual names; of several views, the first;
            with ``forward_fn``, any picture in the batch.
        label_key: Where it holds the true class, in the same forms; default: the second of a tuple, or the usual names.
        class_names: Names of all classes by index, where the data set has none: a list, ``"imagenet"`` for
            torchvision's 1000 names, or a file with one name a line or JSON.
        mean: Per channel or one for all; undone for display where the data set's transform shows no ``Normalize``.
        std: Likewise.
        layout: What a layer's axes mean, where that can't be seen: ``"NHWC"``, ``"NLC:1+14x14"``,
            ``"(NT)CHW"`` (frames folded into the batch), or a mapping from layer names to these.
        output_key: Where the explained output stands in what the model returns: a place in a tuple, a key, an
            attribute, or a callable.
        batch_size: How many probes go through the model at once, at most; bounds the memory. A callable target is
            called once for each such part. Where memory does not suffice, half as many are tried.
        background: Draw, write and log in background threads (default), while training goes on; ``False`` does all
            of it before training goes on.
        max_overhead: The largest share of the time that explaining may take, for instance 0.02; where it takes more,
            it is done at fewer validations from then on, and that is said once. Default: no limit.
        min_energy_inside: Warn once where, in a trained step, less than this share of a layer's maps (mean over the
            probes) lies inside the probes' masks or boxes: the model looks elsewhere. Default: no alarm.
        gradients: Put the gradients that explain into numbers, too: histograms of them and of the channel weights in
            loggers that have histograms, the channels with the largest weights in the archive
            (``archive.record(-1).gradients``), and a warning where no gradient reaches a layer. Needs no further
            backward. Default: not.
        evolution: Draw film strips after 1, 2, 4, 8, … logged steps, and when training ends also animations and
            ``report.html`` (default).
        forward_fn: ``forward_fn(module, batch)`` returns the output to explain, from a whole batch on the device: for
            modules without a ``forward(x)`` and for models with several inputs.

    Raises:
        ConfigurationError: From the constructor, an option that can't work; at the start of training, one that does
            not fit the model or data (a layer that is not there or never reached, a class out of range, …).
        ArchiveError: At the start of training, where the folder can't be written.

    ``trainer.validate`` and ``trainer.test`` log too, except in a run that was trained: its record is that of the
    training alone. A folder that holds another run's record is left as it is: the new record goes to ``<name>-1``,
    ``<name>-2``, … beside it, and one line says so.

    Logged:
        A sheet for each layer under ``<name>/<layer>`` (``<name>/<layer>/<method>`` for other methods than Grad-CAM),
        at the step at which Lightning logs the validation metrics; numbers of its maps under
        ``<name>_stats/<layer>/<stat>``, means over the probes that have them (:data:`lightning_gradcam.STATS`;
        ``compared``, ``flipped``, ``went_blank`` and ``came_back`` are numbers of probes), and
        ``<name>_stats/seconds``, how long training waited for it, and ``<name>_stats/background_seconds``, how long
        drawing and writing went on beside it;
        film strips of the run so far under ``<name>_evolution/<layer>``; with ``gradients=True`` histograms under
        ``<name>_gradients/<layer>`` and ``<name>_weights/<layer>``, and the share of probes whose gradient has vanished
        under ``<name>_stats/<layer>/vanished``.

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
        gradients: bool = False,
        evolution: bool = True,
    ) -> None:
        targets = recovered(targets)
        check_kept(
            layers=layers, targets=targets, probes=probes, sinks=sinks, output_key=output_key, forward_fn=forward_fn
        )
        layers, methods, targets, layout = plain(layers), plain(methods), with_functions(plain(targets)), plain(layout)
        class_names, mean, std, sinks = plain(class_names), plain(mean), plain(std), plain(sinks)
        num_probes, seed, batch_size = plain(num_probes), plain(seed), plain(batch_size)
        every_n_epochs, every_n_validations = plain(every_n_epochs), plain(every_n_validations)
        check_layers(layers)
        class_names = check_names(class_names)
        resolve_methods(methods)
        resolve_targets(targets)
        check_columns(check_drawing(drawing), methods)
        normalization(mean, std)
        check_probes(probes)
        if num_probes is not None:
            check_count("num_probes", num_probes)
        check_count("batch_size", batch_size)
        check_count("seed", seed, least=0)
        check_schedule(every_n_epochs, every_n_validations)
        check_overhead(max_overhead)
        check_share("min_energy_inside", min_energy_inside)
        check_gradients(gradients, methods)
        parse_layouts(layout)
        check_output_key(output_key)
        check_forward_fn(forward_fn)
        check_choice("on_error", on_error, ("warn", "raise"))
        monitor = CamMonitor(
            check_name(name),
            layers,
            methods,
            targets,
            check_score(score),
            check_drawing(drawing),
            layout,
            output_key_of(output_key),
            batch_size,
            min_energy_inside=min_energy_inside,
            gradients=gradients,
            evolution=evolution,
            own_names=None if class_names is None else tuple(map(str, class_names)),
        )
        super().__init__(
            RunOptions(
                monitor,
                CamReporter,
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
