"""Models of 1-D signals need no layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import LayerError, compute_cams


class Waves(nn.Module):
    """Convolutions along time, of signals ``[N, C, L]``, ``[N, L, C]`` or ``[N, L]``."""

    def __init__(self, axes: str = "NCL", channels: int = 2) -> None:
        super().__init__()
        self.axes = axes
        self.conv = nn.Sequential(nn.Conv1d(channels, 6, 5, 2), nn.BatchNorm1d(6), nn.ReLU())
        self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        signal = {"NCL": x, "NL": x[:, None], "NLC": x.transpose(1, -1)}[self.axes]
        return self.head(self.lstm(self.conv(signal).transpose(1, 2))[0].mean(1))


@pytest.mark.parametrize(
    ("axes", "channels", "shape"),
    [
        ("NCL", 2, (3, 2, 64)),
        # More channels than samples in time, as of a spectrogram.
        ("NCL", 80, (3, 80, 41)),
        ("NLC", 9, (3, 64, 9)),
        ("NL", 1, (3, 64)),
    ],
)
def test_signals_are_explained_along_time(axes: str, channels: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = Waves(axes, channels).double().eval(), torch.randn(shape, dtype=torch.float64)
    kept: list[Tensor] = []
    handle = model.conv.register_forward_hook(lambda *call: kept.append(call[2]))
    score = model(x)[:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    expected = (kept[0] * gradient.mean(2, keepdim=True)).sum(1).detach()
    for layers in ("auto", "conv"):
        cams = compute_cams(model, x, layers, targets=1, relu=False, batch_size=2)
        assert (str(cams.layouts["conv"]), cams.axes) == (f"NCL:{expected.shape[1]}", axes)
        torch.testing.assert_close(cams["conv"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("method", "layer", "places"),
    [
        ("scorecam", "conv", 30),
        ("ablationcam", "conv", 30),
        ("smoothgradcam++", "conv", 30),
        ("eigencam", "conv", 30),
        ("guided_gradcam", "conv", 64),
        ("guided_backprop", "model", 64),
        ("fullgrad", "model", 64),
    ],
)
@pytest.mark.parametrize("axes", ["NCL", "NLC", "NL"])
def test_every_kind_of_method_gives_a_map_along_time(axes: str, method: str, layer: str, places: int) -> None:
    model = Waves(axes, 1 if axes == "NL" else 3).eval()
    x = torch.randn({"NCL": (2, 3, 64), "NLC": (2, 64, 3), "NL": (2, 64)}[axes])
    ((key, maps),) = compute_cams(model, x, methods=method).items()
    assert (key.layer, tuple(maps.shape)) == (layer, (2, places))


def test_what_is_not_known_to_have_channels_before_time_is_refused() -> None:
    with pytest.raises(LayerError, match=r"'lstm' has the output \[2, 30, 5\] for 2 signals.*'NLC:1x30'.*conv"):
        compute_cams(Waves().eval(), torch.randn(2, 2, 64), "lstm")


def test_three_axes_of_a_model_of_pictures_stay_a_picture() -> None:
    class Pictures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x[:, None]).relu().mean((2, 3)))

    cams = compute_cams(Pictures().eval(), torch.randn(2, 9, 12))
    assert (cams["conv"].shape, cams.axes) == ((2, 7, 10), "")
