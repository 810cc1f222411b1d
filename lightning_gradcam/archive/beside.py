"""Where a run's record goes if its folder already holds another run's: into a folder next to it."""

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
    """Continues a run's own record, or creates one: in its folder, else in the first free sibling of that folder.

    The siblings of ``gradcam`` are ``gradcam-1``, ``gradcam-2``, … next to it. The earlier steps are left to
    :meth:`ArchiveWriter.take_over`.

    Args:
        root: The folder.
        manifest: Of the run that begins; see :meth:`ArchiveWriter.start`, as for the others.
        probes: Its probes.
        parent: The run that it continues from, as a checkpoint has it; ``None`` for a new one.
        copy_steps: Take over the parent's earlier steps.

    Returns:
        The writer, and why it is not in ``root``, for the user; empty if it is, and where a run goes on.

    Raises:
        ArchiveError: The folder can't be written.
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
    """Yields the folders that hold a run of ``own``, and then all of them in the order of their numbers."""
    above, name = root.rsplit("/", 1)
    siblings = re.compile(rf"{re.escape(name)}(-[1-9][0-9]*)?")
    names: list[str] = []
    # If they can't be listed, they are tried one after the other.
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
