"""Runs side by side in a real browser: names, places on the screen, the difference's pixels, and bands of seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gradcam import Archive, CamKey
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.report import page, write_report
from tests.report.archives import written
from tests.report.browser import Opened, as_url, launched
from tests.report.runs import made

KEY = CamKey("net.1", "gradcam", "predicted")
# Labels of charts that reach over their edge, predictions whose probability is cut or that take two lines, and names of
# small curves that lie on them.
CROWDED = """() => {
  const box = (element) => element.getBoundingClientRect();
  const all = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length);
  return [
    ...all('.chart text').filter((e) => box(e).right > box(e.closest('svg')).right),
    ...all('.verdict-share').filter((e) => box(e).right > box(e.closest('.run-row')).right),
    ...all('.card .verdict').filter((e) => box(e).height > 26),
    ...all('.spark, .timeline').filter((e) => [...e.querySelectorAll('span:not(.piece)')].length > 0),
  ].map((e) => e.outerHTML.slice(0, 200));
}"""
SIDES = ".card:nth-of-type(1) .versus > .run-row"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


def test_any_number_of_runs_two_side_by_side_and_bands_of_seeds(browser: Any, tmp_path: Path) -> None:
    archives = []
    for place, (rate, seed) in enumerate([(0.1, 0), (0.1, 1), (0.1, 2), (0.2, 0)]):
        folder = tmp_path / f"version_{place}"
        archives.append(Archive.open(written(folder / "gradcam", [0, 1], run=str(place), seed=place).path))
        (folder / "hparams.yaml").write_text(f"lr: {rate}\nseed: {seed}\n")
    write_report(archives, tmp_path / "page.html")
    shown = Opened(browser, as_url(tmp_path / "page.html", "#number=maximum&compare=lr%3D0.2,+seed%3D0"))
    # Both runs of a probe, and their difference, without scrolling.
    boxes = [shown.page.locator(SIDES).nth(place).bounding_box() for place in range(3)]
    assert len({round(box["y"]) for box in boxes}) == 1
    assert all(box["y"] + box["height"] <= 900 and box["x"] + box["width"] <= 1280 for box in boxes)
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert shown.overflow() <= 0
    chips = shown.page.locator(".compare-line .segments").first.locator("button")
    assert chips.all_text_contents() == ["lr=0.1, seed=1", "lr=0.1, seed=2", "lr=0.2, seed=0"]
    assert shown.texts(".side-name") == ["lr=0.1, seed=0"]
    # The curves: A's family is a band, B is alone.
    shown.page.get_by_text("Curves", exact=True).click()
    chart = shown.page.locator("section.curve:nth-of-type(2) svg")
    values = np.array(
        [
            [np.maximum(archive.maps("conv1")[step], 0).max(axis=(-2, -1)).mean() for archive in archives]
            for step in (0, 1)
        ]
    )
    for step in (1, 0):
        shown.drag("Epoch", step)
        label = str(chart.get_attribute("aria-label"))
        found = re.search(r"A conv1 ([\d.]+) \(([\d.]+)–([\d.]+), n = 3\)", label)  # noqa: RUF001
        assert found is not None, label
        seeds = values[step, :3]
        np.testing.assert_allclose(np.array(found.groups(), float), [seeds.mean(), seeds.min(), seeds.max()], rtol=6e-3)
        alone = re.search(r"B conv1 ([\d.]+)(?=[,\s]|$)", label)
        assert alone is not None, label
        np.testing.assert_allclose(float(alone[1]), values[step, 3], rtol=6e-3)
    alike = "runs like A that differ only in their seed, according to hparams.yaml and config.yaml (seeds 0, 1, 2)"
    assert f"n = 3 {alike}" in shown.texts(".about")[0]
    assert shown.page.locator(".band").count() == 4  # accuracy, confidence, two layers
    # The others by a click or a key.
    chips.nth(1).click()
    shown.until("document.querySelector('.facts').textContent.includes('B: lr=0.1, seed=2')")
    shown.settle()
    assert "A conv1" not in str(chart.get_attribute("aria-label"))  # one band for both
    assert shown.page.locator(".cell.apart").count() == 6
    shown.press("w")
    assert shown.page.locator(".cell.apart").count() == 0
    shown.press("x")
    shown.until("document.querySelector('.facts').textContent.startsWith('A: lr=0.1, seed=2')")
    shown.press("w", "t")
    assert shown.page.locator(".versus").count() == 0  # strips are below each other, epoch under epoch
    shown.page.set_viewport_size({"width": 360, "height": 800})
    shown.press("t")
    assert shown.overflow() <= 0
    assert shown.outside(".compare-line *, .card, .cell") == []
    assert shown.page.evaluate(CROWDED) == []
    shown.page.set_viewport_size({"width": 760, "height": 800})
    shown.settle()
    assert shown.page.evaluate(CROWDED) == []
    assert shown.errors == []
    shown.close()


def test_a_difference_is_red_in_a_blue_in_b_and_grey_where_both_are_as_bright(browser: Any, tmp_path: Path) -> None:
    pictures = np.zeros((2, 2, 3, 3), np.uint8)
    a, b = np.array([[4.0, 0.0, 4.0], [1.0, 0.0, -9.0]]), np.array([[0.0, 8.0, 8.0], [0.0, 0.0, 0.0]])
    broken = np.full((2, 3), np.nan)
    first = made({KEY: np.stack([a, a])[None]}, pictures, title="first", class_names=None)
    second = made(
        {KEY: np.stack([b, broken])[None]}, pictures, title="second", id="2", class_names=None, predicted=[[1, 0]]
    )
    path = tmp_path / "page.html"
    path.write_text(page([first, second]), encoding="utf-8")
    shown = Opened(browser, as_url(path))
    found = shown.pixels(".cell.apart canvas")[..., :3].astype(int)
    table = lookup_table("coolwarm").astype(int)
    assert found[0].tolist() == [table[255].tolist(), table[0].tolist(), table[128].tolist()]
    # A quarter of A's brightest colour; what speaks against the class is not seen, and not subtracted.
    step = np.abs(np.diff(table, axis=0)).max() + 1
    assert np.abs(found[1, 0] - table[round(127.5 + 127.5 * 0.25)]).max() <= step
    assert found[1, 1].tolist() == found[1, 2].tolist() == table[128].tolist()
    said = shown.texts(".cell.apart .caption-value")
    assert said == ["classes differ: class 0 | class 1; A brighter by up to 100%, B by 100%", "cannot be subtracted"]
    assert shown.texts(".cell.apart .caption-name") == ["net.1", "net.1"]
    assert "full colours: ±100% of the brightest colour" in shown.texts(".compare-line")[0]
    # Signed, what speaks against the class counts too: A is less than B there.
    shown.press("a")
    against = shown.pixels(".cell.apart canvas")[1, 2, :3].astype(int)
    assert against[2] > against[0] + 60
    assert shown.errors == []
    shown.close()


def test_a_difference_of_signed_maps_larger_than_the_scale_has_the_last_colour(browser: Any, tmp_path: Path) -> None:
    maps = np.array([[1.0, -1.0], [0.5, -0.5]])
    runs = [
        made({KEY: sign * maps[None, None]}, np.zeros((1, 2, 2, 3), np.uint8), title=name, id=name)
        for name, sign in (("first", 1), ("second", -1))
    ]
    path = tmp_path / "page.html"
    path.write_text(page(runs), encoding="utf-8")
    shown = Opened(browser, as_url(path, "#signed=on"))
    table = lookup_table("coolwarm").tolist()
    # By 200% of the brightest colour above, and by 100% below.
    assert shown.pixels(".cell.apart canvas")[..., :3].tolist() == [[table[255], table[0]]] * 2
    assert shown.texts(".cell.apart .caption-value") == ["A higher by up to 200%, B by 200%"]
    shown.close()


def test_b_is_named_even_if_there_are_more_runs_than_buttons(browser: Any, tmp_path: Path) -> None:
    maps, black = {KEY: np.ones((1, 1, 2, 2))}, np.zeros((1, 2, 2, 3), np.uint8)
    path = tmp_path / "page.html"
    path.write_text(page([made(maps, black, title=f"run {place}", id=str(place)) for place in range(15)]), "utf-8")
    shown = Opened(browser, as_url(path, "#compare=run+14"))
    assert shown.texts(".side-name") == ["run 0", "run 14"]
    assert shown.page.locator(".compare-line .segments").first.locator("button").count() == 12
    shown.close()


def test_facts_and_earlier_steps_are_each_run_s_own(browser: Any, tmp_path: Path) -> None:
    pictures = np.zeros((1, 4, 4, 3))
    a = made({KEY: np.ones((4, 1, 2, 2))}, pictures, epochs=[0, 1, 2, 3], id="a", title="a")
    b = made({KEY: np.ones((2, 1, 2, 2))}, pictures, epochs=[1, 3], id="b", title="b", score="probability")
    file = tmp_path / "page.html"
    file.write_text(page([a, b]), encoding="utf-8")
    shown = Opened(browser, as_url(file, "#compare=b&view=difference&epoch=3"))
    assert shown.texts(".facts") == [
        "A: a, B: b · 1 probe · A 4 logged steps, B 2 logged steps · A maps explain the logit, B maps explain the"
        " probability · 2026-11-21"
    ]
    # B has no epoch 2.
    names = [text for text in shown.texts(".card .caption-name") if " · " in text]
    assert [text.split(" · ")[1] for text in names] == [
        *("epoch 2", "epoch 3", "epoch 3 less epoch 2"),
        *("epoch 1", "epoch 3", "epoch 3 less epoch 1"),
    ]
    shown.go("#compare=b&show=film")
    assert shown.texts(".film-tick") == ["0", "1", "2", "3", "(1)", "1", "(1)", "3"]
    shown.go("#compare=b&probe=0")
    assert shown.texts(".detail tbody th")[-1] == "A explained logit, B explained probability"
    shown.go("#")
    assert shown.texts(".facts") == ["a · 1 probe · 4 logged steps · maps explain the logit · 2026-11-21"]
    assert shown.errors == []
    shown.close()
