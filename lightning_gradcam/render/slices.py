"""Selects the slices to show for maps with time or depth, and the frames below them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.render.picture import Pixels

# Pixels between two slices in a strip.
SEAM = 2
_MOST_SLICES = 8


def frame_under(place: Any, depth: int, length: int) -> Any:
    """Returns the index of the frame at the centre of one or more slices.

    Args:
        place: Index along the maps' time or depth axis, a number or an array.
        depth: Length of that axis; 0 if there is none.
        length: Number of frames.
    """
    # In integers: the centre of slice i of d is at (i + 1/2) / d of the frames.
    return (2 * place + 1) * length // (2 * max(depth, 1))


@dataclass(frozen=True)
class Slices:
    """The slices of a layer's maps to show, and the display frames below them.

    Attributes:
        chosen: Indices along the maps' time or depth axis; only 0 if they have no such axis.
        depth: Length of that axis; 0 if there is none.
        frames: Index of the frame below each of ``chosen``; 0 if the display has no frames.
        length: Number of display frames; 0 for a single image.
    """

    chosen: tuple[int, ...]
    depth: int
    frames: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, maps: tuple[int, ...], display: tuple[int, ...]) -> Slices:
        """Selects at most eight evenly spaced slices, including the first and the last.

        Args:
            maps: Shape of the maps, ``[N, h, w]``, ``[N, d, h, w]`` or ``[N, l]``.
            display: Shape of the display pixels, ``[N, H, W, 3]`` or ``[N, T, H, W, 3]``.

        Example:
            >>> Slices.of((2, 4, 7, 7), (2, 16, 112, 112, 3)).frames
            (2, 6, 10, 14)
        """
        depth, length = (maps[1] if len(maps) == 4 else 0), (display[1] if len(display) == 5 else 0)
        shown = min(max(depth, 1), _MOST_SLICES)
        chosen = np.linspace(0, max(depth, 1) - 1, shown).round().astype(int).tolist()
        frames = tuple(frame_under(place, depth, length) for place in chosen)
        return cls(tuple(chosen), depth, frames, length)

    def name(self, place: int) -> str:
        """Returns a slice's name, or that of the frame below it if there are frames.

        Args:
            place: Index along the maps' time or depth axis; the slice need not be shown.

        Example:
            >>> Slices.of((2, 4, 7, 7), (2, 16, 112, 112, 3)).name(0), Slices.of((2, 4, 7, 7), (2, 112, 112, 3)).name(3)
            ('frame 3', 'slice 4')
        """
        return f"frame {frame_under(place, self.depth, self.length) + 1}" if self.length else f"slice {place + 1}"

    def of_maps(self, maps: FloatArray) -> FloatArray:
        """Returns the chosen slices, ``[N, s, h, w]``."""
        if maps.ndim == 2:
            # Treat maps with only a time axis as images with one row.
            return maps[:, None, None]
        return maps[:, list(self.chosen)] if self.depth else maps[:, None]

    def of_pictures(self, maps: FloatArray) -> FloatArray:
        """Returns one frame per slice from maps in the input's resolution, ``[N, s, H, W]``.

        Args:
            maps: The maps, ``[N, H, W]``, or ``[N, T, H, W]`` with frames.
        """
        if maps.ndim == 2:
            return maps[:, None, None].repeat(len(self.chosen), axis=1)
        if maps.ndim == 3:
            return maps[:, None].repeat(len(self.chosen), axis=1)
        return maps[:, [frame_under(place, self.depth, maps.shape[1]) for place in self.chosen]]

    def of_display(self, display: Pixels) -> Pixels:
        """Returns the frame below each slice, ``[N, s, H, W, 3]``."""
        return display[:, list(self.frames)] if self.length else display[:, None].repeat(len(self.chosen), axis=1)
