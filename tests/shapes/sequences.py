"""Sequences behind pictures: frames, columns and captions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.shapes.case import FIRST, folded, numbers, sequence_first, shape, tokens, words
from tests.shapes.parts import Block, Text, Vit, cnn, token


def clip() -> Tensor:
    """Two clips of five frames."""
    return numbers(2, 5, 3, 32, 32)


@shape("CNN and LSTM over frames", clip, {"cnn": folded(5)}, sample=True)
class CnnLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.lstm, self.head = cnn(), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.cnn(x.flatten(0, 1)).mean((2, 3)).unflatten(0, (-1, x.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.features(x))[0][:, -1])


@shape("CNN and LSTM, frame axis first", lambda: numbers(5, 2, 3, 32, 32).transpose(0, 1), {"cnn": folded(5)})
class FramesFirst(CnnLstm):
    """The recurrent part wants [T, N, C]; frames are folded clip by clip all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.features(x).transpose(0, 1))[0][-1])


@shape("CNN and a transformer over frames", clip, {"cnn": folded(5)})
class CnnTransformer(CnnLstm):
    def __init__(self) -> None:
        super().__init__()
        self.cls, self.blocks, self.head = token(1, 8), nn.Sequential(Block(8), Block(8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.features(x)], 1)
        return self.head(self.blocks(x)[:, 0])


@shape("CNN run frame by frame, and GRU", clip, {"cnn": FIRST})
class FrameByFrame(CnnLstm):
    """The CNN is called once a frame; the last call is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 12)
        for frame in x.unbind(1):
            state = self.cell(self.cnn(frame).mean((2, 3)), state)
        return self.head(state)


@shape("frames shifted in time", clip, {"second": folded(5), "norm": folded(5)})
class Shifted(CnnLstm):
    """A temporal shift between two 2-D convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.head = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU()), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        f = self.cnn(x.flatten(0, 1)).unflatten(0, (-1, frames))
        f = torch.cat([f[:, :, :4].roll(1, 1), f[:, :, 4:]], 2).flatten(0, 1)
        return self.head(self.second(f).mean((2, 3)).unflatten(0, (-1, frames)).mean(1))


@shape("views of an object, maximum over views", lambda: numbers(2, 6, 3, 32, 32), {"cnn": folded(6)})
class Views(CnnLstm):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).amax(1))


@shape("convolutional LSTM", clip, {"gates": FIRST, "stem": FIRST})
class ConvLstm(nn.Module):
    """Its state is a picture; the last step's gates are explained, or the last frame's stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gates, self.head = cnn(), nn.Conv2d(14, 24, 3, 1, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = memory = x.new_zeros(len(x), 6, 8, 8)
        for frame in x.unbind(1):
            i, f, o, g = self.gates(torch.cat([self.stem(frame), state], 1)).chunk(4, 1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            state = o.sigmoid() * memory.tanh()
        return self.head(state.mean((2, 3)))


def best_path(output: Tensor) -> Tensor:
    """The sum of each step's best letter."""
    return output.amax(2).sum(1)


def text_line() -> Tensor:
    return numbers(2, 1, 16, 64)


# The steps of the LSTM are the columns, so that either is right; the letters are the output itself.
COLUMNS = {"cnn": FIRST, "lstm": tokens(1, 16)}


@shape("CRNN over image columns", text_line, COLUMNS, target=best_path)
class Crnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.lstm = cnn(1, strides=(2, 2)), nn.LSTM(32, 10, bidirectional=True, batch_first=True)
        self.letters = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.letters(self.lstm(self.cnn(x).flatten(1, 2).transpose(1, 2))[0])


@shape("CRNN, column axis first", text_line, COLUMNS, target=lambda output: output.amax(2).sum(0))
class ColumnsFirst(Crnn):
    """As PyTorch's CTC loss wants it: [L, N, classes]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(0, 1)


def best_words(output: Tensor) -> Tensor:
    """The sum of the best words' logits."""
    return output.amax(2).sum(1)


def picture_and_caption() -> dict[str, Tensor]:
    return {"image": numbers(2, 3, 32, 32), "ids": words(2, 16)}


@shape("captioning with an LSTM", picture_and_caption, {"cnn": FIRST}, target=best_words)
class Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.emb, self.lstm = cnn(), nn.Embedding(20, 8), nn.LSTM(8, 12, batch_first=True)
        self.words = nn.Linear(12, 20)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        begin = self.cnn(image).mean((2, 3))[:, None]
        return self.words(self.lstm(torch.cat([begin, self.emb(ids)[:, :-1]], 1))[0])


@shape(
    "captioning with a transformer",
    picture_and_caption,
    {"patch": FIRST, "blocks": tokens(4, 4), "norm": tokens(4, 4)},
    target=best_words,
)
class Transcriber(nn.Module):
    """Sixteen words look at sixteen places."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks, self.norm = nn.Conv2d(3, 12, 8, 8), nn.Sequential(Block(12)), nn.LayerNorm(12)
        self.text, self.decoder, self.words = Text(mean=False), Block(12), nn.Linear(12, 20)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        places = self.norm(self.blocks(self.patch(image).flatten(2).transpose(1, 2)))
        return self.words(self.decoder(self.text(ids), places))


class Encoder(nn.Module):
    """PyTorch's own transformer, sequence first, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, 12, 8, 8), nn.Parameter(torch.randn(16, 1, 12))
        layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patch(x).flatten(2).permute(2, 0, 1) + self.place).mean(0))


SEQUENCE = {"encoder*": sequence_first(4, 4)}
shape("sequence axis first, 3 samples", lambda: numbers(3, 3, 32, 32), SEQUENCE)(Encoder)
shape("sequence axis first, as many samples as locations", lambda: numbers(16, 3, 32, 32), SEQUENCE, sample=True)(
    Encoder
)


FOLDED_TOKENS = folded(5, tokens(4, 4, before=1))


@shape("a ViT per frame, mean over frames", clip, {"vit.*": FOLDED_TOKENS})
class VitOfFrames(nn.Module):
    """Tokens of frames that are folded into the batch: [N * T, 1 + 16, C]; the map is [N, T, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.head = Vit(), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.vit(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1])).mean(1))
