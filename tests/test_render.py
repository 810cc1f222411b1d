"""Tests of the sheets, down to single pixels."""

from __future__ import annotations

import io
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from lightning_gradcam import CamKey, CamRecord, Drawing, ProbeSet
from lightning_gradcam.drawing import Format, Scale, lookup_table
from lightning_gradcam.picture import Picture
from lightning_gradcam.render import _map_caption, heat, maxima, scaled, sheet

Array = npt.NDArray[Any]
LEFT, GAP = 202, 8  # where the first column begins, and what lies between two
NAN, INF = float("nan"), float("inf")


def record(*maps: Any, targets: tuple[str, ...] = ("predicted", "label", "3"), **fields: Any) -> CamRecord:
    """A record of one layer; `maps` [N, h, w] go to `targets` in turn."""
    arrays = [np.asarray(values, np.float32) for values in maps]
    count = len(arrays[0])
    names = targets[: len(arrays)]
    return CamRecord(
        **{
            "epoch": 3,
            "step": 469,
            "stage": "fit",
            "score": "logit",
            "probe_ids": tuple(map(str, range(count))),
            "maps": {CamKey("conv", "gradcam", name): values for name, values in zip(names, arrays, strict=True)},
            "scores": MappingProxyType({name: np.full(count, 1.2345, np.float32) for name in names}),
            "classes": MappingProxyType({name: np.zeros(count, np.int64) for name in names}),
            "predicted": np.zeros(count, np.int64),
            "confidence": np.full(count, 0.75, np.float32),
            **fields,
        }
    )


def probe_set(count: int = 2, height: int = 28, width: int = 28, **fields: Any) -> ProbeSet:
    generator = np.random.default_rng(0)
    return ProbeSet(
        torch.zeros(count, 1, 2, 2),
        **{"display": generator.integers(0, 256, (count, height, width, 3)).astype(np.uint8), **fields},
    )


def drawn(maps: CamRecord, probes: ProbeSet, drawing: Drawing | None = None, **options: Any) -> Array:
    return sheet(
        maps, probes, layer="conv", method="gradcam", drawing=drawing or Drawing(), title="gradcam", **options
    ).pixels


def tile(pixels: Array, probes: ProbeSet, row: int, column: int, height: int, width: int) -> Array:
    """One picture of the sheet: columns from the left, rows from the bottom, since the header's height varies."""
    row_height = max(height + 30, 84) + GAP
    top = pixels.shape[0] - row_height * (len(probes) - row)
    left = LEFT + column * (width + GAP)
    return pixels[top : top + height, left : left + width]


def ramp(count: int = 2) -> Array:
    """Signed maps 2x2 whose largest values are 4 and 8."""
    return np.array([[[-2.0, 0.0], [2.0, 4.0]], [[8.0, -4.0], [0.0, 6.0]]])[:count]


PLAIN = {"columns": ("input", "overlay", "heatmap"), "interpolation": "nearest", "colormap": "viridis"}


# ---- layout


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(224, 224, 1), (28, 28, 4), (112, 112, 1), (111, 111, 2), (32, 32, 4), (56, 40, 3), (28, 60, 4), (8, 8, 14)],
)
def test_input_tile_is_the_display_enlarged_by_nearest_neighbour(height: int, width: int, factor: int) -> None:
    probes = probe_set(2, height, width)
    pixels = drawn(record(ramp()), probes, Drawing(columns=("input",)))
    for row in range(2):
        shown = tile(pixels, probes, row, 0, height * factor, width * factor)
        expected = np.kron(probes.pixels[row], np.ones((factor, factor, 1), np.uint8))
        assert np.array_equal(shown, expected)


@pytest.mark.parametrize("magnification", [1, 2, 5])
def test_magnification_is_taken(magnification: int) -> None:
    probes = probe_set(1)
    pixels = drawn(record(ramp(1)), probes, Drawing(magnification=magnification))
    shown = tile(pixels, probes, 0, 0, 28 * magnification, 28 * magnification)
    assert np.array_equal(shown, probes.pixels[0].repeat(magnification, 0).repeat(magnification, 1))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(512, 512, (256, 256)), (1024, 512, (256, 128)), (300, 600, (128, 256))]
)
def test_large_pictures_are_scaled_down_to_max_tile(height: int, width: int, size: tuple[int, int]) -> None:
    probes = probe_set(1, height, width)
    pixels = drawn(record(ramp(1)), probes)
    expected = Image.fromarray(probes.pixels[0]).resize(size[::-1], Image.Resampling.BOX)
    assert np.array_equal(tile(pixels, probes, 0, 0, *size), np.asarray(expected))


