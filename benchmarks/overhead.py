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
from pathlib import Path
from typing import Any

import matplotlib
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from lightning_gradcam import GradCAMCallback, ProbeSet, compute_cams

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawn_garments import CLASS_NAMES
from fashion_mnist_model import FashionMNISTClassifier

from benchmarks.common import environment, positive, read
from benchmarks.compute import ratios
from benchmarks.fits import (
    BATCH,
    BY_HAND,
    LAYERS,
    LIMIT,
    MAPS_BY_HAND,
    OUR_MAPS,
    OURS,
    OWN_BACKGROUND,
    OWN_BLOCKING,
    RESNET_LAYERS,
    ResNetClassifier,
    Seconds,
    Setting,
    TimedGradCAM,
    garments,
    resnet,
    tutorials,
)

SMALL_PICTURES, LARGE_PICTURES, CPU, FIT, WORKER = "28x28", "224x224", "cpu", "fit", "worker"
SECTIONS = (SMALL_PICTURES, LARGE_PICTURES, CPU, FIT, WORKER)
WARM_UP = 3
FIT_IMAGES, FIT_VALIDATION, EPOCH_SECONDS = 2048, 256, 20.0
# The epochs have to last that long on a machine that runs faster than it did in the trial.
MARGIN = 1.15
WITH, WITHOUT, EXPLAINING = "fit with the callback", "fit without", "fit with maps alone (compute_cams)"
OF_BY_HAND, OF_LIMIT, OF_FIT = 1 / 30, 1.3, 1.02
# Of the section `worker`: seconds between two validations, how many there are, and batches.
APART, VALIDATIONS, WORKER_SIDE, WORKER_BATCH = 4.0, 6, 96, 8
OF_WORKER_FIT, OF_WORKER_STEP = 1.15, 1.03


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
