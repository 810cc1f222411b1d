"""Layers that a model calls several times, in a run: tags, files and archive of ``encoder#0`` and ``encoder#1``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_gradcam import Archive, GradCAMCallback, compute_cams
from tests.callbacks.test_models import fit
from tests.conftest import TinyModule


class Pair(TinyModule):
    """Compares two pictures by one encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = self.head(torch.cat([self.encoder(x).pow(2).mean((2, 3)) for x in (first, second)], 1))
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch["first"], batch["second"]), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


class Pairs(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        first, second = torch.rand(2, 1, 8, 8, generator=generator)
        return {"first": first, "second": second, "label": index % 3}


def of_pair(module: Pair, batch: dict[str, Tensor]) -> Tensor:
    found: Tensor = module(batch["first"], batch["second"])
    return found


def test_both_calls_of_an_encoder_are_recorded_and_it_is_said_whose_picture_is_drawn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, data = Pair(), DataLoader(Pairs(), 4)
    callback = GradCAMCallback("encoder#*", forward_fn=of_pair, input_key="first", on_error="raise", num_probes=3)
    with pytest.warns(UserWarning, match="lightning-gradcam: 'encoder#0' is called once for each of several inputs"):
        fit(tmp_path, module, callback, (data, data))
    (path,) = {found.parent for found in tmp_path.rglob("manifest.json")}
    archive = Archive.open(path)
    assert archive.layers == ("encoder#0", "encoder#1")
    batch = torch.utils.data.default_collate([Pairs()[int(index)] for index in archive.probes.ids])
    pair = (batch["first"], batch["second"])
    expected = compute_cams(module, pair, ["encoder#0", "encoder#1"], relu=False)
    for layer in archive.layers:
        maps = expected[layer].numpy()
        assert np.abs(maps).max() > 0
        np.testing.assert_allclose(archive.maps(layer, relu=False)[-1], maps, rtol=1e-4, atol=1e-6)
    names = [found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*") if found.is_file()]
    assert any("encoder_0" in name for name in names)
    assert any("encoder_1" in name for name in names)
    assert not any("#" in name for name in names)
