"""The slider's strip: when the maps moved, where the page opens, and the way from one large change to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.report import Payload
from lightning_gradcam.report.pictures import region_entry
from tests.render.test_tiles import KEY
from tests.report.browser import Opened
from tests.report.runs import made

Open = Callable[..., Opened]
DEEP = KEY._replace(layer="deep")


def moving(drifts: dict[str, Any], predicted: Any = None, inside: Any = None) -> Payload:
    """Maps whose largest value goes round the corners, with drifts `[steps, N]` of layers by name."""
    steps, probes = np.shape(next(iter(drifts.values())))
    maps = np.full((steps, probes, 2, 2), 0.1)
    for step in range(steps):
        maps[step, :, step // 2 % 2, step % 2] = 1
    payload = made({KEY: maps, DEEP: maps}, np.zeros((probes, 4, 4, 3)), predicted=predicted)
    for step, entry in enumerate(payload.header["steps"]):
        for key, described in zip(payload.header["keys"], entry["maps"], strict=True):
            described["numbers"] = {"drift": list(drifts[key["layer"]][step])}
            if inside is not None:
                described["numbers"]["energy_inside"] = list(inside[step])
    return payload


# The first step has no step before it; with probe 2 left out, epoch 4 has too few to judge by.
PLANTED: dict[str, Any] = {
    "conv": [[0.9] * 3, [0.0, 0.03, 0.0], [0.05] * 3, [0.1] * 3, [0.9, 0.9, None], [0.2] * 3],
    "deep": [[None] * 3, [0.05] * 3, [0.05] * 3, [0.4, 0.9, 0.5], [0.05] * 3, [0.05] * 3],
}


def at(shown: Opened) -> str:
    return shown.texts(".epoch-label")[0]


def test_page_opens_at_the_largest_change_and_goes_to_the_next_by_key_and_button(report: Open) -> None:
    shown = report(moving(PLANTED, predicted=[[0] * 3] * 5 + [[1, 0, 0]]))
    assert at(shown) == "epoch 3"
    assert [text.strip() for text in shown.texts(".headline")] == [
        "The maps moved most from epoch 2 to epoch 3, at layer deep: mean drift 0.60 (3 probes; 0: same map, 1: no "
        "overlap). The largest value moved to another part of the image in 3 of 3, most often to the lower right "
        "(3). Predictions right: 3 of 3 before, 3 after. Probe 1 moved furthest (0.90): its largest value went from "
        "the lower left to the lower right."
    ]
    assert shown.hash() == ""
    visited = []
    for key in ("n", "n", "N", "N", "End", "N", "Home", "n"):
        shown.press(key)
        visited.append(at(shown)[-1])
    assert visited == ["5", "3", "5", "3", "5", "3", "0", "3"]
    shown.page.get_by_role("button", name="Next large change in the maps").click()
    shown.settle()
    assert at(shown) == "epoch 5"
    # The last step has no number, so that a growing run is followed; an address that states a step has its say.
    assert shown.hash() == "#epoch=last"
    shown.go("#epoch=1")
    assert at(shown) == "epoch 1"
    shown.go("#")
    assert at(shown) == "epoch 3"
    # With one probe open the strip is that probe's: epoch 4 counts then.
    shown.go("#probe=0")
    shown.press("n")
    assert at(shown) == "epoch 4"
    shown.press("]", "n")
    assert at(shown) == "epoch 5"


def test_headline_names_the_method_and_target_that_it_judges_if_there_are_several(report: Open) -> None:
    maps = np.ones((2, 3, 2, 2))
    others = KEY._replace(target="2"), KEY._replace(method="layercam")
    payload = made({KEY: maps, others[0]: maps, others[1]: maps}, np.zeros((3, 4, 4, 3)))
    for described, drift in zip(payload.header["steps"][1]["maps"], (0.3, 0.9, 0.9), strict=True):
        described["numbers"] = {"drift": [drift] * 3}
    text = report(payload).texts(".headline")[0]
    said = "The maps moved most from epoch 0 to epoch 1, at layer conv (Grad-CAM, predicted class): mean drift 0.30"
    assert text.startswith(said)
    payload.header["steps"][1]["maps"][0]["numbers"] = {"drift": [0.1] * 3}
    text = report(payload).texts(".headline")[0]
    assert "epoch 1, at layer conv (Grad-CAM, predicted class, mean drift 0.10, 3 probes; 0: same map" in text


def test_headline_says_how_much_is_inside_the_masks_and_is_plain_where_nothing_moved_much(report: Open) -> None:
    payload = moving(PLANTED, inside=[[0.9] * 3] * 2 + [[0.5, 0.4, 0.6], [0.1, 0.2, None]] + [[0.9] * 3] * 2)
    # What is beyond the image's edge does not count.
    for probe in payload.header["probes"]:
        probe.update(region_entry(None, [0, -1, 2, 2], (4, 4)))
    shown = report(payload)
    assert " Inside the masks: 45% of the evidence before, 15% after" in shown.texts(".headline")[0]
    assert "15% after (mean of 2 of 3 probes); by chance it would be 25%." in shown.texts(".headline")[0]
    # Whether the predictions are any good is beside the epoch.
    assert shown.texts(".epoch-right") == ["3 of 3 probes right"]
    # Also where nothing moved much: the maps may have been in the wrong place from the beginning.
    small = {"conv": [[None] * 3, [0.02] * 3], "deep": [[None] * 3, [0.03] * 3]}
    calm = report(moving(small, inside=[[0.1] * 3, [0.2] * 3]))
    assert calm.texts(".headline strong") == [""]
    text = calm.texts(".headline")[0]
    assert text.startswith("No large change in the maps: the largest is from epoch 0 to epoch 1")
    assert text.strip().endswith("no overlap). Inside the masks: 10% of the evidence before, 20% after.")
    assert report(moving(small)).texts(".headline")[0].strip().endswith("no overlap).")


def test_headline_counts_the_right_predictions_before_and_after(report: Open) -> None:
    predicted = [[0, 1, 1]] * 3 + [[0, 0, 1]] * 3
    shown = report(moving(PLANTED, predicted))
    assert " Predictions right: 1 of 3 before, 2 after. Probe 1" in shown.texts(".headline")[0]
    unlabelled = moving(PLANTED, predicted)
    for probe in unlabelled.header["probes"]:
        probe.update(true=[], true_names=[])
    assert "right:" not in report(unlabelled).texts(".headline")[0]


def test_headline_leaves_out_the_places_of_maps_that_were_not_compared(report: Open) -> None:
    # As a blank map, which has no place, probe 3 is compared with nothing.
    payload = moving({name: [[*row, row[0]] for row in rows] for name, rows in PLANTED.items()})
    for place in range(6):
        for entry in payload.header["steps"][place]["maps"]:
            entry["numbers"]["drift"][3] = None
    shown = report(payload)
    assert " another part of the image in 3 of 3, most often" in shown.texts(".headline")[0]
    assert "mean drift 0.60 (3 of 4 probes; 0: same map, 1: no overlap)." in shown.texts(".headline")[0]
    # One goes to the upper left and one to the lower right: neither most often.
    maps = np.full((2, 2, 2, 2), 0.1)
    maps[0, :, 0, 1] = maps[1, 0, 0, 0] = maps[1, 1, 1, 1] = 1
    apart = made({KEY: maps}, np.zeros((2, 4, 4, 3)))
    apart.header["steps"][1]["maps"][0]["numbers"]["drift"] = [0.9, 0.8]
    text = report(apart).texts(".headline")[0]
    assert " part of the image in 2 of 2. Predictions right: 2 of 2 before, 2 after. Probe 0 moved furthest" in text


def test_strip_has_a_row_for_each_layer_and_a_tick_for_changed_predictions(report: Open) -> None:
    shown = report(moving(PLANTED, predicted=[[0] * 3] * 5 + [[1, 0, 0]]))
    found = shown.pixels(".drifts")
    wanted = [[None, 0.01, 0.05, 0.1, None, 0.2], [None, 0.05, 0.05, 0.6, 0.05, 0.05]]
    assert found.shape == (2, 6, 4)
    for row, values in enumerate(wanted):
        for place, value in enumerate(values):
            if value is None:
                assert found[row, place, 3] == 0
            else:
                colour = lookup_table("cividis")[round(255 * value / 0.6)]
                assert np.abs(found[row, place, :3].astype(int) - colour).max() <= 3
    assert [text for text in shown.texts(".strip-words span") if text] == [
        "Drift 0",
        "0.6",
        "rows: conv (top) to deep · ticks: changed predictions · grey: too few maps to compare",
    ]
    ticks = str(shown.page.locator(".flip-ticks path").get_attribute("d"))
    assert ticks.startswith("M5.5 0v")
    assert ticks.count("M") == 1
    # The thumb is above the cell of its epoch, and a click there goes to it; at both ends, too.
    box = shown.page.locator(".strip").bounding_box()
    assert box is not None
    for place in (0, 4, 5):
        shown.page.mouse.click(box["x"] + box["width"] * (place + (0.02, 0.5, 0.98)[place // 2]) / 6, box["y"] + 12)
        shown.settle()
        assert at(shown) == f"epoch {place}"
    shown.page.mouse.move(box["x"] + box["width"] * 5.5 / 6, box["y"] + 12)
    title = shown.page.locator(".strip").get_attribute("title")
    assert title == "epoch 5: drift conv 0.2, deep 0.05; 1 changed prediction"


def test_without_a_large_change_the_page_opens_at_the_last_step_and_says_so(report: Open) -> None:
    small = {name: [[0.1 * (step == 1)] * 3 for step in range(4)] for name in ("conv", "deep")}
    shown = report(moving(small))
    assert at(shown) == "epoch 3"
    assert [text.strip() for text in shown.texts(".headline")] == [
        "No large change in the maps: the largest is from epoch 0 to epoch 1, at layer conv (mean drift 0.10,"
        " 3 probes; 0: same map, 1: no overlap)."
    ]
    shown.press("n")
    assert at(shown) == "epoch 3"
    label = str(shown.page.locator(".drifts").get_attribute("aria-label"))
    assert label == "Drift by epoch and layer: no large change"
