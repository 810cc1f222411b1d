"""Finds the archives below TensorBoard's log directories, with a bounded search and without torch."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lightning_gradcam.errors import printable
from lightning_gradcam.naming import FILES, MOST_BYTES, describe_runs, merge_hyperparameters, parse_hyperparameters
from lightning_gradcam.tensorboard_plugin.places import FolderEntry, Place

# Maximum number of entries, of folders (fewer in a store, where each costs a request), and of levels in one search.
_MAX_ENTRIES, _MAX_FOLDERS, _MAX_REMOTE_FOLDERS, _MAX_DEPTH = 200_000, 20_000, 500, 16
# Minimum seconds for which a listing is valid, and maximum fraction of time spent on searches.
_FRESH, _SHARE = 2.0, 0.05
# Maximum seconds for reading hyperparameters in one search.
_NAMING = 2.0
_SKIPPED = {"node_modules", "site-packages", "__pycache__"}


@dataclass(frozen=True)
class FoundRun:
    """An archive below a log directory.

    Attributes:
        name: TensorBoard's name for the run, with the archive's folder: ``fashion_mnist/version_0/gradcam``.
        place: The log directory.
        folder: Path of the archive below the log directory.
        id: The run's id from its manifest.
        fingerprint: Fingerprint of the probes; runs with the same fingerprint can be compared.
        created: Date and time in UTC, ISO 8601.
        steps: Number of logged steps.
        mark: A hash that changes when a step is added, removed or replaced.
        problem: The reason why it can't be shown; ``""`` if no problem is known.
        settings: The files with its hyperparameters, each with its folder; later files take precedence.
        described: Its ``name``, ``seed`` and ``family``, as returned by
            :func:`~lightning_gradcam.naming.describe_runs`.
    """

    name: str
    place: Place = field(repr=False)
    folder: str
    id: str
    fingerprint: str
    created: str
    steps: int
    mark: str
    problem: str = ""
    settings: tuple[tuple[str, FolderEntry], ...] = field(default=(), repr=False)
    described: Mapping[str, str] = field(default_factory=dict, hash=False)

    def listed(self) -> dict[str, Any]:
        """Returns the run's entry in the page's list."""
        names = ("id", "fingerprint", "created", "steps", "mark", "problem")
        named = {"name": self.name, **self.described}
        return {"run": self.name, **named, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class FoundRuns:
    """The result of a search: runs by name, and remarks for the user."""

    runs: dict[str, FoundRun] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Finder:
    """Caches a listing of the archives and renews it after a few seconds; thread-safe.

    A separate thread searches for archives, so a store or network disk that does not respond delays callers only up to
    their ``patience``.

    Args:
        places: The log directories.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self._lock = threading.Lock()
        self._listing = FoundRuns()
        self._namer = Namer()
        self._walk: threading.Thread | None = None
        self._stale_at = 0.0

    def listing(self, *, patience: float, fresh: bool = False) -> FoundRuns:
        """Returns the archives.

        Args:
            patience: Maximum seconds to wait for a search, after which the previous listing is returned.
            fresh: Whether to search even if the listing is still valid.
        """
        if not self._places:
            return self._listing
        with self._lock:
            if self._walk is None and (fresh or time.monotonic() >= self._stale_at):
                self._walk = threading.Thread(target=self._renew, name="gradcam-archives", daemon=True)
                self._walk.start()
            walk = self._walk
        if walk is not None:
            walk.join(patience)
        return self._listing

    def _renew(self) -> None:
        began = time.monotonic()
        try:
            listing = found(self._places)
            if not self._listing.runs:  # show callers that run out of patience that there are runs
                self._listing = listing
            self._listing = replace(listing, runs=self._namer.named(listing.runs))
        finally:
            ended = time.monotonic()
            with self._lock:
                self._stale_at = ended + max(_FRESH, (ended - began) / _SHARE)
                self._walk = None


class Namer:
    """Names runs after the hyperparameters that differ. Each file is read once, and again when it changes.

    Args:
        patience: Maximum seconds for reading files in one search; the other files are read in the following searches.
            Until then, their runs are named after their folders.
    """

    def __init__(self, patience: float = _NAMING) -> None:
        self._patience = patience
        # The state of each file and its values (`None` if they can't be used).
        self._known: dict[tuple[str, str, str], tuple[str | None, Mapping[str, str] | None]] = {}

    def named(self, runs: Mapping[str, FoundRun]) -> dict[str, FoundRun]:
        """Returns all runs found in a search, with their names."""
        before, self._known = self._known, {}
        until = time.monotonic() + self._patience

        def values(place: Place, folder: str, entry: FolderEntry) -> Mapping[str, str]:
            key = place.root, folder, entry.name
            known = self._known.get(key) or before.get(key)
            if known is None or known[0] != entry.state:
                if time.monotonic() > until:
                    raise TimeoutError
                known = entry.state, _values(place, folder, entry)
            self._known[key] = known
            if known[1] is None:
                raise ValueError("these are not hyperparameters")
            return known[1]

        settings = [
            merge_hyperparameters(partial(values, run.place, folder, entry) for folder, entry in run.settings)
            for run in runs.values()
        ]
        described = describe_runs(list(runs), settings)
        return {name: replace(runs[name], described=told) for name, told in zip(runs, described, strict=True)}


