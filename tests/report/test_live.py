"""A page whose run goes on: a new step leaves the reader at the step shown; from the last step, the run is followed."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gradcam.render.drawing import COLOUR_MAPS
from lightning_gradcam.report.page import ASSETS, script
from lightning_gradcam.report.pictures import data_url
from tests.report.browser import Opened, as_url
from tests.report.test_moves import at, moving

Live = Callable[..., Opened]
# The largest mean drift is at first that of epoch 2, and in the whole run that of epoch 5.
DRIFTS = [None, 0.05, 0.4, 0.05, 0.05, 0.9, 0.05]
# A source as TensorBoard's: it tells the viewer of new steps, and the viewer asks again.
GROWING = """
const {header, maps, steps} = JSON.parse(document.getElementById('run').textContent);
const bytes = Uint8Array.from(atob(maps), (sign) => sign.charCodeAt(0));
let count = steps;
let told;
const source = {
  runs: async () => [{...header, run: 'run', steps: count}],
  load: async () => ({header: {...header, steps: header.steps.slice(0, count)}, maps: bytes}),
  watch: (callback) => {
    told = callback;
    return () => {};
  },
};
window.grow = (steps) => {
  count = steps;
  return told();
};
const root = document.getElementById('gradcam');
mount(root, source, {colours: root.dataset.colours});
"""


@pytest.fixture
def live(browser: Any, tmp_path: Path) -> Iterator[Live]:
    """Opens a run at its first `steps` steps; `grow` in the page adds more."""
    payload = moving({"conv": [[drift] * 3 for drift in DRIFTS], "deep": [[None] * 3] * len(DRIFTS)})
    opened: list[Opened] = []

    def open_(steps: int, hash: str = "") -> Opened:
        run = {"header": payload.header, "maps": b64encode(payload.maps()).decode(), "steps": steps}
        path = tmp_path / f"live-{len(opened)}.html"
        colours = data_url(COLOUR_MAPS.read_bytes(), "png")
        path.write_text(
            f"<!doctype html><meta charset=utf-8><style>{(ASSETS / 'viewer.css').read_text(encoding='utf-8')}</style>"
            f'<div id="gradcam" data-colours="{colours}"></div>'
            f'<script type="application/json" id="run">{json.dumps(run)}</script>'
            f'<script type="module">{script("viewer.js")}{GROWING}</script>',
            encoding="utf-8",
        )
        opened.append(Opened(browser, as_url(path, hash)))
        return opened[-1]

    yield open_
    found = [one.errors for one in opened]
    for one in opened:
        one.close()
    assert found == [[]] * len(opened)


def grow(shown: Opened, steps: int) -> str:
    """Where the reader is once the run has that many steps."""
    shown.page.evaluate("steps => window.grow(steps)", steps)
    shown.settle()
    assert shown.page.get_by_label("Epoch", exact=True).get_attribute("max") == str(steps - 1)
    return at(shown)


def test_who_has_chosen_no_step_stays_at_the_one_shown(live: Live) -> None:
    shown = live(4)
    assert at(shown) == "epoch 2", "the largest change so far"
    before = shown.pixels(".card .cell.overlay canvas")
    assert [grow(shown, steps) for steps in (5, 6, 7)] == ["epoch 2"] * 3
    assert (shown.pixels(".card .cell.overlay canvas") == before).all()
    assert shown.hash() == "#epoch=2", "as after a reload"
    shown.go("#")
    assert at(shown) == "epoch 5", "a link without a step opens at the largest change"


@pytest.mark.parametrize("keys", [[], ["End"], ["Home", "End"]])
def test_at_the_last_step_the_run_is_followed(live: Live, keys: list[str]) -> None:
    shown = live(2)
    shown.press(*keys)
    assert at(shown) == "epoch 1"
    # Also past a step that is now the largest change.
    assert [grow(shown, steps) for steps in (3, 4, 6, 7)] == ["epoch 2", "epoch 3", "epoch 5", "epoch 6"]
    shown.press("ArrowLeft")
    assert grow(shown, 7) == "epoch 5"


def test_a_step_that_was_chosen_stays(live: Live) -> None:
    shown = live(4)
    shown.press("Home")
    assert grow(shown, 6) == "epoch 0"
    # A link to the step that was the last when it was made is a link to that step.
    linked = live(4, "#epoch=3")
    assert grow(linked, 6) == "epoch 3"


def test_a_new_step_keeps_the_open_probe_and_how_far_the_page_is_scrolled(live: Live) -> None:
    shown = live(4)
    shown.page.set_viewport_size({"width": 360, "height": 500})
    shown.page.evaluate("window.scrollTo(0, 400)")
    grow(shown, 6)
    assert shown.page.evaluate("window.scrollY") == 400
    shown.page.locator(".probe-name").nth(1).click()
    assert [grow(shown, 7), *shown.texts(".detail h2")] == ["epoch 2", "#1Shirt"]
    assert np.ptp(shown.pixels(".detail .cell.overlay canvas")[..., :3]) > 0
