"""Bags of pictures, slices and crops, folded into the batch or one at a time; and volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tests.shapes.case import COVERS_MOST, FIRST, VOLUME, covering_most, folded, numbers, shape, tokens
from tests.shapes.parts import Block, cnn


class AttentionPool(nn.Module):
    """One embedding a bag, by attention over its members."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, members: Tensor) -> Tensor:
        return (self.score(members).softmax(-2) * members).sum(-2)


@shape("attention over a bag of images", lambda: numbers(2, 9, 3, 32, 32), {"cnn": folded(9)}, sample=True)
class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.pool, self.head = cnn(), AttentionPool(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        members = self.cnn(x.flatten(0, 1)).mean((2, 3)).unflatten(0, (-1, x.shape[1]))
        return self.head(self.pool(members))


def tumour(output: Tensor) -> Tensor:
    """The bag's second logit, a ninth of it for each member."""
    return output[0, 1].expand(9) / 9


@shape("one bag with one output row", lambda: numbers(9, 3, 32, 32), {"cnn": FIRST}, target=tumour)
class OneBag(Bags):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.cnn(x).mean((2, 3))))[None]


@shape("slices of a volume", lambda: numbers(2, 1, 6, 32, 32), {"cnn": folded(6)})
class Slices(nn.Module):
    """A 2-D network on every slice of [N, 1, D, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.head = cnn(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        slices = self.cnn(x.transpose(1, 2).flatten(0, 1)).mean((2, 3))
        return self.head(slices.unflatten(0, (len(x), -1)).amax(1))


@shape("five crops, mean over crops", lambda: numbers(2, 5, 3, 24, 24), {"net.0": folded(5)})
class Crops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(cnn(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(0, 1)).unflatten(0, (len(x), -1)).mean(1)


@shape(
    "patches cut out and folded into the batch",
    lambda: numbers(2, 3, 32, 32),
    {"cnn": folded(16), "blocks": tokens(4, 4)},
)
class Patches(nn.Module):
    """Four by four patches, each through the CNN by itself, then a transformer over them."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.blocks, self.head = cnn(strides=(2, 1)), nn.Sequential(Block(8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        members = self.cnn(parts).mean((2, 3)).unflatten(0, (len(x), -1))
        return self.head(self.blocks(members).mean(1))


def volume() -> Tensor:
    return numbers(2, 1, 8, 16, 16)


def conv3d(channels: int, width: int, stride: int | tuple[int, ...] = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(channels, width, 3, stride, 1), nn.ReLU())


@shape("a 3-D CNN", volume, {"body": VOLUME})
class Cnn3d(nn.Module):
    def __init__(self, strides: tuple[int | tuple[int, ...], ...] = (1, 2)) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3d(1, 8, strides[0]), conv3d(8, 8, strides[1]))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3, 4)))


@shape("a 3-D CNN that strides along one axis", volume, {"body": VOLUME})
def one_axis() -> nn.Module:
    return Cnn3d(((1, 2, 1), (1, 2, 1)))


@shape("a 3-D CNN with as many channels as the side length", lambda: numbers(2, 1, 8, 8, 8), {"body": VOLUME})
def like_a_side() -> nn.Module:
    return Cnn3d(((1, 1, 2), 1))


def nothing(output: Tensor) -> Tensor:
    """Class 2, which no place has."""
    return output[:, 2].flatten(1).sum(1) * 0


@shape("a 3-D U-Net", volume, {"up": VOLUME}, target=COVERS_MOST, score=covering_most)
@shape(
    "a 3-D U-Net, a class predicted nowhere",
    volume,
    {"up": VOLUME},
    target={"segment": 2},
    score=nothing,
    warning=("up",),
)
class Unet3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom, self.up = conv3d(1, 6), conv3d(6, 8, 2), conv3d(14, 6)
        self.out = nn.Conv3d(6, 3, 1)
        nn.init.constant_(self.out.bias[2:], -100.0)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down(x)
        return self.out(self.up(torch.cat([high, interpolate(self.bottom(high), scale_factor=2.0)], 1)))


@shape("tokens of a volume", lambda: numbers(2, 1, 8, 16, 16), {"blocks*": tokens(2, 4, 4), "norm": tokens(2, 4, 4)})
class Vit3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv3d(1, 12, 4, 4), nn.Sequential(Block(12), Block(12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patch(x).flatten(2).transpose(1, 2))).mean(1))
