"""Our numbers against those of other CAM libraries, through their own hooks and backwards, before they normalise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams
from lightning_gradcam.methods import input_space as pictures

pytestmark = pytest.mark.parity

# At the top: what they import changes environment variables, which no test may do.
grad_cam = pytest.importorskip("pytorch_grad_cam", reason="grad-cam, of the extra [dev], is not installed")
captum = pytest.importorskip("captum.attr", reason="captum, of the extra [dev], is not installed")
torchcam = pytest.importorskip("torchcam.methods", reason="torchcam, of the extra [dev], is not installed")
model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

CLASSES = [1, 4, 2]


class Net(nn.Module):
    """Convolutions with batch norm at the input's size, pooling and a linear head; all scores are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.relu, self.last = nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv1(x)))
        return self.head(self.last(self.conv2(x)).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(4)
    model = Net()
    nn.init.uniform_(model.norm.running_mean, -0.2, 0.2)
    nn.init.uniform_(model.norm.running_var, 0.5, 1.5)
    nn.init.uniform_(model.norm.weight, 0.5, 1.5)
    nn.init.uniform_(model.norm.bias, -0.5, 0.5)
    model.head.bias.data += 2
    return model.eval()


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(3, 3, 9, 8, generator=torch.Generator().manual_seed(1)) + 0.1


def ours(model: nn.Module, inputs: Tensor, method: str, **options: Any) -> Any:
    options = {"targets": {"per_probe": CLASSES}, "relu": False, **options}
    (maps,) = compute_cams(model, inputs, "last", methods=method, **options).values()
    return maps.numpy()


def close(found: Any, expected: Any) -> None:
    expected = expected.detach().numpy() if isinstance(expected, Tensor) else expected
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


# ---- pytorch-grad-cam


def theirs(class_: Any, model: Net, inputs: Tensor, **options: Any) -> Any:
    """Runs the whole of pytorch-grad-cam, and keeps the map that it would normalise next."""
    cam, kept = class_(model, [model.last], **options), []
    base = getattr(cam, "base_cam", cam)
    original = base.get_cam_image

    def keep(*arguments: Any) -> Any:
        kept.append(original(*arguments))
        return kept[-1]

    base.get_cam_image = keep
    targets = [model_targets.ClassifierOutputTarget(index) for index in CLASSES]
    cam(inputs.clone(), targets)
    base.activations_and_grads.release()
    return kept[-1]


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("gradcam", "GradCAM"),
        ("xgradcam", "XGradCAM"),
        ("hirescam", "HiResCAM"),
        ("layercam", "LayerCAM"),
        ("gradcam_elementwise", "GradCAMElementWise"),
        ("scorecam", "ScoreCAM"),
        ("ablationcam", "AblationCAM"),
        ("shapleycam", "ShapleyCAM"),
    ],
)
def test_pytorch_grad_cam(method: str, peer: str, net: Net, inputs: Tensor) -> None:
    """Its Score-CAM resizes with aligned corners, so it is compared at a layer of the input's size.

    Its Ablation-CAM divides by the score itself, which turns the map over where the score is negative; ours divides by
    the magnitude. Here all scores are positive.
    """
    assert net(inputs).min() > 0
    close(ours(net, inputs, method), theirs(getattr(grad_cam, peer), net, inputs))


def test_pytorch_grad_cams_gradcam_plus_plus_differs_by_its_epsilon_alone(net: Net, inputs: Tensor) -> None:
    """It adds 1e-6 to the denominator, which matters as gradients are of that size; larger ones make it vanish."""
    net.head.weight.data *= 1e4
    close(ours(net, inputs, "gradcam++"), theirs(grad_cam.GradCAMPlusPlus, net, inputs))


@pytest.mark.parametrize(("method", "peer"), [("eigencam", "EigenCAM"), ("eigengradcam", "EigenGradCAM")])
def test_pytorch_grad_cams_components_up_to_their_sign(method: str, peer: str, net: Net, inputs: Tensor) -> None:
    """It leaves the component's sign to the decomposition's chance; ours turns the largest magnitude positive."""
    expected = theirs(getattr(grad_cam, peer), net, inputs)
    found = ours(net, inputs, method)
    signs = np.sign((found * expected).sum((1, 2), keepdims=True))
    assert (np.abs(found).max((1, 2)) == found.max((1, 2))).all()
    close(found, expected * signs)


def test_pytorch_grad_cams_finer_cam(net: Net, inputs: Tensor) -> None:
    """With its own choice of classes: the predicted one against the three with the nearest logits."""
    cam, kept = grad_cam.FinerCAM(net, [net.last]), []
    original = cam.base_cam.get_cam_image
    cam.base_cam.get_cam_image = lambda *a: kept.append(original(*a)) or kept[-1]
    cam(inputs.clone())
    close(ours(net, inputs, "finercam", targets="predicted"), kept[-1])


