"""Options as configurations give them: OmegaConf's containers, numbers of NumPy, and functions by their import path."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any

from torch import nn

from lightning_gradcam.capture.inputs import pick_output
from lightning_gradcam.errors import ConfigurationError, TargetError, did_you_mean

# What jsonargparse 4.52 and newer wrote for values of these options before their annotations were mended.
LOST = "Unable to serialize instance "
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def plain(value: Any) -> Any:
    """Returns lists, dicts and numbers of other libraries as Python's own; all else stays as it is.

    Example:
        >>> import numpy as np
        >>> plain({"per_probe": (np.int64(3), 5)})
        {'per_probe': [3, 5]}
    """
    if isinstance(value, Enum):
        return value.value
    # Modules may be sequences (`nn.Sequential` is iterable, `nn.ModuleList` too), and are options by themselves.
    if isinstance(value, (str, bytes, bytearray, nn.Module)):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def check_kept(**options: Any) -> None:
    """Refuses options that a saved configuration has lost.

    Args:
        options: By their names.

    Raises:
        ConfigurationError: One holds the text that stood for its value, with what to write instead.
    """
    for name, value in options.items():
        if (text := _lost(value)) is not None:
            was = text.removeprefix(LOST)
            instead = "write the option's value there" if was.startswith("<") else f"write {name}: {was:.120}"
            raise ConfigurationError(
                f"{name}: got {text!r:.160}, the text that lightning-gradcam 0.1.0 saved in config.yaml in the place of"
                f" the value; {instead} in that file, or give the configuration that the run was started with"
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
        argument: The option that it was given as, for errors.

    Raises:
        ConfigurationError: There is none.

    Example:
        >>> function_at("math.sqrt", "targets")(9.0)
        3.0
    """
    place, _, name = path.rpartition(".")
    try:
        module = import_module(place)
    except ImportError as error:
        raise ConfigurationError(
            f"{argument}: got {path!r}, and {place!r} can't be imported ({error!s:.150}); give the import path of a"
            " function, package.module.function"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [own for own, value in vars(module).items() if callable(value) and not own.startswith("_")]
        raise ConfigurationError(
            f"{argument}: got {path!r}, and {place!r} has no function {name!r}{did_you_mean(name, functions, limit=5)}"
        )
    made: Callable[..., Any] = found
    return made


def with_functions(targets: Any) -> Any:
    """Returns targets with functions in the place of their import paths, and objects in that of ``class_path``.

    Raises:
        TargetError: There is no such function.
    """
    return [_target(each) for each in targets] if isinstance(targets, list) else _target(targets)


def _target(target: Any) -> Any:
    try:
        if isinstance(target, str) and _DOTTED.fullmatch(target):
            return function_at(target, "targets")
        if isinstance(target, dict) and set(target) in ({"class_path"}, {"class_path", "init_args"}):
            return function_at(str(target["class_path"]), "targets")(**(target.get("init_args") or {}))
    except ConfigurationError as error:
        by_name = f"; a class of that name is {{'class': {target!r}}}" if isinstance(target, str) else ""
        raise TargetError(f"{error}{by_name}") from error
    return target


def output_key_of(key: Any) -> Any:
    """Returns what takes the explained output out of what the model returns."""
    return KeyOrFunction(key) if isinstance(key, str) and _DOTTED.fullmatch(key) else key


@dataclass(frozen=True)
class KeyOrFunction:
    """A text with dots: a key of the output where it has one of that name, else a function's import path.

    Attributes:
        text: The key or path.
    """

    text: str

    def __call__(self, output: Any) -> Any:
        """Returns what stands there, or what the function makes of the output."""
        try:
            return pick_output(output, self.text)
        except ConfigurationError as error:
            try:
                function = function_at(self.text, "output_key")
            except ConfigurationError as missing:
                raise ConfigurationError(f"{error}; {missing!s:.200}") from error
        return function(output)
