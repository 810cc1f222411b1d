"""Feature maps: what plain hooks see, from any layer and layout, part by part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.compute.feature_maps import compute_feature_maps, feature_maps
from lightning_gradcam.errors import ConfigurationError, LayerError
from lightning_gradcam.guard.model import preserved


class Net(nn.Module):
    """A convolution followed by a ReLU in place, and what has no map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.unused = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(1, 1, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)
        self.lookup = nn.Module()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.relu(self.conv(x))).flatten(1))


class Tokens(nn.Module):
    """Patches of 4 pixels with a class token, as a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1))
        return self.head(tokens.mean(dim=1))


class Last(nn.Module):
    """Channels last, as Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patch(x).permute(0, 2, 3, 1)).mean((1, 2)))


def net() -> Net:
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        model.conv.bias[2] = -100.0  # dead after the ReLU
    return model


def pictures(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_maps_are_the_layers_own_outputs() -> None:
    model, x = net(), pictures()
    found = compute_feature_maps(model, x, ["conv", "relu"])
    before = F.conv2d(x, model.conv.weight, model.conv.bias, padding=1)
    torch.testing.assert_close(found["conv"], before, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["relu"], before.relu(), rtol=0, atol=1e-12)
    assert (found["conv"] < 0).any(), "the ReLU in place must not overwrite what was kept"
    assert list(found) == ["conv", "relu"]
    assert str(found.layouts["relu"]) == "NCHW"
    assert not found["relu"].requires_grad
    assert repr(found) == "FeatureMaps('conv': [5, 6, 6, 20], 'relu': [5, 6, 6, 20])"


def test_a_channel_is_dead_where_it_is_zero_everywhere_on_all_samples() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    x = torch.zeros(2, 3, 2, 2)
    x[1, 0, 1, 1] = 1e-30  # one place of one sample
    x[:, 1] = -1.0
    x[0, 2] = float("nan")
    assert compute_feature_maps(model, x, "0").dead["0"].tolist() == [False, True, False]
    assert compute_feature_maps(model, x, "0", batch_size=1).dead["0"].tolist() == [False, True, False]
    assert compute_feature_maps(model, x[:1], "0").dead["0"].tolist() == [True, True, False]
    found = compute_feature_maps(net(), pictures(), ["conv", "relu"])
    assert found.dead["relu"][2]
    assert not found.dead["relu"].all()
    assert not found.dead["conv"].any()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_parts_give_the_maps_of_the_whole(size: int) -> None:
    model = net()
    whole = compute_feature_maps(model, pictures(), ["conv", "relu"])
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return model(x)

    parts = compute_feature_maps(model, pictures(), ["conv", "relu"], batch_size=size, forward=forward)
    assert max(sizes) <= size
    assert sum(sizes) == 5, "one forward a part"
    for layer, maps in whole.items():
        torch.testing.assert_close(parts[layer], maps, rtol=0, atol=1e-12)
        assert torch.equal(parts.dead[layer], whole.dead[layer])


@pytest.mark.parametrize(
    ("most", "expected"), [(4, (0, 1, 3, 4)), (1, (0,)), (6, tuple(range(6))), (9, tuple(range(6)))]
)
def test_of_many_channels_some_are_chosen_evenly(most: int, expected: tuple[int, ...]) -> None:
    whole = compute_feature_maps(net(), pictures(), "relu")
    some = compute_feature_maps(net(), pictures(), "relu", max_channels=most)
    assert some.chosen["relu"] == expected
    assert torch.equal(some["relu"], whole["relu"][:, list(expected)])
    assert torch.equal(some.dead["relu"], whole.dead["relu"]), "dead ones are counted among all"


def test_tokens_become_maps_without_the_class_token() -> None:
    torch.manual_seed(0)
    model, x = Tokens(), torch.rand(2, 3, 16, 24)
    found = compute_feature_maps(model, x, "block")
    assert str(found.layouts["block"]) == "NLC:1+4x6"
    with torch.no_grad():
        tokens = model.block(torch.cat([model.token.expand(2, -1, -1), model.patch(x).flatten(2).transpose(1, 2)], 1))
    torch.testing.assert_close(found["block"], tokens[:, 1:].transpose(1, 2).reshape(2, 8, 4, 6))


def test_channels_last_become_first() -> None:
    torch.manual_seed(0)
    model, x = Last(), torch.rand(2, 3, 32, 32)
    found = compute_feature_maps(model, x, "norm", max_channels=4)
    with torch.no_grad():
        expected = model.norm(model.patch(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found["norm"], expected[:, [0, 2, 4, 6]])
    said = compute_feature_maps(model, x, "patch", layout={"patch": "NCHW"})
    assert said["patch"].shape == (2, 8, 8, 8)


def test_volumes_keep_their_third_axis() -> None:
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    found = compute_feature_maps(model, torch.rand(2, 1, 3, 6, 8), "1")
    assert found["1"].shape == (2, 4, 3, 6, 8)
    assert found.dead["1"].shape == (4,)


def test_auto_takes_the_layer_of_gradcam() -> None:
    assert list(compute_feature_maps(net(), pictures())) == ["relu"]
    assert list(compute_feature_maps(net(), pictures(), "*o*v")) == ["conv"]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("head", "'head' has no spatial activation"),
        ("pool", "is a single value per channel"),
        ("unused", "the forward pass never reached it"),
        ("lookup", "has no forward of its own"),
        ("cnv", "did you mean 'conv'"),
    ],
)
def test_layers_without_a_map_are_refused(layers: str, said: str) -> None:
    with pytest.raises(LayerError, match=said) as error:
        compute_feature_maps(net(), pictures(), layers)
    assert "layers with a feature map here: conv, relu" in str(error.value)


