"""Determines an archive's owner, and which of a resumed run's steps are missing from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning_gradcam.archive.cam_file import parse_step_file_name
from lightning_gradcam.archive.manifest import PROBES, STEPS, Manifest
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.storage import Hold, Storage


class TakenError(ArchiveError):
    """A folder contains a record to which this run may not write.

    Args:
        path: The folder.
        why: The reason, as the end of a sentence that starts with the folder.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"archive: {path!r} {why}, so nothing is written to it; choose another log directory or version, give the "
            "callback another name=, resume that run with ckpt_path, or delete the folder"
        )
        self.remark = f"{path!r} {why}"


def owned_by(manifest: Manifest, parent: Mapping[str, Any] | None, copy_steps: bool) -> set[str]:
    """Returns the ids of the runs whose archives a run may continue.

    A checkpoint that is only evaluated (``validate``, ``test``) does not add its run's archive.

    Args:
        manifest: The run's manifest.
        parent: The run that it continues; see :meth:`ArchiveWriter.start`.
        copy_steps: Whether to take over the parent's earlier steps.
    """
    return {manifest.run, str(parent["run"])} if parent is not None and copy_steps else {manifest.run}


def abandoned(storage: Storage) -> Hold | None:
    """Locks a record that has no steps and is not being written; ``None`` if it has steps or may be in use."""
    if all(parse_step_file_name(name) is None for name in storage.names(STEPS)):
        with suppress(BlockingIOError):
            return storage.hold(PROBES)
    return None


def missing_steps(steps: Sequence[int], last: int, logged: int | None) -> str | None:
    """Returns a remark on the steps up to a checkpoint that are missing from an archive; ``None`` if none is.

    Args:
        steps: The steps in the archive.
        last: The last step queued for writing; -1 if there was none.
        logged: The number of queued steps; ``None`` if unknown.
    """
    count = max(logged or 0, len(steps))
    if last < 0 or (last in steps and len(steps) == count):
        return None
    if last not in steps and len(steps) >= count - 1:
        return f"step {last} is missing: it was not written before the process ended"
    named = "" if last in steps else f", step {last} is missing"
    return f"{len(steps)} of {count} logged steps were written before the process ended{named}"
