"""What happens where our own work fails while training runs."""

from __future__ import annotations

import errno
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from lightning_gradcam.errors import LightningGradCAMError, LostRankError

IN_A_ROW = 3

OnError = Literal["warn", "raise"]

# What a failure of each kind costs; sinks are named after their classes.
_MEANS = {
    "explaining": "no maps and no pictures of this step",
    "taking probes": "these samples are no probes; the next batch is tried",
    "reading the trainer's metrics": "this step's record has none; its maps are in the archive all the same",
    "reading an earlier step": "it does not count in the scale of the coming pictures",
    "measuring": "no numbers of this step; its maps are in the archive all the same",
    "the end of the run": "no film strips, last numbers and report of the whole run; its maps are in the archive",
    "the check of the maps": "there is no verdict on the maps; they are in the archive all the same",
    "the checkpoint of the alarm": "this one checkpoint is missing",
    "the evolution": "no film strips of the run so far; its maps are in the archive all the same",
    "the findings": "no findings.md, and none in the last lines of the run; Archive.findings has them",
    "the last numbers": "no drift from the last step in the loggers; Archive.numbers has it",
    "the report": "make it anew with: lightning-gradcam report ARCHIVE -o report.html",
    "the archive": "this step's maps are not kept; those of other steps are as they were",
    "drawing": "no pictures of this step; its maps are in the archive all the same",
    "the background worker": "what waits behind that job is kept in memory, within a bound, and done if it comes back;"
    " nobody waits for it again",
    "closing": "what was not written out by then may be missing there",
    "the sink": "this step is missing there; other loggers and the archive are not concerned",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Failures:
    """Keeps failures in lightning-gradcam from stopping a training; each kind is given up after three in a row.

    The first failure of a kind is reported with what it means, what to do and its traceback, the next ones in short.

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
        """Whether that failed too often in a row to be tried again."""
        # Each stall of the worker, and each step that is left out for it, is one of its own.
        return self._in_a_row[kind] >= IN_A_ROW and not kind.startswith("the background worker")

    @contextmanager
    def contained(self, kind: str, *, step: int) -> Iterator[None]:
        """Runs the body; a failure in it is reported and does not come out, unless it should."""
        try:
            yield
        except Exception as error:
            self.failed(kind, step, error)
        else:
            self.succeeded(kind)

    def say(self, remark: str) -> None:
        """Warns of something that is not a failure."""
        self._warn(f"lightning-gradcam: {remark}")

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
            Exception: The failure itself, with ``on_error="raise"``, and where ranks have lost each other: going on
                would leave the others waiting for ever.
        """
        if (self._on_error == "raise" and not final) or isinstance(error, LostRankError):
            raise error
        self._in_a_row[kind] += 1
        what = f"lightning-gradcam: {kind} failed at step {step}"
        if self.given_up(kind):
            then = f"the {IN_A_ROW}rd time in a row, and is given up; training goes on"
        elif final:
            then = "at the end of the run"
        else:
            then = "and is tried again next time; training goes on (on_error='raise' stops it instead)"
        details = f"{type(error).__name__}: {error}"
        if kind not in self._explained:
            self._explained.add(kind)
            means = next((f"What it means: {means}.\n" for name, means in _MEANS.items() if kind.startswith(name)), "")
            details = f"{means}{_advice(error)}\n{''.join(traceback.format_exception(error))}"
        self._warn(f"{what} {then}\n{details}")


def _advice(error: Exception) -> str:
    if isinstance(error, LightningGradCAMError):
        return "What to do: see the last line."
    if isinstance(error, OSError) and error.errno in _FULL:
        return "What to do: make room on that disk, or raise its quota."
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return "What to do: let this process write there, or log to another folder."
    if isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)):
        return "What to do: look whether a folder was moved, deleted or replaced by a file, and put it back."
    return (
        "What to do: the traceback's last lines name the place; where that is neither your own code nor your logger's,"
        " please report it with this text."
    )
