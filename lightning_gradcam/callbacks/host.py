"""Hides the differences between Lightning's namespaces, loops and loaders. Knows nothing about CAMs or pixels.

Two packages contain the same framework: ``pytorch_lightning`` and ``lightning.pytorch``. A callback derived from one
works in the other's Trainer, but the other's command line rejects it. The base class is therefore taken from the
package that is already loaded, or else from the one that is installed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.autograd import set_detect_anomaly
from torch.utils.data import IterableDataset

from lightning_gradcam.errors import printable
from lightning_gradcam.guard.data import isolated, seed_global_rng
from lightning_gradcam.guard.model import preserved, sharded_again
from lightning_gradcam.probes.samplers import UnindexedError
from lightning_gradcam.storage import Storage, absolute, join
from lightning_gradcam.warn import warn

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.utilities import rank_zero_info as _info
    from pytorch_lightning.utilities import rank_zero_only as _rank_zero_only
else:
    _packages = ("pytorch_lightning", "lightning.pytorch")
    # In import order: a script's own Lightning precedes the one that its libraries import.
    _loaded = [name for name in sys.modules if name in _packages]
    _package = _loaded[0] if _loaded else _packages[0 if find_spec(_packages[0]) is not None else 1]
    Callback = import_module(_package).Callback
    _info = import_module(f"{_package}.utilities").rank_zero_info
    _rank_zero_only = import_module(f"{_package}.utilities").rank_zero_only

__all__ = ["Callback", "rank_zero_info", "rank_zero_warn"]

RUNS_FOLDER = "gradcam_runs"


def rank_zero_info(message: str) -> None:
    """Logs a line on rank zero; names in it may contain any text."""
    _info(printable(message, keep="\n"))


@_rank_zero_only
def rank_zero_warn(message: str) -> None:
    """Warns on rank zero, at the user's line; names and tracebacks in it may contain any text."""
    warn(printable(message, keep="\n"))


