"""Tests of the sheets, down to single pixels."""

from __future__ import annotations

import io
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gradcam import CamKey, Drawing, ProbeSet
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.render.drawing import Format, Scale, colors_of, lookup_table
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.render.slices import SEAM, Slices
from lightning_gradcam.render.text import INK, PALE, RIGHT, WRONG, folded, write
from lightning_gradcam.sheets.builder import BEHIND_MARK, LINE_HEIGHT
from lightning_gradcam.sheets.cam_sheet import _slice_names, scale_end, sheet
from lightning_gradcam.sheets.header import _slice_lines, blank_codes, cam_header
from lightning_gradcam.sheets.words import PERCENT
from tests.samples import (
    GAP,
    INF,
    LABEL,
    MARGIN,
    NAN,
    PLAIN,
    Array,
    corner,
    drawn,
    probe_set,
    ramp,
    record,
    rules,
    tile,
)

# ---- layout


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [
        (224, 224, 1),
        (28, 28, 4),
        (112, 112, 1),
        (111, 111, 1),
        (96, 96, 1),
        (74, 74, 2),
        (32, 32, 4),
        (56, 40, 3),
        (28, 60, 4),
        (8, 8, 14),
    ],
)
def test_input_tile_is_the_display_enlarged_by_nearest_neighbour(height: int, width: int, factor: int) -> None:
    probes = probe_set(2, height, width)
    pixels = drawn(record(ramp()), probes, Drawing(columns=("input",)))
    for row in range(2):
        shown = tile(pixels, probes, row, 0, height * factor, width * factor, least=112)
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
    probes = probe_set(3, 112, 200)
    maps = np.ones((3, 2, 2))
    two, three = (drawn(record(*[maps] * n), probes).shape for n in (2, 3))
    assert three[1] - two[1] == 200 + GAP
    shorter = drawn(record(*[maps[:2]] * 2), probe_set(2, 112, 200)).shape
    assert two[0] - shorter[0] == LABEL + 112 + 30 + GAP + 4


@pytest.mark.parametrize(
    ("count", "size", "columns", "side"),
    [(8, 28, ("overlay",), 4), (8, 28, ("input", "overlay"), 2), (5, 200, ("overlay",), 2), (3, 28, ("overlay",), 3)],
)
def test_narrow_probes_are_side_by_side(count: int, size: int, columns: Any, side: int) -> None:
    probes = probe_set(count, size, size)
    maps = np.ones((count, 2, 2))
    maps[-1] = 0
    pixels = drawn(record(maps), probes, Drawing(columns=columns))
    assert pixels.shape[1] <= 640
    assert len(rules(pixels)) == -(-count // side) + 1
    factor = round(112 / size) or 1
    # The blank map of the last one, where it has to be: its picture without colours.
    shown = tile(pixels, probes, count - 1, len(columns) - 1, size * factor, size * factor, least=112)
    assert np.array_equal(shown, probes.pixels[-1].repeat(factor, 0).repeat(factor, 1))


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
        CamKey("conv", "gradcam", "predicted"): np.array([[16, 0], [10, 0]], np.float32),
        CamKey("conv", "gradcam", "label"): np.array([[160, 0], [100, 0]], np.float32),
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
        CamKey("conv", "gradcam", name): np.array([[top, 0]], np.float32)
        for name, top in (("predicted", 4), ("label", 8))
    }
    drawing = Drawing(**{**PLAIN, "columns": ("heatmap",)}, scale="run", magnification=1)
    pixels = drawn(record(ramp(1), ramp(1) * 2), probes, drawing, limits=limits)
    assert np.array_equal(tile(pixels, probes, 0, 0, 2, 2)[1, 1], lookup_table("viridis")[128])


def test_by_default_a_class_that_is_not_in_the_picture_stays_dark_beside_the_one_that_is() -> None:
    probes, there = probe_set(1, 2, 2), ramp(1)
    pixels = drawn(record(there, there * 0.1), probes, Drawing(**PLAIN, magnification=1))
    # Columns: the input, two overlays, two heatmaps. Brightest is 4; 0.1 * 255 = 25.5 is rounded to even, 26.
    for column, shares in ((3, [[0, 0], [128, 255]]), (4, [[0, 0], [13, 26]])):
        assert np.array_equal(tile(pixels, probes, 0, column, 2, 2), lookup_table("viridis")[np.array(shares)])
    alone = drawn(record(there, there * 0.1), probes, Drawing(**PLAIN, magnification=1, scale="image"))
    assert np.array_equal(tile(alone, probes, 0, 4, 2, 2), tile(pixels, probes, 0, 3, 2, 2))


@pytest.mark.parametrize(("outliers", "rest"), [(4, 255), (5, 3)])
def test_few_extreme_places_do_not_darken_all_others(outliers: int, rest: int) -> None:
    """Of 196 places four may be brighter than the 98th percentile, and not five: then 1 of 100 is 2.55 of 255."""
    probes, maps = probe_set(1, 14, 14), np.ones((1, 14, 14))
    maps[0, 3, :outliers] = 100
    drawing = Drawing(colormap="viridis", columns=("heatmap",), magnification=1)
    shown = tile(drawn(record(maps), probes, drawing), probes, 0, 0, 14, 14)
    table = lookup_table("viridis")
    assert (shown[3, :outliers] == table[255]).all()
    assert (shown[4:] == table[rest]).all()