def test_max_tile_option_is_taken() -> None:
    probes = probe_set(1, 256, 256)
    pixels = drawn(record(ramp(1)), probes, Drawing(max_tile=128))
    halved = probes.pixels[0].reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(tile(pixels, probes, 0, 0, 128, 128) - halved).max() <= 1


def test_elongated_pictures_do_not_grow_beyond_a_screen() -> None:
    probes = probe_set(1, 10, 250)
    assert drawn(record(ramp(1)), probes).shape[1] < 2000


def test_sheet_has_a_row_for_each_probe_and_a_column_for_each_target() -> None:
    probes = probe_set(3, 112, 112)
    maps = np.ones((3, 2, 2))
    two, three = (drawn(record(*[maps] * n), probes).shape for n in (2, 3))
    assert three[1] - two[1] == 112 + GAP
    shorter = drawn(record(*[maps[:2]] * 2), probe_set(2, 112, 112)).shape
    assert two[0] - shorter[0] == 112 + 30 + GAP


def test_columns_come_in_the_order_asked_for() -> None:
    probes = probe_set(1)
    forward = drawn(record(ramp(1)), probes, Drawing(columns=("input", "heatmap", "overlay")))
    backward = drawn(record(ramp(1)), probes, Drawing(columns=("overlay", "heatmap", "input")))
    for column in range(3):
        assert np.array_equal(
            tile(forward, probes, 0, column, 112, 112), tile(backward, probes, 0, 2 - column, 112, 112)
        )
    assert not np.array_equal(tile(forward, probes, 0, 1, 112, 112), tile(forward, probes, 0, 2, 112, 112))


def test_targets_are_columns_beside_each_other() -> None:
    probes = probe_set(1, 112, 112)
    left, right = np.array([[[1.0, 0.0]]]), np.array([[[0.0, 1.0]]])
    pixels = drawn(record(left, right), probes, Drawing(**{**PLAIN, "columns": ("heatmap",)}))
    low, high = lookup_table("viridis")[[0, 255]]
    assert (tile(pixels, probes, 0, 0, 112, 112)[:, :56] == high).all()
    assert (tile(pixels, probes, 0, 0, 112, 112)[:, 56:] == low).all()
    assert (tile(pixels, probes, 0, 1, 112, 112)[:, :56] == low).all()
    assert (tile(pixels, probes, 0, 1, 112, 112)[:, 56:] == high).all()


def test_only_the_layer_and_method_asked_for_are_drawn() -> None:
    probes = probe_set(1, 112, 112)
    maps = record(ramp(1))
    other = {CamKey("other", "gradcam", "predicted"): ramp(1), CamKey("conv", "else", "predicted"): ramp(1) * 9}
    both = record(ramp(1), maps={**maps.maps, **other})
    assert np.array_equal(drawn(maps, probes), drawn(both, probes))


# ---- colours


@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.5, 1.0])
def test_overlay_is_the_stated_share_of_heat_and_picture(opacity: float) -> None:
    probes = probe_set(1, 4, 4)
    pixels = drawn(record(ramp(1)), probes, Drawing(**PLAIN, opacity=opacity, magnification=1))
    overlay = tile(pixels, probes, 0, 1, 4, 4)
    # The map [[-2, 0], [2, 4]] by its maximum 4 and after ReLU is [[0, 0], [0.5, 1]].
    for (y, x), share in {(0, 0): 0.0, (1, 3): 0.0, (3, 1): 0.5, (2, 2): 1.0}.items():
        color = lookup_table("viridis")[round(share * 255)].astype(float)
        expected = (1 - opacity) * probes.pixels[0, y, x] + opacity * color
        assert np.abs(overlay[y, x] - expected).max() <= 0.5001


