"""Records of channels as bytes: what was packed is read, and nothing broken is."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from lightning_gradcam.archive.channel_file import packed_channels, unpacked_channels
from lightning_gradcam.record.channel_record import ChannelRecord

INF, NAN = float("inf"), float("nan")


def features(depth: tuple[int, ...] = ()) -> ChannelRecord:
    generator = np.random.default_rng(0)
    # Channels whose sizes lie nine orders of magnitude apart: float16 alone would lose both ends.
    sizes = np.array([1e-6, 1.0, 1e3]).reshape(3, *[1] * (2 + len(depth)))
    maps = generator.standard_normal((2, 3, *depth, 4, 5)) * sizes
    dead = np.array([0, 1, 0, 0, 1], np.float32)
    return ChannelRecord(
        3,
        40,
        "validate",
        "features",
        ("a", "b"),
        {"conv": maps.astype(np.float32), "block.0": np.zeros((2, 1, 2, 2), np.float32)},
        {"conv": (0, 2, 4), "block.0": (0,)},
        {"conv": {"dead": dead}, "block.0": {"dead": np.ones(1, np.float32)}},
    )


def patterns() -> ChannelRecord:
    pictures = np.random.default_rng(1).uniform(0, 1, (2, 3, 6, 6)).astype(np.float32)
    numbers = {"conv": {"activation": np.array([0.25, 1e-9], np.float32)}}
    return ChannelRecord(-1, 0, "fit", "patterns", (), {"conv": pictures}, {"conv": (4, 17)}, numbers)


@pytest.mark.parametrize("record", [features(), features((3,)), patterns()], ids=["features", "3-D", "patterns"])
def test_what_was_packed_is_read(record: ChannelRecord) -> None:
    found = unpacked_channels(packed_channels(record))
    for name in ("epoch", "step", "stage", "kind", "probe_ids", "chosen"):
        assert getattr(found, name) == getattr(record, name)
    assert list(found.channels) == list(record.channels)
    for layer, values in record.channels.items():
        largest = np.abs(values).reshape(*values.shape[:2], -1).max(axis=2)
        off = np.abs(found.channels[layer] - values).reshape(*values.shape[:2], -1).max(axis=2)
        assert (off <= largest * 2.0**-11).all()
        assert not found.channels[layer].flags.writeable
        for name, numbers in record.numbers[layer].items():
            np.testing.assert_array_equal(found.numbers[layer][name], numbers)


def test_zero_and_broken_values_come_back() -> None:
    maps = np.array([[[[0.0, 0.0]], [[INF, -2.0]], [[NAN, 3.0]], [[-INF, INF]]]], np.float32)
    found = unpacked_channels(
        packed_channels(ChannelRecord(0, 0, "fit", "features", ("a",), {"c": maps}, {"c": (0, 1, 2, 3)}))
    )
    np.testing.assert_array_equal(found.channels["c"], maps)
    assert found.numbers["c"] == {}


def changed(**fields: Any) -> bytes:
    """The file with other entries in it; one that is ``None`` is left out."""
    with np.load(io.BytesIO(packed_channels(features()))) as file:
        arrays: dict[str, Any] = dict(file)
    meta = json.loads(arrays.pop("meta").tobytes())
    meta.update({name: value for name, value in fields.items() if name in meta})
    arrays.update({name: value for name, value in fields.items() if name not in meta and value is not None})
    for name in fields:
        if fields[name] is None:
            del arrays[name]
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def test_a_file_that_is_written_anew_is_still_one() -> None:
    assert unpacked_channels(changed()).step == 40


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"schema": 2}, ValueError, "this version reads 1"),
        ({"epoch": 1.0}, TypeError, "not integers"),
        ({"kind": "weights"}, ValueError, "'features' or 'patterns'"),
        ({"kind": 3}, TypeError, "expected text"),
        ({"layers": ["conv", "conv"]}, ValueError, "twice"),
        ({"layers": ["conv"]}, ValueError, "zip"),
        ({"chosen": [[0, 2], [0]]}, ValueError, "2 chosen"),
        ({"chosen": [[0, 2, True], [0]]}, TypeError, "not a list of integers"),
        ({"chosen": [[0, 2, 5], [0]]}, ValueError, "for each channel of the layer"),
        ({"probe_ids": ["a"]}, ValueError, "for 1 probes"),
        ({"numbers": [["dead", "more"], ["dead"]]}, KeyError, "numbers0_1"),
        ({"map0": np.zeros((2, 3, 4, 5), np.float32)}, TypeError, "expected float16"),
        ({"map0": np.zeros((2, 3), np.float16)}, TypeError, "expected float16"),
        ({"scale0": np.zeros((2, 2), np.float32)}, TypeError, "'scale0' is"),
        ({"scale1": None}, KeyError, "scale1"),
        ({"numbers0_0": np.zeros((5, 1), np.float32)}, TypeError, "expected float32"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        unpacked_channels(changed(**fields))


def test_broken_bytes_raise() -> None:
    whole = packed_channels(features())
    for size in range(0, len(whole), 97):
        with pytest.raises(Exception):  # noqa: B017, PT011
            unpacked_channels(whole[:size])
