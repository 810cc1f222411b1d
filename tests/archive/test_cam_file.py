"""What a step file keeps of classes and gradients, and what it refuses."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gradcam import CamKey, CamRecord, compute_cams
from lightning_gradcam.archive.cam_file import packed_cams, unpacked_cams, unpacked_maps
from lightning_gradcam.record.gradients import DTYPES, EDGES, GradientSummary, summarised
from lightning_gradcam.sheets.header import _level_lines
from tests.conftest import TinyNet

Arrays = dict[str, Any]


def record(layers: tuple[str, ...] = ("conv1", "relu2"), **options: Any) -> CamRecord:
    torch.manual_seed(0)
    x = torch.rand(3, 1, 8, 8)
    options = {"targets": ["predicted", 2], "gradients": True, **options}
    cams = compute_cams(TinyNet(), x, list(layers), relu=False, **options)
    return CamRecord.from_cams(cams, probe_ids=("a", "b", "c"), epoch=0, step=10, stage="fit", score="logit")


def changed(data: bytes, change: Callable[[Arrays, dict[str, Any]], object]) -> bytes:
    """The file with other arrays or another `meta`."""
    with np.load(io.BytesIO(data)) as file:
        arrays: Arrays = dict(file)
    meta = json.loads(arrays.pop("meta").tobytes())
    change(arrays, meta)
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def test_classes_and_gradients_come_back_as_they_were() -> None:
    wanted = record()
    found = unpacked_cams(packed_cams(wanted))
    assert found.likeliest.shape == (3, 5)
    np.testing.assert_array_equal(found.likeliest, wanted.likeliest)
    np.testing.assert_array_equal(found.likeliest_confidence, wanted.likeliest_confidence)
    assert list(found.gradients) == list(wanted.gradients)
    assert len(found.gradients) == 4
    for key, summary in wanted.gradients.items():
        for name, values in summary.arrays().items():
            again = found.gradients[key].arrays()[name]
            assert again.dtype == DTYPES[name] == values.dtype
            np.testing.assert_array_equal(again, values)


def test_gradients_that_are_not_finite_come_back_too() -> None:
    values = torch.zeros(3, 2, 2, 2)
    values[0], values[1] = float("nan"), float("inf")
    odd = summarised(values, torch.tensor([1.0, 1.0, float("nan")]))
    frozen: GradientSummary[Any] = odd.each(lambda name, v: v.numpy().astype(DTYPES[name]))
    wanted = record()
    object.__setattr__(wanted, "gradients", {("conv1", "2"): frozen})
    found = unpacked_cams(packed_cams(wanted)).gradients["conv1", "2"].arrays()
    for name, expected in frozen.arrays().items():
        np.testing.assert_array_equal(found[name], expected)


def test_a_record_without_classes_and_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1))
    cams = compute_cams(model, torch.rand(3, 1, 8, 8), "0", targets={"segment": 1})
    wanted = CamRecord.from_cams(cams, probe_ids=("a", "b", "c"), epoch=0, step=10, stage="fit", score="logit")
    found = unpacked_cams(packed_cams(wanted))
    for each in (wanted, found):
        assert each.gradients == {}
        assert each.likeliest.shape == each.likeliest_confidence.shape == (3, 0)
        assert each.likeliest.dtype == np.int64


def test_files_of_earlier_versions_have_neither() -> None:
    def earlier(arrays: Arrays, meta: dict[str, Any]) -> None:
        del meta["gradients"]
        for name in [name for name in arrays if name.startswith(("likeliest", "slope_", "gradients_", "weights_"))]:
            del arrays[name]

    wanted = record()
    data = changed(packed_cams(wanted), earlier)
    assert len(data) < len(packed_cams(wanted))
    found = unpacked_cams(data)
    assert found.gradients == {}
    assert found.likeliest.shape == (3, 0)
    assert found.part([0, 2]).likeliest_confidence.shape == (2, 0)
    for key, maps in unpacked_cams(packed_cams(wanted)).maps.items():
        np.testing.assert_array_equal(found.maps[key], maps)


def test_empty_bins_take_no_room() -> None:
    with np.load(io.BytesIO(packed_cams(record()))) as file:
        counts = file["gradients_counts0"]
    assert counts.dtype == np.uint8
    assert 1 < counts.shape[1] < (len(EDGES) - 1) / 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("likeliest", lambda v: v[:2], "'likeliest' is"),
        ("likeliest", lambda v: v.astype(np.float32), "expected int64"),
        ("likeliest_confidence", lambda v: v[:, :4], "'likeliest_confidence' is"),
        ("gradients_bins1", lambda v: v[::-1], "not a list of ascending indices below"),
        (
            "gradients_bins1",
            lambda v: v * 0 + np.arange(len(v), dtype=np.int16) + 160,
            "not a list of ascending indices below",
        ),
        ("gradients_bins1", lambda v: v - v[0] - 1, "not a list of ascending indices below"),
        ("gradients_bins1", lambda v: v.astype(np.int64), "expected int16"),
        ("weights_counts1", lambda v: v[:1], "'weights_counts1' is"),
        ("gradients_counts1", lambda v: v.astype(np.int8), "'gradients_counts1' is int8"),
        ("slope_facts1", lambda v: v[:5], "'slope_facts1' is"),
        ("slope_facts1", lambda v: v[:, :2], "'slope_facts1' is"),
        ("slope_channels1", lambda v: v[:, :2], "'slope_channel_weights1' is"),
        ("slope_channels1", lambda v: v.astype(np.int64), "expected uint64"),
        ("slope_channel_weights1", lambda v: v[:2], "'slope_channel_weights1' is"),
        ("limits", lambda v: v[:3], "'limits' is"),
        ("limits", lambda v: v[:, :2], "'limits' is"),
        ("limits", lambda v: v[..., :1], "'limits' is"),
        ("limits", lambda v: v.astype(np.float16), "expected float32"),
        ("slope_largest1", lambda v: v[:2], r"'slope_largest1' is float32 \[2\], expected float32 \[3\]"),
        ("slope_vanished1", lambda v: v.astype(np.uint8), "expected bool"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, change: Callable[[Any], Any], message: str) -> None:
    def other(arrays: Arrays, _meta: dict[str, Any]) -> None:
        arrays[name] = change(arrays[name])

    wanted = record()
    limits = {key: np.ones((3, 2), np.float32) for key in wanted.maps}
    with pytest.raises((TypeError, ValueError), match=message):
        unpacked_cams(changed(packed_cams(dataclasses.replace(wanted, limits=limits)), other))


@pytest.mark.parametrize("keys", [[["a"]], [["a", "b", "c"]], ["ab"], [[1, 2]], 3, [["a", "b"]] * 9])
def test_keys_that_are_none_are_refused(keys: Any) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        unpacked_cams(changed(packed_cams(record()), lambda _, meta: meta.update(gradients=keys)))


def test_a_small_file_does_not_claim_many_histograms() -> None:
    def claim(_arrays: Arrays, meta: dict[str, Any]) -> None:
        meta.update(gradients=[[str(place), "2"] for place in range(50_000)], probe_ids=[""] * 3)

    with pytest.raises(ValueError, match="the file is too small for histograms of 50000 gradients and 3 probes"):
        unpacked_cams(changed(packed_cams(record()), claim))


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.count += len(found)
        return found


def test_one_maps_bytes_are_read_and_no_others() -> None:
    wanted = record()
    place = CamKey("conv1", "gradcam", "predicted")
    maps = {place._replace(layer=f"l{i}"): np.full((3, 40, 40), i + 1, np.float32) for i in range(40)}
    data = packed_cams(dataclasses.replace(wanted, maps=maps))
    key = place._replace(layer="l25")
    reads: list[Callable[[Counting], Any]] = [
        lambda file: unpacked_maps(file, key),
        lambda file: unpacked_cams(file, [key]).maps[key],
    ]
    for read in reads:
        file = Counting(data)
        found = read(file)
        np.testing.assert_array_equal(found, maps[key])
        assert found.nbytes // 2 < file.count < len(data) / 10
    assert unpacked_maps(data, key._replace(layer="l40")) is None
    with pytest.raises(KeyError, match="it has no maps for"):
        unpacked_cams(data, [key, key._replace(layer="l40")])


def test_of_chosen_keys_maps_numbers_and_gradients_are_read() -> None:
    wanted = record()
    key = list(wanted.maps)[2]
    numbers = {each: {"drift": np.full(3, place, np.float32)} for place, each in enumerate(wanted.maps)}
    found = unpacked_cams(packed_cams(dataclasses.replace(wanted, numbers=numbers)), [key])
    assert list(found.maps) == list(found.numbers) == [key]
    np.testing.assert_array_equal(found.numbers[key]["drift"], 2)
    assert list(found.gradients) == [(key.layer, key.target)]
    np.testing.assert_array_equal(found.scores["2"], wanted.scores["2"])


class Pyramid(nn.Module):
    """Two levels, of which the brighter pictures use the coarse one."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = Levels()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high = self.levels(x)
        bright = (x.mean((1, 2, 3)) > 0.5)[:, None]
        return torch.where(bright, high.mean((2, 3)), low.mean((2, 3)))


