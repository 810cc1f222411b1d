"""The page of a long run with many probes: what is out of sight costs nothing, and is there once it is in sight."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import lightning_gradcam
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


# Canvases that a browser lays out and paints; and where each card lies.
PAINTED = "[...document.querySelectorAll('.card canvas')].map((c) => c.checkVisibility({contentVisibilityAuto: true}))"
PLACES = "[...document.querySelectorAll('.card')].map((card) => card.offsetTop + card.offsetHeight)"


@pytest.mark.parametrize("show", ["film", "cards"])
def test_cards_far_from_the_window_are_not_painted_but_keep_their_places(report: Open, show: str) -> None:
    shown = report(garments(epochs=20, probes=24, layers=2), hash=f"#show={show}", width=500, height=600)
    page = shown.page
    shown.until("document.querySelectorAll('.far').length > 0")
    places = page.evaluate(PLACES)
    painted = page.evaluate(PAINTED)
    assert painted[0]
    assert sum(painted) < len(painted) / 2
    page.evaluate("document.querySelectorAll('.far').forEach((card) => card.classList.remove('far'))")
    assert page.evaluate(PLACES) == places, "a scroll bar that does not jump"
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    shown.until("document.querySelector('.card').classList.contains('far')")
    shown.settle()
    painted = page.evaluate(PAINTED)
    assert painted[-1]
    assert not painted[0]
    page.emulate_media(media="print")
    shown.settle()
    assert all(page.evaluate(PAINTED)), "on paper there is every card"


def test_no_style_makes_a_browser_look_through_the_whole_page_at_each_change() -> None:
    styles = [path.read_text(encoding="utf-8") for path in Path(lightning_gradcam.__file__).parent.rglob("*.css")]
    rules = [line for text in styles for line in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).splitlines()]
    found = [line for line in rules if ":has(" in line]
    assert len(found) >= 3
    assert [line for line in found if re.search(r":has\((?!> )", line)] == []
