"""Scales, resizes and colours maps, and overlays them on images."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.record.cam_record import CamRecord, FloatArray
from lightning_gradcam.render.drawing import Drawing, colors_of
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.signals import band_height
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.stats.resize import Interpolation, resized

# Maximum size in bytes of the overlays to keep while a map's strip and animation are drawn.
LAID_BYTES = 32_000_000


@dataclass(frozen=True, eq=False)
class Overlays:
    """Overlays of maps on images.

    Attributes:
        mixed: Image and heatmap, uint8 ``[N, s, H, W, 3]``; only the image if the map is zero everywhere. Below signed
            maps, the image is grey.
        blank: Flags for maps that are zero everywhere (after the ReLU, unless they are drawn signed or the scale is
            ``"minmax"``), ``[N]``.
        broken: Flags for maps that are not finite, ``[N]``; their images are faded, and the caller crosses them out.
        places: Each pixel's index into the colour map, uint8 ``[N, s, H, W]``.
        table: The colour map, uint8 ``[256, 3]``.
    """

    mixed: Pixels
    blank: npt.NDArray[np.bool_]
    broken: npt.NDArray[np.bool_]
    places: Pixels
    table: Pixels

    @property
    def colors(self) -> Pixels:
        """Only the heatmap, uint8 ``[N, s, H, W, 3]``; grey if the map is not finite."""
        colors = self.table[self.places]
        colors[self.broken] = 224
        return colors


def lay_over(base: Pixels, maps: FloatArray, shares: FloatArray, drawing: Drawing) -> Overlays:
    """Overlays coloured maps on images.

    Args:
        base: The images, uint8 ``[N, s, H, W, 3]``.
        maps: The complete signed maps, ``[N, h, w]`` or ``[N, d, h, w]``, to find those that are zero everywhere or not
            finite. Maps of signals, ``[N, l]``, are drawn in the band below the curve.
        shares: The maps' scaled slices, 0 to 1, or -1 to 1 if they are drawn signed, ``[N, s, h, w]``.
        drawing: Colour map, opacity, interpolation and scale.
    """
    values, table = heat(shares, base.shape[2:4], drawing.interpolation), colors_of(drawing)
    shades = 128 + 127 * np.clip(values, -1, 1) if drawing.signed else np.clip(values, 0, 1) * 255
    places = shades.round().astype(np.uint8)
    if maps.ndim == 2:
        # A signal's curve, above its map, remains unchanged.
        mixed, band = base.copy(), band_height(base.shape[2])
        mixed[:, :, -band:] = table[places[:, :, -band:]]
    else:
        # Red evidence would not be visible on a red object.
        under = _without_colour(base) if drawing.signed else base
        mixed = np.empty(base.shape, np.uint8)
        for channel, mixture in enumerate(_mixtures(table.tobytes(), drawing.opacity)):
            mixed[..., channel] = mixture[under[..., channel].astype(np.intp) << 8 | places]
    # For a map without any evidence, show the unchanged image: it must not look like a weak map.
    relu = not drawing.signed and drawing.scale != "minmax"
    blank = maxima(maps) <= 0 if relu else np.asarray((maps == 0).all(axis=_own_axes(maps)))
    mixed[blank] = base[blank]
    # Do not show the finite part of a map that is not finite: it would look like a map.
    broken = not_finite(maps)
    mixed[broken] = _without_colour(base[broken], 0.5, 100)
    return Overlays(mixed, blank, broken, places, table)


class Laid:
    """Caches overlays before enlargement, which strip, animation and palette share.

    Args:
        most: Maximum size in bytes; beyond it, the oldest overlays are dropped. Default: 32 million.
    """

    def __init__(self, most: int = LAID_BYTES) -> None:
        self._most, self._bytes = most, 0
        self._found: dict[Hashable, tuple[CamRecord, Overlays]] = {}

    def of(self, record: CamRecord, how: Hashable, lay: Callable[[], Overlays]) -> Overlays:
        """Returns a record's overlays from the cache, or new ones.

        Args:
            record: The step.
            how: Everything else that the overlays depend on.
            lay: Function that creates the overlays.
        """
        # The cache also stores the record: while it exists, no other object can have its id.
        key = (id(record), how)
        if key not in self._found:
            self._found[key] = record, lay()
            self._bytes += _size(self._found[key][1])
        found = self._found[key][1]
        while self._bytes > self._most:
            self._bytes -= _size(self._found.pop(next(iter(self._found)))[1])
        return found


def _size(found: Overlays) -> int:
    return found.mixed.nbytes + found.places.nbytes


def grey(signed: FloatArray, size: tuple[int, ...], slices: Slices) -> Pixels:
    """Draws signed maps in the input's resolution: 0 is mid-grey, a probe's largest magnitude white or black.

    Args:
        signed: The maps, ``[N, H, W]`` or ``[N, T, H, W]``; non-finite values are drawn as 0.
        size: Height and width of the drawing in pixels.
        slices: The slices shown.

    Returns:
        uint8 ``[N, s, *size, 3]``.
    """
    clean = np.nan_to_num(signed, nan=0.0, posinf=0.0, neginf=0.0)
    shown = heat(slices.of_pictures(clean), size, "bilinear")
    # Scale by the largest value after resizing: in smaller images, averaging would otherwise leave only pale grey.
    top = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    shares = np.divide(shown, top, out=np.zeros_like(shown), where=top > 0)
    return np.asarray((128 + 127 * shares).round().astype(np.uint8)[..., None].repeat(3, axis=-1))


def heat(maps: FloatArray, size: tuple[int, ...], interpolation: Interpolation) -> FloatArray:
    """Resizes maps to the image's resolution, each slice separately, with corners not aligned.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``.
        size: Height and width, ``(H, W)``.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``. If a map is finer than the image, its values
            within each pixel are averaged instead.

    Returns:
        ``[N, H, W]`` or ``[N, d, H, W]``.
    """
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    flat = resized(maps.reshape(-1, height, width), (size[0], size[1]), interpolation)
    return flat.reshape(*maps.shape[:-2], *size)


def scaled(maps: FloatArray, drawing: Drawing, top: FloatArray) -> FloatArray:
    """Scales maps to 0…1, or to -1…1 if they are drawn signed, with the same factor for all slices.

    With neither ``signed`` nor ``"minmax"``, a map without a positive value becomes zero everywhere.

    Args:
        maps: Signed maps ``[N, h, w]`` or ``[N, d, h, w]``.
        drawing: The options; ``scale`` and ``signed`` determine the scaling.
        top: The value that becomes 1, ``[N]``; unused with ``"minmax"``.

    Returns:
        The scaled maps; non-finite values are replaced by 0 first.
    """
    clean = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    if drawing.scale == "minmax":
        low, high = (of(axis=_own_axes(clean), keepdims=True) for of in (clean.min, clean.max))
        span = high - low
        return np.asarray(np.divide(clean - low, span, out=np.zeros_like(clean), where=span > 0))
    limit = np.broadcast_to(top.reshape(-1, *[1] * (clean.ndim - 1)), clean.shape)
    shares = np.divide(clean, limit, out=np.zeros_like(clean), where=limit > 0)
    return np.asarray(np.clip(shares, -1 if drawing.signed else 0, 1))


def maxima(maps: FloatArray, *, relu: bool = True) -> FloatArray:
    """Returns each map's largest finite value ``[N]``, by default after the ReLU; 0 if no value is finite."""
    largest = np.where(np.isfinite(maps), maps, -np.inf).max(axis=_own_axes(maps))
    floor = 0 if relu else -np.inf
    return np.asarray(np.where(np.isfinite(largest), np.maximum(largest, floor), 0), np.float32)


