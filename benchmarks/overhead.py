"""Measures what the callback costs training, against the callback that people write by hand today and a bare limit.

    pip install -e ".[dev]"
    python benchmarks/overhead.py --threads 2

Sections (``--sections``), all on the CPU:

- ``28x28``: the tutorials' network (``examples/fashion_mnist_model.py``) at its three ReLU layers.
- ``224x224``: torchvision's ResNet-18 with random weights and ten classes at ``layer2``, ``layer3`` and ``layer4``.
- ``cpu``: CPU seconds of the same calls, of all threads; on its own it measures both sizes.
- ``fit``: a whole ``Trainer.fit`` of the tutorials' network with the callback and without.
- ``worker``: short fits of ResNet-18 at 96x96 whose worker is busy for much of the time, with the callback and without.

The first two: in one ``Trainer.fit``, the end of every validation calls all rivals on the same weights, the same probes
and the same ``TensorBoardLogger``, and times each call. Their order turns round from epoch to epoch, and the first
epochs are not counted. A ratio is the median of the epochs' own ratios: what slows the machine for a while slows both
sides of it. Before each call, waiting garbage is collected; after each, what it has left to background threads is
waited for, outside the timing, so that no rival pays for another. The pictures are drawn; at 224x224 they are
enlarged, which makes them smoother than photographs and their files smaller. All is explained for the predicted class.
What is timed:

- ``GradCAMCallback, blocking``: its ``on_validation_epoch_end`` with default drawing, up to its return, and what it
  does on the training thread once the pictures are finished (in a fit: at the end of the next training batch). Maps,
  their copy and the hand-over to the worker are in it; archive, a sheet a layer with input and overlay of every probe,
  its file and TensorBoard's writer are the worker's.
- ``by its own account``: what it logs itself as ``gradcam_stats/seconds`` and ``gradcam_stats/background_seconds``.
- ``by hand``: pytorch-grad-cam once a layer, an overlay a probe (``show_cam_on_image``), and a matplotlib figure a
  layer of the overlays, 4 probes a row, each titled with its true and predicted class, at matplotlib's default
  resolution, given to ``add_figure``. It leaves out what would make it slower: the inputs beside the overlays (they
  double its time), axes, ``tight_layout`` and an archive.
- ``limit``: the hand-written limit of ``benchmarks/compute.py``, whose maps are compared with ours there: one forward
  and one backward for these layers, nothing checked, guarded, copied or drawn.
- The maps alone, of both: ``compute_cams(…, relu=False)``, and the same by pytorch-grad-cam without any drawing.

CPU seconds are those of the whole process (``time.process_time``) from the call until all that it started has ended,
the worker and TensorBoard's writer included.

The section ``fit`` draws its training pictures anew from a small set, as many as make an epoch last 20 seconds here,
which a first fit finds out. Fits with and without the callback come in pairs, all from the same weights and batches;
which one goes first alternates. A fit's time is that of all of ``trainer.fit``: the probes, the first explanation,
which checks the configuration, and the wait for the last pictures included.

The section ``worker`` asks what drawing in the background costs where it has least time: six validations, four seconds
apart, after each of which 16 probes at three layers are explained, drawn and logged to TensorBoard, film strips after
the first, second and fourth, and at the end strips, animations and the report. Fits come in threes: with the callback,
with a bare callback that computes the same maps and drops them, and with neither; the order turns round. Compared are
the times of ``trainer.fit``, and the median times of a training step, of all but the first epoch's first steps.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import statistics
import sys
import tempfile
import time
import warnings
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
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from torchvision.models import resnet18

from lightning_gradcam import GradCAMCallback, ProbeSet, compute_cams
from lightning_gradcam.sinks import Entry, Numbers, Sink

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
from drawn_garments import CLASS_NAMES, draw_garments
from fashion_mnist_model import FashionMNISTClassifier

from benchmarks.common import environment, positive, read
from benchmarks.compute import Case, limit, ratios

SMALL_PICTURES, LARGE_PICTURES, CPU, FIT, WORKER = "28x28", "224x224", "cpu", "fit", "worker"
SECTIONS = (SMALL_PICTURES, LARGE_PICTURES, CPU, FIT, WORKER)
LAYERS = ["network.relu1", "network.relu2", "network.relu3"]
RESNET_LAYERS = ["network.layer2", "network.layer3", "network.layer4"]
IMAGES, BATCH, WARM_UP = 256, 128, 3
FIT_IMAGES, FIT_VALIDATION, EPOCH_SECONDS = 2048, 256, 20.0
# The epochs have to last that long on a machine that runs faster than it did in the trial.
MARGIN = 1.15
OURS, BY_HAND, LIMIT = "GradCAMCallback, blocking", "by hand", "limit"
OUR_MAPS, MAPS_BY_HAND = "  its maps alone (compute_cams)", "  its maps alone (pytorch-grad-cam)"
OWN_BLOCKING, OWN_BACKGROUND = "  by its own account: blocking", "  by its own account: background"
WITH, WITHOUT, EXPLAINING = "fit with the callback", "fit without", "fit with maps alone (compute_cams)"
OF_BY_HAND, OF_LIMIT, OF_FIT = 1 / 30, 1.3, 1.02
# Of the section `worker`: seconds between two validations, how many there are, and batches.
APART, VALIDATIONS, WORKER_SIDE, WORKER_BATCH = 4.0, 6, 96, 8
OF_WORKER_FIT, OF_WORKER_STEP = 1.15, 1.03

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


# ---- the settings


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


# ---- each logged epoch


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


def measure(setting: Setting, epochs: int) -> tuple[Seconds, Seconds]:
    """Trains for the warm-up and ``epochs`` more.

    Returns:
        The seconds of blocking, and the CPU seconds, of every counted epoch.
    """
    loader = DataLoader(TensorDataset(setting.images, setting.labels), setting.batch)
    callback = TimedGradCAM(setting)
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(folder, WARM_UP + epochs, [callback]).fit(setting.module, loader, loader)
    seconds = {**callback.seconds, **callback.own.seconds}
    order = (OURS, OUR_MAPS, OWN_BLOCKING, OWN_BACKGROUND, LIMIT, BY_HAND, MAPS_BY_HAND)
    return {name: seconds[name][WARM_UP:] for name in order}, {
        name: values[WARM_UP:] for name, values in callback.cpu.items()
    }


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


def compare(setting: Setting, epochs: int, *, blocking: bool, cpu: bool) -> list[Goal]:
    """Measures one setting and prints its tables.

    Args:
        setting: What is measured.
        epochs: Logged epochs that count.
        blocking: Print how long training is blocked.
        cpu: Print CPU seconds.

    Returns:
        The goals of what is printed.
    """
    print(f"\n{setting.title}")
    seconds, cpu_seconds = measure(setting, epochs)
    if blocking:
        print("\n".join(table("each logged epoch, wall clock", seconds)))
        print("\n".join(ratio(seconds, OURS, under) for under in (BY_HAND, LIMIT)))
    if cpu:
        both = {"GradCAMCallback, worker included": cpu_seconds[OURS], BY_HAND: cpu_seconds[BY_HAND]}
        both[LIMIT] = cpu_seconds[LIMIT]
        print("\n".join(table("each logged epoch, CPU time", both)))
        print(ratio(both, next(iter(both)), BY_HAND))
    if not blocking:
        return []
    if isinstance(setting.module, ResNetClassifier):
        return [Goal(f"{OURS} / {LIMIT}, {setting.title}", ratios(seconds, OURS, LIMIT), OF_LIMIT)]
    return [Goal(f"{OURS} / {BY_HAND}, {setting.title}", ratios(seconds, OURS, BY_HAND), OF_BY_HAND)]


# ---- a whole fit


def fit(setting: Setting, images: int, epochs: int, callbacks: Sequence[Callback]) -> tuple[float, float]:
    """Trains the tutorials' network from the same weights and batches every time.

    Args:
        setting: Where pictures and probes come from.
        images: How many pictures an epoch has.
        epochs: How many epochs.
        callbacks: The Trainer's.

    Returns:
        Wall-clock and CPU seconds of ``trainer.fit``.
    """
    torch.manual_seed(0)
    module = FashionMNISTClassifier()
    data = TensorDataset(setting.images, setting.labels)
    order = RandomSampler(data, replacement=True, num_samples=images, generator=torch.Generator().manual_seed(0))
    training = DataLoader(data, setting.batch, sampler=order)
    validation = DataLoader(TensorDataset(setting.images[:FIT_VALIDATION], setting.labels[:FIT_VALIDATION]), BATCH)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(folder, epochs, callbacks)
        gc.collect()
        cpu, begin = time.process_time(), time.perf_counter()
        trainer.fit(module, training, validation)
        return time.perf_counter() - begin, time.process_time() - cpu


def compare_fits(probes: int, pairs: int, epochs: int, small: bool) -> list[Goal]:
    """Measures pairs of fits with and without the callback, and prints their table.

    Args:
        probes: How many are explained.
        pairs: How many pairs.
        epochs: Of each fit.
        small: Much shorter epochs.

    Returns:
        The goal.
    """
    images, labels = garments(max(FIT_IMAGES, probes))
    setting = Setting("fit", FashionMNISTClassifier(), LAYERS, images, labels, probes, BATCH)
    asked, trial = (0.5, 2 * BATCH) if small else (EPOCH_SECONDS, 32 * BATCH)

    def ours() -> GradCAMCallback:
        return GradCAMCallback(LAYERS, probes=setting.explained, on_error="raise")

    # Both kinds once, so that nothing is loaded or compiled in what is measured; then the speed.
    fit(setting, BATCH, 1, [ours()])
    fit(setting, trial, 1, [])
    second = fit(setting, trial, 1, [])[0] / trial
    count = math.ceil(MARGIN * asked / second / BATCH) * BATCH
    print(
        f"\na whole fit of the tutorials' network: {epochs} epochs of {count} pictures, {probes} probes logged in each"
    )
    wall: Seconds = {WITH: [], WITHOUT: []}
    cpu: Seconds = {WITH: [], WITHOUT: []}
    for number in range(pairs):
        order = [WITH, WITHOUT] if number % 2 == 0 else [WITHOUT, WITH]
        for name in order:
            seconds, cpu_seconds = fit(setting, count, epochs, [ours()] if name == WITH else [])
            wall[name].append(seconds)
            cpu[name].append(cpu_seconds)
    print("\n".join(table("wall clock", wall, unit=1)))
    print(ratio(wall, WITH, WITHOUT))
    print("\n".join(table("CPU time", cpu, unit=1)))
    print(ratio(cpu, WITH, WITHOUT))
    shortest = min(wall[WITHOUT]) / epochs
    short = "" if shortest >= asked else f", LESS than the {asked:g} s that the goal asks for"
    print(f"epochs without the callback took {shortest:.1f} s or more each{short}")
    return [Goal(f"{WITH} / {WITHOUT}, epochs of {shortest:.1f} s", ratios(wall, WITH, WITHOUT), OF_FIT)]


# ---- training steps beside a busy worker


class Steps(Callback):
    """Times every training step; listed first, so that no other callback's work is in it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Begins."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Ends."""
        self.seconds.append(time.perf_counter() - self._began)


