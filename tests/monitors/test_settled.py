"""The number `settled`: 1 at a step exactly where the finding would be reported for a run that ended there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_gradcam import GradCAMCallback
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.stats.settled import have_settled
from tests.callbacks.test_resume import checkpoint, run
from tests.conftest import TinyModule
from tests.findings.planted import COUNT, SPREAD, planted, spots
from tests.monitors.test_meter import KEY, plan, probes, record


class Still(TinyModule):
    """Nothing of it changes while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.net.norm1.momentum = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_it_is_the_finding_of_a_run_that_ends_at_that_step(tmp_path: Path) -> None:
    before, after = spots(*SPREAD), spots(*SPREAD[::-1])
    # Drifts; then it stays; then a step of small moves, each close to the one before, and the first far from the last.
    shares = (0, 1, 1, 1, 1, 0.9, 0.8, 0.72, 0.72, 0.72, 0, 0, 0)
    steps = [(1 - share) * before + share * after for share in shares]
    meter = CamReporter(plan(), probes())
    ids: dict[str, Any] = {
        "probe_ids": tuple(map(str, range(COUNT))),
        "classes": {"predicted": np.zeros(COUNT, int)},
        "scores": {"predicted": np.ones(COUNT, np.float32)},
    }
    numbers = [
        meter.measured(record({KEY: maps}, row, **ids)).numbers[KEY]["settled"] for row, maps in enumerate(steps)
    ]
    found = ["settled" in {f.kind for f in planted(tmp_path / f"{n}", steps[: n + 1]).findings} for n in range(13)]
    assert [values.tolist() for values in numbers] == [[float(flag)] * COUNT for flag in found]
    assert found.index(True) == 4
    assert True in found[6:]
    assert not found[10]


def test_few_probes_blank_maps_and_other_classes_are_never_settled() -> None:
    maps = np.ones((4, 2, 2), np.float32)
    flags = np.array([True, True, False, False])
    assert have_settled(maps, [(maps, None)] * 3).tolist() == [1] * 4
    assert have_settled(maps, [(maps, None)] * 2).tolist() == [0] * 4
    assert have_settled(maps, [(maps, None), (maps, flags), (maps, None)]).tolist() == [0] * 4
    blank = np.where(flags[:, None, None], 0, maps)
    assert have_settled(maps, [(maps, None), (blank, None), (maps, None)]).tolist() == [0] * 4
    assert have_settled(maps[:2], [(maps[:2], None)] * 3).tolist() == [0] * 2
    assert have_settled(maps, [(np.ones((4, 3, 3), np.float32), None)] * 3).tolist() == [0] * 4


def test_a_resumed_run_compares_with_the_steps_before_it(tmp_path: Path) -> None:
    """Nothing is learnt, so that all maps are alike: the third step after the first is settled, whoever measured it."""
    options: dict[str, Any] = {"model": Still(), "log_untrained": False, "evolution": False}
    first: GradCAMCallback = run(tmp_path, 3, **options)
    second: GradCAMCallback = run(tmp_path, 4, ckpt=checkpoint(tmp_path, 2), **options)
    assert first.archive is not None
    assert second.archive is not None
    assert np.nanmax(first.archive.numbers("net.conv1")["settled"]) == 0
    assert second.archive.numbers("net.conv1")["settled"][:, 0].tolist() == [0, 0, 0, 1]