def test_overlay_pixel_by_hand() -> None:
    display = np.full((1, 2, 2, 3), (100, 50, 200), np.uint8)
    probes = probe_set(1, display=display)
    drawing = Drawing(colormap="gray", opacity=0.25, interpolation="nearest", magnification=1)
    overlay = tile(drawn(record(ramp(1)), probes, drawing), probes, 0, 1, 2, 2)
    # gray[0] = 0, gray[128] = 128 (0.5 * 255 = 127.5, rounded to even), gray[255] = 255
    assert overlay[0, 0].tolist() == [75, 38, 150]  # 0.75 * (100, 50, 200)
    assert overlay[1, 0].tolist() == [107, 70, 182]  # + 0.25 * 128
    assert overlay[1, 1].tolist() == [139, 101, 214]  # + 0.25 * 255 = 63.75


def test_heatmap_column_is_the_map_alone() -> None:
    probes = probe_set(2, 4, 4)
    pixels = drawn(record(ramp()), probes, Drawing(**PLAIN, magnification=1))
    table = lookup_table("viridis")
    for row, shares in enumerate(([[0, 0], [128, 255]], [[255, 0], [0, 191]])):
        expected = table[np.array(shares)].repeat(2, 0).repeat(2, 1)
        assert np.array_equal(tile(pixels, probes, row, 2, 4, 4), expected)


@pytest.mark.parametrize(
    ("scale", "first", "second"),
    [
        # [[-2, 0], [2, 4]] and [[8, -4], [0, 6]], and beside them a second target with the same maps times ten
        ("image", [[0, 0], [0.5, 1]], [[1, 0], [0, 0.75]]),
        ("layer", [[0, 0], [2 / 80, 4 / 80]], [[8 / 80, 0], [0, 6 / 80]]),
        ("run", [[0, 0], [2 / 160, 4 / 160]], [[8 / 100, 0], [0, 6 / 100]]),
        ("minmax", [[0, 2 / 6], [4 / 6, 1]], [[1, 0], [4 / 12, 10 / 12]]),
    ],
)
def test_scale_decides_what_the_brightest_colour_stands_for(
    scale: Any, first: list[list[float]], second: list[list[float]]
) -> None:
    probes = probe_set(2, 2, 2)
    limits = {
        CamKey("conv", "gradcam", "predicted"): np.array([16, 10], np.float32),
        CamKey("conv", "gradcam", "label"): np.array([160, 100], np.float32),
    }
    options = {**PLAIN, "columns": ("heatmap",)}
    drawing = Drawing(**options, scale=scale, magnification=1)
    pixels = drawn(record(ramp(), ramp() * 10), probes, drawing, limits=limits)
    for row, shares in enumerate((first, second)):
        index = (np.array(shares, np.float32) * 255).round().astype(int)
        assert np.array_equal(tile(pixels, probes, row, 0, 2, 2), lookup_table("viridis")[index])


def test_run_scale_is_shared_by_the_targets_of_a_probe() -> None:
    probes = probe_set(1, 2, 2)
    limits = {
        CamKey("conv", "gradcam", name): np.array([top], np.float32) for name, top in (("predicted", 4), ("label", 8))
    }
    drawing = Drawing(**{**PLAIN, "columns": ("heatmap",)}, scale="run", magnification=1)
    pixels = drawn(record(ramp(1), ramp(1) * 2), probes, drawing, limits=limits)
    assert np.array_equal(tile(pixels, probes, 0, 0, 2, 2)[1, 1], lookup_table("viridis")[128])


def test_run_scale_without_limits_is_the_records_own() -> None:
    probes = probe_set(2, 2, 2)
    pictures = [drawn(record(ramp()), probes, Drawing(scale=scale)) for scale in ("image", "run")]
    for row in range(2):
        assert np.array_equal(*(tile(p, probes, row, 1, 112, 112) for p in pictures))


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


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_heat_matches_torch_without_aligned_corners(interpolation: Any) -> None:
    maps = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    options = {} if interpolation == "nearest" else {"align_corners": False}
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], (9, 8), mode=interpolation, **options)
    assert np.array_equal(heat(maps, (9, 8), interpolation), expected[:, 0].numpy())


