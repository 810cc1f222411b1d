"""What overhead.py and whole_fits.py train, with which callbacks (ours, by hand, a limit), and how they print it."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_gradcam import GradCAMCallback, ProbeSet, compute_cams
from lightning_gradcam.sinks import Entry, Numbers, Sink

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
from drawn_garments import CLASS_NAMES, draw_garments
from fashion_mnist_model import FashionMNISTClassifier

from benchmarks.compute import ratios
from benchmarks.rivals import Case, limit

LAYERS = ["network.relu1", "network.relu2", "network.relu3"]
RESNET_LAYERS = ["network.layer2", "network.layer3", "network.layer4"]
IMAGES, BATCH = 256, 128
OURS, BY_HAND, LIMIT = "GradCAMCallback, blocking", "by hand", "limit"
OUR_MAPS, MAPS_BY_HAND = "  its maps alone (compute_cams)", "  its maps alone (pytorch-grad-cam)"
OWN_BLOCKING, OWN_BACKGROUND = "  by its own account: blocking", "  by its own account: background"
Seconds = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Setting:
    """A network, what it is trained with, and what is explained.

    Attributes:
        title: What the table is headed with.
        module: The network.
        layers: Names, in the order of the forward.
        images: ``[N, C, H, W]`` in 0…1; the first ones are the probes.
        labels: Their classes.
        probes: How many are explained.
        batch: How many the network is trained with at once.
    """

    title: str
    module: LightningModule
    layers: list[str]
    images: Tensor
    labels: Tensor
    probes: int
    batch: int

    @property
    def explained(self) -> ProbeSet:
        """The probes."""
        return ProbeSet(self.images[: self.probes], labels=self.labels[: self.probes], class_names=CLASS_NAMES)


class ResNetClassifier(LightningModule):
    """torchvision's ResNet-18 for ten classes, from random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet18(weights=None, num_classes=len(CLASS_NAMES))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``[N, 10]``."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of one batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs ``val_loss``."""
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent, in small steps: the weights change, and stay finite."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class HandRolledGradCAM(Callback):
    """Logs a figure a layer, as a competent user of pytorch-grad-cam and matplotlib would."""

    def __init__(self, probes: ProbeSet, layers: Sequence[str]) -> None:
        assert probes.labels is not None
        self.inputs, self.layers = probes.inputs, layers
        self.true = [probes.class_name(int(label)) for label in probes.labels]
        self.pictures = probes.pixels.astype(np.float32) / 255

    def maps(self, model: LightningModule) -> tuple[list[int], dict[str, Any]]:
        """Returns the predicted classes and each layer's maps ``[N, H, W]`` in 0…1; the model is left as it was."""
        training = model.training
        model.eval()
        with torch.no_grad():
            predicted = model(self.inputs.to(model.device)).argmax(dim=1).tolist()
        targets = [ClassifierOutputTarget(index) for index in predicted]
        found = {}
        with torch.enable_grad():
            for layer in self.layers:
                with GradCAM(model, [model.get_submodule(layer)]) as cam:
                    found[layer] = cam(self.inputs, targets)
        model.zero_grad()
        model.train(training)
        return predicted, found

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes, draws and logs."""
        logger = trainer.logger
        assert isinstance(logger, TensorBoardLogger)
        predicted, found = self.maps(pl_module)
        rows = math.ceil(len(self.pictures) / 4)
        for layer, maps in found.items():
            figure, axes = plt.subplots(rows, 4, figsize=(8, 2 * rows), squeeze=False)
            for axis in axes.flat:
                axis.axis("off")
            for place, (picture, heat) in enumerate(zip(self.pictures, maps, strict=True)):
                axes.flat[place].imshow(show_cam_on_image(picture, heat, use_rgb=True))
                title = f"{self.true[place]} / {CLASS_NAMES[predicted[place]]}"
                axes.flat[place].set_title(title, fontsize=8)
            # Closes the figure as well.
            logger.experiment.add_figure(f"by_hand/{layer}", figure, trainer.global_step)


class OwnNumbers(Sink):
    """Keeps what the callback says of its own time, and none of its pictures."""

    thread_safe = True

    def __init__(self) -> None:
        self.seconds: Seconds = {OWN_BLOCKING: [], OWN_BACKGROUND: []}

    def log(self, entry: Entry) -> None:
        """Drops the pictures."""

    def log_numbers(self, numbers: Numbers) -> None:
        """Keeps both times of the step."""
        if "gradcam_stats/seconds" in numbers.values:
            self.seconds[OWN_BLOCKING].append(numbers.values["gradcam_stats/seconds"])
            self.seconds[OWN_BACKGROUND].append(numbers.values["gradcam_stats/background_seconds"])


class TimedGradCAM(GradCAMCallback):
    """At every validation's end, times itself and all rivals.

    Attributes:
        seconds: Rival to how long each of its calls has blocked training.
        cpu: Rival to the CPU seconds of each call, until all that it started has ended.
        own: What the callback says of itself.
    """

    def __init__(self, setting: Setting) -> None:
        probes, self.own = setting.explained, OwnNumbers()
        # A failure that is only warned of would be timed as a fast epoch.
        super().__init__(setting.layers, probes=probes, on_error="raise", sinks=[self.own])
        self.by_hand = HandRolledGradCAM(probes, setting.layers)
        self.case = Case(setting.title, setting.module, probes.inputs, setting.layers)
        self.seconds: Seconds = {name: [] for name in (OURS, OUR_MAPS, LIMIT, BY_HAND, MAPS_BY_HAND)}
        self.cpu: Seconds = {name: [] for name in self.seconds}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Times each rival once, in an order that turns round."""
        logger, recorder = trainer.logger, self._run.recorder
        assert isinstance(logger, TensorBoardLogger)
        assert recorder is not None
        explain = super().on_validation_epoch_end
        rivals: dict[str, Callable[[], object]] = {
            OURS: lambda: explain(trainer, pl_module),
            OUR_MAPS: lambda: compute_cams(pl_module, self.by_hand.inputs, self.case.layers, relu=False),
            LIMIT: partial(limit, self.case),
            BY_HAND: lambda: self.by_hand.on_validation_epoch_end(trainer, pl_module),
            MAPS_BY_HAND: lambda: self.by_hand.maps(pl_module),
        }
        for name in rivals if trainer.current_epoch % 2 == 0 else reversed(rivals):
            gc.collect()
            cpu, begin = time.process_time(), time.perf_counter()
            rivals[name]()
            seconds = time.perf_counter() - begin
            if name == OURS:
                # What is served on the training thread is served once the worker has finished, in a fit at the end
                # of a later training batch.
                recorder.wait()
                begin = time.perf_counter()
                recorder.settle()
                seconds += time.perf_counter() - begin
            logger.experiment.flush()
            self.cpu[name].append(time.process_time() - cpu)
            self.seconds[name].append(seconds)


