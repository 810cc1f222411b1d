"""Signals and folded frames through a whole training: maps, numbers, pictures, archive and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import Archive, Drawing, FeatureMapCallback, GradCAMCallback, MemorySink, ProbeSet, compute_cams
from lightning_gradcam.report import Payload, page
from tests.capture.test_folded import Bag, Frames, Slices
from tests.capture.test_signals import Waves


class Module(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(torch.cat([self(sample[None]) for sample in x]), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def trained(net: nn.Module, inputs: Tensor, folder: Path, **options: Any) -> tuple[Archive, MemorySink, Module]:
    sink, module = MemorySink(), Module(net)
    callback = GradCAMCallback(num_probes=3, sinks=[sink], targets=["predicted", "label"], on_error="raise", **options)
    data = DataLoader(TensorDataset(inputs, torch.arange(len(inputs)) % 3), 4)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[callback], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data, data)
    assert callback.archive is not None
    return callback.archive, sink, module


def check_whole(archive: Archive, sink: MemorySink, module: Module, layer: str) -> Any:
    """Returns the last step's maps, which are those of the trained model."""
    maps = archive.maps(layer, "gradcam", "predicted", relu=False)[-1]
    cams = compute_cams(module.net.eval(), archive.probes.inputs, layer.removeprefix("net."), relu=False)
    expected = next(iter(cams.values())).numpy()
    # The archive keeps eleven bits.
    assert np.allclose(maps, expected, atol=np.abs(expected).max() / 1000)
    assert {*sink.entries[-1].pictures} == {f"gradcam/{layer}"}
    evolution = sink.evolutions[-1]
    assert {*evolution.strips} == {*evolution.animations} == {f"gradcam_evolution/{layer}"}
    assert page([Payload.of(archive)])
    assert archive.to_xarray()[layer].shape[-maps.ndim + 1 :] == maps.shape[1:]
    return maps


@pytest.mark.parametrize(
    ("axes", "shape"), [("NCL", (12, 2, 64)), ("NLC", (12, 64, 2)), ("NL", (12, 64)), ("NCL", (12, 9, 64))]
)
def test_signals_through_a_training(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = Waves(axes, 1 if axes == "NL" else min(shape[1:]))
    archive, sink, module = trained(net, torch.randn(shape), tmp_path, drawing=Drawing(boxes=True))
    maps = check_whole(archive, sink, module, "net.conv")
    assert maps.shape == (3, 30)
    assert archive.probes.axes == axes
    numbers = archive.record(-1).numbers["net.conv", "gradcam", "predicted"]
    # A signal has no height.
    assert {"drift", "entropy", "half_area", "center_x", "agreement"} <= {*numbers}
    assert not {"center_y", "box_iou"} & {*numbers}
    places = (np.arange(30) + 0.5) / 30
    positive = maps.clip(min=0)
    shown = positive.sum(1) > 0
    assert np.allclose(numbers["center_x"][shown], ((positive * places).sum(1) / positive.sum(1))[shown], atol=1e-3)
    (key, *_) = Payload.of(archive).header["keys"]
    assert (key["height"], key["width"], key["signal"]) == (1, 30, True)


@pytest.mark.parametrize("order", ["NT", "TN"])
def test_frames_through_a_training(tmp_path: Path, order: str) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(12, 5, 3, 16, 16)
    archive, sink, module = trained(Frames(order), inputs, tmp_path, mean=[0.5] * 3, std=[0.25] * 3)
    assert check_whole(archive, sink, module, "net.cnn").shape == (3, 5, 8, 8)
    probes = archive.probes
    # Five frames in colour, each under its map.
    expected = (probes.inputs.double() * 0.25 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 1, 3, 4, 2)
    assert (probes.pixels == expected.numpy()).all()
    assert probes.axes == "NTCHW"


def test_slices_and_bags_through_a_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    archive, sink, module = trained(Slices(), torch.randn(12, 7, 12, 14), tmp_path / "slices")
    assert check_whole(archive, sink, module, "net.cnn").shape == (3, 7, 10, 12)
    assert archive.probes.pixels.shape == (3, 7, 12, 14, 3)
    archive, sink, module = trained(Bag(), torch.randn(12, 6, 3, 9, 9), tmp_path / "bags")
    assert check_whole(archive, sink, module, "net.cnn").shape == (3, 6, 7, 7)
    assert archive.probes.pixels.shape == (3, 6, 9, 9, 3)


def test_what_a_model_has_shown_of_the_probes_is_saved_with_them() -> None:
    probes = ProbeSet(torch.randn(2, 64, 3)).read_as("NLC")
    assert ProbeSet.from_bytes(probes.to_bytes()).axes == "NLC"
    assert ProbeSet.from_bytes(probes.to_bytes()).fingerprint == ProbeSet(probes.inputs).fingerprint


def test_feature_maps_of_signals_are_rows(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = FeatureMapCallback("net.conv", num_probes=3, sinks=[sink], on_error="raise")
    data = DataLoader(TensorDataset(torch.randn(6, 2, 64), torch.arange(6) % 3), 4)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[callback], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Module(Waves()), data, data)
    assert callback.archive is not None
    assert callback.archive.channels("net.conv")[-1].shape == (3, 6, 1, 30)
    assert list(sink.entries[-1].pictures) == ["features/net.conv"]
