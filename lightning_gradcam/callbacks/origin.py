"""The name of a module's class. Checkpoints store it, because a plain script has no configuration that names it."""

from __future__ import annotations

import os
import sys

_MAIN = ("__main__", "__mp_main__")


def name_of_class(kind: type) -> str | None:
    """Returns a class's import path, or ``None`` if it has none (in a notebook, or inside a function).

    Args:
        kind: The class.

    Returns:
        ``"package.module:Class"``; for a class of the script that runs, ``"/path/to/script.py:Class"``.

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
