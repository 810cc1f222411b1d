"""Takes snapshots of objects' state (attributes, containers, tensors, generators) to restore it later."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from inspect import isfunction
from itertools import chain, compress, islice
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.guard.tensors import give_back

T = TypeVar("T")

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = (dict, list, set, deque)
# Types that contain neither a generator nor anything that indexing a data set would change.
_LEAVES = (str, bytes, int, float, complex, type(None), type, ModuleType, Tensor, np.ndarray, np.generic)
# Their objects, such as compilers, record what they did.
_OWN = ("torch", "pytorch_lightning", "lightning", "builtins")
SMALL, _LARGE, _HUGE, _ENOUGH = 256, 1000, 100_000, 5000


@lru_cache(maxsize=4096)
def _kind(kind: type) -> Literal["container", "tuple", "tensor", "array", "generator", "called"] | None:
    """Returns how values of a type are saved and restored; cached, because this check costs more than all the rest."""
    if issubclass(kind, _CONTAINERS):
        return "container"
    if issubclass(kind, tuple):
        return "tuple"
    if issubclass(kind, Tensor):
        return "tensor"
    if issubclass(kind, np.ndarray):
        return "array"
    if issubclass(kind, _GENERATORS):
        return "generator"
    return "called" if _is_called(kind) else None


def _is_called(kind: type) -> bool:
    """Whether a type's objects can be called and may hold something: not types, built-in functions or torch's own."""
    if issubclass(kind, (nn.Module, FunctionType, MethodType)):
        return True
    own = issubclass(kind, (BuiltinFunctionType, type)) or kind.__module__.split(".")[0] in _OWN
    # Every type has a `__call__` through its own type.
    return not own and any("__call__" in vars(base) for base in kind.__mro__)


class Attributes:
    """Snapshot of objects' ``__dict__``s: references, and copies of their containers, tensors and arrays.

    A model has thousands of these, nearly all empty or unchanged, so all modules are checked together and values are
    compared by identity.

    Args:
        owners: The ``__dict__``s.
        tensors: Whether to copy the content of tensors and arrays.

    Attributes:
        generators: The random generators found.
        called: The functions, modules and other callable objects found, except hooks and a module's own parts.
    """

    def __init__(self, owners: Iterable[dict[str, Any]], *, tensors: bool = True) -> None:
        self._owners = [*owners]
        self._sizes = [*map(len, self._owners)]
        self._names = [*chain.from_iterable(self._owners)]
        self._values = [*chain.from_iterable(map(dict.values, self._owners))]
        self._ids = [*map(id, self._values)]
        self.generators: list[Any] = []
        self.called: list[Any] = []
        found: dict[str | None, list[Any]] = {kind: [] for kind in ("container", "tuple", "tensor", "array")}
        found.update(generator=self.generators, called=self.called)
        kinds = [*map(_kind, map(type, self._values))]
        for name, value, kind in compress(zip(self._names, self._values, kinds, strict=True), kinds):
            found[kind].append(value)
            # Nearly all tuples are pairs of numbers.
            searched = any(map(_kind, map(type, value))) if kind == "tuple" else kind == "container" and value
            if searched and name not in ("_modules", "_parameters"):
                for inner, entry in _inside(value, whole=name == "_buffers"):
                    hook = inner == "called" and name.endswith("_hooks")
                    if name == "_buffers" or not (hook or isinstance(entry, nn.Parameter)):
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
            give_back(tensor, content)
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
    """The contents of containers, in order; all small containers are checked together."""

    def __init__(self, containers: list[Any]) -> None:
        large = {id(container): container for container in containers if len(container) > _LARGE}
        self._large = [(container, [*_held(container)]) for container in large.values()]
        self._containers = containers = [container for container in containers if id(container) not in large]
        self._sizes = [*map(len, containers)]
        self._entries = self._now()
        self._ids = [*map(id, self._entries)]

    def restore(self, apart: Set[int]) -> None:
        for container, entries in self._large:
            if id(container) not in apart and not _equal([*_held(container)], entries):
                _refill(container, entries)
        if [*map(len, self._containers)] == self._sizes and [*map(id, self._now())] == self._ids:
            return
        keys_and_values = iter(self._entries)
        for container, size in zip(self._containers, self._sizes, strict=True):
            entries = [*islice(keys_and_values, 2 * size if isinstance(container, dict) else size)]
            if id(container) not in apart and [*map(id, _held(container))] != [*map(id, entries)]:
                _refill(container, entries)

    def _now(self) -> list[Any]:
        return [*chain.from_iterable(map(_held, self._containers))]


def _held(container: Any) -> Iterable[Any]:
    return chain(container, container.values()) if isinstance(container, dict) else container


def _equal(now: list[Any], before: list[Any]) -> bool:
    """Compares the entries of a large container, several times faster than by their ``id()``s."""
    try:
        return now == before
    except Exception:  # entries that were replaced, such as tensors, may refuse to be compared
        return False


def _refill(container: Any, entries: list[Any]) -> None:
    container.clear()
    if isinstance(container, dict):
        size = len(entries) // 2
        # Not `update()`: a Counter would count the pairs.
        for key, value in zip(entries[:size], entries[size:], strict=True):
            container[key] = value
    elif isinstance(container, set):
        container.update(entries)
    else:
        container.extend(entries)


def _entries(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def _inside(container: Any, *, whole: bool) -> Iterator[tuple[str, Any]]:
    """Yields entries of a container and of those in it, with their kinds; ``whole``: even if the container is large."""
    seen, waiting, left = set[int](), deque([container]), _ENOUGH
    while waiting and (left > 0 or whole):
        searched = waiting.popleft()
        if id(searched) in seen or not (whole or len(searched) <= SMALL):
            continue
        seen.add(id(searched))
        left -= len(searched)
        for entry in _entries(searched):
            exact: Any = type(entry)
            kind = _kind(exact)
            if kind is not None:
                yield kind, entry
            if kind in ("container", "tuple"):
                waiting.append(entry)


def is_a(value: object, kinds: type[T] | tuple[type[T], ...]) -> TypeGuard[T]:
    """Like ``isinstance``, but false for objects that can't report their class, such as proxies for deleted objects."""
    try:
        return isinstance(value, kinds)
    except Exception:
        return False


