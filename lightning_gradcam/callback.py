"""The callback: when to explain, on which rank, and from which data; the work itself is the session's."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from lightning_gradcam.archive import Archive
from lightning_gradcam.cams import Cams
from lightning_gradcam.drawing import Drawing
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError
from lightning_gradcam.failures import Failures, OnError
from lightning_gradcam.guard import uninitialized
from lightning_gradcam.host import (
    Callback,
    check_forward,
    check_forward_fn,
    explaining,
    forward_of,
    log_dir,
    logging_step,
    prepared_batch,
    probe_loader,
    rank_zero_info,
    rank_zero_warn,
    siblings,
    stage_of,
    validates,
)
from lightning_gradcam.inputs import Inputs, check_output_key, part_of
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
    check_sinks,
)
from lightning_gradcam.plan import Plan
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.dataset import Drawn, input_of
from lightning_gradcam.probes.display import normalization
from lightning_gradcam.probes.source import ProbeOptions, obtain_probes
from lightning_gradcam.record import UNTRAINED_EPOCH
from lightning_gradcam.schedule import Schedule
from lightning_gradcam.session import EXPLAINING, Session
from lightning_gradcam.sinks import Sink
from lightning_gradcam.storage import absolute
from lightning_gradcam.targets import check_score, resolve_targets
from lightning_gradcam.worker import Worker

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
            validation data set, class-balanced.
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
        at the step at which Lightning logs the validation metrics; ``<name>_stats/seconds``, how long training waited
        for it, and ``<name>_stats/background_seconds``, how long drawing and writing went on beside it.

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
        parse_layouts(layout)
        check_output_key(output_key)
        check_forward_fn(forward_fn)
        check_choice("on_error", on_error, ("warn", "raise"))
        self._plan = Plan(
            check_name(name),
            layers,
            methods,
            targets,
            check_score(score),
            check_drawing(drawing),
            layout,
            output_key,
            batch_size,
        )
        self._forward_fn = forward_fn
        self._options = ProbeOptions(probes, num_probes, seed, input_key, label_key, class_names, mean, std)
        self._every = every_n_epochs, every_n_validations, max_overhead
        self._background = background
        self._log_untrained = log_untrained
        self._on_error = on_error
        self._extra_sinks = check_sinks(sinks)
        self._trainer: Trainer | None = None
        self._resumed: dict[str, Any] = {}
        self._begin_run(None)

    @property
    def name(self) -> str:
        """The root of tags and the archive's folder."""
        return self._plan.name

    @property
    def probes(self) -> ProbeSet | None:
        """The probes in use; ``None`` before training has started, and on other ranks than zero."""
        return self._session.probes if self._session is not None else None

    @property
    def archive(self) -> Archive | None:
        """The run's archive, to read while it grows and afterwards; ``None`` before training has started."""
        return self._session.archive if self._session is not None else None

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
        if stage != "predict" and self._forward_fn is None:
            check_forward(pl_module)
        if self._trainer is not trainer:
            self._begin_run(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the probes, tries the whole configuration on them, and logs the baseline where it is asked for."""
        if trainer.is_global_zero:
            self._start_or_wait(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under ``trainer.validate``: draws the probes and tries the configuration."""
        if trainer.is_global_zero and stage_of(trainer) == "validate":
            self._start_or_wait(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under ``trainer.test``: draws the probes and tries the configuration."""
        if trainer.is_global_zero:
            self._start_or_wait(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains, if this validation is due."""
        if trainer.is_global_zero and not trainer.sanity_checking and self._due(trainer):
            self._log(trainer, pl_module, logging_step(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hands finished pictures to the loggers that can't be served in the background."""
        if self._waiting:
            self._start_or_wait(trainer, pl_module)
        if self._session is not None:
            self._session.settle()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Under ``trainer.validate``: starts where the first batch has made a lazy module's parameters."""
        if self._waiting and stage_of(trainer) == "validate":
            self._start_or_wait(trainer, pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Under ``trainer.test``: likewise."""
        if self._waiting:
            self._start_or_wait(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains under ``trainer.test``."""
        if trainer.is_global_zero:
            self._log(trainer, pl_module, logging_step(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explains where there is no validation whose end could be used."""
        if trainer.is_global_zero and not validates(trainer) and self._due(trainer):
            self._log(trainer, pl_module, logging_step(trainer) - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits until the last pictures are finished."""
        if self._session is not None:
            self._session.finish()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stores which probes are in use and where the archive stands, in plain types."""
        # Not `state_dict`: Lightning refuses two stateful callbacks of one key in the Trainer's constructor, before
        # `setup` can say that they need different names.
        if self._session is not None:
            checkpoint.setdefault("callbacks", {})[self.state_key] = self._state(self._session)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over probes and archive of the run that the checkpoint belongs to."""
        self._resumed = dict(state_dict)
        self._schedule.validations = int(state_dict.get("validations", 0))
        self._schedule.every = int(state_dict.get("every", self._schedule.every))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the sinks: Lightning calls no ``teardown`` after an exception."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the sinks and says where the archive is."""
        self._close()
        if self._waiting:
            rank_zero_warn(
                f"lightning-gradcam: nothing was logged: {', '.join(uninitialized(pl_module))} never ran, so that the"
                " model is not whole; remove them, or call them in its forward()"
            )
        if stage != "fit" or self.archive is None:
            return
        if self.archive.steps:
            rank_zero_info(f"lightning-gradcam: maps of {len(self.archive.steps)} steps are in {self.archive.path}")
        else:
            rank_zero_warn(
                "lightning-gradcam: nothing was logged: no validation was due (every_n_epochs="
                f"{self._every[0]}, every_n_validations={self._every[1]}); lower these"
            )

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _begin_run(self, trainer: Trainer | None) -> None:
        self._trainer = trainer
        self._session: Session | None = None
        self._drawn: Drawn | None = None
        self._resumed = {}
        self._run = uuid.uuid4().hex
        self._log_dir: str | None = None
        self._schedule = Schedule(*self._every)
        self._failures = Failures(self._on_error, rank_zero_warn)
        self._fitted = False
        self._waiting = False

    def _due(self, trainer: Trainer) -> bool:
        return stage_of(trainer) != "fit" or self._schedule.due(trainer.current_epoch, time.monotonic())

    def _start_or_wait(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts as soon as the model is whole: its first forward has to be the training's own."""
        lazy, waited = uninitialized(pl_module), self._waiting
        self._waiting = bool(lazy)
        if not lazy:
            self._start(trainer, pl_module, untrained=not waited)
        elif not waited:
            fitting = stage_of(trainer) == "fit"
            rank_zero_info(
                f"lightning-gradcam: {', '.join(lazy)} get their parameters in the first forward; the configuration is"
                " tried after the first batch instead of before it"
            )
            if fitting and self._log_untrained and trainer.global_step == 0:
                rank_zero_warn(
                    "lightning-gradcam: log_untrained=True: there is no baseline, because the weights are there only"
                    " after the first training batch; run one batch through the model before trainer.fit, or let"
                    " Lightning's sanity check do it (num_sanity_val_steps)"
                )

    def _start(self, trainer: Trainer, pl_module: LightningModule, *, untrained: bool) -> None:
        resumed, self._resumed = self._resumed, {}
        fitting = stage_of(trainer) == "fit"
        if self._session is not None and fitting and not self._fitted:
            # What `validate` or `test` has left is no part of a training's record: its probes may be other ones.
            self._close()
            self._session.discard()
            self._session = None
        self._fitted = self._fitted or fitting
        if self._session is None or self._drawn is None:
            self._open(trainer, pl_module, resumed, fitting=fitting, untrained=untrained)
        elif fitting:
            self._session.check(self._try(trainer, pl_module, self._drawn))
            if resumed and resumed["run"] == self._state(self._session)["run"]:
                self._session.rewind(resumed["step"])

    def _open(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        resumed: dict[str, Any],
        *,
        fitting: bool,
        untrained: bool,
    ) -> None:
        self._drawn, other_probes = obtain_probes(
            self._options,
            lambda: probe_loader(trainer),
            resumed=resumed,
            archived=lambda path: Archive.open(path).probes,
            redraw=stage_of(trainer) != "test",
        )
        cams = self._try(trainer, pl_module, self._drawn)
        # Callbacks side by side share the folder that the first of them has found.
        shared = [other._log_dir for other in siblings(trainer, GradCAMCallback) if other._log_dir]
        self._log_dir = shared[0] if shared else log_dir(trainer)
        self._session, no_copy = Session.start(
            self._plan,
            self._drawn.probes,
            cams,
            run=self._run,
            log_dir=self._log_dir,
            loggers=trainer.loggers,
            sinks=self._extra_sinks,
            resumed=resumed,
            copy_steps=fitting,
            worker=Worker(background=self._background),
            failures=self._failures,
        )
        for remark in (other_probes, no_copy):
            if remark is not None:
                rank_zero_warn(f"lightning-gradcam: {remark}")
        if self._log_untrained and fitting and untrained and trainer.global_step == 0:
            began = time.perf_counter()
            self._session.log(cams, epoch=UNTRAINED_EPOCH, step=logging_step(trainer), stage="fit", began=began)
            self._session.settle()

    def _try(self, trainer: Trainer, pl_module: LightningModule, drawn: Drawn) -> Cams:
        try:
            return self._explain(trainer, pl_module, drawn, self._plan)
        except LightningGradCAMError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"model: its forward failed on the probes {list(drawn.probes.inputs.shape)} ({type(error).__name__}:"
                f" {error}); the input is taken from the batch by input_key, then goes through the module's transfer"
                " hooks to forward()"
            ) from error

    def _explain(self, trainer: Trainer, pl_module: LightningModule, drawn: Drawn, plan: Plan) -> Cams:
        def load(start: int, stop: int) -> Inputs:
            batch = prepared_batch(trainer, pl_module, part_of(drawn.batch, start, stop, len(drawn.probes)))
            picture = input_of(batch, self._options.input_key)
            return Inputs(picture if self._forward_fn is None else batch, picture)

        with explaining(trainer, pl_module):
            return plan.explain(pl_module, load, drawn.probes, forward_of(trainer, pl_module, self._forward_fn))

    def _log(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        if self._session is None or self._drawn is None or self._failures.given_up(EXPLAINING):
            return
        stage = stage_of(trainer)
        if stage != "fit" and self._fitted:
            return
        if stage != "fit" and self._session.last_step == step:
            rank_zero_info(f"lightning-gradcam: step {step} is in the archive already and is not logged again")
            return
        with self._failures.contained(EXPLAINING, step=step):
            began = time.perf_counter()
            cams = self._explain(trainer, pl_module, self._drawn, self._session.plan)
            blocked = self._session.log(cams, epoch=trainer.current_epoch, step=step, stage=stage, began=began)
            if remark := self._schedule.spent(blocked):
                rank_zero_info(f"lightning-gradcam: {remark}")
        self._session.settle()

    def _state(self, session: Session) -> dict[str, Any]:
        archive = session.archive
        indices = session.probes.indices
        return {
            "schema": 1,
            "indices": None if indices is None else list(indices),
            "fingerprint": session.probes.fingerprint,
            "archive": "" if archive is None else absolute(archive.path),
            "run": self._run if archive is None else archive.manifest.run,
            "step": session.last_step,
            "validations": self._schedule.validations,
            "every": self._schedule.every,
        }
