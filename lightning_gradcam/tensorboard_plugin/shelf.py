"""Caches archives in the page's format step by step, so each step of a growing run is read only once."""

from __future__ import annotations

import io
import json
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from lightning_gradcam.archive import Archive, Manifest
from lightning_gradcam.archive.cam_file import parse_step_file_name, unpacked_cams
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.report.payload import MAX_BYTES, Outline, statements
from lightning_gradcam.storage import Storage
from lightning_gradcam.tensorboard_plugin.places import Place
from lightning_gradcam.tensorboard_plugin.runs import FoundRun, mark_of, step_files

# Maximum size in bytes of the cached archives.
_ROOM = 256_000_000
# After each new step, all steps must be compared with the new last one. This is done only for runs with at most _FEW
# steps, or for local runs that have written nothing for _ENDED seconds.
_FEW, _ENDED = 60, 600.0


@dataclass(frozen=True, eq=False)
class View:
    """A run's data for the page at one point in time.

    Attributes:
        mark: A hash of all its steps.
        header: The header of :class:`~lightning_gradcam.report.payload.Payload` as JSON, with three additional entries:
            ``mark``; ``marks``, a hash for each step that changes when the step is replaced; ``block``, the size in
            bytes of a step's maps.
        blocks: The maps for each step.
    """

    mark: str
    header: bytes
    blocks: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.header) + sum(map(len, self.blocks))


class Shelf:
    """A cache of views of the most recently requested runs; thread-safe.

    Args:
        room: Maximum size of the cache in bytes; the most recently requested run is always kept.
        max_bytes: Maximum size of a view's maps in bytes. If not all steps fit, only every second, fourth, eighth, …
            and the last step are shown.
    """

    def __init__(self, *, room: int = _ROOM, max_bytes: int = MAX_BYTES) -> None:
        self._room, self._max_bytes = room, max_bytes
        self._lock = threading.Lock()
        self._readers: OrderedDict[tuple[str, str], _Reader] = OrderedDict()

    def view(self, run: FoundRun, mark: str | None = None) -> View:
        """Returns a view of a run's current state, or the cached view if it has the given ``mark``.

        Raises:
            ArchiveError: The archive is damaged.
            FileNotFoundError: The archive no longer exists.
        """
        place = run.place.root, run.folder
        with self._lock:
            reader = self._readers.setdefault(place, _Reader(run, self._max_bytes))
            self._readers.move_to_end(place)
        try:
            view = reader.view(mark)
        except BaseException:
            with self._lock:
                self._readers.pop(place, None)
            raise
        with self._lock:
            sizes = {key: each.size for key, each in self._readers.items()}
            for key in list(sizes)[:-1]:
                if sum(sizes.values()) > self._room:
                    del sizes[key], self._readers[key]
        return view


