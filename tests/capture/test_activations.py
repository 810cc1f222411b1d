"""Hooks inside a `with`: what is stored, what is left, and what goes wrong."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam.capture.activations import capture
from lightning_gradcam.capture.graph import require_gradients
from lightning_gradcam.errors import CaptureError, LayerError
from tests.conftest import TinyNet


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


def test_gradients_equal_those_of_plain_autograd() -> None:
    torch.manual_seed(0)
    body, head = nn.Conv2d(1, 2, 3).double(), nn.Linear(8, 3).double()
    model = nn.Sequential(body, nn.ReLU(inplace=True), nn.Flatten(), head)
    inputs = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    with capture({"0": model[0], "1": model[1]}) as captured:
        gradients = captured.gradients(model(inputs)[:, 1])
        activations = {name: value.detach() for name, value in captured.activations.items()}
    plain = body(inputs).detach().requires_grad_()
    (expected,) = torch.autograd.grad(head(plain.relu().flatten(1))[:, 1].sum(), plain)
    torch.testing.assert_close(gradients["0"], expected, rtol=0, atol=1e-15)
    # The in-place ReLU did not overwrite what the convolution gave.
    assert activations["0"].min() < 0 <= activations["1"].min()
    torch.testing.assert_close(activations["0"], plain.detach())


def test_hooks_tensors_and_grad_mode_are_gone_afterwards_also_after_a_failure() -> None:
    model = TinyNet().eval()
    with pytest.raises(KeyError), capture({"conv1": model.conv1, "conv2": model.conv2}) as captured:
        model(torch.rand(1, 1, 8, 8))
        stored = weakref.ref(captured.activations["conv1"])
        raise KeyError
    assert hooks(model) == 0
    assert stored() is None
    assert torch.is_grad_enabled()


def test_a_half_finished_registration_unwinds() -> None:
    model = TinyNet()
    with pytest.raises(AttributeError), capture({"conv1": model.conv1, "bad": None}):  # type: ignore[dict-item]
        pass
    assert hooks(model) == 0


def test_nothing_below_the_earliest_layer_gets_a_graph() -> None:
    model = TinyNet().eval()
    seen: dict[str, bool] = {}
    handle = model.conv1.register_forward_hook(lambda m, a, out: seen.update(conv1=out.requires_grad))
    with capture({"conv2": model.conv2}) as captured:
        output = model(torch.rand(1, 1, 8, 8))
        assert captured.activations["conv2"].is_leaf
    handle.remove()
    assert seen == {"conv1": False}
    assert output.requires_grad


def test_parameters_get_no_gradient() -> None:
    model = TinyNet().eval()
    with capture({"conv1": model.conv1}) as captured:
        captured.gradients(model(torch.rand(2, 1, 8, 8))[:, 0])
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_and_several_layers_in_one_forward() -> None:
    model = TinyNet().eval().requires_grad_(False)
    with capture({"relu2": model.relu2, "conv1": model.conv1}) as captured:
        gradients = captured.gradients(model(torch.rand(2, 1, 8, 8))[:, 0])
        assert list(captured.activations) == ["relu2", "conv1"]
    assert {name: tuple(g.shape) for name, g in require_gradients(gradients).items()} == {
        "relu2": (2, 3, 6, 6),
        "conv1": (2, 4, 8, 8),
    }


def test_a_module_called_twice_keeps_its_last_activation() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), relu, nn.Conv2d(2, 3, 3), relu)
    with capture({"relu": relu}) as captured:
        model(torch.rand(1, 1, 8, 8))
        assert captured.activations["relu"].shape == (1, 3, 4, 4)


def test_half_precision_gradients_do_not_vanish() -> None:
    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return (self.features(x).flatten(1) * torch.tensor(1e-8).double()).sum(1)

    model = Faint()
    with capture({"features": model.features}) as captured:
        gradient = captured.gradients(model(torch.ones(1, 1, 2, 2, dtype=torch.float16)))["features"]
    assert gradient is not None
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.full((1, 1, 2, 2), 1e-8), rtol=0.05, atol=0)


def test_a_layer_that_is_never_reached_is_named() -> None:
    model = TinyNet().eval()
    spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(
        LayerError, match=r"layers: 'spare' exists, but the forward pass never reached it \(reached: conv1\)"
    ):
        with capture({"spare": spare, "conv1": model.conv1}) as captured:
            model(torch.rand(1, 1, 8, 8))
            _ = captured.activations


class Wrapped(nn.Module):
    """Returns its convolution's output among other things."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.wrap = nn.Conv2d(1, 2, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.conv(x))


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda a: (a, 3), lambda o: o[0]),
        (lambda a: {"size": torch.ones(2), "map": a}, lambda o: o["map"]),
        (lambda a: [None, (torch.arange(3), a)], lambda o: o[1][1]),
    ],
    ids=["tuple", "dict", "nested"],
)
def test_the_feature_map_in_a_tuple_or_dict_is_what_counts(wrap: Any, unwrap: Any) -> None:
    layer = Wrapped(wrap)
    x = torch.rand(2, 1, 5, 5)
    with capture({"layer": layer}) as captured:
        output = layer(x)
        assert type(output) is type(wrap(x))
        (gradient,) = captured.gradients((unwrap(output) ** 2).flatten(1).sum(1)).values()
        activation = captured.activations["layer"].detach()
    assert torch.equal(activation, layer.conv(x))
    assert gradient is not None
    torch.testing.assert_close(gradient, 2 * activation)


@pytest.mark.parametrize(
    ("output", "came"),
    [((torch.arange(3), "x"), "tuple"), (None, "NoneType"), (torch.arange(3), "a tensor of torch.int64")],
)
def test_a_layer_without_a_feature_map_is_named(output: Any, came: str) -> None:
    layer = Wrapped(lambda a: output)
    with pytest.raises(
        LayerError, match=rf"layers: 'pair' \(Wrapped\) returns {came}, not a floating-point feature map"
    ):
        with capture({"pair": layer}):
            layer(torch.rand(1, 1, 4, 4))


def test_a_detached_layer_is_named_with_what_to_do() -> None:
    with pytest.raises(CaptureError, match="no gradient reaches 'stem'.*choose a layer that the score depends on"):
        require_gradients({"stem": None})
