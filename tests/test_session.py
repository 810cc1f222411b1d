"""A session whose worker lags behind the training thread."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam import Drawing, MemorySink, ProbeSet, compute_cams
from lightning_gradcam.account import CamAccount
from lightning_gradcam.archive import Archive, ArchiveWriter
from lightning_gradcam.failures import Failures
from lightning_gradcam.plan import Plan
from lightning_gradcam.session import Session
from lightning_gradcam.worker import Worker
from tests.conftest import TinyNet


class Held(MemorySink):
    """Lets the first step's pictures wait."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.released = threading.Event(), threading.Event()

    def log(self, entry: Any) -> None:
        super().log(entry)
        self.reached.set()
        assert self.released.wait(30)


def test_steps_are_measured_once_and_in_their_order_where_the_worker_lags(tmp_path: Path) -> None:
    """A checkpoint is saved, and the archive brought up to date, while the worker is still at the first step."""
    torch.manual_seed(0)
    probes = ProbeSet(torch.rand(3, 1, 8, 8))
    plan = Plan("gradcam", "conv1", "gradcam", "predicted", "logit", Drawing(), evolution=False)
    found = [compute_cams(TinyNet().eval(), probes.inputs, "conv1", relu=False) for _ in range(3)]

    def recorded(root: Path, sink: MemorySink, *, background: bool) -> tuple[Session, ArchiveWriter]:
        archive, _ = ArchiveWriter.start(str(root), plan.manifest(probes, found[0], "run"), probes)
        worker = Worker(background=background)
        session = Session(CamAccount(plan, probes), archive, [sink], worker, Failures("raise", pytest.fail))
        for step, cams in enumerate(found):
            session.log(cams, epoch=step, step=step, stage="fit", began=time.perf_counter())
            if isinstance(sink, Held):
                assert sink.reached.wait(30)
        return session, archive

    held = Held()
    session, archive = recorded(tmp_path / "lagging", held, background=True)
    assert session.archive is archive
    assert archive.steps == (0, 1, 2)
    held.released.set()
    session.close()
    plain = MemorySink()
    recorded(tmp_path / "plain", plain, background=False)[0].close()
    expected = Archive.open(tmp_path / "plain").numbers("conv1")
    numbers = Archive.open(tmp_path / "lagging").numbers("conv1")
    assert np.isfinite(expected["drift"][1:]).all()
    for name, values in expected.items():
        np.testing.assert_array_equal(numbers[name], values, name)

    def drifts(sink: MemorySink) -> list[float]:
        tag = "gradcam_stats/conv1/drift"
        return [row.values[tag] for row in sink.numbers if tag in row.values]

    assert drifts(held) == drifts(plain)
    assert len(drifts(plain)) == 2
