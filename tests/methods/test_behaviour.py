"""What holds for every method of the registry: nothing is disturbed, nothing is hidden, nothing is run twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import available_methods, compute_cams
from lightning_gradcam.methods import resolve_methods
from tests.conftest import TinyNet
from tests.guard.test_model import assert_same, everything
from tests.methods.models import Cnn, Tokens, case

# A docstring's example registers "mean_activation".
METHODS = [name for name in available_methods() if name not in ("mean_activation", "sizes")]
PURE = [name for name in METHODS if resolve_methods(name)[name].needs in ("gradients", "activations")]


def setting(method: str) -> tuple[nn.Module, str, Tensor]:
    """A model and layer on which the method works."""
    torch.manual_seed(2)
    if method == "legrad":
        return Tokens(), "attention", torch.randn(3, 1, 6, 8)
    return Cnn(), "last", torch.randn(3, 1, 7, 6)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_all_random_numbers_are_untouched(method: str) -> None:
    model, layer, x = setting(method)
    model.train()
    model(x).sum().backward()
    before, random, picture = everything(model), torch.get_rng_state(), x.clone()
    first = compute_cams(model, x, layer, methods=method, targets=["predicted", 1])
    assert_same(before, everything(model))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, picture)
    again = compute_cams(model, x, layer, methods=method, targets=["predicted", 1])
    assert all(torch.equal(again[key], value) for key, value in first.items()), "the same in every call"
    assert not any(value.requires_grad for value in first.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_untouched_when_the_method_fails(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer, x = setting(method)
    model.train()
    before = everything(model)
    calls = []

    def failing(output: Tensor) -> Tensor:
        calls.append(1)
        # Pure methods ask once; those that run the model again fail on the way.
        if method in PURE or len(calls) > 1:
            raise RuntimeError("on purpose")
        return output[:, 0]

    target: Any = failing
    if method == "finercam":
        target, calls = {"output": 0}, [1]
    with pytest.raises((RuntimeError, ValueError)):
        compute_cams(model, x, layer, methods=method, targets=target)
    assert_same(before, everything(model))


class Poison(nn.Module):
    """Passes on what it gets; one place of the second sample is not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % 3 == 0:
            x = x.clone()
            # Of the batch and of every copy of it.
            x[1::3].flatten(1)[:, 3] = self.value
        return x


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_activations_that_are_not_finite_mark_their_own_map_alone(method: str, value: float) -> None:
    model, layer, x = setting(method)
    clean = compute_cams(model, x, layer, methods=method, targets=1, relu=False)
    if isinstance(model, Cnn):
        model.relu = nn.Sequential(nn.ReLU(), Poison(value))  # type: ignore[assignment]
    else:
        assert isinstance(model, Tokens)
        model.norm = nn.Sequential(model.norm, Poison(value))  # type: ignore[assignment]
    found = compute_cams(model, x, layer, methods=method, targets=1, relu=False)
    for key, maps in found.items():
        assert not maps[1].isfinite().all(), f"{method} hides it"
        torch.testing.assert_close(maps[[0, 2]], clean[key][[0, 2]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("samples", [1, 5])
def test_samples_do_not_mix(method: str, samples: int) -> None:
    model, layer, _ = setting(method)
    x = torch.randn(samples, 1, 6, 8)
    together = compute_cams(model, x, layer, methods=method, targets=2, relu=False)
    # What Smooth Grad-CAM++ draws depends on a sample's place.
    for place in range(1 if method == "smoothgradcam++" else samples):
        alone = compute_cams(model, x[place : place + 1], layer, methods=method, targets=2, relu=False)
        for key, maps in together.items():
            torch.testing.assert_close(alone[key][0], maps[place], rtol=1e-4, atol=1e-5)


def test_five_methods_four_layers_and_three_targets_cost_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    forwards, backwards = [], []
    original = torch.autograd.grad

    def counted(*args: Any, **options: Any) -> Any:
        backwards.append(1)
        return original(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    model = TinyNet().eval()
    model.conv1.register_forward_hook(lambda *a: forwards.append(1))
    methods = ["gradcam", "gradcam++", "xgradcam", "eigencam", "layercam"]
    layers = ["conv1", "relu1", "conv2", "relu2"]
    cams = compute_cams(model, torch.rand(2, 1, 8, 8), layers, methods=methods, targets=["predicted", 0, 1])
    assert len(cams) == 60
    assert (len(forwards), len(backwards)) == (1, 3)


def test_methods_without_gradients_take_no_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **options: Any) -> Any:
        raise AssertionError("no gradient is needed")

    monkeypatch.setattr(torch.autograd, "grad", refused)
    made = case("cnn")
    methods = ["eigencam", "random", "scorecam", "ablationcam"]
    assert len(compute_cams(made.model, made.inputs, "last", methods=methods)) == 4


def test_score_and_ablation_run_the_channels_of_all_targets_in_batches() -> None:
    sizes = []
    made = case("wide")
    made.model.conv1.register_forward_hook(lambda m, a, o: sizes.append(len(o)))  # type: ignore[union-attr]
    compute_cams(made.model, made.inputs, "last", methods=["scorecam", "ablationcam"], targets=["predicted", 1, 2])
    # 40 channels of 3 samples: 10 variants a forward, four forwards a method, after the first one.
    assert sizes == [3, *[30] * 4, *[30] * 4]
