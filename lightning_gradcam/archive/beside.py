"""Chooses a folder next to the requested one if that one already contains another run's record."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from lightning_gradcam.archive.manifest import Manifest
from lightning_gradcam.archive.ownership import TakenError, owned_by
from lightning_gradcam.archive.reader import Archive
from lightning_gradcam.archive.writer import ArchiveWriter
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.storage import Storage


def start_beside(
    root: str, manifest: Manifest, probes: ProbeSet, *, parent: Mapping[str, Any] | None = None, copy_steps: bool = True
) -> tuple[ArchiveWriter, str]:
    """Continues a run's own record, or creates one in its folder or, if taken, in the first free sibling.

    The siblings of ``gradcam`` are ``gradcam-1``, ``gradcam-2``, … Earlier steps are left to
    :meth:`ArchiveWriter.take_over`.

    Args:
        root: The folder.
        manifest: The new run's manifest; see :meth:`ArchiveWriter.start` for this and the other arguments.
        probes: The new run's probes.
        parent: The run that it continues, as stored in a checkpoint; ``None`` for a new run.
        copy_steps: Whether to take over the parent's earlier steps.

    Returns:
        The writer, and a note for the user on why it is not in ``root``; empty if it is, or if a run continues.

    Raises:
        ArchiveError: The folder can't be written to.
    """
    why = ""
    for place in _places(root, owned_by(manifest, parent, copy_steps)):
        try:
            writer, _ = ArchiveWriter.start(place, manifest, probes, parent=parent, copy_steps=copy_steps, later=True)
        except TakenError as error:
            why = why or error.remark
        else:
            return writer, "" if writer.continued else why
    raise AssertionError("there is always another number")


def _places(root: str, own: Collection[str]) -> Iterator[str]:
    """Yields the folders that contain a run in ``own``, then all others in the order of their numbers."""
    above, name = root.rsplit("/", 1)
    siblings = re.compile(rf"{re.escape(name)}(-[1-9][0-9]*)?")
    names: list[str] = []
    # If they can't be listed, try them one by one.
    with suppress(Exception):
        names = sorted(filter(siblings.fullmatch, Storage(above).names("")), key=lambda found: (len(found), found))
    tried = [place for place in (f"{above}/{found}" for found in names) if _run_in(place) in own]
    yield from tried
    for number in count():
        place = f"{root}-{number}" if number else root
        if place not in tried:
            yield place


def _run_in(place: str) -> str | None:
    try:
        return Archive.open(place).manifest.run
    except ArchiveError:
        return None
