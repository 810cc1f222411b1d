"""How probes go through the module: transfer hooks, random numbers, and steps that pass on other images."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_gradcam import GradCAMCallback
from tests.conftest import TinyModule, loaders, trainer
from tests.guard.test_model import assert_same


# ---- transfer hooks


class Data(pl.LightningDataModule):
    """Its transfer hook draws from its own generators, counts, and runs a module that changes its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.numbers = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.calls, self.seen = 0, [0]
        self.norm = nn.BatchNorm2d(1)

    def train_dataloader(self) -> Any:
        return loaders()[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls += 1
        self.seen.append(self.calls)
        noise = torch.rand(1, generator=self.generator) + float(self.numbers.random()) + self.calls
        return self.norm(batch[0] + noise / 10), batch[1]


def test_the_state_of_a_data_modules_transfer_hooks_is_restored(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [GradCAMCallback(["net.conv1", "net.relu2"], on_error="raise", log_untrained=True)]):
        pl.seed_everything(0, verbose=False)
        module, data = TinyModule(), Data()
        trainer(tmp_path, callbacks=callbacks).fit(module, datamodule=data)
        ends.append({**module.state_dict(), **data.norm.state_dict(), "calls": data.calls, "seen": data.seen})
    assert_same(ends[0], ends[1], "the end")


# ---- random numbers


def test_a_forward_that_draws_random_numbers_gives_maps_that_can_be_compared(tmp_path: Path) -> None:
    class Noisy(TinyModule):
        def forward(self, x: Tensor) -> Tensor:
            noise = nn.functional.dropout(torch.ones_like(x)) + float(np.random.rand()) + random.random()
            return super().forward(x * noise)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net.head.parameters(), lr=0.0)

        def on_train_epoch_start(self) -> None:
            self.net.norm1.eval()

    callback = GradCAMCallback("net.conv1", on_error="raise")
    trainer(tmp_path, callbacks=callback, max_epochs=3).fit(Noisy(), *loaders())
    assert callback.archive is not None
    maps = callback.archive.maps("net.conv1", relu=False)
    assert np.abs(maps[0]).max() > 0
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
