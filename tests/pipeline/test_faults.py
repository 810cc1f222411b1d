"""Real faults around a run: training goes on to its end, the record stays whole, and what is said names the fault."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lightning_gradcam import Archive, ArchiveError, Drawing, Entry, GradCAMCallback, MemorySink
from lightning_gradcam.archive import ArchiveWriter, start_beside
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.worker import THREAD_NAME, Worker
from lightning_gradcam.storage import Storage
from tests.archive.test_archive import manifest, probe_set, record
from tests.callbacks.test_beside import Folder
from tests.children import (
    FORKED,
    LIMIT,
    At,
    answer_of,
    as_nobody,
    files_of,
    fill,
    limit_files,
    small_disk,
    warned,
)
from tests.conftest import TinyModule, loaders, trainer
from tests.pipeline.test_worker import until

LAYERS = ["net.conv1", "net.relu2"]
ARCHIVE, FILES = "the archive failed", "the sink FileSink failed"


class Counted(TinyModule):
    """Counts its training steps."""

    steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        return super().training_step(batch, batch_idx)


def fit(root: Path, *others: pl.Callback, epochs: int = 6, ckpt: str | None = None, **options: Any) -> Any:
    """Trains to the end; returns the callback, how many steps there were, and our warnings."""
    options = {"layers": LAYERS, "background": False, **options}
    fixed = options.pop("fixed", False)
    settings: dict[str, Any] = {"logger": CSVLogger(root, name="", version="")} if fixed else {}
    callback, model = GradCAMCallback(**options), Counted()
    settings["enable_checkpointing"] = any(isinstance(other, ModelCheckpoint) for other in others)
    running = trainer(root, callbacks=[callback, *others], max_epochs=epochs, **settings)
    with warned() as texts:
        running.fit(model, *loaders(), ckpt_path=ckpt)
    assert running.current_epoch == epochs
    return callback, model.steps, texts


def read(path: Path | str) -> list[int]:
    """The epochs of an archive whose every step can be read."""
    archive = Archive.open(path)
    return [archive.record(index).epoch for index in range(len(archive.steps))]


# ---- no room


def _on_a_full_disk(root: Path) -> Any:
    small_disk(root, 4000)
    ballast = root / "ballast"
    _, steps, texts = fit(root, At(2, lambda: fill(ballast)), At(4, ballast.unlink))
    return steps, texts, read(root / "gradcam_runs/0/gradcam"), files_of(root)


def _with_a_limit_of_size(root: Path) -> Any:
    _, steps, texts = fit(root, At(2, lambda: limit_files(500)), At(4, lambda: limit_files(-1)))
    return steps, texts, read(root / "gradcam_runs/0/gradcam"), files_of(root)


@pytest.mark.slow
@pytest.mark.parametrize("work", [_on_a_full_disk, _with_a_limit_of_size])
def test_a_disk_that_is_full_for_a_while_costs_the_steps_of_that_while(
    tmp_path: Path, work: Callable[[Path], Any]
) -> None:
    steps, texts, epochs, files = answer_of(work, tmp_path / "disk")
    assert steps == 6 * 5
    assert epochs == [0, 1, 4, 5]
    for what in (ARCHIVE, FILES):
        told = [text for text in texts if what in text]
        assert len(told) == 2
        assert "tried again next time" in told[0]
        assert "What it means: this step" in told[0]
        assert "What to do: make room on that disk" in told[0]
        assert "Traceback" in told[0]
        assert all("disk/gradcam_runs/0/gradcam/" in text for text in told)
    assert not [file for file in files if file.endswith(".tmp")]
    sheets = [file for file in files if "/sheets/net.relu2/" in file]
    assert ["epoch-0002" in file or "epoch-0003" in file for file in sheets] == [False] * 4


def _on_a_disk_that_fills_up(root: Path) -> Any:
    small_disk(root, 160)
    _, steps, texts = fit(root, epochs=14, background=True)
    return steps, texts, read(root / "gradcam_runs/0/gradcam"), files_of(root)


@pytest.mark.slow
def test_a_disk_that_stays_full_is_given_up_and_keeps_every_earlier_step(tmp_path: Path) -> None:
    steps, texts, epochs, files = answer_of(_on_a_disk_that_fills_up, tmp_path / "disk")
    assert steps == 14 * 5
    assert 0 < len(epochs) < 14
    assert epochs == sorted(epochs)
    assert sum("is disabled" in text and FILES in text for text in texts) == 1
    assert not [file for file in files if file.endswith(".tmp")]


def _with_a_full_disk_at_the_start(root: Path) -> Any:
    small_disk(root, 64)
    fill(root / "ballast")
    return _refused(root)


def _refused(root: Path, **options: Any) -> tuple[str, int]:
    model = Counted()
    with pytest.raises(ArchiveError) as caught:
        trainer(root, callbacks=GradCAMCallback(LAYERS), **options).fit(model, *loaders())
    return str(caught.value), model.steps


# ---- folders that can't be written


def _in_a_folder_of_another_user(root: Path) -> Any:
    with as_nobody():
        return _refused(root)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that nobody may write to; pytest's own could not even be entered without root's rights."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o555)
    yield root
    root.chmod(0o755)
    shutil.rmtree(root)


def test_a_folder_without_write_access_is_refused_before_training(closed: Path) -> None:
    text, steps = answer_of(_in_a_folder_of_another_user, closed)
    assert f"archive: '{closed}/gradcam_runs/0/gradcam' can't be written (PermissionError" in text
    assert "choose a writable folder with enough free space" in text
    assert "default_root_dir" in text
    assert steps == 0


def test_a_full_disk_is_refused_before_training(tmp_path: Path) -> None:
    text, steps = answer_of(_with_a_full_disk_at_the_start, tmp_path / "disk")
    assert "can't be written (OSError: [Errno 28] No space left on device" in text
    assert "with enough free space" in text
    assert steps == 0


@pytest.mark.parametrize("place", ["gradcam_runs", "gradcam"])
def test_a_file_where_the_folder_should_be_is_refused_before_training(tmp_path: Path, place: str) -> None:
    (tmp_path / place).write_text("mine")
    options = {"logger": CSVLogger(tmp_path, name="", version="")} if place == "gradcam" else {}
    text, steps = _refused(tmp_path, **options)
    assert "gradcam' can't be written (" in text
    assert steps == 0
    assert (tmp_path / place).read_text() == "mine"


def _replace(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("mine")


@pytest.mark.parametrize("harm", [shutil.rmtree, _replace], ids=["removed", "replaced by a file"])
@pytest.mark.parametrize("background", [True, False])
def test_a_folder_that_goes_away_in_training_is_said_and_training_goes_on(
    tmp_path: Path, harm: Callable[[Path], Any], background: bool
) -> None:
    folder, sink = tmp_path / "gradcam_runs/0/gradcam", MemorySink()
    _, steps, texts = fit(tmp_path, At(2, lambda: harm(folder)), sinks=[sink], background=background)
    assert steps == 6 * 5
    told = [text for text in texts if ARCHIVE in text]
    assert len(told) == 3
    assert f"'{folder}' was moved, deleted or damaged during the run" in told[0]
    assert "restore it" in told[0]
    assert "is disabled" in told[-1]
    assert not any("no validation was due" in text for text in texts)
    # No folder that can't be opened is left in its place, and no logger is starved.
    assert not (folder / "steps").exists()
    assert [entry.epoch for entry in sink.entries] == [0, 1, 2, 3, 4, 5]


def _closed_for_a_while(root: Path) -> Any:
    root.chmod(0o777)
    places = [root / "gradcam_runs/0/gradcam" / name for name in ("steps", "sheets/net.relu2")]

    def set_to(mode: int) -> None:
        for place in places:
            place.chmod(mode)

    with as_nobody():
        _, steps, texts = fit(root, At(2, lambda: set_to(0o555)), At(4, lambda: set_to(0o755)))
    return steps, texts, read(root / "gradcam_runs/0/gradcam"), files_of(root)


def test_write_access_that_is_lost_for_a_while_costs_the_steps_of_that_while(closed: Path) -> None:
    steps, texts, epochs, files = answer_of(_closed_for_a_while, closed)
    assert steps == 6 * 5
    assert epochs == [0, 1, 4, 5]
    for what in (ARCHIVE, FILES):
        told = [text for text in texts if what in text]
        assert len(told) == 2
        assert "make that folder writable" in told[0]
    assert not [file for file in files if file.endswith(".tmp")]


# ---- a disk that does not answer


def _hanging(tmp_path: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """What makes the archive's disk hang, and what brings it back: a FIFO stands for a stalled mount."""
    manifest, kept = tmp_path / "gradcam_runs/0/gradcam/manifest.json", tmp_path / "kept"

    def hang() -> None:
        manifest.rename(kept)
        os.mkfifo(manifest)

    return hang, lambda: kept.replace(manifest)


