"""What models do that hooks have to live with: in place, several times, compiled, checkpointed, in other precisions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_gradcam import CaptureError, ConfigurationError, LayerError, compute_cams
from tests.methods.models import Tokens
from tests.reference import plain_gradcam

AGAIN = ["gradcam", "ablationcam", "scorecam", "smoothgradcam++", "guided_gradcam", "fullgrad"]


class Net(nn.Module):
    """A stem, a block and a tail; `run` says how the block is run."""

    def __init__(self, run: str = "plain", channels: int = 1) -> None:
        super().__init__()
        self.run = run
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        )
        self.tail, self.head = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        if self.run in ("checkpoint", "reentrant"):
            x = checkpoint(self.block, x, use_reentrant=self.run == "reentrant")
        elif self.run == "no_grad":
            with torch.no_grad():
                x = self.block(x)
        else:
            x = self.block(x)
        return self.head(self.tail(x).relu().mean((2, 3)))


def net(run: str = "plain", channels: int = 1) -> Net:
    torch.manual_seed(5)
    return Net(run, channels).double().eval()


def pictures(samples: int = 3, channels: int = 1, size: tuple[int, int] = (9, 11)) -> Tensor:
    return torch.randn(samples, channels, *size, generator=torch.Generator().manual_seed(1)).double()


def same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) > 0
    for (_, method, target), maps in expected.items():
        other = next(value for key, value in found.items() if key.method == method and key.target == target)
        torch.testing.assert_close(other, maps, rtol=0, atol=1e-10)


LAYERS = ["stem", "block.0", "block.1", "block", "tail"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_activations_checkpointed_without_reentry(layer: str, frozen: bool) -> None:
    expected = compute_cams(net(), pictures(), layer, methods=AGAIN, targets=["predicted", 1], relu=False)
    model = net("checkpoint").requires_grad_(not frozen)
    same(compute_cams(model, pictures(), layer, methods=AGAIN, targets=["predicted", 1], relu=False), expected)


@pytest.mark.parametrize("layer", [layer for layer in LAYERS[:-1] if layer != "block"])
def test_reentrant_checkpoints_are_refused_with_what_to_do(layer: str) -> None:
    with pytest.raises(CaptureError, match=r"use_reentrant=False|reentrant activation.*for instance 'tail'"):
        compute_cams(net("reentrant"), pictures(), layer)
    # What is checkpointed, and what follows, are not inside.
    for after in ("block", "tail"):
        same(compute_cams(net("reentrant"), pictures(), after), compute_cams(net(), pictures(), after))


def test_a_layer_before_a_no_grad_part_is_refused_with_one_that_works() -> None:
    model = net("no_grad")
    with pytest.raises(CaptureError, match=r"no gradient reaches 'stem'.*for instance '(tail|block.*)'") as caught:
        compute_cams(model, pictures(), "stem")
    instead = str(caught.value).rsplit("'", 2)[1]
    same(compute_cams(model, pictures(), instead), compute_cams(net(), pictures(), instead))


@pytest.mark.parametrize("layer", ["block.0", "block.2", "block"])
def test_a_layer_inside_a_no_grad_part_has_the_gradient_that_it_would_have(layer: str) -> None:
    expected = compute_cams(net(), pictures(), layer, methods=["gradcam", "finercam"], relu=False)
    same(compute_cams(net("no_grad"), pictures(), layer, methods=["gradcam", "finercam"], relu=False), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_in_place_activations_do_not_reach_what_was_stored(layer: str) -> None:
    model, x = net(), pictures()
    found = compute_cams(model, x, layer, targets=1, relu=False)[layer]
    body: Callable[[Tensor], Tensor] = {
        "stem": lambda v: model.stem(v),
        "block.0": lambda v: model.block[0](model.stem(v).relu()),
        "block.1": lambda v: model.block[0](model.stem(v).relu()).relu(),
        "block": lambda v: model.block(model.stem(v).relu()),
        "tail": lambda v: model.tail(model.block(model.stem(v).relu())),
    }[layer]
    rest: Callable[[Tensor], Tensor] = {
        "stem": lambda a: model.tail(model.block(a.relu())),
        "block.0": lambda a: model.tail(model.block[2](a.relu()).relu()),
        "block.1": lambda a: model.tail(model.block[2](a).relu()),
        "block": lambda a: model.tail(a),
        "tail": lambda a: a,
    }[layer]
    expected = plain_gradcam(
        lambda a: model.head(rest(a).relu().mean((2, 3))),
        body,
        x,
        [1] * 3,
        relu=False,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 can't leave compilation out")
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", [False, True])
def test_compiled_models_and_parts_of_models(backend: str, part: bool) -> None:
    expected = compute_cams(net(), pictures(), ["block.1", "tail"], methods=AGAIN, relu=False)
    model: Any = net()
    if part:
        model.block = torch.compile(model.block, backend=backend)
    else:
        model = torch.compile(model, backend=backend)
    with torch.no_grad():
        model(pictures())
    found = compute_cams(model, pictures(), ["block.1", "tail"], methods=AGAIN, relu=False)
    assert set(found) == set(expected)
    for key, maps in expected.items():
        torch.testing.assert_close(found[key], maps, rtol=0, atol=1e-10)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 can't leave compilation out")
@pytest.mark.parametrize("part", ["model", "block", "method"])
def test_a_torch_that_cannot_leave_compilation_out_refuses_compiled_models(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = net()
    model: Any = plain
    if part == "model":
        model = torch.compile(plain, backend="eager")
    elif part == "block":
        model.block = torch.compile(model.block, backend="eager")
    else:
        model.block.compile(backend="eager")
    expected = compute_cams(model, pictures(), "tail")["tail"]
    monkeypatch.delattr(torch.compiler, "set_stance")
    with pytest.raises(ConfigurationError, match=r"model: \w+ is compiled by torch.compile, .*use torch 2.6 or newer"):
        compute_cams(model, pictures(), "tail")
    assert torch.equal(compute_cams(net(), pictures(), "tail")["tail"], expected)


def test_channels_last_memory_and_frozen_weights() -> None:
    expected = compute_cams(net(), pictures(), LAYERS, methods=AGAIN, relu=False)
    model = net().to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    found = compute_cams(
        model, pictures().contiguous(memory_format=torch.channels_last), LAYERS, methods=AGAIN, relu=False
    )
    for key, maps in expected.items():
        torch.testing.assert_close(found[key], maps, rtol=0, atol=1e-10)


def test_a_module_called_several_times_and_under_two_names_counts_with_its_last_call() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.alias, self.head = self.conv, nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.alias(self.conv(x).tanh()).relu().mean((2, 3)))

    torch.manual_seed(0)
    model, x = Shared().double(), pictures(channels=2)
    expected = plain_gradcam(
        lambda a: model.head(a.relu().mean((2, 3))),
        lambda v: model.conv(model.conv(v).tanh()),  # type: ignore[arg-type]
        x,
        [2] * 3,
        relu=False,
    )
    for name in ("conv", "alias"):
        torch.testing.assert_close(compute_cams(model, x, name, targets=2, relu=False)[name], expected)


@pytest.mark.parametrize("kind", ["tuple", "dict", "nested"])
def test_layers_that_return_more_than_their_feature_map(kind: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Any:
            a = self.inner(x)
            return {"tuple": (a, x), "dict": {"n": len(x), "map": a}, "nested": [None, (a.mean(), a)]}[kind]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = Wrapped(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            output = self.body(x)
            a = {"tuple": lambda: output[0], "dict": lambda: output["map"], "nested": lambda: output[1][1]}[kind]()
            return self.head(a.relu().mean((2, 3)))

    torch.manual_seed(0)
    model, x = Model().double(), pictures()
    outside = compute_cams(model, x, "body", methods=["gradcam", "ablationcam"], targets=1, relu=False)
    inside = compute_cams(model, x, "body.inner", methods=["gradcam", "ablationcam"], targets=1, relu=False)
    same(outside, inside)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("methods", [["gradcam", "layercam", "eigencam"], ["ablationcam", "finercam", "scorecam"]])
def test_other_precisions_give_float32_maps_close_to_the_exact_ones(dtype: torch.dtype, methods: list[str]) -> None:
    exact = compute_cams(net(), pictures(), "block", methods=methods, targets=1, relu=False)
    found = compute_cams(net().to(dtype), pictures().to(dtype), "block", methods=methods, targets=1, relu=False)
    for key, maps in exact.items():
        assert found[key].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        cosine = torch.nn.functional.cosine_similarity(found[key].double().flatten(1), maps.flatten(1)).abs()
        half = dtype in (torch.bfloat16, torch.float16)
        assert maps.isfinite().all()
        # Leaving out one channel may change a bfloat16 score by less than its last bit.
        assert cosine.min() > (0.9 if half else 0.99999) or (half and key.method == "ablationcam")


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize("size", [(9, 9), (8, 20)])
def test_batches_channels_and_sizes(samples: int, channels: int, size: tuple[int, int]) -> None:
    model, x = net(channels=channels), pictures(samples, channels, size)
    cams = compute_cams(model, x, ["auto", "stem"], methods=AGAIN, relu=False)
    assert cams["tail", "gradcam", "predicted"].shape == (samples, size[0] - 2, size[1] - 2)
    assert cams["tail", "guided_gradcam", "predicted"].shape == (samples, *size)
    assert cams["model", "fullgrad", "predicted"].shape == (samples, *size)
    for key, maps in cams.items():
        assert maps.isfinite().all()
        # Guided Grad-CAM takes the map after its ReLU, of which nothing may be left.
        assert key.method == "guided_gradcam" or maps.flatten(1).std(1).min() > 0


# ---- layers on whose places nothing depends


def test_the_last_blocks_tokens_are_refused_with_the_layer_to_use_instead() -> None:
    class Vit(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.LayerNorm(6)

        def top(self, a: Tensor) -> Tensor:
            assert isinstance(self.attention, nn.MultiheadAttention)
            return self.head(self.out(a + self.attention(a, a, a, need_weights=False)[0])[:, 0])

    torch.manual_seed(0)
    model, x = Vit(), torch.randn(2, 1, 6, 8)
    for layer in ("out", "attention"):
        with pytest.raises(LayerError, match=rf"gradient at '{layer}' is zero everywhere by const.*choose 'norm' inst"):
            compute_cams(model, x, layer)
    assert compute_cams(model, x, "norm")["norm"].max() > 0
    assert compute_cams(model, x, "out", methods="eigencam")["out"].max() > 0, "without gradients there is a map"


def test_a_dead_network_is_explained_by_maps_that_are_all_zero() -> None:
    model = net()
    with torch.no_grad():
        for parameter in model.block.parameters():
            parameter.copy_(-parameter.abs() - 1)
        model.stem.bias.fill_(3)
    cams = compute_cams(model, pictures().abs(), ["stem", "block.0"], targets=1)
    assert all((maps == 0).all() for maps in cams.values())


def test_what_could_be_laid_out_in_two_ways_is_said_and_layout_settles_it() -> None:
    class Unknown(nn.Module):
        """Its layer's output has as many channels as rows and columns, and nothing shows which is which."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Identity(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x.reshape(len(x), 4, 4, 4) ** 2).mean((1, 2)))

    torch.manual_seed(0)
    model, x = Unknown(), torch.randn(2, 1, 8, 8)
    with pytest.warns(UserWarning, match="'layer' has the output .*channels first or last; NCHW is assumed. Choose"):
        assert str(compute_cams(model, x, "layer").layouts["layer"]) == "NCHW"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cams = compute_cams(model, x, "layer", layout={"layer": "NHWC"}, targets=1, relu=False)
    weights = model.head.weight.detach()[1]
    torch.testing.assert_close(cams["layer"], (x.reshape(2, 4, 4, 4) ** 2 * weights / 16).sum(3))


