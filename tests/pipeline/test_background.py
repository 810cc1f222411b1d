"""What runs beside the training: on which thread, in which order, and that nothing is lost or hangs."""

from __future__ import annotations

import inspect
import os
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_gradcam.callbacks.recording
from lightning_gradcam import Archive, Drawing, Entry, Evolution, GradCAMCallback, MemorySink, Numbers, Sink
from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.monitors import cam_reporter, evolution
from lightning_gradcam.pipeline.worker import THREAD_NAME, Worker
from lightning_gradcam.sheets import cam_sheet
from tests.children import FORKED
from tests.conftest import TinyModule, loaders, trainer
from tests.pipeline.test_worker import until

LAYERS = ["net.relu1", "net.relu2"]


class Noting(MemorySink):
    """Notes the thread of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def log(self, entry: Entry) -> None:
        self.threads.add(threading.current_thread().name)
        super().log(entry)

    def log_numbers(self, numbers: Numbers) -> None:
        self.threads.add(threading.current_thread().name)
        super().log_numbers(numbers)


class OnMain(Noting):
    """Has to be called on the training thread; notes whether the pictures were finished by then."""

    thread_safe = False
    formats = ("jpeg",)

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[bool] = []

    def log(self, entry: Entry) -> None:
        self.finished += [bool(picture._files) for picture in entry.pictures.values()]
        super().log(entry)


class Slow(MemorySink):
    """Takes longer than an epoch."""

    def log(self, entry: Entry) -> None:
        time.sleep(0.3)
        super().log(entry)


def fit(path: Path, sinks: list[Sink], *others: pl.Callback, epochs: int = 4, **options: Any) -> GradCAMCallback:
    callback = GradCAMCallback(LAYERS, sinks=sinks, on_error="raise", **options)
    trainer(path, callbacks=[callback, *others], max_epochs=epochs).fit(TinyModule(), *loaders())
    return callback


def test_sinks_are_called_on_the_threads_they_ask_for_in_the_order_of_the_steps(tmp_path: Path) -> None:
    beside, on_main = Noting(), OnMain()
    fit(tmp_path, [beside, on_main], numbers="all")
    assert beside.threads == {THREAD_NAME}
    assert on_main.threads == {"MainThread"}
    assert on_main.finished == [True] * 8
    for sink in (beside, on_main):
        assert [entry.epoch for entry in sink.entries] == [0, 1, 2, 3]
        # Once more when the run has ended: each step beside the last one, where any probe's map can be compared.
        steps, numbered = [entry.step for entry in sink.entries], [numbers.step for numbers in sink.numbers]
        assert numbered[: len(steps)] == steps
        later = numbered[len(steps) :]
        assert later[-1] == steps[-1]
        assert later == [step for step in steps if step in later]


@pytest.mark.slow
def test_pictures_and_strips_do_not_depend_on_how_far_the_worker_lags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scale that grows over the run, in which the training is several steps ahead of what is drawn."""

    class AllOf(Slow):
        """Keeps the files of everything it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.files: list[tuple[int, str, bytes]] = []

        def log(self, entry: Entry) -> None:
            super().log(entry)
            self.files += [(entry.step, tag, picture.encoded("png")) for tag, picture in entry.pictures.items()]

        def log_evolution(self, evolution: Evolution) -> None:
            strips = [(tag, strip.encoded("png")) for tag, strip in evolution.strips.items()]
            strips += [(tag, animation.file()[1]) for tag, animation in evolution.animations.items()]
            self.files += [(evolution.step, tag, content) for tag, content in strips]

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.1)
        return cam_sheet.sheet(*args, **kwargs)

    # Later steps are measured and archived while an earlier one is drawn.
    monkeypatch.setattr(cam_reporter, "sheet", slowly)
    sinks = AllOf(), AllOf()
    for sink, background in zip(sinks, (False, True), strict=True):
        pl.seed_everything(3, verbose=False)
        fit(tmp_path / str(background), [sink], epochs=5, background=background, drawing=Drawing(scale="run"))
    # Sheets of five steps, strips after 1, 2 and 4 of them, and strips and animations at the end; two layers.
    assert len(sinks[0].files) == 2 * (5 + 3 + 2)
    assert sinks[1].files == sinks[0].files


def test_what_is_explained_is_on_the_disk_however_slow_the_loggers_are(tmp_path: Path) -> None:
    """Killed while the first step's logger hangs: two wait behind it, and the training waits with one more."""
    process = FORKED.Process(target=_train_with_a_logger_that_hangs, args=(tmp_path,))
    process.start()
    until(lambda: len(list(tmp_path.glob("gradcam_runs/0/gradcam/steps/step-*.npz"))) == 4)
    process.kill()
    process.join()
    assert Archive.open(tmp_path / "gradcam_runs/0/gradcam").epochs == (0, 1, 2, 3)


def _train_with_a_logger_that_hangs(root: Path) -> None:
    class Hanging(MemorySink):
        def log(self, entry: Entry) -> None:
            time.sleep(1000)

    torch.set_num_threads(1)
    fit(root, [Hanging()], epochs=20)