def test_pytorch_grad_cams_fullgrad(net: Net, inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It scales each channel on its own, where FullGrad's authors scale a layer's channels together: so do we here.

    And it adds 1e-7 to what it divides by, which larger gradients make vanish.
    """

    def each_channel(maps: Tensor) -> Tensor:
        low, high = maps.amin((3, 4), keepdim=True), maps.amax((3, 4), keepdim=True)
        return ((maps - low) / (high - low)).nan_to_num()

    monkeypatch.setattr(pictures, "scaled_maps", each_channel)
    net.head.weight.data *= 1e4
    cam = grad_cam.FullGrad(net, [])
    kept = []
    original = cam.compute_cam_per_layer
    cam.compute_cam_per_layer = lambda *a: kept.append(original(*a)) or kept[-1]
    cam(inputs.clone(), [model_targets.ClassifierOutputTarget(index) for index in CLASSES])
    close(ours(net, inputs, "fullgrad"), kept[-1][:, 0])


# ---- captum


def test_captums_layer_gradcam(net: Net, inputs: Tensor) -> None:
    close(ours(net, inputs, "gradcam"), captum.LayerGradCam(net, net.last).attribute(inputs, CLASSES)[:, 0])


def test_captums_guided_backprop_and_guided_gradcam(net: Net, inputs: Tensor) -> None:
    """Ours sums over the colour channels, which it returns apart."""
    net.head.weight.data *= 1e4
    guided = captum.GuidedBackprop(net).attribute(inputs.clone(), CLASSES)
    close(ours(net, inputs, "guided_backprop"), guided.sum(1))
    product = captum.GuidedGradCam(net, net.last).attribute(inputs.clone(), CLASSES, interpolate_mode="bilinear")
    close(ours(net, inputs, "guided_gradcam"), product.sum(1))


# ---- torch-cam


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("cam", "CAM"),
        ("gradcam", "GradCAM"),
        ("xgradcam", "XGradCAM"),
        ("layercam", "LayerCAM"),
        ("scorecam", "ScoreCAM"),
    ],
)
def test_torch_cam(method: str, peer: str, net: Net, inputs: Tensor) -> None:
    options: dict[str, Any] = {"fc_layer": "head"} if peer == "CAM" else {}
    with getattr(torchcam, peer)(net, "last", **options) as extractor:
        extractor._relu = False
        (expected,) = extractor(CLASSES, net(inputs.clone().requires_grad_()), normalized=False)
    close(ours(net, inputs, method), expected)


def test_torch_cams_gradcam_plus_plus_forgets_its_denominator(net: Net, inputs: Tensor) -> None:
    """A mistake of torch-cam 0.5: `alpha[idx][mask].div_(…)` divides a copy, so its weights are those before it.

    What it gives is reproduced here, so that the day it is mended this test says so.
    """
    net.head.weight.data *= 1e2
    with torchcam.GradCAMpp(net, "last") as extractor:
        extractor._relu = False
        (expected,) = extractor(CLASSES, net(inputs.clone().requires_grad_()), normalized=False)
    activations = net.last(net.conv2(net.relu(net.norm(net.conv1(inputs))))).detach().requires_grad_()
    scores = net.head(activations.mean((2, 3)))[torch.arange(3), CLASSES]
    (g,) = torch.autograd.grad(scores.sum(), activations)
    undivided = ((g**2 * g.relu()).sum((2, 3), keepdim=True) * activations).sum(1)
    close(undivided.detach().numpy(), expected)
    found = ours(net, inputs, "gradcam++")
    assert not np.allclose(found / found.max(), expected.numpy() / expected.max().item(), rtol=0.1)


def test_torch_cams_smooth_gradcam_plus_plus_without_noise(net: Net, inputs: Tensor) -> None:
    """With noise it can't be compared: it takes the first derivative of the last noisy copy alone, not the mean.

    That is a mistake of its: equation 9 of the paper averages the first derivative like the second and third.
    """
    net.head.weight.data *= 1e4
    with torchcam.SmoothGradCAMpp(net, "last", num_samples=2, std=1e-12) as extractor:
        extractor._relu = False
        net(inputs)
        (expected,) = extractor(CLASSES, net(inputs.clone().requires_grad_()), normalized=False)
    close(ours(net, inputs, "gradcam++"), expected)
    # Behind a linear head noise changes no gradient, so our smooth map is the same.
    close(ours(net, inputs, "smoothgradcam++"), expected)
