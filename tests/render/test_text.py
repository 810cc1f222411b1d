"""Tests of text and marks on pixel arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lightning_gradcam.render.text import RIGHT, WRONG, cross_out, stamp, write

Canvas = npt.NDArray[np.uint8]


def written(text: str, *, width: int = 200, at: tuple[int, int] = (10, 5), size: int = 13, **options: Any) -> Canvas:
    canvas = np.full((40, 260, 3), 255, np.uint8)
    write(canvas, at, text, width, size, **options)
    return canvas


def inked(canvas: Canvas) -> npt.NDArray[np.bool_]:
    return (canvas != 255).any(2)


def test_text_appears_at_its_place_in_its_colour() -> None:
    canvas = written("EEE", color=(200, 0, 40))
    rows, columns = inked(canvas).nonzero()
    assert 10 <= columns.min() <= 13
    assert columns.max() < 10 + 3 * 13
    assert rows.min() >= 5
    assert rows.max() < 5 + 13 + 5
    assert (canvas == (200, 0, 40)).all(2).any()


def test_different_texts_look_different() -> None:
    assert (written("cat") != written("cot")).any()


def test_text_of_another_colour_covers_the_same_pixels() -> None:
    assert np.array_equal(inked(written("cat", color=(0, 0, 0))), inked(written("cat", color=(0, 0, 255))))


@pytest.mark.parametrize("width", [20, 60, 100])
def test_long_text_ends_within_its_width_in_an_ellipsis(width: int) -> None:
    canvas = written("a rather long class name " * 4, width=width)
    columns = inked(canvas).nonzero()[1]
    assert columns.max() <= 10 + width + 1
    dots = inked(written("…", at=(0, 5)))
    height = dots.any(1).nonzero()[0]
    tail = inked(canvas)[:, columns.max() - 3 : columns.max() + 1]
    assert set(tail.any(1).nonzero()[0]) <= set(height)


def test_a_probability_behind_a_long_name_is_kept_whole() -> None:
    name, share = "a rather long class name", "  94%"
    cut = written(name + share, width=100)
    assert any(np.array_equal(cut, written(f"{name[:count]}…{share}", width=200)) for count in range(len(name)))
    # Where even that does not fit, the line ends in an ellipsis.
    assert np.array_equal(written(name + share, width=20), written(name, width=20))


def test_text_that_fits_is_not_cut() -> None:
    short = written("cat", width=200)
    assert np.array_equal(short, written("cat", width=150))
    # The longest name of Fashion-MNIST above a tile of 112 pixels.
    sure, smaller = "Ankle boot  100%", written("Ankle boot  100%", size=13)
    assert not np.array_equal(written(sure, size=14), smaller)
    assert np.array_equal(written(sure, width=112 + 11 - 17, size=14), smaller)


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\rb", "a\x00b", "a\u2028b", "a\ud800b", "a\x1bb"], ids=ascii)
def test_control_characters_are_written_as_a_space(text: str) -> None:
    assert np.array_equal(written(text), written("a b"))


@pytest.mark.parametrize(
    "text",
    ["", " ", "👢🧥", "é" * 50, "日本語", "עברית", "a" * 10_000, "\n" * 10_000, "🦓" * 10_000],
    ids=lambda t: ascii(t[:8]),
)
@pytest.mark.parametrize("width", [0, 1, 30])
def test_any_text_stays_in_one_line_and_its_width(text: str, width: int) -> None:
    canvas = written(text, width=width)
    rows, columns = inked(canvas).nonzero()
    if len(rows):
        assert rows.max() < 5 + 13 + 5
        assert columns.max() <= 10 + max(width, 15)


@pytest.mark.parametrize("at", [(250, 5), (259, 39), (260, 40), (400, 400)])
def test_text_over_the_edge_is_cut_off(at: tuple[int, int]) -> None:
    canvas = written("EEEEE", at=at)
    assert not inked(canvas)[:, : min(at[0], 260)].any()


def stamped(right: bool) -> Canvas:
    canvas = np.full((30, 90, 3), 255, np.uint8)
    stamp(canvas, (8, 6), right=right)
    return canvas


@pytest.mark.parametrize(("right", "color"), [(True, RIGHT), (False, WRONG)])
def test_stamp_takes_72_by_20_pixels_of_its_colour(right: bool, color: tuple[int, int, int]) -> None:
    rows, columns = inked(stamped(right)).nonzero()
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (8, 80, 6, 26)
    assert (stamped(right)[6:26, 8:80] == color).all(2).mean() > 0.5


def test_stamps_differ_in_shape_and_not_only_in_colour() -> None:
    # Without colour: what is drawn in the ground's colour, and what is not.
    shapes = {right: (stamped(right) == (RIGHT if right else WRONG)).all(2)[6:26, 8:80] for right in (True, False)}
    mark = shapes[True][:, 4:22] != shapes[False][:, 4:22]
    word = shapes[True][:, 24:] != shapes[False][:, 24:]
    assert mark.mean() > 0.1
    assert word.mean() > 0.05


def test_stamps_differ_in_grey() -> None:
    grey = {right: stamped(right).astype(int).sum(2) for right in (True, False)}
    assert (abs(grey[True] - grey[False]) > 120).sum() > 60


@pytest.mark.parametrize(("height", "width"), [(112, 112), (64, 96), (96, 64), (300, 20), (5, 5), (1, 1), (1, 7)])
def test_cross_goes_from_corner_to_corner_and_leaves_the_rest(height: int, width: int) -> None:
    picture = np.full((height, width, 3), 90, np.uint8)
    cross_out(picture)
    red = (picture == WRONG).all(2)
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1), (height // 2, width // 2)):
        assert red[y, x]
    assert (picture[~red] == 90).all()
    if min(height, width) > 50:
        assert 0.03 < red.mean() < 0.25
        assert not red[height // 2, width // 4]
        assert not red[height // 4, width // 2]


def test_cross_is_drawn_into_a_part_of_a_canvas() -> None:
    canvas = np.full((40, 90, 3), 90, np.uint8)
    cross_out(canvas[10:30, 20:50])
    red = (canvas == WRONG).all(2)
    assert red[10:30, 20:50].any()
    red[10:30, 20:50] = False
    assert not red.any()
