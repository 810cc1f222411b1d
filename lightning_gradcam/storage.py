"""Reads and atomically writes files below one folder, locally or through fsspec (``s3://…``, ``memory://``)."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Seconds to wait for another process's lock.
_LOCK_PATIENCE = 60.0
# The smallest request to an object store in bytes, so that a step file takes a few requests instead of dozens.
_BLOCK = 2**18
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+=-]")


class Stamp(NamedTuple):
    """A file's state: whether it opens immediately (it is not a FIFO or device), and a value that changes with it."""

    prompt: bool
    state: object


class Hold:
    """A lock on one file; it ends when it is released, and with the process."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle
        self._process = os.getpid()

    def release(self) -> None:
        """Releases the file for others."""
        handle, self._handle = self._handle, None
        if handle is not None and self._process == os.getpid():
            with suppress(OSError):
                # Closing alone would leave the lock to forked children, such as a data loader's workers.
                fcntl.flock(handle, fcntl.LOCK_UN)
            with suppress(OSError):
                os.close(handle)

    def __del__(self) -> None:
        """Releases it if it is still held."""
        self.release()


class Storage:
    """The files below one folder. Nothing is touched before the first read or write.

    Args:
        root: A path, or a URL that fsspec supports.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._files, path = fsspec.core.url_to_fs(self.root)
        self._path = str(path).rstrip("/")
        self._local = isinstance(self._files, LocalFileSystem)

    def exists(self, name: str) -> bool:
        """Whether the file exists."""
        return bool(self._files.exists(f"{self._path}/{name}"))

    def read(self, name: str) -> bytes:
        """Returns the file's content.

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: It can't be read, or is not a regular file.
        """
        if self._local:
            with self.open(name) as file:
                return file.read()
        return bytes(self._files.cat_file(f"{self._path}/{name}"))

    def open(self, name: str) -> BinaryIO:
        """Opens the file for reading; only the parts that are requested are read, from URLs in blocks of 256 KiB.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It can't be read, or is not a regular file.
        """
        path = f"{self._path}/{name}"
        if not self._local:
            remote: BinaryIO = self._files.open(path, "rb", block_size=_BLOCK)
            return remote
        # A FIFO or a device could block a reader forever, even on opening.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            mode = os.fstat(handle).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(mode):
                kind = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
                raise OSError(errno.EINVAL, f"it is a {kind}, not a regular file", path)
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise

    def write(self, name: str, data: bytes) -> None:
        """Writes the whole file or nothing: concurrent readers see either the old or the new content."""
        if not self._local:
            # Object stores show an object only once it is complete.
            self._files.pipe_file(f"{self._path}/{name}", data)
            return
        target = Path(self._path, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, target)
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            # The system names no file if the disk is full.
            raise OSError(error.errno, error.strerror, str(target)) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> None:
        """Writes a file that must not exist yet: if two processes do so at once, one of them fails.

        On a local disk, call it only inside :meth:`locked`, which excludes other processes.

        Raises:
            FileExistsError: It already exists.
        """
        path = f"{self._path}/{name}"
        if not self._local:
            if self.exists(name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            if "mode" in signature(self._files.pipe_file).parameters:
                # Not all stores support this; for the others, only the check above applies.
                with suppress(NotImplementedError, ValueError):
                    self._files.pipe_file(path, data, mode="create")
                    return
        self.write(name, data)

    def hold(self, name: str) -> Hold | None:
        """Locks a file for as long as this process needs it.

        Returns:
            The lock; ``None`` if the file does not exist or the system has no locks.

        Raises:
            BlockingIOError: Another lock on it exists, in this process or another one.
        """
        if not self._local or fcntl is None:
            return None
        try:
            handle = os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        if taken := _lock(handle):
            return Hold(handle)
        os.close(handle)
        if taken is False:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds a lock on it", f"{self._path}/{name}")
        return None

    def link(self, name: str, source: Storage, theirs: str) -> bool:
        """Links another folder's file into this one without copying it, if both are on one local disk.

        Both names then share their content: only for files that never change in place, such as those of :meth:`write`.

        Args:
            name: The file's name here.
            source: The other folder.
            theirs: The file's name there.

        Returns:
            Whether the link was created. If not, a hard link is not possible or the name is taken here, so copy the
            file.
        """
        if not (self._local and source._local):
            return False
        try:
            # A link to a symbolic link might lead elsewhere from here.
            path = os.path.realpath(f"{source._path}/{theirs}")
            if not stat.S_ISREG(os.stat(path).st_mode):
                return False
            target = Path(self._path, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
        except OSError:
            return False
        return True

    def stamp(self, name: str) -> Stamp | None:
        """Returns the file's state without reading or opening it, or ``None`` if there is no such file.

        Two stamps are equal if the file was not replaced or changed in between.
        """
        path = f"{self._path}/{name}"
        try:
            if not self._local:
                self._files.invalidate_cache()
                return Stamp(True, self._files.ukey(path))
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        mode = stat.S_IFMT(found.st_mode)
        return Stamp(mode in (stat.S_IFREG, stat.S_IFDIR), (found.st_ino, found.st_mtime_ns, found.st_size, mode))

    def remove(self, name: str) -> None:
        """Deletes one file."""
        self._files.rm_file(f"{self._path}/{name}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the folder, and locks it while the body runs.

        The lock works only on a local disk, not on object stores or on file systems and machines without locks. It ends
        with the process, so a killed process leaves neither a lock nor a file behind.

        Raises:
            TimeoutError: Another process has held the lock for a minute.
        """
        if not self._local or fcntl is None:
            yield
            return
        os.makedirs(self._path, exist_ok=True)
        handle = os.open(self._path, os.O_RDONLY)
        try:
            until = time.monotonic() + _LOCK_PATIENCE
            while _lock(handle) is False:
                if time.monotonic() > until:
                    why = "another process still holds the lock on this folder"
                    raise TimeoutError(errno.ETIMEDOUT, why, self._path)
                time.sleep(0.02)
            yield
        finally:
            os.close(handle)

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names of a sub-folder's entries; empty if it does not exist."""
        try:
            if self._local:
                return sorted(os.listdir(f"{self._path}/{folder}"))
            self._files.invalidate_cache()
            found = self._files.ls(f"{self._path}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)


def _lock(handle: int) -> bool | None:
    """Tries to lock an open file or folder; ``False``: the lock is held, ``None``: there are no locks here."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def join(root: str, *parts: str) -> str:
    """Appends parts to a path or URL."""
    return (root if root.endswith("://") else root.rstrip("/") + "/") + "/".join(parts)


def absolute(path: str) -> str:
    """Returns a path that is valid from any working directory; URLs are returned unchanged."""
    return path if "://" in path else os.path.abspath(path)


def safe_name(text: str, unfit: re.Pattern[str] = _UNSAFE, longest: int = 120) -> str:
    """Returns ``text`` as a safe component of a path.

    Unsafe characters become ``_``; a changed name gets digits of its hash, so that different names stay different.

    Args:
        text: Any text.
        unfit: The characters to replace; default: all but ASCII letters, digits and ``_.+=-``.
        longest: The largest number of characters of the text to keep.
    """
    cleaned = unfit.sub("_", text)[:longest]
    # An empty name, "." and ".." would lead elsewhere.
    return text if cleaned == text and text.strip(".") else f"{cleaned.strip('.') or '_'}-{digest(text)}"


def digest(text: str) -> str:
    """Returns eight digits that differ between texts."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
