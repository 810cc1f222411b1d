"""Saves and restores the global random numbers, and the state of data sets that changes when they are used.

On the failure path too: Lightning's own ``isolate_rng`` has no ``finally``, so an exception inside it leaves the
training with other random numbers than it would have had.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lightning_gradcam.guard.foreign import in_other_threads
from lightning_gradcam.guard.snapshot import Attributes, Generators, changes_by_use, generators_of, held_by


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

    An object that another thread works with meanwhile, such as a data set that prefetches, keeps its attributes and
    containers as they are: who has changed them can't be told, and what its thread has put there must not be lost. So a
    counter or a cache of such an object keeps what our own use has done to it; see
    :func:`lightning_gradcam.guard.foreign.in_other_threads` for what counts. Generators are set back all the same, and
    a thread that begins and ends meanwhile goes unseen.

    Args:
        *owners: The objects that are about to be used.
        deep: Follow what they hold: wrapped data sets, composed transforms, dicts and lists of them, closures,
            partials. Bounded: containers of more than 256 entries are taken for data and left alone.
    """
    held = list(held_by(owners)) if deep else [owner for owner in owners if owner is not None]
    generators = Generators(generators_of(held))
    used = [owner for owner in held if not deep or changes_by_use(owner)]
    attributes = [(owner, Attributes([vars(owner)], tensors=False)) for owner in used]
    apart = in_other_threads(used)
    with isolated_rng():
        try:
            yield
        finally:
            # Again: indexing may have started the thread.
            apart |= in_other_threads(used)
            for owner, held_then in attributes:
                if id(owner) not in apart:
                    held_then.restore(apart=apart)
            generators.restore()