def test_bilinear_heat_by_hand() -> None:
    result = heat(np.array([[[0.0, 4.0]]], np.float32), (1, 4), "bilinear")
    assert result.tolist() == [[[0.0, 1.0, 3.0, 4.0]]]


def test_heat_of_a_read_only_map_works() -> None:
    maps = np.ones((1, 2, 2), np.float32)
    maps.setflags(write=False)
    assert heat(maps, (4, 4), "bilinear").max() == 1


# ---- maps without evidence, and broken ones


@pytest.mark.parametrize("scale", get_args(Scale))
def test_all_zero_map_shows_the_untouched_picture(scale: Any) -> None:
    probes = probe_set(2)
    maps = ramp()
    maps[0] = 0
    pixels = drawn(record(maps), probes, Drawing(scale=scale))
    assert np.array_equal(tile(pixels, probes, 0, 1, 112, 112), tile(pixels, probes, 0, 0, 112, 112))
    assert not np.array_equal(tile(pixels, probes, 1, 1, 112, 112), tile(pixels, probes, 1, 0, 112, 112))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("everywhere", [True, False])
def test_map_that_is_not_finite_is_drawn_without_failing(scale: Any, value: float, everywhere: bool) -> None:
    maps = ramp()
    maps[0] = value if everywhere else [[value, 0.0], [2.0, 4.0]]
    probes = probe_set()
    pixels = drawn(record(maps), probes, Drawing(**PLAIN, scale=scale))
    clean = drawn(record(ramp()), probes, Drawing(**PLAIN, scale=scale))
    assert pixels.shape[1] == clean.shape[1]
    if scale != "layer" or not everywhere:
        assert np.array_equal(tile(pixels, probes, 1, 1, 112, 112), tile(clean, probes, 1, 1, 112, 112))


@pytest.mark.filterwarnings("error")
def test_infinite_map_is_drawn_without_a_numpy_warning_under_minmax() -> None:
    drawn(record(np.full((1, 2, 2), INF)), probe_set(1), Drawing(scale="minmax"))


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
    assert caption([[0.0, 0.0]], blank=True) == ("logit 1.23", "map all zero")
    assert caption([[1.0, 0.0]], score="probability")[0] == "p 1.23"
    assert caption([[1.0, 0.0]], classes={"predicted": np.array([-1])})[0] == "score 1.23"


def test_constant_map_is_not_taken_for_all_zero_under_minmax() -> None:
    """A map that is all zero shows the picture; a constant one is coloured with the lowest colour."""
    probes, drawing = probe_set(1, 2, 2), Drawing(scale="minmax", columns=("overlay",), magnification=1)
    zero, constant = (drawn(record(np.full((1, 2, 2), value)), probes, drawing) for value in (0.0, 3.0))
    assert np.array_equal(tile(zero, probes, 0, 0, 2, 2), probes.pixels[0])
    assert not np.array_equal(tile(constant, probes, 0, 0, 2, 2), probes.pixels[0])


def test_layout_is_the_same_with_and_without_zero_maps() -> None:
    assert (
        drawn(record(np.zeros((1, 2, 2))), probe_set(1)).shape == drawn(record(np.ones((1, 2, 2))), probe_set(1)).shape
    )


# ---- header, labels, marks


def header(pixels: Array, probes: ProbeSet, height: int = 112) -> Array:
    return pixels[: pixels.shape[0] - (max(height + 30, 84) + GAP) * len(probes) - 5]


def test_note_adds_a_line_to_the_header() -> None:
    plain, noted = probe_set(), probe_set(note="drawn garments")
    before, after = drawn(record(ramp()), plain), drawn(record(ramp()), noted)
    assert after.shape[0] - before.shape[0] == 18
    other = drawn(record(ramp()), probe_set(note="other remark"))
    assert (header(after, noted) != header(other, noted)).any()


@pytest.mark.parametrize(
    ("change", "drawing"),
    [
        ({"epoch": 4}, Drawing()),
        ({"epoch": -1}, Drawing()),
        ({"step": 470}, Drawing()),
        ({"stage": "test"}, Drawing()),
        ({"score": "probability"}, Drawing()),
        ({}, Drawing(scale="layer")),
        ({}, Drawing(scale="minmax")),
        ({}, Drawing(colormap="Reds")),
    ],
    ids=str,
)
def test_header_states_what_is_drawn(change: dict[str, Any], drawing: Drawing) -> None:
    probes = probe_set()
    before, after = drawn(record(ramp()), probes), drawn(record(ramp(), **change), probes, drawing)
    assert before.shape == after.shape
    assert (header(before, probes) != header(after, probes)).any()


