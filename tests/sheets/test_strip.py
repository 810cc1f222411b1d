"""Tests of film strips, down to single pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam import CamKey, CamRecord, Drawing, ProbeSet
from lightning_gradcam.errors import DrawingError
from lightning_gradcam.render.drawing import colors_of, lookup_table
from lightning_gradcam.render.overlay import Laid
from lightning_gradcam.render.text import INK, PALE, RIGHT, WRONG, _font, write
from lightning_gradcam.sheets.builder import FRAME, MARK
from lightning_gradcam.sheets.film import Film, tile_shape
from lightning_gradcam.sheets.film_lines import film_footer, film_header
from lightning_gradcam.sheets.strip import MOST_COLUMNS, by_change, film_strip
from tests.samples import INF, LEFT, NAN, Array, probe_set, record, rules

KEY = CamKey("conv", "gradcam", "predicted")
GAP, CAPTION = 10, 34
NAMES = ("Coat", "Bag", "Boot")


def step(maps: Any, number: int = 0, predicted: Any = 0, **fields: Any) -> CamRecord:
    """One record whose epoch is `number`."""
    count = len(maps)
    classes = np.broadcast_to(np.asarray(predicted, np.int64), (count,))
    return record(maps, **{"epoch": number, "step": 10 * number + 5, "predicted": classes, **fields})


def strip(records: list[CamRecord], probes: ProbeSet, drawing: Drawing | None = None, **options: Any) -> Array:
    drawing = drawing or Drawing(colormap="viridis", interpolation="nearest")
    return film_strip(records, probes, key=KEY, drawing=drawing, title="gradcam", **options).pixels


def corner(pixels: Array, count: int, row: int, column: int, size: tuple[int, int]) -> tuple[int, int]:
    """Where a tile begins; column -1 is the input. A line is above each row, and one below the last."""
    pitch = max(size[1], 62) + GAP
    lines = rules(pixels)
    assert len(lines) == count + 1
    y = lines[row] + FRAME + 3
    # Where there are few columns, there is more room for labels before the input.
    left = LEFT + int(np.flatnonzero((pixels[y : y + size[0], LEFT:] != 255).any((0, 2)))[0])
    return y, left if column < 0 else left + max(pitch, 94) + GAP + column * pitch


def tile(
    pixels: Array, row: int = 0, column: int = 0, *, count: int = 1, size: tuple[int, int] = (84, 84), around: int = 0
) -> Array:
    y, x = corner(pixels, count, row, column, size)
    return pixels[y - around : y + size[0] + around, x - around : x + size[1] + around]


def below(pixels: Array, line: int, row: int = 0, column: int = 0, *, count: int = 1) -> Array:
    """One line of text under a tile of 84 pixels."""
    y, x = corner(pixels, count, row, column, (84, 84))
    top = y + 84 + FRAME + 16 * line
    return pixels[top : top + 15, x : x + 84 + GAP - 2]


def constant(*values: float) -> Array:
    return np.array(values, np.float32).reshape(-1, 1, 1).repeat(2, 1).repeat(2, 2)


def mixed(picture: Array, share: float, opacity: float = 0.5, colormap: str = "viridis") -> Array:
    """The overlay of one value, by the formula; where it lies between two whole numbers either may be drawn."""
    color = lookup_table(colormap)[round(share * 255)].astype(float)
    return np.asarray(picture.repeat(3, 0).repeat(3, 1) * (1 - opacity) + color * opacity)


def shows(found: Array, expected: Array) -> bool:
    return bool(found.shape == expected.shape and np.abs(found - expected).max() <= 0.5001)


# ---- which steps


@pytest.mark.parametrize("count", [1, 2, 23, 24, 25, 47, 48, 100, 1000])
@pytest.mark.parametrize("most", [1, 2, 7, MOST_COLUMNS])
def test_steps_of_equal_change_are_evenly_chosen_with_the_first_and_the_last(count: int, most: int) -> None:
    places = by_change([0.1] * count, most)
    apart = np.diff(places)
    assert len(places) == min(count, most)
    assert places[0] == 0
    assert most == 1 or places[-1] == count - 1
    assert apart.size == 0 or (apart.min() >= 1 and apart.max() - apart.min() <= 1)


def test_at_most_24_columns_by_default() -> None:
    assert len(by_change([0.0] * 500)) == 24
    assert by_change([0.0] * 24) == list(range(24))


def test_more_steps_are_shown_where_maps_change() -> None:
    # Nothing but a jump at step 60: all that there is room for is about it, from the step before it on.
    jump = by_change([float(place == 60) for place in range(100)], 6)
    assert jump[0] == 0
    assert jump[-1] == 99
    assert {59, 60} <= set(jump)
    # Falling as in most trainings: more of the first half, and in the order of the run.
    falling = by_change([NAN, *(1 / place for place in range(1, 100))], 12)
    assert falling == sorted(set(falling))
    assert (falling[0], falling[-1], len(falling)) == (0, 99, 12)
    assert sum(place < 50 for place in falling) >= 8


# ---- colours and scales


@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.5, 1.0])
def test_map_at_its_maximum_has_the_top_colour(opacity: float) -> None:
    probes = probe_set(1)
    drawing = Drawing(colormap="viridis", interpolation="nearest", opacity=opacity)
    pixels = strip([step(constant(3.0))], probes, drawing)
    assert shows(tile(pixels), mixed(probes.pixels[0], 1.0, opacity))


def test_a_rows_columns_are_on_one_scale() -> None:
    probes = probe_set(2)
    records = [step(constant(2, 8)), step(constant(4, 2), 1), step(constant(1, 6), 2)]
    pixels = strip(records, probes)
    # Of 4 and of 8; 0.5 * 255 = 127.5 is rounded to 128.
    for row, shares in enumerate(([0.5, 1, 0.25], [1, 0.25, 0.75])):
        for column, share in enumerate(shares):
            assert shows(tile(pixels, row, column, count=2), mixed(probes.pixels[row], share))


def test_scale_is_that_of_the_whole_run_also_where_its_maximum_is_not_shown() -> None:
    probes = probe_set(1)
    pixels = strip([step(constant(2)), step(constant(4), 1)], probes, limits=np.array([8], np.float32))
    assert shows(tile(pixels, column=0), mixed(probes.pixels[0], 0.25))
    assert shows(tile(pixels, column=1), mixed(probes.pixels[0], 0.5))


def test_scale_of_records_is_over_all_targets_and_robust() -> None:
    probes, first, second = probe_set(1), np.ones((1, 14, 14)), np.full((1, 14, 14), 2.0)
    first[0, 0, :4] = 100
    records = [record(first), record(second / 8, second, targets=("predicted", "label"), epoch=1)]
    pixels = strip(records, probes, Drawing(colormap="viridis", interpolation="nearest"))
    assert shows(tile(pixels, column=0)[20:], mixed(probes.pixels[0], 0.5)[20:])
    assert shows(tile(pixels, column=1), mixed(probes.pixels[0], 0.125))
    assert shows(tile(pixels)[0, :24][None], mixed(probes.pixels[0], 1.0)[0, :24][None])


def test_layer_scale_is_one_for_all_probes_and_steps() -> None:
    probes = probe_set(2)
    drawing = Drawing(colormap="viridis", interpolation="nearest", scale="layer")
    pixels = strip([step(constant(2, 8)), step(constant(4, 2), 1)], probes, drawing)
    for row, shares in enumerate(([0.25, 0.5], [1, 0.25])):
        for column, share in enumerate(shares):
            assert shows(tile(pixels, row, column, count=2), mixed(probes.pixels[row], share))


def test_minmax_is_each_maps_own() -> None:
    probes = probe_set(1, display=np.full((1, 28, 28, 3), 90, np.uint8))
    maps = np.array([[[-4.0, 0.0]]], np.float32)
    drawing = Drawing(colormap="viridis", interpolation="nearest", scale="minmax")
    pixels = strip([step(maps), step(maps * 5, 1)], probes, drawing)
    for column in range(2):
        left, right = tile(pixels, column=column)[0, [0, 83]]
        assert shows(left[None], 45 + lookup_table("viridis")[[0]] * 0.5)
        assert shows(right[None], 45 + lookup_table("viridis")[[255]] * 0.5)


def test_scale_image_is_drawn_as_run() -> None:
    probes, records = probe_set(2), [step(constant(2, 8)), step(constant(4, 2), 1)]
    image, run, layer = (strip(records, probes, Drawing(scale=scale)) for scale in ("image", "run", "layer"))
    # Only the header differs.
    tiles = [
        [tile(pixels, row, column, count=2) for row in range(2) for column in range(2)]
        for pixels in (image, run, layer)
    ]
    assert np.array_equal(tiles[0], tiles[1])
    assert not np.array_equal(tiles[0], tiles[2])
    said = lines(records, drawing=Drawing(scale="image"))[2]
    assert said.startswith("colours: one scale per probe rather than per map, so that its steps can be compared;")


def test_evidence_for_and_against_over_the_steps() -> None:
    probes, laid = probe_set(1, display=np.full((1, 28, 28, 3), (100, 50, 200), np.uint8)), Laid()
    records = [step(constant(-2)), step(constant(4), 1), step(constant(0), 2)]
    drawing = Drawing(interpolation="nearest")
    strip(records, probes, drawing, laid=laid)
    pixels = strip(records, probes, replace(drawing, signed=True), laid=laid)
    table = colors_of(Drawing(signed=True)).astype(float)
    # Of 4: 128 - 63.5 is rounded to even. Pictures are grey under colours, and untouched where the map is zero.
    for column, place in enumerate((64, 255)):
        assert shows(tile(pixels, column=column), np.full((84, 84, 3), 82) * 0.5 + table[place] * 0.5)
    assert (tile(pixels, column=2) == (100, 50, 200)).all()
    said = lines(records, drawing=Drawing(signed=True))
    assert said[2].endswith("both ends are the 98th percentile of the strongest map's magnitudes in this run so far")
    assert said[3].startswith("red: for the score, blue: against it")
    assert said[4].startswith("1 of 3 maps in these steps is blank (zero everywhere)")


# ---- what stands above


def lines(records: list[CamRecord], probes: ProbeSet | None = None, key: CamKey = KEY, **options: Any) -> list[str]:
    given = {"drawing": Drawing(), "whole": True, "total": None, "width": 2000, **options}
    limits = np.ones(len(records[0].maps[key]), np.float32) if given["whole"] else None
    film = Film.of(records, probes or probe_set(), key=key, drawing=given["drawing"], limits=limits, side=112)
    found = film_header(film, "gradcam", given["total"], given["width"]) + film_footer(film, given["width"])
    return [text for text, _ in found if not text.startswith("drift: ")]


def test_header_states_layer_method_target_steps_and_scale() -> None:
    records = [step(constant(1, 1), number) for number in range(3)]
    assert lines(records) == [
        "gradcam  conv",
        "Grad-CAM of the logit of the predicted class; all 3 logged epochs",
        "colours: one scale for each probe, over all its targets and steps; it ends at the 98th percentile of the"
        " strongest map in this run so far",
    ]
    assert lines(records, total=100)[1].endswith("; 3 of 100 logged epochs, more of them where maps change")
    assert lines(records[:1])[1].endswith("; one logged step")
    assert "in the steps shown" in lines(records, whole=False)[2]
    assert "one scale for all probes, targets and steps" in lines(records, drawing=Drawing(scale="layer"))[2]
    assert "(no ReLU); not comparable between steps" in lines(records, drawing=Drawing(scale="minmax"))[2]
    noted = lines(records, probe_set(note="drawn data", display_source="each image min-max stretched"))
    assert (noted[2], noted[4]) == ("drawn data", "images: each image min-max stretched")
    # Pictures as a person knows them need no explanation.
    assert len(lines(records, probe_set(display_source="Normalize undone"))) == 3


@pytest.mark.parametrize(
    ("target", "said"),
    [("label", "the true class"), ("1", "class Bag"), ("1_vs_2", "target 1 vs 2"), ("margin", "target margin")],
)
def test_header_names_the_target(target: str, said: str) -> None:
    records = [record(constant(1, 1), targets=(target,))]
    key = CamKey("conv", "gradcam", target)
    assert lines(records, probe_set(class_names=NAMES), key)[1] == f"Grad-CAM of the logit of {said}; one logged step"


def test_header_is_wrapped_to_the_width() -> None:
    wide, narrow = (lines([step(constant(1, 1))], width=width) for width in (2000, 300))
    assert max(map(_font(13).getlength, narrow)) <= 300 < max(map(_font(13).getlength, wide))
    assert " ".join(narrow) == " ".join(wide)


def test_columns_state_their_step_only_where_epochs_repeat() -> None:
    probes = probe_set(1)
    once = strip([step(constant(1), number) for number in (0, 1)], probes)
    twice = strip([step(constant(1), number, epoch=0) for number in (0, 1)], probes)
    assert twice.shape[0] - once.shape[0] == 14
    y, x = corner(twice, 1, 0, 0, (84, 84))
    assert (twice[y - FRAME - 16 : y - FRAME - 4, x : x + 60] < 200).any()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_last_column_reaches_the_right_margin(count: int) -> None:
    probes = probe_set(1)
    pixels = strip([step(constant(1), number) for number in range(count)], probes)
    assert corner(pixels, 1, 0, count - 1, (84, 84))[1] + 84 == pixels.shape[1] - 12
    assert shows(tile(pixels, column=count - 1), mixed(probes.pixels[0], 1.0))


def test_the_baseline_is_called_untrained() -> None:
    probes = probe_set(1)
    heads = [
        pixels[rules(pixels)[0] - 18 :, LEFT + 84 + 2 * GAP :][:16]
        for pixels in (strip([step(constant(1), 7, epoch=epoch)], probes) for epoch in (-1, 0))
    ]
    widths = [np.flatnonzero((head < 200).any((0, 2))).max() for head in heads]
    assert widths[0] > widths[1]


# ---- marks


def test_flip_is_framed_and_named() -> None:
    probes = probe_set(1, labels=torch.tensor([0]), class_names=NAMES)
    maps = [constant(2), constant(4), constant(3)]
    same, flipped = (
        strip([step(values, number, classes[number]) for number, values in enumerate(maps)], probes)
        for classes in ([1, 1, 1], [1, 0, 0])
    )
    assert same.shape == flipped.shape
    frame = tile(flipped, column=1, around=FRAME)
    # A thin line, with paper on both sides.
    assert (frame[1, 1:-1] == INK).all()
    assert (frame[1:-1, 1] == INK).all()
    assert (frame[[0, 2, 3]][:, FRAME:-FRAME] == 255).all()
    for column in (0, 2):
        assert (tile(flipped, column=column, around=FRAME)[1] == 255).all()
    for column in range(3):
        assert (tile(same, column=column, around=FRAME)[1] == 255).all()
        assert np.array_equal(tile(same, column=column), tile(flipped, column=column))
    # Names are red or green; the drift below the others is grey.
    second = [[below(pixels, 1, column=column) for column in range(3)] for pixels in (same, flipped)]
    named = [[bool((np.ptp(text.astype(int), axis=-1) > 60).any()) for text in texts] for texts in second]
    assert named == [[True, False, False], [True, True, False]]


def test_the_drift_from_the_column_before_is_below_maps_of_one_class() -> None:
    left, right = np.array([[[1.0, 0.0]]]), np.array([[[0.0, 1.0]]])
    records = [step(left), step(right * 3, 1), step(right, 2), step(left, 3, 1), step(left * 0, 4, 1)]
    film = Film.of(records, probe_set(1), key=KEY, drawing=Drawing(), limits=None, side=112)
    # The fourth column is another class, and the last is blank.
    classes = [replace(one, classes={"predicted": one.predicted}) for one in records]
    film = replace(film, records=tuple(classes))
    assert [film.drifts(place).tolist() for place in (1, 2)] == [[1.0], [0.0]]
    assert np.isnan([film.drifts(place)[0] for place in (0, 3, 4)]).all()
    pixels = strip(classes, probe_set(1, class_names=NAMES))
    shown = [below(pixels, 1, column=column) for column in range(5)]
    said = [write(np.full((20, 90, 3), 255, np.uint8), (0, 0), f"drift {value:.2f}", 90, 12, PALE) for value in (1, 0)]
    assert [int(np.flatnonzero((text < 200).any((0, 2))).max()) for text in shown[1:3]] == pytest.approx(said, abs=3)
    assert (shown[4] == 255).all()


def test_right_and_wrong_differ_in_shape_and_colour() -> None:
    probes = probe_set(1, labels=torch.tensor([0]), class_names=NAMES)
    pixels = strip([step(constant(1), 0, 1), step(constant(1), 1, 0)], probes)
    wrong, right = (below(pixels, 0, column=column)[2 : 2 + MARK, :MARK] for column in range(2))
    assert tuple(wrong[0, 0]) == WRONG
    assert (right[0, 0] > 200).all()  # a disc: its corner is paper
    assert tuple(right[2, 6]) == RIGHT
    assert tuple(wrong[6, 6]) == (255, 255, 255)  # the arms of the cross meet here


def marks(pixels: Array, columns: int) -> list[bool]:
    """In which columns there is a mark: green or red at the left of the first line."""
    found = [below(pixels, 0, column=column)[2 : 2 + MARK, :MARK].astype(int) for column in range(columns)]
    return [bool((np.abs(area[..., 0] - area[..., 1]) > 60).any()) for area in found]


def test_several_labels_are_right_with_any_of_them() -> None:
    probes = probe_set(1, labels=torch.tensor([[1, 0, 1]]))
    pixels = strip([step(constant(1), number, number) for number in range(3)], probes)
    colors = [tuple(below(pixels, 0, column=column)[2 + 2, 6]) for column in range(3)]
    assert colors == [RIGHT, WRONG, RIGHT]


@pytest.mark.parametrize("labels", [None, torch.tensor([[0, 0, 0]])], ids=["no labels", "no class marked"])
def test_without_a_true_class_nothing_is_judged(labels: Any) -> None:
    pixels = strip([step(constant(1), number, number) for number in range(2)], probe_set(1, labels=labels))
    assert marks(pixels, 2) == [False, False]
    assert (tile(pixels, column=1, around=FRAME)[1, 1:-1] == INK).all()


def test_a_step_without_a_prediction_is_not_judged_and_is_no_change() -> None:
    probes = probe_set(1, labels=torch.tensor([0]), class_names=NAMES)
    lost = step(constant(NAN), 1, -1, confidence=np.array([NAN], np.float32))
    stays, changes = (strip([step(constant(1), 0, 0), lost, step(constant(1), 2, after)], probes) for after in (0, 1))
    assert marks(stays, 3) == marks(changes, 3) == [True] * 3, "a mark, “map not finite” in red, a mark"
    unjudged = strip([step(constant(1), 0, 0), lost], probe_set(1, class_names=NAMES))
    assert np.array_equal(below(stays, 0, column=1), below(unjudged, 0, column=1))
    # Only a changed class is named in the last column.
    assert [bool((below(pixels, 1, column=2) < 200).any()) for pixels in (stays, changes)] == [False, True]
    first = strip([replace(lost, epoch=0, step=0), step(constant(1), 1, 1)], probes)
    assert (below(first, 1, column=1) < 200).any(), "the first prediction is named"


def test_without_predictions_the_score_is_stated() -> None:
    probes = probe_set(1, labels=torch.tensor([0]))
    fields = {"predicted": np.array([-1]), "confidence": np.array([NAN], np.float32)}
    scores = [np.array([value], np.float32) for value in (1.5, 200.0)]
    pixels = strip(
        [step(constant(1), n, scores={"predicted": score}, **fields) for n, score in enumerate(scores)], probes
    )
    assert marks(pixels, 2) == [False, False]
    first, second = (below(pixels, 0, column=column) for column in range(2))
    assert (first < 200).any()
    assert not np.array_equal(first, second)
    assert (below(pixels, 1) == 255).all()


# ---- blank and broken maps


def test_all_zero_map_leaves_the_picture_and_is_said_to_be() -> None:
    probes = probe_set(1)
    zero, weak = (strip([step(constant(4)), step(constant(value), 1)], probes) for value in (0.0, 1e-6))
    picture = probes.pixels[0].repeat(3, 0).repeat(3, 1)
    assert np.array_equal(tile(zero, column=1), picture)
    assert np.array_equal(tile(zero, column=-1), picture)
    assert shows(tile(weak, column=1), mixed(probes.pixels[0], 0.0))
    assert not np.array_equal(below(zero, 0, column=1), below(weak, 0, column=1))
    assert np.array_equal(below(zero, 0), below(weak, 0))


def test_map_without_positive_values_is_all_zero() -> None:
    probes = probe_set(1)
    pixels = strip([step(constant(-3)), step(constant(-0.0), 1)], probes)
    for column in range(2):
        assert np.array_equal(tile(pixels, column=column), probes.pixels[0].repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_broken_map_is_crossed_out_and_does_not_touch_the_scale(value: float) -> None:
    probes = probe_set(1)
    broken = constant(9)
    broken[0, 0, 0] = value
    pixels = strip([step(constant(2)), step(broken, 1), step(constant(4), 2)], probes, limits=np.array([4], np.float32))
    crossed = tile(pixels, column=1).astype(int)
    assert all(tuple(crossed[y, x]) == WRONG for y in (0, 83) for x in (0, 83))
    plain = (crossed != WRONG).any(-1)
    assert plain.mean() > 0.5
    assert (crossed[plain] == crossed[plain][:, :1]).all()  # grey
    assert shows(tile(pixels, column=0), mixed(probes.pixels[0], 0.5))
    assert shows(tile(pixels, column=2), mixed(probes.pixels[0], 1.0))


def test_finite_part_of_a_broken_map_counts_where_no_limits_are_given() -> None:
    broken = constant(8)
    broken[0, 0, 0] = NAN
    probes = probe_set(1)
    pixels = strip([step(constant(4)), step(broken, 1)], probes)
    assert shows(tile(pixels), mixed(probes.pixels[0], 0.5))


# ---- clips and volumes


def test_each_probe_shows_its_slice_with_most_evidence_on_that_frame() -> None:
    display = np.random.default_rng(1).integers(0, 256, (2, 6, 28, 28, 3)).astype(np.uint8)
    probes = probe_set(2, display=display)
    volume = np.zeros((2, 3, 2, 2), np.float32)
    volume[0, 2], volume[1, 0], volume[1, 1] = 4, 4, 6
    weaker = volume / 2
    weaker[0, 1, 0, 0] = 20  # a single high value is less evidence than a whole slice
    pixels = strip([step(volume), step(weaker, 1)], probes, limits=np.array([4, 6], np.float32))
    for row, frame in enumerate((5, 3)):  # centres of slices 2 and 1 of 3, in 6 frames
        picture = display[row, frame]
        assert np.array_equal(tile(pixels, row, -1, count=2), picture.repeat(3, 0).repeat(3, 1))
        assert shows(tile(pixels, row, 0, count=2), mixed(picture, 1.0))
        assert shows(tile(pixels, row, 1, count=2), mixed(picture, 0.5))


def test_flat_maps_of_a_clip_lie_on_its_middle_frame() -> None:
    display = np.random.default_rng(1).integers(0, 256, (1, 5, 28, 28, 3)).astype(np.uint8)
    probes = probe_set(1, display=display)
    for maps in (constant(1), constant(1)[:, None]):
        assert shows(tile(strip([step(maps)], probes)), mixed(display[0, 2], 1.0))
    assert lines([step(constant(1))], probes)[-1] == "drawn on frame 3 of 5, the middle one"


def test_volume_over_one_picture() -> None:
    probes = probe_set(1)
    volume = np.zeros((1, 3, 2, 2), np.float32)
    volume[0, 1] = 1
    assert shows(tile(strip([step(volume)], probes)), mixed(probes.pixels[0], 1.0))
    assert lines([step(volume)], probes)[-1] == (
        "shown: the slice, of 3 (time or depth), with the most evidence over all steps, drawn on the probe's image"
    )


# ---- sizes


@pytest.mark.parametrize(
    ("picture", "shape"),
    [
        ((28, 28), (84, 84, 3)),
        ((32, 32), (64, 64, 2)),
        ((8, 8), (80, 80, 10)),
        ((64, 64), (64, 64, 1)),
        ((112, 112), (112, 112, 1)),
        ((224, 224), (112, 112, 1)),
        ((480, 640), (84, 112, 1)),
        ((28, 60), (56, 120, 2)),
        ((10, 250), (4, 112, 1)),
        ((1, 1), (78, 78, 78)),
    ],
)
def test_tiles_are_small_and_enlarged_in_whole_numbers(picture: tuple[int, int], shape: tuple[int, ...]) -> None:
    assert tile_shape((3, *picture, 3), Drawing(), 112) == shape
    pixels = strip([step(constant(1))], probe_set(1, *picture))
    y, x = corner(pixels, 1, 0, 0, shape[:2])
    assert y > 100
    assert x + shape[1] + 12 <= pixels.shape[1]


def test_magnification_and_max_tile_are_upper_limits() -> None:
    assert tile_shape((1, 28, 28, 3), Drawing(magnification=2), 112) == (56, 56, 2)
    assert tile_shape((1, 28, 28, 3), Drawing(magnification=9), 112) == (84, 84, 3)
    assert tile_shape((1, 224, 224, 3), Drawing(max_tile=64), 112) == (64, 64, 1)


def test_picture_that_is_not_square_keeps_its_places() -> None:
    probes = probe_set(1, 64, 96)
    maps = np.zeros((1, 2, 3), np.float32)
    maps[0, 1, 0] = 1
    pixels = strip([step(maps)], probes, Drawing(colormap="viridis", interpolation="nearest", opacity=1.0))
    expected = np.full((64, 96, 3), lookup_table("viridis")[0])
    expected[32:, :32] = lookup_table("viridis")[255]
    assert np.array_equal(tile(pixels, size=(64, 96)), expected)


@pytest.mark.parametrize("room", [600_000, 2_000_000])
def test_strip_of_many_probes_is_bounded_and_says_so(room: int) -> None:
    count = 150
    probes = probe_set(count)
    maps = np.linspace(1, 2, count).reshape(-1, 1, 1).astype(np.float32)
    pixels = strip([step(maps), step(maps, 1)], probes, Drawing(max_sheet_pixels=room))
    assert pixels.shape[0] * pixels.shape[1] <= room
    shown = len(rules(pixels)) - 1
    chosen = [place * count // shown for place in range(shown)]
    assert 1 < shown < count
    for row, place in ((0, chosen[0]), (shown - 1, chosen[-1])):
        picture = probes.pixels[place].repeat(3, 0).repeat(3, 1)
        assert np.array_equal(tile(pixels, row, -1, count=shown), picture)


def test_strip_is_never_higher_than_15000() -> None:
    probes = probe_set(400, 8, 8)
    pixels = strip([step(np.ones((400, 1, 1)))], probes, Drawing(max_sheet_pixels=10**9))
    assert 14_000 < pixels.shape[0] <= 15_000


def test_as_wide_as_its_columns() -> None:
    probes = probe_set(1)
    wide, wider = (strip([step(constant(1), n) for n in range(count)], probes).shape[1] for count in (20, 24))
    assert wider - wide == 4 * (84 + GAP)


# ---- what can be wrong, and what is left alone


def test_records_without_the_map_are_left_out() -> None:
    probes = probe_set(1)
    other = record(constant(9), targets=("label",), epoch=5)
    with_it = [step(constant(2)), step(constant(4), 1)]
    assert np.array_equal(strip([with_it[0], other, with_it[1]], probes), strip(with_it, probes))


@pytest.mark.parametrize("records", [[], [record(constant(1), targets=("label",))]], ids=["none", "another"])
def test_map_that_no_record_has_is_an_error(records: list[CamRecord]) -> None:
    with pytest.raises(
        DrawingError, match=r"key: got \('conv', 'gradcam', 'predicted'\), which is in none of the [01] records"
    ):
        strip(records, probe_set(1))


def test_drawing_changes_neither_records_nor_probes() -> None:
    probes, maps = probe_set(2), constant(2, NAN)
    before, limits = probes.pixels.copy(), np.array([4, 5], np.float32)
    for array in (maps, limits):
        array.setflags(write=False)
    strip([step(maps)], probes, limits=limits)
    assert np.array_equal(probes.pixels, before)


@pytest.mark.parametrize(
    "name", ["Ankle\nboot", "日本語" * 40, "", "\ud800", "a" * 10_000], ids=lambda name: ascii(name[:8])
)
def test_class_name_of_any_kind_keeps_the_layout(name: str) -> None:
    records = [step(constant(1), 0, 0), step(constant(1), 1, 1), step(constant(1), 2, 1)]
    plain, odd = (
        strip(records, probe_set(1, labels=torch.tensor([1]), class_names=("Coat", other))) for other in ("Bag", name)
    )
    assert plain.shape == odd.shape
    assert np.array_equal(tile(plain, column=2), tile(odd, column=2))


def test_picture_is_a_plain_enlarged_png() -> None:
    picture = film_strip([step(constant(1))], probe_set(1), key=KEY, drawing=Drawing(), title="gradcam")
    assert picture.enlarged
    assert picture.file()[0] == "png"
    photo = film_strip([step(constant(1))], probe_set(1, 224, 224), key=KEY, drawing=Drawing(), title="gradcam")
    assert not photo.enlarged
