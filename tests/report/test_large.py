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


def test_strips_keep_the_current_epoch_in_sight_in_another_order_and_width(report: Open) -> None:
    payload = garments(epochs=60, probes=2, layers=1)
    for step, entry in enumerate(payload.header["steps"]):
        entry["confidence"] = [0.5, 0.4 + 0.2 * (step % 2)]
    shown = report(payload, hash="#show=film&sort=confidence")
    order = shown.texts(".probe-name")
    shown.press("ArrowLeft")
    assert shown.texts(".probe-name") == order[::-1]
    sides = "['.film-track', '[aria-current]'].map((what) => document.querySelector(what).getBoundingClientRect())"
    for width in (1280, 360, 1600):
        shown.page.set_viewport_size({"width": width, "height": 900})
        shown.page.wait_for_timeout(100)
        track, frame = shown.page.evaluate(sides)
        assert track["left"] <= frame["left"] < frame["right"] <= track["right"]
        assert shown.page.evaluate("document.querySelector('[aria-current] canvas').style.visibility") == ""
