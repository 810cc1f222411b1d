"""Builds sheets from header lines, a colour bar, a legend, and cells with captions."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH, CamRecord
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.text import INK, LINE, PALE, PAPER, RIGHT, WRONG, Color, cross_out, folded, write

# Maximum height in pixels without the header; WebP allows at most 16,383 pixels per side.
TALLEST = 15_000
MARGIN, LINE_HEIGHT = 12, 18
# Height and width of a mark in pixels, and the indent of the text after it.
MARK, BEHIND_MARK = 13, 17
# Pixels on each side of a cell for the frame around it.
FRAME = 4
# The grey that represents an image in a legend.
ANY = 168


# A header line's text and colour.
Line = tuple[str, Color]


class Caption(NamedTuple):
    """A line of text below a cell, optionally preceded by a :func:`mark`."""

    text: str
    color: Color = PALE
    mark: str = ""


class Sheet:
    """A sheet that initially contains only its header.

    Args:
        header: The header's lines; the first is larger.
        width: Width of the sheet in pixels.
        head: Height in pixels of the part between header and cells, for example for the colour bar.
        body: Height of the cells in pixels, including all that is below them.

    Attributes:
        pixels: The sheet, uint8 ``[H, W, 3]``.
        below: The header's lower edge, in pixels from the top.
        top: The cells' upper edge, in pixels from the top.
    """

    def __init__(self, header: Sequence[Line], width: int, *, head: int, body: int) -> None:
        # The first two lines are cut instead, because their numbers grow: a line more would move the cells.
        header = [*header[:2], *folded_lines(header[2:], width - 2 * MARGIN)]
        self.below = MARGIN + LINE_HEIGHT * len(header)
        self.top = self.below + head
        self.pixels: Pixels = np.full((self.top + body, width, 3), 255, np.uint8)
        self._colors = np.empty((0, 3), np.uint8)
        for number, (text, color) in enumerate(header):
            self.write((MARGIN, MARGIN + LINE_HEIGHT * number), text, width - 2 * MARGIN, 13 if number else 15, color)

    def copy(self) -> Sheet:
        """Returns a copy of the sheet."""
        other = copy(self)
        other.pixels = self.pixels.copy()
        return other

    def picture(self, *, enlarged: bool, format: str = "auto") -> Picture:
        """Returns the finished sheet.

        Args:
            enlarged: Whether the images on it were enlarged by repeating pixels.
            format: The file format. Default: ``"auto"``.
        """
        return Picture(self.pixels, enlarged, format, self._colors)

    def write(self, at: tuple[int, int], text: str, width: int, size: int = 12, color: Color = PALE) -> int:
        """Writes a line of text; see :func:`~lightning_gradcam.render.text.write`."""
        return write(self.pixels, at, text, width, size, color)

    def foot(self, y: int, lines: Sequence[Line]) -> None:
        """Writes lines of text below the cells, separated by a horizontal rule."""
        self.rule(y - 4)
        for number, (text, color) in enumerate(lines):
            self.write((MARGIN, y + LINE_HEIGHT * number), text, self.pixels.shape[1] - 2 * MARGIN, 13, color)

    def rule(self, y: int) -> None:
        """Draws a horizontal rule across the sheet."""
        self.pixels[y, MARGIN:-MARGIN] = LINE

    def color_bar(self, y: int, colors: str | Pixels, low: str, high: str, middle: str = "") -> None:
        """Draws a colour bar, 14 pixels high, with the meanings of both ends next to it.

        Args:
            y: The bar's upper edge.
            colors: The name of a colour map, or its colours, ``[256, 3]``.
            low: The meaning of the first colour.
            high: The meaning of the last colour.
            middle: Text on the middle colour.
        """
        table = lookup_table(colors) if isinstance(colors, str) else colors
        x = MARGIN + self.write((MARGIN, y), low, 300) + 5
        self.pixels[y + 2 : y + 14, x : x + 128] = table[None, ::2]
        if middle:
            self.write((x + 61, y + 1), middle, 40, 12, INK)
        self.write((x + 136, y), high, self.pixels.shape[1] - MARGIN - x - 136)
        # Enough colours for a smooth bar.
        self._colors = table[::8]

    def legend(self, y: int, *entries: tuple[Pixels | str | None, str]) -> None:
        """Draws a legend on one line, 18 pixels high: pairs of a sample or a mark's name, and its meaning."""
        x = MARGIN
        for sample, text in entries:
            picture = mark(sample) if isinstance(sample, str) else sample
            if picture is not None:
                self.pixels[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
                x += picture.shape[1] + 4
            x += self.write((x, y - 2), text, self.pixels.shape[1] - MARGIN - x) + 12

    def cell(
        self,
        at: tuple[int, int],
        picture: Pixels,
        captions: Sequence[Caption] = (),
        *,
        width: int,
        gap: int = 1,
        pitch: int = 14,
        framed: bool = False,
    ) -> None:
        """Draws an image on the sheet, with captions below.

        Args:
            at: Left and top edge in pixels.
            picture: The image, uint8 ``[h, w, 3]``.
            captions: The captions, one line each; an empty caption leaves its line empty.
            width: Width of the captions in pixels.
            gap: Pixels between the image and the first caption.
            pitch: Pixels from one caption to the next.
            framed: Whether to draw a thin frame around the image, at a distance of two pixels.
        """
        (x, y), (height, across) = at, picture.shape[:2]
        if framed:
            self.pixels[y - 3 : y + height + 3, x - 3 : x + across + 3] = INK
            self.pixels[y - 2 : y + height + 2, x - 2 : x + across + 2] = PAPER
        self.pixels[y : y + height, x : x + across] = picture
        for number, caption in enumerate(captions):
            self.caption((x, y + height + gap + pitch * number), caption, width)

    def caption(self, at: tuple[int, int], caption: Caption, width: int, size: int = 12) -> None:
        """Writes a caption, after its mark if it has one."""
        (x, y), indent = at, BEHIND_MARK if caption.mark else 0
        if caption.mark:
            self.pixels[y + 2 : y + 2 + MARK, x : x + MARK] = mark(caption.mark)
        self.write((x + indent, y), caption.text, width - indent, size, caption.color)


def step_line(what: str, record: CamRecord | ChannelRecord) -> Line:
    """Returns the header line that states the content and, for a record of a run, the step."""
    if record.step < 0:
        return what, INK
    stage = f", {record.stage}" if record.stage not in ("", "fit") else ""
    return f"{what}, {epoch_title(record.epoch)}, step {record.step}{stage}", INK


def remarks(*texts: str, color: Color = PALE) -> list[Line]:
    """Returns a header line for each text that is not empty."""
    return [(text, color) for text in texts if text]


def folded_lines(lines: Sequence[Line], width: int) -> list[Line]:
    """Returns lines of the usual size, folded where they are wider than ``width`` pixels."""
    return [(part, color) for text, color in lines for part in folded(text, width)]


def of_probes(shown: int, count: int) -> str:
    """Returns a remark if only some of the probes are shown; empty if all are."""
    return f"{shown} of {count} probes, evenly chosen; all are in the archive" if shown < count else ""


def epoch_title(epoch: int) -> str:
    """Returns an epoch's name for headers and headings."""
    return "untrained" if epoch == UNTRAINED_EPOCH else f"epoch {epoch}"


@cache
def mark(name: str) -> Pixels:
    """Returns a small mark, uint8 ``[13, 13, 3]``.

    Args:
        name: ``"right"`` (a tick on a disc), ``"wrong"`` (a cross on a square) or ``"arrow"``; for legends also
            ``"blank"``, ``"frame"`` or ``"cross"`` for an image that is blank, framed or crossed out.
    """
    if name in ("blank", "frame", "cross"):
        picture = np.full((MARK, MARK, 3), ANY, np.uint8)
        if name == "frame":
            picture[:] = INK
            picture[1:-1, 1:-1] = PAPER
            picture[3:-3, 3:-3] = ANY
        elif name == "cross":
            cross_out(picture)
        return picture
    # Drawn at four times the size and scaled down, for smooth edges.
    large = 4 * MARK
    image = Image.new("RGB", (large, large), PAPER)
    pen = ImageDraw.Draw(image)
    if name == "right":
        pen.ellipse((0, 0, large - 1, large - 1), fill=RIGHT)
        pen.line([(13, 27), (22, 36), (39, 16)], fill=PAPER, width=7, joint="curve")
    elif name == "wrong":
        pen.rectangle((0, 0, large - 1, large - 1), fill=WRONG)
        pen.line([(14, 14), (38, 38)], fill=PAPER, width=7)
        pen.line([(38, 14), (14, 38)], fill=PAPER, width=7)
    else:
        pen.line([(2, 28), (44, 28)], fill=INK, width=6)
        pen.line([(28, 12), (46, 28), (28, 44)], fill=INK, width=6, joint="curve")
    return np.array(image.reduce(4))