def test_a_row_states_where_its_scale_ends() -> None:
    probes = probe_set(1, labels=torch.tensor([0]))
    first, second, image = (
        drawn(record(ramp(1) * factor), probes, Drawing(scale=scale))
        for factor, scale in ((1, "run"), (2, "run"), (1, "image"))
    )
    # Below its first tile.
    stated = [pixels[corner(pixels, probes, 0, 112)[0] + 113 :][:14, MARGIN:124] for pixels in (first, second, image)]
    assert [bool((area < 200).any()) for area in stated] == [True, True, False]
    assert not np.array_equal(stated[0], stated[1])


@pytest.mark.parametrize(
    ("top", "text"),
    [(5.157e-05, "to 5.2e-05"), (0.000186, "to 0.00019"), (0.00537, "to 0.00537"), (1234, "to 1.2e+03")],
)
def test_the_end_of_a_scale_fits_below_a_small_tile(top: float, text: str) -> None:
    assert scale_end(top, Drawing()) == f"scale {text}"
    whole, cut = (
        write(np.full((20, 400, 3), 255, np.uint8), (0, 0), f"scale {text}", width, 12) for width in (400, 94)
    )
    assert whole == cut
    assert scale_end(0, Drawing()) == "", "all of the row is blank, which is written below its maps"


def test_a_record_is_drawn_again_on_the_scale_that_it_remembers() -> None:
    probes, key = probe_set(1, 2, 2), CamKey("conv", "gradcam", "predicted")
    remembering = record(ramp(1), limits={key: np.array([[8, 0]], np.float32)})
    shown = tile(drawn(remembering, probes, Drawing(**PLAIN, magnification=1)), probes, 0, 2, 2, 2)
    assert np.array_equal(shown[1, 1], lookup_table("viridis")[128])


def test_run_scale_without_limits_is_the_records_own() -> None:
    probes = probe_set(2, 2, 2)
    pictures = [drawn(record(ramp()), probes, Drawing(scale=scale)) for scale in ("image", "run")]
    for row in range(2):
        assert np.array_equal(*(tile(p, probes, row, 1, 112, 112) for p in pictures))


# ---- evidence for and against

SIGNED = {**PLAIN, "colormap": "turbo", "signed": True, "magnification": 1}


def test_maps_with_their_sign_by_hand() -> None:
    display = np.full((1, 2, 2, 3), (100, 50, 200), np.uint8)
    probes, maps = probe_set(1, display=display), np.array([[[-4.0, 0.0], [2.0, 4.0]]])
    pixels = drawn(record(maps, -maps), probes, Drawing(**SIGNED))
    table = colors_of(Drawing(signed=True))
    # 128 + 127 * (-1, 0, 0.5, 1); 191.5 and 64.5 are rounded to even.
    shown = [tile(pixels, probes, 0, column, 2, 2) for column in range(5)]
    assert np.array_equal(shown[0], display[0])
    assert np.array_equal(shown[3], table[[[1, 128], [192, 255]]])
    assert np.array_equal(shown[4], table[[[255, 128], [64, 1]]])
    assert shown[3][0, 1].tolist() == shown[4][0, 1].tolist() == [220, 220, 220]
    # coolwarm's ends, and under them 0.299 * 100 + 0.587 * 50 + 0.114 * 200 = 82.05.
    assert (table[1].tolist(), table[255].tolist()) == ([59, 76, 192], [180, 4, 38])
    assert shown[1][0, 0].tolist() == shown[2][1, 1].tolist() == [70, 79, 137]
    assert shown[1][1, 1].tolist() == shown[2][0, 0].tolist() == [131, 43, 60]
    assert shown[1][0, 1].tolist() == [151, 151, 151]


def test_both_signs_of_all_targets_have_one_limit() -> None:
    probes, maps = probe_set(1, 2, 2), np.array([[[-1.0, 0.0], [1.0, 2.0]]])
    pixels = drawn(record(maps, maps * -2), probes, Drawing(**{**SIGNED, "columns": ("heatmap",)}))
    table = colors_of(Drawing(signed=True))
    # Of 4: 128 + 127 * (-0.25, 0, 0.25, 0.5).
    assert np.array_equal(tile(pixels, probes, 0, 0, 2, 2), table[[[96, 128], [160, 192]]])
    key = CamKey("conv", "gradcam", "predicted")
    limited = {key: np.array([[0.5, 8]], np.float32)}
    pixels = drawn(record(maps), probes, Drawing(**{**SIGNED, "columns": ("heatmap",)}), limits=limited)
    assert np.array_equal(tile(pixels, probes, 0, 0, 2, 2), table[[[112, 128], [144, 160]]])


@pytest.mark.parametrize(("scale", "first"), [("image", 255), ("layer", 192), ("run", 255)])
def test_maps_with_their_sign_keep_the_scale_that_is_asked_for(scale: Any, first: int) -> None:
    probes, maps = probe_set(2, 1, 2), np.array([[[4.0, 0.0]], [[0.0, -8.0]]])
    pixels = drawn(record(maps), probes, Drawing(**{**SIGNED, "columns": ("heatmap",), "scale": scale}))
    shown = [tile(pixels, probes, row, 0, 1, 2)[0] for row in range(2)]
    assert np.array_equal(shown, colors_of(Drawing(signed=True))[[[first, 128], [128, 1]]])


