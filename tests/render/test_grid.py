"""Channel grids: normalised and tiled as the book's chapter does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lightning_gradcam.errors import DrawingError
from lightning_gradcam.render.grid import GridDrawing, layer_limits, normalised, tiled

Array = npt.NDArray[Any]
INF, NAN = float("inf"), float("nan")


def chapter(activation: Array, per_row: int = 16) -> Array:
    """The chapter's algorithm, written out plainly: a layer's activation of one picture, [h, w, C], as a grid."""
    size, channels = activation.shape[0], activation.shape[-1]
    rows = channels // per_row
    grid = np.zeros(((size + 1) * rows - 1, per_row * (size + 1) - 1))
    for row in range(rows):
        for column in range(per_row):
            image = activation[:, :, row * per_row + column].astype(np.float64)
            if image.any():
                image = (image - image.mean()) / image.std()
                image = image * 64 + 128
            image = np.clip(image, 0, 255).astype(np.uint8)
            y, x = row * (size + 1), column * (size + 1)
            grid[y : y + size, x : x + size] = image
    return grid


def test_the_grid_is_the_chapters() -> None:
    maps = np.random.default_rng(0).standard_normal((32, 7, 7)).astype(np.float32)
    maps = np.maximum(maps, 0) * np.logspace(-6, 3, 32, dtype=np.float32)[:, None, None]
    maps[5] = 0
    expected = chapter(maps.transpose(1, 2, 0))
    np.testing.assert_array_equal(tiled(normalised(maps[None], "channel")[0]), expected)


def test_a_channel_is_centred_and_scaled_by_hand() -> None:
    # Mean 2, deviation sqrt(((2² + 0 + 0 + 2²) / 4)) = sqrt 2; (0 - 2) / sqrt 2 = -1.414; times 64 plus 128 = 37.49.
    maps = np.array([[[[0.0, 2.0], [2.0, 4.0]]]], np.float32)
    assert normalised(maps, "channel").tolist() == [[[[37, 128], [128, 218]]]]


def test_what_lies_further_than_two_deviations_is_clipped() -> None:
    maps = np.zeros((1, 1, 1, 10), np.float32)
    maps[..., 0] = 1.0  # mean 0.1, deviation 0.3: 3 deviations above
    assert normalised(maps, "channel")[0, 0, 0].tolist() == [255, *[106] * 9]
    assert normalised(-maps, "channel")[0, 0, 0].tolist() == [0, *[149] * 9]


@pytest.mark.parametrize("value", [0.1, -3.7, 1e-30, 12345.678])
def test_a_constant_channel_is_grey_and_a_zero_one_zero(value: float) -> None:
    maps = np.full((1, 2, 7, 9), value, np.float32)
    maps[0, 1] = 0
    with np.errstate(all="raise"):
        shades = normalised(maps, "channel")
    assert (shades[0, 0] == 128).all()
    assert (shades[0, 1] == 0).all()


def test_a_channel_whose_sum_is_zero_is_not_all_zero() -> None:
    maps = np.array([[[[-1.0, 1.0]]]], np.float32)
    assert normalised(maps, "channel").tolist() == [[[[64, 192]]]]


def test_each_map_of_each_probe_stands_for_itself() -> None:
    maps = np.random.default_rng(1).standard_normal((3, 4, 5, 6)).astype(np.float32)
    whole = normalised(maps, "channel")
    for probe in range(3):
        for channel in range(4):
            alone = normalised(maps[probe, channel] * 1000 + 7, "channel")
            assert np.abs(whole[probe, channel].astype(int) - alone).max() <= 1  # float32 of the larger numbers


def test_a_volume_is_normalised_as_a_whole() -> None:
    maps = np.array([0.0, 2.0, 2.0, 4.0], np.float32).reshape(1, 1, 2, 1, 2)
    assert normalised(maps, "channel").ravel().tolist() == [37, 128, 128, 218]


def test_values_that_are_not_finite_do_not_count() -> None:
    maps = np.array([[[[0.0, 2.0, NAN], [2.0, 4.0, INF]], [[NAN, NAN, -INF], [NAN, NAN, NAN]]]], np.float32)
    with np.errstate(all="raise"):
        assert normalised(maps, "channel").tolist() == [[[[37, 128, 0], [128, 218, 0]], [[0, 0, 0], [0, 0, 0]]]]
        assert normalised(maps, "layer")[0, 0].tolist() == [[0, 128, 0], [128, 255, 0]]


def test_one_scale_for_the_layer() -> None:
    maps = np.array([[[[0.0, 1.0]], [[2.0, 4.0]]]], np.float32)
    assert layer_limits(maps) == (0.0, 4.0)
    assert normalised(maps, "layer").tolist() == [[[[0, 64]], [[128, 255]]]]
    assert normalised(maps, "layer", (0.0, 8.0)).tolist() == [[[[0, 32]], [[64, 128]]]]
    assert layer_limits(maps - 1) == (-1.0, 3.0)
    assert normalised(maps - 1, "layer").tolist() == [[[[0, 64]], [[128, 255]]]]
    assert layer_limits(maps + 1) == (0.0, 5.0)
    assert layer_limits(np.full((2, 2), NAN, np.float32)) == (0.0, 0.0)
    assert (normalised(np.zeros((1, 1, 2, 2), np.float32), "layer") == 0).all()


def test_tiles_stand_in_rows_with_a_gap() -> None:
    tiles = np.arange(1, 6)[:, None, None].repeat(2, axis=1)
    assert tiled(tiles, columns=3, fill=9).tolist() == [
        [1, 9, 2, 9, 3],
        [1, 9, 2, 9, 3],
        [9, 9, 9, 9, 9],
        [4, 9, 5, 9, 9],
        [4, 9, 5, 9, 9],
    ]
    colored = np.full((2, 2, 2, 3), 7, np.uint8)
    assert tiled(colored, columns=2, gap=2, fill=(1, 2, 3))[0].tolist() == [
        *[[7] * 3] * 2,
        *[[1, 2, 3]] * 2,
        *[[7] * 3] * 2,
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": "chanel"}, "did you mean 'channel'"),
        ({"columns": 0}, "from 1 to 64"),
        ({"columns": True}, "drawing.columns: got True"),
        ({"tile": 4}, "drawing.tile: got 4"),
        ({"max_channels": 0}, "drawing.max_channels"),
        ({"format": "gif"}, "drawing.format"),
        ({"colormap": "viridiss"}, "drawing.colormap"),
    ],
)
def test_options_that_can_not_be_drawn_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DrawingError, match=said):
        GridDrawing(**options)
