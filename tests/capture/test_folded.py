"""Frames, slices and patches that a model folds into the batch: which rows are whose, and what is explained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import LayerError, compute_cams


class Frames(nn.Module):
    """A CNN on every frame, and an LSTM over them."""

    def __init__(self, order: str = "NT", channels_first: bool = False) -> None:
        super().__init__()
        self.order, self.channels_first = order, channels_first
        self.cnn = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2) if self.channels_first else x
        n, t = frames.shape[:2]
        swapped = self.order == "TN"
        rows = self.cnn((frames.transpose(0, 1) if swapped else frames).flatten(0, 1)).mean((2, 3))
        sequence = rows.view(t, n, -1).transpose(0, 1) if swapped else rows.view(n, t, -1)
        return self.head(self.lstm(sequence)[0][:, -1])


class Shifted(nn.Module):
    """Frames look at their neighbours between two folded convolutions, as in a temporal shift module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        rows = self.stem(x.flatten(0, 1)).relu()
        mixed = rows.view(n, t, *rows.shape[1:])
        rows = self.block((mixed + mixed.roll(1, 1) + mixed.roll(-1, 1)).flatten(0, 1)).relu()
        return self.head(rows.mean((2, 3)).view(n, t, -1).square().mean(1))


class Slices(nn.Module):
    """Every slice [H, W] of a volume by itself, the strongest counts."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.head = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        return self.head(self.cnn(x.reshape(n * t, 1, *x.shape[2:])).mean((2, 3)).view(n, t, -1).amax(1))


class Bag(nn.Module):
    """Attention over the patches of one bag, whose axis it squeezes away."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.gate, self.head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), nn.Linear(6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.cnn(x.squeeze(0)).mean((2, 3))
        return self.head((self.gate(rows).softmax(0) * rows).sum(0, keepdim=True))


