"""Tiny real models and data, and guards against what a test could leave behind."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 5


def named(value: object) -> str:
    """An id that is the same in every process: without addresses in memory and random numbers."""
    return "tensor" if isinstance(value, Tensor) else re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    threads = set(threading.enumerate())
    environment = dict(os.environ)
    yield
    left = [t.name for t in threading.enumerate() if t not in threads and t.is_alive() and not t.daemon]
    if "inductor" in request.node.name:  # inductor keeps its pool of compile workers for the process's life
        left = [name for name in left if not name.startswith("ThreadPoolExecutor")]
    assert not left, f"threads left running: {left}"
    changed = {k for k in os.environ if os.environ.get(k) != environment.get(k)}
    # Lightning, torch and wandb set these themselves.
    changed -= {"PL_GLOBAL_SEED", "PL_SEED_WORKERS", "PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "WANDB_SERVICE"}
    changed -= {"_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"}
    assert not changed, f"environment changed: {changed}"


@pytest.fixture
def real_root() -> str:
    """The folder that holds the real `FashionMNIST/raw`; the test is skipped where it is not known."""
    root = os.environ.get("FASHION_MNIST_ROOT", "data")
    if not (Path(root) / "FashionMNIST" / "raw").is_dir():
        pytest.skip("no real Fashion-MNIST here: set FASHION_MNIST_ROOT to the folder that holds FashionMNIST/raw")
    return root


class TinyNet(nn.Module):
    """Two convolutions with batch norm, an in-place ReLU, dropout and a linear head, for `[N, 1, 8, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.conv2 = nn.Conv2d(4, 3, 3)
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(3 * 36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.relu1(self.norm1(self.conv1(x))))
        x = self.relu2(self.conv2(x))
        return self.head(x.flatten(1))


class TinyModule(pl.LightningModule):
    """`TinyNet` under `net`, Adam, cross entropy; logs `val_loss`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def tiny_data(count: int = 40, seed: int = 1) -> TensorDataset:
    """Random pictures `[count, 1, 8, 8]` with labels 0 to 4 in turn."""
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % CLASSES)


def loaders(count: int = 40, batch_size: int = 8) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """A shuffled training loader and a validation loader."""
    return DataLoader(tiny_data(count), batch_size, shuffle=True), DataLoader(tiny_data(count, seed=2), batch_size)


def trainer(root: Path | str, **options: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU without a logger."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": str(root),
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "logger": False,
        "max_epochs": 2,
    }
    return pl.Trainer(**{**settings, **options})


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What this package says through Lightning's logger, line by line."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "lightning-gradcam:" in record.getMessage():
                lines.extend(record.getMessage().splitlines())

    # Of whichever of Lightning's namespaces was imported last.
    logger, listener = rank_zero.log, Listener()
    logger.addHandler(listener)
    yield lines
    logger.removeHandler(listener)