class Explaining(Callback):
    """Computes the maps at every validation's end, and drops them."""

    def __init__(self, probes: ProbeSet) -> None:
        self.inputs = probes.inputs

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes."""
        compute_cams(pl_module, self.inputs, RESNET_LAYERS, relu=False)


def busy_fit(images: Tensor, labels: Tensor, steps: int, callbacks: Sequence[Callback]) -> tuple[float, float]:
    """Trains ResNet-18, from the same weights and batches every time.

    Args:
        images: What it is trained with, in turn.
        labels: Their classes.
        steps: Training steps before each validation.
        callbacks: The Trainer's, after the one that times its steps.

    Returns:
        Seconds of ``trainer.fit``, and the median of a training step's.
    """
    torch.manual_seed(0)
    module, data, timer = ResNetClassifier(), TensorDataset(images, labels), Steps()
    order = RandomSampler(data, True, steps * WORKER_BATCH, generator=torch.Generator().manual_seed(0))
    validation = DataLoader(TensorDataset(images[:WORKER_BATCH], labels[:WORKER_BATCH]), WORKER_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(folder, VALIDATIONS, [timer, *callbacks])
        gc.collect()
        begin = time.perf_counter()
        trainer.fit(module, DataLoader(data, WORKER_BATCH, sampler=order), validation)
        seconds = time.perf_counter() - begin
    return seconds, statistics.median(timer.seconds[min(5, steps // 2) :])


def compare_busy_fits(probes: int, rounds: int, small: bool) -> list[Goal]:
    """Measures fits with the callback, with maps alone and with neither, and prints their tables.

    Args:
        probes: How many are explained.
        rounds: How many fits of each kind.
        small: Much shorter fits.

    Returns:
        The goals.
    """
    images, labels = garments(max(256, probes), WORKER_SIDE, channels=3)
    explained = ProbeSet(images[:probes], labels=labels[:probes], class_names=CLASS_NAMES)
    kinds: dict[str, Callable[[], list[Callback]]] = {
        WITH: lambda: [GradCAMCallback(RESNET_LAYERS, probes=explained, on_error="raise")],
        EXPLAINING: lambda: [Explaining(explained)],
        WITHOUT: lambda: [],
    }
    # All that is loaded or compiled once, and then the speed.
    for make in kinds.values():
        busy_fit(images, labels, 2, make())
    steps = 2 if small else math.ceil(APART / busy_fit(images, labels, 5, [])[1])
    print(
        f"\nResNet-18, {WORKER_SIDE}x{WORKER_SIDE}, {VALIDATIONS} validations after {steps} steps of {WORKER_BATCH}"
        f" pictures each; {probes} probes, {len(RESNET_LAYERS)} layers"
    )
    fits: Seconds = {name: [] for name in kinds}
    medians: Seconds = {name: [] for name in kinds}
    for number in range(rounds):
        for name in kinds if number % 2 == 0 else reversed(kinds):
            seconds, median = busy_fit(images, labels, steps, kinds[name]())
            fits[name].append(seconds)
            medians[name].append(median)
    print("\n".join(table("whole fit", fits, unit=1)))
    print("\n".join(ratio(fits, over, WITHOUT) for over in (WITH, EXPLAINING)))
    print("\n".join(table("a training step, median of a fit", medians)))
    print("\n".join(ratio(medians, over, WITHOUT) for over in (WITH, EXPLAINING)))
    apart = min(fits[WITHOUT]) / VALIDATIONS
    return [
        Goal(f"{WITH} / {WITHOUT}, validations {apart:.1f} s apart", ratios(fits, WITH, WITHOUT), OF_WORKER_FIT),
        Goal("a training step with the callback / without", ratios(medians, WITH, WITHOUT), OF_WORKER_STEP),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Times GradCAMCallback against a hand-rolled callback and a limit.")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--epochs", type=positive, default=20, help="logged epochs that count, of each size")
    parser.add_argument("--probes", type=positive, default=16, help="pictures that are explained in every epoch")
    parser.add_argument("--fit-pairs", type=positive, default=3, help="fits with the callback, and as many without")
    parser.add_argument("--fit-epochs", type=positive, default=3, help="epochs of each fit")
    parser.add_argument("--small", action="store_true", help="small pictures and short epochs, to see that it runs")
    options = read(parser, arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    sections, goals = options.sections, []
    print(f"{options.epochs} logged epochs after {WARM_UP} to warm up, on the CPU")
    sizes = [name for name in (SMALL_PICTURES, LARGE_PICTURES) if name in sections]
    for name in sizes or ([SMALL_PICTURES, LARGE_PICTURES] if CPU in sections else []):
        built = tutorials(options.probes) if name == SMALL_PICTURES else resnet(options.probes, options.small)
        goals += compare(built, options.epochs, blocking=name in sections, cpu=CPU in sections)
    if FIT in sections:
        goals += compare_fits(options.probes, options.fit_pairs, options.fit_epochs, options.small)
    if WORKER in sections:
        goals += compare_busy_fits(options.probes, options.fit_pairs, options.small)
    if goals:
        print("\ngoals: medians of the rounds' ratios")
        print("\n".join(map(str, goals)))
    names = ("lightning-gradcam", "torch", "torchvision", "pytorch-lightning", "grad-cam", "matplotlib")
    print(f"\n{environment(*names)}")


if __name__ == "__main__":
    main()
