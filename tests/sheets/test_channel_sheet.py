"""Sheets of channels: each channel at its place, dead ones hatched, all of it bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lightning_gradcam import ProbeSet
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.render.grid import GridDrawing, normalised
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.channel_sheet import channel_sheet

Array = npt.NDArray[Any]
LEFT = 186  # where a grid begins
VIRIDIS = lookup_table("viridis")


def probe_set(count: int = 2, frames: int = 0) -> ProbeSet:
    shape = (count, *([frames] if frames else []), 28, 28, 3)
    display = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    labels = torch.arange(count)
    return ProbeSet(torch.zeros(count, 1, 2, 2), display=display, labels=labels, class_names=("Shirt", "Bag"))


def random_maps(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def record(
    maps: Array, dead: tuple[int, ...] = (), chosen: tuple[int, ...] | None = None, total: int = 0
) -> ChannelRecord:
    gone = np.zeros(total or maps.shape[1], np.float32)
    gone[list(dead)] = 1
    ids = tuple(map(str, range(len(maps))))
    chosen = chosen or tuple(range(maps.shape[1]))
    return ChannelRecord(3, 40, "fit", "features", ids, {"conv": maps}, {"conv": chosen}, {"conv": {"dead": gone}})


def drawn(found: ChannelRecord, probes: ProbeSet | None = None, **options: Any) -> Picture:
    probes = probes or probe_set(len(found.probe_ids))
    return channel_sheet(found, probes, layer="conv", drawing=GridDrawing(**options), title="features")


def block(pixels: Array, probes: int, row: int, height: int) -> Array:
    """What stands right of the row numbers, from the top of a probe's grid; the header's height varies."""
    pitch = max(height, 168) + 12
    top = pixels.shape[0] - pitch * (probes - row)
    return pixels[top : top + pitch, LEFT:]


def test_every_channel_stands_at_its_place_as_the_chapter_shades_it() -> None:
    maps = random_maps(2, 20, 28, 28)
    sheet = drawn(record(maps))
    assert sheet.enlarged
    for probe in range(2):
        grid = block(sheet.pixels, 2, probe, 114)
        for channel in range(20):
            y, x = channel // 16 * 58, channel % 16 * 58
            expected = VIRIDIS[normalised(maps[probe : probe + 1], "channel")[0, channel]]
            np.testing.assert_array_equal(grid[y : y + 56 : 2, x : x + 56 : 2], expected)
            np.testing.assert_array_equal(grid[y + 1 : y + 56 : 2, x + 1 : x + 56 : 2], expected)
        assert (grid[56:58, : 16 * 58 - 2] == VIRIDIS[0]).all(), "the gap has the colour of 0"
        assert (grid[58:114, 4 * 58 :] == 255).all(), "paper where there are no more channels"


def test_dead_channels_are_hatched_and_others_are_not() -> None:
    maps = random_maps(2, 4, 28, 28)
    maps[:, 1] = 0
    maps[0, 2] = 0  # zero on one probe alone
    grid = block(drawn(record(maps, dead=(1,))).pixels, 2, 0, 56)
    hatched, zero = grid[:56, 58:114], grid[:56, 116:172]
    assert (hatched == hatched[..., :1]).mean() > 0.6, "grey, a little blue"
    assert len(np.unique(hatched.reshape(-1, 3), axis=0)) == 2
    assert not (hatched.reshape(-1, 1, 3) == VIRIDIS).all(-1).any(), "in no colour of the map"
    assert (zero == VIRIDIS[0]).all()


def test_dead_is_looked_up_by_the_channels_own_number() -> None:
    maps = random_maps(1, 3, 28, 28)
    grid = block(drawn(record(maps, dead=(4,), chosen=(0, 2, 4), total=6)).pixels, 1, 0, 56)
    kinds = [len(np.unique(grid[:56, 58 * place : 58 * place + 56].reshape(-1, 3), axis=0)) for place in range(3)]
    assert kinds[2] == 2
    assert min(kinds[:2]) > 20


def test_one_scale_for_all_channels_and_probes() -> None:
    maps = np.zeros((2, 2, 28, 28), np.float32)
    maps[0, 0], maps[0, 1], maps[1, 0] = 1, 2, 4
    pixels = drawn(record(maps), scale="layer", colormap="gray").pixels
    assert [block(pixels, 2, 0, 56)[5, x, 0] for x in (5, 63)] == [64, 128]
    assert [block(pixels, 2, 1, 56)[5, x, 0] for x in (5, 63)] == [255, 0]


@pytest.mark.parametrize(("side", "magnified"), [(3, 63), (7, 63), (28, 56), (33, 33), (64, 64), (112, 64)])
def test_small_maps_are_magnified_by_whole_numbers_and_large_ones_fitted(side: int, magnified: int) -> None:
    maps = np.zeros((1, 2, side, side), np.float32)
    maps[0, 0, :, side // 2 :] = 1
    sheet = drawn(record(maps), scale="layer", colormap="gray")
    grid = block(sheet.pixels, 1, 0, magnified)
    gap = min(max(1, magnified // side), 4)
    first, second = grid[:magnified, :magnified, 0], grid[:magnified, magnified + gap : 2 * magnified + gap, 0]
    half = side // 2 * magnified // side
    assert (first[:, half:] == 255).all()
    assert (first[:, :half] == 0).all()
    assert (second == 0).all()
    assert (grid[magnified] == 255).all()
    assert sheet.enlarged == (side < 33)


def test_of_very_many_channels_some_are_shown_evenly() -> None:
    # Each channel's constant is its own number, which the common scale shows.
    maps = np.arange(2048, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 7, 7), np.float32)
    pixels = drawn(record(maps), scale="layer", colormap="gray").pixels
    grid = block(pixels, 1, 0, 16 * 67 - 4)
    shades = [int(grid[place // 16 * 67 + 30, place % 16 * 67 + 30, 0]) for place in range(256)]
    assert shades == [round(8 * place / 2047 * 255) for place in range(256)]
    assert pixels.shape[0] < 1400


def test_a_sheet_is_bounded() -> None:
    maps = np.zeros((40, 300, 7, 7), np.float32)
    small = drawn(record(maps), max_sheet_pixels=1_000_000).pixels
    assert small.shape[0] * small.shape[1] <= 1_000_000
    large = drawn(record(maps)).pixels
    assert large.shape[0] * large.shape[1] <= 16_000_000
    assert large.shape[0] > small.shape[0]
    tiny = drawn(record(maps[:, :, :, :2]), max_sheet_pixels=100_000, columns=4).pixels
    assert tiny.shape[0] * tiny.shape[1] < 600_000, "one row of channels at least"


def test_a_volume_shows_its_middle_slice_and_the_frame_under_it() -> None:
    maps = np.zeros((1, 1, 3, 28, 28), np.float32)
    maps[0, 0, 1], maps[0, 0, 2] = 1, 4
    probes = probe_set(1, frames=9)
    pixels = drawn(record(maps), probes, scale="layer", colormap="gray").pixels
    assert (block(pixels, 1, 0, 56)[:56, :56] == 64).all()
    top = pixels.shape[0] - 180
    np.testing.assert_array_equal(pixels[top : top + 112 : 4, 12 : 12 + 112 : 4], probes.pixels[0, 4])


def test_a_map_that_is_not_finite_is_crossed_out() -> None:
    maps = random_maps(1, 2, 28, 28)
    plain = drawn(record(maps.copy())).pixels
    maps[0, 1, 3, 4] = np.nan
    pixels = drawn(record(maps)).pixels
    red = (pixels == (200, 30, 40)).all(-1)
    assert red[:, LEFT + 58 : LEFT + 114].any()
    assert not red[-180:, LEFT : LEFT + 56].any()
    assert pixels.shape[0] == plain.shape[0] + 18, "the header says what the cross means"


def test_the_layout_is_the_same_in_all_epochs() -> None:
    maps = random_maps(2, 4, 28, 28)
    assert drawn(record(maps)).pixels.shape == drawn(record(np.zeros_like(maps), dead=(0, 1, 2, 3))).pixels.shape
