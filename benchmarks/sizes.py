"""Measures how large event files and sheets are, and how far a sheet's file is from what was drawn.

    pip install -e ".[photos]"
    python benchmarks/sizes.py

Two fits with a ``TensorBoardLogger`` explain eight probes at two layers after each epoch: EfficientNet-Lite0 on four
photographs of 224x224 and their mirror images, and the tutorials' network on Fashion-MNIST (``--root``, the folder that
contains ``FashionMNIST/raw``; drawn garments if it is not there). For each, one line:

- ``events``: bytes of the event file, with film strips, animations and the training's own numbers.
- ``sheet``: mean bytes of a sheet in it, over layers and epochs, and the last one's format.
- ``difference``: how far that file's pixels are from those drawn, on a scale of 255, as a mean over the sheet.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fashion_mnist_data import FashionMNISTDataModule, is_there
from fashion_mnist_model import FashionMNISTClassifier
from photographs import LAYER, load_network, photograph_probes

from benchmarks.common import environment, positive, read
from lightning_gradcam import Entry, GradCAMCallback, ProbeSet, Sink
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks import TensorBoardSink


class Sheets(Sink):
    """Notes the bytes of every sheet as TensorBoard gets it, and keeps the last one."""

    thread_safe = True

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.last: Picture | None = None

    def log(self, entry: Entry) -> None:
        """Encodes the sheets of a step."""
        for self.last in entry.pictures.values():
            self.bytes.append(len(self.last.small(TensorBoardSink.formats)[1]))


class Photographs(LightningModule):
    """The network of examples/photographs.py; its last two blocks are trained on its four photographs."""

    def __init__(self) -> None:
        super().__init__()
        network: Any = load_network().requires_grad_(False)
        self.network, self.trained = network, network._blocks[-2:].requires_grad_(True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits."""
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Returns the loss."""
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        """Runs the network, and nothing more."""
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Trains slowly, so that the maps change in all epochs."""
        return torch.optim.SGD(self.trained.parameters(), lr=1e-4)


def measure(name: str, epochs: int, model: LightningModule, data: dict[str, Any], **options: Any) -> None:
    """Trains, and prints a line.

    Args:
        name: What the pictures are.
        epochs: How many are logged.
        model: What is trained.
        data: What ``Trainer.fit`` takes as data.
        **options: Of the callback.
    """
    sheets = Sheets()
    # Pictures that wait for the worker would be packed, and no longer as they were drawn.
    callback = GradCAMCallback(**options, on_error="raise", sinks=[sheets], background=False)
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            limit_train_batches=2,
            limit_val_batches=1,
            logger=logger,
            callbacks=[callback],
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, **data)
        events = sum(path.stat().st_size for path in Path(logger.log_dir).glob("*tfevents*"))
    assert sheets.last is not None
    format, content = sheets.last.small(TensorBoardSink.formats)
    with Image.open(io.BytesIO(content)) as image:
        mode, shown = image.mode, np.asarray(image.convert("RGB"), np.float32)
    height, width = sheets.last.size
    print(
        f"{name}: events {events / 1e6:.1f} MB, sheet {np.mean(sheets.bytes) / 1e3:.0f} kB ({format}, mode {mode},"
        f" {width}x{height}), difference {np.abs(shown - sheets.last.pixels).mean():.2f}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Measures both kinds of pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=120, help="logged epochs (default: %(default)s)")
    parser.add_argument("--root", default="data", help="folder of Fashion-MNIST (default: %(default)s)")
    options = read(parser, arguments)
    torch.manual_seed(0)
    real = is_there(options.root)
    garments = FashionMNISTDataModule(root=options.root, source="fashion_mnist" if real else "drawn")
    # Most of Grad-CAM's maps at the last convolution are blank, and blank maps make small sheets.
    looks = {"layers": ["network.relu2", "network.relu3"], "methods": "hirescam"}
    name = "Fashion-MNIST" if real else "drawn garments"
    measure(f"{name}, 28x28", options.epochs, FashionMNISTClassifier(), {"datamodule": garments}, **looks)

    four = photograph_probes()
    assert four.labels is not None
    assert four.display is not None
    probes = ProbeSet(
        torch.cat([four.inputs, four.inputs.flip(-1)]),
        labels=four.labels.repeat(2),
        class_names=four.class_names,
        display=np.concatenate([four.display, four.display[:, :, ::-1]]),
        display_source=four.display_source,
    )
    loader = DataLoader(TensorDataset(four.inputs, four.labels), 2)
    data = {"train_dataloaders": loader, "val_dataloaders": loader}
    layers = ["network._blocks.10", f"network.{LAYER}"]
    measure("photographs, 224x224", options.epochs, Photographs(), data, layers=layers, probes=probes)
    print(environment("torch", "pytorch-lightning", "tensorboard", "pillow"))


if __name__ == "__main__":
    main()
