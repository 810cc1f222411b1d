"""Tests of the CAM formulas and their registry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import MethodError, available_methods, compute_cams, register_method
from lightning_gradcam.methods import Method, relu, resolve_methods
from lightning_gradcam.methods import registry as module
from lightning_gradcam.methods.gradients import gradcam
from lightning_gradcam.methods.rerun import Rerun


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REGISTRY", {"gradcam": Method(gradcam)})


def mean_activation(activations: Tensor, gradients: Tensor) -> Tensor:
    return activations.mean(1)


def test_gradcam_by_hand_on_two_by_two() -> None:
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.5, -1.0], [2.0, 0.0]]]], dtype=torch.float64)
    gradients = torch.tensor([[[[0.4, 0.0], [-0.8, 1.2]], [[-2.0, -1.0], [0.0, -1.0]]]], dtype=torch.float64)
    # Channel weights: (0.4 + 0 - 0.8 + 1.2) / 4 = 0.2 and (-2 - 1 + 0 - 1) / 4 = -1.
    expected = [[[0.2 - 0.5, 0.4 + 1.0], [0.6 - 2.0, 0.8 - 0.0]]]
    result = gradcam(activations, gradients)
    assert result.dtype == torch.float64
    assert torch.allclose(result, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
    positive = torch.tensor([[[0.0, 1.4], [0.0, 0.8]]], dtype=torch.float64)
    assert torch.allclose(relu(result), positive, rtol=0, atol=1e-15)


def test_gradcam_treats_samples_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    activations, gradients = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(2))
    together = gradcam(activations, gradients)
    for n in range(3):
        assert torch.allclose(together[n : n + 1], gradcam(activations[n : n + 1], gradients[n : n + 1]))


@pytest.mark.parametrize("places", [(7,), (4, 6), (2, 3, 5)], ids=["1-D", "2-D", "3-D"])
def test_gradcam_takes_any_number_of_spatial_axes(places: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    activations, gradients = (torch.randn(2, 3, *places, generator=generator).double() for _ in range(2))
    result = gradcam(activations, gradients)
    assert result.shape == (2, *places)
    flat = [
        [
            sum(gradients[n, c].mean().item() * activations[n, c].flatten()[s].item() for c in range(3))
            for s in range(activations[0, 0].numel())
        ]
        for n in range(2)
    ]
    assert torch.allclose(result.flatten(1), torch.tensor(flat, dtype=torch.float64), rtol=0, atol=1e-12)


def test_gradcam_takes_tensors_that_are_not_contiguous() -> None:
    activations, gradients = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3)
    turned = gradcam(activations.permute(0, 3, 1, 2), gradients.permute(0, 3, 1, 2))
    plain = gradcam(activations.permute(0, 3, 1, 2).contiguous(), gradients.permute(0, 3, 1, 2).contiguous())
    assert torch.allclose(turned, plain, rtol=1e-5, atol=1e-6)


def test_relu_keeps_what_is_positive_and_nan() -> None:
    result = relu(torch.tensor([-1.0, -0.0, 2.5, float("nan"), float("inf"), float("-inf")]))
    assert result[[0, 1, 2, 4, 5]].tolist() == [0.0, 0.0, 2.5, float("inf"), 0.0]
    assert result[3].isnan()


def test_relu_leaves_its_argument_alone() -> None:
    maps = torch.tensor([-1.0, 1.0])
    relu(maps)
    assert maps.tolist() == [-1.0, 1.0]


def test_gradcam_is_the_first_method() -> None:
    assert available_methods()[0] == "gradcam"


@pytest.mark.usefixtures("registry")
def test_registered_method_is_available_and_found() -> None:
    register_method("mean_act+2", mean_activation)
    assert available_methods() == ("gradcam", "mean_act+2")
    found = resolve_methods("mean_act+2")["mean_act+2"]
    assert (found.function.__wrapped__, found.needs) == (mean_activation, "gradients")  # type: ignore[attr-defined]
    assert list(resolve_methods(["mean_act+2", "gradcam"])) == ["mean_act+2", "gradcam"]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["", "Grad", "grad cam", "grad/cam", "grad-cam", "é", "a.b"])
def test_name_with_other_characters_is_refused(name: str) -> None:
    with pytest.raises(MethodError, match=rf"name: got '{name}'; use lower-case letters, digits, '_' and '\+'"):
        register_method(name, mean_activation)
    assert available_methods() == ("gradcam",)


@pytest.mark.usefixtures("registry")
def test_taken_name_is_refused_and_kept() -> None:
    with pytest.raises(MethodError, match="name: the method 'gradcam' exists already; choose another name"):
        register_method("gradcam", mean_activation)
    assert resolve_methods("gradcam") == {"gradcam": Method(gradcam)}


@pytest.mark.usefixtures("registry")
def test_a_notebooks_cell_that_runs_again_replaces_its_method() -> None:
    register_method("mine", mean_activation)
    with pytest.raises(MethodError, match="'mine' exists already; choose another name, or .* overwrite=True"):
        register_method("mine", lambda activations: -activations.mean(1), needs="activations")
    register_method("mine", lambda activations: -activations.mean(1), needs="activations", overwrite=True)
    assert available_methods() == ("gradcam", "mine")
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(27, 2))
    inputs = torch.rand(2, 1, 5, 5)
    found = compute_cams(model, inputs, "0", methods="mine", relu=False)["0"]
    assert torch.allclose(found, -model[0](inputs).detach().mean(1))
    # What everybody reads as Grad-CAM stays Grad-CAM.
    with pytest.raises(MethodError, match="'gradcam' exists already; choose another name$"):
        register_method("gradcam", mean_activation, overwrite=True)
    register_method("new", mean_activation, overwrite=True)
    assert resolve_methods("gradcam") == {"gradcam": Method(gradcam)}


@pytest.mark.usefixtures("registry")
def test_method_that_can_not_be_called_is_refused() -> None:
    with pytest.raises(MethodError, match="method: got 'gradcam'; pass a function of activations and gradients"):
        register_method("other", "gradcam")  # type: ignore[arg-type]


@pytest.mark.usefixtures("registry")
def test_what_a_method_needs_is_one_of_four() -> None:
    register_method("other", mean_activation, needs="rerun")
    assert resolve_methods("other")["other"].needs == "rerun"
    with pytest.raises(MethodError, match="needs: got 'grads'; valid: 'gradients', 'activations', 'rerun', 'model'"):
        register_method("third", mean_activation, needs="grads")  # type: ignore[arg-type]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ("gradcm", "methods: method 'gradcm' not found; did you mean 'gradcam'\\? available: gradcam"),
        (["gradcam", "zzz"], "methods: method 'zzz' not found; available: gradcam"),
        ([], "methods: got an empty list; available: gradcam"),
        ([3], "methods: method 3 not found; available: gradcam"),
    ],
    ids=str,
)
def test_unknown_method_is_refused_with_the_available(methods: object, text: str) -> None:
    with pytest.raises(MethodError, match=text):
        resolve_methods(methods)  # type: ignore[arg-type]


def test_method_named_twice_is_computed_once() -> None:
    assert list(resolve_methods(["gradcam", "gradcam"])) == ["gradcam"]


@pytest.mark.usefixtures("registry")
def test_a_method_that_works_in_place_leaves_the_others_their_tensors() -> None:
    def destroying(activations: Tensor, gradients: Tensor) -> Tensor:
        return activations.mul_(0).sum(1) + gradients.mul_(0).sum(1)

    def destroying_again(rerun: Rerun) -> Tensor:
        rerun.picture.mul_(0)
        return rerun.activations.mul_(0).sum(1).expand(len(rerun.classes), -1, -1, -1)

    register_method("destroying", destroying)
    register_method("destroying_again", destroying_again, needs="rerun")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(27, 2))
    inputs = torch.rand(2, 1, 5, 5)
    before = inputs.clone()
    alone = compute_cams(model, inputs, "0", relu=False)["0"]
    assert alone.abs().max() > 0
    methods = ["destroying", "destroying_again", "gradcam"]
    cams = compute_cams(model, inputs, "0", methods=methods, targets=["predicted", 0], relu=False)
    assert torch.equal(cams["0", "gradcam", "predicted"], alone)
    assert torch.equal(inputs, before)


@pytest.mark.usefixtures("registry")
def test_a_method_that_returns_no_tensor_is_named() -> None:
    register_method("nothing", lambda activations, gradients: None)  # type: ignore[arg-type, return-value]
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(27, 2))
    with pytest.raises(
        MethodError, match="methods: 'nothing' returned a NoneType; a method must return its maps as one"
    ):
        compute_cams(model, torch.rand(2, 1, 5, 5), "0", methods="nothing")
