"""Video: factored convolutions, tubes of pixels, attention over time and space apart, two rates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.shapes.case import VOLUME, Places, numbers, shape, tokens
from tests.shapes.parts import Attention, Block, token


def clip() -> Tensor:
    """[N, C, T, H, W]."""
    return numbers(2, 3, 8, 32, 32)


@shape("R(2+1)D", clip, {"body": VOLUME})
class Factored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(3, 6, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.ReLU(),
            nn.Conv3d(6, 8, (3, 1, 1), (2, 1, 1), (1, 0, 0)),
            nn.BatchNorm3d(8),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3, 4)))


@shape("two frame rates", clip, {"fast": VOLUME, "slow": VOLUME})
class TwoRates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Sequential(nn.Conv3d(3, 8, (1, 3, 3), (1, 4, 4), (0, 1, 1)), nn.ReLU())
        self.fast, self.head = nn.Sequential(nn.Conv3d(3, 4, 3, (1, 4, 4), 1), nn.ReLU()), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.slow(x[:, :, ::4]).mean((2, 3, 4)), self.fast(x).mean((2, 3, 4))], 1))


class Tubes(nn.Module):
    """Tubes of 2 by 8 by 8 pixels, joint attention."""

    def __init__(self, *, cls: bool = True) -> None:
        super().__init__()
        self.tube, self.cls = nn.Conv3d(3, 12, (2, 8, 8), (2, 8, 8)), token(1, 12) if cls else None
        self.place, self.blocks = token(64, 12), nn.Sequential(Block(12), Block(12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tube(x).flatten(2).transpose(1, 2) + self.place
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.cls is not None else x.mean(1))


TUBES = {"blocks.1.norm1": tokens(4, 4, 4, before=1)}
shape("ViViT, tubelets and a class token", clip, TUBES)(Tubes)


@shape("ViViT, tubelets and their mean", clip, {"norm": tokens(4, 4, 4), "blocks": tokens(4, 4, 4)})
def mean_of_tubes() -> nn.Module:
    return Tubes(cls=False)


@shape("four frames of 4 x 4 locations", lambda: numbers(2, 3, 4, 32, 32), {"norm": tokens(4, 4, 4)})
class FourByFour(nn.Module):
    """Sixty-four tokens, which eight by eight places would give, too."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv3d(3, 12, (1, 8, 8), (1, 8, 8)), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Divided(nn.Module):
    """Attention over time, then over space; tokens [N, T * places, C] between the blocks."""

    def __init__(self, frames: int, places: int) -> None:
        super().__init__()
        self.frames, self.places = frames, places
        self.norm1, self.time, self.norm2, self.space = (
            nn.LayerNorm(12),
            Attention(12),
            nn.LayerNorm(12),
            Attention(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        over_time = self.norm1(x).unflatten(1, (self.frames, self.places)).transpose(1, 2).flatten(0, 1)
        x = x + self.time(over_time).unflatten(0, (n, self.places)).transpose(1, 2).flatten(1, 2)
        over_space = self.norm2(x).unflatten(1, (self.frames, self.places)).flatten(0, 1)
        return x + self.space(over_space).unflatten(0, (n, self.frames)).flatten(1, 2)


@shape("TimeSformer, separate time and space attention", clip, {"norm": tokens(8, 4, 4), "blocks": tokens(8, 4, 4)})
class TimeSformer(nn.Module):
    """A 2-D patch convolution on frames that are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, 12, 8, 8), token(128, 12)
        self.blocks, self.norm = nn.Sequential(Divided(8, 16), Divided(8, 16)), nn.LayerNorm(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.patch(x.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(frames.unflatten(0, (len(x), -1)).flatten(1, 2) + self.place)).mean(1))


SHIFTED = Places("NDHWC", lambda a: a.movedim(-1, 1))


@shape("video, channels last", clip, {"norm": SHIFTED, "mix": SHIFTED})
class VideoLast(nn.Module):
    """As a video Swin hands on its features: [N, T, h, w, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix = nn.Conv3d(3, 12, (2, 8, 8), (2, 8, 8)), nn.Linear(12, 12)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.mix(self.patch(x).movedim(1, -1)).relu()).mean((1, 2, 3)))