@pytest.mark.parametrize("signed", [False, True])
def test_what_is_left_of_a_map_that_is_not_finite_does_not_darken_its_layer(signed: bool) -> None:
    probes, maps = probe_set(2, 1, 2), np.array([[[4.0, 0.0]], [[8.0, np.nan]]])
    drawing = Drawing(**{**SIGNED, "columns": ("heatmap",), "scale": "layer", "signed": signed})
    shown = tile(drawn(record(maps), probes, drawing), probes, 0, 0, 1, 2)[0]
    assert np.array_equal(shown, colors_of(drawing)[[255, 128 if signed else 0]])


def test_a_map_that_the_relu_makes_blank_shows_what_speaks_against() -> None:
    probes, maps = probe_set(2), -np.abs(ramp())
    maps[1] = 0
    pixels = drawn(record(maps), probes, Drawing(signed=True))
    against, zero = (tile(pixels, probes, row, 1, 112, 112) for row in range(2))
    assert not np.array_equal(against, tile(pixels, probes, 0, 0, 112, 112))
    assert against[..., 2].mean() > against[..., 0].mean() + 10
    assert np.array_equal(zero, tile(pixels, probes, 1, 0, 112, 112))
    codes = blank_codes(record(maps), [CamKey("conv", "gradcam", "predicted")], Drawing(signed=True))
    assert codes.astype(bool).tolist() == [False, True]


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("gradcam", "red: for the score, blue: against it, grey: zero; overlaid images are grey"),
        ("my_own", "red: for the score, blue: against it, grey: zero; overlaid images are grey"),
        ("layercam", "red: for the score; LayerCAM leaves out channels with a negative gradient"),
        ("legrad", "red: for the score; LeGrad is never negative, so there is no blue"),
        ("eigencam", "Eigen-CAM: red and blue are the two sides of a principal component"),
        ("guided_backprop", "red: a brighter pixel raises the score, blue: a darker one does"),
    ],
)
def test_header_says_what_red_and_blue_mean(method: str, line: str) -> None:
    assert line in stated(np.ones((2, 4, 4)), FLAT, method=method, drawing=Drawing(signed=True))
    assert line not in stated(np.ones((2, 4, 4)), FLAT, method=method)


# ---- places: pictures that are not square


CORNERS = [(0, 0), (0, 5), (3, 0), (3, 5)]


@pytest.mark.parametrize("corner", CORNERS, ids=str)
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("target", [0, 1])
def test_hot_corner_is_drawn_in_that_corner_of_that_tile(corner: tuple[int, int], row: int, target: int) -> None:
    probes, maps = probe_set(2, 64, 96), np.zeros((2, 2, 4, 6))
    maps[target, row][corner] = 3
    pixels = drawn(record(*maps), probes, Drawing(**{**PLAIN, "columns": ("heatmap",)}, magnification=1))
    low, high = lookup_table("viridis")[[0, 255]]
    expected = np.full((2, 2, 64, 96, 3), low)
    y, x = 16 * corner[0], 16 * corner[1]
    expected[target, row, y : y + 16, x : x + 16] = high
    for place in range(2):
        for number in range(2):
            assert np.array_equal(tile(pixels, probes, number, place, 64, 96), expected[place, number])


def test_map_as_fine_as_the_picture_is_drawn_pixel_by_pixel() -> None:
    probes = probe_set(1, 64, 96)
    shares = np.random.default_rng(1).integers(0, 256, (64, 96))
    shares[0, 0] = 255
    drawing = Drawing(colormap="viridis", columns=("heatmap",), magnification=1, scale="image")
    pixels = drawn(record(shares[None] / 255), probes, drawing)
    assert np.array_equal(tile(pixels, probes, 0, 0, 64, 96), lookup_table("viridis")[shares])


# ---- clips and volumes


def clip_set(count: int = 2, length: int = 8, height: int = 16, width: int = 24, **fields: Any) -> ProbeSet:
    display = np.random.default_rng(0).integers(0, 256, (count, length, height, width, 3)).astype(np.uint8)
    return probe_set(count, display=display, **fields)


def strip(pixels: Array, probes: ProbeSet, row: int, column: int, shown: int) -> list[Array]:
    """The slices of one tile, drawn without magnification."""
    height, width = probes.pixels.shape[-3:-1]
    whole = tile(pixels, probes, row, column, height, shown * (width + SEAM) - SEAM)
    return [whole[:, place * (width + SEAM) :][:, :width] for place in range(shown)]


@pytest.mark.parametrize("corner", CORNERS, ids=str)
@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_hot_corner_is_drawn_in_that_corner_of_that_slice(
    corner: tuple[int, int], place: int, interpolation: Any
) -> None:
    probes, maps = clip_set(2, 8, 64, 96), np.zeros((2, 4, 4, 6))
    maps[1, place][corner] = 3
    drawing = Drawing(colormap="viridis", columns=("heatmap",), interpolation=interpolation, magnification=1)
    pixels = drawn(record(maps), probes, drawing)
    low, high = lookup_table("viridis")[[0, 255]]
    y, x = 63 * (corner[0] > 0), 95 * (corner[1] > 0)
    for row in range(2):
        for number, shown in enumerate(strip(pixels, probes, row, 0, 4)):
            if (row, number) != (1, place):
                assert (shown == low).all()
                continue
            assert (shown[y, x] == high).all()
            assert (shown[63 - y, x] == low).all()
            assert (shown[y, 95 - x] == low).all()
            assert (shown == high).all(2).sum() < (shown == low).all(2).sum()