def found(places: Sequence[Place]) -> FoundRuns:
    """Searches the log directories once.

    Skips hidden folders, links, and the folders inside an intact archive. A problem with one folder does not affect
    others.
    """
    runs: dict[str, FoundRun] = {}
    notes: list[str] = []
    for place in places:
        try:
            for run in _runs(place, notes):
                runs.setdefault(run.name, run)
        except Exception as error:  # stores raise their own exceptions
            notes.append(f"{place.root} can't be read ({_said(error)}).")
    return FoundRuns(dict(sorted(runs.items())), tuple(notes))


def _runs(place: Place, notes: list[str]) -> Iterator[FoundRun]:
    """Yields the archives below a log directory, breadth first."""
    waiting = deque([("", 0)])
    settings: dict[str, list[FolderEntry]] = {}
    folders = seen = 0
    most = _MAX_REMOTE_FOLDERS if place.remote else _MAX_FOLDERS
    while waiting:
        folder, depth = waiting.popleft()
        if folders >= most or seen >= _MAX_ENTRIES:
            notes.append(
                f"{place.root} is too large to be searched completely: the search stopped after {folders} folders."
                " Start TensorBoard with a --logdir closer to the runs."
            )
            return
        folders += 1
        inside = {}
        try:
            for entry in place.entries(folder, states=FILES):
                seen += 1
                if entry.folder or entry.name in ("manifest.json", "probes.npz", *FILES):
                    inside[entry.name] = entry
                if seen >= _MAX_ENTRIES:
                    break
        except Exception as error:  # stores raise their own exceptions
            if not folder:
                raise
            if not isinstance(error, OSError):
                notes.append(f"{place.path(folder)} can't be read ({_said(error)}).")
            continue
        settings[folder] = [inside[name] for name in FILES if name in inside]
        manifest = inside.get("manifest.json")
        looks_so = manifest is not None and not manifest.folder and ("probes.npz" in inside or "steps" in inside)
        run = _run(place, folder, inside) if looks_so else None
        if run is not None:
            above = [folder.rpartition("/")[0]] if folder else []
            files = tuple((where, entry) for where in (*above, folder) for entry in settings.get(where, ()))
            yield replace(run, settings=files)
        if run is not None and not run.problem:
            continue
        if depth < _MAX_DEPTH:
            # Search a folder that only looks like an archive, except for its steps.
            names = sorted(e.name for e in inside.values() if e.folder and not (looks_so and e.name == "steps"))
            waiting.extend(
                (f"{folder}/{name}" if folder else name, depth + 1)
                for name in names
                if name not in _SKIPPED and not name.startswith(".")
            )


def _run(place: Place, folder: str, entries: dict[str, FolderEntry]) -> FoundRun | None:
    """Returns the run in a folder; ``None`` if the manifest is from a different tool, or the archive has no CAMs."""
    said: dict[str, Any] = {}
    problem = ""
    try:
        said = json.loads(place.read(folder, "manifest.json"))
        if not isinstance(said, dict) or not isinstance(said.get("run"), str) or "fingerprint" not in said:
            return None
        if said.get("kind", "cams") != "cams":
            return None
    except FileNotFoundError:
        return None
    except Exception as error:  # stores and damaged files may raise anything
        if "probes.npz" not in entries:
            return None
        said, problem = {}, f"its manifest.json can't be read ({_said(error)})"
    files: list[FolderEntry] = []
    try:
        files = step_files(place, folder) if "steps" in entries else []
    except Exception as error:
        problem = problem or f"its steps can't be listed ({_said(error)})"
    return FoundRun(
        name=place.run_name(folder),
        place=place,
        folder=folder,
        id=str(said.get("run", "")),
        fingerprint=str(said.get("fingerprint", "")),
        created=str(said.get("created", "")),
        steps=len(files),
        mark=mark_of([str(said.get("run", "")), *(f"{entry.name} {entry.state}" for entry in files)]),
        problem=problem,
    )


def _said(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error!s:.200}")


def _values(place: Place, folder: str, entry: FolderEntry) -> Mapping[str, str] | None:
    try:
        return parse_hyperparameters(place.read(folder, entry.name, most=MOST_BYTES + 1))
    except Exception:  # stores, YAML and odd values raise anything
        return None


def step_files(place: Place, folder: str) -> list[FolderEntry]:
    """Returns an archive's step files with their states, sorted by name."""
    entries = place.entries(f"{folder}/steps" if folder else "steps", states=True)
    files = (e for e in entries if not e.folder and e.name.startswith("step-") and e.name.endswith(".npz"))
    return sorted(files, key=lambda entry: entry.name)


def mark_of(parts: Sequence[str]) -> str:
    """Returns a short hash of some texts."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
