"""What hangs, and what is only slow: who waits for it, how often it is reported, and what is no longer called."""

from __future__ import annotations

import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gradcam import Entry, Evolution, MemorySink, StalledError
from lightning_gradcam.archive import Archive
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.pipeline.delivery import WORKER, Delivery, Parcel
from lightning_gradcam.pipeline.destination import Destination
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.pipeline.worker import THREAD_NAME, Worker
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.animation import Animation
from lightning_gradcam.storage import Storage
from lightning_gradcam.warn import warn
from tests.conftest import TinyNet
from tests.pipeline.test_recorder import recorder_of, trained
from tests.pipeline.test_worker import until


def ended() -> bool:
    return THREAD_NAME not in {thread.name for thread in threading.enumerate()}


def test_a_job_that_hangs_is_reported_once_however_often_the_worker_is_closed() -> None:
    worker, go = Worker(patience=0.2), threading.Event()
    worker.submit("step 4", go.wait, wait=False)
    with pytest.raises(StalledError, match="has not finished after 0.2 seconds"):
        worker.finish()
    with pytest.raises(StalledError, match="step 4 still has not finished"):
        worker.close()
    worker.close()
    # What is given since then is left behind, too, and that is news.
    worker.submit("step 8", lambda: None, wait=False)
    with pytest.raises(StalledError, match="are dropped: step 8"):
        worker.close(drop=True)
    worker.close(drop=True)
    go.set()
    until(ended)


def test_stalls_are_reported_each_time_and_never_given_up() -> None:
    """Also where Python shows a warning of the same line and text once alone: each names its own step."""
    worker = Worker(background=False)
    delivery = Delivery([], Failures("warn", warn), worker)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for step in range(6):
            delivery.note(WORKER, step, StalledError("background: the same text"))
            delivery.settle()
    assert [f"failed at step {step} " in str(w.message) for step, w in enumerate(caught)] == [True] * 6


def test_a_closed_sink_is_not_called_again(tmp_path: Path) -> None:
    """The sink before it hangs until after the end, and comes back then."""
    go = threading.Event()

    class Hanging(MemorySink):
        thread_safe = True

        def log(self, entry: Entry) -> None:
            assert go.wait(60)

    class Strict(MemorySink):
        thread_safe = True

        def log(self, entry: Entry) -> None:
            called.append(self.closed)

        def log_numbers(self, numbers: Any) -> None:
            called.append(self.closed)

        log_evolution = log_numbers

    called: list[bool] = []
    model, strict, reports = TinyNet(), Strict(), list[str]()
    recorder = recorder_of(
        tmp_path,
        model,
        background=True,
        sinks=[Hanging(), strict],
        failures=Failures("warn", reports.append),
        patience=4.0,
    )
    recorder.log(Subject.of(model, recorder.probes), epoch=0, step=1)
    recorder.close()
    assert strict.closed
    # Of blank maps, which random weights give, it is told, too.
    reports[:] = [text for text in reports if "blank" not in text]
    assert len(reports) == 1
    assert "background: step 1 has not finished after 4 seconds" in reports[0]
    # Lightning closes once after an exception, and may do so once more.
    recorder.close()
    assert len(reports) == 1
    go.set()
    until(ended)
    assert called == []


def test_a_large_archive_on_a_slow_disk_is_taken_over_however_long_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file takes a good part of the patience, and all of them together take more."""
    *_, first = trained(tmp_path / "first", background=False)
    state = first.state()
    first.close()

    def slow(*_: Any) -> bool:
        time.sleep(0.4)
        return False

    # The file system has no links: files are copied.
    monkeypatch.setattr(Storage, "link", slow)
    reports: list[str] = []
    probes = first.probes
    resumed = Recorder.start(
        first.monitor,
        probes,
        Subject.of(TinyNet(), probes).seen(first.monitor, probes),
        reporter=CamReporter,
        to=Destination(str(tmp_path / "second"), run="other", resumed=state, copy_steps=True),
        worker=partial(Worker, patience=1.2),
        failures=Failures("warn", reports.append),
    )
    resumed.finish()
    assert reports == []
    assert Archive.open(tmp_path / "second/gradcam").steps == (0, 10, 20, 30)
    resumed.close()


def test_what_a_parcel_keeps_in_memory_is_counted_once_and_as_a_whole() -> None:
    picture = Picture(np.zeros((10, 10, 3), np.uint8))
    animation = Animation(b"a" * 1000, (10, 10), (100,))
    evolution = Evolution("gradcam", 1, 0, True, {"a": picture, "b": picture}, {"a": animation}, [])
    parcel = Parcel(1, Entry(1, 0, {"a": picture}), evolution=evolution)
    assert parcel.nbytes == 300 + 1000