@pytest.mark.parametrize(
    ("depth", "length", "frames"),
    [(4, 8, (1, 3, 5, 7)), (8, 8, range(8)), (9, 9, (0, 1, 2, 3, 5, 6, 7, 8)), (3, 2, (0, 1, 1))],
)
def test_input_column_shows_the_frame_at_each_slices_centre(depth: int, length: int, frames: Any) -> None:
    probes = clip_set(2, length)
    pixels = drawn(record(np.ones((2, depth, 2, 3))), probes, Drawing(magnification=1))
    for row in range(2):
        for shown, frame in zip(strip(pixels, probes, row, 0, len(frames)), frames, strict=True):
            assert np.array_equal(shown, probes.pixels[row, frame])


def test_overlay_lies_on_the_same_frames_as_the_input() -> None:
    probes = clip_set(1)
    maps = np.random.default_rng(0).random((1, 4, 2, 3))
    pixels = drawn(record(maps), probes, Drawing(**PLAIN, opacity=0.25, magnification=1))
    frames, mixed, colors = (strip(pixels, probes, 0, column, 4) for column in range(3))
    for frame, overlay, color in zip(frames, mixed, colors, strict=True):
        assert np.abs(overlay - (0.75 * frame + 0.25 * color)).max() <= 0.5001


def test_slices_of_a_map_share_its_maximum_also_where_that_slice_is_not_shown() -> None:
    maps = np.zeros((1, 9, 1, 1))
    maps[0, 0], maps[0, 4] = 1, 4  # of nine slices the fifth is left out
    probes = clip_set(1, 9)
    pixels = drawn(record(maps), probes, Drawing(colormap="viridis", columns=("heatmap",), magnification=1))
    first, *others = strip(pixels, probes, 0, 0, 8)
    assert (first == lookup_table("viridis")[64]).all()
    assert all((other == lookup_table("viridis")[0]).all() for other in others)


def test_seams_between_slices_are_white() -> None:
    probes = clip_set(1)
    pixels = drawn(record(np.ones((1, 4, 2, 3))), probes, Drawing(magnification=1))
    for column in range(2):
        whole = tile(pixels, probes, 0, column, 16, 4 * (24 + SEAM) - SEAM)
        for place in range(1, 4):
            assert (whole[:, place * (24 + SEAM) - SEAM : place * (24 + SEAM)] == 255).all()


@pytest.mark.parametrize("scale", get_args(Scale))
def test_all_zero_volume_shows_the_untouched_frames(scale: Any) -> None:
    probes, maps = clip_set(2), np.random.default_rng(0).random((2, 4, 2, 3)) + 0.1
    maps[0] = 0
    pixels = drawn(record(maps), probes, Drawing(scale=scale, magnification=1))
    for row in range(2):
        same = [
            np.array_equal(*pair) for pair in zip(*(strip(pixels, probes, row, c, 4) for c in range(2)), strict=True)
        ]
        assert same == [row == 0] * 4


@pytest.mark.parametrize("maps", [np.zeros((2, 2, 3)), np.zeros((2, 1, 2, 3))], ids=["no axis", "one slice"])
def test_flat_map_of_a_clip_lies_on_the_middle_frame(maps: Array) -> None:
    probes = clip_set(2, 8)
    pixels = drawn(record(maps), probes, Drawing(magnification=1))
    for row in range(2):
        for column in range(2):
            assert np.array_equal(tile(pixels, probes, row, column, 16, 24), probes.pixels[row, 4])


def test_volume_over_one_picture_shows_it_under_every_slice() -> None:
    probes = probe_set(2, 16, 24)
    pixels = drawn(record(np.zeros((2, 3, 2, 3))), probes, Drawing(magnification=1))
    for row in range(2):
        for column in range(2):
            for shown in strip(pixels, probes, row, column, 3):
                assert np.array_equal(shown, probes.pixels[row])


@pytest.mark.parametrize("depth", [2, 3, 4, 7, 8, 40])
@pytest.mark.parametrize(("height", "width"), [(112, 112), (28, 28), (240, 320), (16, 200), (200, 16), (8, 8)])
@pytest.mark.parametrize("max_tile", [32, 256])
def test_strips_do_not_grow_beyond_a_screen(depth: int, height: int, width: int, max_tile: int) -> None:
    probes = clip_set(1, 2, height, width)
    pixels = drawn(record(np.ones((1, depth, 2, 2))), probes, Drawing(max_tile=max_tile))
    assert pixels.shape[1] <= MARGIN + 640 + GAP + 640 + 12
    assert pixels.shape[0] < 900


