"""Lines of boxes, down to single pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_gradcam.render.boxes import FOUND, KNOWN, legend, put_box

NAN = float("nan")


def lined(box: Any, size: tuple[int, int] = (10, 15), *, shape: tuple[int, int] = (40, 60), **options: Any) -> Any:
    picture = np.full((*shape, 3), 128, np.uint8)
    put_box(picture, np.array(box, np.float32), size, **options)
    return picture


def places(picture: Any, color: tuple[int, int, int]) -> Any:
    return (picture == color).all(axis=2)


def test_the_line_lies_on_the_boxes_edges() -> None:
    # Four screen pixels each: 12 to 36 across, 8 to 28 down.
    found = places(lined([3, 2, 9, 7]), FOUND)
    expected = np.zeros((40, 60), bool)
    expected[7:29, 11:37] = True
    expected[9:27, 13:35] = False
    assert np.array_equal(found, expected)


def test_the_line_is_dark_on_both_sides_and_nothing_else_changes() -> None:
    picture = lined([3, 2, 9, 7])
    touched = (picture != 128).any(axis=2)
    dark = places(picture, (16, 16, 16))
    assert dark[18, [10, 13, 34, 37]].all()
    assert dark[[6, 9, 26, 29], 20].all()
    assert np.array_equal(touched, dark | places(picture, FOUND))
    assert touched.sum() == 24 * 28 - 16 * 20


@pytest.mark.parametrize("known", [True, False])
def test_the_line_of_a_box_as_large_as_the_picture_is_seen_whole(known: bool) -> None:
    picture = lined([0, 0, 15, 10], known=known)
    line = places(picture, KNOWN if known else FOUND)
    assert not line[0].any()
    assert line[1:3, 1:7].all()
    assert line[-3:-1, 1:7].all()
    assert not line[-1].any()
    assert line[1:7, -3:-1].all()


def test_the_known_box_is_dashed_and_lets_the_other_through() -> None:
    known, both = lined([3, 2, 9, 7], known=True), lined([3, 2, 9, 7])
    top = places(known, KNOWN)[7:9, 11:37]
    assert top[0].tolist() == top[1].tolist() == [place % 10 < 6 for place in range(26)]
    put_box(both, np.array([3.0, 2, 9, 7]), (10, 15), known=True)
    assert np.array_equal(places(both, KNOWN), places(known, KNOWN))
    assert places(both, FOUND).any()


def test_a_box_that_is_not_known_is_not_drawn() -> None:
    assert (lined([NAN] * 4) == 128).all()


@pytest.mark.parametrize("box", [[0, 0, 1, 1], [14, 9, 15, 10], [7.2, 4.4, 7.3, 4.5], [-3, -3, 99, 99]], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (112, 16), (256, 256)], ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_boxes_of_any_size_are_drawn_on_any_picture(box: Any, shape: tuple[int, int], known: bool) -> None:
    assert places(lined(box, shape=shape, known=known), KNOWN if known else FOUND).any()


def test_the_legend_has_a_sample_for_each_kind() -> None:
    (one,), (first, second) = legend(0.15, known=False), legend(0.15, known=True)
    assert np.array_equal(one[0], first[0])
    assert (one[1], second[1][:9]) == (first[1], "known box")
    assert places(one[0], FOUND).any()
    assert not places(one[0], KNOWN).any()
    assert [legend(share, known=False)[0][1][-24:] for share in (0.15, 0.55)] == [
        "above 15% of its maximum",
        "above 55% of its maximum",
    ]
    assert places(second[0], KNOWN).any()
