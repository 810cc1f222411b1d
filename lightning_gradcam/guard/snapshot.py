"""Takes snapshots of objects' state (attributes, containers, tensors, generators) to restore it later."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from inspect import isfunction
from itertools import chain, compress, islice
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = (dict, list, set, deque)
# Types that contain neither a generator nor anything that indexing a data set would change.
_LEAVES = (str, bytes, int, float, complex, type(None), type, ModuleType, Tensor, np.ndarray, np.generic)
SMALL, _HUGE, _ENOUGH = 256, 100_000, 5000


@lru_cache(maxsize=4096)
def _kind(kind: type) -> Literal["container", "tensor", "array", "generator"] | None:
    """Returns how values of a type are saved and restored; cached, because this check costs more than all the rest."""
    if issubclass(kind, _CONTAINERS):
        return "container"
    if issubclass(kind, Tensor):
        return "tensor"
    if issubclass(kind, np.ndarray):
        return "array"
    return "generator" if issubclass(kind, _GENERATORS) else None


class Attributes:
    """Snapshot of objects' ``__dict__``s: references, and copies of their containers, tensors and arrays.

    A model has thousands of these, nearly all empty or unchanged, so all modules are checked together and values are
    compared by identity.

    Args:
        owners: The ``__dict__``s.
        tensors: Whether to copy the content of tensors and arrays.
    """

    def __init__(self, owners: Iterable[dict[str, Any]], *, tensors: bool = True) -> None:
        self._owners = [*owners]
        self._sizes = [*map(len, self._owners)]
        self._names = [*chain.from_iterable(self._owners)]
        self._values = [*chain.from_iterable(map(dict.values, self._owners))]
        self._ids = [*map(id, self._values)]
        self.generators: list[Any] = []
        found: dict[str | None, list[Any]] = {"container": [], "tensor": [], "array": [], "generator": self.generators}
        kinds = [*map(_kind, map(type, self._values))]
        for name, value, kind in compress(zip(self._names, self._values, kinds, strict=True), kinds):
            found[kind].append(value)
            # One more level, for caches such as {"layer": {"calls": 3}}.
            if kind == "container" and value and name not in ("_modules", "_parameters"):
                for entry in _entries(value) if name == "_buffers" or len(value) <= SMALL else ():
                    exact: Any = type(entry)
                    inner = _kind(exact)
                    if inner is not None and (name == "_buffers" or not isinstance(entry, nn.Parameter)):
                        found[inner].append(entry)
        containers = found["container"]
        self._empty = [container for container in containers if not container]
        self._contents = _Contents([container for container in containers if 0 < len(container) <= _HUGE])
        # Inference tensors can't be written to outside inference mode.
        kept = {id(value): value for value in found["tensor"] if not value.is_inference() and not is_lazy(value)}
        with torch.no_grad():
            self._tensors = [(value, value.clone()) for value in kept.values()] if tensors else []
        self._arrays = [(value, value.copy()) for value in found["array"]] if tensors else []

    def restore(self, *, apart: Set[int] = frozenset()) -> None:
        """Restores everything that has changed.

        Args:
            apart: The ``id()`` of containers whose content is not restored.
        """
        self._contents.restore(apart)
        if any(self._empty):
            for container in self._empty:
                if id(container) not in apart:
                    container.clear()
        values = chain.from_iterable(map(dict.values, self._owners))
        if [*map(id, values)] != self._ids or [*chain.from_iterable(self._owners)] != self._names:
            self._restore_references()
        for tensor, content in self._tensors:
            # Compare values even if the version is unchanged: writing through `.data` does not increase it. We write
            # through `.data` for the same reason: training's own graph must not see a later version.
            if tensor.shape != content.shape or tensor.dtype != content.dtype:
                tensor.data = content
            else:
                strides = tensor.stride() if tensor.layout == torch.strided else ()
                _once(tensor.data, strides).copy_(_once(content, strides))
        for array, before in self._arrays:
            if array.flags.writeable and array.shape == before.shape:
                array[...] = before

    def _restore_references(self) -> None:
        pairs = zip(self._names, self._values, strict=True)
        for owner, size in zip(self._owners, self._sizes, strict=True):
            before = dict(islice(pairs, size))
            for name in owner.keys() - before.keys():
                del owner[name]
            for name, value in before.items():
                if name not in owner or owner[name] is not value:
                    owner[name] = value


class _Contents:
    """The contents of containers, in order; all containers are checked together."""

    def __init__(self, containers: list[Any]) -> None:
        self._containers = containers
        self._sizes = [*map(len, containers)]
        self._entries = self._now()
        self._ids = [*map(id, self._entries)]

    def restore(self, apart: Set[int]) -> None:
        if [*map(len, self._containers)] == self._sizes and [*map(id, self._now())] == self._ids:
            return
        keys_and_values = iter(self._entries)
        for container, size in zip(self._containers, self._sizes, strict=True):
            entries = [*islice(keys_and_values, 2 * size if isinstance(container, dict) else size)]
            if id(container) in apart or [*map(id, _held(container))] == [*map(id, entries)]:
                continue
            container.clear()
            if isinstance(container, dict):
                container.update(zip(entries[:size], entries[size:], strict=True))
            elif isinstance(container, set):
                container.update(entries)
            else:
                container.extend(entries)

    def _now(self) -> list[Any]:
        return [*chain.from_iterable(map(_held, self._containers))]


def _held(container: Any) -> Iterable[Any]:
    return chain(container, container.values()) if isinstance(container, dict) else container


def _entries(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def generators_of(owners: Iterable[object]) -> list[Any]:
    """Returns the generators among the owners, their attributes, and small containers in these."""
    found: dict[int, Any] = {}
    for owner in owners:
        values = [owner, *getattr(owner, "__dict__", {}).values()]
        for value in values:
            inner = _entries(value) if isinstance(value, _CONTAINERS) and len(value) <= SMALL else [value]
            found.update((id(entry), entry) for entry in inner if isinstance(entry, _GENERATORS))
    return list(found.values())


def changes_by_use(owner: object) -> bool:
    """Whether an object may change its own attributes when it is indexed or called."""
    # This selects data sets and transforms. A trainer or logger inside one of them may change on its own meanwhile.
    return hasattr(owner, "__dict__") and not isfunction(owner) and (callable(owner) or hasattr(owner, "__getitem__"))


def held_by(owners: Iterable[object]) -> Iterator[object]:
    """Yields the owners and the objects inside them, each once."""
    seen: set[int] = set()
    queue: deque[object] = deque(owners)
    while queue and len(seen) < _ENOUGH:
        owner = queue.popleft()
        if id(owner) in seen or isinstance(owner, _LEAVES):
            continue
        seen.add(id(owner))
        if isinstance(owner, (*_CONTAINERS, tuple)):
            if len(owner) <= SMALL:
                queue.extend(_entries(owner))
            continue
        yield owner
        if isinstance(owner, partial):
            queue.extend([owner.func, owner.args, owner.keywords])
        queue.extend(bound_to(owner))
        queue.extend(vars(owner).values() if hasattr(owner, "__dict__") else ())


def bound_to(function: object) -> Iterator[object]:
    """Yields the values in a function's closure and the object a method is bound to."""
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # a closure cell that is still empty
            yield cell.cell_contents
    yield getattr(function, "__self__", None)


def restoring(generators: Iterable[Any]) -> Callable[[], None]:
    """Returns a function that resets random generators (torch, NumPy, Python) to their current state."""
    stack = ExitStack()
    for each in {id(each): each for each in generators}.values():
        state = state_of(each)
        if isinstance(each, np.random.Generator):
            stack.callback(setattr, each.bit_generator, "state", state)
        else:
            stack.callback(each.setstate if isinstance(each, random.Random) else each.set_state, state)
    return stack.close


def state_of(generator: Any) -> Any:
    """Returns the current state of a random generator (torch, NumPy, Python)."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _once(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Returns a view with each memory location once; ``expand()`` repeats locations, which can't be written."""
    if 0 not in strides:
        return tensor
    for axis, stride in enumerate(strides):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor
