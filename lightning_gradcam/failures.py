"""What happens where our own work fails while training runs."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

_IN_A_ROW = 3

OnError = Literal["warn", "raise"]


class Failures:
    """Keeps failures of ours from stopping anyone's training; each kind is given up after three in a row.

    The first failure of a kind is reported with its traceback, the next ones in one line.

    Args:
        on_error: ``"warn"`` reports a failure; ``"raise"`` lets it through.
        warn: Takes the report.

    Example:
        >>> failures = Failures("warn", print)
        >>> with failures.contained("explaining", step=3):
        ...     pass
        >>> failures.given_up("explaining")
        False
    """

    def __init__(self, on_error: OnError, warn: Callable[[str], object]) -> None:
        self._on_error = on_error
        self._warn = warn
        self._in_a_row: Counter[str] = Counter()
        self._explained: set[str] = set()

    def given_up(self, kind: str) -> bool:
        """Whether so many failed in a row that there is no point in trying again."""
        return self._in_a_row[kind] >= _IN_A_ROW

    @contextmanager
    def contained(self, kind: str, *, step: int) -> Iterator[None]:
        """Runs the body; a failure in it is reported and does not come out, unless it should."""
        try:
            yield
        except Exception as error:
            self.failed(kind, step, error)
        else:
            self.succeeded(kind)

    def succeeded(self, kind: str) -> None:
        """Begins the count anew."""
        self._in_a_row[kind] = 0

    def failed(self, kind: str, step: int, error: Exception, *, final: bool = False) -> None:
        """Counts and reports a failure.

        Args:
            kind: What failed, as a noun: ``"explaining"``, ``"the archive"``.
            step: The logged step it belongs to.
            error: The failure.
            final: Nothing can be stopped or tried again any more: it is reported, whatever ``on_error`` says.

        Raises:
            Exception: The failure itself, with ``on_error="raise"``.
        """
        if self._on_error == "raise" and not final:
            raise error
        self._in_a_row[kind] += 1
        what = f"lightning-gradcam: {kind} failed at step {step}"
        if self.given_up(kind):
            then = f"the {_IN_A_ROW}rd time in a row, and is given up; training goes on"
        elif final:
            then = "at the end of the run"
        else:
            then = "and is tried again next time; training goes on (on_error='raise' stops it instead)"
        details = f"{type(error).__name__}: {error}"
        if kind not in self._explained:
            self._explained.add(kind)
            details = "".join(traceback.format_exception(error))
        self._warn(f"{what} {then}\n{details}")
