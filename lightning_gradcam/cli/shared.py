"""Helpers for commands: messages and progress bars on standard error, and setting up data."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


def progress(items: Iterable[T], what: str, *, show: bool | None = None) -> Iterator[T]:
    """Yields the items and shows a progress bar.

    Args:
        items: The items to process.
        what: The text before the bar, such as ``"images"``.
        show: Whether to show the bar; ``None`` (default) shows it if standard error is a terminal.

    Example:
        >>> list(progress([1, 2], "numbers", show=False))
        [1, 2]
    """
    # tqdm is a dependency of Lightning.
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, what, disable=_hidden(show), file=sys.stderr, dynamic_ncols=True)
    yield from bar


@contextmanager
def moving(what: str, *, show: bool | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar for work that reports its progress.

    Args:
        what: The text before the bar.
        show: As in :func:`progress`.

    Yields:
        A function to call with the number of steps done and their total.
    """
    from tqdm import tqdm

    with tqdm(desc=what, total=0, disable=_hidden(show), file=sys.stderr, dynamic_ncols=True) as bar:

        def moved(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield moved


def say(text: str) -> None:
    """Prints a message to standard error."""
    print(f"lightning-gradcam: {text}", file=sys.stderr)


def counted(number: int, name: str) -> str:
    """Returns a number with its unit.

    Example:
        >>> counted(1, "step"), counted(2, "step")
        ('1 step', '2 steps')
    """
    return f"{number} {name}{'' if number == 1 else 's'}"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences Lightning's messages about the training that a command sets up internally."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_loader(loaders: Any) -> Any:
    """Returns the first dataloader from a data module's ``val_dataloader()``, or ``None``."""
    while isinstance(loaders, (list, tuple, Mapping)):
        loaders = next(iter(loaders.values() if isinstance(loaders, Mapping) else loaders), None)
    return loaders


def seed_all(value: Any) -> None:
    """Sets seeds as ``fit`` does, so a data module with a random split produces the same split.

    Args:
        value: The config's ``seed_everything``; anything but an integer is ignored.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        import numpy as np
        import torch

        random.seed(value)
        np.random.seed(value)
        torch.manual_seed(value)


def _hidden(show: bool | None) -> bool | None:
    # For tqdm, `None` means "disable unless the file is a terminal".
    return None if show is None else not show
