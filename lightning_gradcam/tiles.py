"""From maps and display pixels to the coloured pictures of a sheet; maps with time or depth become strips of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from lightning_gradcam.cams import CamKey
from lightning_gradcam.drawing import Drawing, Interpolation, lookup_table
from lightning_gradcam.picture import Pixels
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record import CamRecord, FloatArray
from lightning_gradcam.resize import resized
from lightning_gradcam.typeset import cross_out

SEAM = 2
BROKEN = "map not finite"
_MOST_SLICES, _WIDEST_STRIP = 8, 640


@dataclass(frozen=True)
class Slices:
    """Which slices of a layer's maps are shown, and which frames of the display lie under them.

    Attributes:
        chosen: Places on the maps' axis of time or depth; one, 0, where they have no such axis.
        depth: How long that axis is; 0 where there is none.
        frames: The frame under each of ``chosen``; 0 where the display has none.
        length: How many frames the display has; 0 where it is one picture.
    """

    chosen: tuple[int, ...]
    depth: int
    frames: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, maps: tuple[int, ...], display: tuple[int, ...]) -> Slices:
        """Chooses at most eight slices evenly, the first and the last among them.

        Args:
            maps: Their shape, ``[N, h, w]`` or ``[N, d, h, w]``.
            display: Its shape, ``[N, H, W, 3]`` or ``[N, T, H, W, 3]``.

        Example:
            >>> Slices.of((2, 4, 7, 7), (2, 16, 112, 112, 3)).frames
            (2, 6, 10, 14)
        """
        depth, length = (maps[1] if len(maps) == 4 else 0), (display[1] if len(display) == 5 else 0)
        shown = min(max(depth, 1), _MOST_SLICES)
        chosen = np.linspace(0, max(depth, 1) - 1, shown).round().astype(int).tolist()
        # In whole numbers: the centre of slice i of d is at (i + 1/2) / d of the frames.
        frames = tuple((2 * place + 1) * length // (2 * max(depth, 1)) for place in chosen)
        return cls(tuple(chosen), depth, frames, length)

    def of_maps(self, maps: FloatArray) -> FloatArray:
        """Returns the chosen slices, ``[N, s, h, w]``."""
        return maps[:, list(self.chosen)] if self.depth else maps[:, None]

    def of_display(self, display: Pixels) -> Pixels:
        """Returns the frame under each of them, ``[N, s, H, W, 3]``."""
        return display[:, list(self.frames)] if self.length else display[:, None].repeat(len(self.chosen), axis=1)


@dataclass(frozen=True, eq=False)
class Tiles:
    """One column of a sheet: pictures ``[N, H, W, 3]``, its heading and the lines below each."""

    heading: str
    pixels: Pixels
    captions: Sequence[tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Overlays:
    """Maps laid over pictures.

    Attributes:
        mixed: Picture and heatmap, uint8 ``[N, s, H, W, 3]``; the picture alone where the map is all zero.
        colors: The heatmap alone, likewise.
        blank: Which maps are all zero (after the ReLU, unless the scale is ``"minmax"``), ``[N]``.
        broken: Which are not finite; their pictures are faded, and are to be crossed out, ``[N]``.
    """

    mixed: Pixels
    colors: Pixels
    blank: npt.NDArray[np.bool_]
    broken: npt.NDArray[np.bool_]


def draw_tiles(
    record: CamRecord,
    probes: ProbeSet,
    keys: Sequence[CamKey],
    drawing: Drawing,
    limits: Mapping[CamKey, FloatArray] | None,
    slices: Slices,
    rows: Sequence[int],
) -> list[Tiles]:
    """Colours maps and lays them over the probes.

    Args:
        record: The step to draw.
        probes: Where the display pixels and class names come from.
        keys: Which maps: of one layer and method.
        drawing: Colour map, opacity, columns, scale.
        limits: For ``scale="run"``: each map's largest value so far, ``[N]``; the record's own where not given.
        slices: What is shown of maps and displays with a third axis.
        rows: The places of the probes that are drawn.

    Returns:
        The columns in ``drawing``'s order; overlay and heatmap once for each of ``keys``.
    """
    chosen = list(rows)
    base = fitted(slices.of_display(probes.pixels[chosen]), drawing.max_tile)
    factor = _factor(base.shape, drawing)
    of_all = {key: maxima(record.maps[key]) for key in keys}
    own = {key: top[chosen] for key, top in of_all.items()}
    layer_top = np.full(len(base), max((float(top.max()) for top in of_all.values()), default=0.0), np.float32)
    run_top = np.max([(limits or of_all).get(key, of_all[key])[chosen] for key in keys], axis=0)
    columns: dict[str, list[Tiles]] = {"input": [Tiles("input", enlarged(base, factor), [()] * len(base))]}
    for key in keys:
        maps = record.maps[key][chosen]
        top = {"layer": layer_top, "run": run_top}.get(drawing.scale, own[key])
        # Scaled before slices are taken, so that a slice that is not shown counts for the common scale, too.
        over = lay_over(base, maps, slices.of_maps(scaled(maps, drawing, top)), drawing)
        raw = maxima(maps, relu=False) if drawing.scale == "minmax" else own[key]
        captions = [_map_caption(record, key, row, raw[i], bool(over.blank[i])) for i, row in enumerate(chosen)]
        if (
            key.target not in ("predicted", "label")
            and not _is_class(key.target)
            and record.classes[key.target][0] >= 0
        ):
            # Which class it is differs from row to row, and stands nowhere else.
            names = [probes.class_name(int(index)) for index in record.classes[key.target][chosen]]
            captions = [(name, *lines) for name, lines in zip(names, captions, strict=True)]
        overlay, heatmap = _headings(key.target, probes)
        columns.setdefault("overlay", []).append(Tiles(overlay, enlarged(over.mixed, factor, over.broken), captions))
        columns.setdefault("heatmap", []).append(Tiles(heatmap, enlarged(over.colors, factor, over.broken), captions))
    return [tile for name in drawing.columns for tile in columns.get(name, [])]


def lay_over(base: Pixels, maps: FloatArray, shares: FloatArray, drawing: Drawing) -> Overlays:
    """Lays coloured maps over pictures.

    Args:
        base: The pictures, uint8 ``[N, s, H, W, 3]``.
        maps: Whole signed maps, ``[N, h, w]`` or ``[N, d, h, w]``: they tell what is all zero or not finite.
        shares: What is shown of them, in 0…1, ``[N, s, h, w]``.
        drawing: Colour map, opacity, interpolation and scale.
    """
    values = heat(shares, base.shape[2:4], drawing.interpolation)
    colors = lookup_table(drawing.colormap)[(np.clip(values, 0, 1) * 255).round().astype(np.uint8)]
    mixed = (base * (1 - drawing.opacity) + colors * drawing.opacity).round().astype(np.uint8)
    # A map without any evidence shows the picture untouched, so that it can't be taken for a weak map.
    blank = maxima(maps) <= 0 if drawing.scale != "minmax" else np.asarray((maps == 0).all(axis=_own_axes(maps)))
    mixed[blank] = base[blank]
    # What is left of a broken map is not shown: its finite part would look like a map.
    broken = np.asarray(~np.isfinite(maps).all(axis=_own_axes(maps)))
    mixed[broken], colors[broken] = _faded(base[broken]), 224
    return Overlays(mixed, colors, blank, broken)


def tile_size(display: tuple[int, ...], drawing: Drawing, slices: Slices) -> tuple[int, int]:
    """Returns height and width of every tile, for display pixels of this shape, ``[N, H, W, 3]`` or with frames."""
    shown = len(slices.chosen)
    height, width = fitted_size(shown, display[-3], display[-2], drawing.max_tile)
    factor = _factor((1, shown, height, width), drawing)
    return height * factor, shown * (width * factor + SEAM) - SEAM


def heat(maps: FloatArray, size: tuple[int, ...], interpolation: Interpolation) -> FloatArray:
    """Resizes maps to the picture's resolution, each slice by itself.

    Args:
        maps: ``[N, h, w]`` or ``[N, d, h, w]``.
        size: ``(H, W)``.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``; where a map is finer than the picture, what
            falls on one pixel is averaged instead, as it is for the picture.

    Returns:
        ``[N, H, W]`` or ``[N, d, H, W]``; places are matched by area, corners not aligned.
    """
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    flat = resized(maps.reshape(-1, height, width), (size[0], size[1]), interpolation)
    return flat.reshape(*maps.shape[:-2], *size)


def scaled(maps: FloatArray, drawing: Drawing, top: FloatArray) -> FloatArray:
    """Brings maps to 0…1 by the stated scale, all slices alike; one without a positive value stays all zero.

    Args:
        maps: Signed maps ``[N, h, w]`` or ``[N, d, h, w]``.
        drawing: Its ``scale`` says how.
        top: What 1 stands for, ``[N]``; unused with ``"minmax"``.

    Returns:
        The maps in 0…1; places that are not finite become 0.
    """
    clean = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    if drawing.scale == "minmax":
        low, high = (of(axis=_own_axes(clean), keepdims=True) for of in (clean.min, clean.max))
        span = high - low
        return np.asarray(np.divide(clean - low, span, out=np.zeros_like(clean), where=span > 0))
    positive = np.maximum(clean, 0)
    limit = np.broadcast_to(top.reshape(-1, *[1] * (clean.ndim - 1)), positive.shape)
    return np.asarray(np.clip(np.divide(positive, limit, out=np.zeros_like(positive), where=limit > 0), 0, 1))


def maxima(maps: FloatArray, *, relu: bool = True) -> FloatArray:
    """Returns each map's largest finite value ``[N]``, after ReLU by default; 0 where none is finite."""
    largest = np.where(np.isfinite(maps), maps, -np.inf).max(axis=_own_axes(maps))
    floor = 0 if relu else -np.inf
    return np.asarray(np.where(np.isfinite(largest), np.maximum(largest, floor), 0), np.float32)