def test_a_disk_that_hangs_is_waited_for_once_and_gets_every_step_when_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_gradcam.callbacks.recording.Worker", partial(Worker, patience=2.0))
    hang, back = _hanging(tmp_path)
    sink = MemorySink()
    callback, steps, texts = fit(tmp_path, At(2, hang), At(9, back), epochs=10, background=True, sinks=[sink])
    assert steps == 10 * 5
    assert [text for text in texts if "background: step 14 has not finished after 2 seconds" in text] == texts
    assert len(texts) == 1
    assert read(callback.archive.path) == list(range(10))
    assert [entry.epoch for entry in sink.entries] == list(range(10))


@pytest.mark.slow
def test_a_disk_that_never_comes_back_holds_up_neither_the_training_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_gradcam.callbacks.recording.Worker", partial(Worker, patience=2.0))
    hang, back = _hanging(tmp_path)
    callback, steps, texts = fit(tmp_path, At(2, hang), epochs=10, background=True)
    assert steps == 10 * 5
    assert len(list(tmp_path.glob("gradcam_runs/0/gradcam/steps/*"))) == 2
    assert len(texts) == 2
    assert "step 14 has not finished after 2 seconds" in texts[0]
    assert "What it means: later jobs are kept in memory" in texts[0]
    assert "step 14 still has not finished; the jobs after it run if it ends: step 19" in texts[1]
    # In a notebook the process lives on.
    back()
    until(lambda: THREAD_NAME not in {thread.name for thread in threading.enumerate()})
    assert read(callback.archive.path) == list(range(10))