def labels_of(pixels: Array, probes: ProbeSet, row: int = 0) -> Array:
    top = pixels.shape[0] - (112 + 30 + GAP) * (len(probes) - row)
    return pixels[top : top + 84, :194]


def test_right_and_wrong_predictions_are_stamped_differently() -> None:
    probes = probe_set(2, labels=torch.tensor([0, 1]))
    pixels = drawn(record(ramp(), predicted=np.array([0, 0])), probes)
    right, wrong = (labels_of(pixels, probes, row)[56:76, 12:84] for row in (0, 1))
    assert (right[:, :, 1].astype(int) > right[:, :, 0]).mean() > 0.5
    assert (wrong[:, :, 0].astype(int) > wrong[:, :, 1]).mean() > 0.5
    assert ((right == right[10, 1]).all(2) != (wrong == wrong[10, 1]).all(2)).sum() > 40


def test_without_labels_no_mark_is_drawn() -> None:
    probes = probe_set(2)
    pixels = drawn(record(ramp()), probes)
    assert (labels_of(pixels, probes)[54:78] == 255).all()
    assert (labels_of(pixels, probes)[:52] != 255).any()


def test_without_a_prediction_no_mark_is_drawn() -> None:
    probes = probe_set(2, labels=torch.tensor([0, 1]))
    maps = record(ramp(), predicted=np.array([-1, -1]), confidence=np.array([NAN, NAN], np.float32))
    assert (labels_of(drawn(maps, probes), probes)[54:78] == 255).all()


NAMES = ["Ankle\nboot", "👢", "é\u0301", "a" * 10_000, "", "\ud800", "עברית", "日本語" * 40]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:8]))
def test_class_name_of_any_kind_keeps_the_layout(name: str) -> None:
    labels = torch.tensor([0, 0])
    plain = probe_set(labels=labels, class_names=("boot",))
    odd = probe_set(labels=labels, class_names=(name,), ids=(name[:300] + "1", name[:300] + "2"))
    before, after = drawn(record(ramp()), plain), drawn(record(ramp()), odd)
    assert before.shape == after.shape
    assert np.array_equal(before[:, 196:], after[:, 196:])
    assert np.array_equal(labels_of(before, plain)[54:], labels_of(after, odd)[54:])


def test_line_break_in_a_class_name_reads_as_a_space() -> None:
    labels = torch.tensor([0, 0])
    both = [
        drawn(record(ramp()), probe_set(labels=labels, class_names=(name,))) for name in ("Ankle\nboot", "Ankle boot")
    ]
    assert np.array_equal(*both)


def test_drawing_changes_neither_record_nor_probes() -> None:
    maps, probes = ramp(), probe_set()
    before = probes.pixels.copy()
    drawn(record(maps), probes, Drawing(**PLAIN))
    assert np.array_equal(maps, ramp())
    assert np.array_equal(probes.pixels, before)


# ---- files


@pytest.mark.parametrize("format", get_args(Format))
def test_encoded_picture_decodes_to_the_same(format: str) -> None:
    y, x = np.mgrid[0:40, 0:60]
    pixels = np.stack([y * 5, x * 4, np.full_like(x, 90)], 2).astype(np.uint8)
    data = Picture(pixels).encoded(format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format.upper()
        assert image.size == (60, 40)
        decoded = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decoded - pixels).max() <= (0 if format == "png" else 24)


def test_tall_sheet_is_encoded_in_every_format() -> None:
    pixels = np.zeros((17000, 8, 3), np.uint8)
    for format in get_args(Format):
        Picture(pixels).encoded(format)


def test_columns_whose_class_differs_by_row_name_it() -> None:
    probes = probe_set(2, 112, 112)
    plain = drawn(record(ramp(), targets=("predicted",)), probes)
    ranked = drawn(record(ramp(), targets=("top1",)), probes)
    assert ranked.shape[0] - plain.shape[0] == 2 * 14
