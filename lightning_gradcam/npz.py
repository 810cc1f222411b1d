"""Reads untrusted `.npz` files: nothing is unpacked or allocated before it is known to be small enough."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

# The largest expanded size of a file: this many bytes, plus this many times its own size.
_ROOM, _TIMES = 256 * 2**20, 100
_META_ROOM = 4 * 2**20
# Deflate can't do better: a member that claims more is not valid.
_DEFLATE = 1032
_LONGEST_HEADER = 1000


class Npz(Mapping[str, npt.NDArray[Any]]):
    """The arrays of a ``.npz`` file; each is read when it is requested, and not kept.

    Attributes:
        meta: The JSON object in the file's array ``meta``, which is not among the arrays.
        size: The file's size in bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, io.SEEK_END)
        self._zip = zipfile.ZipFile(file)
        members = self._zip.infolist()
        if sum(member.file_size for member in members) > room(self.size):
            raise ValueError(f"expands to far more than its {self.size} bytes")
        if sum(member.compress_size for member in members) > self.size:
            raise ValueError("its members overlap")
        for member in members:
            name = _name(member)
            # Parsed text takes a multiple of its bytes.
            most = min(_DEFLATE * member.compress_size, room(self.size, _META_ROOM if name == "meta" else None))
            if member.file_size > most:
                raise ValueError(f"{name[:40]!r} claims {member.file_size} bytes, more than it can hold")
        self._members = {_name(member): member for member in members}
        stated = json.loads(self.take("meta", "uint8", None).tobytes())
        if not isinstance(stated, dict):
            raise TypeError(f"'meta' is a {type(stated).__name__}, expected an object")
        self.meta: dict[str, Any] = stated
        del self._members["meta"]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        member = self._members[name]
        with self._zip.open(member) as stream:
            return _array(stream, member.file_size)

    def take(self, name: str, dtype: str, *shape: int | None) -> npt.NDArray[Any]:
        """Returns an array that must have this type and shape.

        Args:
            name: The array's name.
            dtype: Its type; ``"unsigned"``: unsigned integers of any size.
            shape: Its shape; ``None`` allows any size of an axis.

        Raises:
            TypeError: Its type or shape differs.
        """
        array = self[name]
        wanted = f"uint{8 * array.dtype.itemsize}" if dtype == "unsigned" else dtype
        fits = len(shape) == array.ndim and all(a in (None, b) for a, b in zip(shape, array.shape, strict=True))
        if array.dtype != wanted or not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            raise TypeError(f"{name!r} is {array.dtype} {list(array.shape)}, expected {wanted} [{sizes}]")
        return array

    # Mapping's own method would read the array to find out.
    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def open_npz(source: bytes | BinaryIO) -> Npz:
    """Opens an untrusted ``.npz`` file of plain numbers, and reads its directory and ``meta``.

    Nothing is allocated before the zip's directory, the array's header and the file's own size agree on the size.
    ``np.load`` trusts each of them, and reads members that are not arrays.

    Args:
        source: The file's bytes, or an open seekable file that stays open while arrays are read.

    Returns:
        The arrays by name. Requesting one reads only its bytes.

    Raises:
        Exception: Various kinds if the bytes are corrupt, also when an array is requested.

    Example::

        with open("step.npz", "rb") as file:
            scale = open_npz(file)["scale0"]
    """
    return Npz(io.BytesIO(source) if isinstance(source, bytes) else source)


def npz_bytes(meta: Mapping[str, Any], arrays: Mapping[str, Any], *, compressed: bool = False) -> bytes:
    """Returns a ``.npz`` file that :func:`open_npz` reads.

    Args:
        meta: A JSON object.
        arrays: Arrays of plain numbers, by name.
        compressed: Compress them.
    """
    buffer, save = io.BytesIO(), np.savez_compressed if compressed else np.savez
    save(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def room(size: int, floor: int | None = None) -> int:
    """Returns the largest expanded size of a file of ``size`` bytes."""
    return (_ROOM if floor is None else floor) + _TIMES * size


def _array(stream: Any, size: int) -> npt.NDArray[Any]:
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array has a header of an unknown version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_LONGEST_HEADER)
    left = size - stream.tell()
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"an array of {dtype!s:.40} {shape!s:.80} does not fill its {left} bytes")
    stream.seek(0)
    values: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_LONGEST_HEADER)
    stream.read()  # where nothing was read, the checksum has not been compared yet
    # A byte other than 0 and 1 is not a truth value that NumPy can work with.
    return values.view(np.uint8) != 0 if dtype.kind == "b" else values


def checked(array: npt.NDArray[Any], name: str, dtype: str, axes: Sequence[int]) -> npt.NDArray[Any]:
    """Returns an array if it has this type and one of these numbers of axes, or raises a TypeError."""
    if array.dtype != dtype or array.ndim not in axes:
        raise TypeError(f"{name!r} is {array.dtype} {list(array.shape)}, expected {dtype} of {axes[0]} axes")
    return array


def is_whole(value: object) -> bool:
    """Whether a JSON value is a whole number that fits into 64 bits; ``true`` and ``1.0`` are not."""
    return type(value) is int and -(2**63) <= value < 2**63


def text(stated: Any, name: str) -> str:
    """Returns an entry that must be a string, or raises a KeyError or TypeError."""
    value = stated[name]
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is a {type(value).__name__}, expected text")
    return value


def texts(stated: Any, name: str) -> tuple[str, ...]:
    """Returns an entry that must be a list of strings, or raises a KeyError or TypeError."""
    value = stated[name]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise TypeError(f"{name!r} is not a list of strings")
    return tuple(value)
