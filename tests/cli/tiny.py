"""A module and data module that configurations name: `tests.cli.tiny.Module`, `tests.cli.tiny.Data`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.conftest import TinyModule, tiny_data

CONFIG = """
seed_everything: 3
model:
  class_path: tests.cli.tiny.Module
  init_args: {width: 4}
data:
  class_path: tests.cli.tiny.Data
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: pytorch_lightning.loggers.CSVLogger, init_args: {save_dir: logs, name: tiny}}
  callbacks:
    - class_path: lightning_gradcam.GradCAMCallback
      init_args: {layers: [net.relu1], num_probes: 5, seed: 2, on_error: raise, evolution: false}
"""


def config(folder: Path, text: str = CONFIG) -> str:
    """Writes a configuration and returns its path."""
    file = folder / "tiny.yaml"
    file.write_text(text)
    return str(file)


class Module(TinyModule):
    """`TinyNet`; `width` is only there to be set."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.width = width


class Plain(nn.Module):
    """A list that is never called, a layer that is called twice, one whose places nothing reads, and a flat one."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.twice = nn.Conv2d(width, width, 3, padding=1)
        self.spare = nn.ModuleList([nn.ReLU()])
        self.unread = nn.Conv2d(width, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.conv(x)))
        self.unread(x)
        return self.head(self.pool(x).flatten(1))


class Data(pl.LightningDataModule):
    """Random pictures whose order, and values, depend on the global random numbers at `setup`."""

    def __init__(self, shuffled: bool = True, missing: str = "") -> None:
        super().__init__()
        self.shuffled = shuffled
        self.missing = missing

    def setup(self, stage: str) -> None:
        if self.missing:
            Path(self.missing).read_bytes()
        pictures, labels = tiny_data(40).tensors
        order = torch.randperm(40) if self.shuffled else torch.arange(40)
        self.dataset: Any = TensorDataset(pictures[order], labels[order])
        self.dataset.classes = ["ant", "bee", "cat", "dog", "eel"]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, 8)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, 8)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, 8)


class Interrupted(Data):
    """As if somebody pressed Ctrl+C while the data is set up."""

    def setup(self, stage: str) -> None:
        raise KeyboardInterrupt


class Empty(pl.LightningDataModule):
    """Without any data."""


class Broken(Data):
    """With a mistake in it."""

    def setup(self, stage: str) -> None:
        _ = 1 + stage  # type: ignore[operator]


class Stream(Data):
    """Data that can't be indexed."""

    def setup(self, stage: str) -> None:
        class Samples(IterableDataset[Any]):
            def __iter__(self) -> Iterator[Any]:
                return iter(tiny_data(40))

        self.dataset = Samples()


def network(width: int = 4) -> nn.Module:
    """A function that returns a module."""
    return Plain(width)


def write_checkpoint_and_pictures() -> None:
    """Writes the checkpoint ``a.ckpt`` and three pictures in ``pictures`` into the working directory."""
    torch.manual_seed(0)
    torch.save({"state_dict": Module().state_dict(), "epoch": 2, "global_step": 9}, "a.ckpt")
    Path("pictures").mkdir()
    for place, picture in enumerate(np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)):
        Image.fromarray(picture).save(f"pictures/{place}.png")
