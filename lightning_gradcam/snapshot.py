"""What an object holds, remembered so that it can be given back: attributes, containers, tensors, generators."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from inspect import isfunction
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = (dict, list, set, deque)
# What can hold neither a generator nor anything that a data set would change by being indexed.
_LEAVES = (str, bytes, int, float, complex, type(None), type, ModuleType, Tensor, np.ndarray, np.generic)
# The commonest types, of which nothing else need be asked.
_PLAIN = {bool, int, float, str, bytes, type(None), tuple}
_DICTS = {dict, OrderedDict}
_LARGE, _HUGE, _ENOUGH = 256, 100_000, 5000


@lru_cache(maxsize=4096)
def _kind(kind: type) -> Literal["container", "tensor", "generator"] | None:
    """What has to be done about values of a type; remembered, because asking costs more than all else here."""
    if issubclass(kind, _CONTAINERS):
        return "container"
    if issubclass(kind, Tensor):
        return "tensor"
    return "generator" if issubclass(kind, _GENERATORS) else None


class Attributes:
    """What one object's ``__dict__`` holds: references, copies of its containers and of its tensors.

    A model has thousands of these, nearly all empty or unchanged: what is compared is compared by identity, in bulk.
    """

    def __init__(self, values: dict[str, Any], *, tensors: bool = True) -> None:
        self._values = values
        self._references = dict(values)
        self._ids = [*map(id, values.values())]
        self._contents: list[_Contents] = []
        self._empty: list[Any] = []
        self.generators: list[Any] = []
        held: list[Tensor] = []
        for name, value in values.items():
            exact: Any = type(value)
            if exact in _PLAIN:
                continue
            if exact in _DICTS and not value:
                self._empty.append(value)
                continue
            kind = _kind(exact)
            if kind == "container":
                self._keep(value)
                # One level more, for caches such as {"layer": {"calls": 3}}.
                small = value and len(value) <= _LARGE and name not in ("_modules", "_parameters", "_buffers")
                for entry in _entries(value) if small else ():
                    exact = type(entry)
                    inner = None if exact in _PLAIN else _kind(exact)
                    if inner == "container":
                        self._keep(entry)
                    elif inner == "generator":
                        self.generators.append(entry)
            elif kind == "tensor":
                held.append(value)
            elif kind == "generator":
                self.generators.append(value)
        held += [value for value in values.get("_buffers", {}).values() if value is not None]
        # Inference tensors have no version and can't be written to outside inference mode.
        kept = [value for value in (held if tensors else ()) if not value.is_inference() and not is_lazy(value)]
        self._tensors = [(value, value._version, value.detach().clone()) for value in kept]

    def restore(self) -> None:
        """Puts everything back that is no longer as it was."""
        for contents in self._contents:
            contents.restore()
        if any(self._empty):
            for container in self._empty:
                container.clear()
        if [*map(id, self._values.values())] != self._ids or self._values.keys() != self._references.keys():
            for name in self._values.keys() - self._references.keys():
                del self._values[name]
            for name, value in self._references.items():
                if self._values.get(name) is not value:
                    self._values[name] = value
        for tensor, version, content in self._tensors:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(content)

    def _keep(self, container: Any) -> None:
        if not container:
            self._empty.append(container)
        elif len(container) <= _HUGE:
            self._contents.append(_Contents(container))


class _Contents:
    """What a container holds, in order."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._entries = self._now()
        self._ids = [*map(id, self._entries)]

    def restore(self) -> None:
        if [*map(id, self._now())] == self._ids:
            return
        container, entries = self._container, self._entries
        container.clear()
        if isinstance(container, dict):
            half = len(entries) // 2
            container.update(zip(entries[:half], entries[half:], strict=True))
        elif isinstance(container, set):
            container.update(entries)
        else:
            container.extend(entries)

    def _now(self) -> list[Any]:
        container = self._container
        return [*container, *container.values()] if isinstance(container, dict) else [*container]


def _entries(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def generators_of(owners: Iterable[object]) -> list[Any]:
    """Returns the generators among the owners, their attributes, and small containers in these."""
    found: dict[int, Any] = {}
    for owner in owners:
        values = [owner, *getattr(owner, "__dict__", {}).values()]
        for value in values:
            inner = _entries(value) if isinstance(value, _CONTAINERS) and len(value) <= _LARGE else [value]
            found.update((id(entry), entry) for entry in inner if isinstance(entry, _GENERATORS))
    return list(found.values())


def changes_by_use(owner: object) -> bool:
    """Whether an object may change its own attributes when it is indexed or called."""
    # Data sets and transforms; a trainer or logger that one of them happens to hold may change on its own meanwhile.
    return hasattr(owner, "__dict__") and not isfunction(owner) and (callable(owner) or hasattr(owner, "__getitem__"))


def held_by(owners: Iterable[object]) -> Iterator[object]:
    """Yields the owners and what they hold, each once."""
    seen: set[int] = set()
    queue: deque[object] = deque(owners)
    while queue and len(seen) < _ENOUGH:
        owner = queue.popleft()
        if id(owner) in seen or isinstance(owner, _LEAVES):
            continue
        seen.add(id(owner))
        if isinstance(owner, (*_CONTAINERS, tuple)):
            if len(owner) <= _LARGE:
                queue.extend(_entries(owner))
            continue
        yield owner
        if isinstance(owner, partial):
            queue.extend([owner.func, owner.args, owner.keywords])
        for cell in getattr(owner, "__closure__", None) or ():
            try:
                queue.append(cell.cell_contents)
            except ValueError:  # a cell that is not filled yet
                continue
        queue.append(getattr(owner, "__self__", None))
        queue.extend(vars(owner).values() if hasattr(owner, "__dict__") else ())


class Generators:
    """The states of random number generators: torch's, NumPy's and Python's."""

    def __init__(self, generators: Iterable[Any]) -> None:
        self._states = [(each, _state(each)) for each in {id(each): each for each in generators}.values()]

    def restore(self) -> None:
        """Sets every generator back."""
        for generator, state in self._states:
            if isinstance(generator, np.random.Generator):
                generator.bit_generator.state = state
            elif isinstance(generator, random.Random):
                generator.setstate(state)
            else:
                generator.set_state(state)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()