@pytest.mark.parametrize(
    ("height", "width", "depth", "options", "size"),
    [
        (112, 112, 4, {}, (112, 112)),  # as it is: 4 x 112 fit into 640
        (112, 112, 8, {}, (78, 78)),  # scaled down: (640 - 7 x 2) / 8
        (112, 112, 8, {"max_tile": 1000}, (112, 112)),
        (28, 28, 4, {}, (112, 112)),
        (28, 28, 7, {}, (84, 84)),
        (28, 28, 8, {}, (56, 56)),
        (28, 28, 8, {"magnification": 4}, (112, 112)),
        (28, 28, 2, {}, (112, 112)),
    ],
    ids=str,
)
def test_slices_are_as_large_as_their_strip_allows(
    height: int, width: int, depth: int, options: Any, size: tuple[int, int]
) -> None:
    probes = clip_set(1, depth, height, width)
    one, two = (
        drawn(record(*[np.ones((1, depth, 2, 2))] * columns), probes, Drawing(columns=("heatmap",), **options))
        for columns in (2, 3)
    )
    assert two.shape[1] - one.shape[1] == depth * (size[1] + SEAM) - SEAM + GAP
    shown = tile(one, probes, 0, 0, size[0], depth * (size[1] + SEAM) - SEAM)
    # Constant maps have one colour, so that nothing but seams is white.
    white = (shown == 255).all(2)
    assert not white[:, : size[1]].any()
    assert white[:, size[1] : size[1] + SEAM].all()


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


def crossed_out(picture: Array) -> bool:
    """Whether it is grey, with a red cross from corner to corner."""
    height, width = picture.shape[:2]
    red = (picture == WRONG).all(2)
    down = np.arange(height)
    across = (down * (width - 1) / (height - 1)).round().astype(int)
    grey = (picture == picture[..., :1]).all(2)
    return bool(red[down, across].all() and red[down, width - 1 - across].all() and (red | grey).all())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("size", [(28, 28), (64, 96), (130, 90)], ids=str)
def test_map_that_is_not_finite_is_crossed_out(
    scale: Any, value: float, everywhere: bool, size: tuple[int, int]
) -> None:
    maps = ramp()
    maps[0] = value if everywhere else [[value, 0.0], [2.0, 4.0]]
    probes = probe_set(2, *size)
    pixels = drawn(record(maps), probes, Drawing(**PLAIN, scale=scale))
    factor = max(1, round(112 / min(size)))
    height, width = size[0] * factor, size[1] * factor
    shown = [[tile(pixels, probes, row, c, height, width, least=112) for c in range(3)] for row in range(2)]
    assert [[crossed_out(picture) for picture in row] for row in shown] == [[False, True, True], [False] * 3]
    assert np.array_equal(shown[0][0], probes.pixels[0].repeat(factor, 0).repeat(factor, 1))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [0, 4], ids=["shown", "not shown"])
def test_every_slice_of_a_volume_that_is_not_finite_is_crossed_out(value: float, place: int) -> None:
    probes, maps = clip_set(2, 9, 40, 60), np.ones((2, 9, 2, 3))
    maps[0, place, 1, 2] = value
    drawing = Drawing(**PLAIN, magnification=1)
    pixels, clean = (drawn(record(m), probes, drawing) for m in (maps, np.ones((2, 9, 2, 3))))
    for column in (1, 2):
        assert all(crossed_out(shown) for shown in strip(pixels, probes, 0, column, 8))
    assert pixels.shape == clean.shape
    assert np.array_equal(strip(pixels, probes, 0, 0, 8), strip(clean, probes, 0, 0, 8))
    assert np.array_equal(header(pixels), header(clean))
    # The other probe's whole row, captions included.
    assert np.array_equal(pixels[rules(pixels)[1] :], clean[rules(clean)[1] :])


def test_caption_of_a_map_that_is_not_finite_is_red() -> None:
    broken, clean = (drawn(record(m), probe_set(1)) for m in (ramp(1) * NAN, ramp(1)))
    top = corner(clean, probe_set(1), 0, 112)[0] + 112
    below = [bool((pixels[top:, MARGIN + 112 + GAP :] == WRONG).all(2).any()) for pixels in (broken, clean)]
    assert below == [True, False]


@pytest.mark.filterwarnings("error")
def test_infinite_map_is_drawn_without_a_numpy_warning_under_minmax() -> None:
    drawn(record(np.full((1, 2, 2), INF)), probe_set(1), Drawing(scale="minmax"))


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


def header(pixels: Array) -> Array:
    """The lines above the maps, and those below them."""
    first, *_, last = rules(pixels)
    return np.concatenate([pixels[:first], pixels[last:]])


def test_note_adds_a_line_to_the_header() -> None:
    plain, noted = probe_set(), probe_set(note="drawn garments")
    before, after = drawn(record(ramp()), plain), drawn(record(ramp()), noted)
    assert after.shape[0] - before.shape[0] == 18
    other = drawn(record(ramp()), probe_set(note="other remark"))
    assert (header(after) != header(other)).any()


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
    assert (header(before) != header(after)).any()


def stated(
    maps: Any,
    display: Any,
    layer: str = "conv",
    method: str = "gradcam",
    drawing: Drawing | None = None,
    **fields: Any,
) -> list[str]:
    """The header's lines as text."""
    probes = probe_set(display=display, **fields)
    slices = Slices.of(maps.shape, probes.pixels.shape)
    return [
        text for text, _ in cam_header(record(maps), layer, method, drawing or Drawing(), "gradcam", probes, slices)
    ]