def test_what_is_explained_is_on_the_disk_before_earlier_steps_are_drawn(tmp_path: Path) -> None:
    """Killed while the first step's second sheet is drawn, which takes for ever: two steps wait behind it."""
    process = FORKED.Process(target=_train_while_drawing_hangs, args=(tmp_path,))
    process.start()
    until((tmp_path / "drawn").exists)
    process.kill()
    process.join()
    # The training may have handed over one more meanwhile.
    assert Archive.open(tmp_path / "gradcam_runs/0/gradcam").epochs[:3] == (0, 1, 2)


def _train_while_drawing_hangs(root: Path) -> None:
    handed = threading.Event()

    class Waiting(Worker):
        def wait_for_room(self, name: str) -> None:
            # Two steps wait for drawing, and the training would wait for it with the next.
            if name == "step 14":
                handed.set()
            super().wait_for_room(name)

    def slow(*args: Any, **kwargs: Any) -> Any:
        assert handed.wait(60)
        if kwargs["layer"] == LAYERS[1]:
            (root / "drawn").touch()
            time.sleep(1000)
        return cam_sheet.sheet(*args, **kwargs)

    torch.set_num_threads(1)
    cam_reporter.sheet = slow  # type: ignore[attr-defined]
    lightning_gradcam.callbacks.recording.Worker = Waiting  # type: ignore[attr-defined, misc]
    fit(root, [MemorySink()], epochs=20)


@pytest.mark.parametrize("error", [SystemExit, pytest.param(CancelledError, marks=pytest.mark.slow)])
def test_what_would_end_a_thread_is_contained_and_reported(tmp_path: Path, error: type[BaseException]) -> None:
    class Ending(MemorySink):
        def log(self, entry: Entry) -> None:
            raise error("of the sink")

    callback = GradCAMCallback(LAYERS, sinks=[Ending()])
    running = trainer(tmp_path, callbacks=callback, max_epochs=8)
    with pytest.warns(UserWarning, match=rf"the sink Ending failed at step 4[\s\S]*{error.__name__}") as caught:
        running.fit(TinyModule(), *loaders())
    assert running.current_epoch == 8
    assert sum("is disabled" in str(w.message) for w in caught) == 1
    assert callback.archive is not None
    assert len(callback.archive.steps) == 8


def test_background_seconds_cover_all_that_comes_before_them(tmp_path: Path) -> None:
    class SlowStrips(MemorySink):
        def log_evolution(self, evolution: Evolution) -> None:
            time.sleep(0.4)

    sink = SlowStrips()
    fit(tmp_path, [sink], epochs=3)
    seconds = [numbers.values.get("gradcam_stats/background_seconds", 0.0) for numbers in sink.numbers]
    # Strips are drawn after one and two steps.
    assert min(seconds[:2]) >= 0.4


@pytest.mark.parametrize("background", [False, True])
def test_the_way_from_the_hook_to_a_logger_is_short(tmp_path: Path, background: bool) -> None:
    """At most fifteen functions of this package, on either thread."""

    class Deep(MemorySink):
        def log(self, entry: Entry) -> None:
            files = [frame.filename for frame in inspect.stack()]
            depths.append(sum(f"{os.sep}lightning_gradcam{os.sep}" in file for file in files))

    depths: list[int] = []
    fit(tmp_path, [Deep()], epochs=1, background=background)
    assert 3 < depths[0] <= 15


