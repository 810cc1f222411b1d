"""Saves and restores everything that explaining a model could disturb.

Both guards restore on the failure path too: Lightning's own ``isolate_rng`` has no ``finally``, so an
exception inside it leaves the training with other random numbers than it would have had.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from inspect import isfunction
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.errors import ConfigurationError

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = (dict, list, set, deque)
# What can hold neither a generator nor anything that a data set would change by being indexed.
_LEAVES = (str, bytes, int, float, complex, type(None), type, ModuleType, Tensor, np.ndarray, np.generic)
# The commonest types, of which nothing else need be asked.
_PLAIN = {bool, int, float, str, bytes, type(None), tuple}
_DICTS = {dict, OrderedDict}
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
    gradient can be had there. Autocast keeps no casts of the weights inside: one that is made without a graph, or
    while the weights are other ones, would be used again outside.

    Parameters are not copied (that would double the model's memory), so a ``forward`` that overwrites its
    own weights in evaluation mode is not undone.

    Args:
        model: The model that is about to be explained.

    Raises:
        ConfigurationError: A lazy module of it has not been run yet (see :func:`uninitialized`).

    Example:
        >>> model = nn.Sequential(nn.Dropout())
        >>> with preserved(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modules = list(model.modules())
    held = _parameters(modules)
    if any("_initialize_hook" in vars(module) for module in modules) or any(map(is_lazy, held)):
        raise ConfigurationError(
            f"model: {', '.join(uninitialized(model))} of {type(model).__name__} get their parameters in the first"
            " forward, which draws them from the global random numbers and has to be your own; run one batch through"
            " the model first"
        )
    parameters = [(p, p.requires_grad, p.grad) for p in held]
    attributes = [_Attributes(vars(module)) for module in modules]
    found = {id(generator): generator for attribute in attributes for generator in attribute.generators}
    generators = [(generator, _state(generator)) for generator in found.values()]
    grad_enabled, caching = torch.is_grad_enabled(), torch.is_autocast_cache_enabled()
    with torch.inference_mode(False), isolated_rng():
        try:
            torch.set_autocast_cache_enabled(False)
            # Assigned and not `.eval()`: modules with an overridden `train()` would do more than set the flag. It is
            # among the attributes that are restored.
            for module in modules:
                vars(module)["training"] = False
            yield
        finally:
            for attribute in attributes:
                attribute.restore()
            for parameter, requires_grad, grad in parameters:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
                if parameter.grad is not grad:
                    parameter.grad = grad
            for generator, state in generators:
                _restore(generator, state)
            torch.set_grad_enabled(grad_enabled)
            torch.set_autocast_cache_enabled(caching)


def uninitialized(model: nn.Module) -> list[str]:
    """Returns the names of the modules whose first forward is still to come and will make their parameters.

    Such a forward also changes the module's class and hooks, for good: what has begun can't be taken back.

    Example:
        >>> uninitialized(nn.Sequential(nn.LazyLinear(2), nn.ReLU()))
        ["'0' (LazyLinear)"]
    """
    return [
        f"{name!r} ({type(module).__name__})"
        for name, module in model.named_modules()
        # Loading a state dict fills the parameters, but leaves the hook, which the first forward removes.
        if "_initialize_hook" in vars(module)
        or any(is_lazy(held) for held in (*module._parameters.values(), *module._buffers.values()))
    ]


def _parameters(modules: Iterable[nn.Module]) -> Iterable[nn.Parameter]:
    # `Module.parameters()` walks through all modules once more.
    found = {id(p): p for module in modules for p in module._parameters.values() if p is not None}
    return found.values()


@lru_cache(maxsize=4096)
def _kind(kind: type) -> Literal["container", "tensor", "generator"] | None:
    """What has to be done about values of a type; remembered, because asking costs more than all else here."""
    if issubclass(kind, _CONTAINERS):
        return "container"
    if issubclass(kind, Tensor):
        return "tensor"
    return "generator" if issubclass(kind, _GENERATORS) else None


class _Attributes:
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
