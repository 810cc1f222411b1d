"""SIGKILL at random moments: what was finished is there, nothing is half, and the next process goes on."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lightning_gradcam import Archive, CamKey, Entry, GradCAMCallback
from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks import FileSink
from tests.archive.test_archive import COUNT, manifest, probe_set, record
from tests.children import FORKED, LIMIT
from tests.conftest import TinyModule, loaders, trainer

KILLS, FOLDERS = 200, 20
RUNS, EPOCHS = 20, 8
BIG = CamKey("conv1", "gradcam", "predicted")


class Killed:
    """A process that tells what it has finished, until it is killed."""

    def __init__(self, work: Any, *args: Any) -> None:
        self.told: list[Any] = []
        self._pipe, theirs = FORKED.Pipe(duplex=False)
        self._process = FORKED.Process(target=_alone, args=(work, *args, theirs))
        self._process.start()
        theirs.close()

    def wait_for(self, what: str) -> None:
        """Waits until the process has told this."""
        while not self.told or self.told[-1][0] != what:
            assert self._pipe.poll(LIMIT), f"it never says {what!r} after {self.told}"
            self.told.append(self._pipe.recv())

    def kill(self) -> None:
        """Kills it, and hears what it had told until then."""
        self._process.kill()
        self.end()

    def end(self) -> None:
        """Waits for its end."""
        self._process.join()
        while True:
            try:
                self.told.append(self._pipe.recv())
            except EOFError:
                break
        self._pipe.close()

    def all(self, what: str) -> list[Any]:
        """Everything that it has told of a kind."""
        return [value for kind, value in self.told if kind == what]


def _alone(work: Any, *args: Any) -> None:
    torch.set_num_threads(1)
    work(*args)


# ---- a loop that writes


def _write(root: Path, pipe: Any) -> None:
    pipe.send(("ready", None))
    writer, _ = ArchiveWriter.start(str(root), manifest(), probe_set())
    pipe.send(("begun", None))
    sink = FileSink(f"{root}/sheets", prefix="gradcam")
    rng = np.random.default_rng(0)
    maps = {BIG: rng.standard_normal((COUNT, 160, 160)).astype(np.float32)}
    picture = Picture(rng.integers(0, 255, (120, 200, 3), np.uint8))
    step = max(writer.steps, default=0)
    while True:
        step += 10
        writer.append(record(step, step // 10, maps=maps))
        pipe.send(("step", step))
        sink.log(Entry(step, step // 10, {"gradcam/conv1": picture, "gradcam/conv2": picture}))
        pipe.send(("sheets", step))


def _check_sheets(root: Path, finished: list[int], seen: set[str]) -> None:
    sheets = {file.relative_to(root).as_posix() for file in root.glob("sheets/*/step-*")}
    names = {name.partition(".")[0] for name in sheets}
    for layer in ("conv1", "conv2"):
        assert {f"sheets/{layer}/step-{step:010d}-epoch-{step // 10:04d}" for step in finished} <= names
    for sheet in sorted(sheets - seen):
        with Image.open(root / sheet) as picture:
            picture.load()
    seen |= sheets


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_moment_leaves_every_finished_step_and_no_half_one(tmp_path: Path) -> None:
    generator = random.Random(20)
    steps_in_all = 0
    # How long the loop takes for a few steps on this machine, as busy as it is.
    pace = Killed(_write, tmp_path / "pace")
    pace.wait_for("ready")
    begin = time.monotonic()
    for _ in range(3):
        pace.wait_for("sheets")
        pace.told.append(("counted", None))
    span = time.monotonic() - begin
    pace.kill()
    for folder in range(FOLDERS):
        root, begun, seen, sheets = tmp_path / str(folder), False, set[int](), set[str]()
        finished: list[int] = []
        for _ in range(KILLS // FOLDERS):
            process = Killed(_write, root)
            process.wait_for("ready")
            # Now and then while the archive is begun, mostly while steps are written.
            time.sleep(generator.choice([0.05, 0.5, 1.5]) * span * generator.random())
            process.kill()
            begun = begun or bool(process.all("begun"))
            finished += process.all("step")
            if begun or (root / "manifest.json").exists():
                archive = Archive.open(root)
                assert set(finished) <= set(archive.steps)
                assert len(set(archive.steps)) == len(archive.steps)
                assert archive.probes.fingerprint == probe_set().fingerprint
                for index, step in enumerate(archive.steps):
                    if step not in seen:
                        assert archive.record(index).maps[BIG].shape == (COUNT, 160, 160)
                        seen.add(step)
            _check_sheets(root, process.all("sheets"), sheets)
            writer, _ = ArchiveWriter.start(str(root), manifest(), probe_set())
            last = max(writer.steps, default=0) + 10
            writer.append(record(last, last // 10, maps={BIG: np.zeros((COUNT, 160, 160), np.float32)}))
            finished.append(last)
            writer.release()
            assert Archive.open(root).steps[-1] == last
        steps_in_all += len(seen)
    # Else the kills have all met a process that was doing nothing.
    assert steps_in_all > KILLS


# ---- whole runs


class Telling(pl.Callback):
    """Tells of an epoch when its checkpoint is complete."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch:
            self.pipe.send(("saved", trainer.current_epoch - 1))