def magnitudes(maps: FloatArray) -> FloatArray:
    """Returns each map's largest finite magnitude ``[N]``."""
    return np.maximum(maxima(maps), maxima(-maps))


def not_finite(maps: FloatArray) -> npt.NDArray[np.bool_]:
    """Returns flags for maps that contain a non-finite value, ``[N]``."""
    return np.asarray(~np.isfinite(maps).all(axis=_own_axes(maps)))


@lru_cache(maxsize=8)
def _mixtures(table: bytes, opacity: float) -> Pixels:
    """Returns the blend of each image value with each colour, for red, green and blue, ``[3, 256 * 256]``."""
    colors = np.frombuffer(table, np.uint8).reshape(1, 256, 3)
    values = np.arange(256).reshape(256, 1, 1)
    mixed = (values * (1 - opacity) + colors * opacity).round().astype(np.uint8)
    return np.ascontiguousarray(mixed.reshape(-1, 3).T)


def _own_axes(maps: npt.NDArray[Any]) -> tuple[int, ...]:
    return tuple(range(1, maps.ndim))


def _without_colour(pictures: Pixels, contrast: float = 1.0, least: int = 0) -> Pixels:
    grey = pictures @ np.array([0.299, 0.587, 0.114]) * contrast + least
    return np.asarray(grey.round().astype(np.uint8)[..., None].repeat(3, axis=-1))
