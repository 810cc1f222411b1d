"""Modules and data from a configuration, by LightningCLI: to train them, or to look at them just before that."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, TypeVar

from lightning_gradcam.cli.mistakes import mistakes, shorten_errors
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.storage import Storage

T = TypeVar("T")
_LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
_QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "barebones": False,
    "devices": 1,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "fast_dev_run": False,
    "logger": False,
    "num_nodes": 1,
    "num_sanity_val_steps": 0,
    "plugins": None,
    "precision": None,
    "profiler": None,
    "strategy": "auto",
    "sync_batchnorm": False,
}


def command_line(name: str, arguments: Sequence[str]) -> Callable[[list[str]], object]:
    """Returns a function that runs LightningCLI with one subcommand, for modules of any class.

    Args:
        name: ``"fit"``, ``"validate"`` or ``"test"``.
        arguments: Those that follow it; only looked at for the Lightning that the module belongs to.

    Raises:
        ConfigurationError: jsonargparse is not installed.
    """
    base, save = _lightning_cli(name, arguments)

    class Saved(save):  # type: ignore[misc, valid-type]
        """Writes the configuration beside the run under a name that is free, and never over another."""

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if trainer.log_dir is not None:
                self.config_filename: str = _free(str(trainer.log_dir), "config.yaml")
            super().setup(trainer, pl_module, stage)

    class Line(base):  # type: ignore[misc, valid-type]
        def instantiate_trainer(self, **options: Any) -> Any:
            if self._get(self.config_init, "trainer", default={}).get("logger") is False:
                # There is no folder of this run, only the current one.
                self.save_config_callback = None
            return super().instantiate_trainer(**options)

    return lambda line: Line(args=line, save_config_callback=Saved, parser_kwargs=_parser_options(name))


def at_start(arguments: Sequence[str], look: Callable[[Any, Mapping[str, Any]], T]) -> T:
    """Sets up the training that a configuration describes, looks at it before its first step, and ends it there.

    On the CPU, in one process, without loggers, checkpoints and the configuration's callbacks; random numbers are those
    of ``fit``.

    Args:
        arguments: As ``lightning-gradcam fit`` takes them.
        look: Called with the :class:`~lightning_gradcam.callbacks.host.Host`, and with the options of the
            configuration's first callback of ours (none: empty).

    Returns:
        What ``look`` has returned.

    Raises:
        ConfigurationError: The configuration can't be used.
    """
    base, _ = _lightning_cli("fit", arguments)
    # Not before: the Lightning of the module is the one that it takes.
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
            # What nobody looks at is not made: a logger may open a connection.
            config.trainer.callbacks, config.trainer.logger, config["ckpt_path"] = None, False, None

        def instantiate_trainer(self, **_: Any) -> Any:
            return super().instantiate_trainer(**_QUIET, callbacks=[Looker()])

    try:
        with refusals(), _quiet():
            parser = _parser_options("fit", exit_on_error=False)
            Line(args=["fit", *arguments], save_config_callback=None, parser_kwargs=parser)
    except _SeenError:
        return seen[0]
    except Exception as error:
        if type(error).__name__ != "ArgumentError":
            raise
        raise ConfigurationError(f"config: {' '.join(str(error).split())}") from None
    raise ConfigurationError(
        "config: training ends before its first step, so that there is nothing to look at; check trainer.max_epochs,"
        " trainer.max_steps and the training data"
    )


@contextmanager
def refusals() -> Iterator[None]:
    """Makes an error of ours, one line in a terminal, of what Lightning refuses on purpose."""
    try:
        with mistakes():
            yield
    except Exception as error:
        if all(kind.__name__ != "MisconfigurationException" for kind in type(error).__mro__):
            raise
        raise ConfigurationError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


class _SeenError(Exception):
    """Enough has been seen."""


def _lightning_cli(name: str, arguments: Sequence[str]) -> tuple[Any, Any]:
    """Returns ``LightningCLI`` with one subcommand, and the callback that saves its configuration."""
    _import_model(arguments)
    from lightning_gradcam.callbacks.stand_ins import lightning_cli

    module = lightning_cli()
    package = importlib.import_module("lightning_gradcam")
    for public in package.__all__:
        # YAML may name our callbacks without their package once they are loaded.
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
            # LightningCLI's own warns where a command line stands beside arguments.
            self.config = parser.parse_args(args)

    return Line, module.SaveConfigCallback


def _parser_options(name: str, **options: Any) -> dict[str, Any]:
    # Lightning's own usage, before each error, is a screen of options that --help-all lists with what they mean.
    usage = {"usage": f"lightning-gradcam {name} --config CONFIG [OPTION ...]"}
    return {"prog": "lightning-gradcam", **options, name: {**usage, **options}}


def _import_model(arguments: Sequence[str]) -> None:
    """Imports the module's own file first: the package that its Lightning comes from is the one to use."""
    named = _models(arguments)
    paths = [path for _, path in named if path]
    if named and not paths:
        raise ConfigurationError(
            f"config: {named[0][0]} has options of a model and does not name its class, as configurations of a script"
            " with a LightningCLI of its own do; give `model:` a class_path (package.Class) and put its options under"
            " init_args, and `data:` likewise"
        )
    for path in paths:
        name = path.rpartition(".")[0]
        # What can't be found, LightningCLI says with more of its context.
        with suppress(ImportError):
            if name:
                importlib.import_module(name)


def _models(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Returns where a model is spoken of, and its class path or an empty text."""
    from lightning_gradcam.saved_models.yaml_text import LONGEST, parse_yaml

    found: list[tuple[str, str]] = []
    pairs = [part for argument in arguments for part in argument.split("=", 1)]
    for option, value in pairwise(pairs):
        if option in ("--model", "--model.class_path"):
            found.append((option, value))
        elif option in ("-c", "--config"):
            try:
                with open(value, encoding="utf-8") as file:
                    content = parse_yaml(file.read(LONGEST + 1), f"config: {value!r}")
            except ConfigurationError:
                # LightningCLI would read it, for hours.
                raise
            except (OSError, ValueError):
                continue
            model = content.get("model") if isinstance(content, Mapping) else None
            path = model.get("class_path") if isinstance(model, Mapping) else model
            if model is not None:
                found.append((value, path if isinstance(path, str) else ""))
    return found


def _options_of_ours(callbacks: Any) -> dict[str, Any]:
    """Returns the options of the first callback that takes probes."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    for callback in listed:
        options = dict(getattr(callback, "init_args", None) or {})
        if {"probes", "num_probes", "seed"} <= set(options):
            return options
    return {}


def _free(folder: str, name: str) -> str:
    """Returns the name, or one with a number, that no file of the folder has."""
    stem, dot, suffix = name.rpartition(".")
    number, found = 0, name
    while Storage(folder).exists(found):
        number += 1
        found = f"{stem}_{number}{dot}{suffix}"
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what Lightning says of a training that nobody has asked for."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning|lightning_fabric)\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
