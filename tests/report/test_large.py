"""The page of a long run with many probes: what is out of sight costs nothing, and is there once it is in sight."""

from __future__ import annotations

from collections.abc import Callable

from tests.report.browser import Opened
from tests.report.runs import garments

Open = Callable[..., Opened]

FRAMES = "[...document.querySelector('.film').querySelectorAll('canvas')].map((canvas) => canvas.style.visibility)"
STRIPS = "[...document.querySelectorAll('.strips')].map((box) => [box.clientHeight, box.childElementCount])"


def test_pictures_and_curves_out_of_sight_wait_until_they_are_seen(report: Open) -> None:
    shown = report(garments(epochs=60, probes=12, layers=1), hash="#show=film")
    page = shown.page
    for key, seen, unseen in (("End", -1, 0), ("Home", 0, -1)):
        shown.press(key)
        frames = page.evaluate(FRAMES)
        assert (frames[seen], frames[unseen]) == ("", "hidden")
    # By hand, too.
    page.evaluate("document.querySelector('.film-track').scrollLeft = 1e6")
    shown.until(f"{FRAMES}.at(-1) === ''")
    assert page.evaluate(FRAMES)[0] == "hidden"
    # The page does not move when the curves come.
    first, *_, (height, last) = page.evaluate(STRIPS)
    assert (height, last) == (first[0], 0)
    assert first[1] > 0
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    shown.until(f"{STRIPS}.at(-1)[1] > 0")
    assert page.evaluate(STRIPS)[-1] == first
