"""Draws text and marks on pixel arrays. Rendered text is cached, because most of it is the same in every epoch."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

INK: Color = (24, 24, 27)
PALE: Color = (104, 104, 112)
PAPER: Color = (255, 255, 255)
LINE: Color = (222, 222, 226)
RIGHT: Color = (22, 122, 60)
WRONG: Color = (200, 30, 40)
# The colours that text and lines need in a palette, including intermediate ones for smooth letters.
SHADES: tuple[tuple[int, ...], ...] = (
    PAPER,
    LINE,
    *(
        tuple(round(255 - (255 - part) * share) for part in color)
        for color in (INK, PALE, RIGHT, WRONG)
        for share in (1, 0.75, 0.5, 0.25)
    ),
)


def write(
    canvas: npt.NDArray[np.uint8], at: tuple[int, int], text: str, width: int, size: int, color: Color = INK
) -> int:
    """Writes one line of dark text on white; text wider than ``width`` is truncated with an ellipsis.

    Text that fits in the next smaller size is written in that size. If the line ends with two spaces and a percentage,
    only the name before it is truncated, because ``1…`` would look like a number.

    Args:
        canvas: The image to write on, uint8 ``[H, W, 3]``.
        at: Left and top edge in pixels.
        text: The line. Control characters become spaces, because a line break in a class name must not break the row.
        width: Maximum width in pixels.
        size: Font size in pixels.
        color: Red, green and blue.

    Returns:
        The width of the written line, in pixels.
    """
    x, y = at
    ink = _ink(text[:200], width, size, color)
    area = canvas[y : y + ink.shape[0], x : x + ink.shape[1]]
    np.minimum(area, ink[: area.shape[0], : area.shape[1]], out=area)
    return int(ink.shape[1])


def folded(text: str, width: int, size: int = 13) -> list[str]:
    """Splits a text between words into lines that fit into ``width`` pixels; a longer word keeps its own line.

    Args:
        text: The text.
        width: Maximum width in pixels.
        size: Font size in pixels.

    Example:
        >>> folded("one probe at a time", 70)
        ['one probe', 'at a time']
        >>> folded("", 70)
        ['']
    """
    font, lines = _font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def stamp(canvas: npt.NDArray[np.uint8], at: tuple[int, int], *, right: bool) -> None:
    """Draws the mark for a right or wrong prediction, 72 by 20 pixels, with a symbol, a word and a colour."""
    x, y = at
    mark = _stamp(right)
    canvas[y : y + mark.shape[0], x : x + mark.shape[1]] = mark


def cross_out(picture: npt.NDArray[np.uint8]) -> None:
    """Draws a red cross and a frame over ``picture``, uint8 ``[H, W, 3]``, in place."""
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    thick = max(1, min(height, width) // 28)
    for ends in ((0, 0, width - 1, height - 1), (0, height - 1, width - 1, 0)):
        pen.line(ends, fill=WRONG, width=thick)
    pen.rectangle((0, 0, width - 1, height - 1), outline=WRONG, width=thick)
    picture[:] = np.asarray(image)


@lru_cache(maxsize=512)
def _ink(text: str, width: int, size: int, color: Color) -> npt.NDArray[np.uint8]:
    """Returns the text on white, uint8 ``[H, W, 3]``, to be merged into the canvas by taking the darker value."""
    line = "".join(character if character.isprintable() else " " for character in text)
    font = next((font for font in map(_font, (size, size - 1)) if font.getlength(line) <= width), _font(size))
    length = font.getlength(line)
    if length > width:
        name, gap, share = line.rpartition("  ")
        kept = gap + share if share.endswith("%") and font.getlength(f"…{gap}{share}") <= width else ""
        line = name if kept else line
        while line and font.getlength(f"{line}…{kept}") > width:
            line = line[:-1]
        line += f"…{kept}"
        length = font.getlength(line)
    box = Image.new("L", (max(1, int(length) + 2), size + 5))
    ImageDraw.Draw(box).text((0, 0), line, font=font, fill=255)
    coverage = np.asarray(box, np.float32)[:, :, None] / 255
    return np.asarray((255 * (1 - coverage) + np.array(color) * coverage).round(), np.uint8)


@cache
def _stamp(right: bool) -> npt.NDArray[np.uint8]:
    image = Image.new("RGB", (72, 20), PAPER)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, 71, 19), 5, fill=RIGHT if right else WRONG)
    strokes = [[(7, 10), (11, 14), (18, 5)]] if right else [[(7, 5), (16, 14)], [(16, 5), (7, 14)]]
    for stroke in strokes:
        pen.line(stroke, fill=PAPER, width=2, joint="curve")
    pen.text((24, 2), "right" if right else "wrong", font=_font(13), fill=PAPER)
    return np.array(image)


@cache
def _font(size: int) -> Any:
    # Pillow includes this font, so every machine has it.
    return ImageFont.load_default(size)
