"""A script's own module and data, as text, for tests that run it with either of Lightning's packages."""

from __future__ import annotations

_MODULE = """
import NAMESPACE as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Module(pl.LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 5))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, i):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def validation_step(self, batch, i):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 5), 8)
    val_dataloader = train_dataloader
"""


def plain_module(namespace: str) -> str:
    """The script, with `namespace` (`pytorch_lightning` or `lightning.pytorch`) as its Lightning."""
    return _MODULE.replace("NAMESPACE", namespace)
