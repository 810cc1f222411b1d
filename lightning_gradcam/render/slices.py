"""Which slices of maps with time or depth are shown, and the frames below them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.render.picture import Pixels

# Pixels between two slices of a strip.
SEAM = 2
_MOST_SLICES = 8


def frame_under(place: Any, depth: int, length: int) -> Any:
    """Returns the frame at the centre of a slice, or of each of several.

    Args:
        place: Index on the maps' axis of time or depth, a number or an array.
        depth: The length of that axis; 0 without one.
        length: The number of frames.
    """
    # In whole numbers: the centre of slice i of d is at (i + 1/2) / d of the frames.
    return (2 * place + 1) * length // (2 * max(depth, 1))


@dataclass(frozen=True)
class Slices:
    """Which slices of a layer's maps are shown, and the frames of the display under them.

    Attributes:
        chosen: Indices on the maps' axis of time or depth; only 0 if they have no such axis.
        depth: The length of that axis; 0 if there is none.
        frames: The frame below each of ``chosen``; 0 if the display has no frames.
        length: The number of frames of the display; 0 if it is a single image.
    """

    chosen: tuple[int, ...]
    depth: int
    frames: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, maps: tuple[int, ...], display: tuple[int, ...]) -> Slices:
        """Chooses at most eight slices evenly, the first and the last among them.

        Args:
            maps: Their shape, ``[N, h, w]``, ``[N, d, h, w]`` or ``[N, l]``.
            display: Its shape, ``[N, H, W, 3]`` or ``[N, T, H, W, 3]``.

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
        """Returns a slice's name, which is that of the frame below it if there are frames.

        Args:
            place: Index on the maps' axis of time or depth, shown or not.

        Example:
            >>> Slices.of((2, 4, 7, 7), (2, 16, 112, 112, 3)).name(0), Slices.of((2, 4, 7, 7), (2, 112, 112, 3)).name(3)
            ('frame 3', 'slice 4')
        """
        return f"frame {frame_under(place, self.depth, self.length) + 1}" if self.length else f"slice {place + 1}"

    def of_maps(self, maps: FloatArray) -> FloatArray:
        """Returns the chosen slices, ``[N, s, h, w]``."""
        if maps.ndim == 2:
            # Only a time axis: an image with one row.
            return maps[:, None, None]
        return maps[:, list(self.chosen)] if self.depth else maps[:, None]

    def of_pictures(self, maps: FloatArray) -> FloatArray:
        """Returns the frames of maps in the input's resolution, one for each slice, ``[N, s, H, W]``.

        Args:
            maps: ``[N, H, W]``, or ``[N, T, H, W]`` with their own frames.
        """
        if maps.ndim == 2:
            return maps[:, None, None].repeat(len(self.chosen), axis=1)
        if maps.ndim == 3:
            return maps[:, None].repeat(len(self.chosen), axis=1)
        return maps[:, [frame_under(place, self.depth, maps.shape[1]) for place in self.chosen]]

    def of_display(self, display: Pixels) -> Pixels:
        """Returns the frame below each slice, ``[N, s, H, W, 3]``."""
        return display[:, list(self.frames)] if self.length else display[:, None].repeat(len(self.chosen), axis=1)
