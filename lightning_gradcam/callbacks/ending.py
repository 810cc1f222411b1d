"""The end of a run: its last lines, and the message to the process that launched it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from lightning_gradcam.archive import Archive
from lightning_gradcam.findings import FINDINGS, brief
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.report import REPORT
from lightning_gradcam.storage import Storage, join

# The number of layers named in one line.
_NAMED = 4
_RECORDS: dict[str, str] = {}


def last_words(
    archives: Sequence[Archive], automatic: Sequence[bool], board: str, findings: Sequence[Sequence[Finding]] = ()
) -> list[str]:
    """Returns a run's last lines, at most three: layers and findings, the report, TensorBoard's command.

    Args:
        archives: The archives with at least one step, one per callback.
        automatic: Whether ``"auto"`` chose the layers, for each archive.
        board: The folder of a TensorBoard logger; empty if there is none.
        findings: The findings of each archive, the most severe first.
    """
    if not archives:
        return []
    pages = [join(archive.path, REPORT) for archive in archives]
    made = [Storage(archive.path).exists(REPORT) for archive in archives]
    places = [page if there else archive.path for page, there, archive in zip(pages, made, archives, strict=True)]
    lines = [
        "; ".join(
            # If there are several, each is named by its folder.
            (f"{PurePath(archive.path).name}: " if len(archives) > 1 else "") + _layers(archive, chosen) + _shown(shown)
            for archive, chosen, shown in zip(archives, automatic, findings or [()] * len(archives), strict=True)
        ),
        f"{'report' if all(made) else 'record'}: {' '.join(places)}",
    ]
    if board:
        lines.append(f"tensorboard --logdir {shlex.quote(board)}    (tabs GRAD-CAM and IMAGES)")
    return [f"lightning-gradcam: {line}" for line in lines]


def missing(archive: Archive, *, explained: bool, schedule: str) -> str | None:
    """Returns why a run's archive has no step, or ``None`` if it has one.

    Args:
        archive: The run's archive.
        explained: Whether any step was explained.
        schedule: The options that set the schedule.
    """
    try:
        if archive.steps:
            return None
    except OSError as error:
        return f"the archive {archive.path} can't be listed ({error})"
    if explained:
        return f"no maps are in {archive.path}; the warnings above say why"
    return f"nothing was logged: no validation was due ({schedule}); lower these values"


def never_started(lazy: Sequence[str]) -> str:
    """Returns why a run never began to record.

    Args:
        lazy: The model's lazy modules that never ran.
    """
    if not lazy:
        return "there was no validation batch to take probes from"
    return f"{', '.join(lazy)} never ran, so the model is incomplete; remove them, or call them in its forward()"


def _layers(archive: Archive, chosen: bool) -> str:
    names, count = list(archive.layers), len(archive.steps)
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"logged {shown}{' (chosen by auto)' if chosen else ''} at {count} step{'s' if count > 1 else ''}"


def _shown(findings: Sequence[Finding]) -> str:
    """Returns the two most severe findings, to append to a line."""
    if not (sentences := brief(findings)):
        return ""
    count = len(findings)
    many = f"{count} findings in {FINDINGS}, first" if count > 1 else "1 finding"
    return f"; {many}: {' '.join(sentences)}"


class Note:
    """Leads the process that unpickles it to a callback's record.

    Strategies that spawn or fork train in their own processes. They hand the trainer's state back to the launching
    process, where the callback has no record of the run.

    Args:
        callback: The callback's token.
        path: The archive's path.
    """

    def __init__(self, callback: str, path: str) -> None:
        self._callback, self._path = callback, path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        """Unpickling stores the note, and returns a new one."""
        return _noted, (self._callback, self._path)


def _noted(callback: str, path: str) -> Note:
    _RECORDS[callback] = path
    return Note(callback, path)


def forget(callback: str) -> None:
    """Forgets the record that another process made for this token, whose callback starts one here."""
    _RECORDS.pop(callback, None)


def record_of(callback: str) -> Archive | None:
    """Returns the record that another process has made for a callback with this token, or ``None``."""
    path = _RECORDS.get(callback)
    return Archive.open(path) if path else None
