"""Signals of one axis, pictures of sound, and models whose inputs have no places at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.shapes.case import FIRST, SIGNAL, numbers, shape, tokens, words
from tests.shapes.parts import Attention, Block, Text, cnn, token


def leads() -> Tensor:
    """Twelve leads of an electrocardiogram."""
    return numbers(3, 12, 300)


def conv1d(channels: int, width: int = 8, strides: tuple[int, ...] = (2, 2), dilation: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for stride in strides:
        layers += [nn.Conv1d(channels, width, 5, stride, 2 * dilation, dilation), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


class Signal(nn.Module):
    """1-D convolutions, their mean, a linear layer."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.body, self.head = conv1d(channels), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(2))


shape("a twelve-lead ECG", leads, {"body": SIGNAL}, sample=True)(Signal)
shape("a waveform", lambda: numbers(3, 1, 1600), {"body": SIGNAL})(lambda: Signal(1))
# The length is a square: 64 places could be 8 by 8.
shape("a signal whose length is a square number", lambda: numbers(3, 2, 256), {"body": SIGNAL})(lambda: Signal(2))
shape("as many samples as channels", lambda: numbers(8, 8, 64), {"body": SIGNAL})(lambda: Signal(8))
shape("a single signal", lambda: numbers(1, 12, 300), {"body": SIGNAL})(Signal)


@shape("dilated convolutions with residuals", leads, {"blocks.2": SIGNAL, "blocks": SIGNAL})
class Dilated(nn.Module):
    class Block(nn.Module):
        def __init__(self, dilation: int) -> None:
            super().__init__()
            self.conv = conv1d(8, strides=(1,), dilation=dilation)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(12, 8, 1)
        self.blocks, self.head = nn.Sequential(*[self.Block(2**k) for k in range(3)]), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(2))


@shape("1-D convolutions and LSTM", leads, {"body": SIGNAL, "lstm": tokens(75)})
class ConvLstm(nn.Module):
    """The LSTM's steps are the signal's places, so that either is right."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.lstm, self.head = conv1d(12), nn.LSTM(8, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.body(x).transpose(1, 2))[0].mean(1))


STEPS = {"blocks": tokens(30), "norm": tokens(30), "patch": SIGNAL}


@shape("a transformer over signal patches", leads, STEPS)
class SignalTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv1d(12, 12, 10, 10), nn.Sequential(Block(12), Block(12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patch(x).transpose(1, 2))).mean(1))


@shape("a U-Net for signals", leads, {"up": SIGNAL}, target=lambda out: out[:, 1].mean(1))
class SignalUnet(nn.Module):
    """A class for every moment: [N, 3, L]."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom, self.out = conv1d(12, 6, (1,)), conv1d(6, 8, (2,)), nn.Conv1d(6, 3, 1)
        self.up = nn.Sequential(nn.Conv1d(14, 6, 3, 1, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        high = self.down(x)
        return self.out(self.up(torch.cat([high, self.bottom(high).repeat_interleave(2, 2)], 1)))


def spectrogram() -> Tensor:
    return numbers(2, 1, 64, 101)


@shape("a CNN on a spectrogram", spectrogram, {"body": FIRST})
class SoundCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = cnn(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@shape("a spectrogram pooled only along time", spectrogram, {"body": FIRST})
class TimePooled(SoundCnn):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, (1, 4), 1), nn.ReLU())


@shape("a spectrogram transformer", spectrogram, {"blocks.1.norm1": tokens(6, 10, before=2)})
class SoundTransformer(nn.Module):
    """Patches of 14 by 11 that overlap, a class and a distillation token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(1, 12, (14, 11), 10), token(2, 12)
        self.blocks, self.head = nn.Sequential(Block(12), Block(12)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1)
        return self.head(self.blocks(x)[:, :2].mean(1))


@shape("a waveform converted to a spectrogram by the model", lambda: numbers(2, 800), {"body": FIRST})
class Inside(SoundCnn):
    """The model's own short Fourier transform: [N, samples] in, a picture within."""

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(64, dtype=x.dtype)
        return super().forward(torch.stft(x, 64, 16, window=window, return_complex=True).abs()[:, None])


NO_PLACES = ("layers", "auto")


@shape("a table row", lambda: numbers(3, 7), error=NO_PLACES)
def table() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 4))


@shape("table columns as tokens", lambda: numbers(3, 16), error=NO_PLACES)
class TableTokens(nn.Module):
    """Sixteen numbers, a token each: four by four places of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.blocks, self.head = token(16, 12), nn.Sequential(Block(12), Block(12)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x[..., None] * self.weight).mean(1))


@shape("graph nodes", lambda: (numbers(2, 16, 5), numbers(2, 16, 16).sigmoid()), error=NO_PLACES)
class Graph(nn.Module):
    """Sixteen nodes with five numbers each, and their edges."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x = (edges @ self.one(nodes)).relu()
        return self.head((edges @ self.two(x)).relu().mean(1))


@shape("a point cloud", lambda: numbers(2, 3, 64), {"body": SIGNAL}, error=NO_PLACES)
class Points(nn.Module):
    """As PointNet: 1-D convolutions of kernel 1 over 64 points, the largest of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 1)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).amax(2))


@shape("words only", lambda: {"ids": words(3, 16)}, error=("inputs",))
class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.head = Text(), nn.Linear(12, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.text(ids))


@shape("word embeddings", lambda: numbers(3, 16, 12), error=NO_PLACES)
class Embeddings(nn.Module):
    """Sixteen words as [N, 16, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.blocks, self.head = Attention(12), nn.Sequential(Block(12), Block(12)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.attention(x)).mean(1))


@shape("a time series in an LSTM", lambda: numbers(3, 16, 5), error=NO_PLACES, sample=True)
class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])
