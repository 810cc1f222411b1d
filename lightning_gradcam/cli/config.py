"""Creates modules and data from a LightningCLI config, for training or for inspection just before training."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, count, pairwise
from typing import Any, TypeVar

from lightning_gradcam.cli.mistakes import refusals, shorten_errors
from lightning_gradcam.cli.shared import quiet_lightning
from lightning_gradcam.errors import ConfigurationError, RefusedError
from lightning_gradcam.storage import Storage

T = TypeVar("T")
_OFF = ("barebones", "enable_checkpointing", "enable_model_summary", "enable_progress_bar", "fast_dev_run", "logger")
# Trainer options for setting up training on any machine without leaving files behind.
_QUIET: dict[str, Any] = {
    **dict.fromkeys((*_OFF, "sync_batchnorm"), False),
    **dict.fromkeys(("plugins", "precision", "profiler")),
    **{"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1, "num_sanity_val_steps": 0},
}


def command_line(name: str, arguments: Sequence[str]) -> Callable[[list[str]], object]:
    """Returns a function that runs LightningCLI with one subcommand for any module class.

    Args:
        name: ``"fit"``, ``"validate"`` or ``"test"``.
        arguments: The subcommand's arguments, used only to determine the module's Lightning package.

    Raises:
        ConfigurationError: jsonargparse is not installed.
    """
    base, save = _lightning_cli(name, arguments)

    class Saved(save):  # type: ignore[misc, valid-type]
        """Writes the config into the run's folder under an unused name, without overwriting another."""

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if trainer.log_dir is not None:
                self.config_filename: str = _free(str(trainer.log_dir), "config.yaml")
            super().setup(trainer, pl_module, stage)

    class Line(base):  # type: ignore[misc, valid-type]
        def instantiate_trainer(self, **options: Any) -> Any:
            if self._get(self.config_init, "trainer", default={}).get("logger") is False:
                # Without a logger, the run has no folder of its own.
                self.save_config_callback = None
            return super().instantiate_trainer(**options)

    return lambda line: Line(args=line, save_config_callback=Saved, parser_kwargs=_parser_options(name))


def at_start(arguments: Sequence[str], look: Callable[[Any, Mapping[str, Any]], T]) -> T:
    """Sets up training from a config, inspects it before its first step, and stops.

    Training is set up on the CPU in one process, without loggers, checkpoints or the config's callbacks. Random numbers
    are the same as in ``fit``.

    Args:
        arguments: The arguments for ``lightning-gradcam fit``.
        look: Function to call with the :class:`~lightning_gradcam.callbacks.host.Host` and the options of the config's
            first callback from this package (empty if there is none).

    Returns:
        The result of ``look``.

    Raises:
        ConfigurationError: The config is invalid.
    """
    base, _ = _lightning_cli("fit", arguments)
    # Imported here because it uses the Lightning package that the module has imported.
    from lightning_gradcam.callbacks.host import Callback, Host

    seen: list[T] = []
    options: dict[str, Any] = {}

    class Looker(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(look(Host(trainer, pl_module), options))
            raise _SeenError

    class Line(base):  # type: ignore[misc, valid-type]
        def before_instantiate_classes(self) -> None:
            config = self.config[self.subcommand]
            options.update(_options_of_ours(config.trainer.callbacks))
            # Create only what is needed: a logger may open a connection.
            config.trainer.callbacks, config.trainer.logger, config["ckpt_path"] = None, False, None

        def instantiate_trainer(self, **_: Any) -> Any:
            return super().instantiate_trainer(**_QUIET, callbacks=[Looker()])

    try:
        with refusals(), quiet_lightning(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning|lightning_fabric)\.")
            parser = _parser_options("fit", exit_on_error=False)
            Line(args=["fit", *arguments], save_config_callback=None, parser_kwargs=parser)
    except _SeenError:
        return seen[0]
    except Exception as error:
        if type(error).__name__ != "ArgumentError":
            raise
        raise ConfigurationError(f"config: {' '.join(str(error).split())}") from None
    raise ConfigurationError(
        "config: training ends before its first step, so there is nothing to inspect; check trainer.max_epochs,"
        " trainer.max_steps and the training data"
    )


class _SeenError(Exception):
    """Stops a training run that has been inspected."""


def _lightning_cli(name: str, arguments: Sequence[str]) -> tuple[Any, Any]:
    """Returns ``LightningCLI`` with one subcommand, and the callback class that saves its config."""
    _import_model(arguments)
    from lightning_gradcam.callbacks.stand_ins import lightning_cli

    module = lightning_cli()
    package = importlib.import_module("lightning_gradcam")
    for public in package.__all__:
        # Once they are loaded, YAML can specify our callbacks without their package.
        if public.endswith("Callback"):
            getattr(package, public)

    class Line(module.LightningCLI):  # type: ignore[misc, name-defined]
        def init_parser(self, **options: Any) -> Any:
            parser = super().init_parser(**options)
            shorten_errors(parser)
            return parser

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {name: module.LightningCLI.subcommands()[name]}

        def parse_arguments(self, parser: Any, args: Any) -> None:
            # LightningCLI's own method warns if arguments are passed in addition to a command line.
            self.config = parser.parse_args(args)

    return Line, module.SaveConfigCallback


def _parser_options(name: str, **options: Any) -> dict[str, Any]:
    # LightningCLI's usage, printed before each error, would fill a screen with options; --help-all explains them.
    usage = {"usage": f"lightning-gradcam {name} --config CONFIG [OPTION ...]"}
    return {"prog": "lightning-gradcam", **options, name: {**usage, **options}}


def _import_model(arguments: Sequence[str]) -> None:
    """Imports the module's file first, to use the same Lightning package."""
    named = _models(arguments)
    if named and not any(path for _, path in named):
        raise ConfigurationError(
            f"config: {named[0][0]} has a model's options but not its class, as in configurations of a script with its"
            " own LightningCLI; specify a class_path (package.Class) under both `model:` and `data:`, and move their"
            " options to init_args"
        )
    for _, path in named:
        # LightningCLI reports a missing module with more context.
        with suppress(ImportError):
            if place := path.rpartition(".")[0]:
                importlib.import_module(place)


def _models(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the arguments that specify or configure a model, with its class path or an empty string."""
    from lightning_gradcam.saved_models.config import read_config, section

    found: list[tuple[str, str]] = []
    pairs = [part for argument in arguments for part in argument.split("=", 1)]
    for option, value in pairwise(pairs):
        if option in ("--model", "--model.class_path"):
            found.append((option, value))
        elif option in ("-c", "--config"):
            try:
                config = read_config(value)
            except RefusedError:
                # LightningCLI might spend hours reading it.
                raise
            except ConfigurationError:
                # LightningCLI reports this with more context.
                continue
            if config.get("model") is not None:
                found.append((value, section(config, "model")[0] or ""))
    return found


def _options_of_ours(callbacks: Any) -> dict[str, Any]:
    """Returns the options of the first callback that uses probes."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    found = (dict(getattr(callback, "init_args", None) or {}) for callback in listed)
    return next((options for options in found if {"probes", "num_probes", "seed"} <= set(options)), {})


def _free(folder: str, name: str) -> str:
    """Returns the file name, numbered if a file with that name exists in the folder."""
    stem, dot, suffix = name.rpartition(".")
    names = chain([name], (f"{stem}_{number}{dot}{suffix}" for number in count(1)))
    return next(each for each in names if not Storage(folder).exists(each))
