"""The feature maps in a module's output, which may be a tensor or hold some."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


def main_tensor(output: Any) -> tuple[Tensor, Callable[[Tensor], Any]] | None:
    """Finds the feature map in a module's output.

    Args:
        output: A tensor, or a tuple, list, dict or dataclass that holds one.

    Returns:
        The first floating-point tensor of three axes or more (or else of any number), and a function that puts another
        tensor in its place; ``None`` where there is none.
    """
    places = list(_places(output))
    return next((place for place in places if place[0].dim() >= 3), places[0] if places else None)


def level_maps(output: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]] | None:
    """Finds all feature maps in a module's output: the levels of a pyramid, for instance.

    Args:
        output: A tensor, or a tuple, list, dict or dataclass that holds some.

    Returns:
        The tensor of :func:`main_tensor`, followed by all others of as many axes (four at least) and samples; and a
        function that puts other tensors in their places. ``None`` where there is none.
    """
    if isinstance(output, Tensor):
        return ([output], lambda tensors: tensors[0]) if output.is_floating_point() else None
    places = [tensor for tensor, _ in _places(output)]
    if not places:
        return None
    main = next((tensor for tensor in places if tensor.dim() >= 3), places[0])
    found = [main]
    for tensor in places if main.dim() >= 4 else ():
        alike = tensor.dim() == main.dim() and tensor.shape[0] == main.shape[0]
        if alike and not any(tensor is known for known in found):
            found.append(tensor)

    originals = tuple(found)

    def rebuilt(tensors: Sequence[Tensor]) -> Any:
        changed = output
        for place, old in enumerate(places):
            for known, new in zip(originals, tensors, strict=True):
                # The same tensor may stand in it twice.
                if old is known and new is not old:
                    changed = next(put for at, (_, put) in enumerate(_places(changed)) if at == place)(new)
        return changed

    return found, rebuilt


def floating_tensors(output: Any) -> list[Tensor]:
    """Returns all floating-point tensors in a module's output, in order."""
    return [tensor for tensor, _ in _places(output)]


def _places(output: Any) -> Iterator[tuple[Tensor, Callable[[Tensor], Any]]]:
    leaves, structure = tree_flatten(output)

    def with_leaf(place: int, leaf: Any) -> Any:
        return tree_unflatten([*leaves[:place], leaf, *leaves[place + 1 :]], structure)

    def with_field(place: int, name: str, rebuilt: Callable[[Tensor], Any], tensor: Tensor) -> Any:
        changed = copy(leaves[place])
        # Frozen ones refuse an assignment, and their constructor may do more than assign.
        object.__setattr__(changed, name, rebuilt(tensor))
        return with_leaf(place, changed)

    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            if leaf.is_floating_point():
                yield leaf, partial(with_leaf, place)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            for field in fields(leaf):
                for tensor, rebuilt in _places(getattr(leaf, field.name, None)):
                    yield tensor, partial(with_field, place, field.name, rebuilt)
