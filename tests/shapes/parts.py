"""Small parts that the models of the sweep are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def cnn(channels: int = 3, width: int = 8, strides: tuple[int, ...] = (2, 2)) -> nn.Sequential:
    """Convolutions with ReLUs."""
    layers: list[nn.Module] = []
    for stride in strides:
        layers += [nn.Conv2d(channels, width, 3, stride, 1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """One head; of the tokens to themselves, or to a context."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        keys, values = self.kv(x if context is None else context).chunk(2, dim=-1)
        shares = (self.q(x) @ keys.transpose(-1, -2) / x.shape[-1] ** 0.5).softmax(-1)
        return self.proj(shares @ values)


class Block(nn.Module):
    """A transformer's block, norms first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), context)
        return x + self.mlp(self.norm2(x))


def token(count: int, width: int) -> nn.Parameter:
    """Learnt tokens."""
    return nn.Parameter(torch.randn(1, count, width))


class Vit(nn.Module):
    """A vision transformer; the class token is read, or without one the mean."""

    def __init__(
        self, patch: int | tuple[int, int] = 8, width: int = 12, depth: int = 2, places: int = 16, *, cls: bool = True
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.cls = token(1, width) if cls else None
        self.place = token(places, width)
        self.blocks, self.norm = nn.Sequential(*[Block(width) for _ in range(depth)]), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x))
        return x[:, 0] if self.cls is not None else x.mean(1)


class Text(nn.Module):
    """A transformer over words; gives their mean, or all of them."""

    def __init__(self, width: int = 12, *, mean: bool = True) -> None:
        super().__init__()
        self.emb, self.blocks, self.mean = nn.Embedding(20, width), nn.Sequential(Block(width), Block(width)), mean

    def forward(self, ids: Tensor) -> Tensor:
        x = self.blocks(self.emb(ids))
        return x.mean(1) if self.mean else x
