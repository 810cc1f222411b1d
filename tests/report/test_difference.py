"""Before, after and the difference of any two logged epochs: its colours, its scale, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_gradcam.render.drawing import lookup_table
from tests.render.test_tiles import KEY
from tests.report.browser import Opened
from tests.report.runs import made

Open = Callable[..., Opened]
ARROW = "\N{RIGHTWARDS ARROW}"
# Three epochs at the picture's resolution; the largest value of the run is 4. A byte holds each value without a rest.
EPOCHS = np.array([[[2.0, 0, 2], [0, 2, -1]], [[0, 0, 4], [4, 4, -4]], [[1, 0, 0], [1, 0, 1]]])
PICTURES = np.random.default_rng(6).integers(0, 256, (2, 2, 3, 3)).astype(np.uint8)


def diverging(shares: Any) -> Any:
    """Blue lost, grey the same, red gained, as far as the brightest colour's value either way."""
    shares = np.clip(np.asarray(shares), -1, 1)
    return lookup_table("coolwarm")[np.where(shares == 0, 128, (127.5 + 127.5 * shares).round().astype(int))]


def check(shown: Opened, before: int, after: int, *, place: int = 0, cell: str = ".cell.difference") -> None:
    now, then = np.maximum(EPOCHS[after], 0), np.maximum(EPOCHS[before], 0)
    off = np.abs(shown.pixels(f"{cell} canvas", place)[..., :3].astype(int) - diverging((now - then) / 4))
    assert off.max() <= 8, (before, after)


def test_difference_of_any_two_epochs_is_red_where_gained_and_blue_where_lost(report: Open) -> None:
    maps = np.stack([EPOCHS, EPOCHS[::-1]], axis=1)
    shown = report(made({KEY: maps}, PICTURES, predicted=[[0, 0], [0, 0], [1, 0]]), hash="#view=difference&epoch=1")
    found = shown.pixels(".cell.difference canvas")
    # Both ends and zero to the bit: gained all of the scale, nothing, and half of it lost.
    assert found[1, 0, :3].tolist() == lookup_table("coolwarm")[255].tolist()
    assert found[0, 1, :3].tolist() == found[1, 2, :3].tolist() == lookup_table("coolwarm")[128].tolist()
    assert found[0, 0, 2] > found[0, 0, 0] + 60
    check(shown, 0, 1)
    # The other probe has the epochs in reverse order.
    check(shown, 2, 1, place=1)
    names = [text for text in shown.texts(".card:nth-of-type(1) .caption-name") if "conv" in text]
    assert names == ["conv · epoch 0", "conv · epoch 1", "conv · epoch 1 less epoch 0"]
    values = ".card:nth-of-type(1) .cell.difference .caption-value"
    assert shown.texts(values) == ["lost 2, gained 4; full colour ±4"]
    before, after = (shown.pixels(f".card:nth-of-type(1) .cell.{kind} canvas") for kind in ("before", "after"))
    assert (before != after).any()
    # Method and target are those of all maps on the page, so the line above them states both.
    assert shown.texts(".count")[0].startswith("2 probes · Grad-CAM · target: predicted class (can change) · ")
    assert "difference: red gained, blue lost, grey the same" in shown.texts(".count")[0]
    # By key alone: this epoch is held, and compared with all others.
    shown.press("Home", "b", "End")
    assert shown.texts(".epoch-label") == ["epoch 2"]
    check(shown, 0, 2)
    assert shown.texts(values) == [f"class changed: Shirt {ARROW} Coat; lost 2, gained 1; full colour ±4"]
    assert "before=0%3A10" in shown.hash()
    # A later epoch can be the earlier one of the two.
    shown.pick("Before", "2:30")
    shown.press("Home")
    check(shown, 2, 0)
    shown.press("End")
    assert shown.texts(values) == ["no difference"]
    # Large for one probe, and with evidence against.
    shown.page.locator(".card:nth-of-type(1) .probe-name").focus()
    shown.press("Enter", "ArrowLeft", "b", "b")
    check(shown, 0, 1, cell=".detail .cell.difference")
    assert shown.page.locator(".detail .cell").count() == 4
    assert shown.page.locator(".count").inner_text().startswith("Grad-CAM · target: ")
    shown.press("a")
    found = shown.pixels(".detail .cell.difference canvas")[..., :3].astype(int)
    assert np.abs(found - diverging((EPOCHS[1] - EPOCHS[0]) / 4)).max() <= 8
    assert shown.texts(".detail .cell.difference .caption-value") == ["lost 3, gained 4; full colour ±4"]


def test_on_the_scale_of_each_map_the_pattern_alone_counts(report: Open) -> None:
    maps = np.stack([EPOCHS[:1], 3 * EPOCHS[:1], np.full((1, 2, 3), np.nan)])
    shown = report(made({KEY: maps}, PICTURES[:1]), hash="#view=difference&scale=image&epoch=1")
    values = ".cell.difference .caption-value"
    assert shown.texts(values) == ["no difference"]
    shown.pick("Scale", "run")
    assert shown.texts(values) == ["gained 4; full colour ±6"]
    shown.press("End")
    assert shown.texts(values) == ["map not finite"]


def test_one_class_can_be_held_fixed_over_the_run(report: Open) -> None:
    """A change of colour is then never just a change of class."""
    maps = {KEY._replace(target=name): EPOCHS[:, None] for name in ("predicted", "label", "2")}
    payload = made(maps, PICTURES[:1], predicted=[[0], [1], [1]])
    for step in payload.header["steps"]:
        step["targets"]["label"]["classes"], step["targets"]["2"]["classes"] = [0], [2]
    shown = report(payload, hash="#view=difference&epoch=1")
    choice = shown.page.get_by_label("Target", exact=True)
    assert choice.evaluate("s => [...s.options].map(o => o.text)") == [
        "predicted class (can change)",
        "true class (never changes)",
        "Bag (never changes)",
        "all",
    ]
    values = ".cell.difference .caption-value"
    assert shown.texts(values)[0].startswith(f"class changed: Shirt {ARROW} Coat; lost 2")
    shown.pick("Target", "label")
    assert shown.texts(values)[0].startswith("lost 2")
    assert "target=label" in shown.hash()


def test_differences_of_maps_with_very_many_places_are_drawn(report: Open) -> None:
    # More than a function of the browser takes as arguments.
    maps = np.zeros((2, 1, 400, 500))
    maps[0, 0, 399, 499], maps[1, 0, 0, 0] = 2, 4
    runs = [made({KEY: maps}, PICTURES[:1], id=name, title=name) for name in "ab"]
    shown = report(*runs, hash="#view=difference&epoch=1")
    assert shown.texts(".cell.difference .caption-value")[0] == "lost 2, gained 4; full colour ±4"
    shown.go("#compare=b&versus=on")
    assert shown.texts(".cell.apart .caption-value") == ["no difference"]
