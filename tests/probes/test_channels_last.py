"""Tests that pictures with channels last, and of whole numbers, are drawn as they are, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import GradCAMCallback, ProbeSet, compute_cams, explain
from lightning_gradcam.probes.display import Normalization, to_pixels
from tests.conftest import trainer

COLOURS = torch.randint(0, 256, (8, 12, 10, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class Module(pl.LightningModule):
    """Takes pictures ``[N, H, W, C]`` of bytes, or ``[N, C, H, W]``."""

    def __init__(self, channels: int = 3, *, last: bool = True) -> None:
        super().__init__()
        self.last = last
        self.net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2) if self.last else x
        return self.head(self.net(x / 255 if x.dtype == torch.uint8 else x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(tmp_path: Path, inputs: Tensor, module: Module, **options: Any) -> ProbeSet:
    callback = GradCAMCallback("net.1", on_error="raise", **options)
    loader = DataLoader(TensorDataset(inputs), 4)
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(module, loader, loader)
    assert callback.archive is not None
    maps = callback.archive.maps("net.1", "gradcam", "predicted")
    assert maps.shape[-2:] == (10, 8)
    return callback.archive.probes


@pytest.mark.parametrize(
    ("inputs", "module"),
    [
        (COLOURS, Module()),
        (COLOURS.permute(0, 3, 1, 2), Module(last=False)),
        (COLOURS[..., :1], Module(1)),
        (COLOURS[..., 0], Module(1)),
        (torch.cat([COLOURS, COLOURS[..., :1]], -1), Module(4)),
    ],
    ids=["[N, H, W, 3]", "[N, 3, H, W]", "[N, H, W, 1]", "[N, H, W]", "[N, H, W, 4]"],
)
def test_bytes_of_a_batch_are_shown_as_they_are(tmp_path: Path, inputs: Tensor, module: Module) -> None:
    probes = fitted(tmp_path, inputs, module)
    channels = COLOURS if 4 in inputs.shape[1:] or 3 in inputs.shape[1:] else COLOURS[..., :1].expand(8, 12, 10, 3)
    assert probes.display_source == "as loaded"
    assert np.array_equal(probes.pixels, channels.numpy())
    assert probes.view.size == (12, 10)


def test_numbers_with_channels_last_are_undone_for_each_channel(tmp_path: Path) -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])
    inputs = (COLOURS / 255 - mean) / std
    probes = fitted(tmp_path, inputs, Module(), mean=mean.tolist(), std=std.tolist())
    assert np.array_equal(probes.pixels, COLOURS.numpy())


@pytest.mark.parametrize("form", [torch.uint8, torch.float32])
def test_a_probe_set_is_drawn_alike_in_both_orders(form: torch.dtype) -> None:
    last, first = ProbeSet(COLOURS.to(form)), ProbeSet(COLOURS.permute(0, 3, 1, 2).to(form))
    assert last.pixels.shape == (8, 12, 10, 3)
    assert np.array_equal(last.pixels, first.pixels)
    assert last.display_source == first.display_source
    assert last.view.size == first.view.size == (12, 10)
    again = ProbeSet.from_bytes(last.to_bytes())
    assert np.array_equal(again.pixels, first.pixels)


def test_clips_may_have_channels_last() -> None:
    clips = torch.rand(2, 5, 7, 6, 3)
    known = Normalization((0.0,), (1.0,), "as loaded")
    pixels, _ = to_pixels(clips, known)
    assert pixels.shape == (2, 5, 7, 6, 3)
    assert np.array_equal(pixels, to_pixels(clips.movedim(-1, 1), known)[0])


@pytest.mark.parametrize("shape", [(1, 12, 3, 3), (1, 16, 1, 3), (1, 16, 3, 4, 4), (1, 3, 16, 3)])
def test_small_pictures_of_many_channels_keep_their_order(shape: tuple[int, ...]) -> None:
    assert to_pixels(torch.rand(shape), None)[0].shape == (1, *shape[2:], 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.fromarray(COLOURS[number].numpy()).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("last", [True, False])
def test_a_folder_is_read_as_the_data_sets_samples_are(tmp_path: Path, folder: Path, last: bool) -> None:
    inputs = COLOURS if last else COLOURS.permute(0, 3, 1, 2)
    probes = fitted(tmp_path, inputs, Module(last=last), probes=folder)
    assert torch.equal(probes.inputs, inputs[:2])
    assert np.array_equal(probes.pixels, COLOURS[:2].numpy())


def test_explain_draws_pictures_with_channels_last(tmp_path: Path, folder: Path) -> None:
    def transform(picture: Any) -> Any:
        return np.array(picture)

    ways: list[tuple[Any, dict[str, Any]]] = [
        (COLOURS[:2], {}),
        (COLOURS[0], {}),
        (str(folder), {"transform": lambda picture: torch.tensor(transform(picture))}),
        ([folder / "0.png"], {"transform": transform}),
    ]
    for images, options in ways:
        found = explain(Module().eval(), images, layers="net.1", **options)
        assert np.array_equal(found.probes.pixels[0], COLOURS[0].numpy())


def test_a_map_of_the_input_has_the_pictures_size() -> None:
    cams = compute_cams(Module().eval(), COLOURS[:2] / 255, "net.1", methods=["gradcam", "guided_backprop"])
    assert {maps.shape[1:] for maps in cams.maps.values()} == {(10, 8), (12, 10)}
