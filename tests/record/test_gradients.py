"""Gradients in numbers, against numbers by hand, `torch.histogram` and gradients taken plainly."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import CamRecord, CaptureError, compute_cams
from lightning_gradcam.record.gradients import (
    DTYPES,
    EDGES,
    GradientSummary,
    _tally,
    joined,
    summarised,
    vanished_layers,
    vanished_of,
    vanishing_remark,
)
from tests.conftest import TinyNet
from tests.guard.test_model import assert_same, everything

MIDDLE = len(EDGES) // 2 - 1


class Weighted(nn.Module):
    """Two scores, each a fixed sum over the activation: its gradient is what is given, for every sample."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.slopes = slopes

    def forward(self, x: Tensor) -> Tensor:
        score = (self.features(x) * self.slopes).flatten(1).sum(1)
        return torch.stack([score, -score], dim=1)


def small(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet().double().eval()


def inputs(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def filled(counts: Tensor) -> dict[float, int]:
    """The upper edge of each bin that is not empty, to its count."""
    return {float(EDGES[place + 1]): int(count) for place, count in enumerate(counts) if count}


def equal(one: GradientSummary[Any], other: GradientSummary[Any], atol: float = 0.0) -> None:
    for (name, values), wanted in zip(one.arrays().items(), other.arrays().values(), strict=True):
        assert values.dtype == wanted.dtype, name
        torch.testing.assert_close(values, wanted, rtol=0, atol=atol, equal_nan=True)


def test_a_case_by_hand() -> None:
    """Two channels of two by two places: gradients 1, 0, 2.5, 0.5 (mean 1) and -3, -3, 0, -2 (mean -2)."""
    slopes = torch.tensor([[[1.0, 0.0], [2.5, 0.5]], [[-3.0, -3.0], [0.0, -2.0]]], dtype=torch.float64)
    cams = compute_cams(Weighted(slopes), torch.rand(1, 2, 2, 2).double(), "features", targets=[0, 1], gradients=True)
    found = cams.gradients["features", "0"]
    # A number on an edge counts to the bin farther from zero: 1 is in [1, 1.5), -2 in (-3, -2], -3 in (-4, -3].
    tiny = 2.0**-126
    assert filled(found.gradients.counts[0]) == {-3.0: 2, -2.0: 1, tiny: 2, 0.75: 1, 1.5: 1, 3.0: 1}
    assert [float(getattr(found.gradients, name)) for name in ("min", "max", "sum")] == [-3.0, 2.5, -4.0]
    assert float(found.gradients.norm) ** 2 == pytest.approx(1 + 6.25 + 0.25 + 9 + 9 + 4, abs=1e-12)
    assert filled(found.weights.counts[0]) == {-2.0: 1, 1.5: 1}
    assert found.gradients.edges is found.weights.edges is EDGES
    assert len(EDGES) == found.gradients.counts.shape[1] + 1
    assert [float(getattr(found.weights, name)) for name in ("min", "max", "sum")] == [-2.0, 1.0, -1.0]
    assert (found.channels.tolist(), found.channel_weights.tolist()) == ([[0, 1]], [[1.0, -2.0]])
    assert (found.largest.tolist(), found.vanished.tolist()) == ([3.0], [False])
    other = cams.gradients["features", "1"]
    assert torch.equal(other.gradients.counts, found.gradients.counts.flip(1))
    assert (other.channels.tolist(), other.channel_weights.tolist()) == ([[1, 0]], [[2.0, -1.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_are_those_of_torch_histogram(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(3, 4, 6, 7, generator=generator, dtype=dtype) * 80 - 60
    values = torch.randn(3, 4, 6, 7, generator=generator, dtype=dtype) * 2**exponents
    values[0, 1] = 0
    found = summarised(values, torch.ones(3))
    for counts, sample in zip(found.gradients.counts, values, strict=True):
        expected = torch.histogram(sample.double().flatten(), torch.tensor(EDGES)).hist
        assert counts.tolist() == expected.tolist()
        assert int(counts.sum()) == 4 * 6 * 7
    assert int(found.gradients.counts[0, MIDDLE]) == 42


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bins_at_their_edges(dtype: torch.dtype) -> None:
    bins = len(EDGES) - 1

    def place(value: float) -> int:
        counts = summarised(torch.full((1, 1, 1, 1), value, dtype=dtype), torch.ones(1)).gradients.counts[0]
        assert int(counts.sum()) == 1
        return int(counts.argmax())

    assert {place(value) for value in (0.0, -0.0, 1e-38, -1e-39)} == {MIDDLE}
    assert [place(sign * 2.0**-126) - MIDDLE for sign in (-1, 1)] == [-1, 1]
    assert [place(sign * 2.0**-40) - MIDDLE for sign in (-1, 1)] == [-1, 1]
    assert [place(sign * 2.0**-32) - MIDDLE for sign in (-1, 1)] == [-2, 2]
    for edge in (2.0**-31, 1.0, 1.5, 2.0, 192.0, 256.0):
        at = int(np.searchsorted(EDGES, edge))
        assert place(edge) == at
        assert place(float(np.nextafter(edge, 0, dtype=np.float32))) == at - 1
        assert place(-edge) == bins - 1 - at
    assert [place(sign * 1e30) for sign in (-1, 1)] == [0, bins - 1]
    assert (np.diff(EDGES) > 0).all()
    assert np.array_equal(EDGES, -EDGES[::-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_not_counted_and_not_vanished(value: float) -> None:
    values = torch.zeros(2, 1, 2, 2)
    values[0, 0, 0, 0] = value
    found = summarised(values, torch.ones(2))
    assert found.gradients.counts.sum(1).tolist() == [3, 4]
    assert found.vanished.tolist() == [False, True]
    assert not found.gradients.sum[0].isfinite()


def test_a_sample_without_a_finite_score_is_not_taken_for_vanished() -> None:
    found = summarised(torch.zeros(3, 2, 2, 2), torch.tensor([1.0, float("nan"), float("inf")]))
    assert found.vanished.tolist() == [True, False, False]
    assert found.largest.isnan().tolist() == found.weights.sum.isnan().tolist() == [False, True, True]


def test_many_rows_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(7, 3, 4, 4)
    whole = summarised(values, torch.ones(7))
    monkeypatch.setattr("lightning_gradcam.record.gradients._ROOM", 100)
    equal(summarised(values, torch.ones(7)), whole)


def test_both_ways_of_counting_agree() -> None:
    codes = torch.randint(0, 50, (1000,), dtype=torch.int32)
    assert torch.equal(_tally(codes, 60), torch.bincount(codes, minlength=60))


def test_summaries_are_those_of_gradients_taken_plainly() -> None:
    model, x = small(), inputs()
    cams = compute_cams(model, x, ["relu1", "relu2"], targets=["predicted", 3], gradients=True)
    assert list(cams.gradients) == [(layer, target) for target in ("predicted", "3") for layer in ("relu1", "relu2")]
    first = model.relu1(model.norm1(model.conv1(x))).detach().requires_grad_()
    second = model.relu2(model.conv2(first))
    logits = model.head(second.flatten(1))
    for target, classes in (("predicted", logits.argmax(1)), ("3", torch.full((5,), 3))):
        score = logits.gather(1, classes[:, None]).sum()
        for layer, slopes in zip(
            ("relu1", "relu2"), torch.autograd.grad(score, [first, second], retain_graph=True), strict=True
        ):
            equal(cams.gradients[layer, target], summarised(slopes, torch.ones(5)), atol=1e-12)
            found = cams.gradients[layer, target]
            weights = slopes.mean((2, 3))
            order = weights.argsort(dim=1, descending=True)
            assert torch.equal(found.channels, order)
            torch.testing.assert_close(found.channel_weights, weights.gather(1, order), rtol=0, atol=1e-12)
            torch.testing.assert_close(found.largest, slopes.abs().amax((1, 2, 3)), rtol=0, atol=1e-12)
            torch.testing.assert_close(found.weights.sum, weights.sum(1), rtol=0, atol=1e-12)
            torch.testing.assert_close(found.gradients.norm, slopes.square().sum((1, 2, 3)).sqrt(), rtol=0, atol=1e-12)


def test_eight_channels_are_named() -> None:
    slopes = torch.arange(12.0)[:, None, None].repeat(1, 2, 2)
    cams = compute_cams(Weighted(slopes), torch.rand(2, 12, 2, 2), "features", targets=0, gradients=True)
    assert cams.gradients["features", "0"].channels.tolist() == [[11, 10, 9, 8, 7, 6, 5, 4]] * 2


def test_maps_and_model_are_the_same_with_and_without() -> None:
    model = TinyNet().train()
    model(torch.rand(4, 1, 8, 8)).sum().backward()
    x, layers = torch.rand(4, 1, 8, 8), ["conv1", "relu1", "relu2"]
    options: dict[str, Any] = {"targets": ["predicted", 1], "methods": ["gradcam", "gradcam++", "layercam"]}
    before, state = everything(model), torch.get_rng_state()
    without = compute_cams(model, x, layers, relu=False, **options)
    found = compute_cams(model, x, layers, relu=False, gradients=True, **options)
    assert_same(before, everything(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert (without.gradients, len(found.gradients)) == ({}, 6)
    assert all(torch.equal(found[key], maps) for key, maps in without.items())
    assert not any(v.requires_grad for s in found.gradients.values() for v in s.arrays().values())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_give_the_summaries_of_the_whole(size: int) -> None:
    targets: list[Any] = ["predicted", "label", {"top": 2}]
    options: dict[str, Any] = {"targets": targets, "labels": torch.arange(5), "gradients": True}
    whole = compute_cams(small(), inputs(), ["relu1", "relu2"], **options)
    parts = compute_cams(small(), inputs(), ["relu1", "relu2"], batch_size=size, **options)
    assert list(parts.gradients) == list(whole.gradients)
    for key, summary in whole.gradients.items():
        equal(parts.gradients[key], summary, atol=1e-12)
        assert torch.equal(parts.gradients[key].gradients.counts, summary.gradients.counts)
    assert torch.equal(parts.likeliest, whole.likeliest)


def test_joined_is_the_whole_to_the_bit() -> None:
    values, scores = torch.randn(5, 3, 2, 2), torch.ones(5)
    parts = [summarised(values[a:b], scores[a:b]) for a, b in ((0, 2), (2, 3), (3, 5))]
    equal(joined(parts), summarised(values, scores))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_counted_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = TinyNet().eval(), torch.rand(3, 1, 8, 8)
    exact = compute_cams(model, x, "relu2", targets=1, gradients=True).gradients["relu2", "1"]
    found = compute_cams(model.to(dtype), x.to(dtype), "relu2", targets=1, gradients=True).gradients["relu2", "1"]
    assert found.largest.dtype == found.gradients.sum.dtype == torch.float32
    assert found.gradients.counts.sum(1).tolist() == [108] * 3
    torch.testing.assert_close(found.largest, exact.largest, rtol=0.02, atol=0)


def test_three_axes_of_places() -> None:
    model = nn.Sequential(nn.Conv3d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 24, 4)).double()
    cams = compute_cams(model, torch.rand(2, 1, 4, 5, 6).double(), "0", targets=2, gradients=True)
    found, weight = cams.gradients["0", "2"], model[2].weight[2].reshape(3, 24)
    assert found.gradients.counts.sum(1).tolist() == [72, 72]
    torch.testing.assert_close(
        found.channel_weights[0], weight.mean(1).sort(descending=True).values, rtol=0, atol=1e-12
    )


def test_tokens_count_without_those_before_the_grid() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Identity()
            self.weights = torch.arange(1.0, 16.0).reshape(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            score = (self.block(x) * self.weights).sum((1, 2))
            return torch.stack([score, -score], 1)

    x = torch.rand(2, 5, 3).double()
    cams = compute_cams(Tokens(), x, "block", targets=0, layout="NLC:1+2x2", gradients=True)
    found = cams.gradients["block", "0"]
    assert found.gradients.counts.sum(1).tolist() == [12] * 2
    assert found.gradients.sum.tolist() == [sum(range(4, 16))] * 2
    assert found.channels.tolist() == [[2, 1, 0]] * 2
    assert found.channel_weights.tolist() == [[10.5, 9.5, 8.5]] * 2


def test_where_the_gradient_vanishes() -> None:
    """A ReLU that is dead for the second sample: its bias is below all that the sample gives."""

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.relu = nn.Identity(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            alive = self.relu(self.features(x) - 0.5).mean((1, 2, 3))
            return torch.stack([alive, -alive], 1)

    x = torch.stack([torch.full((1, 3, 3), value) for value in (1.0, 0.1, 2.0)])
    record = recorded(compute_cams(Dead(), x, ["features", "relu"], targets=[0, 1], gradients=True))
    assert record.gradients["features", "0"].vanished.tolist() == [False, True, False]
    assert {key: values.tolist() for key, values in vanished_of(record.gradients).items()} == {
        (layer, target): [0, float(layer == "features"), 0] for layer in ("features", "relu") for target in "01"
    }
    assert list(vanished_layers(record.gradients)) == []
    assert list(vanished_layers(record.part([1]).gradients)) == ["features"]
    remark = vanishing_remark("features", epoch=3, step=40, score="probability")
    assert "layer 'features': in epoch 3, step 40, the gradient of the score is zero for every probe" in remark
    assert "'logit'" in remark
    assert "'logit'" not in vanishing_remark("features", epoch=3, step=40, score="logit")


def test_layers_vanish_by_what_is_known_and_for_all_targets() -> None:
    def summary(slopes: float, scores: list[float]) -> GradientSummary[Any]:
        found = summarised(torch.full((len(scores), 1, 2, 2), slopes), torch.tensor(scores))
        return found.each(lambda _, values: values.numpy())

    nan = float("nan")
    gradients = {
        ("a", "0"): summary(0.0, [1, nan]),
        ("a", "1"): summary(0.0, [1, 1]),
        ("b", "0"): summary(0.0, [1, 1]),
        ("b", "1"): summary(1.0, [1, 1]),
        ("c", "0"): summary(0.0, [nan, nan]),
    }
    assert list(vanished_layers(gradients)) == ["a"]
    np.testing.assert_array_equal(vanished_of(gradients)["a", "0"], np.array([1, nan], np.float32))


def test_a_model_that_drops_the_short_graph_is_summarised_once() -> None:
    class Switching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Conv2d(1, 2, 3).double(), nn.Linear(8, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.backbone(x)
            return self.head(features.flatten(1))

    model = Switching()
    cams = compute_cams(model, torch.rand(2, 1, 4, 4).double(), "backbone", targets=1, gradients=True)
    weights = model.head.weight[1].reshape(2, 4).mean(1)
    assert cams.gradients["backbone", "1"].weights.sum.tolist() == pytest.approx([float(weights.sum())] * 2, abs=1e-12)


def test_a_layer_without_a_gradient_is_refused_as_before() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x).detach().flatten(1))

    with pytest.raises(CaptureError, match="no gradient reaches 'stem'"):
        compute_cams(Cut(), torch.rand(1, 1, 4, 4), "stem", gradients=True)


def test_methods_without_gradients_have_no_summary() -> None:
    x = torch.rand(2, 1, 8, 8)
    assert compute_cams(TinyNet(), x, "relu2", methods=["eigencam", "scorecam"], gradients=True).gradients == {}
    assert len(compute_cams(TinyNet(), x, "relu2", methods=["eigencam", "gradcam"], gradients=True).gradients) == 1


def recorded(cams: Any) -> CamRecord:
    ids = tuple(f"p{place}" for place in range(len(next(iter(cams.scores.values())))))
    return CamRecord.from_cams(cams, probe_ids=ids, epoch=0, step=10, stage="fit", score="logit")


def test_a_record_is_frozen_numpy_of_its_own_and_has_parts() -> None:
    cams = compute_cams(small(), inputs(), ["relu1", "relu2"], targets=["predicted", 0], gradients=True)
    record = recorded(cams)
    assert isinstance(record.gradients, MappingProxyType)
    assert list(record.gradients) == list(cams.gradients)
    part = record.part([3, 0])
    for key, summary in record.gradients.items():
        for name, values in summary.arrays().items():
            assert values.dtype == DTYPES[name]
            assert not values.flags.writeable
            np.testing.assert_array_equal(values, cams.gradients[key].arrays()[name].numpy().astype(DTYPES[name]))
            np.testing.assert_array_equal(part.gradients[key].arrays()[name], values[[3, 0]])
    assert np.array_equal(part.likeliest, record.likeliest[[3, 0]])


def test_cams_with_summaries_can_be_copied() -> None:
    cams = compute_cams(small(), inputs(), "relu2", gradients=True)
    equal(copy.deepcopy(cams).gradients["relu2", "predicted"], cams.gradients["relu2", "predicted"])
