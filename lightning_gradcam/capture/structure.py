"""Flattens nested values of any structure into leaves and rebuilds them with other leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from operator import itemgetter
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Rebuild = Callable[[Sequence[Any]], Any]


def flattened(values: Any) -> tuple[list[Any], Rebuild]:
    """Flattens nested values.

    Args:
        values: Tuples, lists, dicts and named tuples, as in PyTorch's ``tree_flatten``; also dataclasses and other
            mappings, such as a ``UserDict`` or the result of a Hugging Face tokenizer.

    Returns:
        The leaves in order, and a function that rebuilds the values from the same number of other leaves; it copies
        every container.

    Example:
        >>> from collections import UserDict
        >>> leaves, rebuilt = flattened((1, UserDict(a=2, b=[3])))
        >>> leaves, rebuilt([4, 5, 6])
        ([1, 2, 3], (4, {'a': 5, 'b': [6]}))
    """
    if isinstance(values, Tensor):
        return [values], itemgetter(0)
    outer, structure = tree_flatten(values)
    opened = [_opened(leaf) for leaf in outer]
    if all(made is None for _, made in opened):
        return outer, lambda leaves: tree_unflatten(list(leaves), structure)

    def rebuilt(leaves: Sequence[Any]) -> Any:
        place, found = 0, []
        for inner, made in opened:
            own = leaves[place : place + len(inner)]
            found.append(own[0] if made is None else made(own))
            place += len(inner)
        return tree_unflatten(found, structure)

    return [leaf for inner, _ in opened for leaf in inner], rebuilt


def mapped(function: Callable[[Any], Any], values: Any) -> Any:
    """Returns nested values with a function applied to each leaf."""
    leaves, rebuilt = flattened(values)
    return rebuilt([function(leaf) for leaf in leaves])


def entries_of(values: Any) -> dict[str, Any] | None:
    """Returns the fields of a dataclass or named tuple by name; ``None`` if it is neither."""
    if is_dataclass(values) and not isinstance(values, type):
        return {field.name: getattr(values, field.name) for field in fields(values) if hasattr(values, field.name)}
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return dict(zip(values._fields, values, strict=True))
    return None


def refilled(container: Any, entries: Mapping[Any, Any]) -> Any:
    """Returns a copy of a mapping or dataclass with other entries; a dict if a mapping can't be rebuilt."""
    if type(container) is dict:
        return dict(entries)
    if not isinstance(container, Mapping):
        changed = copy(container)
        for name, value in entries.items():
            # Frozen dataclasses reject assignment, and their constructor may do more than assign.
            object.__setattr__(changed, name, value)
        return changed
    try:
        # A constructor may take another argument first, as that of `defaultdict` does.
        made: Any = copy(container)
        for key, value in entries.items():
            made[key] = value
    except Exception:  # an immutable mapping may raise anything
        return dict(entries)
    return made


def _opened(leaf: Any) -> tuple[list[Any], Rebuild | None]:
    """Returns a leaf's own leaves and a function that rebuilds it; ``None`` if it is a plain leaf."""
    entries = dict(leaf) if isinstance(leaf, Mapping) else entries_of(leaf)
    if entries is None:
        return [leaf], None
    inner, rebuilt = flattened(entries)
    return inner, lambda leaves: refilled(leaf, rebuilt(leaves))
