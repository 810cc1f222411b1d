"""What commands share: their exit codes, and a bar on standard error for work that takes long."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

# What scripts can rely on; stands below every command's help.
EXIT_CODES = "exit codes: 0 done; 1 failed, with one line on standard error; 2 wrong usage; 130 interrupted"

T = TypeVar("T")


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Adds ``--progress`` and ``--no-progress``: ``True``, ``False``, or ``None`` (default: on a terminal)."""
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a progress bar on standard error (default: on a terminal)",
    )


def progress(items: Iterable[T], what: str, *, show: bool | None = None, total: int | None = None) -> Iterator[T]:
    """Yields the items, and shows how many of them are done.

    Args:
        items: What is worked on.
        what: Stands before the bar, such as ``"pictures"``.
        show: ``None`` (default): only where standard error is a terminal.
        total: How many there are, where ``items`` has no length.

    Example:
        >>> list(progress([1, 2], "numbers", show=False))
        [1, 2]
    """
    # Lightning brings tqdm along.
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, what, total, disable=_hidden(show), file=sys.stderr, dynamic_ncols=True)
    yield from bar


@contextmanager
def counting(what: str, total: int, *, show: bool | None = None) -> Iterator[Any]:
    """A bar that the body moves by itself.

    Args:
        what: Stands before the bar.
        total: How many steps there are.
        show: As in :func:`progress`.

    Yields:
        The bar: ``update()`` counts one step, ``set_description(text)`` says what is being done.
    """
    from tqdm import tqdm

    with tqdm(desc=what, total=total, disable=_hidden(show), file=sys.stderr, dynamic_ncols=True) as bar:
        yield bar


@contextmanager
def moving(what: str, *, show: bool | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that reports how far it is.

    Args:
        what: Stands before the bar.
        show: As in :func:`progress`.

    Yields:
        Takes how many steps are done, and how many there are.
    """
    with counting(what, 0, show=show) as bar:

        def moved(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield moved


def seed_all(value: Any) -> None:
    """Seeds as ``fit`` does, so that a data module which splits at random splits as it did then.

    Args:
        value: The config's ``seed_everything``; anything but a whole number does nothing.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        import numpy as np
        import torch

        random.seed(value)
        np.random.seed(value)
        torch.manual_seed(value)


def _hidden(show: bool | None) -> bool | None:
    # tqdm takes `None` for "where the file is no terminal".
    return None if show is None else not show
