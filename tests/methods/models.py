"""Tiny real models in float64 of every layout, each cut in two at the explained layer, for plain implementations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Cnn(nn.Module):
    """Convolution, batch norm, in-place ReLU, convolution, a ReLU that is a function, pooling and a linear head."""

    def __init__(self, dims: int = 2, channels: int = 4) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.conv1 = conv(1, 3, 3, padding=1)
        self.norm = (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](3)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(3, channels, 3)
        self.last = nn.ReLU()
        self.head = nn.Linear(channels, 5)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def body(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.conv2(self.relu(self.norm(self.conv1(x))))))

    def top(self, a: Tensor) -> Tensor:
        return self.head(a.flatten(2).mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.body(x))


class ChannelsLast(nn.Module):
    """A patch embedding and a block in `[N, h, w, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 2, stride=2)
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 5)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.embed(x).permute(0, 2, 3, 1))

    def top(self, a: Tensor) -> Tensor:
        return self.head((a + F.gelu(self.mix(a))).mean((1, 2)).tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.body(x))


class Attention(nn.Module):
    """Self-attention written out, or by the fused function."""

    def __init__(self, channels: int, heads: int, kind: str) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.heads, self.kind = heads, kind

    def forward(self, x: Tensor) -> Tensor:
        n, length, channels = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) / (channels // self.heads) ** 0.5).softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, length, channels))


class Tokens(nn.Module):
    """A transformer block on patches of 2 by 2 with a class token; the layer is the norm before its attention."""

    def __init__(self, kind: str = "multihead") -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.norm = nn.LayerNorm(6)
        multihead = kind == "multihead"
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True) if multihead else Attention(6, 2, kind)
        self.head = nn.Linear(6, 5)

    def body(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.norm(torch.cat([self.token.expand(len(x), -1, -1), x], 1))

    def top(self, a: Tensor) -> Tensor:
        if isinstance(self.attention, nn.MultiheadAttention):
            y = self.attention(a, a, a, need_weights=False)[0]
        else:
            y = self.attention(a)
        return self.head((a + y)[:, 0].tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.body(x))


@dataclass
class Case:
    """A model, its layer and inputs, and how one sample's raw activation becomes a feature map `[C, *S]` and back."""

    model: Cnn | ChannelsLast | Tokens
    layer: str
    inputs: Tensor
    to_map: Callable[[Tensor], Tensor]
    to_raw: Callable[[Tensor, Tensor], Tensor]


def case(name: str, samples: int = 3) -> Case:
    """Returns one of `CASES`, the same in every call."""
    torch.manual_seed(7)
    model: Cnn | ChannelsLast | Tokens
    if name == "tokens":
        model, shape = Tokens(), (6, 8)
        made = Case(
            model,
            "norm",
            torch.randn(samples, 1, *shape),
            lambda raw: raw[1:].T.reshape(6, 3, 4),
            lambda a, raw: torch.cat([raw[:1], a.flatten(1).T]),
        )
    elif name == "channels last":
        model, shape = ChannelsLast(), (6, 8)
        made = Case(
            model,
            "norm",
            torch.randn(samples, 1, *shape),
            lambda raw: raw.permute(2, 0, 1),
            lambda a, raw: a.permute(1, 2, 0),
        )
    else:
        dims, channels = {"cnn": (2, 4), "3-D": (3, 4), "wide": (2, 40)}[name]
        size = (6, 7) if dims == 2 else (5, 6, 5)
        model = Cnn(dims, channels)
        made = Case(model, "last", torch.randn(samples, 1, *size), lambda raw: raw, lambda a, raw: a)
    model.double().eval()
    made.inputs = made.inputs.double()
    return made


CASES = ("cnn", "3-D", "wide", "channels last", "tokens")
