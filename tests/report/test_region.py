"""The region tool: its curve is the energy computed from the archive, drawn by mouse or typed, for one probe or all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lightning_gradcam import ProbeSet
from lightning_gradcam.report import Payload
from lightning_gradcam.stats import inside, measure
from tests.report.browser import Opened
from tests.report.runs import made
from tests.report.test_payload import KEY, archive, record

Open = Callable[..., Opened]


def curves(shown: Opened) -> dict[str, list[float]]:
    """The lines of the panel's chart, read from their points."""
    found = shown.page.locator(".region-panel .chart").evaluate(
        """svg => {
          const ticks = [...svg.querySelectorAll('.grid')].map((line) => Number(line.getAttribute('y1')));
          const numbers = [...svg.querySelectorAll('.tick[text-anchor=end]')].map((text) => Number(text.textContent));
          const unit = (numbers.at(-1) - numbers[0]) / (ticks.at(-1) - ticks[0]);
          return [...svg.querySelectorAll('g')].map((group) => [
            group.querySelector('.direct').textContent.split(' ')[0],
            [...group.querySelector('.line').getAttribute('d').matchAll(/[ML][^ML ]+ ([^ML]+)/g)]
              .map((point) => numbers[0] + (Number(point[1]) - ticks[0]) * unit),
          ]);
        }"""
    )
    return dict(found)


def test_curve_is_the_energy_computed_from_the_archive(report: Open, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    steps = [record(rng.normal(size=(3, 5, 7)) + 0.3, 10 * n, n) for n in range(4)]
    display = rng.integers(0, 256, (3, 300, 280, 3)).astype(np.uint8)
    written = archive(tmp_path, ProbeSet(torch.zeros(3, 1, 2, 2), display=display), *steps)
    payload = Payload.of(written)
    # The page's pictures are smaller; the energy is that of the pixels of the whole picture.
    height, width = payload.header["display"]["height"], payload.header["display"]["width"]
    assert (height, width, payload.header["display"]["full"]) == (224, 209, [300, 280])
    x, y = (np.arange(280) + 0.5) / 280 * width, (np.arange(300) + 0.5) / 300 * height
    mask = ((y >= 40) & (y < 160))[:, None] & ((x >= 30) & (x < 111))
    masks = np.stack([mask] * 3)
    wanted = np.array([inside(written.record(n).maps[KEY], masks) for n in range(4)])
    shown = report(payload, hash="#area=30,40,111,160")
    # A byte holds a value to within a hundredth of the map's largest, a point of the chart a tenth of a pixel.
    np.testing.assert_allclose(curves(shown)["conv"], wanted.mean(axis=1), atol=0.006)
    for place in range(4):
        shown.drag("Epoch", place)
        text = shown.texts(".region-panel .direct")[0]
        assert abs(float(text.split(" ")[1]) - wanted[place].mean()) < 0.005
    shown.go("#area=30,40,111,160&probe=1")
    np.testing.assert_allclose(curves(shown)["conv"], wanted[:, 1], atol=0.01)
    assert shown.texts(".region-about")[0].startswith("Probe 1. The region is 21% of the image; thresh")


# All evidence is in one place of 4 by 4: at first in the upper left, and from epoch 2 on in the lower right.
PLACES = np.zeros((4, 2, 4, 4))
PLACES[:2, :, 0, 0] = PLACES[2:, :, 3, 3] = 1
PLACES[2, 1] = PLACES[1, 1]
OTHER = KEY._replace(layer="none")


def test_region_is_drawn_by_mouse_on_one_probe_and_holds_for_all(report: Open) -> None:
    maps = {KEY: PLACES, OTHER: -np.ones_like(PLACES)}
    shown = report(made(maps, np.zeros((2, 4, 4, 3))))
    assert shown.page.locator(".region-panel").is_hidden()
    box = shown.page.locator(".card:nth-of-type(2) .cell.overlay canvas").first.bounding_box()
    assert box is not None
    mouse = shown.page.mouse
    mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.6)
    mouse.down()
    mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.7)
    mouse.move(box["x"] + box["width"] + 30, box["y"] + box["height"] + 30)
    mouse.up()
    shown.settle()
    # It neither opened the probe nor left the picture.
    assert shown.hash() == "#area=2%2C2%2C4%2C4"
    assert shown.texts(".looked li") == [
        "conv: first looked there in epoch 2 (50% inside).",
        "none: no positive evidence in any epoch.",
    ]
    assert shown.texts(".region-about") == [
        "Mean of 2 probes, at the same location in all. The region is 25% of the image; threshold 50% (twice that)."
    ]
    seen = shown.page.locator(".card .area-box")
    assert seen.count() == 6
    rectangle, frame = seen.first.bounding_box(), shown.page.locator(".card .frame").first.bounding_box()
    assert rectangle is not None
    assert frame is not None
    assert abs(rectangle["x"] - frame["x"] - frame["width"] / 2) < 1
    assert abs(rectangle["height"] - frame["height"] / 2) < 1
    # A click still opens a probe, whose own curve is shown then.
    shown.page.locator(".card:nth-of-type(2) .cell.overlay canvas").first.click()
    shown.settle()
    assert shown.texts(".detail h2") == ["#1Shirt"]
    assert shown.texts(".looked li")[0] == "conv: first looked there in epoch 3 (100% inside)."