# ---- two runs in one folder


@pytest.mark.parametrize("epoch", [0, 2], ids=["before its first step", "later"])
def test_a_second_run_beside_a_running_one_goes_beside_it_and_leaves_it_whole(tmp_path: Path, epoch: int) -> None:
    def begin_another() -> None:
        callback = GradCAMCallback(LAYERS, seed=9, background=False)
        trainer(tmp_path, callbacks=callback, logger=Folder(tmp_path)).fit(Counted(), *loaders())

    class Begin(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == epoch:
                begin_another()

    callback, _, texts = fit(tmp_path, Begin(), fixed=True)
    assert not texts
    assert read(tmp_path / "gradcam") == [0, 1, 2, 3, 4, 5]
    assert read(tmp_path / "gradcam-1") == [0, 1]
    assert Archive.open(tmp_path / "gradcam").manifest.run == callback.archive.manifest.run


def _begin_together(root: Path, run: str, rounds: int, barrier: Any, pipe: Any) -> None:
    for number in range(rounds):
        probes = probe_set(seed=ord(run))
        stated = manifest(run, fingerprint=probes.fingerprint)
        barrier.wait(LIMIT)
        try:
            ArchiveWriter.start(str(root / str(number)), stated, probes)[0].append(record(10))
            pipe.send("its own")
        except ArchiveError as error:
            pipe.send(str(error))
    pipe.close()


def test_of_two_processes_that_begin_at_the_same_moment_one_has_the_folder(tmp_path: Path) -> None:
    rounds, barrier = 60, FORKED.Barrier(2)
    pipes, processes = {}, []
    for run in ("a", "b"):
        pipes[run], theirs = FORKED.Pipe(duplex=False)
        processes.append(FORKED.Process(target=_begin_together, args=(tmp_path, run, rounds, barrier, theirs)))
        processes[-1].start()
        theirs.close()
    answers = [{run: pipe.recv() for run, pipe in pipes.items()} for _ in range(rounds)]
    for process in processes:
        process.join()
    for pipe in pipes.values():
        pipe.close()
    for number, answer in enumerate(answers):
        owners = [run for run, text in answer.items() if text == "its own"]
        assert len(owners) == 1, answer
        assert all("belongs to another run" in text for run, text in answer.items() if run not in owners)
        archive = Archive.open(tmp_path / str(number))
        assert archive.manifest.run == owners[0]
        assert archive.probes.fingerprint == archive.manifest.fingerprint == probe_set(ord(owners[0])).fingerprint
        assert archive.steps == (10,)


def _begin_beside(root: Path, run: str, rounds: int, barrier: Any, pipe: Any) -> None:
    for number in range(rounds):
        barrier.wait(LIMIT)
        writer, why = start_beside(str(root / str(number) / "gradcam"), manifest(run), probe_set())
        # No step is written before the other has found its place.
        barrier.wait(LIMIT)
        writer.append(record(10))
        pipe.send((Path(writer.path).name, why))
    pipe.close()


def test_two_processes_that_begin_at_the_same_moment_never_get_one_place(tmp_path: Path) -> None:
    rounds, barrier = 40, FORKED.Barrier(2)
    for number in range(0, rounds, 2):
        # Both have to go to a sibling here: the folder itself has the record of a third.
        ArchiveWriter.start(str(tmp_path / str(number) / "gradcam"), manifest("third"), probe_set())[0].append(
            record(1)
        )
    pipes, processes = [], []
    for run in ("a", "b"):
        ours, theirs = FORKED.Pipe(duplex=False)
        processes.append(FORKED.Process(target=_begin_beside, args=(tmp_path, run, rounds, barrier, theirs)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    for number in range(rounds):
        places = [pipe.recv() for pipe in pipes]
        free = ["gradcam", "gradcam-1"] if number % 2 else ["gradcam-1", "gradcam-2"]
        assert sorted(place for place, _ in places) == free
        assert all(("belongs to another run" in why) == (place != "gradcam") for place, why in places)
        for run, (place, _) in zip("ab", places, strict=True):
            archive = Archive.open(tmp_path / str(number) / place)
            assert (archive.manifest.run, archive.steps) == (run, (10,))
    for process, pipe in zip(processes, pipes, strict=True):
        process.join()
        pipe.close()


def test_where_there_are_no_locks_the_last_one_has_the_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What object stores and network disks leave possible: both have begun, and the second manifest stands."""
    monkeypatch.setattr("lightning_gradcam.storage.fcntl", None)
    first, _ = ArchiveWriter.start(str(tmp_path / "a"), manifest("first"), probe_set())
    Storage(tmp_path / "a").write("manifest.json", manifest("second").to_bytes())
    with pytest.raises(
        ArchiveError, match=r"was taken over by another run \(second\).*its own log directory or version"
    ):
        first.append(record(10))
    second, _ = ArchiveWriter.start(str(tmp_path / "a"), manifest("second"), probe_set())
    second.append(record(20))
    assert Archive.open(tmp_path / "a").steps == (20,)


def test_a_lock_that_is_never_given_free_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gradcam.storage._LOCK_PATIENCE", 0.1)
    with Storage(tmp_path / "a").locked():
        with pytest.raises(
            ArchiveError,
            match=r"can't be written \(TimeoutError: .*another process still holds the lock on this folder",
        ):
            ArchiveWriter.start(str(tmp_path / "a"), manifest(), probe_set())
    ArchiveWriter.start(str(tmp_path / "a"), manifest(), probe_set())
    assert files_of(tmp_path) == ["a/manifest.json", "a/probes.npz"]


# ---- a checkpoint whose entry of ours is damaged

GOOD = "GradCAMCallback{'name': 'gradcam'}"


def _changed(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, **fields}


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {key: value for key, value in state.items() if key != name}


DAMAGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "schema of a later version": _changed(schema=2),
    "schema as text": _changed(schema="1"),
    "no schema": _without("schema"),
    "empty": lambda state: {},
    "a list": lambda state: [1, 2],
    "nothing": lambda state: None,
    "no indices": _without("indices"),
    "no archive": _without("archive"),
    "no run": _without("run"),
    "no fingerprint": _without("fingerprint"),
    "no step": _without("step"),
    "indices as text": _changed(indices="0, 1"),
    "indices of text": _changed(indices=["0", "1"]),
    "indices below zero": _changed(indices=[-1, 3]),
    "no index at all": _changed(indices=[]),
    "archive as a number": _changed(archive=7),
    "step as text": _changed(step="last"),
    "step that is nothing": _changed(step=None),
    "validations as text": _changed(validations="many"),
    "every of zero": _changed(every=0),
    "every as a list": _changed(every=[1]),
    "transferred as text": _changed(transferred="yes"),
    "fingerprint as a number": _changed(fingerprint=12),
    "run as a list": _changed(run=["a"]),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run that can be resumed."""
    root = tmp_path_factory.mktemp("kept")
    fit(root, ModelCheckpoint(root, filename="one"), epochs=1)
    return root / "one.ckpt"


@pytest.mark.parametrize("name", list(DAMAGED))
def test_a_damaged_state_in_a_checkpoint_is_said_and_stops_nobody(tmp_path: Path, kept: Path, name: str) -> None:
    content = torch.load(kept, weights_only=True)
    content["callbacks"][GOOD] = DAMAGED[name](content["callbacks"][GOOD])
    torch.save(content, tmp_path / "damaged.ckpt")
    callback, steps, texts = fit(tmp_path, epochs=2, ckpt=str(tmp_path / "damaged.ckpt"), on_error="raise")
    assert steps == 5
    assert callback.archive.epochs[-1] == 1
    if name not in ("empty", "nothing"):  # Lightning itself passes over these
        assert sum("the checkpoint's state of this callback can't be used" in text for text in texts) == 1
        assert "new probes" in " ".join(texts)


def test_a_checkpoint_of_indices_beyond_the_data_uses_the_archived_inputs(tmp_path: Path, kept: Path) -> None:
    content = torch.load(kept, weights_only=True)
    content["callbacks"][GOOD]["indices"] = [10**6]
    torch.save(content, tmp_path / "other.ckpt")
    callback, steps, texts = fit(tmp_path, epochs=2, ckpt=str(tmp_path / "other.ckpt"))
    assert (steps, callback.archive.epochs) == (5, (0, 1))
    assert any("the archived inputs are used" in text for text in texts)


@pytest.mark.parametrize("harmed", ["manifest.json", "probes.npz", "steps"])
def test_a_damaged_archive_of_the_checkpoints_run_stops_nobody(tmp_path: Path, harmed: str) -> None:
    """In a folder of its own; the run's scale reads every earlier step."""
    first, _, _ = fit(tmp_path / "a", ModelCheckpoint(tmp_path, filename="one"), epochs=1)
    place = Path(first.archive.path, harmed)
    for file in place.iterdir() if place.is_dir() else [place]:
        file.write_bytes(file.read_bytes()[:200])
    drawing = Drawing(scale="run")
    callback, steps, texts = fit(tmp_path / "b", epochs=2, ckpt=str(tmp_path / "one.ckpt"), drawing=drawing)
    assert steps == 5
    assert callback.archive.epochs[-1] == 1
    assert bool(texts) == (harmed != "probes.npz")


# ---- signals


class Held(MemorySink):
    """Holds up the queue until the signal has been sent; notes what it was given, and that it was closed."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.go = root, threading.Event()

    def log(self, entry: Entry) -> None:
        self.go.wait()
        super().log(entry)
        (self.root / "logged").write_text(" ".join(str(entry.epoch) for entry in self.entries))

    def close(self) -> None:
        (self.root / "closed").write_text("")


def _train_until(root: Path, number: int) -> None:
    torch.set_num_threads(1)
    # A process that a shell has started in the background ignores Ctrl+C, and its children do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sink = Held(root)
    callback = GradCAMCallback(LAYERS, sinks=[sink])

    def send() -> None:
        # Behind the step that the sink holds up two wait for it, and one for room.
        while len(list(root.glob("gradcam_runs/0/gradcam/steps/*.npz"))) < 4:
            time.sleep(0.002)
        os.kill(os.getpid(), number)
        sink.go.set()

    threading.Thread(target=send, daemon=True).start()
    trainer(root, callbacks=callback, max_epochs=50).fit(TinyModule(), *loaders())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)], ids=["SIGINT", "SIGTERM"])
def test_what_was_explained_before_a_signal_is_written(tmp_path: Path, number: int, code: int) -> None:
    """Lightning ends a `fit` that gets SIGINT by `sys.exit(1)` at once, and with SIGTERM by a bare SystemExit later."""
    process = FORKED.Process(target=_train_until, args=(tmp_path, int(number)))
    process.start()
    process.join(LIMIT)
    assert process.exitcode == code
    epochs = read(tmp_path / "gradcam_runs/0/gradcam")
    # How far training gets until Lightning looks at the signal is chance; the four steps before it are always there.
    assert epochs == list(range(len(epochs)))
    assert 4 <= len(epochs) < 50
    assert (tmp_path / "closed").exists()
    logged = [int(epoch) for epoch in (tmp_path / "logged").read_text().split()]
    # A step that was interrupted while it waited for room has its maps, and no pictures.
    assert logged in (epochs, epochs[:-1])
    assert not [file for file in files_of(tmp_path) if file.endswith(".tmp")]


# ---- clocks


def test_a_clock_that_is_set_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(2_000_000_000, 0, -1000))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(now)))
        first, _, texts = fit(tmp_path, ModelCheckpoint(tmp_path, filename="four"), epochs=4, fixed=True)
        steps = first.archive.steps
        for age, file in enumerate(sorted(Path(first.archive.path, "steps").iterdir())):
            os.utime(file, (10**9 - 1000 * age,) * 2)
        assert Archive.open(first.archive.path).steps == steps == (4, 9, 14, 19)
        assert read(first.archive.path) == [0, 1, 2, 3]
        again, _, more = fit(tmp_path, epochs=6, ckpt=str(tmp_path / "four.ckpt"), fixed=True)
    assert not texts + more
    assert again.archive.epochs == (0, 1, 2, 3, 4, 5)
    assert again.archive.steps[:4] == steps


# ---- the model, and loggers


@pytest.mark.slow
def test_weights_that_become_nan_are_recorded_as_they_are_and_training_goes_on(tmp_path: Path) -> None:
    class Broken(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                for weights in pl_module.parameters():
                    torch.nn.init.constant_(weights, float("nan"))

    sink = MemorySink()
    methods = ["gradcam", "gradcam++", "layercam", "eigencam", "scorecam"]
    callback, steps, texts = fit(tmp_path, Broken(), sinks=[sink], methods=methods, epochs=6)
    assert steps == 6 * 5
    assert read(callback.archive.path) == [entry.epoch for entry in sink.entries]
    assert callback.archive.epochs == (0, 1, 2, 3, 4, 5)
    (said,) = texts
    assert said.startswith("lightning-gradcam: layers 'net.conv1', 'net.relu2': in epoch 3, step 19, 80 of 80 maps are")
    assert " not finite, because the explained score is NaN or infinite. Look for NaN in the inputs" in said
    assert len(said) <= 500
    for method in methods[:3]:
        maps = callback.archive.maps("net.conv1", method, relu=False)
        assert np.isfinite(maps[:3]).all()
        assert np.isnan(maps[3:]).all()


def test_the_first_report_of_a_kind_says_what_it_means_and_what_to_do() -> None:
    cases: list[tuple[str, Exception, str, str]] = [
        ("explaining", ValueError("x"), "no maps and no sheets for this step", "report it with this text"),
        ("the archive", OSError(28, "No space left"), "this step's maps are lost", "make room on that disk"),
        ("the sink X", PermissionError(13, "no"), "this step is missing from that logger", "make that folder writable"),
        ("closing the sink X", FileNotFoundError(2, "no"), "data that was not flushed before", "restore it"),
        (
            "drawing",
            ArchiveError("archive: so and so"),
            "its maps are still in the archive",
            "follow the advice in the last line",
        ),
    ]
    for kind, error, meaning, advice in cases:
        reports: list[str] = []
        failures = Failures("warn", reports.append)
        for _ in range(2):
            failures.failed(kind, 4, error)
        assert [(meaning in text, advice in text) for text in reports] == [(True, True), (False, False)], kind
        assert reports[0].rstrip().endswith(f"{type(error).__name__}: {error}")
