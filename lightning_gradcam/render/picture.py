"""Finished images and their encoded files."""

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

# Maximum length in pixels of the longer side in each format.
LONGEST = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383}
# With "auto", images with at most _SMALL pixels are PNG. Those with more than _LARGE pixels are JPEG, unless enlarged.
_SMALL, _LARGE = 100_000, 1_000_000
# Even at twice the size, sheets of photographs with red and green text look like the originals; the mean difference is
# 1.6 of 255. Files need half the bytes of quality 90 without colour subsampling.
_JPEG = {"quality": 72, "subsampling": "4:2:2", "optimize": True}
# Maximum mean difference, of 255, between pixels that are not white and the nearest of 256 colours. Sheets of grey
# images with 28 pixels stay below it (3.4 for eight probes); small photographs exceed it (5.7) and keep all colours.
_NEAR = 4.5


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished image that every sink can use. Each format is encoded once, on first use.

    Attributes:
        pixels: The image, uint8 ``[H, W, 3]``.
        enlarged: Whether the image was enlarged by repeating pixels, in which case PNG is both fastest and smallest.
        format: The file format: ``"png"``, ``"jpeg"`` or ``"webp"``. ``"auto"`` (default) is PNG if the image is
            enlarged, and otherwise the smaller of PNG and JPEG.
        colors: Colours that a palette must contain, such as those of a colour bar, uint8 ``[n, 3]``.

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
        """Memory for the pixels in bytes, without encoded files."""
        return self.pixels.nbytes

    def file(self, formats: Sequence[str] = ("png", "jpeg", "webp")) -> tuple[str, bytes]:
        """Returns the image as a file in its own format if that is accepted, else as PNG.

        Args:
            formats: The accepted formats. Default: all.

        Returns:
            The format and the file's content. The image is scaled down if it is larger than the format allows.
        """
        own = self.format
        if own == "auto":
            own = "png" if self.enlarged or "jpeg" not in formats else self._smaller()
        chosen = own if own in formats else "png"
        return chosen, self.encoded(chosen)

    def small(self, formats: Sequence[str] = ("png", "jpeg")) -> tuple[str, bytes]:
        """Returns the smallest file without a visible difference, for logs that must stay small.

        Returns the same as :meth:`file`, unless the image is enlarged and its format is ``"auto"``. In that case, the
        file is a PNG with 256 colours, or the smaller of PNG and JPEG if the loss of colours would be visible.

        Args:
            formats: The accepted formats. Default: PNG and JPEG.
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
        """Whether the image is enlarged and its format is ``"auto"``."""
        return self.enlarged and self.format == "auto"

    def _smaller(self) -> str:
        """Returns ``"png"`` or ``"jpeg"``, whichever file is smaller."""
        area = math.prod(self.size)
        if area <= _SMALL or (area > _LARGE and not self.enlarged):
            return "png" if area <= _SMALL else "jpeg"
        return min("png", "jpeg", key=lambda name: len(self.encoded(name)))

    def encoded(self, format: str = "png") -> bytes:
        """Returns the content of a PNG, JPEG or WebP file; the image is scaled down if the format requires it."""
        if format not in self._files:
            self._files[format] = self._encode(format)
        return self._files[format]

    def _encode(self, format: str) -> bytes:
        image = Image.fromarray(self.pixels)
        image.thumbnail((LONGEST[format], LONGEST[format]))
        buffer = io.BytesIO()
        # Repeated pixels justify a higher level. For other images, level 1 takes a half to a fifth of the default
        # level's time, for 12 to 19% more bytes.
        png = {"compress_level": 6 if self.enlarged else 1}
        options: dict[str, dict[str, Any]] = {"png": png, "jpeg": _JPEG, "webp": {"quality": 90}}
        image.save(buffer, format.upper(), **options[format])
        return buffer.getvalue()


class PackedPicture(Picture):
    """A finished image that stores only its encoded file, to save memory.

    Its pixels are decoded on every access. They are exact for PNG, and approximate for JPEG and WebP.

    Args:
        picture: The image to encode.
    """

    def __init__(self, picture: Picture) -> None:
        format, content = picture.file()
        facts = {"enlarged": picture.enlarged, "format": format, "colors": picture.colors, "_files": {format: content}}
        # Bypass the frozen dataclass.
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
        """Memory for the encoded files in bytes."""
        return sum(map(len, self._files.values()))

    @property
    def pixels(self) -> Pixels:
        """The decoded image, uint8 ``[H, W, 3]``."""
        with Image.open(io.BytesIO(self._files[self.format])) as image:
            return np.asarray(image.convert("RGB"))


def resized_pictures(pictures: Pixels, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BOX) -> Pixels:
    """Resizes images ``[N, H, W]`` or ``[N, H, W, 3]`` to a height and width, by default by averaging."""
    return np.stack([np.asarray(Image.fromarray(picture).resize(size[::-1], how)) for picture in pictures])


def palette_image(pixels: Pixels, needed: Pixels, count: int, method: Image.Quantize) -> Image.Image:
    """Returns an image with a palette, for :meth:`PIL.Image.Image.quantize`.

    Args:
        pixels: The pixels to represent, uint8 ``[H, W, 3]``.
        needed: The palette's first colours, uint8 ``[n, 3]``; the others are chosen for the pixels.
        count: Number of colours, at most 256.
        method: Method for choosing the other colours.
    """
    found = Image.fromarray(pixels).quantize(count - len(needed), method).getpalette() or []
    colors = np.array(found, np.uint8).reshape(-1, 3)
    # Without near-white colours: white paper must stay white.
    colors = colors[(colors < 248).any(axis=1)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([needed, colors])[:count].tobytes())
    return palette


def _paletted(pixels: Pixels, needed: Pixels) -> bytes:
    """Returns a PNG with 256 colours; empty if they are not enough.

    Args:
        pixels: The image, uint8 ``[H, W, 3]``.
        needed: Colours that the palette must contain, in addition to those for text.
    """
    # Samples mostly enlarged pixels, and few pixels in letters.
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
