"""What other threads work with: objects and containers that nobody may set back meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any

_SMALL = 256


def in_other_threads(owners: Iterable[object]) -> set[int]:
    """Returns the ``id()`` of each owner, and of each container, that another running thread has in hand.

    An owner is, where it holds a thread or a pool of threads (:class:`concurrent.futures.Executor`), or where a thread
    has it as an attribute, as an argument or in its function (``Thread(target=dataset.fill)``). One step: what a thread
    reaches through other objects does not count, or a logger's thread would count for everything.

    Args:
        owners: The objects that are asked about.

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
    for owner in owners:
        if any(_is_running(value) for value in _with_entries(getattr(owner, "__dict__", {}).values())):
            found.add(id(owner))
    return found


def _is_running(value: object) -> bool:
    if isinstance(value, threading.Thread):
        return value is not threading.current_thread() and value.is_alive()
    # A pool makes its threads when it is first given something to do.
    return isinstance(value, Executor) and bool(getattr(value, "_threads", True))


def _in_hand(attributes: dict[str, Any]) -> Iterator[object]:
    """Yields a thread's attributes, arguments and function, and what the function is bound to or closes over."""
    for value in _with_entries(attributes.values()):
        yield value
        function = value
        while isinstance(function, partial):
            yield from _with_entries([*function.args, *function.keywords.values()])
            function = function.func
        yield getattr(function, "__self__", None)
        for cell in getattr(function, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue


def _with_entries(values: Iterable[object]) -> Iterator[object]:
    """Yields values, and the entries of small containers among them."""
    # Copies: another thread may change them while this one looks.
    for value in [*values]:
        yield value
        if isinstance(value, (list, tuple, set, frozenset)) and len(value) <= _SMALL:
            yield from [*value]
        elif isinstance(value, dict) and len(value) <= _SMALL:
            yield from [*value.values()]
