"""Reads LightningCLI configs and untrusted YAML, with size limits and without custom objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

from lightning_gradcam.errors import ConfigurationError, RefusedError

# For comparison: LightningCLI configs have a few hundred values in about ten levels.
_LONGEST, _MOST, _DEEPEST = 1 << 18, 100_000, 50


def parse_yaml(text: str, source: str) -> Any:
    """Parses YAML into plain values, lists and dicts.

    Args:
        text: The YAML text.
        source: Name of the text, for errors, such as ``"config: 'config.yaml'"``.

    Raises:
        RefusedError: The text has more than 262,144 characters, 50 levels or (with aliases expanded) 100,000 values, a
            number with more than 1,000 digits, or a recursive alias.
        ValueError: The text is not valid YAML.

    Example:
        >>> parse_yaml("a: [1, x]", "example")
        {'a': [1, 'x']}
    """
    if len(text) > _LONGEST:
        raise RefusedError(f"{source} was not read: it has more than {_LONGEST:,} characters; use a shorter one")
    try:
        return _Bounded(text).get_single_data()
    except _TooMuchError as error:
        raise RefusedError(f"{source} was not read: {error}; pass a configuration that LightningCLI saved") from None
    except Exception as error:  # constructors of tags such as !!int and !!timestamp raise various errors
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML file in LightningCLI's format.

    Args:
        path: The file, such as the ``config.yaml`` that LightningCLI saves next to a run's logs.

    Raises:
        RefusedError: The file has more values or levels than allowed.
        ConfigurationError: The file does not exist, or is not a YAML mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = parse_yaml(file.read(_LONGEST + 1), f"config: {os.fspath(path)!r}")
    except RefusedError:
        raise
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error!s:.200}"
        raise ConfigurationError(
            f"config: {os.fspath(path)!r} can't be read ({reason}); pass the config.yaml that LightningCLI saved, or "
            "one that its fit command accepts"
        ) from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"config: {os.fspath(path)!r} contains a {type(values).__name__}; it needs sections such as model: and "
            "data:"
        )
    # A config for a command line with subcommands has an additional top level.
    inner = values.get("fit")
    return inner if isinstance(inner, dict) and "model" not in values else values


def section(config: Mapping[str, Any], name: str) -> tuple[str | None, dict[str, Any]]:
    """Returns a section's class path (``None`` if it has only arguments), and its arguments.

    Args:
        config: The result of :func:`read_config`.
        name: ``"model"`` or ``"data"``.

    Example:
        >>> section({"model": {"class_path": "a.B", "init_args": {"width": 3}}}, "model")
        ('a.B', {'width': 3})
    """
    values = config.get(name)
    if isinstance(values, str):
        return values, {}
    if not isinstance(values, Mapping):
        return None, {}
    if "class_path" not in values:
        return None, dict(values)
    given = (values.get("init_args"), values.get("dict_kwargs"))
    return str(values["class_path"]), {name: one for part in given for name, one in mapping(part).items()}


def mapping(value: Any) -> dict[str, Any]:
    """Returns a section of a file as a dict; empty if it is not a mapping.

    Example:
        >>> mapping({"width": 3}), mapping("text"), mapping(None)
        ({'width': 3}, {}, {})
    """
    return dict(value) if isinstance(value, Mapping) else {}


class _TooMuchError(Exception):
    """The YAML text exceeds a limit."""


class _Bounded(yaml.SafeLoader):
    """Counts values before constructing any, because a few nested aliases can expand to billions of values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._counts: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _TooMuchError(f"it has more than {_DEEPEST} levels")
        before, is_alias = self._count, self.check_event(yaml.AliasEvent)
        node: Any = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > 1000:
            raise _TooMuchError("it has a number with more than 1,000 digits")
        if is_alias and id(node) not in self._counts:
            raise _TooMuchError("one of its aliases refers to a node that contains it")
        self._count += self._counts[id(node)] if is_alias else 1
        if self._count > _MOST:
            raise _TooMuchError(f"it has more than {_MOST:,} values when its aliases are expanded")
        self._counts.setdefault(id(node), self._count - before)
        self._depth -= 1
        return node