class Branches(nn.Module):
    """Two heads; one of them has a convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.side = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head, self.aside = nn.Linear(6, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).relu()
        return {"main": self.head(features.mean((2, 3))), "aside": self.aside(self.side(features).mean((2, 3)))}


def test_auto_follows_what_a_callable_looks_at() -> None:
    model, x = Branches(), torch.rand(3, 1, 8, 8)

    def main(output: dict[str, Tensor]) -> Tensor:
        return output["main"][:, 0]

    def aside(output: dict[str, Tensor]) -> Tensor:
        return output["aside"][:, 0]

    assert [key.layer for key in compute_cams(model, x, targets=main)] == ["body"]
    assert [key.layer for key in compute_cams(model, x, targets=aside)] == ["side"]
    with pytest.raises(CaptureError, match=r"no gradient reaches 'side'.*for instance 'body'"):
        compute_cams(model, x, "side", targets=main)


class Inside(nn.Module):
    """A body that runs in its own `no_grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.conv(x).relu()
        return self.head(features.mean((2, 3)))


@pytest.mark.parametrize("method", ["finercam", "smoothgradcam++", "shapleycam"])
def test_a_method_finds_the_same_alone_and_beside_others(method: str) -> None:
    model, x = Inside().double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    beside = compute_cams(model, x, "conv", methods=["gradcam", method], relu=False)
    alone = compute_cams(model, x, "conv", methods=method, relu=False)
    assert torch.equal(alone["conv"], beside["conv", method, "predicted"])


@pytest.mark.parametrize("gain", [1e-4, 1.0, 1500.0])
@pytest.mark.parametrize("methods", ["hirescam", "guided_backprop"])
def test_float16_neither_flushes_nor_overflows(gain: float, methods: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    with torch.no_grad():
        model[3].weight.mul_(gain)
    x = torch.rand(2, 3, 8, 8)
    (expected,) = compute_cams(model, x, "1", targets=1, methods=methods, relu=False).values()
    (found,) = compute_cams(model.half(), x.half(), "1", targets=1, methods=methods, relu=False).values()
    assert float((found - expected).abs().max()) < 1e-2 * float(expected.abs().max())


def test_an_infinite_map_is_marked_where_its_score_is_finite() -> None:
    class Saturating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(16, 2)
            nn.init.ones_(self.conv.weight)
            nn.init.constant_(self.head.weight, -0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).tanh().flatten(1))

    x = torch.rand(2, 1, 4, 4)
    x[0, 0, 2, 2] = torch.inf
    cams = compute_cams(Saturating(), x, "conv", targets=0, methods=["gradcam", "ablationcam"])
    assert cams.scores["0"].isfinite().all()
    for maps in cams.values():
        assert maps[0].isnan().any()
        assert maps[1].isfinite().all()


@pytest.mark.parametrize("method", ["ablationcam", "scorecam"])
def test_batch_norm_without_running_statistics_sees_the_samples_and_nothing_else(method: str) -> None:
    """Its statistics are the batch's, in evaluation mode too: variants of the batch must not stand in it together."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(252, 3)
    ).double()
    x = pictures()
    with pytest.warns(UserWarning, match="model: '1' do not keep running statistics, so samples influence each other"):
        found = compute_cams(model, x, "0", methods=method, targets=1, relu=False)["0"]
    features, weights = model[0](x).detach(), []
    for channel in range(4):
        if method == "ablationcam":
            other = features.clone()
            other[:, channel] = 0
            weights.append((model(x)[:, 1] - model[1:](other)[:, 1]).detach())
        else:
            mask = nn.functional.interpolate(features[:, channel : channel + 1], x.shape[2:], mode="bilinear")
            low, high = mask.amin((1, 2, 3), keepdim=True), mask.amax((1, 2, 3), keepdim=True)
            weights.append(model(x * (mask - low) / (high - low))[:, 1].detach())
    stacked = torch.stack(weights, 1)
    stacked = stacked.softmax(1) if method == "scorecam" else stacked / model(x)[:, 1:2].detach().abs()
    torch.testing.assert_close(found, (features * stacked[:, :, None, None]).sum(1))


def test_a_single_sample_has_nobody_to_be_influenced_by() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The norm removes the mean over places, which is all that Grad-CAM weighs by.
        warnings.filterwarnings("ignore", ".* blank .* cancels out up to rounding")
        compute_cams(model, torch.rand(1, 1, 5, 5), "0")