class Levels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(1, 3, 3, 1, 1), nn.Conv2d(1, 3, 2, 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.low(x), self.high(x)]


@pytest.mark.filterwarnings("ignore:lightning-gradcam. layer 'levels'")
@pytest.mark.parametrize("batch_size", [None, 1])
def test_the_level_of_each_probe_comes_back_and_the_sheet_names_it(batch_size: int | None) -> None:
    x = torch.tensor([0.1, 0.9, 0.2])[:, None, None, None] * torch.ones(3, 1, 8, 8)
    cams = compute_cams(Pyramid(), x, "levels", targets=[1, 2], relu=False, batch_size=batch_size)
    wanted = CamRecord.from_cams(cams, probe_ids=("a", "b", "c"), epoch=0, step=10, stage="fit", score="logit")
    data = packed_cams(wanted)
    found = unpacked_cams(data)
    names = ("levels[0]", "levels[1]", "levels[0]")
    assert found.levels == wanted.levels == {("levels", "1"): names, ("levels", "2"): names}
    assert found.part([1]).levels["levels", "2"] == ("levels[1]",)
    assert list(unpacked_cams(data, [CamKey("levels", "gradcam", "2")]).levels) == [("levels", "2")]
    assert _level_lines(found, "levels") == ["levels: levels[0] (4 of 6 maps), levels[1] (2 of 6 maps)"]
    assert _level_lines(found.part([1]), "levels") == ["level: levels[1]"]
    assert _level_lines(found, "low") == []
    # Files of earlier versions have none.
    assert unpacked_cams(changed(data, lambda _, meta: meta.pop("levels"))).levels == {}
    with pytest.raises(ValueError, match="'levels' .* 2 entries, but there are 3 probes"):
        unpacked_cams(changed(data, lambda _, meta: meta["levels"][0]["names"].pop()))


def test_metrics_come_back_and_older_files_have_none() -> None:
    wanted = dataclasses.replace(record(), metrics={"val_loss": 0.25, "ü\ud800": -1.0})
    data = packed_cams(wanted)
    assert unpacked_cams(data).metrics == wanted.metrics
    older = changed(data, lambda arrays, meta: meta.pop("metrics"))
    assert unpacked_cams(older).metrics == {}
    wrong: list[Any] = [[1.0], {"val_loss": "low"}, {"val_loss": None}, {"val_loss": True}]
    for broken in wrong:
        data = changed(packed_cams(wanted), lambda arrays, meta: meta.update(metrics=broken))  # noqa: B023
        with pytest.raises(TypeError, match="'metrics' is not a JSON object with numeric values"):
            unpacked_cams(data)


def test_numbers_are_read_without_maps() -> None:
    stats = {"drift": np.ones(3, np.float32)}
    data = packed_cams(dataclasses.replace(record(), numbers=dict.fromkeys(record().maps, stats)))
    key, other = list(record().maps)[:2]
    found = unpacked_cams(data, [key, other], [other])
    assert (list(found.maps), list(found.numbers)) == ([other], [key, other])
