"""The recorder in a plain training loop: no Trainer, no Lightning."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gradcam import Drawing, MemorySink, ProbeSet, compute_cams
from lightning_gradcam.archive import Archive, ArchiveWriter
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.pipeline.destination import Destination
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.pipeline.worker import Worker
from tests.conftest import CLASSES, TinyNet

LAYERS = ["conv1", "relu2"]


class Held(MemorySink):
    """Lets the first step's pictures wait."""

    thread_safe = True

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def log(self, entry: Any) -> None:
        super().log(entry)
        assert self.released.wait(60)


def recorder_of(
    root: Path | None,
    model: nn.Module,
    *,
    background: bool,
    sinks: list[Any],
    failures: Failures | None = None,
    patience: float = 120.0,
) -> Recorder:
    probes = ProbeSet(torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    plan = CamMonitor("gradcam", LAYERS, "gradcam", "predicted", "logit", Drawing(), numbers="all")
    return Recorder.start(
        plan,
        probes,
        Subject.of(model, probes).seen(plan, probes),
        reporter=CamReporter,
        to=Destination(None if root is None else str(root), sinks=sinks, run="run"),
        worker=partial(Worker, background=background, patience=patience),
        failures=failures or Failures("raise", pytest.fail),
    )


def trained(root: Path, *, background: bool = True, sinks: list[Any] | None = None, recorded: bool = True) -> Any:
    """Trains by hand for four epochs; returns the model, what random numbers came after, and the recorder."""
    torch.manual_seed(0)
    random.seed(0)
    model = TinyNet()
    optimizer = torch.optim.Adam(model.parameters())
    recorder = recorder_of(root, model, background=background, sinks=sinks or []) if recorded else None
    for epoch in range(4):
        model.train()
        loss = nn.functional.cross_entropy(model(torch.rand(8, 1, 8, 8)), torch.arange(8) % CLASSES)
        loss.backward()
        if recorder is not None:
            # Between backward and step, where gradients would be lost.
            recorder.log(Subject.of(model, recorder.probes), epoch=epoch, step=10 * epoch)
            recorder.settle()
        optimizer.step()
        optimizer.zero_grad()
    return model, (torch.rand(1).item(), random.random()), recorder


def test_a_plain_loop_is_recorded_and_left_as_it_was(tmp_path: Path) -> None:
    model, numbers, recorder = trained(tmp_path)
    recorder.close()
    bare, bare_numbers, _ = trained(tmp_path, recorded=False)
    assert numbers == bare_numbers
    for (name, value), other in zip(model.state_dict().items(), bare.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    archive = Archive.open(tmp_path / "gradcam")
    assert archive.epochs == (0, 1, 2, 3)
    assert (tmp_path / "gradcam/report.html").exists()
    # One more look at the model as it is now, against the maps of the functional core.
    again = recorder_of(tmp_path / "again", model, background=False, sinks=[])
    again.log(Subject.of(model, again.probes), epoch=4, step=40)
    again.close()
    expected = compute_cams(model.eval(), again.probes.inputs, LAYERS, relu=False)
    maps = Archive.open(tmp_path / "again/gradcam").maps("relu2", relu=False)[0]
    np.testing.assert_allclose(maps, expected["relu2", "gradcam", "predicted"], rtol=2e-3, atol=1e-6)


def test_steps_are_measured_in_their_order_where_a_logger_lags(tmp_path: Path) -> None:
    """The archive is read while the first step's logger is still at work."""
    held, plain = Held(), MemorySink()
    *_, lagging = trained(tmp_path / "lagging", sinks=[held])
    assert lagging.archive is not None
    assert lagging.archive.steps == (0, 10, 20, 30)
    state = lagging.state()
    assert (state["step"], state["logged"]) == (30, 4)
    held.released.set()
    lagging.close()
    *_, straight = trained(tmp_path / "plain", sinks=[plain], background=False)
    straight.close()
    expected = Archive.open(tmp_path / "plain/gradcam").numbers("conv1")
    assert np.isfinite(expected["drift"][1:]).all()
    for name, values in Archive.open(tmp_path / "lagging/gradcam").numbers("conv1").items():
        np.testing.assert_array_equal(values, expected[name], name)

    def drifts(sink: MemorySink) -> list[float]:
        return [row.values[tag] for row in sink.numbers for tag in row.values if tag.endswith("conv1/drift")]

    assert drifts(held) == drifts(plain)
    assert len(drifts(plain)) == 3


def test_training_goes_back_to_an_earlier_step(tmp_path: Path) -> None:
    model, _, recorder = trained(tmp_path)
    recorder.rewind(10)
    assert recorder.state()["step"] == 10
    assert recorder.archive.steps == (0, 10)
    recorder.log(Subject.of(model, recorder.probes), epoch=2, step=20)
    assert (recorder.state()["step"], recorder.state()["logged"]) == (20, 3)
    recorder.close()
    assert Archive.open(tmp_path / "gradcam").epochs == (0, 1, 2)


def test_a_run_that_goes_back_and_ends_at_the_same_step_is_drawn_again(tmp_path: Path) -> None:
    sink = MemorySink()
    model, _, recorder = trained(tmp_path, sinks=[sink], background=False)
    recorder.conclude()
    recorder.rewind(10)
    for epoch in (2, 3):
        recorder.log(Subject.of(model, recorder.probes), epoch=epoch, step=10 * epoch)
    recorder.close()
    assert [(found.step, found.ended) for found in sink.evolutions][-2:] == [(30, False), (30, True)]


def test_later_steps_that_can_not_be_deleted_are_not_mixed_with_new_ones(tmp_path: Path, monkeypatch: Any) -> None:
    for background in (False, True):
        *_, recorder = trained(tmp_path / str(background), background=background)
        with monkeypatch.context() as patch:
            patch.setattr(ArchiveWriter, "rewind", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
            with pytest.raises(PermissionError):
                recorder.rewind(10)
        recorder.close()


def test_strips_that_fail_cost_neither_the_report_nor_the_last_numbers(tmp_path: Path) -> None:
    (tmp_path / "gradcam").mkdir(parents=True)
    (tmp_path / "gradcam/evolution").write_text("a file where the folder should be")
    sink, warned = MemorySink(), list[str]()
    model = TinyNet()
    recorder = recorder_of(tmp_path, model, background=False, sinks=[sink], failures=Failures("warn", warned.append))
    for epoch in range(6):
        recorder.log(Subject.of(model, recorder.probes), epoch=epoch, step=10 * epoch)
        recorder.settle()
    recorder.close()
    assert (tmp_path / "gradcam/report.html").exists()
    assert any(tag.endswith("drift_to_last") for numbers in sink.numbers for tag in numbers.values)
    assert any("the evolution failed" in text for text in warned)


def test_a_forked_child_neither_draws_nor_closes(tmp_path: Path) -> None:
    sink = MemorySink()
    *_, recorder = trained(tmp_path, sinks=[sink])
    recorder.wait()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        recorder.close()
        os.write(writing, b"closed" if sink.closed else b"open")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"open"
    assert not (tmp_path / "gradcam/report.html").exists()
    recorder.close()
    assert sink.closed
    assert (tmp_path / "gradcam/report.html").exists()


def test_every_sink_is_closed_whatever_one_raises(tmp_path: Path) -> None:
    class Ending(MemorySink):
        def close(self) -> None:
            raise self.error("of the sink")

        error: type[BaseException] = CancelledError

    class Exiting(Ending):
        error = SystemExit

    for first, raised in ((Ending(), None), (Exiting(), SystemExit)):
        last = MemorySink()
        warned: list[str] = []
        model = TinyNet()
        folder = tmp_path / type(first).__name__
        recorder = recorder_of(
            folder, model, background=True, sinks=[first, last], failures=Failures("warn", warned.append)
        )
        recorder.log(Subject.of(model, recorder.probes), epoch=0, step=0)
        if raised is None:
            recorder.close()
            assert "CancelledError" in warned[-1]
        else:
            with pytest.raises(raised):
                recorder.close()
        assert last.closed


def test_strips_come_after_powers_of_two_also_where_measuring_fails(tmp_path: Path, monkeypatch: Any) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no numbers")

    monkeypatch.setattr("lightning_gradcam.monitors.meter.measure", broken)
    sink, model = MemorySink(), TinyNet()
    recorder = recorder_of(tmp_path, model, background=False, sinks=[sink], failures=Failures("warn", lambda _: None))
    for epoch in range(6):
        recorder.log(Subject.of(model, recorder.probes), epoch=epoch, step=epoch)
    assert len(sink.evolutions) <= 3
    recorder.close()


def test_without_a_folder_sinks_are_served_and_nothing_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    sink, model = MemorySink(), TinyNet()
    recorder = recorder_of(None, model, background=True, sinks=[sink])
    recorder.log(Subject.of(model, recorder.probes), epoch=0, step=1)
    recorder.close()
    assert [entry.step for entry in sink.entries] == [1]
    assert recorder.archive is None
    assert "run" not in recorder.state()
    assert not list(tmp_path.iterdir())
