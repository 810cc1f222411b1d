"""Finds archives below a folder."""

from __future__ import annotations

import os

from lightning_gradcam.archive.manifest import MANIFEST, STEPS
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.storage import Storage

_DEEPEST = 6


def find_archives(path: str | os.PathLike[str]) -> list[str]:
    """Returns the folders of the archives at or below a folder, sorted.

    Args:
        path: An archive's folder (local, or a URL that fsspec supports), or a local folder that contains archives, such
            as a run's or a logger's.

    Raises:
        ArchiveError: No archive is found.

    Example::

        find_archives("lightning_logs")    # ["lightning_logs/version_0/gradcam", …]
    """
    root = os.fspath(path)
    if _has_manifest(root):
        return [root]
    found = []
    for folder, folders, files in os.walk(root) if "://" not in root else ():
        archive = STEPS in folders and MANIFEST in files and _has_manifest(folder)
        if archive:
            found.append(folder)
        # An archive contains no other archives.
        deep = archive or folder[len(root) :].count(os.sep) >= _DEEPEST
        folders[:] = [] if deep else [name for name in folders if not name.startswith(".")]
    if not found:
        raise ArchiveError(
            f"run: no archive at or below {root!r}; pass a run's folder <log dir>/<name> (it contains {MANIFEST}), or "
            "one above it"
        )
    return sorted(found)


def _has_manifest(folder: str) -> bool:
    """Whether the folder has a manifest that is a regular file; reading a pipe would block forever."""
    return Storage(folder).exists(MANIFEST) if "://" in folder else os.path.isfile(os.path.join(folder, MANIFEST))