def true_classes(label: Tensor) -> list[int]:
    """Returns the true classes of one probe: one, or those marked in a label with several."""
    return [int(label)] if label.dim() == 0 else [int(index) for index in label.nonzero()]


def evenly(count: int, most: int, *, ends: bool = False) -> list[int]:
    """Returns at most ``most`` places of ``count``, evenly chosen; at least one.

    Args:
        count: How many there are.
        most: How many there is room for.
        ends: The last is to be among them, as the first always is.

    Example:
        >>> evenly(10, 4), evenly(10, 4, ends=True)
        ([0, 2, 5, 7], [0, 3, 6, 9])
    """
    shown = min(count, max(1, most))
    if ends and shown > 1:
        return [(2 * place * (count - 1) + shown - 1) // (2 * (shown - 1)) for place in range(shown)]
    return [place * count // shown for place in range(shown)]


def _own_axes(maps: npt.NDArray[Any]) -> tuple[int, ...]:
    return tuple(range(1, maps.ndim))


def _headings(target: str, probes: ProbeSet) -> tuple[str, str]:
    """Returns what stands above a target's overlays and heatmaps."""
    if "_vs_" in target:
        # Both classes have to fit above a small tile.
        shown = target.replace("_vs_", " vs ")
        return shown, f"map: {shown}"
    shown = f"class {probes.class_name(int(target))}" if _is_class(target) else target
    return f"overlay: {shown}", f"map: {shown}"


def _is_class(target: str) -> bool:
    """Whether a target's name is a class index; a function may be named with other digits than these."""
    return target.isascii() and target.isdigit()


def _map_caption(record: CamRecord, key: CamKey, row: int, top: float, blank: bool) -> tuple[str, ...]:
    kind = "logit" if record.score == "logit" else "p"
    kind = "difference" if "_vs_" in key.target else kind
    score = f"{kind if record.classes[key.target][row] >= 0 else 'score'} {record.scores[key.target][row]:.3g}"
    if not np.isfinite(record.maps[key][row]).all():
        return score, BROKEN
    return score, "map all zero" if blank else f"map max {top:.3g}"


def fitted(frames: Pixels, longest: int) -> Pixels:
    """Scales pictures ``[N, s, H, W, 3]`` down to the longest side allowed, and to the widest strip."""
    count, shown, height, width = frames.shape[:4]
    smaller_h, smaller_w = fitted_size(shown, height, width, longest)
    if (smaller_h, smaller_w) == (height, width):
        return frames
    pictures = frames.reshape(-1, height, width, 3)
    box = Image.Resampling.BOX
    smaller = [np.asarray(Image.fromarray(picture).resize((smaller_w, smaller_h), box)) for picture in pictures]
    return np.stack(smaller).reshape(count, shown, smaller_h, smaller_w, 3)


def fitted_size(shown: int, height: int, width: int, longest: int) -> tuple[int, int]:
    """Returns height and width of pictures, so many side by side, scaled down to the longest side allowed."""
    share = min(1.0, longest / max(height, width), _room(shown, longest) / width)
    return max(1, round(height * share)), max(1, round(width * share))


def _room(shown: int, longest: int) -> int:
    """Returns how wide each of so many pictures in a strip may be."""
    return (max(_WIDEST_STRIP, longest) - SEAM * (shown - 1)) // shown


def _factor(shape: tuple[int, ...], drawing: Drawing) -> int:
    # Up to 112 on the shorter side, without letting an elongated picture or a strip outgrow the screen.
    shown, height, width = shape[1:4]
    shorter, longer = sorted((height, width))
    across = 512 // longer if shown == 1 else _room(shown, drawing.max_tile) // width
    return drawing.magnification or max(1, min(-(-112 // shorter), 512 // longer, across))


def _faded(pictures: Pixels) -> Pixels:
    grey = pictures @ np.array([0.299, 0.587, 0.114]) * 0.5 + 100
    return np.asarray(grey.round().astype(np.uint8)[..., None].repeat(3, axis=-1))


def enlarged(pictures: Pixels, factor: int, crossed: npt.NDArray[np.bool_] | None = None) -> Pixels:
    """Enlarges pictures ``[N, s, H, W, 3]`` and puts those of a probe side by side; some probes' are crossed out."""
    large = pictures if factor == 1 else pictures.repeat(factor, axis=2).repeat(factor, axis=3)
    for row in np.flatnonzero(crossed) if crossed is not None else ():
        for picture in large[row]:
            cross_out(picture)
    count, shown, height, width = large.shape[:4]
    if shown == 1:
        return large[:, 0]
    strip = np.full((count, height, shown * (width + SEAM) - SEAM, 3), 255, np.uint8)
    for place in range(shown):
        strip[:, :, place * (width + SEAM) : place * (width + SEAM) + width] = large[:, place]
    return strip
