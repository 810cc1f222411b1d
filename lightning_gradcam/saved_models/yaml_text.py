"""YAML of any origin, read within bounds: no more than a configuration needs, and no objects of other types."""

from __future__ import annotations

from typing import Any

import yaml

from lightning_gradcam.errors import RefusedError

# Configurations of LightningCLI have some hundred values, ten levels deep.
LONGEST, _MOST, _DEEPEST = 1 << 18, 100_000, 50


def parse_yaml(text: str, source: str) -> Any:
    """Returns what a YAML text holds: plain values, lists and dicts.

    Args:
        text: The text.
        source: What it is, for errors, such as ``"config: 'config.yaml'"``.

    Raises:
        RefusedError: It has more than 262,144 characters, 50 levels or, with its aliases written out, 100,000 values, a
            number of more than 1,000 digits, or an alias inside what it refers to.
        ValueError: It is no YAML.

    Example:
        >>> parse_yaml("a: [1, x]", "example")
        {'a': [1, 'x']}
    """
    if len(text) > LONGEST:
        raise RefusedError(f"{source} is not read: it has more than {LONGEST:,} characters; give a shorter one")
    try:
        return _Bounded(text).get_single_data()
    except _TooMuchError as error:
        raise RefusedError(f"{source} is not read: {error}; give a configuration that LightningCLI saved") from None
    except Exception as error:  # constructors of tags such as !!int and !!timestamp raise of many kinds
        raise ValueError(f"{type(error).__name__}: {error}") from error


class _TooMuchError(Exception):
    """The text asks for more than is read."""


class _Bounded(yaml.SafeLoader):
    """Counts values before any is made: a few aliases of aliases are billions of values."""

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
            raise _TooMuchError("it has a number of more than 1,000 digits")
        if is_alias and id(node) not in self._counts:
            raise _TooMuchError("one of its aliases lies inside what it refers to")
        self._count += self._counts[id(node)] if is_alias else 1
        if self._count > _MOST:
            raise _TooMuchError(f"it has more than {_MOST:,} values when its aliases are written out")
        self._counts.setdefault(id(node), self._count - before)
        self._depth -= 1
        return node