def _train(root: Path, same_folder: bool, ckpt: str | None, pipe: Any) -> None:
    pl.seed_everything(0, verbose=False)
    callback = GradCAMCallback(["net.conv1", "net.relu2"], log_untrained=True)
    keep = ModelCheckpoint(root / "checkpoints", filename="{epoch}", save_top_k=-1, enable_version_counter=False)
    logger = CSVLogger(root, name="", version="") if same_folder else False
    callbacks = [callback, Telling(pipe), keep]
    running = trainer(root, callbacks=callbacks, logger=logger, max_epochs=EPOCHS, enable_checkpointing=True)
    running.fit(TinyModule(), *loaders(), ckpt_path=ckpt)
    assert callback.archive is not None
    pipe.send(("done", (callback.archive.path, callback.archive.steps)))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[int, ...], float]:
    """The steps of an uninterrupted run, and how long it goes on after its first checkpoint."""
    process = Killed(_train, tmp_path_factory.mktemp("straight"), False, None)
    process.wait_for("saved")
    begin = time.monotonic()
    process.wait_for("done")
    span = time.monotonic() - begin
    process.end()
    return process.all("done")[0][1], span


@pytest.mark.parametrize(
    "same_folder",
    [
        pytest.param(True, id="in its own folder", marks=pytest.mark.slow),
        pytest.param(False, id="in a new folder", marks=pytest.mark.nightly),
    ],
)
def test_a_run_that_is_killed_at_any_moment_is_resumed_to_the_steps_of_an_uninterrupted_one(
    tmp_path: Path, straight: tuple[tuple[int, ...], float], same_folder: bool
) -> None:
    steps, span = straight
    assert len(steps) == EPOCHS + 1
    generator = random.Random(21)
    for number in range(RUNS // 2):
        root = tmp_path / str(number)
        process = Killed(_train, root, same_folder, None)
        process.wait_for("saved")
        time.sleep(span * generator.random())
        process.kill()
        last = process.all("saved")[-1]
        # The checkpoint may be older than the last one.
        last = generator.choice([last, max(last - 1, 0)])
        written = Archive.open(next(root.rglob("manifest.json")).parent).steps
        # A checkpoint waits for no step: those that were handed over and not yet written are lost, and reported.
        kept = tuple(step for step in steps if step in written or step > steps[last + 1])
        assert len(steps) - len(kept) <= 4
        resumed = Killed(_train, root, same_folder, str(root / f"checkpoints/epoch={last}.ckpt"))
        resumed.wait_for("done")
        resumed.end()
        assert resumed.all("saved")[:1] == [last] if last < EPOCHS - 1 else True
        path, told = resumed.all("done")[0]
        archive = Archive.open(path)
        assert told == archive.steps == kept, f"killed at {process.told}, resumed from {last}"
        assert (Path(path) == root / "gradcam") == same_folder
        for index in range(len(kept)):
            assert set(archive.record(index).maps) == set(archive.record(0).maps)
        assert archive.maps("net.relu2").shape[0] == len(kept)
        for sheet in root.rglob("*.png"):
            with Image.open(sheet) as picture:
                picture.load()
