"""The callback: its options, and which of Lightning's hooks does what on which rank; the work itself is the run's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from lightning_gradcam.archive import Archive
from lightning_gradcam.drawing import Drawing
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.failures import OnError
from lightning_gradcam.host import (
    Callback,
    Host,
    averages_before,
    check_forward,
    check_forward_fn,
    rank_zero_warn,
    siblings,
)
from lightning_gradcam.inputs import check_output_key
from lightning_gradcam.layers import check_layers
from lightning_gradcam.layout import parse_layouts
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.options import (
    check_choice,
    check_count,
    check_drawing,
    check_name,
    check_overhead,
    check_probes,
    check_schedule,
    check_share,
    check_sinks,
)
from lightning_gradcam.plan import Plan
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.display import normalization
from lightning_gradcam.probes.source import ProbeOptions
from lightning_gradcam.run import Run, RunOptions
from lightning_gradcam.sinks import Sink
from lightning_gradcam.targets import check_score, resolve_targets

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

# In this order: a command line tries one after the other, and everything it gets could be a str.
_OneTarget = int | dict[str, int | list[int | str] | list[list[float]] | str] | Callable[..., Any] | str


class GradCAMCallback(Callback):
    r"""Logs Grad-CAM overlays of a fixed probe set after every validation.

    Training is untouched: weights, gradients, buffers, modes and random numbers are what they would have been
    without the callback. Signed maps of every logged step are kept in an archive beside the logs.

    Args:
        layers: What to explain: dotted module names, shell patterns (``"backbone.layer*"``), modules, a list of
            these, or ``"auto"`` (default): the last layer with a spatial output.
        methods: A name of :func:`~lightning_gradcam.available_methods`, or a list.
        targets: Which score: ``"predicted"`` (default), ``"label"``, a class index, ``{"per_probe": [3, 5, …]}``,
            ``{"top": 3}``, ``{"contrast": ["predicted", "label"]}``, a callable from the model's output to scores
            ``[N]``, or a list of these; for segmentation, detection, regression and embeddings see
            :func:`~lightning_gradcam.targets.resolve_targets`.
        score: ``"logit"`` (default), ``"probability"`` (its softmax) or ``"sigmoid"`` (several labels a sample).
        probes: A :class:`ProbeSet`, the path of a saved one, or a folder of pictures. Default: drawn from the
            validation data set, class-balanced; of data that can't be indexed, the first samples that pass by.
        num_probes: How many to draw.
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
        input_key: Where a batch holds the model's input: a key of a dict or a place in a tuple. Default: the first of
            a tuple, or the usual names.
        label_key: Likewise for the true class; default: the second of a tuple, or the usual names.
        class_names: Names of the classes, where the data set has none.
        mean: Per channel or one for all; undone for display where the data set's transform shows no ``Normalize``.
        std: Likewise.
        layout: What a layer's axes mean, where that can't be seen: ``"NHWC"``, ``"NLC:1+14x14"``, or a mapping from
            layer names to these.
        output_key: Where the explained output stands in what the model returns: a place in a tuple, a key, an
            attribute, or a callable.
        batch_size: How many probes go through the model at once, at most; bounds the memory. A callable target is
            called once for each such part. Where memory does not suffice, half as many are tried.
        background: Draw and write in one background thread (default), while training goes on; ``False`` does all of
            it before training goes on.
        max_overhead: The largest share of the time that explaining may take, for instance 0.02; where it takes more,
            it is done at fewer validations from then on, and that is said once. Default: no limit.
        min_energy_inside: Warn once where, in a trained step, less than this share of a layer's maps (mean over the
            probes) lies inside the probes' masks or boxes: the model looks elsewhere. Default: no alarm.
        evolution: Draw film strips after 1, 2, 4, 8, … logged steps, and when training ends also animations and
            ``report.html`` (default).
        forward_fn: ``forward_fn(module, batch)`` returns the output to explain, from a whole batch on the device: for
            modules without a ``forward(x)`` and for models with several inputs.

    Raises:
        ConfigurationError: From the constructor, an option that can't work; at the start of training, one that does
            not fit the model or data (a layer that is not there or never reached, a class out of range, …).
        ArchiveError: At the start of training, where the folder belongs to another run.

    ``trainer.validate`` and ``trainer.test`` log too, except in a run that was trained: its record is that of the
    training alone.

    Logged:
        A sheet for each layer under ``<name>/<layer>`` (``<name>/<layer>/<method>`` for other methods than Grad-CAM),
        at the step at which Lightning logs the validation metrics; numbers of its maps under
        ``<name>_stats/<layer>/<stat>`` (:data:`lightning_gradcam.stats.STATS`) and ``<name>_stats/seconds``, how long
        training waited for it, and ``<name>_stats/background_seconds``, how long drawing and writing went on beside it;
        film strips of the run so far under ``<name>_evolution/<layer>``.

    Example::

        from lightning_gradcam import GradCAMCallback

        trainer = Trainer(callbacks=[GradCAMCallback(layers=["backbone.layer4"])])
        trainer.fit(model, datamodule)
    """

    def __init__(
        self,
        layers: str | list[str] | nn.Module | list[nn.Module] = "auto",
        *,
        methods: str | list[str] = "gradcam",
        targets: _OneTarget | list[_OneTarget] = "predicted",
        score: Literal["logit", "probability", "sigmoid"] = "logit",
        probes: str | os.PathLike[str] | ProbeSet | None = None,
        num_probes: int = 8,
        seed: int = 0,
        every_n_epochs: int = 1,
        every_n_validations: int | None = None,
        log_untrained: bool = False,
        name: str = "gradcam",
        drawing: Drawing = Drawing(),  # noqa: B008 - frozen
        on_error: OnError = "warn",
        sinks: list[Sink] | None = None,
        input_key: int | str | None = None,
        label_key: int | str | None = None,
        class_names: list[str] | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        layout: str | dict[str, str] | None = None,
        output_key: int | Callable[..., Any] | str | None = None,
        forward_fn: Callable[..., Any] | None = None,
        batch_size: int = 32,
        background: bool = True,
        max_overhead: float | None = None,
        min_energy_inside: float | None = None,
        evolution: bool = True,
    ) -> None:
        super().__init__()
        check_layers(layers)
        resolve_methods(methods)
        resolve_targets(targets)
        normalization(mean, std)
        check_probes(probes)
        check_count("num_probes", num_probes)
        check_count("batch_size", batch_size)
        check_count("seed", seed, least=0)
        check_schedule(every_n_epochs, every_n_validations)
        check_overhead(max_overhead)
        check_share("min_energy_inside", min_energy_inside)
        parse_layouts(layout)
        check_output_key(output_key)
        check_forward_fn(forward_fn)
        check_choice("on_error", on_error, ("warn", "raise"))
        self._options = RunOptions(
            Plan(
                check_name(name),
                layers,
                methods,
                targets,
                check_score(score),
                check_drawing(drawing),
                layout,
                output_key,
                batch_size,
                min_energy_inside=min_energy_inside,
                evolution=evolution,
            ),
            ProbeOptions(probes, num_probes, seed, input_key, label_key, class_names, mean, std),
            forward_fn,
            every_n_epochs,
            every_n_validations,
            max_overhead,
            log_untrained,
            background,
            on_error,
            check_sinks(sinks),
        )
        self._trainer: Trainer | None = None
        self._run = Run(self._options, self._find_log_dir)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles (of a tuner, of spawned ranks) have the options and no run: threads can't be copied."""
        return {**vars(self), "_trainer": None, "_run": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begins anew."""
        vars(self).update(state)
        self._run = Run(self._options, self._find_log_dir)

    @property
    def name(self) -> str:
        """The root of tags and the archive's folder."""
        return self._options.plan.name

    @property
    def probes(self) -> ProbeSet | None:
        """The probes in use; ``None`` before training has started, and on other ranks than zero."""
        return self._run.session.probes if self._run.session is not None else None

    @property
    def archive(self) -> Archive | None:
        """The run's archive, to read while it grows and afterwards; ``None`` before training has started."""
        return self._run.session.archive if self._run.session is not None else None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return f"GradCAMCallback{{'name': {self.name!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what can be seen to be wrong before any data is loaded."""
        same = [other for other in siblings(trainer, GradCAMCallback) if other.name == self.name]
        if len(same) > 1:
            raise ConfigurationError(
                f"name: {len(same)} GradCAMCallbacks are named {self.name!r} and would write the same tags and archive;"
                " give each a name= of its own"
            )
        if stage != "predict" and self._options.forward_fn is None:
            check_forward(pl_module)
        if self._trainer is not trainer:
            self._trainer, self._run = trainer, Run(self._options, self._find_log_dir)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the probes, tries the whole configuration on them, and logs the baseline where it is asked for."""
        self._start(Host(trainer, pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under ``trainer.validate``: draws the probes and tries the configuration."""
        host = Host(trainer, pl_module)
        if host.stage == "validate":
            self._start(host)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under ``trainer.test``: draws the probes and tries the configuration."""
        self._start(Host(trainer, pl_module))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Takes probes from data that can't be indexed."""
        host = Host(trainer, pl_module)
        if host.explains and dataloader_idx == 0:
            self._run.meet(host, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Likewise under ``trainer.test``."""
        host = Host(trainer, pl_module)
        if host.explains and dataloader_idx == 0:
            self._run.meet(host, batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Likewise where there is no validation."""
        host = Host(trainer, pl_module)
        if self._run.waiting and not host.validates:
            self._run.meet(host, batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hands finished pictures to the loggers that can't be served in the background."""
        if self._run.waiting:
            self._run.start_or_wait(Host(trainer, pl_module))
        self._run.settle()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Explains already here, where another callback takes averaged weights away before this one's turn."""
        host = Host(trainer, pl_module)
        if self._run.waiting and host.stage == "validate":
            self._run.start_or_wait(host)
        if host.explains and not host.checking and host.ends_validation and averages_before(trainer, self):
            self._run.ending(host)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains, if this validation is due."""
        host = Host(trainer, pl_module)
        if host.explains and not host.checking:
            self._run.validated(host, averaged=averages_before(trainer, self))

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Under ``trainer.test``: starts where the first batch has made a lazy module's parameters."""
        if self._run.waiting:
            self._run.start_or_wait(Host(trainer, pl_module))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains under ``trainer.test``."""
        host = Host(trainer, pl_module)
        if host.explains:
            self._run.ended(host, host.step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains where there is no validation whose end could be used."""
        host = Host(trainer, pl_module)
        if host.explains and not host.validates:
            self._run.ended(host, host.step - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has the whole run drawn, and waits until the last pictures are finished."""
        self._run.conclude()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stores which probes are in use and where the archive stands, in plain types."""
        # Not `state_dict`: Lightning refuses two stateful callbacks of one key in the Trainer's constructor, before
        # `setup` can say that they need different names.
        if self._run.session is not None and trainer.is_global_zero:
            checkpoint.setdefault("callbacks", {})[self.state_key] = self._run.state(self._run.session)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over probes and archive of the run that the checkpoint belongs to."""
        self._run.resume(state_dict)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the sinks: Lightning calls no ``teardown`` after an exception."""
        self._run.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the sinks and says where the archive is."""
        self._run.close()
        self._run.report(Host(trainer, pl_module))

    def _start(self, host: Host) -> None:
        if host.explains:
            self._run.start_or_wait(host)
        elif host.unsupported:
            rank_zero_warn(f"lightning-gradcam: nothing is logged: {host.unsupported} can be explained")

    def _find_log_dir(self, host: Host) -> str | None:
        """Callbacks side by side share the folder that the first of them has found."""
        shared = [other._run.log_dir for other in siblings(host.trainer, GradCAMCallback) if other._run.log_dir]
        return shared[0] if shared else host.log_dir()
