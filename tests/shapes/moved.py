"""Places and samples that are not where they seem: turned, mirrored, warped, sorted, or of equal sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, pad

from tests.shapes.case import FIRST, LAST, Places, numbers, shape, tokens
from tests.shapes.parts import Block, cnn


def picture() -> Tensor:
    return numbers(3, 3, 32, 32)


class Seen(nn.Module):
    """A CNN on a picture that has been changed before; the mean, a linear layer."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.body, self.head = cnn(channels), nn.Linear(8, 4)

    def changed(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.changed(x)).mean((2, 3)))


# A map in the picture's own places would do, too, and so would an error.
TURNED = {"body": Places("", lambda a: a.transpose(2, 3))}
MIRRORED = {"body": Places("", lambda a: a.flip(3))}
MOVED = ("body",)


@shape("an image transposed by the model", lambda: numbers(3, 3, 32, 64), TURNED, error=MOVED)
class Turned(Seen):
    def changed(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


@shape("a spectrogram [N, time, frequency], transposed by the model", lambda: numbers(2, 64, 32), TURNED, error=MOVED)
class TurnedSound(Seen):
    def __init__(self) -> None:
        super().__init__(1)

    def changed(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)[:, None]


@shape("an image mirrored by the model", picture, MIRRORED, error=MOVED)
class Mirrored(Seen):
    def changed(self, x: Tensor) -> Tensor:
        return x.flip(3)


@shape("an image and then its mirror image", picture, MIRRORED, error=MOVED)
class BothWays(Seen):
    """The last call sees the mirror image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3))) + self.head(self.body(x.flip(3)).mean((2, 3)))


@shape(
    "an image shifted by the model",
    picture,
    {"body": Places("", lambda a: a.roll((-2, -1), (2, 3)))},
    error=MOVED,
)
class Shifted(Seen):
    """As a Swin that does not shift back."""

    def changed(self, x: Tensor) -> Tensor:
        return x.roll((8, 4), (2, 3))


@shape("a spatial transformer", picture, {"body": FIRST}, warning=MOVED, error=MOVED)
class Warped(Seen):
    """The network shrinks and moves the picture before it looks: a place of the map is another one of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.find = nn.Linear(3, 6)
        self.find.weight.data.mul_(0.1)
        self.find.bias.data.copy_(torch.tensor([0.5, 0.0, 0.4, 0.0, 0.5, -0.4]))

    def changed(self, x: Tensor) -> Tensor:
        theta = self.find(x.mean((2, 3))).unflatten(1, (2, 3))
        return grid_sample(x, affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


@shape("an image cropped by the model", picture, {"body": FIRST}, warning=MOVED, error=MOVED)
class Cropped(Seen):
    def changed(self, x: Tensor) -> Tensor:
        return x[:, :, 16:, 16:]


@shape("a wide border added by the model", picture, {"body": FIRST}, warning=MOVED, error=MOVED)
class Padded(Seen):
    """As a detector fills up to a square."""

    def changed(self, x: Tensor) -> Tensor:
        return pad(x, (0, 32, 0, 32))


@shape(
    "samples sorted by the model", picture, {"body": Places("", lambda a: a[by_brightness().argsort()])}, error=MOVED
)
class Sorted(Seen):
    """The rows of the layer are other samples' than those of the output."""

    def forward(self, x: Tensor) -> Tensor:
        order = x.mean((1, 2, 3)).argsort()
        return super().forward(x[order])[order.argsort()]


def by_brightness() -> Tensor:
    return picture().mean((1, 2, 3)).argsort()


@shape("two views side by side in the batch", picture, error=("layers", "body"))
class TwoViews(Seen):
    """[2 N, C, h, w]: all pictures, then all of them mirrored."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(0)


@shape("a convolution over frequencies", picture, {"body": FIRST}, error=("layers",))
class Frequencies(nn.Module):
    """As a fast Fourier convolution: its locations are frequencies, [N, 16, 8, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spectral, self.head = cnn(), nn.Conv2d(16, 16, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.fft.rfft2(self.body(x))
        real, imaginary = self.spectral(torch.cat([waves.real, waves.imag], 1)).relu().chunk(2, 1)
        return self.head(torch.fft.irfft2(torch.complex(real, imaginary), s=(8, 8)).relu().mean((2, 3)))


class Reversing(nn.Module):
    """A block that reads the tokens from behind."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.flip(1)).flip(1)


REVERSED = {"back.block": Places("", lambda a: a.flip(1).transpose(1, 2).unflatten(2, (4, 4)))}


@shape(
    "tokens in reverse order, layer selected by name",
    picture,
    REVERSED,
    error=("back.block",),
    options=lambda: {"layers": "back.block"},
)
class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.back, self.head = nn.Conv2d(3, 12, 8, 8), Reversing(), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.back(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Tokens(nn.Module):
    """Blocks over tokens [N, 16, C]; of sixteen channels, both axes are as long."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patch, self.blocks, self.head = nn.Conv2d(3, width, 8, 8), nn.Sequential(Block(width)), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


shape("as many channels as tokens", picture, {"blocks": tokens(4, 4)})(Tokens)
shape("as many samples, channels and tokens", lambda: numbers(16, 3, 32, 32), {"blocks": tokens(4, 4)})(Tokens)
CHANNELS_FIRST = Places("NCL:4x4", lambda a: a.unflatten(2, (4, 4)))


@shape("tokens [N, C, L] and 1-D convolutions", picture, {"blocks": CHANNELS_FIRST})
class ChannelsFirst(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, width, 8, 8), nn.Linear(width, 4)
        self.blocks = nn.Sequential(nn.Conv1d(width, width, 3, 1, 1), nn.GELU(), nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patch(x).flatten(2)).relu().mean(2))


@shape("tokens [N, C, L], as many channels as tokens", picture, {"blocks": CHANNELS_FIRST})
def square_channels_first() -> nn.Module:
    return ChannelsFirst(16)


@shape("as many samples and channels as rows and columns", lambda: numbers(8, 3, 32, 32), {"body": FIRST})
def all_equal() -> nn.Module:
    return Seen()


@shape("channels last, all axes equally long", lambda: numbers(8, 3, 32, 32), {"norm": LAST, "linear": LAST})
class AllEqualLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.linear, self.norm = cnn(), nn.Linear(8, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.norm(self.linear(self.body(x).permute(0, 2, 3, 1))).mean((1, 2)).tanh())