def attribute(owner: object, name: str) -> Any:
    """Returns an attribute; ``None`` if there is none, or if the owner's ``__getattr__`` raises anything."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


def attributes_of(owner: object) -> dict[str, Any] | None:
    """Returns an object's ``__dict__``; ``None`` if it has none that can be read."""
    found = attribute(owner, "__dict__")
    return found if isinstance(found, dict) else None


def generators_of(owners: Iterable[object]) -> list[Any]:
    """Returns the generators among the owners, their attributes, and small containers in these."""
    found: dict[int, Any] = {}
    for owner in owners:
        values = [owner, *(attributes_of(owner) or {}).values()]
        for value in values:
            inner = _entries(value) if is_a(value, (*_CONTAINERS, tuple)) and len(value) <= SMALL else [value]
            found.update((id(entry), entry) for entry in inner if is_a(entry, _GENERATORS))
    return list(found.values())


def changes_by_use(owner: object) -> bool:
    """Whether an object may change its own attributes when it is indexed or called."""
    # This selects data sets and transforms. A trainer or logger inside one of them may change on its own meanwhile.
    indexed_or_called = callable(owner) or attribute(owner, "__getitem__") is not None
    return indexed_or_called and not isfunction(owner) and attributes_of(owner) is not None


def held_by(owners: Iterable[object], apart: Iterable[object] = ()) -> Iterator[object]:
    """Yields the owners and the objects inside them, each once, except those in ``apart`` and what only they hold."""
    seen: set[int] = {*map(id, apart)}
    queue: deque[object] = deque(owners)
    most = len(seen) + _ENOUGH
    while queue and len(seen) < most:
        owner = queue.popleft()
        if id(owner) in seen or attribute(owner, "__class__") is None or isinstance(owner, _LEAVES):
            continue
        # A compiled function leads to its compiler, which records what it did.
        if str(type(owner).__module__).startswith(("torch._dynamo", "torch._inductor")):
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
        queue.extend((attributes_of(owner) or {}).values())


def bound_to(function: object) -> Iterator[object]:
    """Yields a function's defaults, the values in its closure, and the object a method is bound to."""
    for name in ("__defaults__", "__kwdefaults__"):
        yield attribute(function, name)
    cells = attribute(function, "__closure__")
    for cell in cells if isinstance(cells, tuple) else ():
        with suppress(ValueError):  # a closure cell that is still empty
            yield cell.cell_contents
    yield attribute(function, "__self__")


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
