"""Measures how long the callback blocks training, against the callback that people write by hand today.

    pip install grad-cam lightning-gradcam[examples]
    python benchmarks/overhead.py --epochs 20 --probes 16

In one ``Trainer.fit`` on the CPU, the end of every validation calls both callbacks on the same weights, the same probes
and the same ``TensorBoardLogger``, and times each call. Which goes first alternates from epoch to epoch, and the first
epochs are not counted. The ratio is the median of the epochs' own ratios: what slows the machine for a while slows both
sides of it. Before each call, waiting garbage is collected and the event file is flushed, so that neither callback pays
for what the other has left behind. The network is the tutorials' (``examples/fashion_mnist_model.py``), explained at
its three ReLU layers for the predicted class; the pictures are drawn, 28x28. What is timed:

- ``GradCAMCallback``: its ``on_validation_epoch_end`` with default drawing: maps, archive, a sheet a layer with input
  and overlay of every probe, its PNG, and the hand-over to TensorBoard's writer.
- By hand: pytorch-grad-cam once a layer, an overlay a probe (``show_cam_on_image``), and a matplotlib figure a layer
  of the overlays, 4 probes a row, each titled with its true and predicted class, at matplotlib's default resolution,
  given to ``add_figure``. It leaves out what would make it slower: the inputs beside the overlays (they double its
  time), axes, ``tight_layout`` and an archive.
- The maps alone, of both: ``compute_cams(…, relu=False)``, and the same by pytorch-grad-cam without any drawing.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
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
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import GradCAMCallback, ProbeSet, compute_cams

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import matplotlib.pyplot as plt
from drawn_garments import CLASS_NAMES, draw_garments
from fashion_mnist_model import FashionMNISTClassifier

LAYERS = ["network.relu1", "network.relu2", "network.relu3"]
IMAGES, BATCH, WARM_UP = 256, 128, 3
OURS, BY_HAND = "GradCAMCallback", "by hand"
OUR_MAPS, MAPS_BY_HAND = "  of which maps (compute_cams)", "  of which maps (pytorch-grad-cam)"


class HandRolledGradCAM(Callback):
    """Logs a figure a layer, as a competent user of pytorch-grad-cam and matplotlib would."""

    def __init__(self, probes: ProbeSet) -> None:
        assert probes.labels is not None
        self.inputs = probes.inputs
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
            for layer in LAYERS:
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


class TimedGradCAM(GradCAMCallback):
    """At every validation's end, times itself, the callback by hand, and the maps alone of both, into ``seconds``."""

    def __init__(self, probes: ProbeSet, by_hand: HandRolledGradCAM) -> None:
        # A failure that is only warned of would be timed as a fast epoch.
        super().__init__(LAYERS, probes=probes, on_error="raise")
        self.inputs, self.by_hand = probes.inputs, by_hand
        self.seconds: dict[str, list[float]] = {OURS: [], OUR_MAPS: [], BY_HAND: [], MAPS_BY_HAND: []}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Times each rival once, in an order that alternates."""
        logger = trainer.logger
        assert isinstance(logger, TensorBoardLogger)
        explain = super().on_validation_epoch_end
        rivals: list[tuple[str, Callable[[], object]]] = [
            (OURS, lambda: explain(trainer, pl_module)),
            (BY_HAND, lambda: self.by_hand.on_validation_epoch_end(trainer, pl_module)),
            (OUR_MAPS, lambda: compute_cams(pl_module, self.inputs, LAYERS, relu=False)),
            (MAPS_BY_HAND, lambda: self.by_hand.maps(pl_module)),
        ]
        for name, call in rivals if trainer.current_epoch % 2 == 0 else reversed(rivals):
            gc.collect()
            logger.experiment.flush()
            begin = time.perf_counter()
            call()
            self.seconds[name].append(time.perf_counter() - begin)


def measure(epochs: int, probes: int) -> dict[str, list[float]]:
    """Trains for the warm-up and ``epochs`` more, and returns the seconds of every counted epoch."""
    garments = draw_garments(max(IMAGES, probes), seed=0)
    images, labels = torch.from_numpy(garments.images).float()[:, None] / 255, torch.from_numpy(garments.labels)
    loader = DataLoader(TensorDataset(images, labels), BATCH)
    explained = ProbeSet(images[:probes], labels=labels[:probes], class_names=CLASS_NAMES)
    callback = TimedGradCAM(explained, HandRolledGradCAM(explained))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=WARM_UP + epochs,
            logger=TensorBoardLogger(folder),
            callbacks=[callback],
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(FashionMNISTClassifier(), loader, loader)
    return {name: seconds[WARM_UP:] for name, seconds in callback.seconds.items()}


def table(seconds: dict[str, list[float]]) -> str:
    """Returns the medians and ranges in milliseconds, and the ratio of the two callbacks."""
    lines = [f"{'each logged epoch':<36}{'median ms':>10}{'min':>8}{'max':>8}"]
    for name, values in seconds.items():
        low, middle, high = (1000 * value for value in (min(values), statistics.median(values), max(values)))
        lines.append(f"{name:<36}{middle:>10.1f}{low:>8.1f}{high:>8.1f}")
    ratios = [ours / by_hand for ours, by_hand in zip(seconds[OURS], seconds[BY_HAND], strict=True)]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    lines += ["", f"{OURS} / {BY_HAND}: median of {len(ratios)} epochs' ratios {middle:.3f} ({low:.3f} to {high:.3f})"]
    return "\n".join(lines)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}; give 1 or more")
    return int(text)


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Times GradCAMCallback against a hand-rolled Grad-CAM callback.")
    parser.add_argument("--epochs", type=_positive, default=20, help="logged epochs that count")
    parser.add_argument("--probes", type=_positive, default=16, help="pictures that are explained in every epoch")
    parser.add_argument("--threads", type=_positive, help="of torch; default: torch's own choice")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"{options.probes} probes, {len(LAYERS)} layers, 28x28 inputs, on the CPU")
    print(table(measure(options.epochs, options.probes)))
    versions = [f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "grad-cam", "matplotlib")]
    print(f"{', '.join(versions)}; {os.cpu_count()} CPUs, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