def garments(count: int, size: int = 28, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Returns drawn pictures ``[N, C, size, size]`` in 0…1, and their classes."""
    drawn = draw_garments(count, seed=0)
    images, labels = torch.from_numpy(drawn.images).float()[:, None] / 255, torch.from_numpy(drawn.labels)
    if size != images.shape[-1]:
        images = nn.functional.interpolate(images, size=(size, size), mode="bilinear")
    return images.expand(-1, channels, -1, -1).contiguous(), labels


def tutorials(probes: int) -> Setting:
    """The tutorials' network."""
    torch.manual_seed(0)
    images, labels = garments(max(IMAGES, probes))
    title = f"the tutorials' network, {probes} probes, {len(LAYERS)} layers, 28x28"
    return Setting(title, FashionMNISTClassifier(), LAYERS, images, labels, probes, BATCH)


def resnet(probes: int, small: bool) -> Setting:
    """ResNet-18."""
    torch.manual_seed(0)
    size = 64 if small else 224
    # What it is trained with is not timed, and only has to change the weights.
    images, labels = garments(max(probes, 16), size, channels=3)
    title = f"ResNet-18, {probes} probes, {len(RESNET_LAYERS)} layers, {size}x{size}"
    return Setting(title, ResNetClassifier(), RESNET_LAYERS, images, labels, probes, batch=8)


@dataclass(frozen=True)
class Goal:
    """A ratio that is asked for: its values in the rounds, and what its median is at most."""

    title: str
    values: Sequence[float]
    most: float

    def __str__(self) -> str:
        ratio = statistics.median(self.values)
        met = "met   " if ratio <= self.most else "MISSED"
        return f"{ratio:>9.3f}  {met}  at most {self.most:.3f}: {self.title}"


def trainer_of(folder: str, epochs: int, callbacks: Sequence[Callback]) -> Trainer:
    """Returns a Trainer that does nothing but train, validate and log."""
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=TensorBoardLogger(folder),
        callbacks=[*callbacks],
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def table(heading: str, seconds: Mapping[str, Sequence[float]], unit: float = 1000) -> Iterator[str]:
    """The lines of medians and ranges, by default in milliseconds."""
    shown = "median ms" if unit == 1000 else "median s"
    yield f"{heading:<38}{shown:>10}{'min':>9}{'max':>9}"
    for name, values in seconds.items():
        low, middle, high = (unit * value for value in (min(values), statistics.median(values), max(values)))
        yield f"{name:<38}{middle:>10.1f}{low:>9.1f}{high:>9.1f}"


def ratio(seconds: Seconds, over: str, under: str) -> str:
    """The line of one ratio."""
    values = ratios(seconds, over, under)
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{over} / {under}: median of {len(values)} ratios {middle:.3f} ({low:.3f} to {high:.3f})"
