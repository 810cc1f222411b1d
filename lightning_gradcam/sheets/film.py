"""What film strips and animations share: the overlays of one map over a run's steps, their header and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightning_gradcam.errors import DrawingError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.blank import blank_sentence, record_codes
from lightning_gradcam.record.cam_record import CamRecord, FloatArray, IntArray
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.boxes import put_box
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.overlay import Laid, Overlays, lay_over, maxima, scaled
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.signals import charted, source_lines
from lightning_gradcam.render.text import INK, RIGHT, WRONG, Color
from lightning_gradcam.render.tiles import enlarged, fitted, fitted_size
from lightning_gradcam.sheets.builder import Caption, Line, remarks
from lightning_gradcam.sheets.cam_sheet import layer_title, method_title, score_title, wrapped
from lightning_gradcam.stats.boxes import bounding_boxes, known_boxes, picture_size

# Of a signal's curve, with the band of its map, before it is scaled to a tile.
CHART = (72, 112)


@dataclass(frozen=True, eq=False)
class Film:
    """One map of some probes over the steps of a run, ready to be drawn step by step.

    Attributes:
        records: The steps, in order.
        probes: All of the run's.
        key: Which map.
        drawing: With a scale that is common to all steps.
        rows: The places of the probes that are drawn, ``[n]``.
        base: Their pictures, uint8 ``[n, 1, H, W, 3]``, before they are enlarged.
        factor: How many screen pixels a picture's pixel takes.
        top: What the brightest colour stands for, ``[n]``.
        true: Each probe's true classes, ``[n]``; none where they are not known.
        places: Which slice of each probe's maps is drawn, ``[n]``; all 0 where they have no time or depth.
        laid: Overlays that were drawn before.
    """

    records: tuple[CamRecord, ...]
    probes: ProbeView
    key: CamKey
    drawing: Drawing
    rows: tuple[int, ...]
    base: Pixels
    factor: int
    top: FloatArray
    true: tuple[tuple[int, ...], ...]
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
        limits: FloatArray,
        rows: Sequence[int],
        side: int,
        laid: Laid | None = None,
    ) -> Film:
        """Prepares what is the same in all steps.

        Args:
            records: The steps to draw, in order; each has the map.
            probes: Where pictures, true classes and names are from.
            key: Which map.
            drawing: Colour map, opacity, interpolation; the scales ``"image"`` and ``"run"`` both mean ``"run"``.
            limits: Each probe's largest value in the whole run, ``[N]``.
            rows: The places of the probes to draw.
            side: As of :func:`tile_shape`.
            laid: Overlays of the same probes that were drawn before; none by default.
        """
        shape = records[0].maps[key].shape
        (probes, drawing), chosen = charted(probes.view, drawing, shape, CHART), list(rows)
        tops = np.full_like(limits, limits.max()) if drawing.scale == "layer" else limits
        top = np.asarray(tops, np.float32)[chosen]
        pixels = probes.pixels
        depth = shape[1] if len(shape) == 4 else 0
        places = _strongest(records, key)[chosen] if depth else np.zeros(len(chosen), np.int64)
        if pixels.ndim == 5:
            base = pixels[chosen, (2 * places + 1) * pixels.shape[1] // (2 * max(depth, 1))]
        else:
            base = pixels[chosen]
        height, width, factor = tile_shape(pixels.shape, drawing, side)
        base = fitted(base[:, None], max(height, width) // factor)
        true = tuple(probes.true_classes(row) for row in chosen)
        drawing, laid = common_scale(drawing), laid or Laid()
        return cls(tuple(records), probes, key, drawing, tuple(chosen), base, factor, top, true, places, laid)

    @property
    def inputs(self) -> Pixels:
        """The pictures that the maps lie on, uint8 ``[n, H, W, 3]``, enlarged."""
        return enlarged(self.base, self.factor)

    def overlays(self, step: int) -> tuple[Pixels, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Returns one step's overlays ``[n, H, W, 3]``, which maps are all zero ``[n]``, and which not finite ``[n]``.

        Args:
            step: A place in ``records``.
        """
        maps, drawing = self.records[step].maps[self.key][list(self.rows)], self.drawing

        def lay() -> Overlays:
            # Scaled as a whole, so that slices that are not shown count, too.
            shares = scaled(maps, drawing, self.top)
            shown = shares[np.arange(len(shares)), self.places] if shares.ndim == 4 else shares
            shown = shown[:, None] if shown.ndim == 2 else shown
            return lay_over(self.base, maps, shown[:, None], drawing)

        look = drawing.colormap, drawing.opacity, drawing.interpolation, drawing.scale
        how = self.key, self.rows, self.base.shape, self.top.tobytes(), self.places.tobytes(), look
        over = self.laid.of(self.records[step], how, lay)
        # A copy even where nothing is enlarged: crosses and boxes are drawn into it.
        pictures = enlarged(over.mixed.copy() if self.factor == 1 else over.mixed, self.factor, over.broken)
        if self.drawing.boxes:
            self._put_boxes(pictures, maps, over.broken)
        return pictures, over.blank, over.broken

    def _put_boxes(self, pictures: Pixels, maps: FloatArray, broken: npt.NDArray[np.bool_]) -> None:
        known, size = known_boxes(self.probes), picture_size(self.probes)
        # Of the slice that is shown.
        found = bounding_boxes(maps[np.arange(len(maps)), self.places] if maps.ndim == 4 else maps, size)
        for place in np.flatnonzero(~broken):
            put_box(pictures[place], found[place], size)
            if known is not None:
                put_box(pictures[place], known[self.rows[place]], size, known=True)

    def predicted(self, step: int, place: int) -> int:
        """Returns the class that a probe was predicted to be at a step; -1 where there is none."""
        return int(self.records[step].predicted[self.rows[place]])

    def changed(self, step: int, place: int) -> bool:
        """Returns whether the predicted class is another than at the step before."""
        return step > 0 and self.predicted(step, place) != self.predicted(step - 1, place)

    def right(self, step: int, place: int) -> bool | None:
        """Returns whether the predicted class is the true one, or one of them; ``None`` where that can't be told."""
        predicted = self.predicted(step, place)
        return predicted in self.true[place] if self.true[place] and predicted >= 0 else None

    def color(self, step: int, place: int) -> Color:
        """Returns the colour in which a predicted class is written."""
        right = self.right(step, place)
        return INK if right is None else (RIGHT if right else WRONG)

    def mark(self, step: int, place: int) -> str:
        """Returns the name of the mark beside a predicted class: ``"right"``, ``"wrong"`` or none."""
        right = self.right(step, place)
        return "" if right is None else ("right" if right else "wrong")

    def score(self, step: int, place: int) -> str:
        """Returns the explained score as text."""
        return f"{float(self.records[step].scores[self.key.target][self.rows[place]]):.3g}"

    def state(self, step: int, place: int, *, blank: bool, broken: bool) -> Caption:
        """Returns how sure the model is (of a model without classes, the score), or that there is no map to see."""
        if broken:
            return Caption("not finite", WRONG)
        if blank:
            return Caption("blank", INK)
        if self.predicted(step, place) < 0:
            return Caption(self.score(step, place))
        confidence = float(self.records[step].confidence[self.rows[place]])
        return Caption(f"{confidence:.0%}" if np.isfinite(confidence) else "")


