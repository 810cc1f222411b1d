"""Defines and reads the options shared by several commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from inspect import cleandoc
from typing import Any

# Exit codes for scripts, printed at the end of every command's help.
EXIT_CODES = "exit codes: 0 done; 1 failed, with one line on standard error; 2 wrong usage; 130 interrupted"
_PLAN = ("layers", "methods", "targets", "output_key", "score", "batch_size")


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    *,
    doc: str | None,
    **options: Any,
) -> argparse.ArgumentParser:
    """Adds a command's parser.

    Args:
        commands: The sub-parsers to which to add the command.
        name: The command's name.
        what: A short description for the list of commands.
        doc: The docstring of the command's module or function, used as help: a description followed by examples.
        **options: Additional arguments for the parser, such as ``usage``.
    """
    description, _, epilog = cleandoc(doc or "").partition("\n\n")
    parser = commands.add_parser(
        name,
        help=what,
        description=description,
        epilog=f"{epilog}\n\n{EXIT_CODES}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )
    # Commands use this to reject combinations of options.
    parser.set_defaults(usage_error=parser.error)
    return parser


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Adds ``--progress`` and ``--no-progress``: ``True``, ``False``, or ``None`` (default) for only on a terminal."""
    what = "show a progress bar on standard error (default: on a terminal)"
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=None, help=what)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the options for a model's class and its arguments."""
    what = "the model, as package.module:Class or path/to/file.py:Class; a function that returns a module also works"
    parser.add_argument("--model", metavar="CLASS", help=what)
    what = "arguments for that class or function; values are parsed as YAML"
    parser.add_argument("--model-args", nargs="+", default=[], metavar="KEY=VALUE", help=what)
    what = (
        "load all objects in CKPT and import any class it names; this can run code, so use it only for your own files"
    )
    parser.add_argument("--trust", action="store_true", help=what)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds the options for a checkpoint's class."""
    add_model(parser)
    parser.add_argument("--config", metavar="YAML", help="a LightningCLI config with the classes and their arguments")
    parser.add_argument(
        "--data", metavar="CLASS", help="the data module's class, used for its transform and class names"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds ``--config`` and ``--set``, which :func:`config_arguments` reads."""
    what = "a YAML file, as for `lightning-gradcam fit`; later files override earlier ones"
    parser.add_argument("-c", "--config", action="append", default=[], metavar="CONFIG", help=what)
    what = "override an option in the configuration, such as data.root=FOLDER; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=what)


def add_preparation(parser: argparse.ArgumentParser) -> None:
    """Adds the options for preprocessing images."""
    what = (
        "mean to subtract from pixels scaled to 0…1: one number, or one per channel; with a transform from data, only "
        "undone for display"
    )
    parser.add_argument("--mean", nargs="+", type=float, metavar="X", help=what)
    what = "standard deviation to divide by after subtracting the mean: one number, or one per channel"
    parser.add_argument("--std", nargs="+", type=float, metavar="X", help=what)
    what = "resize images first: one number for both sides, or height and width"
    parser.add_argument("--size", nargs="+", type=int, metavar="N", help=what)
    what = "read images in colour or greyscale (default: what the model expects; without a model: RGB)"
    parser.add_argument("--mode", choices=("RGB", "L"), help=what)
    what = (
        "class names in order; or imagenet, a file with one name per line, a JSON file, or weights that define the "
        "names, such as torchvision.models:ResNet18_Weights"
    )
    parser.add_argument("--class-names", nargs="+", metavar="NAME", help=what)


def add_plan(parser: argparse.ArgumentParser, layers: str) -> None:
    """Adds the options for what to explain.

    Args:
        parser: The parser to which to add the options.
        layers: Description of the default layers, for the help.
    """
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help=f"layers to explain: dotted names or patterns (default: {layers})",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="methods to use, such as gradcam or layercam (default: gradcam)",
    )
    what = 'outputs to explain: predicted (default), label, class indices or names, or {"top": 3}'
    parser.add_argument("--targets", nargs="+", type=target, metavar="TARGET", help=what)
    what = "key or index of the logits, if the output is a dict or tuple"
    parser.add_argument("--output-key", type=key, metavar="KEY", help=what)
    what = "score to compute from the logits and explain (default: logit)"
    parser.add_argument("--score", choices=("logit", "probability", "sigmoid"), help=what)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per forward pass (default: 32)")


def target(text: str) -> Any:
    """Parses a target: a number, a JSON object such as ``{"top": 3}``, or a name.

    Example:
        >>> target("3"), target('{"top": 2}'), target("cat")
        (3, {'top': 2}, 'cat')
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, (int, dict)) and not isinstance(value, bool) else text


def key(text: str) -> Any:
    """Parses a key: an index or a name.

    Example:
        >>> key("0"), key("out")
        (0, 'out')
    """
    return int(text) if text.isdigit() else text


def given(chosen: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns the named options that were given on the command line."""
    return {name: value for name in names if (value := getattr(chosen, name)) is not None}


def plan_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of :func:`add_plan` that were given on the command line."""
    plan = given(chosen, *_PLAN)
    return {**plan, "layers": "auto"} if plan.get("layers") == ["auto"] else plan


def config_arguments(chosen: argparse.Namespace) -> list[str]:
    """Returns ``--config`` and ``--set`` as arguments for LightningCLI."""
    files = [part for file in chosen.config for part in ("--config", file)]
    return [*files, *(f"--{option.removeprefix('--')}" for option in chosen.set)]


def model_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Parses ``KEY=VALUE`` pairs; values are YAML, or Python's ``None``.

    Example:
        >>> model_arguments(["width=64", "pool=max"])
        {'width': 64, 'pool': 'max'}
    """
    from lightning_gradcam.errors import ConfigurationError
    from lightning_gradcam.saved_models.config import parse_yaml

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"model-args: got {pair!r}; pass key=value, such as width=64")
        try:
            found[name] = None if value == "None" else parse_yaml(value, f"model-args: {name}")
        except ConfigurationError:
            raise
        except ValueError as error:
            raise ConfigurationError(
                f"model-args: a value is not valid YAML ({error!s:.200}); put text in quotes"
            ) from error
    return found
