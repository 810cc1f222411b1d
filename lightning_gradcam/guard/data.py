"""Saves and restores the global random state, and the state of data sets that changes with use.

The state is restored even after an exception. Lightning's own ``isolate_rng`` has no ``finally``, so an exception
inside it would change the random numbers that training draws afterwards.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_gradcam.guard.snapshot import (
    SMALL,
    Attributes,
    attributes_of,
    bound_to,
    changes_by_use,
    generators_of,
    held_by,
    is_a,
    restoring,
    state_of,
)


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restores the global random number generators of torch (CPU, CUDA, MPS), NumPy and Python on exit.

    They are restored even after an exception.

    Example:
        >>> with isolated_rng():
        ...     _ = torch.rand(1)
    """
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        if torch.backends.mps.is_available():
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield


def seed_global_rng(seed: int = 0) -> None:
    """Seeds the generators that :func:`isolated_rng` restores.

    Unlike ``torch.manual_seed``, this does not seed a device that is not in use yet, because its previous seed could
    not be restored.

    Args:
        seed: The seed of all of them.

    Example:
        >>> with isolated_rng():
        ...     seed_global_rng(0)
        ...     first = torch.rand(1)
        ...     seed_global_rng(0)
        ...     bool(first == torch.rand(1))
        True
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def isolated(*owners: object, deep: bool = True, apart: Iterable[object] = ()) -> Iterator[None]:
    """Restores the global random state and the private state of data sets, transforms and data modules.

    Private state means the generators in these objects, and the attributes (counters, caches) of all objects that can
    be indexed or called. Attributes are restored by reference: no data is copied, so in-place changes to a tensor are
    not undone. The exception is the content of modules' buffers, for instance in augmentations.

    If another thread uses an object in the meantime, such as a prefetching data set, its attributes and containers are
    not restored: we cannot tell who changed them, and what the thread stored there must not be lost. Counters and
    caches of such an object therefore keep the changes caused by our own use.
    :func:`lightning_gradcam.guard.data.in_other_threads` defines which objects count. Generators are always restored. A
    thread that starts and ends in the meantime goes unnoticed.

    Args:
        *owners: The objects that are about to be used.
        deep: Whether to follow the objects inside the owners: wrapped data sets, composed transforms, dicts and lists
            of these, closures and partials. Containers with more than 256 entries are treated as data and not searched.
        apart: Objects that are left alone, with what only they hold.
    """
    held = list(held_by(owners, apart)) if deep else [owner for owner in owners if owner is not None]
    restore_generators = restoring(generators_of(held))
    used = [owner for owner in held if not deep or changes_by_use(owner)]
    attributes = [(owner, Attributes([vars(owner)], tensors=isinstance(owner, nn.Module))) for owner in used]
    apart = in_other_threads(used)
    with isolated_rng():
        try:
            yield
        finally:
            # Check again: indexing may have started the thread.
            apart |= in_other_threads(used)
            for owner, held_then in attributes:
                if id(owner) not in apart:
                    held_then.restore(apart=apart)
            restore_generators()


def random_states(*owners: object) -> bytes:
    """Returns the states of the global generators (torch on the CPU, NumPy, Python) and of those in the owners.

    The result differs after anything has drawn from them.

    Args:
        *owners: Data sets and transforms.

    Example:
        >>> before = random_states()
        >>> with isolated_rng():
        ...     _, drawn = random.random(), random_states() != before
        >>> drawn, random_states() == before
        (True, True)
    """
    of_all = random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()
    return _bytes_of([of_all, *map(state_of, generators_of(held_by(owners)))])


def _bytes_of(state: Any) -> bytes:
    """Converts a generator's state to bytes, without abbreviating arrays as ``repr`` does."""
    if isinstance(state, dict):
        return _bytes_of(list(state.values()))
    if isinstance(state, (list, tuple)):
        return b",".join(map(_bytes_of, state))
    return np.asarray(state).tobytes() if isinstance(state, (np.ndarray, torch.Tensor)) else repr(state).encode()


def in_other_threads(owners: Iterable[object]) -> set[int]:
    """Returns the ``id()`` of each owner and of each container that another running thread uses.

    An owner counts if it contains a thread or a thread pool (:class:`concurrent.futures.Executor`), or if it is an
    attribute or an argument of a thread, or part of the thread's function (``Thread(target=dataset.fill)``). Objects
    that a thread reaches only through other objects do not count; otherwise a logger's thread would reach everything.

    Args:
        owners: The objects to check.

    Example:
        >>> values, end = [1], threading.Event()
        >>> thread = threading.Thread(target=lambda kept: end.wait(), args=(values,))
        >>> thread.start()
        >>> id(values) in in_other_threads([])
        True
        >>> end.set(); thread.join()
    """
    own = threading.current_thread()
    found = {id(value) for thread in threading.enumerate() if thread is not own for value in _in_hand(vars(thread))}
    held = ((id(owner), _with_entries((attributes_of(owner) or {}).values())) for owner in owners)
    return found | {number for number, values in held if any(map(_is_running, values))}


def _is_running(value: object) -> bool:
    if is_a(value, threading.Thread):
        return value is not threading.current_thread() and value.is_alive()
    # A pool creates its threads when its first job is submitted.
    return is_a(value, Executor) and bool(getattr(value, "_threads", True))


def _in_hand(attributes: dict[str, Any]) -> Iterator[object]:
    """Yields a thread's attributes, arguments and function, the object the function is bound to, and its closure."""
    for value in _with_entries(attributes.values()):
        yield value
        function = value
        while isinstance(function, partial):
            yield from _with_entries([*function.args, *function.keywords.values()])
            function = function.func
        yield from bound_to(function)


def _with_entries(values: Iterable[object]) -> Iterator[object]:
    """Yields the values and the entries of small containers among them."""
    # Iterate over copies: another thread may change the containers meanwhile.
    for value in [*values]:
        yield value
        if is_a(value, (list, tuple, set, frozenset)) and len(value) <= SMALL:
            yield from [*value]
        elif is_a(value, dict) and len(value) <= SMALL:
            yield from [*value.values()]
