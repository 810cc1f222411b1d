"""Lists and reads TensorBoard's log directories, on the local disk or in a store that fsspec supports."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_URL = re.compile("[a-zA-Z][0-9a-zA-Z.+-]*://.*")


@dataclass(frozen=True)
class FolderEntry:
    """A file or folder.

    Attributes:
        name: The last part of its path.
        folder: Whether it is a folder; symbolic links, pipes, sockets and devices are not listed.
        state: A value that changes with the content, such as time and size; ``None`` if it was not requested.
    """

    name: str
    folder: bool
    state: str | None = None


class Place:
    """A log directory. Links are not followed, so nothing outside it is listed or read.

    Args:
        prefix: Prefix for the names of its runs; ``""`` with ``--logdir``.
        root: Path or URL of the directory.
    """

    def __init__(self, prefix: str, root: str) -> None:
        self.prefix = prefix
        self.remote = _URL.match(root) is not None
        self.root = root.rstrip("/") if self.remote else os.path.realpath(os.path.expanduser(root))

    def run_name(self, folder: str) -> str:
        """Returns TensorBoard's name for a folder below the root; ``"."`` is the root itself."""
        return "/".join(filter(None, (self.prefix, folder))) or "."

    def path(self, *parts: str) -> str:
        """Returns the path or URL of a file or folder below the root."""
        return "/".join((self.root, *filter(None, parts)))

    def entries(self, folder: str, *, states: bool | Container[str] = False) -> Iterator[FolderEntry]:
        """Lists a folder; yields nothing if it does not exist.

        Args:
            folder: Path below the root, ``""`` for the root.
            states: Whether to read the state of each entry, or the names of the entries whose state to read.

        Raises:
            OSError: The folder can't be listed.
        """
        return self._of_store(folder) if self.remote else self._of_disk(folder, states)

    def read(self, *parts: str, most: int | None = None) -> bytes:
        """Returns a file's content.

        Args:
            parts: Parts of the path below the root.
            most: Number of bytes to read. Default: all.

        Raises:
            FileNotFoundError: There is no such file, or its path contains a symbolic link.
            OSError: It can't be read, or is not a regular file.
        """
        path = self.path(*parts)
        if self.remote:
            files, inner = self._store(path)
            data: bytes = files.cat_file(inner, end=most)
            return data
        if os.path.realpath(path) != os.path.normpath(path):
            raise FileNotFoundError(path)
        # Opening a pipe does not wait for its writer, and the type of the file is checked afterwards.
        with os.fdopen(os.open(path, _READ), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            return file.read(-1 if most is None else most)

    def holds(self, folder: str) -> bool:
        """Whether the path to a folder contains no symbolic link, which could lead outside the root."""
        return self.remote or os.path.realpath(self.path(folder)) == os.path.normpath(self.path(folder))

    def _of_disk(self, folder: str, states: bool | Container[str]) -> Iterator[FolderEntry]:
        if not self.holds(folder):
            return
        try:
            with os.scandir(self.path(folder)) as found:
                for entry in found:
                    try:
                        if entry.is_symlink():
                            continue
                        folder_too = entry.is_dir(follow_symlinks=False)
                        # Opening a pipe, socket or device may block forever.
                        if not folder_too and not entry.is_file(follow_symlinks=False):
                            continue
                        stated = states if isinstance(states, bool) else entry.name in states
                        yield FolderEntry(entry.name, folder_too, _state_of(entry) if stated else None)
                    except OSError:  # deleted in the meantime, or unreadable
                        continue
        except (FileNotFoundError, NotADirectoryError):
            return

    def _of_store(self, folder: str) -> Iterator[FolderEntry]:
        files, inner = self._store(self.path(folder))
        files.invalidate_cache()
        try:
            found = files.ls(inner, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        for info in found:
            name = str(info["name"]).rstrip("/").rsplit("/", 1)[-1]
            times = [str(info[key]) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if key in info]
            yield FolderEntry(name, info["type"] == "directory", "-".join([*times[:1], str(info.get("size"))]))

    @staticmethod
    def _store(path: str) -> tuple[Any, str]:
        import fsspec

        files, inner = fsspec.core.url_to_fs(path)
        return files, str(inner)


def _state_of(entry: os.DirEntry[str]) -> str:
    found = entry.stat(follow_symlinks=False)
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


def places_of(logdir: str | None, logdir_spec: str | None) -> tuple[Place, ...]:
    """Returns the log directories with which TensorBoard was started.

    Args:
        logdir: Value of ``--logdir``.
        logdir_spec: Value of ``--logdir_spec``, parsed as in TensorBoard: ``name:path,name:path``. Used only without
            ``logdir``.

    Example:
        >>> [(place.prefix, place.root) for place in places_of(None, "a:/x,/y:z,s3://bucket/runs")]
        [('a', '/x'), ('', '/y:z'), ('', 's3://bucket/runs')]
    """
    if logdir:
        return (Place("", logdir),)
    found = []
    for spec in filter(None, (logdir_spec or "").split(",")):
        name, colon, path = spec.partition(":")
        named = colon and not _URL.match(spec) and spec[0] != "/" and not os.path.splitdrive(spec)[0]
        found.append(Place(name, path) if named else Place("", spec))
    return tuple(found)
