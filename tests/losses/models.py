"""Tiny networks whose maps can be differentiated twice, one for each layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Smooth(nn.Module):
    """Two convolutions for `[N, 1, 6, 6]`, without kinks: `conv` gives maps of 6x6 places, `head.0` of 2x2."""

    def __init__(self, norm: bool = True, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.act = nn.Softplus()
        self.head = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(8, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.conv(x))))


class Tokens(nn.Module):
    """A transformer block over 3x3 patches of `[N, 1, 9, 9]` and a class token; `block` gives `[N, 10, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 3, stride=3)
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.last = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.last(self.block(tokens))[:, 0])


class Signal(nn.Module):
    """For `[N, 2, 12]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(2, 4, 3, stride=2, padding=1), nn.Softplus())
        self.head = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x))


class Volume(nn.Module):
    """For `[N, 1, 4, 6, 6]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv3d(1, 2, 3, stride=(1, 2, 2), padding=1), nn.Softplus())
        self.head = nn.Sequential(nn.Conv3d(2, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x))


def batch(*shape: int, dtype: torch.dtype = torch.float64, samples: int = 4) -> tuple[Tensor, Tensor]:
    """Pictures `[samples, *shape]` and their labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(samples, *shape, generator=generator, dtype=dtype), torch.arange(samples) % 3


def halves(*shape: int, samples: int = 4) -> Tensor:
    """Masks of the first half of the last axis; the last sample has none."""
    masks = torch.zeros(samples, *shape, dtype=torch.bool)
    masks[..., : shape[-1] // 2] = True
    masks[-1] = False
    return masks


def differences(value: Callable[[], Tensor], parameter: Tensor, places: Tensor, step: float = 1e-5) -> Tensor:
    """The slope of a value with respect to some entries of a parameter, by central differences."""
    found, data = [], parameter.data.view(-1)
    for place in places.tolist():
        before = float(data[place])
        data[place] = before + step
        above = float(value().detach())
        data[place] = before - step
        below = float(value().detach())
        data[place] = before
        found.append((above - below) / (2 * step))
    return torch.tensor(found, dtype=parameter.dtype)
