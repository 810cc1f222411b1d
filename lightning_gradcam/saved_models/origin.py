"""Reads a run's module class, layers and callbacks from its checkpoint or config."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_gradcam.errors import ConfigurationError, RefusedError
from lightning_gradcam.saved_models.config import mapping
from lightning_gradcam.saved_models.construction import check_class, find_class
from lightning_gradcam.saved_models.file import Recipe

# A name and not the class: importing its module would select a Lightning package before the user's module does.
_PACKAGE, _CALLBACK = "lightning_gradcam", "GradCAMCallback"
_LONGEST = 1000


def class_of_run(recipe: Recipe) -> type | None:
    """Returns the module class whose name a callback stored, or ``None``.

    The class is imported only if the user trusts the file. Otherwise it is looked up in loaded modules, whose code has
    already run.

    Args:
        recipe: The checkpoint.

    Raises:
        RefusedError: The name is invalid, or its object is not a module class; nothing was called.
        ConfigurationError: The class is not loaded or can't be imported.
    """
    path, states = recipe.path, mapping(recipe.contents.get("callbacks")).values()
    name = next((found for state in states if isinstance(found := mapping(state).get("model"), str)), None)
    if name is None:
        return None
    place, _, attribute = name.rpartition(":")
    if len(name) > _LONGEST or not place or not all(part.isidentifier() for part in attribute.split(".")):
        raise RefusedError(
            f"model: the file names {name!r:.200}, which is not of the form package.module:Class; specify the class "
            "yourself (--model)"
        )
    found = _loaded(place, attribute)
    if found is None and recipe.trust:
        if place.endswith(".py") and not Path(place).is_file():
            raise ConfigurationError(
                f"model: {path!r:.120} belongs to the class {name!r:.120}, and there is no such file here; specify the "
                f"class: --model path/to/{Path(place).name:.60}:{attribute:.60}"
            )
        found = find_class(name, "model")
    if found is None:
        raise ConfigurationError(
            f"model: {path!r:.120} belongs to the class {name!r:.120}, which is not imported just because a file names "
            "it; if the file is your own, add --trust (in Python trust=True), or specify the class: --model "
            f"{name:.120}"
        )
    return check_class(found, name, "model", nn.Module)


def layers_of_run(recipe: Recipe) -> tuple[str, ...]:
    """Returns the layers that a run explained; empty if unknown.

    They are read from the user's config, else from the ``GradCAMCallback`` state in the checkpoint (for ``"auto"``, the
    chosen layer), else from the config next to the checkpoint.

    Args:
        recipe: The checkpoint and the configs.
    """
    states = mapping(recipe.contents.get("callbacks"))
    stored = [mapping(state).get("layers") for key, state in states.items() if str(key).startswith(f"{_CALLBACK}{{")]
    configs = (recipe.given or {}, recipe.beside or {})
    given, beside = ([one.get("layers") for one in options_in_config(config)] for config in configs)
    for choices in (given, stored, beside):
        named = [[one] if isinstance(one, str) else one for one in choices]
        found = [name for one in named if isinstance(one, list) for name in one]
        if found and "auto" not in found and all(isinstance(name, str) and name for name in found):
            return tuple(dict.fromkeys(found))
    return ()


def options_in_config(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the options of each ``GradCAMCallback`` in a config.

    Args:
        config: The config's sections.

    Example:
        >>> callback = {"class_path": "lightning_gradcam.GradCAMCallback", "init_args": {"seed": 3}}
        >>> list(options_in_config({"trainer": {"callbacks": [callback]}}))
        [{'seed': 3}]
    """
    for name, options in callbacks_in(config):
        if name.rpartition(".")[2] == _CALLBACK and name.split(".")[0] in (_PACKAGE, name):
            yield options


def callbacks_in(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each callback's class, as named in the config, and its options."""
    listed = mapping(config.get("trainer")).get("callbacks") or []
    for entry in listed if isinstance(listed, list) else [listed]:
        name = entry if isinstance(entry, str) else mapping(entry).get("class_path")
        if isinstance(name, str):
            yield name, mapping(mapping(entry).get("init_args"))


def _loaded(place: str, attribute: str) -> Any:
    """Returns a loaded module's attribute without importing anything or calling ``__getattr__``."""
    is_script = place.endswith(".py")
    for name, module in list(sys.modules.items()):
        if not (_is_script(module, place) if is_script else name == place):
            continue
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        if found is not None:
            return found
    return None


def _is_script(module: Any, path: str) -> bool:
    file = getattr(module, "__dict__", {}).get("__file__")
    if not isinstance(file, str) or os.path.basename(file) != os.path.basename(path):
        return False
    return Path(file).resolve() == Path(path).resolve()
