"""Shared by film strips and animations: the overlays of one map at a run's steps, and their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightning_gradcam.errors import DrawingError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord, FloatArray, IntArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.boxes import put_box
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.overlay import Laid, Overlays, lay_over, scaled
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.scale import limits_of
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.slices import frame_under
from lightning_gradcam.render.text import INK, RIGHT, WRONG, Color
from lightning_gradcam.render.tiles import enlarged, fitted, fitted_size
from lightning_gradcam.sheets.builder import Caption
from lightning_gradcam.sheets.words import quantity
from lightning_gradcam.stats.boxes import bounding_boxes, known_boxes, picture_size
from lightning_gradcam.stats.numbers import drift

# Size in pixels of a signal's curve with the band for its map, before it is scaled to a tile.
_CHART = (72, 112)


# Captions below maps that are not shown.
_BLANK, _BROKEN = "blank", "not finite"
_JUDGED: Mapping[bool | None, tuple[Color, str]] = {None: (INK, ""), True: (RIGHT, "right"), False: (WRONG, "wrong")}


@dataclass(frozen=True, eq=False)
class Film:
    """One map of some probes at a run's steps, ready to be drawn step by step.

    Attributes:
        records: The steps, in order.
        probes: All of the run's probes.
        key: The map's key.
        drawing: The options; the scales ``"image"`` and ``"run"`` both use one scale per probe over all steps.
        whole: Whether the scale is based on the whole run, not only on ``records``.
        rows: The indices of the drawn probes, ``[n]``.
        base: The drawn probes' images, uint8 ``[n, 1, H, W, 3]``, before they are enlarged.
        factor: Number of screen pixels per image pixel along a side.
        top: The value of the brightest colour, ``[n]``; unused with ``"minmax"``.
        places: Index of the drawn slice for each probe, ``[n]``; all 0 if maps have no time or depth.
        laid: Overlays drawn earlier, to be reused.
    """

    records: tuple[CamRecord, ...]
    probes: ProbeView
    key: CamKey
    drawing: Drawing
    whole: bool
    rows: tuple[int, ...]
    base: Pixels
    factor: int
    top: FloatArray
    places: IntArray
    laid: Laid

    @classmethod
    def of(
        cls,
        records: Sequence[CamRecord],
        probes: ProbeSet | ProbeView,
        *,
        key: CamKey,
        drawing: Drawing,
        limits: FloatArray | None,
        side: int,
        laid: Laid | None = None,
    ) -> Film:
        """Prepares the data that is the same at all steps, for all probes.

        Args:
            records: The steps to draw, in order. Steps without the map are omitted.
            probes: The probes, for images, true classes and names.
            key: The map's key.
            drawing: Colour map, opacity, interpolation; the scales ``"image"`` and ``"run"`` both mean ``"run"``.
            limits: Each probe's limit over the whole run, ``[N]``; ``None`` uses the limit of this layer and method
                over ``records``.
            side: As in :func:`tile_shape`.
            laid: Overlays of the same probes drawn earlier, to be reused. Default: none.

        Raises:
            DrawingError: No record contains the map.
        """
        shown = _with_map(records, key)
        shape = shown[0].maps[key].shape
        probes, drawing = charted(probes.view, drawing, shape, _CHART)
        top = np.asarray(_limits(shown, key, signed=drawing.signed) if limits is None else limits, np.float32)
        if drawing.scale == "layer":
            top = np.full_like(top, top.max())
        base, depth = probes.pixels, shape[1] if len(shape) == 4 else 0
        places = _strongest(shown, key, signed=drawing.signed) if depth else np.zeros(len(base), np.int64)
        if base.ndim == 5:
            base = base[np.arange(len(base)), frame_under(places, depth, base.shape[1])]
        height, width, factor = tile_shape(base.shape, drawing, side)
        base = fitted(base[:, None], max(height, width) // factor)
        rows = tuple(range(len(base)))
        return cls(shown, probes, key, drawing, limits is not None, rows, base, factor, top, places, laid or Laid())

    def part(self, rows: Sequence[int]) -> Film:
        """Returns a film with only some of the probes, selected by index."""
        chosen = list(rows)
        found = {name: getattr(self, name)[chosen] for name in ("base", "top", "places")}
        return replace(self, rows=tuple(self.rows[row] for row in chosen), **found)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a tile in screen pixels."""
        return self.factor * self.base.shape[2], self.factor * self.base.shape[3]

    @property
    def inputs(self) -> Pixels:
        """The images under the maps, uint8 ``[n, H, W, 3]``, enlarged."""
        return enlarged(self.base, self.factor)

    def overlays(self, step: int) -> tuple[Pixels, list[str]]:
        """Returns one step's overlays, uint8 ``[n, H, W, 3]``, and for each the reason if the map is not shown.

        Args:
            step: An index into ``records``.
        """
        maps, drawing = self.records[step].maps[self.key][list(self.rows)], self.drawing

        def lay() -> Overlays:
            # Scale all slices together: hidden slices also count.
            shares = scaled(maps, drawing, self.top)
            shown = shares[np.arange(len(shares)), self.places] if shares.ndim == 4 else shares
            shown = shown[:, None] if shown.ndim == 2 else shown
            return lay_over(self.base, maps, shown[:, None], drawing)

        look = drawing.colormap, drawing.opacity, drawing.interpolation, drawing.scale, drawing.signed
        how = self.key, self.rows, self.base.shape, self.top.tobytes(), self.places.tobytes(), look
        over = self.laid.of(self.records[step], how, lay)
        # Copy even without enlargement, because crosses and boxes are drawn on the result.
        pictures = enlarged(over.mixed.copy() if self.factor == 1 else over.mixed, self.factor, over.broken)
        if drawing.boxes:
            self._put_boxes(pictures, maps, over.broken)
        return pictures, np.select([over.broken, over.blank], [_BROKEN, _BLANK], "").tolist()

    def _put_boxes(self, pictures: Pixels, maps: FloatArray, broken: npt.NDArray[np.bool_]) -> None:
        known, size = known_boxes(self.probes), picture_size(self.probes)
        # Boxes are those of the shown slice.
        flat = maps[np.arange(len(maps)), self.places] if maps.ndim == 4 else maps
        found = bounding_boxes(flat, size, self.drawing.box_threshold)
        for place in np.flatnonzero(~broken):
            put_box(pictures[place], found[place], size)
            if known is not None:
                put_box(pictures[place], known[self.rows[place]], size, known=True)

    def predicted(self, step: int, place: int) -> int:
        """Returns a probe's predicted class at a step, or -1 if there is none."""
        return int(self.records[step].predicted[self.rows[place]])

    def earlier(self, step: int, place: int) -> int:
        """Returns a probe's predicted class at the last earlier step with a prediction, or -1 if there is none."""
        known = (self.predicted(before, place) for before in reversed(range(step)))
        return next((predicted for predicted in known if predicted >= 0), -1)

    def changed(self, step: int, place: int) -> bool:
        """Returns whether the predicted class differs from that at the last earlier step with a prediction."""
        now = self.predicted(step, place)
        return now >= 0 and self.earlier(step, place) not in (-1, now)

    def right(self, step: int, place: int) -> bool | None:
        """Returns whether the predicted class is the true class, or one of several; ``None`` if unknown."""
        predicted, true = self.predicted(step, place), self.probes.true_classes(self.rows[place])
        return predicted in true if true and predicted >= 0 else None

    def named(self, step: int, place: int, text: str) -> Caption:
        """Returns a caption with the colour and mark for a right or wrong prediction."""
        return Caption(text, *_JUDGED[self.right(step, place)])

    def state(self, step: int, place: int, missing: str) -> Caption:
        """Returns a caption: the predicted class's probability (without classes, the score), or why no map is shown."""
        if missing:
            return Caption(missing, WRONG if missing == _BROKEN else INK)
        record, row = self.records[step], self.rows[place]
        if record.predicted[row] < 0:
            return Caption(f"{quantity(record, self.key.target)} {record.scores[self.key.target][row]:.3g}")
        confidence = float(record.confidence[row])
        return Caption(f"{confidence:.0%}" if np.isfinite(confidence) else "")

    def moved(self, drifts: FloatArray, place: int) -> list[Caption]:
        """Returns the caption that states a map's drift, or none if the drift is unknown."""
        return [Caption(f"drift {drifts[place]:.2f}")] if np.isfinite(drifts[place]) else []

    def drifts(self, step: int) -> FloatArray:
        """Returns each map's drift from the previous step in ``records``, ``[n]``.

        NaN if the maps can't be compared: at the first step, for different classes, or if either map is blank.

        Args:
            step: An index into ``records``.
        """
        if step == 0:
            return np.full(len(self.rows), np.nan)
        chosen, pair = list(self.rows), (self.records[step - 1], self.records[step])
        maps = [one.maps[self.key][chosen].reshape(len(chosen), 1, -1) for one in pair]
        changed = pair[1].changed_from(pair[0])[self.key.target][chosen]
        blank = (maps[0] <= 0).all(axis=(1, 2)) | (maps[1] <= 0).all(axis=(1, 2))
        return np.asarray(np.where(changed | blank, np.nan, drift(*maps)))

    @property
    def marks(self) -> list[tuple[Pixels | str | None, str]]:
        """The marks for right and wrong with their meanings, for a legend; none if no prediction can be judged."""
        judged = any(self.right(s, p) is not None for s in range(len(self.records)) for p in range(len(self.rows)))
        return [("right", "right"), ("wrong", "wrong")] if judged else []

    @property
    def classed(self) -> bool:
        """Whether the model predicts classes."""
        return any((record.predicted[list(self.rows)] >= 0).any() for record in self.records)


