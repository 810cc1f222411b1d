"""Converts options from configurations: OmegaConf containers, NumPy numbers, and functions given by import path."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from importlib import import_module
from typing import Any, get_args

from torch import nn

from lightning_gradcam.capture.inputs import pick_output
from lightning_gradcam.errors import ConfigurationError, TargetError, did_you_mean
from lightning_gradcam.targets import TargetObject, written

# The text that jsonargparse 4.52 and newer wrote for values of these options before their annotations were fixed.
LOST = "Unable to serialize instance "
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def plain(value: Any) -> Any:
    """Converts other libraries' lists, dicts and numbers to Python's own; everything else is returned unchanged.

    Example:
        >>> import numpy as np
        >>> plain({"per_probe": (np.int64(3), 5)})
        {'per_probe': [3, 5]}
    """
    if isinstance(value, Enum):
        return value.value
    # Modules may be sequences (`nn.Sequential` and `nn.ModuleList` are iterable), but each is a single option.
    if isinstance(value, (str, bytes, bytearray, nn.Module)):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def recovered(targets: Any) -> Any:
    """Returns targets with objects in place of the strings that jsonargparse saves for them in a list of defaults.

    Example:
        >>> recovered(["label", "Unable to serialize instance Contrast(first='predicted', second=3)"])
        ['label', Contrast(first='predicted', second=3)]
    """
    if isinstance(targets, (list, tuple)):
        return [recovered(target) for target in targets]
    kinds = {kind.__name__: kind for kind in get_args(TargetObject)}
    name, _, arguments = str(targets).removeprefix(LOST).partition("(")
    if not isinstance(targets, str) or not targets.startswith(LOST) or name not in kinds:
        return targets
    try:
        call = ast.parse(f"f({arguments}", mode="eval").body
        given = {each.arg: ast.literal_eval(each.value) for each in call.keywords}  # type: ignore[attr-defined]
        return kinds[name](**given)
    except (SyntaxError, ValueError, AttributeError, TypeError):
        return targets


def check_kept(**options: Any) -> None:
    """Rejects options whose values were lost when the configuration was saved.

    Args:
        options: The options by name.

    Raises:
        ConfigurationError: An option contains text in place of its value; the message states what to write instead.
    """
    for name, value in options.items():
        if (text := _lost(value)) is not None:
            was = text.removeprefix(LOST)
            instead = "write the option's value" if was.startswith("<") else f"write {name}: {was:.120}"
            raise ConfigurationError(
                f"{name}: got {text!r:.160}, the text that lightning-gradcam 0.1.0 saved in config.yaml in place of"
                f" the value; {instead} in that file, or use the configuration that the run was started with"
            )


def _lost(value: Any) -> str | None:
    if isinstance(value, str):
        return value if value.startswith(LOST) else None
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return next((text for entry in entries if (text := _lost(entry)) is not None), None)


def function_at(path: str, argument: str) -> Callable[..., Any]:
    """Imports a function or class.

    Args:
        path: ``"package.module.function"``.
        argument: The option's name, for errors.

    Raises:
        ConfigurationError: The path can't be imported, or what it names does not exist or is not callable.

    Example:
        >>> function_at("math.sqrt", "targets")(9.0)
        3.0
    """
    place, _, name = path.rpartition(".")
    try:
        module = import_module(place)
    except ImportError as error:
        raise ConfigurationError(
            f"{argument}: got {path!r}, but {place!r} can't be imported ({error!s:.150}); pass the import path of a"
            " function, package.module.function"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [own for own, value in vars(module).items() if callable(value) and not own.startswith("_")]
        raise ConfigurationError(
            f"{argument}: got {path!r}, but {place!r} has no function {name!r}{did_you_mean(name, functions, limit=5)}"
        )
    made: Callable[..., Any] = found
    return made


def with_functions(targets: Any) -> Any:
    """Returns targets with import paths replaced by functions, and everything with a dict form replaced by its dict.

    A class name becomes ``{"class": name}``, an object such as ``Top(3)`` becomes its dict, and a ``class_path`` is
    instantiated first. A callback's options can therefore be written to a configuration.

    Raises:
        TargetError: The function does not exist.
    """
    return [_target(each) for each in targets] if isinstance(targets, list) else _target(targets)


def _target(target: Any) -> Any:
    try:
        if isinstance(target, str) and _DOTTED.fullmatch(target):
            return function_at(target, "targets")
        if isinstance(target, dict) and set(target) in ({"class_path"}, {"class_path", "init_args"}):
            target = function_at(str(target["class_path"]), "targets")(**(target.get("init_args") or {}))
    except ConfigurationError as error:
        by_name = f"; to explain a class of that name, pass {{'class': {target!r}}}" if isinstance(target, str) else ""
        raise TargetError(f"{error}{by_name}") from error
    # Class names are known only once the probes are. A mistyped keyword is rejected now rather than after set-up.
    if isinstance(target, str) and not difflib.get_close_matches(target, ("predicted", "label"), cutoff=0.8):
        return {"class": target}
    if isinstance(target, dict):
        # jsonargparse saves a default object as its fields only; no two kinds have the same fields.
        named = {frozenset(each.name for each in fields(kind)): kind for kind in get_args(TargetObject)}
        kind = named.get(frozenset(target))
        target = target if kind is None else kind(**target)
    return plain(written(target)) if isinstance(target, TargetObject) else target


def output_key_of(key: Any) -> Any:
    """Returns the key or function that selects the explained output."""
    return KeyOrFunction(key) if isinstance(key, str) and _DOTTED.fullmatch(key) else key


@dataclass(frozen=True)
class KeyOrFunction:
    """A string with dots: a key of the output if one has that name, else a function's import path.

    Attributes:
        text: The key or path.
    """

    text: str

    def __call__(self, output: Any) -> Any:
        """Returns that entry of the output, or the function's result for the output."""
        try:
            return pick_output(output, self.text)
        except ConfigurationError as error:
            try:
                function = function_at(self.text, "output_key")
            except ConfigurationError as missing:
                raise ConfigurationError(f"{error}; {missing!s:.200}") from error
        return function(output)
