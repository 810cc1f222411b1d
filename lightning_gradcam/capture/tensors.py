"""The tensors in nested values of any structure, and the feature maps in a module's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from operator import is_, itemgetter
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


def main_tensor(output: Any) -> Tensor | None:
    """Finds the feature map in a module's output.

    Args:
        output: A tensor, or a tuple, list, dict or dataclass that contains one.

    Returns:
        The first floating-point tensor with at least three axes (or else with any number); ``None`` if there is none.
    """
    found = level_maps(output)
    return None if found is None else found[0][0]


def level_maps(output: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]] | None:
    """Finds all feature maps in a module's output: the levels of a pyramid, for instance.

    Args:
        output: A tensor, or a tuple, list, dict or dataclass that contains some.

    Returns:
        The tensor that :func:`main_tensor` finds, followed by all others with the same number of axes (at least four)
        and of samples; and a function that replaces them with other tensors. ``None`` if there is none.
    """
    if isinstance(output, Tensor):
        return ([output], lambda tensors: tensors[0]) if output.is_floating_point() else None
    tensors = floating_tensors(output)
    if not tensors:
        return None
    main = next((tensor for tensor in tensors if tensor.dim() >= 3), tensors[0])
    # Compare by identity: the same tensor may be in the output twice.
    found = {id(main): main}
    for tensor in tensors if main.dim() >= 4 else ():
        if tensor.dim() == main.dim() and tensor.shape[0] == main.shape[0]:
            found[id(tensor)] = tensor

    def rebuilt(others: Sequence[Tensor]) -> Any:
        new = dict(zip(found, others, strict=True))
        return with_tensors(output, lambda tensor: new.get(id(tensor), tensor))

    return [*found.values()], rebuilt


def floating_tensors(output: Any) -> list[Tensor]:
    """Returns all floating-point tensors in a module's output, in order."""
    found = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            found += [leaf] if leaf.is_floating_point() else []
        else:
            found += [tensor for entry in (entries_of(leaf) or {}).values() for tensor in floating_tensors(entry)]
    return found


def with_tensors(output: Any, put: Callable[[Tensor], Tensor]) -> Any:
    """Returns an output with its tensors replaced; containers and dataclasses without tensors stay the same objects.

    Args:
        output: A tensor, or a tuple, list, dict or dataclass that contains some.
        put: Maps each tensor to its replacement.
    """

    def other(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return put(leaf)
        entries = entries_of(leaf) or {}
        made = {name: with_tensors(entry, put) for name, entry in entries.items()}
        changed = {name: entry for name, entry in made.items() if entry is not entries[name]}
        return refilled(leaf, changed) if changed else leaf

    leaves, structure = tree_flatten(output)
    others = [other(leaf) for leaf in leaves]
    return output if all(map(is_, others, leaves)) else tree_unflatten(others, structure)


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
    """Returns a copy of a mapping or dataclass with new entries; a dict if a mapping can't be rebuilt."""
    if type(container) is dict:
        return dict(entries)
    if not isinstance(container, Mapping):
        changed = copy(container)
        for name, value in entries.items():
            # Frozen dataclasses reject assignment, and their constructor may do more than assign.
            object.__setattr__(changed, name, value)
        return changed
    try:
        # A constructor may expect a different first argument, like that of `defaultdict`.
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
