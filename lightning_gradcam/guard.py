"""Saves and restores everything that explaining a model could disturb.

Both guards restore on the failure path too: Lightning's own ``isolate_rng`` has no ``finally``, so an
exception inside it leaves the training with other random numbers than it would have had.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_WALKED = ("dataset", "datasets", "transform", "transforms", "target_transform", "subset")


@contextmanager
def isolated_rng(*owners: object) -> Iterator[None]:
    """Restores every random number generator on leaving, after an exception too.

    Covers the global ones of torch (CPU, CUDA, MPS), NumPy and Python, and the private ones that ``owners``
    (data sets, transforms) hold in their attributes.

    Args:
        *owners: Objects whose own generators are to be restored as well; wrapped data sets and composed
            transforms are followed.

    Example:
        >>> with isolated_rng():
        ...     _ = torch.rand(1)
    """
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    private = [(generator, _state(generator)) for generator in _generators(owners)]
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
        for generator, state in private:
            _restore(generator, state)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` into evaluation mode and gives it back exactly as it was.

    Restored, after an exception too: each submodule's mode, ``requires_grad`` and ``.grad`` of each
    parameter, the content of buffers and of tensors kept as attributes, every other attribute (counters,
    caches, lists, hooks), the random number generators and the grad mode. Inference mode is left inside:
    Lightning's ``validate`` and ``test`` run under it, and no gradient can be had there.

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
    attributes = [_Attributes(module) for module in modules]
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
            torch.set_grad_enabled(grad_enabled)


class _Attributes:
    """What one module's ``__dict__`` holds: references, shallow copies of containers, copies of tensors."""

    def __init__(self, module: nn.Module) -> None:
        self._values = vars(module)
        self._references = dict(self._values)
        self._containers = [
            (value, _items(value)) for value in self._references.values() if isinstance(value, (dict, list, set, deque))
        ]
        held = [*self._references.values(), *module._buffers.values()]
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


def _generators(owners: tuple[object, ...]) -> list[_Generator]:
    found: list[_Generator] = []
    seen: set[int] = set()
    queue: deque[object] = deque(owners)
    while queue:
        owner = queue.popleft()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        if isinstance(owner, (list, tuple)):
            # Only containers of wrapped data sets and transforms come here, and these are short.
            queue.extend(owner)
            continue
        for name, value in getattr(owner, "__dict__", {}).items():
            if isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
                if id(value) not in seen:
                    seen.add(id(value))
                    found.append(value)
            elif name in _WALKED:
                queue.append(value)
    return found


def _state(generator: _Generator) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _restore(generator: _Generator, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
