"""Fine-tunes a real network on four photographs and writes the run's report, which the docs site embeds.

The site's build runs it (``docs/conf.py``). It needs `.[photos]`, no network, and about 20 seconds of one core.

python docs/make_sample.py [PAGE.html]    (default: build/sample.html)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from skimage import data
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import RandomResizedCrop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from photographs import LAYER, MEAN, SIZE, STD, load_network, load_photograph, prepared

from lightning_gradcam import Archive, GradCAMCallback, ProbeSet
from lightning_gradcam.report import Payload, page

# Class to its photograph in scikit-image, and the object's left, top, right and bottom edge in pixels of 224 by 224.
CLASSES = {
    "cat": ("chelsea", (10, 0, 185, 215)),
    "coffee": ("coffee", (32, 8, 180, 212)),
    "rocket": ("rocket", (103, 66, 121, 214)),
    "astronaut": ("astronaut", (24, 4, 160, 224)),
}
# Pictures that are never trained on. Each shares a probe with one of the photographs.
OTHERS = {
    "motorcycle": lambda: data.stereo_motorcycle()[0],
    "retina": data.retina,
    "cells": data.immunohistochemistry,
    "galaxies": data.hubble_deep_field,
}
# The blocks from this one on are trained.
FIRST = 10
LAYERS = [f"network._blocks.{FIRST}", f"network.{LAYER}"]
EPOCHS, STEPS, BATCH = 8, 2, 8


class FineTuned(LightningModule):
    """The network with a new head; the head and the last six of the 16 blocks are trained on crops.

    All modules stay in evaluation mode, so batch normalisation keeps what it learnt on ImageNet.
    """

    def __init__(self) -> None:
        super().__init__()
        # Twice as fast on a CPU as the other order in memory.
        self.network: Any = load_network().to(memory_format=torch.channels_last)
        for part in (self.network._conv_stem, self.network._bn0, *self.network._blocks[:FIRST]):
            part.requires_grad_(False)
        self.network._fc = torch.nn.Linear(self.network._fc.in_features, len(CLASSES))
        self.crop = RandomResizedCrop(SIZE, scale=(0.2, 0.9), antialias=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns a logit for each class."""
        logits: Tensor = self.network(inputs.contiguous(memory_format=torch.channels_last))
        return logits

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Returns the loss of a crop of each photograph."""
        return cross_entropy(self(torch.stack([self.crop(picture) for picture in batch[0]])), batch[1])

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        """Logs the loss of the whole photographs."""
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns an optimizer slow enough to see the maps move over several epochs."""
        trained = [weights for weights in self.parameters() if weights.requires_grad]
        return torch.optim.SGD(trained, lr=1.5e-3, momentum=0.9)


def make_probes(whole: Tensor) -> ProbeSet:
    """Returns the whole photographs, and the middle of each with another picture above or below it."""
    middle = slice(SIZE // 4, SIZE // 4 + SIZE // 2)
    inputs, ids, boxes = list(whole), list(CLASSES), [box for _, box in CLASSES.values()]
    for number, (name, (other, load)) in enumerate(zip(CLASSES, OTHERS.items(), strict=True)):
        halves = [(name, whole[number]), (other, prepared(Image.fromarray(load())))][:: 1 if number % 2 == 0 else -1]
        inputs.append(torch.cat([picture[:, middle] for _, picture in halves], dim=1))
        ids.append(" + ".join(half for half, _ in halves))
        boxes.append((0, 0, SIZE, SIZE // 2) if number % 2 == 0 else (0, SIZE // 2, SIZE, SIZE))
    stacked = torch.stack(inputs)
    return ProbeSet(
        stacked,
        ids=tuple(ids),
        labels=torch.arange(len(CLASSES)).repeat(2),
        class_names=tuple(CLASSES),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        display=((stacked * STD + MEAN) * 255).round().byte().permute(0, 2, 3, 1).numpy(),
        display_source="as loaded",
    )


def train(folder: Path) -> Archive:
    """Trains and returns the record of the run, which is written below a folder."""
    torch.manual_seed(0)
    whole = torch.stack([prepared(load_photograph(name)) for name, _ in CLASSES.values()])
    labels = torch.arange(len(CLASSES))
    repeats = STEPS * BATCH // len(CLASSES)
    watch = GradCAMCallback(LAYERS, targets="label", probes=make_probes(whole), log_untrained=True, evolution=False)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=folder,
        callbacks=[watch],
    )
    trainer.fit(
        FineTuned(),
        DataLoader(TensorDataset(whole.repeat(repeats, 1, 1, 1), labels.repeat(repeats)), BATCH, shuffle=True),
        DataLoader(TensorDataset(whole, labels), BATCH),
    )
    assert watch.archive is not None
    return watch.archive


def check(archive: Archive) -> None:
    """Fails if the run does not show what docs/sample.md says."""
    halves = archive.numbers(LAYERS[-1])["energy_inside"][:, len(CLASSES) :].mean(axis=1)
    rocket = archive.maps(LAYERS[-1])[-1, list(CLASSES).index("rocket")].clip(min=0)
    # Of the seven columns of places, the rocket is in the middle one.
    column = rocket[:, 3].sum() / rocket.sum()
    right = archive.record(-1).predicted.tolist() == list(range(len(CLASSES))) * 2
    print("evidence in the photographs' halves:", halves.round(2), "in the rocket's column:", column.round(2))
    if len(archive.steps) != 1 + EPOCHS or not (right and halves[0] < 0.5 and halves[-1] > 0.8 and column < 0.2):
        raise SystemExit("the run no longer shows what docs/sample.md says: change that page or docs/make_sample.py")


def main(path: Path) -> None:
    """Trains, checks the run and writes its page."""
    # One thread, so that the page is the same on machines with other numbers of cores.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        archive = train(Path(folder))
        check(archive)
        path.parent.mkdir(parents=True, exist_ok=True)
        payload = Payload.of(archive, title=f"EfficientNet-Lite0, {EPOCHS} epochs")
        path.write_text(page([payload], title="Fine-tuned on four photographs"), encoding="utf-8")
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/sample.html"))