def reference(model: Any, layer: str, x: Tensor, shape: tuple[int, int], order: str) -> Tensor:
    """Grad-CAM of each row by itself, the rows put where their frames are."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2]))
    score = model(x)[:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    rows = (kept[0] * gradient.mean((2, 3), keepdim=True)).sum(1).detach()
    n, t = shape
    return rows.view(t, n, *rows.shape[1:]).transpose(0, 1) if order == "TN" else rows.view(n, t, *rows.shape[1:])


@pytest.mark.parametrize(
    ("model", "shape", "layer", "order", "axes"),
    [
        (Frames("NT"), (3, 5, 3, 16, 16), "cnn", "NT", "NTCHW"),
        (Frames("TN"), (3, 5, 3, 16, 16), "cnn", "TN", "NTCHW"),
        # As many frames as samples, and as many as channels: the shape tells nothing.
        (Frames("NT"), (3, 3, 3, 16, 16), "cnn", "NT", "NTCHW"),
        (Frames("TN"), (3, 3, 3, 16, 16), "cnn", "TN", "NTCHW"),
        (Frames("NT", channels_first=True), (3, 3, 3, 16, 16), "cnn", "NT", ""),
        (Frames("TN", channels_first=True), (3, 3, 5, 16, 16), "cnn", "TN", ""),
        (Shifted(), (3, 6, 3, 12, 14), "block", "NT", "NTCHW"),
        (Slices(), (3, 7, 12, 14), "cnn", "NT", "NTHW"),
    ],
)
def test_rows_are_put_where_their_frames_are(
    model: nn.Module, shape: tuple[int, ...], layer: str, order: str, axes: str
) -> None:
    torch.manual_seed(0)
    model, x = model.double().eval(), torch.randn(shape, dtype=torch.float64)
    frames = shape[1] if axes else shape[2]
    expected = reference(model, layer, x, (3, frames), order)
    for layers in ("auto", layer):
        cams = compute_cams(model, x, layers, targets=1, relu=False)
        assert (str(cams.layouts[layer]), cams.axes) == (f"({order})CHW", axes)
        torch.testing.assert_close(cams[layer], expected, rtol=1e-6, atol=0)
    # One sample shows no order; the parts before it have.
    parts = compute_cams(model, x, layer, targets=1, relu=False, batch_size=2)
    torch.testing.assert_close(parts[layer], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [1, 3])
def test_bags_are_explained_one_at_a_time_where_the_model_takes_one(count: int) -> None:
    torch.manual_seed(0)
    model, x = Bag().double().eval(), torch.randn(count, 6, 3, 9, 9, dtype=torch.float64)
    expected = torch.cat([reference(model, "cnn", bag[None], (1, 6), "NT") for bag in x])
    torch.testing.assert_close(compute_cams(model, x, targets=1, relu=False)["cnn"], expected, rtol=1e-6, atol=0)


def test_tokens_of_each_frame() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x.flatten(0, 1)).flatten(2).transpose(1, 2)
            tokens = self.norm(torch.cat([tokens.new_zeros(len(tokens), 1, 6), tokens], 1))
            return self.head(tokens.mean(1).view(*x.shape[:2], -1).mean(1))

    model, x = Tokens().double().eval(), torch.randn(2, 5, 3, 16, 12, dtype=torch.float64)
    cams = compute_cams(model, x, "norm", targets=1, methods="hirescam", relu=False)
    assert str(cams.layouts["norm"]) == "(NT)LC:1+4x3"
    tokens = model.norm(model.embed(x.flatten(0, 1)).permute(0, 2, 3, 1)).detach()
    expected = (tokens * model.head.weight[1].detach()).sum(3) / (5 * 13)
    torch.testing.assert_close(cams["norm"], expected.view(2, 5, 4, 3))


def test_a_sequence_of_frames_is_no_picture() -> None:
    model, x = Frames().eval(), torch.randn(2, 5, 3, 16, 16)
    with pytest.raises(
        LayerError, match="'lstm' gives 5 tokens .* input's 5 frames: one row for each frame.* such as one of .*cnn"
    ):
        compute_cams(model, x, "lstm")


def test_rows_of_which_no_frame_is_known_are_refused_with_the_layout_to_give() -> None:
    class Mixed(nn.Module):
        """Frames are mixed before they are folded."""

        def __init__(self) -> None:
            super().__init__()
            self.mix, self.conv, self.head = nn.Conv3d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            n, t = x.shape[:2]
            rows = self.conv(self.mix(x.transpose(1, 2)).transpose(1, 2).flatten(0, 1)).relu()
            return self.head(rows.mean((2, 3)).view(n, t, -1).mean(1))

    model, x = Mixed().double().eval(), torch.randn(2, 5, 3, 9, 9, dtype=torch.float64)
    with pytest.raises(LayerError, match=r"works on windows, crops.*layout=\{'conv': '\(NT\)CHW'\}.*or '\(TN\)CHW'"):
        compute_cams(model, x, "conv")
    cams = compute_cams(model, x, "conv", layout={"conv": "(NT)CHW"}, targets=1, relu=False)
    torch.testing.assert_close(cams["conv"], reference(model, "conv", x, (2, 5), "NT"))


def test_windows_of_one_picture_are_no_frames_however_many() -> None:
    class Windows(nn.Module):
        """Four windows of a picture with four channels."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            windows = self.stem(x).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
            return self.head(self.conv(windows.flatten(0, 2)).relu().mean((2, 3)).view(len(x), 4, -1).mean(1))

    model, x = Windows().eval(), torch.randn(2, 4, 8, 8)
    with pytest.raises(LayerError, match="it works on windows, crops or several images at a time"):
        compute_cams(model, x, "conv")
    assert list(compute_cams(model, x).layouts) == ["stem"]


@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "guided_gradcam", "guided_backprop", "eigencam"])
def test_all_kinds_of_methods_keep_frames_apart(method: str) -> None:
    """A frame in which there is nothing has no map, whatever the rows' order."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn, self.head = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU()), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.cnn(x.transpose(0, 1).flatten(0, 1)).mean((2, 3))
            return self.head(rows.view(x.shape[1], len(x), -1).mean(0))

    torch.manual_seed(0)
    model, x = Mean().eval(), torch.rand(2, 4, 3, 8, 8)
    x[:, 2] = 0
    model.head.weight.data.abs_()
    ((_, maps),) = compute_cams(model, x, "cnn", methods=method, targets=1, relu=False).items()
    assert maps.shape[:2] == (2, 4)
    assert [bool(maps[:, frame].any()) for frame in range(4)] == [True, True, False, True]
