"""Handles failures in lightning-gradcam during training."""

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

# The consequence of each kind of failure; sinks are named after their classes.
_MEANS = {
    "explaining": "no maps and no sheets for this step",
    "taking probes": "these samples can't be used as probes; the next batch is tried",
    "reading the trainer's metrics": "this step's record has no metrics; its maps are still in the archive",
    "reading an earlier step": "that step is not included in the scale of later sheets",
    "measuring": "no numbers for this step; its maps are still in the archive",
    "the end of the run": "no film strips, final numbers or report for the whole run; its maps are in the archive",
    "the check of the maps": "there is no verdict on the maps; they are still in the archive",
    "the checkpoint of the alarm": "only this checkpoint is missing",
    "the evolution": "no film strips of the run so far; its maps are still in the archive",
    "the findings": "no findings.md, and no findings in the run's last lines; Archive.findings has them",
    "the last numbers": "no drift from the last step in the loggers; Archive.numbers has it",
    "the report": "create it with: lightning-gradcam report ARCHIVE -o report.html",
    "the archive": "this step's maps are lost; those of other steps are kept",
    "drawing": "no sheets for this step; its maps are still in the archive",
    "the background worker": "later jobs are kept in memory, up to a limit, and run if that job ends; nothing waits "
    "for it again",
    "closing": "data that was not flushed before may be missing from that logger",
    "the sink": "this step is missing from that logger; other loggers and the archive are not affected",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Failures:
    """Prevents failures in lightning-gradcam from stopping training; each kind is disabled after three in a row.

    The first failure of a kind is reported with its meaning, advice and traceback, later ones briefly.

    Args:
        on_error: ``"warn"`` reports a failure; ``"raise"`` raises it.
        warn: Receives the report.

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
        """Whether this kind failed too often in a row to be tried again."""
        # Every stall of the worker, and every step that is left out because of one, is reported.
        return self._in_a_row[kind] >= IN_A_ROW and not kind.startswith("the background worker")

    @contextmanager
    def contained(self, kind: str, *, step: int) -> Iterator[None]:
        """Runs the body; a failure is reported or raised, as by :meth:`failed`."""
        try:
            yield
        except Exception as error:
            self.failed(kind, step, error)
        else:
            self.succeeded(kind)

    def say(self, remark: str) -> None:
        """Warns about something that is not a failure."""
        self._warn(f"lightning-gradcam: {remark}")

    def succeeded(self, kind: str) -> None:
        """Resets the count."""
        self._in_a_row[kind] = 0

    def failed(self, kind: str, step: int, error: Exception, *, final: bool = False) -> None:
        """Counts and reports a failure.

        Args:
            kind: What failed, as a noun: ``"explaining"``, ``"the archive"``.
            step: The logged step to which it belongs.
            error: The failure.
            final: Whether it is too late to stop or retry anything: the failure is then only reported, whatever
                ``on_error`` is.

        Raises:
            Exception: The failure itself, with ``on_error="raise"``, or if ranks are out of step, because continuing
                would leave the others waiting forever.
        """
        if (self._on_error == "raise" and not final) or isinstance(error, LostRankError):
            raise error
        self._in_a_row[kind] += 1
        what = f"lightning-gradcam: {kind} failed at step {step}"
        if self.given_up(kind):
            then = f"for the {IN_A_ROW}rd time in a row, and is disabled; training continues"
        elif final:
            then = "at the end of the run"
        else:
            then = "and is tried again next time; training continues (on_error='raise' stops it instead)"
        details = f"{type(error).__name__}: {_text_of(error)}"
        if kind not in self._explained:
            self._explained.add(kind)
            means = next((f"What it means: {means}.\n" for name, means in _MEANS.items() if kind.startswith(name)), "")
            details = f"{means}{_advice(error)}\n{''.join(traceback.format_exception(error))}"
        self._warn(f"{what} {then}\n{details}")


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # a user's class may build its text from what is not there
        return "(its text can't be read)"


def _advice(error: Exception) -> str:
    if isinstance(error, LightningGradCAMError):
        return "What to do: follow the advice in the last line."
    if isinstance(error, OSError) and error.errno in _FULL:
        return "What to do: make room on that disk, or raise its quota."
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return "What to do: make that folder writable for this process, or log to another folder."
    if isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)):
        return "What to do: check whether a folder was moved, deleted or replaced by a file, and restore it."
    return (
        "What to do: look at the end of the traceback; if that is neither your own code nor your logger's, please "
        "report it with this text."
    )
