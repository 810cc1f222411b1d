"""Sheets of patterns: the chapter's picture, and what is marked instead of drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_gradcam import DrawingError
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.render.text import WRONG
from lightning_gradcam.sheets.builder import LINE_HEIGHT
from lightning_gradcam.sheets.pattern_sheet import PatternDrawing, cropped, deprocessed, in_colour, pattern_sheet

PLAIN = PatternDrawing()


def record(pictures: Any, chosen: Any = None, **numbers: Any) -> ChannelRecord:
    values = np.asarray(pictures, np.float32)
    places = tuple(range(len(values))) if chosen is None else chosen
    named = {"activation": np.arange(len(values), dtype=np.float32), **numbers}
    return ChannelRecord(2, 30, "fit", "patterns", (), {"conv": values}, {"conv": places}, {"conv": named})


def noise(filters: int = 3, channels: int = 3, side: int = 28) -> Any:
    return np.random.default_rng(0).normal(3, 2, (filters, channels, side, side)).astype(np.float32)


def the_chapters(picture: Any) -> Any:
    """Written out plainly, `[H, W, c]`: normalise, clip, cut 25 of 200 off each side."""
    picture = picture.astype(np.float64)
    mean = sum(picture.flatten().tolist()) / picture.size
    deviation = (sum((value - mean) ** 2 for value in picture.flatten().tolist()) / picture.size) ** 0.5
    shown = np.clip((picture - mean) / deviation * 64 + 128, 0, 255).astype(np.uint8)
    cut = picture.shape[0] * 25 // 200
    return shown[cut:-cut, cut:-cut]


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (40, 3), (33, 3)])
def test_pictures_are_the_chapters(side: int, channels: int) -> None:
    pictures = noise(2, channels, side)
    pictures[:, -1] *= 5
    found = cropped(deprocessed(pictures))
    for picture, expected in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(picture.transpose(1, 2, 0), the_chapters(expected.transpose(1, 2, 0)))


def test_deprocessing_by_hand() -> None:
    # Mean 3, deviation 1 over both channels; then one and three deviations away.
    assert deprocessed(np.array([[[2.0, 4.0]], [[2.0, 4.0]]], np.float32)).tolist() == [[[64, 192]], [[64, 192]]]
    spread = np.array([[[0.0] * 9 + [10.0]]], np.float32)
    assert deprocessed(spread)[0, 0].tolist() == [106] * 9 + [255]
    assert (deprocessed(np.full((2, 3, 4, 4), 0.7, np.float32)) == 128).all()
    broken = deprocessed(np.array([[[np.nan, 1.0, 3.0]]], np.float32))
    assert broken[0, 0, 0] == 0


def test_crops() -> None:
    sizes = {200: 150, 28: 22, 224: 168, 8: 6, 7: 7, 1: 1}
    for side, left in sizes.items():
        assert cropped(np.zeros((2, side, side), np.uint8)).shape == (2, left, left)
    counted = np.arange(16, dtype=np.uint8).reshape(1, 16)
    assert cropped(counted).tolist() == [list(range(2, 14))]


def test_channels_become_colours() -> None:
    two = np.zeros((1, 2, 1, 1), np.uint8)
    two[0, 0] = 100
    assert in_colour(two)[0, 0, 0].tolist() == [50, 50, 50]
    four = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1)
    assert in_colour(four)[0, 0, 0].tolist() == [0, 1, 2]


def test_a_sheet_shows_each_pattern_in_its_place() -> None:
    pictures = noise(10)
    sheet = pattern_sheet(record(pictures), "conv", drawing=PLAIN, title="patterns", settings="how", note="drawn")
    # 22 pixels, seven times, and 5 between two; a caption of 17 below each.
    pitch, row = 7 * 22 + 5, 7 * 22 + 17 + 5
    assert sheet.pixels.shape[1] == 12 + 8 * pitch - 5 + 12
    assert sheet.enlarged
    top = sheet.pixels.shape[0] - 12 - 2 * row + 5
    for number in (0, 7, 8):
        y, x = top + number // 8 * row, 12 + number % 8 * pitch
        expected = in_colour(cropped(deprocessed(pictures[number : number + 1])))[0]
        shown = sheet.pixels[y : y + 7 * 22, x : x + 7 * 22]
        np.testing.assert_array_equal(shown[::7, ::7], expected)
    assert (sheet.pixels[top + row :, 12 + 2 * pitch :] == 255).all()
    again = pattern_sheet(record(pictures), "conv", drawing=PLAIN, title="patterns", settings="how", note="drawn")
    np.testing.assert_array_equal(sheet.pixels, again.pixels)


def test_silent_filters_are_not_stretched_noise() -> None:
    silent = np.array([0, 1, 0], np.float32)
    sheet = pattern_sheet(record(noise(), silent=silent), "conv", drawing=PLAIN, title="patterns").pixels
    plain = pattern_sheet(record(noise()), "conv", drawing=PLAIN, title="patterns").pixels
    left = 12 + 7 * 22 + 5
    # The margin and a caption of 17 lie below.
    bottom = sheet.shape[0] - 12 - 17
    cell = sheet[bottom - 7 * 22 : bottom, left : left + 7 * 22]
    assert len(np.unique(plain[bottom - 100 : bottom, left : left + 100])) > 50
    # Paper, and pale letters in its middle.
    assert (cell[:40] == 232).all()
    assert (cell[-40:] == 232).all()
    assert (cell[40:-40] < 200).any()
    np.testing.assert_array_equal(sheet[bottom - 7 * 22 :, : left - 5], plain[bottom - 7 * 22 :, : left - 5])


def test_patterns_that_are_not_finite_are_crossed_out() -> None:
    pictures = noise()
    pictures[1, 0, 3, 3] = np.nan
    sheet = pattern_sheet(record(pictures), "conv", drawing=PLAIN, title="patterns").pixels
    left = 12 + 7 * 22 + 5
    red = (sheet == np.array(WRONG)).all(axis=2)
    assert red[-150:-40, left : left + 7 * 22].sum() > 100
    assert not red[-150:-40, : left - 5].any()


@pytest.mark.parametrize(
    ("options", "shown", "lines"),
    [({"max_filters": 5}, 5, 0), ({"columns": 1, "tile": 512}, 27, 1), ({"columns": 64}, 40, 0)],
)
def test_a_sheet_has_room_for_so_many(options: dict[str, Any], shown: int, lines: int) -> None:
    drawing = PatternDrawing(**options)
    pictures = noise(40, 1, 16)
    sheet = pattern_sheet(record(pictures), "conv", drawing=drawing, title="patterns").pixels
    part = pattern_sheet(record(pictures[:shown]), "conv", drawing=drawing, title="patterns").pixels
    # Where it is narrow, saying that some are left out takes another line.
    assert sheet.shape == (part.shape[0] + lines * LINE_HEIGHT, *part.shape[1:])
    assert sheet.shape[0] < 15_000
    # The header says so where some are left out.
    assert (shown < 40) == (not np.array_equal(sheet, part))


def test_large_pictures_are_scaled_down_and_crops_can_be_left_out() -> None:
    large = pattern_sheet(record(noise(2, 3, 400)), "conv", drawing=PatternDrawing(columns=2), title="t").pixels
    assert large.shape[1] == 480
    whole = pattern_sheet(record(noise(8)), "conv", drawing=PatternDrawing(crop=False), title="t").pixels
    assert whole.shape[1] == 24 + 8 * (6 * 28 + 5) - 5


def test_numbers_are_those_of_the_filters() -> None:
    first, second = (
        pattern_sheet(record(noise(), chosen), "conv", drawing=PLAIN, title="t") for chosen in ((0, 1, 2), (7, 1, 2))
    )
    changed = np.argwhere((first.pixels != second.pixels).any(axis=2))
    assert changed.size
    # Only the first one's caption.
    assert changed[:, 1].max() < 12 + 20
    assert changed[:, 0].min() >= first.pixels.shape[0] - 12 - 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": 0}, "drawing.columns: got 0; pass an integer from 1 to 64"),
        ({"tile": 8}, "drawing.tile: got 8"),
        ({"max_filters": True}, "drawing.max_filters: got True"),
        ({"crop": 1}, "drawing.crop: got 1; pass true or false"),
        ({"format": "gif"}, "drawing.format: got 'gif'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DrawingError, match=message):
        PatternDrawing(**options)
