"""Tests of slices, scales, resizing and captions: what one tile of a sheet shows."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from lightning_gradcam import CamKey, Drawing, DrawingError
from lightning_gradcam.render.boxes import FOUND, KNOWN
from lightning_gradcam.render.drawing import Scale, lookup_table
from lightning_gradcam.render.overlay import grey, heat, maxima, scaled
from lightning_gradcam.render.slices import SEAM, Slices
from lightning_gradcam.render.tiles import Tiles, _map_caption, draw_tiles
from tests.samples import INF, NAN, PLAIN, Array, probe_set, ramp, record

KEY = CamKey("conv", "gradcam", "predicted")


def volume() -> Array:
    """Signed maps [2, 3, 1, 2] whose largest values, 4 and 8, lie in the last and in the first slice."""
    return np.array([[[[-2, 0]], [[1, 0]], [[2, 4]]], [[[8, -4]], [[0, 6]], [[0, 0]]]], np.float32)


# ---- which slices, on which frames


@pytest.mark.parametrize(
    ("depth", "length", "chosen", "frames"),
    [
        (4, 16, (0, 1, 2, 3), (2, 6, 10, 14)),
        (8, 8, (0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7)),
        (9, 0, (0, 1, 2, 3, 5, 6, 7, 8), (0,) * 8),
        (15, 15, (0, 2, 4, 6, 8, 10, 12, 14), (0, 2, 4, 6, 8, 10, 12, 14)),
        (2, 3, (0, 1), (0, 2)),
        (3, 2, (0, 1, 2), (0, 1, 1)),
        (1, 16, (0,), (8,)),
        (0, 5, (0,), (2,)),
        (0, 0, (0,), (0,)),
    ],
)
def test_slices_and_frames_by_hand(depth: int, length: int, chosen: tuple[int, ...], frames: tuple[int, ...]) -> None:
    maps = (2, depth, 7, 7) if depth else (2, 7, 7)
    display = (2, length, 28, 28, 3) if length else (2, 28, 28, 3)
    assert Slices.of(maps, display) == Slices(chosen, depth, frames, length)


@pytest.mark.parametrize("depth", [1, 2, 5, 8, 9, 10, 13, 16, 64, 301])
@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
def test_slices_are_even_and_each_frame_lies_within_its_slice(depth: int, length: int) -> None:
    slices = Slices.of((1, depth, 3, 3), (1, length, 9, 9, 3))
    steps = np.diff(slices.chosen)
    assert len(slices.chosen) == min(depth, 8)
    assert (slices.chosen[0], slices.chosen[-1]) == (0, depth - 1)
    assert steps.size == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    for place, frame in zip(slices.chosen, slices.frames, strict=True):
        assert 0 <= frame < length
        centre = (place + 0.5) * length / depth
        assert frame <= centre <= frame + 1


def test_maps_and_frames_are_taken_at_their_places() -> None:
    slices = Slices((0, 2), 3, (1, 4), 5)
    maps = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    display = np.arange(10, dtype=np.uint8).reshape(2, 5, 1, 1, 1).repeat(3, axis=-1)
    assert slices.of_maps(maps)[..., 0, 0].tolist() == [[0, 2], [3, 5]]
    assert slices.of_display(display)[..., 0, 0, 0].tolist() == [[1, 4], [6, 9]]


def test_one_picture_lies_under_every_slice() -> None:
    display = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1).repeat(3, axis=-1)
    assert Slices((0, 1, 2), 3, (0, 0, 0), 0).of_display(display)[..., 0, 0, 0].tolist() == [[0, 0, 0], [1, 1, 1]]


# ---- tiles


def test_tiles_of_a_volume_are_strips_with_seams() -> None:
    probes = probe_set(2, display=np.zeros((2, 3, 2, 2, 3), np.uint8))
    drawing = Drawing(**{**PLAIN, "columns": ("heatmap",)}, magnification=1)
    slices = Slices.of((2, 3, 1, 2), probes.pixels.shape)
    (tiles,) = draw_tiles(record(volume()), probes, [KEY], drawing, None, slices, [0, 1])
    assert tiles.heading == "map: predicted"
    assert tiles.pixels.shape == (2, 2, 3 * 2 + 2 * SEAM, 3)
    table = lookup_table("viridis")
    for row, shares in enumerate(([[0, 0], [64, 0], [128, 255]], [[255, 0], [0, 191], [0, 0]])):
        for place, (left, right) in enumerate(shares):
            x = place * (2 + SEAM)
            assert (tiles.pixels[row, :, x] == table[left]).all()
            assert (tiles.pixels[row, :, x + 1] == table[right]).all()
            assert (tiles.pixels[row, :, x + 2 : x + 2 + SEAM] == 255).all()


# ---- scales


@pytest.mark.parametrize(
    ("scale", "top", "expected"),
    [
        ("image", [4, 8], [[[0, 0], [0.5, 1]], [[1, 0], [0, 0.75]]]),
        ("layer", [8, 8], [[[0, 0], [0.25, 0.5]], [[1, 0], [0, 0.75]]]),
        ("run", [2, 16], [[[0, 0], [1, 1]], [[0.5, 0], [0, 0.375]]]),
        ("minmax", [0, 0], [[[0, 2 / 6], [4 / 6, 1]], [[1, 0], [4 / 12, 10 / 12]]]),
    ],
)
def test_scaled_by_hand(scale: Any, top: list[float], expected: list[Any]) -> None:
    result = scaled(ramp().astype(np.float32), Drawing(scale=scale), np.array(top, np.float32))
    assert np.allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize(
    "values",
    [[[0, 0]], [[NAN, NAN]], [[NAN, 1]], [[INF, 1]], [[-INF, 0]], [[1e-30, 0]], [[1e30, -1e30]], [[-3, -1]]],
    ids=str,
)
def test_scaled_stays_finite_within_0_and_1(scale: Any, values: Any) -> None:
    maps = np.array([values], np.float32)
    result = scaled(maps, Drawing(scale=scale), maxima(maps))
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("scale", ["image", "layer", "run"])
def test_tiny_maps_are_scaled_like_others(scale: Any) -> None:
    maps = (ramp() * 1e-9).astype(np.float32)
    top = np.full(2, maxima(maps).max() if scale == "layer" else 0, np.float32) if scale == "layer" else maxima(maps)
    assert scaled(maps, Drawing(scale=scale), top)[1].tolist() == pytest.approx(np.array([[1, 0], [0, 0.75]]), rel=1e-5)


def test_maxima_are_the_largest_finite_values_after_relu() -> None:
    maps = np.array([[[1, 5]], [[-2, -1]], [[NAN, 3]], [[INF, 2]], [[NAN, NAN]]], np.float32)
    assert maxima(maps).tolist() == [5, 0, 3, 2, 0]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("image", [[[[0, 0]], [[0.25, 0]], [[0.5, 1]]], [[[1, 0]], [[0, 0.75]], [[0, 0]]]]),
        ("minmax", [[[[0, 2 / 6]], [[0.5, 2 / 6]], [[4 / 6, 1]]], [[[1, 0]], [[4 / 12, 10 / 12]], [[4 / 12] * 2]]]),
    ],
)
def test_slices_of_a_map_are_on_one_scale(scale: Any, expected: list[Any]) -> None:
    assert np.allclose(scaled(volume(), Drawing(scale=scale), maxima(volume())), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", get_args(Scale))
def test_slices_are_scaled_as_if_they_were_one_flat_map(scale: Any) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    flat, top = maps.reshape(3, 20, 6), np.array([1, 2, 0.5], np.float32)
    drawing = Drawing(scale=scale)
    assert np.array_equal(scaled(maps, drawing, top), scaled(flat, drawing, top).reshape(maps.shape))


def test_maxima_are_taken_over_all_slices() -> None:
    assert maxima(volume()).tolist() == [4, 8]
    assert maxima(-volume(), relu=False).tolist() == [2, 4]
    assert maxima(-np.abs(volume()) - 1).tolist() == [0, 0]
    broken = volume()
    broken[0, 2], broken[1] = NAN, INF
    assert maxima(broken).tolist() == [1, 0]
    assert maxima(broken).dtype == np.float32


# ---- resizing


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_heat_matches_torch_without_aligned_corners(interpolation: Any) -> None:
    maps = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    # With antialiasing torch takes Pillow's cubic kernel: -0.5, not -0.75.
    options = {} if interpolation == "nearest" else {"align_corners": False, "antialias": interpolation == "bicubic"}
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], (9, 8), mode=interpolation, **options)
    np.testing.assert_allclose(heat(maps, (9, 8), interpolation), expected[:, 0].numpy(), atol=1e-5)


def test_bilinear_heat_by_hand() -> None:
    result = heat(np.array([[[0.0, 4.0]]], np.float32), (1, 4), "bilinear")
    assert result.tolist() == [[[0.0, 1.0, 3.0, 4.0]]]


def test_heat_of_a_read_only_map_works() -> None:
    maps = np.ones((1, 2, 2), np.float32)
    maps.setflags(write=False)
    assert heat(maps, (4, 4), "bilinear").max() == 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_heat_does_not_bleed_into_the_next_slice(interpolation: Any) -> None:
    maps = np.zeros((2, 5, 3, 4), np.float32)
    maps[1, 2] = np.random.default_rng(0).random((3, 4)) + 1
    result = heat(maps, (9, 16), interpolation)
    assert result.shape == (2, 5, 9, 16)
    assert np.array_equal(result[1, 2], heat(maps[1:, 2], (9, 16), interpolation)[0])
    assert result[1, 2].min() > 0
    result[1, 2] = 0
    assert (result == 0).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_heat_of_a_map_finer_than_the_picture_loses_nothing(interpolation: Any) -> None:
    maps = np.zeros((1, 8, 12), np.float32)
    maps[0, 5, 7] = 4
    result = heat(maps, (4, 6), interpolation)
    assert result[0, 2, 3] == 1
    assert result.sum() == 1


def test_heat_of_a_map_as_fine_as_the_picture_is_the_map() -> None:
    maps = np.random.default_rng(0).random((2, 3, 5, 7)).astype(np.float32)
    assert np.array_equal(heat(maps, (5, 7), "bilinear"), maps)
    assert np.array_equal(heat(maps[:, 0], (5, 7), "bicubic"), maps[:, 0])


# ---- captions


def caption(values: Any, *, blank: bool = False, **fields: Any) -> tuple[str, ...]:
    maps = record([values], targets=("predicted",), **fields)
    return _map_caption(maps, CamKey("conv", "gradcam", "predicted"), 0, float(maxima(np.float32([values]))[0]), blank)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_map_that_is_not_finite_is_said_to_be(value: float) -> None:
    assert caption([[value, 1.0]]) == ("logit 1.23", "map not finite")
    assert caption([[value, value]], blank=True) == ("logit 1.23", "map not finite")


def test_caption_states_score_and_raw_maximum() -> None:
    assert caption([[0.5, 12.345]]) == ("logit 1.23", "map max 12.3")
    assert caption([[1e-8, 0.0]]) == ("logit 1.23", "map max 1e-08")
    assert caption([[0.0, 0.0]], blank=True) == ("logit 1.23", "blank: map is zero")
    assert caption([[1.0, 0.0]], score="probability")[0] == "p 1.23"
    assert caption([[1.0, 0.0]], classes={"predicted": np.array([-1])})[0] == "score 1.23"


def test_a_score_of_several_true_classes_is_called_a_sum() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    key = CamKey("conv", "gradcam", "label")
    for score, name in (("logit", "logits"), ("probability", "p")):
        maps = record(np.ones((2, 2, 2)), targets=("label",), score=score)
        probes = probe_set(2, 2, 2, labels=labels)
        tiles = draw_tiles(maps, probes, [key], Drawing(columns=("overlay",)), None, FLAT, (0, 1))[-1]
        assert tiles.captions[0] == (f"sum of {name} over", "2 classes: 1.23", "map max 1")
        assert tiles.captions[1] == (f"{name.rstrip('s')} 1.23", "map max 1")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_volume_with_one_value_that_is_not_finite_is_said_to_be(value: float) -> None:
    maps = volume()
    maps[0, 1, 0, 1] = value
    assert _map_caption(record(maps), KEY, 0, 4.0, False) == ("logit 1.23", "map not finite")
    assert _map_caption(record(maps), KEY, 1, 8.0, False) == ("logit 1.23", "map max 8")


# ---- boxes

FLAT = Slices((0,), 0, (0,), 0)


def boxed(maps: Any, *, slices: Slices = FLAT, rows: Any = (0, 1), columns: Any = ("overlay",), **fields: Any) -> Tiles:
    """The overlays of maps on 2x2 probes, 56 screen pixels each."""
    probes = probe_set(len(maps), 2, 2, **fields)
    drawing = Drawing(boxes=True, columns=columns, magnification=56)
    return draw_tiles(record(maps), probes, [KEY], drawing, None, slices, rows)[-1]


def seen(picture: Array, color: tuple[int, int, int]) -> Array:
    return (picture == color).all(axis=-1)


def test_boxes_are_drawn_on_overlays_with_their_overlap_below() -> None:
    left = np.array([[[1.0, 0], [1, 0]]] * 2)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [NAN] * 4])
    tiles = boxed(left, boxes=boxes)
    assert [lines[-1] for lines in tiles.captions] == ["IoU 0.33", "no known box"]
    found, known = seen(tiles.pixels, FOUND), seen(tiles.pixels, KNOWN)
    # Bilinearly, the left half of a 2x2 picture is its first column: the line ends at 56.
    assert found[1, 30, [1, 2, 55, 56]].all()
    assert not found[:, :, 57:].any()
    assert known[0, 55:57, 60:].any(axis=1).all()
    assert not known[1].any()


def test_the_threshold_says_what_belongs_to_a_box() -> None:
    # The known box is the left column; the right one has half of the maximum.
    maps, known = [[[4.0, 2.0], [4.0, 2.0]]] * 2, torch.tensor([[0.0, 0.0, 1.0, 2.0]] * 2)
    for share, said in ((0.15, "IoU 0.50"), (0.5, "IoU 0.50"), (0.6, "IoU 1.00")):
        drawing = Drawing(columns=("overlay",), boxes=True, box_threshold=share)
        probes = probe_set(boxes=known)
        (tile,) = draw_tiles(record(np.array(maps)), probes, [KEY], drawing, None, FLAT, (0, 1))
        assert [lines[-1] for lines in tile.captions] == [said] * 2


def test_without_known_boxes_nothing_is_said_of_them() -> None:
    tiles = boxed(ramp())
    assert tiles.captions[0] == ("logit 1.23", "map max 4")
    assert seen(tiles.pixels, FOUND).any(axis=(1, 2)).all()
    assert not seen(tiles.pixels, KNOWN).any()


def test_boxes_stand_at_the_rows_that_are_drawn() -> None:
    maps = np.zeros((3, 2, 2))
    maps[2, 0, 0] = maps[1, 1, 1] = 1
    boxes = torch.tensor([[NAN] * 4, [1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    tiles = boxed(maps, rows=[1, 2], boxes=boxes)
    assert [lines[-1] for lines in tiles.captions] == ["IoU 1.00", "IoU 0.25"]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_blank_and_broken_maps_have_no_box() -> None:
    maps = np.array([[[0.0, 0], [0, 0]], [[NAN, 1], [0, 0]]])
    tiles = boxed(maps, boxes=torch.tensor([[0.0, 0.0, 2.0, 1.0]] * 2))
    assert [lines[-1] for lines in tiles.captions] == ["IoU: no box found"] * 2
    assert not seen(tiles.pixels, FOUND).any()
    # What is crossed out shows nothing else.
    assert seen(tiles.pixels, KNOWN).any(axis=(1, 2)).tolist() == [True, False]


def test_heatmaps_have_no_box() -> None:
    tiles = boxed(ramp(), columns=("heatmap",), boxes=torch.tensor([[0.0, 0.0, 2.0, 1.0]] * 2))
    assert not seen(tiles.pixels, FOUND).any()
    assert tiles.captions[0] == ("logit 1.23", "map max 4")


def test_boxes_of_a_volume_are_drawn_on_the_slice_with_the_largest_value() -> None:
    slices = Slices((0, 2), 3, (0, 0), 0)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2)
    # The first's largest value is in the last slice, the second's in the first.
    tiles = boxed(volume(), slices=slices, boxes=boxes)
    assert [lines[-1] for lines in tiles.captions] == ["IoU 1.00, slice 3", "IoU 0.50, slice 1"]
    first, second = tiles.pixels[:, :, :112], tiles.pixels[:, :, 112 + SEAM :]
    for color in (FOUND, KNOWN):
        assert seen(first, color).any(axis=(1, 2)).tolist() == [False, True]
        assert seen(second, color).any(axis=(1, 2)).tolist() == [True, False]
    hidden = boxed(volume(), slices=Slices((1,), 3, (0,), 0), boxes=boxes)
    assert not seen(hidden.pixels, FOUND).any()
    assert hidden.captions[0][-1] == "IoU 1.00, slice 3"
    # As the column is headed: of six frames, the last of three slices lies on the sixth.
    display = np.zeros((2, 6, 2, 2, 3), np.uint8)
    framed = boxed(volume(), slices=Slices((0, 2), 3, (1, 5), 6), boxes=boxes, display=display)
    assert framed.captions[0][-1] == "IoU 1.00, frame 6"


# ---- Guided Grad-CAM


def guided(maps: Any, signed: Any, *, slices: Slices = FLAT, size: tuple[int, int] = (2, 2)) -> list[Tiles]:
    key = KEY._replace(method="guided_gradcam")
    both = record(maps, maps={KEY: np.float32(maps), key: np.float32(signed)})
    drawing = Drawing(columns=("overlay", "guided"), magnification=1)
    return draw_tiles(both, probe_set(len(maps), *size), [KEY], drawing, None, slices, range(len(maps)))


def test_guided_is_grey_with_zero_in_the_middle_and_each_by_its_largest_magnitude() -> None:
    signed = np.array([[[0, 0.1], [-0.2, 0.2]], [[4.0, -2], [0, 1]]])
    overlay, shown = guided(ramp(), signed)
    assert (overlay.heading, shown.heading) == ("overlay: predicted", "guided: predicted")
    # 127 for the largest, half of it (63.5, rounded to even) and none.
    assert shown.pixels[..., 0].tolist() == [[[128, 192], [1, 255]], [[255, 64], [128, 160]]]
    assert (shown.pixels == shown.pixels[..., :1]).all()
    assert list(shown.captions) == [("largest ±0.2",), ("largest ±4",)]


def test_guided_that_shows_nothing_or_is_broken_is_said_to() -> None:
    _, shown = guided(ramp(), [[[0, 0], [0, 0]], [[1, NAN], [0, 0]]], size=(40, 40))
    assert list(shown.captions) == [("blank: zero everywhere",), ("map not finite",)]
    assert (shown.pixels[0] == 128).all()
    assert not (shown.pixels[1] == shown.pixels[1, ..., :1]).all()


def test_guided_has_the_frames_of_the_slices() -> None:
    signed = np.arange(-3, 3, dtype=np.float32).reshape(1, 6, 1, 1)
    # Of three slices the first and the last; their centres lie on frames 2 and 6 of 6.
    slices = Slices((0, 2), 3, (1, 5), 6)
    assert slices.of_pictures(signed)[..., 0, 0].tolist() == [[-2, 2]]
    assert slices.of_pictures(signed[:, 0])[..., 0, 0].tolist() == [[-3, -3]]
    assert grey(signed, (1, 1), slices)[0, :, 0, 0, 0].tolist() == [1, 255]


def test_guided_is_asked_for_and_not_there() -> None:
    drawing = Drawing(columns=("input", "guided"))
    options = (probe_set(2, 2, 2), [KEY], drawing, None, FLAT, [0, 1])
    with pytest.raises(DrawingError, match="'guided' shows Guided Grad-CAM, which this step does not have; add"):
        draw_tiles(record(ramp()), *options)
    # Another layer's: the whole model has none of its own.
    other = CamKey("else", "guided_gradcam", "predicted")
    both = record(ramp(), maps={KEY: np.float32(ramp()), other: np.float32(ramp())})
    assert [tile.heading for tile in draw_tiles(both, *options)] == ["input"]