class _Reader:
    """Reads one archive, each step once."""

    def __init__(self, run: FoundRun, max_bytes: int) -> None:
        self._run, self._max_bytes = run, max_bytes
        self._storage = _Unlinked(run.place, run.folder)
        self._lock = threading.Lock()
        self._outline: tuple[str, Outline] | None = None
        # Keys: the mark of the step, and that of the step with which it is compared.
        self._steps: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        self._damaged: set[str] = set()
        self._view: View | None = None

    @property
    def size(self) -> int:
        return len(self._view) if self._view is not None else 0

    def view(self, mark: str | None) -> View:
        with self._lock:
            if self._view is None or mark != self._view.mark:
                self._view = self._renewed()
            return self._view

    def _renewed(self) -> View:
        raw = self._storage.read("manifest.json")
        files = self._files()
        # The manifest and the first step determine the data shared by all steps.
        origin = mark_of([raw.decode("utf-8", "replace"), *(f"{file} {state}" for file, state in files[:1])])
        if self._outline is None or self._outline[0] != origin:
            archive = Archive(self._storage, Manifest.parse(raw, self._storage.root))
            self._outline = origin, Outline.of(archive, title=self._run.name)
            self._steps, self._damaged = {}, set()
        outline = self._outline[1]
        block = sum(len(outline.rows) * k["height"] * k["width"] * k["slices"] for k in outline.header["keys"])
        shown = [files[place] for place in _thinned(len(files), max(2, self._max_bytes // max(block, 1)))]
        marks = {mark_of([origin, file, state]): file for file, state in shown}
        self._damaged &= set(marks)
        compared, last = self._last(outline, marks, block)
        kept = {}
        for mark, file in marks.items():
            step = self._steps.get((mark, compared))
            if step is None and mark not in self._damaged:
                step = self._read(outline, file, block, last)
            if step is None:
                self._damaged.add(mark)
            else:
                kept[mark, compared] = step
        # Drop steps that are no longer shown.
        self._steps = kept
        remarks = [
            outline.header["remark"],
            f"{len(shown)} of {len(files)} logged steps" if len(shown) < len(files) else "",
            f"{len(self._damaged)} of the step files can't be read and are left out" if self._damaged else "",
        ]
        whole = mark_of([origin, compared, *(mark for mark, _ in kept)])
        own = {"block": block, "mark": whole, "marks": [mark for mark, _ in kept]}
        # As costly as comparing all steps with the last one, so done under the same condition.
        found = statements(Archive(self._storage, Manifest.parse(raw, self._storage.root))) if compared else []
        header = {**outline.header, "remark": "; ".join(filter(None, remarks)), "findings": found, **own}
        described = json.dumps(header).encode()
        steps = b",".join(text for text, _ in kept.values())
        described = described[:-1] + b', "steps": [' + steps + b"]}"
        return View(whole, described, tuple(maps for _, maps in kept.values()))

    def _last(self, outline: Outline, marks: Mapping[str, str], block: int) -> tuple[str, CamRecord | None]:
        """Returns the mark and record of the step with which to compare all; ``None`` if that would cost too much."""
        files = list(marks.items())
        if files and (len(files) <= _FEW or self._quiet(files[-1][1])):
            for mark, file in reversed(files):
                if mark not in self._damaged and self._read(outline, file, block, None) is not None:
                    return mark, unpacked_cams(self._storage.read(f"steps/{file}"))
        return "", None

    def _quiet(self, file: str) -> bool:
        place = self._run.place
        return not place.remote and time.time() - os.stat(place.path(self._run.folder, "steps", file)).st_mtime > _ENDED

    def _files(self) -> list[tuple[str, str]]:
        """Returns the names and states of the step files, in the order of the steps."""
        places = [(parse_step_file_name(e.name), e) for e in step_files(self._run.place, self._run.folder)]
        ordered = sorted((place, entry.name, str(entry.state)) for place, entry in places if place is not None)
        return [(name, state) for _, name, state in ordered]

    def _read(self, outline: Outline, file: str, block: int, last: CamRecord | None) -> tuple[bytes, bytes] | None:
        """Returns a step's JSON and block; ``None`` if the file is damaged, from a different run, or deleted."""
        try:
            described, maps = outline.step(unpacked_cams(self._storage.read(f"steps/{file}")), last)
            text = json.dumps(described, allow_nan=False).encode()
        except Exception:  # damaged files make zip, NumPy and JSON raise anything
            return None
        return (text, maps) if len(maps) == block else None


class _Unlinked(Storage):
    """An archive's files, without following links."""

    def __init__(self, place: Place, folder: str) -> None:
        super().__init__(place.path(folder))
        self._place, self._folder = place, folder

    def read(self, name: str) -> bytes:
        return self._place.read(self._folder, name)

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def names(self, folder: str) -> list[str]:
        inside = self._place.entries("/".join(filter(None, (self._folder, folder))))
        return sorted(entry.name for entry in inside if not entry.folder)


def _thinned(count: int, most: int) -> Sequence[int]:
    """Returns at most ``most`` indices: all, or every second, fourth, eighth, … and the last.

    As a run grows, this selection changes less often than evenly spaced indices would.

    Example:
        >>> _thinned(8, 5), _thinned(9, 5), _thinned(10, 5), _thinned(4, 5)
        ([0, 2, 4, 6, 7], [0, 2, 4, 6, 8], [0, 4, 8, 9], [0, 1, 2, 3])
    """
    stride = 1
    while count > 0 and math.ceil((count - 1) / stride) + 1 > most:
        stride *= 2
    places = list(range(0, count, stride))
    return places if not count or places[-1] == count - 1 else [*places, count - 1]
