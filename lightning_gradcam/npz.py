"""Reading NumPy's `.npz` from anyone: nothing is unpacked or allocated before it has been shown to be small enough."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# What a file may expand to: this much, and beyond it so many times its own size.
_ROOM, _TIMES = 256 * 2**20, 100
_META_ROOM = 4 * 2**20
# Deflate can't do better: a member that claims more is none.
_DEFLATE = 1032
_LONGEST_HEADER = 1000
_PART = 2**20


def read_npz(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Reads a ``.npz`` file of plain numbers that may come from anyone.

    Nothing is allocated before the zip's directory, the array's header and the file's own size have agreed on how much
    it is; ``np.load`` trusts each of them, and reads members that are no arrays.

    Args:
        data: The whole file.

    Returns:
        The arrays by name, and what stands as JSON in the one called ``meta``.

    Raises:
        Exception: Of many kinds, where the bytes are broken.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = file.infolist()
        if sum(member.file_size for member in members) > room(len(data)):
            raise ValueError(f"expands to far more than the {len(data)} bytes that it has")
        if sum(member.compress_size for member in members) > len(data):
            raise ValueError("its parts lie upon each other")
        for member in members:
            name = member.filename.removesuffix(".npy")
            # Parsed, text takes a multiple of its bytes.
            most = min(_DEFLATE * member.compress_size, room(len(data), _META_ROOM if name == "meta" else None))
            if member.file_size > most:
                raise ValueError(f"{name[:40]!r} claims {member.file_size} bytes, more than it can have")
            with file.open(member) as stream:
                arrays[name] = _array(stream, member.file_size)
    stated = json.loads(checked(arrays.pop("meta"), "meta", "uint8", (1,)).tobytes())
    if not isinstance(stated, dict):
        raise TypeError(f"'meta' is a {type(stated).__name__}, expected an object")
    return arrays, stated


def room(size: int, floor: int | None = None) -> int:
    """Returns how many bytes a file of ``size`` bytes may expand to."""
    return (_ROOM if floor is None else floor) + _TIMES * size


def _array(stream: Any, size: int) -> npt.NDArray[Any]:
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array has a header of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_LONGEST_HEADER)
    left = size - stream.tell()
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"an array of {dtype!s:.40} {shape!s:.80} does not take the {left} bytes that it has")
    content = np.empty(left, np.uint8)
    for start in range(0, left, _PART):
        part = stream.read(min(_PART, left - start))
        if len(part) < min(_PART, left - start):
            raise EOFError(f"an array ends after {start + len(part)} of {left} bytes")
        content[start : start + _PART] = np.frombuffer(part, np.uint8)
    stream.read()  # where nothing was read, the checksum has not been compared yet
    values = content != 0 if dtype.kind == "b" else content.view(dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def checked(array: npt.NDArray[Any], name: str, dtype: str, axes: Sequence[int]) -> npt.NDArray[Any]:
    """Returns an array of the type and the number of axes that it has to have, or raises a TypeError."""
    if array.dtype != dtype or array.ndim not in axes:
        raise TypeError(f"{name!r} is {array.dtype} {list(array.shape)}, expected {dtype} of {axes[0]} axes")
    return array


def is_whole(value: object) -> bool:
    """Whether JSON has a whole number here that fits into 64 bits; ``true`` and ``1.0`` are none."""
    return type(value) is int and -(2**63) <= value < 2**63


def text(stated: Any, name: str) -> str:
    """Returns an entry that has to be a string, or raises a KeyError or TypeError."""
    value = stated[name]
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is a {type(value).__name__}, expected text")
    return value


def texts(stated: Any, name: str) -> tuple[str, ...]:
    """Returns an entry that has to be a list of strings, or raises a KeyError or TypeError."""
    value = stated[name]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise TypeError(f"{name!r} is no list of texts")
    return tuple(value)
