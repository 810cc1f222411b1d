"""What all sheets are made of, by the pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lightning_gradcam.render.boxes import FOUND, KNOWN, legend
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.render.text import INK, LINE, PALE, WRONG
from lightning_gradcam.sheets.builder import FRAME, MARGIN, MARK, Caption, Sheet, mark, step_line
from tests.samples import ramp, record

Array = npt.NDArray[Any]


def seen(pixels: Array, color: tuple[int, int, int]) -> Array:
    return np.asarray((pixels == color).all(axis=-1))


def paper(*lines: tuple[str, tuple[int, int, int]], body: int = 200) -> Sheet:
    return Sheet(lines or [("title", INK)], 480, head=50, body=body)


def test_a_header_line_takes_18_pixels_and_nothing_leaves_the_margins() -> None:
    page = paper(("title " * 40, INK), ("remark " * 40, WRONG))
    assert (page.below, page.top, page.pixels.shape) == (MARGIN + 36, MARGIN + 86, (MARGIN + 286, 480, 3))
    assert seen(page.pixels[MARGIN : MARGIN + 18], INK).any()
    assert seen(page.pixels[MARGIN + 18 : MARGIN + 36], WRONG).any()
    assert (page.pixels[page.below + 2 :] == 255).all()
    assert (page.pixels[:, :MARGIN] == 255).all()
    assert (page.pixels[:, -MARGIN + 2 :] == 255).all()


def test_the_colour_bar_stands_between_its_ends_however_long_they_are() -> None:
    for low, high in (("0", "maximum"), ("mean - 2 deviations", "1.2e-05")):
        page = paper()
        page.color_bar(page.below, "viridis", low, high)
        row = page.pixels[page.below + 8]
        table = lookup_table("viridis")[::2]
        start = next(x for x in range(300) if np.array_equal(row[x : x + 128], table))
        beside = page.pixels[page.below : page.below + 16] < 200
        assert beside[:, MARGIN : start - 4].any()
        assert not beside[:, start - 4 : start].any()
        assert beside[:, start + 132 :].any()
        assert np.array_equal(page.picture(enlarged=True).colors, lookup_table("viridis")[::8])


def test_a_legend_has_each_sample_with_its_meaning_behind_it() -> None:
    page = paper()
    page.legend(page.below, (None, "below:"), (mark("right"), "right"), (mark("cross"), "not finite"))
    line = page.pixels[page.below : page.below + MARK]
    places = [
        next(x for x in range(460) if np.array_equal(line[:, x : x + MARK], mark(name))) for name in ("right", "cross")
    ]
    for begin, end in ((MARGIN, places[0]), (places[0] + MARK, places[1]), (places[1] + MARK, 480)):
        assert (line[:, begin:end] < 200).any()
        assert (line[:, end - 4 : end] == 255).all()


def test_the_legend_of_boxes_has_a_line_for_each_kind_with_all_of_its_text() -> None:
    page = paper()
    for number, entry in enumerate(legend(0.15, known=True)):
        page.legend(page.top + 18 * number, entry)
    assert seen(page.pixels[page.top : page.top + 18], FOUND).any()
    assert seen(page.pixels[page.top + 18 :], KNOWN)[:14, MARGIN : MARGIN + 38].any()
    assert (page.pixels[:, 470:] == 255).all()


@pytest.mark.parametrize("framed", [False, True])
def test_a_cell_is_its_picture_with_captions_below(framed: bool) -> None:
    page, picture = paper(), np.random.default_rng(0).integers(0, 200, (20, 30, 3)).astype(np.uint8)
    captions = [Caption("75%", PALE, "wrong"), Caption(""), Caption("not finite at all", WRONG)]
    before, (x, y) = page.copy(), (40, page.top + 10)
    page.cell((x, y), picture, captions, width=50, gap=FRAME, pitch=15, framed=framed)
    assert np.array_equal(page.pixels[y : y + 20, x : x + 30], picture)
    first, second, third = (page.pixels[y + 20 + FRAME + 15 * n :][:15] for n in range(3))
    assert np.array_equal(first[2 : 2 + MARK, x : x + MARK], mark("wrong"))
    assert (first[:, x + MARK + 4 : x + 50] < 200).any()
    assert (second == 255).all()
    assert seen(third[:, x : x + 52], WRONG).any()
    assert (page.pixels[:, x + 52 :] == before.pixels[:, x + 52 :]).all()
    around = page.pixels[y - FRAME : y + 20 + FRAME, x - FRAME : x + 30 + FRAME]
    # A thin line, with paper on both sides.
    assert seen(around[1, 1:-1], INK).all() == framed
    assert seen(around[1:-1, -2], INK).all() == framed
    assert (around[[0, 2, 3]][:, 4:-4] == 255).all()


def test_a_copy_is_drawn_on_by_itself() -> None:
    page = paper()
    other = page.copy()
    other.rule(100)
    assert seen(other.pixels[100, MARGIN:-MARGIN], LINE).all()
    assert not seen(page.pixels[100], LINE).any()


def test_the_stage_is_named_unless_it_is_training() -> None:
    found = record(ramp(), epoch=-1)
    assert step_line("Grad-CAM", found) == ("Grad-CAM, untrained, step 469", INK)
    assert step_line("Grad-CAM", record(ramp(), stage="test"))[0] == "Grad-CAM, epoch 3, step 469, test"