FLAT, CLIPS = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 16, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("depth", "display", "lines"),
    [
        (0, FLAT, []),
        (0, CLIPS, ["drawn on frame 9 of 16, the middle one, because the maps have no time or depth"]),
        (1, FLAT, []),
        (
            4,
            CLIPS,
            [
                "all 4 slices of each map, left to right = time or depth, on one colour scale",
                "each slice is drawn on its central frame, of 16",
            ],
        ),
        (
            16,
            CLIPS,
            [
                "slices 1, 3, 5, 7, 10, 12, 14, 16 of 16, left to right = time or depth, on one colour scale",
                "each slice is drawn on its own frame",
            ],
        ),
        (
            3,
            FLAT,
            [
                "all 3 slices of each map, left to right = time or depth, on one colour scale",
                "each slice is drawn on the same image",
            ],
        ),
    ],
)
def test_header_states_slices_and_frames(depth: int, display: Array, lines: list[str]) -> None:
    maps = np.zeros((2, depth, 4, 4) if depth else (2, 4, 4))
    assert _slice_lines(Slices.of(maps.shape, display.shape)) == lines
    assert [line for line in stated(maps, display) if "slice" in line or "frame" in line] == lines


@pytest.mark.parametrize(
    ("depth", "display", "pitch", "names"),
    [
        (0, CLIPS, 100, []),
        (1, CLIPS, 100, []),
        (2, CLIPS, 100, ["frame 5", "frame 13"]),
        (2, FLAT, 100, ["slice 1", "slice 2"]),
        (2, CLIPS, 30, ["5", "13"]),
    ],
)
def test_each_slice_is_named(depth: int, display: Array, pitch: int, names: list[str]) -> None:
    maps = (2, depth, 4, 4) if depth else (2, 4, 4)
    assert _slice_names(Slices.of(maps, display.shape), pitch) == names


def test_names_of_slices_stand_above_them() -> None:
    probes = clip_set(1, 8, 64, 96)
    pixels = drawn(record(np.ones((1, 4, 2, 3))), probes, Drawing(magnification=1))
    top = rules(pixels)[0] + 4
    above = (pixels[top - 20 : top - 5, MARGIN:] != 255).any((0, 2))
    for column in range(2):
        for place in range(4):
            x = column * (4 * (96 + SEAM) - SEAM + GAP) + place * (96 + SEAM)
            assert above[x : x + 50].any()
            assert not above[x + 60 : x + 96].any()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("gradcam", "Grad-CAM"),
        ("smoothgradcam++", "Smooth Grad-CAM++"),
        ("scorecam", "Score-CAM"),
        ("ablationcam", "Ablation-CAM"),
        ("cam", "CAM"),
        ("finercam", "Finer-CAM"),
        ("fullgrad", "FullGrad"),
        ("shapleycam", "ShapleyCAM"),
        ("legrad", "LeGrad"),
        ("guided_gradcam", "Guided Grad-CAM"),
        ("guided_backprop", "guided backpropagation"),
        ("my_own", "my_own"),
    ],
)
def test_header_names_the_method(method: str, name: str) -> None:
    first, second = stated(np.ones((2, 4, 4)), FLAT, method=method)[:2]
    assert first == "gradcam  conv"
    assert second == f"{name} of the logit, epoch 3, step 469"


@pytest.mark.parametrize(
    ("layer", "method", "first"),
    [
        ("model", "fullgrad", "gradcam  whole model"),
        ("model", "guided_backprop", "gradcam  whole model"),
        ("model", "gradcam", "gradcam  model"),
        ("model.layer4", "fullgrad", "gradcam  model.layer4"),
    ],
)
def test_header_tells_the_whole_model_from_a_module_of_that_name(layer: str, method: str, first: str) -> None:
    assert stated(np.ones((2, 8, 8)), FLAT, layer, method)[0] == first


@pytest.mark.parametrize("maps", [np.ones((2, 28, 28)), np.ones((2, 9, 28, 28))], ids=["picture", "volume"])
def test_sheet_of_the_whole_model_is_drawn(maps: Array) -> None:
    probes = probe_set() if maps.ndim == 3 else clip_set(2, 9, 28, 28)
    key = CamKey("model", "fullgrad", "predicted")
    found = record(maps, maps={key: maps.astype(np.float32)})
    options = {"layer": "model", "method": "fullgrad", "drawing": Drawing(magnification=1), "title": "gradcam"}
    pixels = sheet(found, probes, **options).pixels
    hot = np.array([0.5 * int(channel) for channel in lookup_table("turbo")[255]])
    wide = 28 if maps.ndim == 3 else 8 * (28 + SEAM) - SEAM
    frame, overlay = (tile(pixels, probes, 0, column, 28, wide)[:, :28] for column in range(2))
    assert np.abs(overlay - (frame * 0.5 + hot)).max() <= 0.5001


def labels_of(pixels: Array, probes: ProbeSet, row: int = 0) -> Array:
    """What is above a probe's tiles, of 112 pixels each."""
    y, x = corner(pixels, probes, row, 112)
    return np.asarray(pixels[y - LABEL : y, x : x + 2 * 112 + GAP])


def judged(label: Array) -> bool:
    """Whether anything in it has the colour of right or wrong."""
    return any((label == color).all(2).any() for color in (RIGHT, WRONG))


def test_right_and_wrong_predictions_are_stamped_differently() -> None:
    probes = probe_set(2, labels=torch.tensor([0, 1]))
    pixels = drawn(record(ramp(), predicted=np.array([0, 0])), probes)
    right, wrong = (labels_of(pixels, probes, row)[1:14, :13] for row in (0, 1))
    assert (right[:, :, 1].astype(int) > right[:, :, 0]).mean() > 0.5
    assert (wrong[:, :, 0].astype(int) > wrong[:, :, 1]).mean() > 0.5
    # A disc and a square, with different signs.
    assert (right[0, 0] > 200).all()
    assert (wrong[0, 0] == WRONG).all()
    assert ((right > 200).all(2) != (wrong > 200).all(2)).sum() > 20