@dataclass(frozen=True, eq=False)
class Host:
    """The parts of a running trainer and its module that explaining needs.

    Attributes:
        trainer: The running trainer.
        module: Its module.
    """

    trainer: Trainer
    module: LightningModule

    @property
    def shards(self) -> bool:
        """Whether each rank holds only part of the weights, so a forward pass needs all ranks."""
        return bool(kinds(self.trainer.strategy) & {"ModelParallelStrategy"})

    @property
    def explains(self) -> bool:
        """Whether this rank takes part in explaining: rank zero, or every rank if the weights are sharded."""
        return self.unsupported is None and (self.trainer.is_global_zero or self.shards)

    @property
    def unsupported(self) -> str | None:
        """The strategy and an alternative, if its weights can't be explained; otherwise ``None``."""
        strategy: Any = self.trainer.strategy
        if "FSDPStrategy" in kinds(strategy):
            return (
                "FSDPStrategy (FSDP1) flattens each rank's weights; use ModelParallelStrategy with fully_shard (FSDP2)"
            )
        if "DeepSpeedStrategy" in kinds(strategy) and getattr(strategy, "zero_stage_3", False):
            return (
                "DeepSpeed stage 3 gathers the weights only during its own forward pass; use stage 2 or "
                "ModelParallelStrategy"
            )
        return None

    @property
    def stage(self) -> str:
        """``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``."""
        function = self.trainer.state.fn
        return str(function.value) if function is not None else ""

    @property
    def fitting(self) -> bool:
        """Whether this is ``trainer.fit``, including its validations."""
        return self.stage == "fit"

    @property
    def checking(self) -> bool:
        """Whether this is the sanity check."""
        return bool(self.trainer.sanity_checking)

    @property
    def at_last_batch(self) -> bool:
        """Whether the validation or test batch that has just ended was the last one."""
        trainer = self.trainer
        other = trainer.test_loop if self.stage == "test" else trainer.validate_loop
        loop = trainer.fit_loop.epoch_loop.val_loop if self.fitting else other
        return bool(loop.batch_progress.is_last_batch)

    @property
    def tries(self) -> bool:
        """Whether this is a ``fast_dev_run``, which runs only a few batches."""
        return bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]

    @property
    def untrained(self) -> bool:
        """Whether no optimizer has stepped yet."""
        return self.trainer.global_step == 0

    @property
    def replays(self) -> bool:
        """Whether this ``fit`` only runs its hooks on the checkpoints of an earlier training run, without training."""
        return self.fitting and self.trainer.fit_loop.epoch_loop.batch_progress.total.ready == 0

    @property
    def epoch(self) -> int:
        """The epoch, counted from 0."""
        return self.trainer.current_epoch

    @property
    def step(self) -> int:
        """The x value at which Lightning logs this validation's metrics (not ``global_step``)."""
        return int(self.trainer.fit_loop.epoch_loop._batches_that_stepped)

    @property
    def validates(self) -> bool:
        """Whether validation hooks fire during ``fit``."""
        # Before the loaders are set up, the numbers of batches are unknown, so it only matters whether a loader is
        # defined.
        batches = self.trainer.num_val_batches if self.trainer.val_dataloaders is not None else [1]
        return bool(self.trainer.enable_validation) and sum(batches) > 0

    @property
    def loggers(self) -> list[Any]:
        """The trainer's loggers."""
        return list(self.trainer.loggers)

    @property
    def overfitted(self) -> int | None:
        """The number of batches used under ``overfit_batches``; ``None`` without it, or if not known yet."""
        trainer: Any = self.trainer
        wanted = trainer.overfit_batches
        if not wanted or not self.fitting:
            return None
        if isinstance(wanted, int):
            return wanted
        counts = trainer.num_val_batches if self.validates else [trainer.num_training_batches]
        return int(max(counts)) if counts else None

    def probe_loader(self) -> Any:
        """Returns the dataloader from whose data set the probes are drawn, without iterating it.

        In ``fit``, this is the first validation loader, or the training loader if there is no validation. Otherwise, it
        is the running stage's loader.

        Raises:
            UnindexedError: There is no dataloader with a data set.
        """
        trainer = self.trainer
        if self.stage == "test":
            loaders = trainer.test_dataloaders
        elif self.stage == "validate" or self.validates:
            loaders = trainer.val_dataloaders
            if loaders is None:
                # Lightning requests the loader only when the first validation is due. The loader requested here is
                # discarded: Lightning's own call then happens at the same time, and finds the same state, as without
                # this callback.
                with isolated(trainer.lightning_module, trainer.datamodule, deep=False):  # type: ignore[attr-defined]
                    loaders = trainer.fit_loop.epoch_loop.val_loop._data_source.dataloader()
        else:
            loaders = trainer.train_dataloader
        loader = _first(loaders)
        if loader is None:
            raise UnindexedError(
                f"probes: found no dataloader with a data set to draw from, only a {type(loaders).__name__}; pass"
                " probes=ProbeSet(...), a saved probe set, or a folder of images"
            )
        return loader

    def log_dir(self) -> str | None:
        """Returns the folder for a new run's archives, or ``None`` under ``fast_dev_run``; only called on rank zero.

        The path is absolute, because a script may change its working directory.
        """
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        logger, root = self.trainer.logger, str(self.trainer.default_root_dir)
        if logger is not None:
            directory = getattr(logger, "log_dir", None)
            if directory:
                return absolute(str(directory))
            # Next to the checkpoints: Lightning names their folder like this.
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            return absolute(join(str(logger.save_dir or root), f"{logger.name}/{version}"))
        runs = join(root, RUNS_FOLDER)
        numbers = [int(name) for name in Storage(runs).names("") if name.isdigit()]
        return absolute(join(runs, str(max(numbers, default=-1) + 1)))

    def metrics(self) -> dict[str, float]:
        """Returns ``trainer.callback_metrics`` as plain floats, without entries that are not a single finite number.

        Call it only at hooks where Lightning has computed them on all ranks, such as ``on_validation_end``. Reading
        them earlier computes missing values, for which ranks would wait for each other.
        """
        found = {}
        for name, value in self.trainer.callback_metrics.items():
            number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
            if isinstance(number, (int, float)) and math.isfinite(number):
                found[str(name)] = float(number)
        return found

    def board(self) -> str:
        """Returns TensorBoard's ``--logdir``; empty if no logger writes for TensorBoard."""
        found = [str(logger.save_dir) for logger in self.loggers if "TensorBoardLogger" in kinds(logger)]
        return absolute(found[0]) if found else ""

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Restores what explaining must not change: the model, the random state, the stage and logging."""
        training = self.trainer.training
        # FSDP2 swaps whole weights and a rank's own shard in the same attributes; the guard must start and end with the
        # shards.
        # `detect_anomaly=True` is about the training's own gradients; maps that are not finite are reported as such.
        with sharded_again(self.module), preserved(self.module), set_detect_anomaly(False):
            # A forward() that logs would log a second time, or raise where Lightning allows no logging. The guard
            # removes this attribute again.
            vars(self.module)["log"] = lambda *args, **kwargs: None
            if training:
                # Transfer hooks augment `if self.trainer.training`; probes are treated as validation data.
                self.trainer.validating = True
            try:
                yield
            finally:
                if training:
                    self.trainer.training = True

    def forward_of(self, forward_fn: Callable[..., Any] | None = None) -> Callable[[Any], Any]:
        """Returns a function that runs the module with the trainer's precision (autocast is off outside step hooks).

        Call it only while :meth:`explaining`: it seeds the global random number generators.

        Args:
            forward_fn: Called with the module and the inputs, instead of the module itself.
        """

        def forward(inputs: Any) -> Any:
            # Dropout that is always on draws the same at every step, however many passes there are before this one.
            seed_global_rng()
            with self.trainer.precision_plugin.forward_context():
                return self.module(inputs) if forward_fn is None else forward_fn(self.module, inputs)

        return forward


def kinds(thing: object) -> set[str]:
    """Returns the names of an object's class and base classes, all that Lightning's two packages share."""
    return {kind.__name__ for kind in type(thing).__mro__}


def _first(loaders: Any) -> Any:
    """Returns the first loader whose data set has samples, or else the first that has a data set."""
    found = _with_data(loaders)
    return next((loader for loader in found if not _is_empty(loader.dataset)), found[0] if found else None)


def _with_data(loaders: Any) -> list[Any]:
    if hasattr(loaders, "dataset"):
        return [loaders]
    parts = list(loaders.values()) if isinstance(loaders, Mapping) else getattr(loaders, "flattened", loaders)
    return [found for part in parts for found in _with_data(part)] if isinstance(parts, (list, tuple)) else []


def _is_empty(dataset: Any) -> bool:
    # The length of a stream may be unknown.
    return not isinstance(dataset, IterableDataset) and hasattr(dataset, "__len__") and len(dataset) == 0
