"""Which axis holds the channels where all sides are as long: followed through permutations, or a warning."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams
from tests.shapes.case import numbers


class Block(nn.Module):
    """As ConvNeXt's: linear layers, channels last, between permutations; the way back in one of several ways."""

    def __init__(self, back: str) -> None:
        super().__init__()
        self.conv, self.mlp, self.back = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Linear(8, 8), back
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.conv(x).permute(0, 2, 3, 1)).relu()
        if self.back == "permute":
            return x + self.scale * y.permute(0, -1, 1, 2)
        if self.back == "transpose":
            return x + self.scale * y.transpose(2, -1).transpose(-3, 2)
        if self.back == "flattened":
            return (x + y.permute(0, 3, 1, 2)).flatten(2).unflatten(2, (8, 8))
        return (x.permute(0, 2, 3, 1) + y).contiguous()


class Model(nn.Module):
    def __init__(self, back: str) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 4, 4), Block(back), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((1, 2) if self.block.back == "last" else (2, 3)))


@pytest.mark.parametrize("back", ["permute", "transpose", "last"])
@pytest.mark.parametrize("layer", ["block", "auto"])
def test_channels_are_followed_through_permutations(back: str, layer: str) -> None:
    torch.manual_seed(0)
    model, x = Model(back).double().eval(), numbers(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "layers: ")
        cams = compute_cams(model, x, layer, targets=1, relu=False)
    a = model.block(model.stem(x)).detach()
    channels, places = (-1, (1, 2)) if back == "last" else (1, (2, 3))
    a.requires_grad_()
    (g,) = torch.autograd.grad(model.head(a.mean(places))[:, 1].sum(), a)
    expected = (g.mean(places, keepdim=True) * a).sum(channels)
    assert next(iter(cams)).layer == "block"
    torch.testing.assert_close(cams["block"], expected.detach(), rtol=1e-6, atol=1e-12)


def test_where_nothing_shows_the_channels_a_warning_asks() -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="'block' has the output .* channels first or last"):
        compute_cams(Model("flattened").double().eval(), numbers(2, 3, 32, 32), "block", targets=1)
