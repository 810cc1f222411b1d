"""The sections ``fit`` and ``worker`` of benchmarks/overhead.py: whole fits, with the callback and without.

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

import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from lightning_gradcam import GradCAMCallback, ProbeSet, compute_cams

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawn_garments import CLASS_NAMES
from fashion_mnist_model import FashionMNISTClassifier

from benchmarks.compute import ratios
from benchmarks.fits import (
    BATCH,
    LAYERS,
    RESNET_LAYERS,
    Goal,
    ResNetClassifier,
    Seconds,
    Setting,
    garments,
    ratio,
    table,
    trainer_of,
)

FIT_IMAGES, FIT_VALIDATION, EPOCH_SECONDS = 2048, 256, 20.0
# The epochs must last EPOCH_SECONDS even if the machine runs faster than it did in the trial.
MARGIN = 1.15
WITH, WITHOUT, EXPLAINING = "fit with the callback", "fit without", "fit with maps alone (compute_cams)"
# The section `worker`: seconds between two validations, number of validations, image size and batch size.
APART, VALIDATIONS, WORKER_SIDE, WORKER_BATCH = 4.0, 6, 96, 8
# The largest ratios of the goals.
OF_FIT, OF_WORKER_FIT, OF_WORKER_STEP = 1.02, 1.15, 1.03


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
