"""Our numbers against those of the most used CAM library, before its normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference import apply

# At the top: what it imports changes environment variables, which no test may do.
peers = pytest.importorskip("pytorch_grad_cam", reason="the extra [dev] is not installed")


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("gradcam", "GradCAM"),
        ("gradcam++", "GradCAMPlusPlus"),
        ("xgradcam", "XGradCAM"),
        ("hirescam", "HiResCAM"),
        ("layercam", "LayerCAM"),
        ("gradcam_elementwise", "GradCAMElementWise"),
        ("eigencam", "EigenCAM"),
        ("eigengradcam", "EigenGradCAM"),
    ],
)
def test_method_equals_pytorch_grad_cams_before_its_normalisation(name: str, peer: str) -> None:
    """Its Grad-CAM++ and XGrad-CAM add 1e-6 and 1e-7 to denominators, so those near zero are kept out of here.

    Its Eigen-CAM leaves the component's sign to chance, so those are compared up to the sign; ours is fixed.
    """
    generator = torch.Generator().manual_seed(1)
    activations = torch.rand(2, 6, 5, 4, generator=generator) + 0.1
    gradients = torch.randn(2, 6, 5, 4, generator=generator)
    if name == "gradcam++":
        gradients = gradients.abs() + 0.1
    class_ = getattr(peers, peer)
    cam = class_.__new__(class_)
    expected = cam.get_cam_image(None, None, None, activations.numpy(), gradients.numpy(), False)
    found = apply(name, activations, gradients).numpy()
    if name.startswith("eigen"):
        signs = np.sign((found * expected).sum((1, 2), keepdims=True))
        expected = expected * signs
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
