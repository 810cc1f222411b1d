"""Saves and restores everything that explaining a model could disturb.

Both guards restore on the failure path too: Lightning's own ``isolate_rng`` has no ``finally``, so an
exception inside it leaves the training with other random numbers than it would have had.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import isfunction
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = (dict, list, set, deque)
# What can hold neither a generator nor anything that a data set would change by being indexed.
_LEAVES = (str, bytes, int, float, complex, type(None), type, ModuleType, Tensor, np.ndarray, np.generic)
_LARGE, _HUGE, _ENOUGH = 256, 100_000, 5000


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restores the global random number generators of torch (CPU, CUDA, MPS), NumPy and Python on leaving.

    After an exception too.

    Example:
        >>> with isolated_rng():
        ...     _ = torch.rand(1)
    """
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def isolated(*owners: object, deep: bool = True) -> Iterator[None]:
    """Restores the global random numbers, and the private state of data sets, transforms and data modules.

    Private state: generators that they hold, and the attributes (counters, caches) of whatever can be indexed or
    called. These are restored by reference: no data is copied, so a tensor that is overwritten in place stays so.

    Args:
        *owners: The objects that are about to be used.
        deep: Follow what they hold: wrapped data sets, composed transforms, dicts and lists of them, closures,
            partials. Bounded: containers of more than 256 entries are taken for data and left alone.
    """
    held = list(_held(owners)) if deep else [owner for owner in owners if owner is not None]
    generators = [(generator, _state(generator)) for generator in _generators(held)]
    used = [owner for owner in held if not deep or _changes_by_use(owner)]
    attributes = [_Attributes(vars(owner), tensors=False) for owner in used]
    with isolated_rng():
        try:
            yield
        finally:
            for attribute in attributes:
                attribute.restore()
            for generator, state in generators:
                _restore(generator, state)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` into evaluation mode and gives it back exactly as it was.

    Restored, after an exception too: each submodule's mode, ``requires_grad`` and ``.grad`` of each
    parameter, the content of buffers and of tensors kept as attributes, every other attribute (counters,
    caches, lists, hooks), the random number generators (global ones and those that a module holds) and
    the grad mode. Inference mode is left inside: Lightning's ``validate`` and ``test`` run under it, and no
    gradient can be had there.

    Parameters are not copied (that would double the model's memory), so a ``forward`` that overwrites its
    own weights in evaluation mode is not undone.

    Args:
        model: The model that is about to be explained.

    Example:
        >>> model = nn.Sequential(nn.Dropout())
        >>> with preserved(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    attributes = [_Attributes(vars(module)) for module in modules]
    generators = [(generator, _state(generator)) for generator in _generators(modules)]
    grad_enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), isolated_rng():
        try:
            # Assigned and not `.eval()`: modules with an overridden `train()` would do more than set the flag.
            for module in modules:
                module.training = False
            yield
        finally:
            for attribute in attributes:
                attribute.restore()
            for parameter, requires_grad, grad in parameters:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
                if parameter.grad is not grad:
                    parameter.grad = grad
            for module, training in modes:
                module.training = training
            for generator, state in generators:
                _restore(generator, state)
            torch.set_grad_enabled(grad_enabled)


class _Attributes:
    """What one object's ``__dict__`` holds: references, copies of its containers and of its tensors."""

    def __init__(self, values: dict[str, Any], *, tensors: bool = True) -> None:
        self._values = values
        self._references = dict(values)
        containers = [v for v in values.values() if isinstance(v, _CONTAINERS) and len(v) <= _HUGE]
        # One level more, for caches such as {"layer": {"calls": 3}}.
        small = [container for container in containers if len(container) <= _LARGE]
        containers += [v for outer in small for v in _entries(outer) if isinstance(v, _CONTAINERS) and len(v) <= _HUGE]
        self._containers = [(container, _items(container)) for container in containers]
        held = [*self._references.values(), *values.get("_buffers", {}).values()] if tensors else []
        self._tensors = [
            # Inference tensors have no version and can't be written to outside inference mode.
            (value, value._version, value.detach().clone())
            for value in held
            if isinstance(value, Tensor) and not value.is_inference() and not is_lazy(value)
        ]

    def restore(self) -> None:
        for container, items in self._containers:
            if not _same(_items(container), items):
                container.clear()
                if isinstance(container, (dict, set)):
                    container.update(items)
                else:
                    container.extend(items)
        for name in self._values.keys() - self._references.keys():
            del self._values[name]
        for name, value in self._references.items():
            if self._values.get(name) is not value:
                self._values[name] = value
        with torch.no_grad():
            for tensor, version, content in self._tensors:
                if tensor._version != version:
                    tensor.copy_(content)


def _items(container: Any) -> list[Any]:
    return list(container.items()) if isinstance(container, dict) else list(container)


def _same(now: list[Any], before: list[Any]) -> bool:
    if len(now) != len(before):
        return False
    for a, b in zip(now, before, strict=True):
        if a is b:
            continue
        # The pairs of a dict are new tuples each time; what they hold is what counts.
        if not (type(a) is tuple and type(b) is tuple and len(a) == len(b) == 2):
            return False
        if a[0] is not b[0] or a[1] is not b[1]:
            return False
    return True


def _entries(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def _generators(owners: Iterable[object]) -> list[Any]:
    """Returns the generators among the owners, their attributes, and small containers in these."""
    found: dict[int, Any] = {}
    for owner in owners:
        values = [owner, *getattr(owner, "__dict__", {}).values()]
        for value in values:
            inner = _entries(value) if isinstance(value, _CONTAINERS) and len(value) <= _LARGE else [value]
            found.update((id(entry), entry) for entry in inner if isinstance(entry, _GENERATORS))
    return list(found.values())


def _changes_by_use(owner: object) -> bool:
    # Data sets and transforms; a trainer or logger that one of them happens to hold may change on its own meanwhile.
    return hasattr(owner, "__dict__") and not isfunction(owner) and (callable(owner) or hasattr(owner, "__getitem__"))


def _held(owners: Iterable[object]) -> Iterator[object]:
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


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
