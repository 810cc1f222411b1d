"""Checks a run's state in a checkpoint, which may be damaged or from another version, and names the module's class."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from lightning_gradcam.probes.batches import FORMS

SCHEMA = 1


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _are_indices(value: object) -> bool:
    return value is None or (isinstance(value, list) and bool(value) and all(map(_is_count, value)))


def _are_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(name) and type(one) is float for name, one in value.items())


_NEEDED: dict[str, tuple[Callable[[object], bool], str]] = {
    "indices": (_are_indices, "a list of integers >= 0, or None"),
    "fingerprint": (_is_text, "text"),
    "archive": (_is_text, "text"),
    "run": (_is_text, "text"),
    "step": (lambda value: _is_count(value, -1), "a whole number"),
}
_OPTIONAL: dict[str, tuple[Callable[[object], bool], str]] = {
    "validations": (_is_count, "an integer >= 0"),
    "logged": (_is_count, "an integer >= 0"),
    "numbers": (_are_numbers, "a mapping from names to numbers"),
    "widened": (lambda value: _is_count(value, 1), "an integer >= 1"),
    "widened_from": (_is_text, "text"),
    # From version 0.1.0; no longer used.
    "every": (lambda value: _is_count(value, 1), "an integer >= 1"),
    "transferred": (lambda value: isinstance(value, bool), "True or False"),
    # How a batch stores the images.
    "form": (lambda value: value in ("", *FORMS), f"'' or one of {', '.join(FORMS)}"),
}


def flaw(state: object) -> str | None:
    """Returns why a checkpoint's state can't be used, or ``None`` if it can.

    Args:
        state: The checkpoint's entry under the callback's key.

    Example:
        >>> flaw({"schema": 2})
        'it has schema 2, but this version reads 1'
    """
    if not isinstance(state, dict):
        return f"it is a {type(state).__name__}"
    if "schema" not in state:
        return "'schema' is missing"
    if type(state["schema"]) is not int or state["schema"] != SCHEMA:
        return f"it has schema {state['schema']!r:.40}, but this version reads {SCHEMA}"
    for name, (fits, expected) in {**_NEEDED, **_OPTIONAL}.items():
        if name not in state:
            if name in _NEEDED:
                return f"{name!r} is missing"
        elif not fits(state[name]):
            return f"{name!r} is {state[name]!r:.60}, expected {expected}"
    return None


_MAIN = ("__main__", "__mp_main__")


def name_of_class(kind: type) -> str | None:
    """Returns a class's import path, or ``None`` if it has none (in a notebook, or inside a function).

    Args:
        kind: The class.

    Returns:
        ``"package.module:Class"``, or ``"/path/to/script.py:Class"`` for a class in the running script.

    Example:
        >>> name_of_class(Exception)
        'builtins:Exception'
    """
    if "<locals>" in kind.__qualname__:
        return None
    place = kind.__module__
    if place in _MAIN:
        script = sys.modules.get(place)
        # `python -m package.train` knows its own name, and needs it for relative imports.
        name, file = getattr(getattr(script, "__spec__", None), "name", None), getattr(script, "__file__", None)
        place = name if name not in (None, *_MAIN) else os.path.abspath(file) if file is not None else ""
    return f"{place}:{kind.__qualname__}" if place else None