def test_region_is_typed_by_keyboard_alone_and_masks_have_their_logged_numbers(report: Open) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[:2, :2] = 1
    energy = np.array([[1.0, 1.0], [1.0, 1.0], [0.3, 0.3], [0.1, 0.1]])
    payload = made({KEY: PLACES}, np.zeros((2, 4, 4, 3)), masks=[mask, mask], numbers={"energy_inside": energy})
    shown = report(payload)
    shown.press("e")
    assert shown.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Left"
    for value in ("3", "3", "4", "4"):
        shown.page.keyboard.press("Control+a")
        shown.page.keyboard.type(value)
        shown.page.keyboard.press("Tab")
    shown.settle()
    assert shown.hash() == "#area=3%2C3%2C4%2C4"
    # What is typed stays when the region is drawn before it is taken.
    shown.page.get_by_label("Right", exact=True).press("Control+a")
    shown.page.keyboard.type("3")
    shown.page.evaluate("location.hash = '#area=0,3,4,4'")
    shown.settle()
    shown.page.keyboard.press("Tab")
    shown.settle()
    assert shown.hash() == "#area=0%2C3%2C3%2C4"
    shown.page.evaluate("location.hash = '#area=3,3,4,4'")
    shown.settle()
    assert re.fullmatch(r"conv: first looked there in epoch 2 \(\d+% inside\)\.", shown.texts(".looked li")[0])
    # A threshold of one's own, and what fits no picture is not taken.
    shown.page.get_by_label("Threshold, %").fill("60")
    shown.press("Tab")
    assert shown.texts(".looked li")[0].startswith("conv: first looked there in epoch 3 (")
    shown.page.get_by_label("Left", exact=True).fill("9")
    shown.press("Tab")
    assert shown.page.get_by_label("Left", exact=True).input_value() == "3"
    shown.page.get_by_role("button", name="Mask", exact=True).focus()
    shown.press("Enter")
    np.testing.assert_allclose(curves(shown)["conv"], energy[:, 0], atol=0.002)
    assert shown.texts(".looked li") == ["conv: first looked there in epoch 0 (100% inside)."]
    shown.press("Escape")
    assert shown.page.locator(".region-panel").is_hidden()


def test_of_volumes_with_more_slices_than_are_shown_the_region_says_that_only_these_count(
    report: Open, tmp_path: Path
) -> None:
    volumes = ProbeSet(torch.rand(1, 1, 12, 8, 8))
    written = archive(tmp_path, volumes, record(np.ones((1, 12, 4, 4)), 0, 0), record(np.ones((1, 12, 4, 4)), 10, 1))
    shown = report(Payload.of(written), hash="#area=0,0,4,8")
    assert shown.texts(".region-about")[0].endswith(" Only the slices shown count.")


def test_a_probe_without_a_mask_is_not_said_to_have_no_evidence(report: Open) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[:2, :2] = 1
    energy = np.array([[1.0, None]] * 4)
    payload = made({KEY: PLACES}, np.zeros((2, 4, 4, 3)), masks=[mask, None], numbers={"energy_inside": energy})
    shown = report(payload, hash="#area=mask&probe=1")
    assert shown.texts(".looked li") == []
    assert shown.texts(".region-about") == ["Probe 1 has no mask or box."]
    shown.go("#area=mask")
    assert shown.texts(".looked li") == ["conv: first looked there in epoch 0 (100% inside, 1 of 2 probes)."]


def test_probes_without_a_mask_do_not_count(report: Open, tmp_path: Path) -> None:
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[:2, :, :2] = True
    maps = np.ones((4, 4, 4))
    probes = ProbeSet(torch.zeros(4, 1, 8, 8), masks=masks, display=np.zeros((4, 8, 8, 3), np.uint8))
    numbers = measure({KEY: maps.astype(np.float32)}, masks=masks.numpy())
    payload = Payload.of(archive(tmp_path, probes, record(maps, numbers=numbers)))
    shown = report(payload, hash="#area=mask")
    assert shown.texts(".region-about") == [
        "Mean of 2 of 4 probes, in the mask or box of each. The region is 25% of the image; threshold 50% (twice that)."
    ]
    assert shown.texts(".looked li")[0].startswith(
        "conv: never passes the threshold; its maximum is 25% inside, 2 of 4"
    )
    shown.go("#area=mask&probe=2")
    assert shown.texts(".region-about") == ["Probe 2 has no mask or box."]
