"""Models with a part that runs in ``torch.inference_mode``, as a block or a decorator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import CaptureError, compute_cams
from tests.reference import plain_gradcam


class Partly(nn.Module):
    """The stem runs without a graph; so does everything, where `part` is "whole"."""

    def __init__(self, part: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part, self.stem = part, nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.conv, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 3)
        self.double().eval()
        # Torch refuses tensors of inference mode where weights that learn would need them.
        self.conv.requires_grad_(part != "unlearned")

    @torch.inference_mode()
    def decorated(self, x: Tensor) -> Tensor:
        features: Tensor = self.stem(x)
        return features

    def top(self, features: Tensor) -> Tensor:
        scores: Tensor = self.fc(features.tanh().mean((2, 3)))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        if self.part == "decorator":
            return self.top(self.conv(self.decorated(x).clone()))
        with torch.inference_mode():
            features = self.stem(x)
            if self.part == "whole":
                return self.top(self.conv(features))
        return self.top(self.conv(features if self.part == "unlearned" else features.clone()))


def pictures() -> Tensor:
    return torch.randn(2, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("part", ["block", "decorator", "unlearned"])
def test_layers_after_a_part_in_inference_mode_are_explained(part: str) -> None:
    model = Partly(part)
    expected = plain_gradcam(model.top, nn.Sequential(*model.stem, model.conv), pictures(), [1, 1])
    assert (expected > 0).any()
    for layer in ("conv", "auto"):
        cams = compute_cams(model, pictures(), layer, targets=1)
        assert list(cams.layouts) == ["conv"]
        torch.testing.assert_close(cams["conv"], expected, rtol=1e-6, atol=1e-12)
    assert model.conv.weight.requires_grad == (part != "unlearned")


@pytest.mark.parametrize("part", ["block", "decorator"])
@pytest.mark.parametrize("layer", ["stem", "stem.0", "stem.1"])
def test_layers_inside_it_are_refused_with_one_that_works(part: str, layer: str) -> None:
    for layers in (layer, [layer, "conv"]):
        with pytest.raises(CaptureError, match=rf"no gradient reaches '{layer}': .*inference_mode.*instance 'conv'"):
            compute_cams(Partly(part), pictures(), layers, targets=1)
    # What needs no gradient works there, too.
    found = compute_cams(Partly(part), pictures(), layer, targets=1, methods=["eigencam", "scorecam"], relu=False)
    assert all(bool(values.any()) for values in found.values())


def test_a_model_in_inference_mode_as_a_whole_is_refused() -> None:
    for layer in ("auto", "conv"):
        with pytest.raises(CaptureError, match=r"no gradient reaches 'conv': .*torch\.inference_mode"):
            compute_cams(Partly("whole"), pictures(), layer, targets=1)
