"""Numbers of every step: what is compared with what, tags, means and the alarm."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam import CamKey, CamRecord, Drawing, ProbeError, ProbeSet
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter

NAN = float("nan")
LEFT, RIGHT, BLANK = [[1.0, 0.0]], [[0.0, 1.0]], [[0.0, -1.0]]
KEY = CamKey("conv", "gradcam", "predicted")


def plan(**options: Any) -> CamMonitor:
    options = {"numbers": "all", **options}
    return CamMonitor("cams", "conv", ["gradcam", "layercam"], ["predicted", "label"], "logit", Drawing(), **options)


def probes(**fields: Any) -> ProbeSet:
    return ProbeSet(torch.zeros(2, 1, 1, 2), **fields)


def record(maps: dict[CamKey, Any], epoch: int = 0, **fields: Any) -> CamRecord:
    return CamRecord(
        **{
            "epoch": epoch,
            "step": 10 * (epoch + 1),
            "stage": "fit",
            "score": "logit",
            "probe_ids": ("0", "1"),
            "maps": MappingProxyType({key: np.array(values, np.float32) for key, values in maps.items()}),
            "scores": {"predicted": np.array([1.0, 3.0], np.float32), "label": np.array([0.0, 1.0], np.float32)},
            "classes": {name: np.array([0, 1]) for name in ("predicted", "label")},
            "predicted": np.array([0, 1]),
            "confidence": np.array([0.5, 0.7], np.float32),
            "confidences": {
                "predicted": np.array([0.5, 0.7], np.float32),
                "label": np.array([0.5, NAN], np.float32),
            },
            **fields,
        }
    )


def test_each_step_is_compared_with_the_one_before() -> None:
    meter = CamReporter(plan(), probes())
    first, second, third = (
        record({KEY: maps}, epoch) for epoch, maps in enumerate([[LEFT, LEFT], [RIGHT, LEFT], [RIGHT, RIGHT]])
    )
    assert "drift" not in meter.measured(first).numbers[KEY]
    np.testing.assert_allclose(meter.measured(second).numbers[KEY]["drift"], [1.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(meter.measured(third).numbers[KEY]["drift"], [0.0, 1.0], atol=1e-7)
    meter.forget()
    assert "drift" not in meter.measured(first).numbers[KEY]


def test_steps_of_an_earlier_run_count_as_those_before() -> None:
    meter = CamReporter(plan(), probes())
    meter.remember(record({KEY: [LEFT, RIGHT]}, 1), {KEY: np.array([[4.0, 4.0], [1.0, 5.0]], np.float32)})
    measured = meter.measured(record({KEY: [LEFT, [[0.0, 2.0]]]}, 2))
    np.testing.assert_allclose(measured.numbers[KEY]["drift"], [0.0, 0.0], atol=1e-7)
    np.testing.assert_array_equal(measured.limits[KEY], [[4.0, 4.0], [2.0, 5.0]])
    np.testing.assert_array_equal(meter.measured(record({KEY: [LEFT, LEFT]}, 3)).limits[KEY], [[4.0, 4.0], [2.0, 5.0]])


def test_the_limits_of_a_run_only_rise_and_leave_out_extreme_places() -> None:
    meter, maps = CamReporter(plan(), probes()), np.linspace(-2, 1.92, 196, dtype=np.float32).reshape(1, 14, 14)
    for factor in (1, 0.5):
        limits = meter.measured(record({KEY: np.repeat(maps * factor, 2, 0)})).limits[KEY]
        # The fifth largest of 196 places.
        fifth = [np.sort(values, axis=None)[-5] for values in (maps, np.abs(maps))]
        np.testing.assert_array_equal(limits, [fifth, fifth])


def test_what_is_left_of_a_map_that_is_not_finite_does_not_darken_the_steps_after_it() -> None:
    meter = CamReporter(plan(), probes())
    meter.measured(record({KEY: [[[1e30, NAN]], [[-1e30, float("inf")]]]}))
    np.testing.assert_array_equal(meter.measured(record({KEY: [LEFT, BLANK]}, 1)).limits[KEY], [[1, 1], [0, 1]])


def test_means_leave_out_what_no_map_has_and_have_their_tags() -> None:
    meter = CamReporter(plan(), probes())
    keys = [KEY, CamKey("conv", "layercam", "predicted"), CamKey("conv", "gradcam", "label")]
    meter.measured(record({key: [LEFT, LEFT] for key in keys}))
    means = meter.means(meter.measured(record({key: [RIGHT, BLANK] for key in keys}, 1)))
    assert means["cams_stats/conv/blank"] == 0.5
    assert means["cams_stats/conv/maximum"] == 0.5
    # The centre of a blank map is nowhere.
    assert means["cams_stats/conv/center_x"] == pytest.approx(0.75)
    assert means["cams_stats/conv/layercam/maximum"] == 0.5
    assert means["cams_stats/conv/label/maximum"] == 0.5
    assert means["cams_stats/score"] == 2.0
    assert means["cams_stats/confidence"] == pytest.approx(0.6)
    assert (means["cams_stats/label/score"], means["cams_stats/label/confidence"]) == (0.5, 0.5)
    assert not any(np.isnan(value) for value in means.values())
    assert "cams_stats/conv/energy_inside" not in means


def test_by_default_the_energy_inside_is_among_the_means_where_there_are_masks() -> None:
    masked = probes(masks=torch.tensor([[[True, False]]] * 2))
    meter = CamReporter(plan(numbers="default"), masked)
    meter.measured(record({KEY: [LEFT, LEFT]}))
    assert meter.means(meter.measured(record({KEY: [LEFT, BLANK]}, 1))) == {
        "cams_stats/conv/drift": pytest.approx(0),
        "cams_stats/conv/half_area": 0.5,
        "cams_stats/conv/blank": 0.5,
        "cams_stats/conv/energy_inside": 1.0,
    }


def test_what_the_end_tells() -> None:
    meter = CamReporter(plan(), probes())
    found = meter.means_to_last(record({KEY: [LEFT, LEFT]}), record({KEY: [LEFT, RIGHT]}, 1))
    assert found["cams_stats/conv/drift_to_last"] == pytest.approx(0.5)


def test_the_alarm_rings_once_and_not_for_the_untrained_model() -> None:
    masks = torch.tensor([[[True, False]], [[True, False]]])
    meter = CamReporter(plan(min_energy_inside=0.5), probes(masks=masks))

    def rung(epoch: int, *maps: Any) -> str | None:
        return meter.alarm(meter.measured(record({KEY: list(maps)}, epoch)))

    assert rung(-1, RIGHT, RIGHT) is None
    assert rung(0, LEFT, RIGHT) is None
    said = rung(1, RIGHT, RIGHT)
    assert said is not None
    assert "min_energy_inside=0.5: in epoch 1, step 20" in said
    assert "conv: 0%" in said
    assert rung(2, RIGHT, RIGHT) is None


def test_maps_that_are_not_finite_are_warned_of_once_a_layer() -> None:
    meter = CamReporter(plan(), probes())
    deep = CamKey("head", "gradcam", "label")
    (overflow,) = meter.broken(record({KEY: [LEFT, [[NAN, 1.0]]], deep: [LEFT, RIGHT]}, -1))
    assert (
        "layer 'conv': in the untrained model, step 0, 1 of 2 maps is not finite, although the explained score"
        in overflow
    )
    assert len(overflow) <= 480
    assert meter.broken(record({KEY: [LEFT, [[NAN, 1.0]]]}, 0)) == []
    lost = {"label": np.array([1.0, NAN], np.float32)}
    (diverged,) = meter.broken(record({KEY: [LEFT, LEFT], deep: [LEFT, [[NAN, NAN]]]}, 1, scores=lost))
    assert "layer 'head': in epoch 1, step 20, 1 of 2 maps is not finite, because the explained score" in diverged


def test_there_is_no_alarm_unless_asked_for() -> None:
    meter = CamReporter(plan(), probes(masks=torch.tensor([[[True, False]], [[True, False]]])))
    measured = meter.measured(record({KEY: [RIGHT, RIGHT]}))
    assert meter.alarm(measured) is None
    np.testing.assert_array_equal(measured.numbers[KEY]["energy_inside"], [0.0, 0.0])


@pytest.mark.parametrize("masks", [None, torch.zeros(2, 1, 2, dtype=torch.bool)])
def test_an_alarm_needs_masks(masks: Any) -> None:
    with pytest.raises(ProbeError, match=r"min_energy_inside: got 0.5, but no probe has a mask or box"):
        CamReporter(plan(min_energy_inside=0.5), probes(masks=masks))


def test_boxes_stand_for_masks() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [NAN] * 4])
    meter = CamReporter(plan(), probes(boxes=boxes))
    found = meter.measured(record({KEY: [LEFT, LEFT]})).numbers[KEY]["energy_inside"]
    np.testing.assert_array_equal(found, [1.0, NAN])
