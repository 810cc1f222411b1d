"""Reads untrusted `.npz` files. Sizes are checked before anything is unpacked or allocated."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

# Maximum expanded size of a file: this many bytes plus this multiple of the file's own size.
_ROOM, _TIMES = 256 * 2**20, 100
_META_ROOM = 4 * 2**20
# Deflate's maximum compression ratio; a member that claims a higher one is invalid.
_DEFLATE = 1032
_LONGEST_HEADER = 1000


class Npz(Mapping[str, npt.NDArray[Any]]):
    """The arrays in a ``.npz`` file; each is read whenever it is accessed, and not cached.

    Attributes:
        meta: JSON object from the array ``meta``, which the mapping does not contain.
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
            # Parsed JSON takes several times the memory of its text.
            most = min(_DEFLATE * member.compress_size, room(self.size, _META_ROOM if name == "meta" else None))
            if member.file_size > most:
                raise ValueError(f"{name[:40]!r} claims {member.file_size} bytes, more than it can hold")
        self._members = {_name(member): member for member in members}
        stated = json.loads(self.take("meta", "uint8", None).tobytes())
        if not isinstance(stated, dict):
            raise TypeError(f"'meta' is a {type(stated).__name__}, expected a JSON object")
        self.meta: dict[str, Any] = stated
        del self._members["meta"]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        member = self._members[name]
        with self._zip.open(member) as stream:
            return _array(stream, member.file_size)

    def take(self, name: str, dtype: str, *shape: int | None) -> npt.NDArray[Any]:
        """Returns an array after checking its type and shape.

        Args:
            name: The array's name.
            dtype: Required type; ``"unsigned"`` accepts unsigned integers of any size.
            shape: Required length of each axis; ``None`` accepts any length.

        Raises:
            TypeError: The array has a different type or shape.
        """
        array = self[name]
        wanted = f"uint{8 * array.dtype.itemsize}" if dtype == "unsigned" else dtype
        fits = len(shape) == array.ndim and all(a in (None, b) for a, b in zip(shape, array.shape, strict=True))
        if array.dtype != wanted or not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            raise TypeError(f"{name!r} is {array.dtype} {list(array.shape)}, expected {wanted} [{sizes}]")
        return array

    # Mapping's own method would read the array.
    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def open_npz(source: bytes | BinaryIO) -> Npz:
    """Opens an untrusted ``.npz`` file with plain numbers, and reads its directory and ``meta``.

    An array is allocated only if the zip directory, the array's header and the file size agree on its size. ``np.load``
    trusts all three, and reads members that are not arrays.

    Args:
        source: The file's bytes, or an open seekable file that must stay open while arrays are read.

    Returns:
        The arrays by name. Accessing one reads only its bytes.

    Raises:
        Exception: Various kinds if the bytes are corrupt, here or when an array is accessed.

    Example::

        with open("step.npz", "rb") as file:
            scale = open_npz(file)["scale0"]
    """
    return Npz(io.BytesIO(source) if isinstance(source, bytes) else source)


def npz_bytes(meta: Mapping[str, Any], arrays: Mapping[str, Any], *, compressed: bool = False) -> bytes:
    """Returns the bytes of a ``.npz`` file that :func:`open_npz` can read.

    Args:
        meta: A JSON object.
        arrays: Arrays of plain numbers, by name.
        compressed: Whether to compress them. Default: ``False``.
    """
    buffer, save = io.BytesIO(), np.savez_compressed if compressed else np.savez
    save(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def room(size: int, floor: int | None = None) -> int:
    """Returns the maximum expanded size of a file with ``size`` bytes."""
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
    stream.read()  # the checksum of an empty array has not been compared yet
    # NumPy can't handle booleans with bytes other than 0 and 1.
    return values.view(np.uint8) != 0 if dtype.kind == "b" else values


def checked(array: npt.NDArray[Any], name: str, dtype: str, axes: Sequence[int]) -> npt.NDArray[Any]:
    """Returns an array if it has the given type and one of the given numbers of axes; raises a TypeError otherwise."""
    if array.dtype != dtype or array.ndim not in axes:
        raise TypeError(f"{name!r} is {array.dtype} {list(array.shape)}, expected {dtype} of {axes[0]} axes")
    return array


def is_whole(value: object) -> bool:
    """Whether a JSON value is an integer that fits into 64 bits; ``true`` and ``1.0`` are not."""
    return type(value) is int and -(2**63) <= value < 2**63


def text(stated: Any, name: str) -> str:
    """Returns an entry if it is a string; raises a KeyError or TypeError otherwise."""
    value = stated[name]
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is a {type(value).__name__}, expected text")
    return value


def texts(stated: Any, name: str) -> tuple[str, ...]:
    """Returns an entry if it is a list of strings; raises a KeyError or TypeError otherwise."""
    value = stated[name]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise TypeError(f"{name!r} is not a list of strings")
    return tuple(value)