def with_map(records: Sequence[CamRecord], key: CamKey) -> tuple[CamRecord, ...]:
    """Returns the records that have a map.

    Raises:
        DrawingError: None has it.
    """
    having = tuple(record for record in records if key in record.maps)
    if not having:
        known = [tuple(other) for other in dict.fromkeys(other for record in records for other in record.maps)]
        raise DrawingError(
            f"key: got {tuple(key)}, which none of {len(records)} records has; give one of theirs: {known}"
        )
    return having


def maxima_of(records: Sequence[CamRecord], key: CamKey) -> FloatArray:
    """Returns each probe's largest value in any of the steps, ``[N]``."""
    return np.asarray(np.max([maxima(record.maps[key]) for record in records], axis=0), np.float32)


def common_scale(drawing: Drawing) -> Drawing:
    """Returns the drawing with a scale that is common to all steps, as far as its own scale can be."""
    return replace(drawing, scale="run") if drawing.scale == "image" else drawing


def tile_shape(display: tuple[int, ...], drawing: Drawing, side: int) -> tuple[int, int, int]:
    """Returns a tile's height and width, and how often its pixels are repeated.

    Args:
        display: The shape of the display pixels, ``[N, H, W, 3]`` or with frames.
        drawing: Its ``magnification`` and ``max_tile`` are upper limits.
        side: Pictures are scaled down to this, or enlarged in whole numbers to about three quarters of it.
    """
    height, width = fitted_size(1, display[-3], display[-2], min(side, drawing.max_tile))
    shorter, longer = sorted((height, width))
    # Three halves: an elongated picture may have a little more.
    factor = max(1, min(round(0.7 * side / shorter), side * 3 // 2 // longer, drawing.magnification or side))
    return height * factor, width * factor, factor


def header(
    records: Sequence[CamRecord],
    probes: ProbeSet | ProbeView,
    *,
    key: CamKey,
    drawing: Drawing,
    title: str,
    whole: bool,
    total: int | None,
    width: int,
) -> list[Line]:
    """Returns the lines that say what is seen.

    Args:
        records: The steps that are shown; each has the map.
        probes: Where class names and remarks are from.
        key: Which map.
        drawing: Names the scale.
        title: The first words.
        whole: The scale is that of the whole run, not only of ``records``.
        total: How many steps were logged.
        width: To which lines are wrapped, in pixels.
    """
    record, count = records[-1], len(records)
    probes, drawing = charted(probes.view, drawing, record.maps[key].shape, CHART)
    steps = "logged epochs" if len({one.epoch for one in records}) == count else "logged steps"
    which = f"all {count} {steps}" if total is None or total <= count else f"{count} of {total} {steps}, evenly chosen"
    if count == 1 and (total or 1) == 1:
        which = "one logged step"
    lines = [
        (f"{method_title(key.method)} of {_score_of(record.score, key.target, probes)}", INK),
        (which, INK),
    ]
    shape = record.maps[key].shape
    known = "this run so far" if whole else "the steps shown"
    meaning = {
        "run": f"one scale for each probe in all steps, up to its maximum in {known}",
        "layer": f"one scale for all probes and steps, up to the maximum in {known}",
        "minmax": "each signed map from its minimum to its maximum (no ReLU); not comparable between steps",
    }[scale := common_scale(drawing).scale]
    lines += remarks(probes.note, color=WRONG)
    lines += remarks(f"colours: {meaning}", *_slice_lines(shape, probes.pixels.shape))
    if drawing.boxes:
        dashed = "; dashed: the known box" if known_boxes(probes) is not None else ""
        lines += remarks(f"line: box around the map's largest part over 15 % of its maximum{dashed}")
    lines += remarks(*source_lines(probes.display_source))
    codes = [record_codes(one.maps, one.causes, [key], range(len(one.probe_ids))) for one in records]
    # Drawn from minimum to maximum, a map without a positive value has colours, too.
    if scale != "minmax" and (said := blank_sentence(np.concatenate(codes), what="maps of these steps")):
        lines.append((said, INK))
    parts = [(part, color) for line, color in lines for part in wrapped(line, width)]
    return [(f"{title}  {layer_title(key.layer, key.method)}", INK), *parts]


def _strongest(records: Sequence[CamRecord], key: CamKey) -> IntArray:
    """Returns the slice of each probe that holds most evidence, summed over all steps, ``[N]``."""
    sums = np.zeros(records[0].maps[key].shape[:2], np.float64)
    for record in records:
        maps = np.nan_to_num(record.maps[key], nan=0.0, posinf=0.0, neginf=0.0)
        sums += np.maximum(maps, 0).sum(axis=(-2, -1), dtype=np.float64)
    return np.asarray(sums.argmax(axis=1), np.int64)


def _score_of(score: str, target: str, probes: ProbeView) -> str:
    """Returns what is explained; a sum of probabilities is called that, since it can exceed 1."""
    title = score_title(score)
    if target == "label" and any(len(probes.true_classes(row)) > 1 for row in range(len(probes))):
        many = {"softmax probability": "softmax probabilities"}.get(title, f"{title}s")
        return f"the sum of the {many} of the true classes"
    return f"the {title} of {_target_title(target, probes)}"


def _target_title(target: str, probes: ProbeView) -> str:
    if target == "predicted":
        return "the predicted class"
    if target == "label":
        return "the true class"
    if target.isascii() and target.isdigit():
        return f"class {probes.class_name(int(target))}"
    return f"target {target.replace('_vs_', ' vs ')}"


def _slice_lines(maps: tuple[int, ...], display: tuple[int, ...]) -> list[str]:
    depth, length = (maps[1] if len(maps) == 4 else 0), (display[1] if len(display) == 5 else 0)
    if depth < 2:
        return [f"drawn on frame {length // 2 + 1} of {length}, the middle one"] if length else []
    under = f"on the frame at its centre, of {length}" if length else "on the probe's picture"
    return [f"of {depth} slices (time or depth) the one with most evidence over all steps is shown, {under}"]