def _with_map(records: Sequence[CamRecord], key: CamKey) -> tuple[CamRecord, ...]:
    """Returns the records that contain a map.

    Raises:
        DrawingError: No record contains it.
    """
    having = tuple(record for record in records if key in record.maps)
    if not having:
        known = [tuple(other) for other in dict.fromkeys(other for record in records for other in record.maps)]
        raise DrawingError(
            f"key: got {tuple(key)}, which is in none of the {len(records)} records; pass one of: {known}"
        )
    return having


def _limits(records: Sequence[CamRecord], key: CamKey, *, signed: bool) -> FloatArray:
    """Returns each probe's limit over all targets and steps for a layer and method, ``[N]``."""
    row = [maps for one in records for other, maps in one.maps.items() if other[:2] == key[:2]]
    return np.asarray(np.max([limits_of(maps, signed=signed) for maps in row], axis=0), np.float32)


def tile_shape(display: tuple[int, ...], drawing: Drawing, side: int) -> tuple[int, int, int]:
    """Returns a tile's height and width, and its magnification.

    Args:
        display: Shape of the display pixels, ``[N, H, W, 3]`` or with frames.
        drawing: The options; ``magnification`` and ``max_tile`` are upper limits.
        side: Size in pixels to which larger images are scaled down. Smaller images are enlarged by a whole number to
            about 0.7 of it.
    """
    height, width = fitted_size(1, display[-3], display[-2], min(side, drawing.max_tile))
    shorter, longer = sorted((height, width))
    # The longer side of an elongated image may exceed the size by half.
    factor = max(1, min(round(0.7 * side / shorter), side * 3 // 2 // longer, drawing.magnification or side))
    return height * factor, width * factor, factor


def _strongest(records: Sequence[CamRecord], key: CamKey, *, signed: bool) -> IntArray:
    """Returns each probe's slice with the most evidence over all steps (of both signs if signed), ``[N]``."""
    sums = np.zeros(records[0].maps[key].shape[:2], np.float64)
    for record in records:
        maps = np.nan_to_num(record.maps[key], nan=0.0, posinf=0.0, neginf=0.0)
        sums += (np.abs(maps) if signed else np.maximum(maps, 0)).sum(axis=(-2, -1), dtype=np.float64)
    return np.asarray(sums.argmax(axis=1), np.int64)
