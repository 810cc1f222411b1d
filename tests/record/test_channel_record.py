"""The record of channels: frozen, and refused where its parts do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_gradcam.record.channel_record import ChannelRecord, dead_numbers


def record(**fields: Any) -> ChannelRecord:
    return ChannelRecord(
        **{
            "epoch": 2,
            "step": 30,
            "stage": "fit",
            "kind": "features",
            "probe_ids": ("a", "b"),
            "channels": {"conv": np.arange(24, dtype=np.float64).reshape(2, 3, 2, 2)},
            "chosen": {"conv": (0, 2, 4)},
            "numbers": {"conv": {"dead": np.array([True, False, False, False, True])}},
            **fields,
        }
    )


def patterns(**fields: Any) -> ChannelRecord:
    numbers = {"conv": {"activation": np.array([1.5, 2.5])}}
    own: dict[str, Any] = {"kind": "patterns", "probe_ids": (), "channels": {"conv": np.zeros((2, 3, 8, 8))}}
    return record(**{**own, "chosen": {"conv": (7, 9)}, "numbers": numbers, **fields})


def test_everything_in_it_is_read_only_float32() -> None:
    found = record()
    for array in (found.channels["conv"], found.numbers["conv"]["dead"]):
        assert array.dtype == np.float32
        assert not array.flags.writeable
    with pytest.raises(TypeError):
        found.channels["conv"] = np.zeros(1)  # type: ignore[index]
    with pytest.raises(TypeError):
        found.numbers["conv"]["dead"] = np.zeros(1)  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.step = 3  # type: ignore[misc]


def test_dead_channels_are_counted_over_all_channels_of_the_layer() -> None:
    assert dead_numbers(record()) == {"conv": {"dead": 2.0, "dead_share": 0.4}}
    assert dead_numbers(patterns()) == {}


def test_some_of_the_probes() -> None:
    part = record().part([1])
    assert part.probe_ids == ("b",)
    np.testing.assert_array_equal(part.channels["conv"], record().channels["conv"][1:])
    np.testing.assert_array_equal(part.numbers["conv"]["dead"], record().numbers["conv"]["dead"])
    assert patterns().part([0]).channels["conv"].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "weights"}, "pass 'features' or 'patterns'"),
        ({"kind": "patterns"}, "belong to no probe"),
        ({"chosen": {"conv2": (0, 2, 4)}}, "the same layers in all three"),
        ({"chosen": {"conv": (0, 2)}}, r"pass \[N, C, h, w\] for 2 probes and 2 chosen"),
        ({"chosen": {"conv": (0, 2, 2)}}, "once, counted from 0"),
        ({"chosen": {"conv": (0, -1, 2)}}, "once, counted from 0"),
        ({"probe_ids": ("a",)}, r"is \[2, 3, 2, 2\]"),
        ({"channels": {"conv": np.zeros((2, 3, 4))}}, r"is \[2, 3, 4\]"),
        ({"channels": {"conv": np.zeros((2, 0, 4, 4))}, "chosen": {"conv": ()}}, r"is \[2, 0, 4, 4\]"),
        ({"numbers": {"conv": {"dead": np.zeros(4)}}}, "for each channel of the layer"),
        ({"numbers": {"conv": {"dead": np.zeros((5, 1))}}}, "one axis"),
        ({"numbers": {"other": {}}}, "the same layers in all three"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        record(**fields)


def test_patterns_have_an_activation_for_each_filter() -> None:
    assert patterns().numbers["conv"]["activation"].tolist() == [1.5, 2.5]
    with pytest.raises(ValueError, match="the chosen 2"):
        patterns(numbers={"conv": {"activation": np.zeros(3)}})
