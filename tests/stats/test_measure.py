"""All numbers of one step: which there are, for which maps, and their table."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.stats import STATS, agreement, center, drift, inside, measure, rank_correlation, to_last
from lightning_gradcam.stats.boxes import bounding_boxes, iou
from lightning_gradcam.stats.measure import _PLACES

ALWAYS = ["entropy", "half_area", "center_x", "center_y", "blank", "maximum"]
A, B = CamKey("a", "gradcam", "predicted"), CamKey("a", "gradcam", "label")


def maps(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_first_step_has_no_drift_and_without_masks_nothing_lies_inside() -> None:
    found = measure({A: maps(3, 4, 5)})
    assert list(found) == [A]
    assert list(found[A]) == ALWAYS
    for values in found[A].values():
        assert values.shape == (3,)
        assert values.dtype == np.float32


def test_all_numbers_in_their_order() -> None:
    own, other, before = maps(3, 4, 5), maps(3, 4, 5, seed=1), maps(3, 4, 5, seed=2)
    masks = np.zeros((3, 8, 10), bool)
    masks[:2, :4] = True
    found = measure({A: own, B: other}, {A: before, B: before}, masks)
    expected = ["drift", "rank_correlation", *ALWAYS, "agreement", "energy_inside", "pointing_game"]
    assert list(found[A]) == list(found[B]) == expected == [name for name in STATS if name in found[A]]
    one = {name: values.astype(float) for name, values in found[A].items()}
    np.testing.assert_allclose(one["drift"], drift(own, before), rtol=1e-6)
    np.testing.assert_allclose(one["rank_correlation"], rank_correlation(own, before), rtol=1e-6)
    np.testing.assert_allclose([one["center_x"], one["center_y"]], center(own), rtol=1e-6)
    np.testing.assert_allclose(one["agreement"], agreement(own, other), rtol=1e-6)
    np.testing.assert_array_equal(found[A]["agreement"], found[B]["agreement"])
    np.testing.assert_allclose(one["energy_inside"], inside(own, masks), rtol=1e-6)
    # The last has no mask.
    for name in ("energy_inside", "pointing_game"):
        assert np.isnan(one[name]).tolist() == [False, False, True]


def test_boxes_are_compared_with_the_known_ones() -> None:
    own = maps(4, 7, 7)
    own[2] = -1
    boxes = np.array([[0, 0, 9, 14], [np.nan] * 4, [0, 0, 9, 14], [3.5, 2, 21, 14]], np.float32)
    found = measure({A: own, B: own}, boxes=boxes, size=(14, 21))
    values = found[A]["box_iou"]
    assert list(found[A])[-1] == list(found[B])[-1] == "box_iou"
    assert values.dtype == np.float32
    # The second has no known box, and the third map none of its own.
    assert np.isnan(values).tolist() == [False, True, True, False]
    expected = iou(bounding_boxes(own, (14, 21)), boxes)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_box_iou_by_hand() -> None:
    # The map's box is the left half, the known one the upper half: a quarter of three quarters.
    own = np.array([[[1.0, 0], [1, 0]]], np.float32)
    found = measure({A: own}, boxes=np.array([[0, 0, 2, 1]], np.float32), size=(2, 2))
    assert found[A]["box_iou"].tolist() == pytest.approx([1 / 3])
    # In the slice with the largest value.
    volume = np.array([[[[0, 1.0], [0, 1]], [[2, 0], [2, 0]]]], np.float32)
    found = measure({A: volume}, boxes=np.array([[0, 0, 1, 2]], np.float32), size=(2, 2))
    assert found[A]["box_iou"].tolist() == [1]


def test_boxes_that_do_not_fit_are_refused() -> None:
    boxes = np.zeros((2, 4), np.float32)
    with pytest.raises(ConfigurationError, match="size: got None with boxes; pass the image's height and width"):
        measure({A: maps(2, 3, 3)}, boxes=boxes)
    with pytest.raises(ConfigurationError, match="boxes: got 2 for 3 maps; pass one box for each map"):
        measure({A: maps(3, 3, 3)}, boxes=boxes, size=(3, 3))


def test_agreement_is_between_label_and_predicted_of_a_layer_and_method() -> None:
    keys = [
        A,
        CamKey("a", "gradcam", "3"),
        CamKey("a", "layercam", "label"),
        CamKey("b", "gradcam", "label"),
        CamKey("b", "gradcam", "predicted"),
    ]
    found = measure({key: maps(2, 3, 3) for key in keys})
    assert [key for key in keys if "agreement" in found[key]] == keys[3:]


def test_drift_is_measured_where_the_step_before_has_the_same_maps() -> None:
    other_layer, other_shape = CamKey("b", "gradcam", "label"), CamKey("c", "gradcam", "label")
    now = {A: maps(2, 3, 3), other_layer: maps(2, 3, 3), other_shape: maps(2, 3, 3)}
    found = measure(now, {A: maps(2, 3, 3, seed=1), other_shape: maps(2, 4, 3)})
    assert ["drift" in found[key] for key in now] == [True, False, False]
    assert ["rank_correlation" in found[key] for key in now] == [True, False, False]


def test_maps_with_slices_have_all_numbers() -> None:
    values = np.zeros((1, 2, 2, 2), np.float32)
    values[0, 1, 0, 0] = 4
    found = measure({A: values}, {A: values * 2}, np.array([[[True, False], [False, False]]]))[A]
    expected = {
        "drift": 0,
        "rank_correlation": 1,
        "entropy": 0,
        "half_area": 1 / 8,
        "center_x": 0.25,
        "center_y": 0.25,
        "blank": 0,
        "maximum": 4,
        "energy_inside": 1,
        "pointing_game": 1,
    }
    assert {name: float(array[0]) for name, array in found.items()} == expected


def test_measuring_in_parts_changes_nothing() -> None:
    # More than one part, the last of them smaller.
    own, before = maps(7, 128, 128), maps(7, 128, 128, seed=1)
    assert _PLACES // (128 * 128) < 7
    found = measure({A: own}, {A: before})[A]
    for row in range(7):
        alone = measure({A: own[row : row + 1]}, {A: before[row : row + 1]})[A]
        assert {name: values[row] for name, values in found.items()} == {name: v[0] for name, v in alone.items()}


def test_no_probes_and_no_maps() -> None:
    assert measure({}) == {}
    found = measure({A: maps(0, 3, 3)}, {A: maps(0, 3, 3)}, np.zeros((0, 5, 5), bool))[A]
    assert {values.shape for values in found.values()} == {(0,)}
    assert len(found) == 10


def test_maps_stay_as_they_are() -> None:
    own, before = maps(2, 3, 3), maps(2, 3, 3, seed=1)
    copy = own.copy()
    for values in (own, before):
        values.setflags(write=False)
    measure({A: own}, {A: before}, np.ones((2, 5, 5), bool))
    np.testing.assert_array_equal(own, copy)


def test_no_thread_of_torch_is_woken() -> None:
    class Refuses(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            pytest.fail(f"{func} was called")

    with Refuses():
        measure({A: maps(2, 3, 3), B: maps(2, 3, 3)}, {A: maps(2, 3, 3)}, np.ones((2, 5, 5), bool))
        measure({A: maps(2, 3, 3)}, boxes=np.array([[0, 0, 3, 3]] * 2, np.float32), size=(6, 6))
        with pytest.raises(pytest.fail.Exception):
            torch.ones(1).sum()


def test_to_last() -> None:
    own, last = maps(3, 4, 5), maps(3, 4, 5, seed=1)
    found = to_last(own, last)
    assert list(found) == ["drift_to_last", "rank_correlation_to_last"]
    np.testing.assert_allclose(found["drift_to_last"], drift(own, last), rtol=1e-6)
    np.testing.assert_allclose(found["rank_correlation_to_last"], rank_correlation(own, last), rtol=1e-6)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    assert to_last(last, last)["drift_to_last"].tolist() == [0, 0, 0]


def test_maps_of_other_probes_are_refused() -> None:
    # Also where the parts would fit.
    with pytest.raises(ConfigurationError, match=r"others: got shape \[1500, 8, 8\] for maps of shape \[1100, 8, 8\]"):
        to_last(maps(1100, 8, 8), maps(1500, 8, 8))
    with pytest.raises(ConfigurationError, match="masks: got 2 for 3 maps"):
        measure({A: maps(3, 4, 5)}, None, np.ones((2, 4, 4), bool))


def test_the_table_has_all_numbers() -> None:
    elsewhere = ["settled", "drift_to_last", "rank_correlation_to_last", "score", "confidence"]
    counts = ["compared", "flipped", "went_blank", "came_back"]
    measured = ["drift", "rank_correlation", *counts, *ALWAYS, "agreement", "energy_inside", "pointing_game", "box_iou"]
    assert [name for name, stat in STATS.items() if stat.counted] == counts
    assert list(STATS) == measured + elsewhere
    for stat in STATS.values():
        assert stat.reading.endswith(".")
        assert "\n" not in stat.reading
        assert 0 < len(stat.title) <= 40
        assert stat.low is None or stat.high is None or stat.low < stat.high
    with pytest.raises(TypeError):
        STATS["drift"] = STATS["score"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        STATS["drift"].title = "other"  # type: ignore[misc]