@pytest.mark.slow
def test_a_slow_but_healthy_end_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of the end takes a good part of the patience; all together take several times as long."""

    def slowly(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            time.sleep(0.4)
            return call(*args, **kwargs)

        return wrapped

    for name in ("film_strip", "animate"):
        monkeypatch.setattr(f"lightning_gradcam.monitors.evolution.{name}", slowly(getattr(evolution, name)))
    monkeypatch.setattr(lightning_gradcam.callbacks.recording, "Worker", partial(Worker, patience=4.0))
    sink = MemorySink()
    layers = ["net.conv1", "net.relu1", "net.conv2", "net.relu2"]
    callback = GradCAMCallback(layers, methods=["gradcam", "layercam"], sinks=[sink], on_error="raise")
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(TinyModule(), *loaders())
    assert callback.archive is not None
    folder = Path(callback.archive.path)
    assert (folder / "report.html").exists()
    assert len(list((folder / "evolution").iterdir())) == 16
    assert [len(found.animations) for found in sink.evolutions] == [0, 8]


def test_without_a_background_everything_is_done_when_training_goes_on(tmp_path: Path) -> None:
    sink, seen = Noting(), []

    class Looking(pl.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                seen.append((len(sink.entries), sink.threads))

    fit(tmp_path, [sink], Looking(), background=False)
    assert seen == [(count, {"MainThread"}) for count in (1, 2, 3, 4)]


def test_the_maps_and_pictures_are_the_same_either_way(tmp_path: Path) -> None:
    sinks = MemorySink(), MemorySink()
    archives = []
    for sink, background in zip(sinks, (False, True), strict=True):
        pl.seed_everything(3)
        archives.append(fit(tmp_path / str(background), [sink], background=background).archive)
    for layer in LAYERS:
        assert (archives[0].maps(layer, relu=False) == archives[1].maps(layer, relu=False)).all()
    for one, other in zip(sinks[0].entries, sinks[1].entries, strict=True):
        for tag, picture in one.pictures.items():
            assert (picture.pixels == other.pictures[tag].pixels).all()


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_lost_however_the_run_ends(tmp_path: Path, end: type[BaseException] | None) -> None:
    class Ending(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if end is not None and trainer.current_epoch == 1:
                raise end("the user's own")

    slow, on_main = Slow(), OnMain()
    callback = GradCAMCallback(LAYERS, sinks=[slow, on_main])
    running = trainer(tmp_path, callbacks=[callback, Ending()], max_epochs=2)
    if end is None:
        running.fit(TinyModule(), *loaders())
    else:
        # Lightning turns Ctrl+C into an exit.
        with pytest.raises(SystemExit if end is KeyboardInterrupt else end):
            running.fit(TinyModule(), *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)
    for sink in (slow, on_main):
        assert [entry.epoch for entry in sink.entries] == [0, 1]
        assert sink.closed
    assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}


def test_a_checkpoint_waits_for_nothing_and_names_the_last_step_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes no step until the first two checkpoints have been saved."""
    go, writers, saved = threading.Event(), set[str](), list[tuple[int, tuple[int, ...]]]()
    append = ArchiveWriter.append

    def slow(writer: ArchiveWriter, record: Any) -> None:
        writers.add(threading.current_thread().name)
        assert go.wait(60), "the training waits for the disk"
        append(writer, record)

    class Looking(pl.Callback):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
            state = next(v for k, v in checkpoint["callbacks"].items() if k.startswith("GradCAMCallback"))
            folder = Path(state["archive"], "steps")
            written = tuple(int(file.name[5:15]) for file in sorted(folder.glob("*.npz")))
            saved.append((state["step"], written))
            if len(saved) == 2:
                go.set()

    monkeypatch.setattr(ArchiveWriter, "append", slow)
    callback = GradCAMCallback(LAYERS)
    callbacks = [callback, Looking(), pl.callbacks.ModelCheckpoint(tmp_path)]
    trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_epochs=3).fit(TinyModule(), *loaders())
    assert [step for step, _ in saved] == [4, 9, 14]
    assert saved[:2] == [(4, ()), (9, ())]
    assert writers == {THREAD_NAME}
    assert callback.archive is not None
    assert callback.archive.steps == (4, 9, 14)


def test_a_logger_that_blocks_hangs_neither_the_training_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blocking(MemorySink):
        def log(self, entry: Entry) -> None:
            go.wait()

    go = threading.Event()
    monkeypatch.setattr(lightning_gradcam.callbacks.recording, "Worker", partial(Worker, patience=0.5))
    callback = GradCAMCallback(LAYERS, sinks=[Blocking()])
    running = trainer(tmp_path, callbacks=callback, max_epochs=6)
    with pytest.warns(UserWarning, match="background worker failed") as caught:
        running.fit(TinyModule(), *loaders())
    assert running.current_epoch == 6
    texts = [str(w.message) for w in caught if "background worker failed" in str(w.message)]
    assert any("background: step 4 has not finished after 0.5 seconds" in text for text in texts)
    # No map is lost for a logger.
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1, 2, 3, 4, 5)
    go.set()
    while THREAD_NAME in {thread.name for thread in threading.enumerate()}:
        time.sleep(0.01)


def test_a_failure_in_the_background_is_raised_at_the_next_hook_where_asked_for(tmp_path: Path) -> None:
    class Full(MemorySink):
        def log(self, entry: Entry) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fit(tmp_path, [Full()])


def test_the_callback_measures_itself(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path / "tensorboard"), CSVLogger(tmp_path / "csv")]
    callback = GradCAMCallback(LAYERS)
    options = {"callbacks": [callback], "logger": loggers, "max_epochs": 3, "log_every_n_steps": 1}
    trainer(tmp_path, **options).fit(TinyModule(), *loaders())
    events = EventAccumulator(loggers[0].log_dir)
    events.Reload()
    lines = (Path(loggers[1].log_dir) / "metrics.csv").read_text().splitlines()
    for name in ("gradcam_stats/seconds", "gradcam_stats/background_seconds"):
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [scalar.step for scalar in events.Scalars("val_loss")]
        assert all(0 < scalar.value < 5 for scalar in scalars)
        column = lines[0].split(",").index(name)
        assert sum(line.split(",")[column] != "" for line in lines[1:]) == 3


def test_max_overhead_makes_it_rarer_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    with caplog.at_level("INFO"):
        fit(tmp_path, [sink], epochs=12, max_overhead=1e-3)
    assert 2 <= len(sink.entries) < 6
    assert [entry.epoch for entry in sink.entries][:2] == [0, 1]
    assert sum("to stay within max_overhead=0.001" in record.getMessage() for record in caplog.records) == 1
