"""What happens where our own work fails while training runs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

_IN_A_ROW = 3

OnError = Literal["warn", "raise"]


class Failures:
    """Keeps failures of ours from stopping anyone's training, and gives up after three in a row.

    Args:
        on_error: ``"warn"`` reports a failure with its traceback; ``"raise"`` lets it through.
        warn: Takes the report.

    Example:
        >>> failures = Failures("warn", print)
        >>> for step in range(3):
        ...     with failures.contained("drawing"):
        ...         pass
        >>> failures.given_up
        False
    """

    def __init__(self, on_error: OnError, warn: Callable[[str], object]) -> None:
        self._on_error = on_error
        self._warn = warn
        self._in_a_row = 0

    @property
    def given_up(self) -> bool:
        """Whether so many failed in a row that there is no point in trying again."""
        return self._in_a_row >= _IN_A_ROW

    @contextmanager
    def contained(self, what: str) -> Iterator[None]:
        """Runs the body; a failure in it is reported as ``what`` and does not come out, unless it should."""
        try:
            yield
        except Exception:
            if self._on_error == "raise":
                raise
            self._in_a_row += 1
            then = "is given up" if self.given_up else "is tried again next time"
            self._warn(
                f"lightning-gradcam: {what} failed and {then}; training goes on (on_error='raise' stops it instead)\n"
                f"{traceback.format_exc()}"
            )
        else:
            self._in_a_row = 0
