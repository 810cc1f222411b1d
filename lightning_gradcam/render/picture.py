"""A finished picture, and its files."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

# Of a PNG: the filter that keeps a row's difference to the row above.
_UP = 2
_LONGEST = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383}


# A PNG of a photograph this large takes megabytes and a second; a JPEG a tenth of both.
_SMALL = 1_000_000


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture that every sink can use. Each format is encoded once, when it is first asked for.

    Attributes:
        pixels: uint8 ``[H, W, 3]``.
        enlarged: Its pixels were repeated in blocks, so that a plain PNG is both the fastest and the smallest.
        format: Of its file: ``"png"``, ``"jpeg"`` or ``"webp"``; ``"auto"`` (default) is PNG where it is enlarged or
            has no more than a million pixels, and JPEG where it is larger.

    Example:
        >>> Picture(np.zeros((8, 8, 3), np.uint8)).file()[0]
        'png'
    """

    pixels: Pixels
    enlarged: bool = False
    format: str = "auto"
    _files: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, in bytes, its files left out."""
        return self.pixels.nbytes

    def file(self, formats: Sequence[str] = ("png", "jpeg", "webp")) -> tuple[str, bytes]:
        """Returns the picture as a file, in its own format where that is possible and as a PNG elsewhere.

        Args:
            formats: What is possible.

        Returns:
            The format, and the file's content; scaled down where it is larger than the format allows.
        """
        height, width = self.size
        small = self.enlarged or height * width <= _SMALL
        own = self.format if self.format != "auto" else ("png" if small else "jpeg")
        chosen = own if own in formats else "png"
        return chosen, self.encoded(chosen)

    def encoded(self, format: str = "png") -> bytes:
        """Returns the content of a PNG, JPEG or WebP file; scaled down where it is larger than the format allows."""
        if format not in self._files:
            self._files[format] = self._encode(format)
        return self._files[format]

    def _encode(self, format: str) -> bytes:
        if format == "png" and self.enlarged:
            return _plain_png(self.pixels)
        image = Image.fromarray(self.pixels)
        image.thumbnail((_LONGEST[format], _LONGEST[format]))
        buffer = io.BytesIO()
        # Level 1 costs a half to a fifth of the default level's time, for 12 to 19 % more bytes. A JPEG's colours are
        # not thinned out: red and green letters would smear.
        options = {"png": {"compress_level": 1}, "jpeg": {"quality": 90, "subsampling": 0}, "webp": {"quality": 90}}
        image.save(buffer, format.upper(), **options[format])
        return buffer.getvalue()


class PackedPicture(Picture):
    """A finished picture that keeps its own file alone, so that many take little memory.

    Its pixels are decoded whenever they are asked for: exact from a PNG, close to what was drawn from a JPEG or WebP.

    Args:
        picture: What it is made of.
    """

    def __init__(self, picture: Picture) -> None:
        format, content = picture.file()
        for name, value in (("enlarged", picture.enlarged), ("format", format), ("_files", {format: content})):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_size", picture.size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size: tuple[int, int] = self._size  # type: ignore[attr-defined]
        return size

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, in bytes."""
        return sum(map(len, self._files.values()))

    @property
    def pixels(self) -> Pixels:
        """uint8 ``[H, W, 3]``."""
        with Image.open(io.BytesIO(self._files[self.format])) as image:
            return np.asarray(image.convert("RGB"))


def _plain_png(pixels: Pixels) -> bytes:
    # Pillow tries five filters on every row, in about twice the time, and lets nobody choose. Pixels that are repeated
    # three times or more are best found as they are, at a high level; elsewhere rows are best kept as their differences
    # to the row above, at a lower one. More bytes for less time would not pay: TensorBoard's checksum costs Python a
    # second for 7 MB, while nothing else runs.
    height, width = pixels.shape[:2]
    flat, rows = pixels.reshape(height, -1), np.empty((height, 1 + 3 * width), np.uint8)
    rows[0, 0], rows[0, 1:] = 0, flat[0]
    if _is_coarse(pixels):
        level, repeated = 6, (flat[1:] == flat[:-1]).all(axis=1)
        rows[1:, 0], rows[1:, 1:] = np.where(repeated, _UP, 0), flat[1:]
        rows[1:][repeated, 1:] = 0
    else:
        level, rows[1:, 0] = 5, _UP
        np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.data, level)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _is_coarse(pixels: Pixels) -> bool:
    """Whether most pixels that are not white have the one before them repeated three times or more."""
    green = np.ascontiguousarray(pixels[::8, :, 1])
    inked = green[:, 1:] != 255
    repeated = (green[:, 1:] == green[:, :-1]) & inked
    return 3 * int(np.count_nonzero(repeated)) > 2 * int(np.count_nonzero(inked))
