"""Which layer is explained where none is named, and how activations are laid out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_gradcam import LayerError
from lightning_gradcam.layout import picture_size
from lightning_gradcam.survey import Survey, mixed
from tests.conftest import TinyNet
from tests.test_layers import Nested


def auto(model: nn.Module, *shape: int) -> list[str]:
    model.eval()
    survey = Survey(
        model, lambda: model(torch.rand(2, *shape)), samples=2, picture=picture_size(torch.rand(2, *shape)), given={}
    )
    return [survey.auto(mixed)]


def test_auto_takes_the_last_spatial_output_of_a_cnn() -> None:
    assert auto(TinyNet(), 1, 8, 8) == ["relu2"]


def test_auto_names_the_container_of_the_last_feature_map() -> None:
    assert auto(Nested(), 1, 8, 8) == ["body.layer2"]


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("vgg11", "features.19")])
def test_auto_on_a_torchvision_model_is_its_last_feature_map(name: str, layer: str) -> None:
    with torch.device("meta"):  # shapes alone: the weights would take seconds to draw
        model = torchvision.models.get_model(name)
        assert auto(model, 3, 64, 64) == [layer]
    assert "Pool" not in type(model.get_submodule(layer)).__name__


@pytest.mark.parametrize(
    "last",
    [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.Dropout(0.5), nn.Dropout2d(0.5), nn.Identity(),
     nn.ZeroPad2d(1), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1)],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_auto_passes_over_what_only_hands_on(last: nn.Module) -> None:
    features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), last)
    assert auto(nn.Sequential(features, nn.Flatten(), nn.LazyLinear(2)), 1, 9, 9) == ["0.1"]


def test_auto_goes_by_the_order_of_the_forward() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = nn.Conv2d(1, 1, 1)
            self.early = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.late(self.early(x)).flatten(1)

    assert auto(Backwards(), 1, 4, 4) == ["late"]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)), (1, 4, 4)),
        (nn.Sequential(nn.Conv2d(1, 2, 4), nn.ReLU(), nn.Flatten()), (1, 4, 4)),
        (nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()), (1, 9)),
    ],
    ids=["linear", "one place", "1-D"],
)
def test_auto_without_a_feature_map_is_refused(model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(LayerError, match=r"'auto' found no layer whose output is a feature map .*name the layer"):
        auto(model, *shape)


def raises() -> None:
    raise RuntimeError("no")


@pytest.mark.parametrize("forward", [lambda: None, raises], ids=["done", "failed"])
def test_auto_leaves_no_hook(forward: Callable[[], Any]) -> None:
    model = TinyNet()
    with pytest.raises((LayerError, RuntimeError)):
        Survey(model, forward, samples=2, picture=(8, 8), given={}).auto(mixed)
    assert not any(module._forward_hooks for module in model.modules())