def test_without_labels_no_mark_is_drawn() -> None:
    probes = probe_set(2)
    pixels = drawn(record(ramp()), probes, Drawing(scale="image"))
    assert not judged(labels_of(pixels, probes))
    assert (labels_of(pixels, probes)[:16] != 255).any()


def test_without_a_prediction_no_mark_is_drawn() -> None:
    probes = probe_set(2, labels=torch.tensor([0, 1]))
    maps = record(ramp(), predicted=np.array([-1, -1]), confidence=np.array([NAN, NAN], np.float32))
    assert not judged(labels_of(drawn(maps, probes, Drawing(scale="image")), probes))


NAMES = ["Ankle\nboot", "👢", "é\u0301", "a" * 10_000, "", "\ud800", "עברית", "日本語" * 40]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:8]))
def test_class_name_of_any_kind_keeps_the_layout(name: str) -> None:
    labels = torch.tensor([0, 0])
    plain = probe_set(labels=labels, class_names=("boot",))
    odd = probe_set(labels=labels, class_names=(name,), ids=(name[:300] + "1", name[:300] + "2"))
    before, after = drawn(record(ramp()), plain), drawn(record(ramp()), odd)
    assert before.shape == after.shape
    top = corner(before, plain, 0, 112)[0]
    for pixels in (before, after):
        pixels[top - LABEL : top] = 255
    assert np.array_equal(before, after)


def test_line_break_in_a_class_name_reads_as_a_space() -> None:
    labels = torch.tensor([0, 0])
    both = [
        drawn(record(ramp()), probe_set(labels=labels, class_names=(name,))) for name in ("Ankle\nboot", "Ankle boot")
    ]
    assert np.array_equal(*both)


# ---- boxes, Guided Grad-CAM, likely classes


def test_boxes_add_a_legend_and_a_line_below() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [NAN] * 4])
    plain, unknown, known = (
        drawn(record(ramp()), probes, Drawing(boxes=drawing))
        for probes, drawing in ((probe_set(), False), (probe_set(), True), (probe_set(boxes=boxes), True))
    )
    assert unknown.shape[0] - plain.shape[0] == 18
    # One more line in the legend, and one below both probes, which are side by side.
    assert known.shape[0] - unknown.shape[0] == 18 + 14
    assert plain.shape[1] == unknown.shape[1] == known.shape[1]


def test_known_boxes_change_nothing_where_no_boxes_are_asked_for() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    assert np.array_equal(drawn(record(ramp()), probe_set()), drawn(record(ramp()), probe_set(boxes=boxes)))


def ranked(*classes: int, count: int = 2) -> CamRecord:
    shares = np.linspace(0.5, 0.004, len(classes)).astype(np.float32)
    return record(ramp(count), likeliest=np.array([classes] * count), likeliest_confidence=np.array([shares] * count))


@pytest.mark.parametrize("size", [(28, 28), (10, 250)], ids=str)
@pytest.mark.parametrize("top", [1, 3, 5, 10])
def test_the_likeliest_classes_are_listed_a_line_each(top: int, size: tuple[int, int]) -> None:
    probes = probe_set(2, *size, labels=torch.tensor([0, 7]))
    pixels = drawn(ranked(0, 1, 2, 3, 4, 5, 6, 8, 9, 10), probes, Drawing(top=top))
    for number in range(2):
        width = 112 if size == (28, 28) else 500
        y, x = corner(pixels, probes, number, width, label=LABEL + 15 * top + 4)
        shown = pixels[y : y + 4, x : x + 4]
        factor = width // size[1]
        assert np.array_equal(shown, probes.pixels[number].repeat(factor, 0).repeat(factor, 1)[:4, :4])
        label = pixels[y - 15 * top - 4 : y, x : x + 200]
        assert all((label[15 * place :][:15, 12:] != 255).any() for place in range(top))
        # The first is the first probe's true class, and none is the second's.
        marked = [bool((label[15 * place :][4:11, :7] == RIGHT).all()) for place in range(top)]
        assert marked == [number == 0 and place == 0 for place in range(top)]


def test_without_classes_no_room_is_kept_for_a_list() -> None:
    probes = probe_set()
    assert np.array_equal(drawn(record(ramp()), probes, Drawing(top=5)), drawn(record(ramp()), probes))
    # A model with two classes has no third.
    two = drawn(ranked(1, 0), probes, Drawing(top=5))
    assert np.array_equal(two, drawn(ranked(1, 0), probes, Drawing(top=2)))


def test_the_header_says_what_is_beside_the_maps() -> None:
    probes = probe_set(labels=torch.tensor([0, 1]))
    slices = Slices.of((2, 2, 2), probes.pixels.shape)
    drawing = Drawing(top=2, columns=("input", "guided"))
    lines = [text for text, _ in cam_header(ranked(0, 1, 2), "conv", "gradcam", drawing, "gradcam", probes, slices)]
    assert "guided: Guided Grad-CAM, each scaled by its largest magnitude; grey is 0," in lines
    assert "above each probe: the 2 most likely classes; the true class has a green square" in lines


