"""Finds the feature maps in a module's output, which may be a tensor or contain tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from lightning_gradcam.capture.structure import entries_of, refilled


def main_tensor(output: Any) -> tuple[Tensor, Callable[[Tensor], Any]] | None:
    """Finds the feature map in a module's output.

    Args:
        output: A tensor, or a tuple, list, dict or dataclass that holds one.

    Returns:
        The first floating-point tensor with at least three axes (or else with any number), and a function that replaces
        it with another tensor; ``None`` if there is none.
    """
    found = level_maps(output)
    if found is None:
        return None
    tensors, rebuilt = found
    return tensors[0], lambda tensor: rebuilt([tensor, *tensors[1:]])


def level_maps(output: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]] | None:
    """Finds all feature maps in a module's output: the levels of a pyramid, for instance.

    Args:
        output: A tensor, or a tuple, list, dict or dataclass that holds some.

    Returns:
        The tensor of :func:`main_tensor`, followed by all others with the same number of axes (at least four) and of
        samples; and a function that replaces them with other tensors. ``None`` if there is none.
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
        output: A tensor, or a tuple, list, dict or dataclass that holds some.
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
