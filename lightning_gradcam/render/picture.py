"""A finished picture, and its files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_gradcam.render.text import SHADES

Pixels = npt.NDArray[np.uint8]

# The longest side, in pixels, of a file in each format.
LONGEST = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383}
# A picture with at most this many pixels is always a PNG; one with more than this many is not tried as one.
_SMALL, _LARGE = 100_000, 1_000_000
# Side by side at twice their size, sheets of photographs and their red and green letters look the same as the original:
# the mean difference on a sheet is 1.6 of 255. This takes half the bytes of quality 90 without colour subsampling.
_JPEG = {"quality": 72, "subsampling": "4:2:2", "optimize": True}
# The largest mean difference, of 255, between pixels that are not white and the nearest of 256 colours. Grey pictures
# of 28 pixels stay below it (3.4 for a sheet of eight); small photographs do not (5.7) and keep all of their colours.
_NEAR = 4.5


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture that every sink can use. Each format is encoded once, at the first request.

    Attributes:
        pixels: uint8 ``[H, W, 3]``.
        enlarged: Whether its pixels were repeated in blocks, so that a plain PNG is both fastest and smallest.
        format: The format of its file: ``"png"``, ``"jpeg"`` or ``"webp"``; ``"auto"`` (default) is PNG if it is
            enlarged, and otherwise the smaller of PNG and JPEG.
        colors: Colours that a palette must contain, uint8 ``[n, 3]``: those of its colour bar.

    Example:
        >>> Picture(np.zeros((8, 8, 3), np.uint8)).file()[0]
        'png'
    """

    pixels: Pixels
    enlarged: bool = False
    format: str = "auto"
    colors: Pixels = field(default_factory=lambda: np.empty((0, 3), np.uint8))
    _files: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        """The memory that its pixels take, in bytes, without its files."""
        return self.pixels.nbytes

    def file(self, formats: Sequence[str] = ("png", "jpeg", "webp")) -> tuple[str, bytes]:
        """Returns the picture as a file, in its own format if that is accepted and otherwise as a PNG.

        Args:
            formats: The accepted formats.

        Returns:
            The format, and the file's content, scaled down if it is larger than the format allows.
        """
        own = self.format
        if own == "auto":
            own = "png" if self.enlarged or "jpeg" not in formats else self._smaller()
        chosen = own if own in formats else "png"
        return chosen, self.encoded(chosen)

    def small(self, formats: Sequence[str] = ("png", "jpeg")) -> tuple[str, bytes]:
        """Returns the smallest file without a visible difference, for logs in which each byte counts.

        It is that of :meth:`file`, except if the picture is enlarged and its format ``"auto"``: then it is a PNG with
        256 colours or, if that would be visible, the smaller of PNG and JPEG.

        Args:
            formats: The accepted formats.
        """
        if not self._free:
            return self.file(formats)
        if "palette" not in self._files:
            self._files["palette"] = _paletted(self.pixels, self.colors)
        if content := self._files["palette"]:
            return "png", content
        chosen = self._smaller() if "jpeg" in formats else "png"
        return chosen, self.encoded(chosen)

    @property
    def _free(self) -> bool:
        """Whether it is enlarged and its format was not chosen."""
        return self.enlarged and self.format == "auto"

    def _smaller(self) -> str:
        """Returns the format of the smaller file, of PNG and JPEG."""
        area = math.prod(self.size)
        if area <= _SMALL or (area > _LARGE and not self.enlarged):
            return "png" if area <= _SMALL else "jpeg"
        return min("png", "jpeg", key=lambda name: len(self.encoded(name)))

    def encoded(self, format: str = "png") -> bytes:
        """Returns the content of a PNG, JPEG or WebP file, scaled down if it is larger than the format allows."""
        if format not in self._files:
            self._files[format] = self._encode(format)
        return self._files[format]

    def _encode(self, format: str) -> bytes:
        image = Image.fromarray(self.pixels)
        image.thumbnail((LONGEST[format], LONGEST[format]))
        buffer = io.BytesIO()
        # Repeated pixels are worth a higher level; of others, level 1 costs a half to a fifth of the default level's
        # time, for 12 to 19 % more bytes.
        png = {"compress_level": 6 if self.enlarged else 1}
        options: dict[str, dict[str, Any]] = {"png": png, "jpeg": _JPEG, "webp": {"quality": 90}}
        image.save(buffer, format.upper(), **options[format])
        return buffer.getvalue()


class PackedPicture(Picture):
    """A finished picture that stores only its own file, so that many take little memory.

    Its pixels are decoded whenever they are requested: exact from a PNG, close to what was drawn from a JPEG or WebP.

    Args:
        picture: The source.
    """

    def __init__(self, picture: Picture) -> None:
        format, content = picture.file()
        facts = {"enlarged": picture.enlarged, "format": format, "colors": picture.colors, "_files": {format: content}}
        # Frozen, like all pictures.
        self.__dict__.update(facts, _was_free=picture._free, _was_large=picture.size)

    @property
    def _free(self) -> bool:
        return bool(self.__dict__["_was_free"])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.__dict__["_was_large"]
        return height, width

    @property
    def nbytes(self) -> int:
        """Its memory in bytes."""
        return sum(map(len, self._files.values()))

    @property
    def pixels(self) -> Pixels:
        """uint8 ``[H, W, 3]``."""
        with Image.open(io.BytesIO(self._files[self.format])) as image:
            return np.asarray(image.convert("RGB"))


def resized_pictures(pictures: Pixels, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BOX) -> Pixels:
    """Returns pictures ``[N, H, W]`` or ``[N, H, W, 3]`` at another height and width; by default averaged."""
    return np.stack([np.asarray(Image.fromarray(picture).resize(size[::-1], how)) for picture in pictures])


def palette_image(pixels: Pixels, needed: Pixels, count: int, method: Image.Quantize) -> Image.Image:
    """Returns an image with a palette, for :meth:`PIL.Image.Image.quantize`.

    Args:
        pixels: The pixels that the palette is for.
        needed: Its first colours, uint8 ``[n, 3]``; the rest are those that the pixels need most.
        count: The number of colours, 256 at most.
        method: How the rest are found.
    """
    found = Image.fromarray(pixels).quantize(count - len(needed), method).getpalette() or []
    colors = np.array(found, np.uint8).reshape(-1, 3)
    # Paper could be drawn in a colour that is almost white.
    colors = colors[(colors < 248).any(axis=1)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([needed, colors])[:count].tobytes())
    return palette


def _paletted(pixels: Pixels, needed: Pixels) -> bytes:
    """Returns a PNG with 256 colours; empty if these are too few.

    Args:
        pixels: The image.
        needed: Colours that must be among them, in addition to those of text.
    """
    # This samples the enlarged pixels, and few pixels of the letters.
    some = np.ascontiguousarray(pixels[1::3, 1::3])
    shades = np.concatenate([np.array(SHADES, np.uint8), needed])
    palette = palette_image(some, shades, 256, Image.Quantize.FASTOCTREE)
    mapped = Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)
    inked = (some < 255).any(axis=-1)
    shown = np.asarray(mapped.convert("RGB"))[1::3, 1::3]
    if np.abs(shown[inked].astype(np.int16) - some[inked]).sum() > 3 * _NEAR * np.count_nonzero(inked):
        return b""
    buffer = io.BytesIO()
    mapped.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
