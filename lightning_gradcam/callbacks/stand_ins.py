"""Substitutes for a training run: a Trainer that ends before the first step, and Lightning's command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_gradcam.callbacks.host import Callback, Host
from lightning_gradcam.errors import ConfigurationError

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


def lightning_cli() -> Any:
    """Returns the module that defines ``LightningCLI``, from the Lightning package that the callbacks use.

    Raises:
        ConfigurationError: jsonargparse, which it needs, is not installed.
    """
    why = ""
    try:
        module = import_module(f"{Callback.__module__.split('.callbacks')[0]}.cli")
        if not module._JSONARGPARSE_SIGNATURES_AVAILABLE:
            why = str(module._JSONARGPARSE_SIGNATURES_AVAILABLE)
    except ImportError as error:
        module, why = None, str(error)
    if why:
        raise ConfigurationError(
            f"config: reading a config requires jsonargparse, which can't be used here ({why}); install it with: pip "
            'install "lightning-gradcam[cli]"'
        )
    return module


def at_train_start(
    module: LightningModule,
    data: Any,
    callbacks: list[Callback],
    prepare: Callable[[], None],
    visit: Callable[[Host, Callable[[int, int], None]], None],
    *,
    folder: str,
    options: Mapping[str, Any],
) -> None:
    """Sets up training on one device as ``fit`` does, calls ``visit`` before the first step, and ends there.

    Args:
        module: The module.
        data: A data module, a dataloader to use for validation, or ``None`` for the module's own dataloader (if it has
            none: no data).
        callbacks: Callbacks, whose hooks are called as in any ``fit``.
        prepare: Called after their ``setup``, when checkpoint states are loaded.
        visit: Called after their ``on_train_start`` with the host and a function that sets the trainer's epoch and
            step.
        folder: The ``log_dir`` of the only logger, which logs nothing.
        options: The Trainer's options.

    Raises:
        ConfigurationError: Lightning rejects the options, the module or the data, or the module belongs to the other
            Lightning package.
    """
    package = import_module(Callback.__module__.split(".callbacks")[0])
    package_error = import_module(f"{package.__name__}.utilities.exceptions").MisconfigurationException

    class Folder(package.loggers.Logger):  # type: ignore[misc, name-defined]
        name, version, log_dir, save_dir = "", "", folder, folder

        def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    class Visitor(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            prepare()

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            loop = trainer.fit_loop

            def move(epoch: int, step: int) -> None:
                loop.epoch_progress.current.completed, loop.epoch_loop._batches_that_stepped = epoch, step

            visit(Host(trainer, pl_module), move)
            move(0, 0)
            trainer.should_stop = True

    quiet = ("enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    settings = {**dict.fromkeys(quiet, False), "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0, **options}
    bases = [kind.__module__.split(".core")[0] for kind in type(module).__mro__ if kind.__name__ == "LightningModule"]
    if bases and package.__name__ not in bases:
        raise ConfigurationError(
            f"module: {type(module).__name__} is a LightningModule from {bases[-1]}, but lightning_gradcam was "
            f"imported with {package.__name__}; import {bases[-1]} first, and only that one"
        )
    home = str(getattr(type(module).train_dataloader, "__module__", "")).split(".")[0]
    try:
        trainer = package.Trainer(**settings, logger=Folder(), callbacks=[*callbacks, Visitor()])
    except (package_error, ImportError, TypeError, ValueError) as error:
        raise _refused("trainer", error, "other options (--accelerator, --precision)") from error
    try:
        if hasattr(data, "dataset"):
            trainer.fit(module, data, data)
        elif data is None and home in ("pytorch_lightning", "lightning"):
            # Placeholder data: training ends before the first batch.
            trainer.fit(module, [0])
        else:
            trainer.fit(module, datamodule=data)
    except package_error as error:
        raise _refused("fit", error, "the module and data used for training (--model, --data)") from error


def _refused(what: str, error: Exception, instead: str) -> ConfigurationError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return ConfigurationError(f"{what}: Lightning rejected it ({reason}); pass {instead}")
