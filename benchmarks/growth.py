"""Measures whether anything grows while the callback logs a thousand steps.

    pip install -e ".[examples]"
    python benchmarks/growth.py

One ``Trainer.fit`` of the tutorials' network (``examples/fashion_mnist_model.py``) with a ``TensorBoardLogger``, on
drawn pictures: one training batch an epoch, a validation after each, and after each of these 16 probes at three layers
are explained, drawn and logged. Every 50 steps one line, of the steps since the last line:

- ``archive``: bytes of a step's file in the archive, the largest of them. The manifest and the probes are written once
  and not counted.
- ``events``: what the event file has grown by a step; the training's own numbers are in it.
- ``blocking`` and ``background``: the medians of what the callback logs of its own time. After each step the worker is
  waited for, outside these times, as it would be idle after an epoch of any length; the steps here are shorter than
  what it does.
- ``threads`` and ``files``: the process's own, at the line.
- ``resident``: the process's resident memory at the line, after a garbage collection (Linux alone).

The goals compare the second tenth of the steps with the last tenth (of 1,000 steps: 100-200 with 900-1,000), and the
state after a fifth of them (200) with the last.

A second section measures what resuming costs where an archive holds 2,000 steps; ``resuming.py`` describes its lines.

    python benchmarks/growth.py --end

measures instead what the end of a large run draws: film strips, animations and ``report.html`` of 40 layers, 128 probes
and 10 epochs at 224x224, from an archive of random maps (ten layers each of 56x56, 28x28, 14x14 and 7x7) that is
written first. Printed are the seconds of each kind of part and of the longest part, the bytes of the files, and how far
the resident memory rises at its peak, with the finished pictures, above its level before.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import CamKey, CamRecord, Drawing, GradCAMCallback, ProbeSet
from lightning_gradcam.archive import ArchiveWriter, Manifest
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.evolution import Evolving
from lightning_gradcam.report import REPORT, write_report
from lightning_gradcam.sinks import Entry, Numbers, Sink

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawn_garments import CLASS_NAMES, draw_garments
from fashion_mnist_model import FashionMNISTClassifier

from benchmarks.common import environment, positive, read
from benchmarks.resuming import STEPS, resuming

LAYERS = ["network.relu1", "network.relu2", "network.relu3"]
BATCH = 32
# Of the maps of a large run, and what its parts are called.
SIDES = (56, 28, 14, 7)
KINDS = ("reading step", "the film strip", "the animation", "the rows", "the report")
ARCHIVE_BYTES, OF_EARLY, OF_FIRST_MEMORY = 100_000, 1.2, 1.05
# Steps are told apart in the files' own names and numbers.
OF_FIRST_BYTES = 1.01
PROCESS = Path("/proc/self")
MIB = 2**20


@dataclass(frozen=True)
class Line:
    """The state after a step, and sizes and times of the steps since the line before.

    Attributes:
        step: How many steps are logged.
        archive: The largest step file, in bytes.
        smallest: The smallest.
        events: Bytes a step.
        blocking: Median seconds.
        background: Likewise.
        threads: Of the process.
        files: Open ones of the process.
        resident: Bytes of memory.
    """

    step: int
    archive: int
    smallest: int
    events: float
    blocking: float
    background: float
    threads: int
    files: int
    resident: int

    def __str__(self) -> str:
        times = f"{1000 * self.blocking:>10.2f}{1000 * self.background:>12.2f}"
        state = f"{self.threads:>9}{self.files:>7}{self.resident / MIB:>14.1f}"
        return f"{self.step:>6}{self.archive:>15}{self.events:>14.0f}{times}{state}"


HEADING = (
    f"{'steps':>6}{'archive B/step':>15}{'events B/step':>14}{'blocking':>10}{'background':>12}{'threads':>9}"
    f"{'files':>7}{'resident MiB':>14}"
)


class Times(Sink):
    """Keeps what the callback says of its own time, and none of its pictures."""

    thread_safe = True

    def __init__(self) -> None:
        self.blocking: list[float] = []
        self.background: list[float] = []

    def log(self, entry: Entry) -> None:
        """Drops the pictures."""

    def log_numbers(self, numbers: Numbers) -> None:
        """Keeps both times of the step."""
        if "gradcam_stats/seconds" in numbers.values:
            self.blocking.append(numbers.values["gradcam_stats/seconds"])
            self.background.append(numbers.values["gradcam_stats/background_seconds"])


class Watch(Callback):
    """After every step, waits until it is written; after every ``every`` steps, adds to ``lines`` and prints.

    Args:
        callback: The one that logs.
        times: Its sink.
        every: Steps a line.
    """

    def __init__(self, callback: GradCAMCallback, times: Times, every: int) -> None:
        self.callback, self.times, self.every = callback, times, every
        self.lines: list[Line] = []
        self._events = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes how large the event file is before the first step."""
        self._events = _event_bytes(trainer)

    # After `on_validation_epoch_end` of all callbacks, whatever their order.
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits, and reads."""
        recorder = self.callback._run.recorder
        assert recorder is not None
        recorder.finish()
        step = trainer.current_epoch + 1
        assert len(self.times.blocking) == step
        if step % self.every == 0:
            self.lines.append(self._line(trainer, step))
            print(self.lines[-1], flush=True)

    def _line(self, trainer: Trainer, step: int) -> Line:
        events = _event_bytes(trainer)
        archive = self.callback.archive
        assert archive is not None
        sizes = [size for _, size in sorted(_sizes(Path(archive.path, "steps")))]
        assert len(sizes) == step, f"{len(sizes)} files of {step} steps"
        since = slice(step - self.every, step)
        gc.collect()
        line = Line(
            step=step,
            archive=max(sizes[since]),
            smallest=min(sizes[since]),
            events=(events - self._events) / self.every,
            blocking=statistics.median(self.times.blocking[since]),
            background=statistics.median(self.times.background[since]),
            threads=_status("Threads"),
            files=len(os.listdir(PROCESS / "fd")),
            resident=1024 * _status("VmRSS"),
        )
        self._events = events
        return line


def _event_bytes(trainer: Trainer) -> int:
    assert isinstance(trainer.logger, TensorBoardLogger)
    trainer.logger.experiment.flush()
    return sum(size for name, size in _sizes(Path(trainer.logger.log_dir)) if "tfevents" in name)


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    yield from ((entry.name, entry.stat().st_size) for entry in os.scandir(folder) if entry.is_file())


def _status(field: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def measure(steps: int, every: int, probes: int) -> tuple[list[Line], Times]:
    """Trains and logs.

    Args:
        steps: How many are logged.
        every: Steps a line.
        probes: How many pictures are explained.

    Returns:
        All lines, and the times of every step.
    """
    garments = draw_garments(max(BATCH, probes), seed=0)
    images, labels = torch.from_numpy(garments.images).float()[:, None] / 255, torch.from_numpy(garments.labels)
    loader = DataLoader(TensorDataset(images[:BATCH], labels[:BATCH]), BATCH)
    explained = ProbeSet(images[:probes], labels=labels[:probes], class_names=CLASS_NAMES)
    torch.manual_seed(0)
    times = Times()
    # A failure that is only warned of would look like a step that costs nothing.
    callback = GradCAMCallback(LAYERS, probes=explained, on_error="raise", sinks=[times])
    watch = Watch(callback, times, every)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=steps,
            logger=TensorBoardLogger(folder),
            callbacks=[callback, watch],
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(FashionMNISTClassifier(), loader, loader)
    return watch.lines, times


def goals(lines: Sequence[Line], times: Times, steps: int) -> Iterator[str]:
    """Every goal's figure, and whether it is met."""
    largest, smallest = max(line.archive for line in lines), min(line.smallest for line in lines)
    yield _goal(largest, ARCHIVE_BYTES, "bytes of the largest step file")
    yield _goal(largest / smallest, OF_FIRST_BYTES, "largest / smallest step file")
    first = next(line for line in lines if line.step >= steps // 5)
    last = lines[-1]
    events = max(line.events for line in lines if line.step >= first.step) / first.events
    yield _goal(events, OF_EARLY, f"event-file bytes a step, largest later / at {first.step}")
    tenth = max(steps // 10, 1)
    for name, values in (("blocking", times.blocking), ("background", times.background)):
        early, late = statistics.median(values[tenth : 2 * tenth]), statistics.median(values[-tenth:])
        where = f"median of the last {tenth} / of {tenth}-{2 * tenth}"
        yield _goal(late / early, OF_EARLY, f"{name} seconds a step, {where}")
    since = f"at {last.step} / at {first.step}"
    yield _goal(last.threads / first.threads, 1, f"threads, {since}")
    yield _goal(last.files / first.files, 1, f"open files, {since}")
    yield _goal(last.resident / first.resident, OF_FIRST_MEMORY, f"resident memory, {since}")


# ---- the end of a large run


def write_run(
    folder: str, layers: int, probes: int, epochs: int, size: int
) -> tuple[ArchiveWriter, CamMonitor, ProbeSet]:
    """Writes the archive of a large run, with random maps.

    Args:
        folder: Where to.
        layers: How many, of four sizes in turn.
        probes: How many.
        epochs: As many steps.
        size: Of the probes' pictures.
    """
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (probes, 8, 8, 3)).astype(np.uint8)
    display = np.stack(
        [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in small]
    )
    explained = ProbeSet(torch.zeros(probes, 1, 2, 2), labels=torch.arange(probes) % 10, display=display)
    sides = [SIDES[layer * len(SIDES) // layers] for layer in range(layers)]
    shapes = {f"net.layer{place}": [side, side] for place, side in enumerate(sides)}
    targets, methods = ("predicted",), ("gradcam",)
    manifest = Manifest("run", "gradcam", tuple(shapes), methods, targets, "logit", shapes, explained.fingerprint)
    archive, _ = ArchiveWriter.start(str(Path(folder, "gradcam")), manifest, explained)
    for epoch in range(epochs):
        archive.append(
            CamRecord(
                epoch=epoch,
                step=epoch,
                stage="fit",
                score="logit",
                probe_ids=explained.ids,
                maps={
                    CamKey(layer, "gradcam", "predicted"): generator.standard_normal((probes, *shape), np.float32)
                    for layer, shape in shapes.items()
                },
                scores={"predicted": np.ones(probes, np.float32)},
                classes={"predicted": np.zeros(probes, np.int64)},
                predicted=generator.integers(0, 10, probes),
                confidence=generator.random(probes, np.float32),
            )
        )
    plan = CamMonitor("gradcam", list(shapes), "gradcam", "predicted", "logit", Drawing())
    return archive, plan, explained


def end_of_run(layers: int, probes: int, epochs: int, size: int) -> Iterator[str]:
    """Draws the end of a large run, and yields its figures."""
    with tempfile.TemporaryDirectory() as folder:
        archive, plan, explained = write_run(folder, layers, probes, epochs, size)
        peaks = {
            CamKey(layer, "gradcam", "predicted"): np.full(probes, 4, np.float32) for layer in archive.manifest.layers
        }
        gc.collect()
        Path(PROCESS / "clear_refs").write_text("5")
        before, cpu = _status("VmRSS"), time.process_time()
        seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        evolving = Evolving(archive, plan, explained, peaks, ended=True, rows=True)
        page = str(Path(archive.path, REPORT))
        report: list[tuple[str, Callable[[], object]]] = [("the report", partial(write_report, [archive], page))]
        longest = 0.0
        # One after the other: a list of all parts would hold no maps when they are drawn.
        for name, draw in chain(evolving.parts(), report):
            begin = time.perf_counter()
            draw()
            took = time.perf_counter() - begin
            longest = max(longest, took) if name != "the report" else longest
            seconds[next(kind for kind in KINDS if name.startswith(kind))] += took
        cpu = time.process_time() - cpu
        peak = 1024 * (_status("VmHWM") - before)
        drawn = sum(size for _, size in _sizes(Path(archive.path, "evolution")))
        raw = sum(size for _, size in _sizes(Path(archive.path, "steps")))
        found = evolving.result()
        yield f"{layers} layers, {probes} probes, {epochs} epochs, {size}x{size}; archive {raw / MIB:.0f} MiB"
        yield f"{len(found.strips)} film strips, {len(found.animations)} animations, {len(found.rows)} rows"
        yield "\n".join(f"{kind:<24}{took:>8.1f} s" for kind, took in seconds.items())
        yield f"longest part{longest:>20.1f} s; all {sum(seconds.values()):.1f} s, {cpu:.1f} s of CPU time"
        yield f"peak memory above start {peak / MIB:.0f} MiB; strips and animations on disk {drawn / MIB:.0f} MiB"
        yield f"report.html {Path(archive.path, REPORT).stat().st_size / MIB:.0f} MiB"
        yield found.remark


def _goal(value: float, most: float, title: str) -> str:
    shown, asked = (f"{value:.0f}", f"{most:.0f}") if most > 1000 else (f"{value:.3f}", f"{most:.2f}")
    return f"{shown:>9}  {'met   ' if value <= most else 'MISSED'}  at most {asked}: {title}"


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, trains, measures and prints."""
    parser = argparse.ArgumentParser(description="Watches sizes, times and memory while GradCAMCallback logs.")
    parser.add_argument("--steps", type=positive, default=1000, help="steps that are logged")
    parser.add_argument("--every", type=positive, default=50, help="steps a line")
    parser.add_argument("--probes", type=positive, default=16, help="pictures that are explained in every step")
    parser.add_argument("--resumed", type=positive, default=STEPS, help="steps in the archive that is resumed")
    parser.add_argument("--end", action="store_true", help="draw the end of a large run instead")
    options = read(parser, arguments)
    if options.every > options.steps // 5:
        parser.error(f"--every: got {options.every}; give a fifth of the {options.steps} steps at most")
    if not PROCESS.exists():
        raise SystemExit(f"memory can't be measured here: there is no {PROCESS}; run it on Linux")
    if options.end:
        for line in end_of_run(40, 128, 10, 224):
            print(line, flush=True)
        return
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"the tutorials' network, {options.probes} probes, {len(LAYERS)} layers, 28x28, on the CPU; times in ms")
    print(HEADING)
    lines, times = measure(options.steps, options.every, options.probes)
    print("\ngoals")
    print("\n".join(goals(lines, times, options.steps)))
    print()
    for line in resuming(options.resumed):
        print(line, flush=True)
    names = ("lightning-gradcam", "torch", "pytorch-lightning", "tensorboard")
    print(f"\n{environment(*names)}")


if __name__ == "__main__":
    main()