def test_a_layer_that_returns_no_map_is_refused() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0).long()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.counts = nn.Conv2d(1, 2, 3), Counts()

        def forward(self, x: Tensor) -> Tensor:
            return self.counts(self.conv(x)).float().mean((2, 3))

    with pytest.raises(LayerError, match=r"'counts' \(Counts\) returns a tensor of torch.int64"):
        compute_feature_maps(Model(), torch.rand(2, 1, 6, 6), "counts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"max_channels": 0}, "max_channels: got 0"),
        ({"layout": "NHCW"}, "layout: got 'NHCW'"),
        ({"layout": {"convv": "NCHW"}}, "did you mean 'conv'"),
        ({"layout": {"conv": "NHWC"}}, "whose channels come first"),
        ({"inputs": pictures()[:0]}, "an empty batch"),
        ({"model": 3}, "pass a torch.nn.Module"),
    ],
)
def test_what_can_not_work_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        compute_feature_maps(**{"model": net(), "inputs": pictures(), "layers": "conv", **arguments})


def test_nothing_of_the_model_changes() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(288, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(LayerError):
        compute_feature_maps(model, pictures().float(), ["0", "4"])
    compute_feature_maps(model, pictures().float(), ["0", "2"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_the_last_call_of_a_layer_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)).mean((2, 3))

    model, x = Twice(), torch.rand(2, 2, 5, 5)
    with torch.no_grad():
        expected = model.conv(model.conv(x))
    torch.testing.assert_close(compute_feature_maps(model, x, "conv")["conv"], expected)


def test_half_precision_is_kept_in_float32() -> None:
    found = compute_feature_maps(net().bfloat16(), pictures().bfloat16(), "relu")
    assert found["relu"].dtype == torch.float32


def test_where_memory_does_not_suffice_half_as_many_are_taken() -> None:
    model, x, sizes = net(), pictures(), []

    def greedy(values: Tensor) -> Tensor:
        sizes.append(len(values))
        if len(values) > 2:
            raise torch.cuda.OutOfMemoryError("no memory")
        return model(values)

    with preserved(model):
        found = feature_maps(model, "relu", Inputs(x).part, 5, run=greedy, device="cpu")
        assert sizes == [5, 3, 2, 2, 1]
        with pytest.raises(torch.cuda.OutOfMemoryError):
            feature_maps(model, "relu", Inputs(x).part, 5, run=greedy, halve=False)
    assert torch.equal(found["relu"], compute_feature_maps(model, x, "relu", batch_size=2)["relu"])


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 can't leave compilation out")
def test_a_compiled_model_is_looked_at_too() -> None:
    model = net()
    compiled = torch.compile(model, backend="eager")
    compiled(pictures())
    found = compute_feature_maps(compiled, pictures(), "relu")
    assert torch.equal(found["relu"], compute_feature_maps(net(), pictures(), "relu")["relu"])