@pytest.mark.parametrize(("predicted", "confidence"), [(1, 0.95), (1, np.nan), (-1, 0.95)])
def test_percentages_are_explained_where_there_are_any(predicted: int, confidence: float) -> None:
    found = record(ramp(2), predicted=np.full(2, predicted, np.int64), confidence=np.full(2, confidence, np.float32))
    probes = probe_set(labels=torch.tensor([0, 1]))
    slices = Slices.of((2, 2, 2), probes.pixels.shape)
    lines = cam_header(found, "conv", "gradcam", Drawing(), "gradcam", probes, slices)
    assert (PERCENT in dict(lines)) == ((predicted, confidence) == (1, 0.95))


def test_guided_is_a_column_of_its_own_beside_each_target() -> None:
    probes = probe_set(1, 112, 112)
    maps = {
        CamKey("conv", method, target): np.float32(ramp(1))
        for method in ("gradcam", "guided_gradcam")
        for target in ("predicted", "label")
    }
    both = record(ramp(1), ramp(1), maps=maps)
    pixels = drawn(both, probes, Drawing(columns=("input", "guided")))
    for column in (1, 2):
        shown = tile(pixels, probes, 0, column, 112, 112)
        # ramp: -2, 0, 2 and 4.
        assert shown[[0, 0, -1, -1], [0, -1, 0, -1], 0].tolist() == [64, 128, 192, 255]


def test_drawing_changes_neither_record_nor_probes() -> None:
    maps, probes = ramp(), probe_set()
    before = probes.pixels.copy()
    drawn(record(maps), probes, Drawing(**PLAIN))
    assert np.array_equal(maps, ramp())
    assert np.array_equal(probes.pixels, before)


# ---- files


FORMATS = [format for format in get_args(Format) if format != "auto"]


@pytest.mark.parametrize("format", FORMATS)
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
    for format in FORMATS:
        Picture(pixels).encoded(format)


def test_columns_whose_class_differs_by_row_name_it() -> None:
    probes = probe_set(2, 112, 112)
    plain = drawn(record(ramp(), targets=("predicted",)), probes)
    ranked = drawn(record(ramp(), targets=("top1",)), probes)
    # Side by side.
    assert ranked.shape[0] - plain.shape[0] == 14


def test_no_line_is_cut_on_a_narrow_sheet() -> None:
    note = "inputs alone: " + "a long remark " * 12
    probes = probe_set(1)
    short, long = (drawn(record(ramp(1)), probes, note=text) for text in ("inputs", note))
    assert short.shape[1] == long.shape[1] == 480
    lines = folded(note, 480 - 2 * MARGIN)
    assert len(lines) == 3
    assert long.shape[0] - short.shape[0] == 2 * LINE_HEIGHT
    # All of it is there, in the same order.
    y = next(y for y in range(long.shape[0]) if (long[y : y + LINE_HEIGHT, 12:-12] == _written(lines[0])).all())
    for number, line in enumerate(lines):
        assert (long[y + number * LINE_HEIGHT :][:LINE_HEIGHT, 12:-12] == _written(line)).all()


def _written(line: str) -> Any:
    canvas = np.full((LINE_HEIGHT, 456, 3), 255, np.uint8)
    write(canvas, (0, 0), line, 456, 13, PALE)
    return canvas


def _stands(pixels: Array, at: tuple[int, int], text: str, size: int, color: Any) -> bool:
    """Whether the whole text, and nothing else, is written there."""
    canvas = np.full((size + 4, 140, 3), 255, np.uint8)
    across = write(canvas, (0, 0), text, 10_000, size, color)
    assert 0 < across < 140
    x, y = at
    return bool((pixels[y : y + size + 4, x : x + across + 8] == canvas[:, : across + 8]).all())


@pytest.mark.parametrize("place", [0, 2])
def test_a_prediction_of_two_words_is_not_cut_off(place: int) -> None:
    names = ("Ankle boot", "T-shirt/top")
    probes = probe_set(3, labels=torch.tensor([0, 0, 0]), class_names=names)
    pixels = drawn(
        record(np.ones((3, 2, 2)), confidence=np.full(3, 0.93, np.float32)), probes, Drawing(columns=("input",))
    )
    top, left = corner(pixels, probes, place, 112)
    assert _stands(pixels, (left + BEHIND_MARK, top - LABEL - 1), "Ankle boot  93%", 14, RIGHT)
    wrong = drawn(record(np.ones((3, 2, 2)), predicted=np.ones(3, np.int64)), probes, Drawing(columns=("input",)))
    assert _stands(wrong, (left, top - LABEL + 17), f"#{place}  true Ankle boot", 12, PALE)


@pytest.mark.parametrize(
    ("target", "heading"),
    [("label", "overlay: label"), ("detect_predicted", "detect_predicted"), ("1", "class T-shirt/top")],
)
def test_a_long_target_takes_the_place_of_the_word_overlay(target: str, heading: str) -> None:
    probes = probe_set(2, class_names=("Ankle boot", "T-shirt/top"))
    pixels = drawn(record(np.ones((2, 2, 2)), targets=(target,)), probes, Drawing(columns=("overlay",)))
    top, left = corner(pixels, probes, 0, 112)
    assert _stands(pixels, (left, top - LABEL - 21), heading, 13, INK)
