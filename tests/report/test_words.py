"""What a reader of the page is told: one word for each thing, which line is which layer's, and the scale of drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lightning_gradcam.report import Payload
from tests.report.browser import Opened
from tests.report.runs import garments
from tests.report.test_moves import PLANTED, moving

Open = Callable[..., Opened]
# Everything that is read, heard or pointed at, also in what is folded away.
SAID = """() => [...document.querySelectorAll('#gradcam, #gradcam *')].flatMap((e) => [
  ...[...e.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.textContent),
  ...['aria-label', 'title', 'placeholder', 'aria-valuetext'].map((name) => e.getAttribute(name)),
]).filter(Boolean)"""
# Colour, dash, and the colour that is seen.
LINES = """paths => paths.map((e) => [
  e.className.baseVal, e.getAttribute('stroke-dasharray'), getComputedStyle(e).stroke,
])"""


def lines(shown: Opened, selector: str) -> list[list[str]]:
    return list(shown.page.locator(f"{selector} path").evaluate_all(LINES))


VIEWS = ["#curves=on", "#show=film", "#view=difference", "#view=original", "#area=2,2,9,9", "#area=mask", "#probe=1"]


@pytest.mark.parametrize("kind", ["training", "explained", "two"])
def test_an_image_a_map_and_an_overlay_are_never_called_pictures(report: Open, kind: str) -> None:
    payload = garments(epochs=3, probes=2, masks=[np.eye(28, dtype=bool)] * 2)
    runs = [payload]
    if kind == "two":
        runs.append(Payload({**payload.header, "title": "other", "id": "run-2"}, payload.blocks))
    if kind == "explained":
        steps = [{**payload.header["steps"][0], "stage": "explain"}]
        runs = [Payload({**payload.header, "steps": steps}, payload.blocks[:1])]
    shown = report(*runs)
    said: set[str] = set()
    for view in VIEWS:
        shown.go(view)
        said.update(shown.page.evaluate(SAID))
    assert {"image", "Overlay", "Map", "Image", "One epoch", "Film strips", "Masks"} <= said, "all is heard"
    assert [text for text in said if "picture" in text.lower() or "heatmap" in text.lower()] == []


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_line_of_the_small_curves_is_named_and_takes_no_height(report: Open, width: int, scheme: str) -> None:
    shown = report(garments(epochs=4, probes=2), width=width, height=2600, color_scheme=scheme)
    for view in ("#", "#view=map", "#view=difference"):
        shown.go(view)
        card = ".card:nth-of-type(2)"
        curves = lines(shown, f"{card} .spark")
        assert len({tuple(line) for line in curves}) == 3
        cells = f"{card} .cell.{'before' if 'difference' in view else 'map' if 'map' in view else 'overlay'}"
        assert lines(shown, f"{cells} .line-key") == curves
        names = shown.page.locator(f"{cells} .caption-name")
        assert [text.split(" ")[0] for text in names.all_text_contents()] == ["relu1", "relu2", "relu3"]
        colours = names.evaluate_all("names => names.map((e) => getComputedStyle(e).color)")
        assert colours == [stroke for _, _, stroke in curves]
        heights = "cards => cards.map((e) => e.getBoundingClientRect().height)"
        tall = shown.page.locator(".card").evaluate_all(heights)
        shown.page.evaluate("for (const e of document.querySelectorAll('.cell .line-key')) e.remove()")
        assert shown.page.locator(".card").evaluate_all(heights) == tall


def test_lines_are_named_where_no_map_is_shown_and_in_film_strips(report: Open) -> None:
    shown = report(garments(epochs=4, probes=1), hash="#show=film")
    assert lines(shown, ".film-name") == lines(shown, ".spark")
    shown.go("#view=original")
    assert shown.texts(".strip-names span") == ["above: confidence", "below: drift", "relu1", "relu2", "relu3"]
    assert lines(shown, ".strip-names .line-key") == lines(shown, ".spark")
    # One line needs no key, and no curve has none.
    shown.go("#layer=network.relu2")
    assert shown.page.locator(".line-key").count() == 0
    assert report(garments(epochs=1, probes=1)).page.locator(".line-key").count() == 0


def test_many_layers_have_lines_of_their_own(report: Open) -> None:
    shown = report(garments(epochs=2, probes=1, layers=12, size=6))
    drawn = lines(shown, ".spark")
    assert len(drawn) == 12
    assert len({tuple(line) for line in drawn}) == 12


@pytest.mark.parametrize("runs", [1, 2])
def test_the_scale_of_drift_is_stated_once_where_it_is_read(report: Open, runs: int) -> None:
    found: list[Any] = [moving(PLANTED), moving({**PLANTED, "conv": PLANTED["deep"]})]
    for place, payload in enumerate(found):
        payload.header.update(title=f"run {place}", id=f"run-{place}")
    shown = report(*found[:runs], width=360, height=780)
    headline = shown.page.locator(".headline").inner_text()
    assert headline.count("mean drift") == runs
    assert headline.count("0: same map, 1: no overlap") == 1
    assert headline.index("mean drift") < headline.index("0: same map") < headline.index("1: no overlap") < 200


def test_a_small_curve_without_values_says_so_and_a_lone_value_is_seen(report: Open) -> None:
    drift = np.array([[None] * 3, [0.3, None, None], [0.4, None, 0.5], [0.5, None, None]])
    shown = report(garments(epochs=4, probes=3, layers=1, numbers={"drift": drift}), height=2000)
    assert shown.texts(".spark-none") == ["no value for this probe"]
    assert shown.page.locator(".card:nth-of-type(2) .spark-none").count() == 1
    heights = shown.page.locator(".spark").evaluate_all("all => all.map((e) => e.getBoundingClientRect().height)")
    assert len(set(heights)) == 1
    line = "line => { const box = line.getBoundingClientRect(); return [box.width, line.getTotalLength()]; }"
    wide, long = shown.page.locator(".card:nth-of-type(3) .spark path").evaluate(line)
    assert wide > 3
    assert long > 0.3
