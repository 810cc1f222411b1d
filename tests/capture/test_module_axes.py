"""The axes of a convolution's output, and of what is made from it, where the picture's proportions mislead."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams, compute_feature_maps, filter_patterns
from lightning_gradcam.capture.layers import is_channels_first
from tests.reference import plain_gradcam


@pytest.fixture(autouse=True)
def without_a_warning() -> Iterator[None]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Standardised(nn.Conv2d):
    """With a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Turned(nn.Conv2d):
    """Channels last, in spite of its class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).permute(0, 2, 3, 1)


class Residual(nn.Module):
    """What it returns is no submodule's own output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, (7, 1), padding=(3, 0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Norm(nn.Module):
    """Channels last, of a class that tells nothing, at proportions that no picture has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(1, 6, (8, 2), (8, 2)), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.embed(x).permute(0, 2, 3, 1))
        return normed**2


def classifier(*layers: nn.Module) -> nn.Sequential:
    """The layers, copied, with a linear head for pictures of 32 x 32."""
    body = deepcopy(nn.Sequential(*layers))
    model = nn.Sequential(*list(body), nn.Flatten(), nn.Linear(body(torch.randn(1, 1, 32, 32)).numel(), 3))
    return model.eval()


# Each gives 32 x 16 places of 32 channels for a picture of 32 x 32, so that channels and rows have its proportions.
WIDE = nn.Conv2d(1, 32, 3, stride=(1, 2), padding=1)
BODIES: dict[str, list[nn.Module]] = {
    "stride": [WIDE],
    "its ReLU": [WIDE, nn.ReLU()],
    "derived": [Standardised(1, 32, 3, stride=(1, 2), padding=1)],
    "transposed": [nn.Conv2d(1, 8, 3, stride=(2, 4), padding=1), nn.ConvTranspose2d(8, 32, 2, stride=2)],
    "kernel of 17 columns": [nn.Conv2d(1, 32, (1, 17))],
    "batch norm": [WIDE, nn.BatchNorm2d(32)],
    "pooling": [nn.Conv2d(1, 32, 3, padding=1), nn.MaxPool2d((1, 2))],
    "upsampling": [nn.Conv2d(1, 32, 3, stride=(2, 4), padding=1), nn.Upsample(scale_factor=2)],
    "container": [nn.Sequential(WIDE, nn.BatchNorm2d(32), nn.ReLU())],
    "residual block": [WIDE, Residual()],
}


@pytest.mark.parametrize("kind", BODIES)
def test_what_a_convolution_gives_has_its_channels_first(kind: str) -> None:
    body = deepcopy(nn.Sequential(*BODIES[kind])).double().eval()
    head = nn.Sequential(nn.Conv2d(32, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 30 * 14, 3)).double()
    model, inputs = nn.Sequential(body, head), torch.randn(3, 1, 32, 32, dtype=torch.float64)
    last = f"0.{len(body) - 1}"
    cams = compute_cams(model, inputs, ["0", last], targets=1)
    expected = plain_gradcam(head, body, inputs, [1, 1, 1])
    assert (expected > 0).any()
    for layer in ("0", last):
        assert str(cams.layouts[layer]) == "NCHW"
        torch.testing.assert_close(cams[layer], expected, rtol=1e-6, atol=0)


def test_a_volume_and_a_second_picture_of_other_proportions() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 32, 1)
            self.head = nn.Linear(40, 2)

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            pooled = [self.left(x).relu().mean((2, 3)), self.right(other).relu().mean((2, 3))]
            scores: Tensor = self.head(torch.cat(pooled, 1))
            return scores

    pair = {"x": torch.randn(2, 1, 24, 24), "other": torch.randn(2, 1, 32, 10)}
    assert tuple(compute_cams(Two(), pair, "right", targets=1, picture=pair["other"])["right"].shape) == (2, 32, 10)
    conv = nn.Conv3d(1, 8, 3, stride=(1, 1, 2), padding=1)
    volume = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8 * 4, 2))
    cams = compute_cams(volume, torch.randn(2, 1, 8, 8, 8), ["0", "1"], targets=1)
    assert [tuple(cams[layer].shape) for layer in ("0", "1")] == [(2, 8, 8, 4)] * 2


def test_auto_feature_maps_and_filter_patterns_read_it_too() -> None:
    model = classifier(WIDE, nn.ReLU())
    inputs = torch.randn(2, 1, 32, 32)
    assert {n: str(found) for n, found in compute_cams(model, inputs, targets=1).layouts.items()} == {"1": "NCHW"}
    maps = compute_feature_maps(model, inputs, ["0", "1"])
    assert [tuple(maps[layer].shape) for layer in ("0", "1")] == [(2, 32, 32, 16)] * 2
    assert str(filter_patterns(model, "0", shape=(1, 32, 32), filters=1, steps=1)["0"].layout) == "NCHW"


def test_channels_last_is_still_believed_where_modules_show_it() -> None:
    assert str(compute_cams(classifier(Norm()), torch.randn(2, 1, 32, 32), "0", targets=1).layouts["0"]) == "NHWC"
    # A derived class whose channels are not where those of its parent are.
    turned = classifier(Turned(1, 20, 4, stride=4))
    assert str(compute_cams(turned, torch.randn(2, 1, 32, 32), "0", targets=1).layouts["0"]) == "NHWC"
    assert not is_channels_first(turned[0], (2, 8, 8, 20))


def test_a_norm_over_channels_and_places_does_not_show_channels_last() -> None:
    model = classifier(nn.Conv2d(1, 6, (8, 2), (8, 2)), nn.LayerNorm([6, 4, 16]), nn.GELU())
    assert str(compute_cams(model, torch.randn(2, 1, 32, 32), "2", targets=1).layouts["2"]) == "NCHW"
