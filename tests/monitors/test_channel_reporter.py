"""The page of a run of channels: no more is drawn and kept than it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gradcam import ProbeSet
from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.compute.feature_maps import compute_feature_maps
from lightning_gradcam.monitors.channel_reporter import gallery_of
from lightning_gradcam.monitors.feature_monitor import FeatureMonitor
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.render.grid import GridDrawing
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.report import gallery


@dataclass(frozen=True)
class Counting(FeatureMonitor):
    """Counts the sheets that are drawn."""

    drawn: list[int] = field(default_factory=list)

    def sheet(self, record: ChannelRecord, layer: str, probes: ProbeSet) -> Picture:
        self.drawn.append(record.step)
        return super().sheet(record, layer, probes)


@pytest.mark.parametrize(("room", "shown"), [(1, [0, 70]), (10**9, [0, 10, 20, 30, 40, 50, 60, 70])])
def test_of_many_steps_only_those_that_have_room_in_a_page_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, shown: list[int]
) -> None:
    monkeypatch.setattr(gallery, "MAX_BYTES", room)
    probes = ProbeSet(torch.rand(1, 1, 8, 8))
    monitor = Counting("features", ["0"], GridDrawing())
    found = compute_feature_maps(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), probes.inputs, "0")
    archive, _ = ArchiveWriter.start(str(tmp_path / "features"), monitor.manifest(probes, found, "run"), probes)
    for step in range(8):
        archive.append(monitor.record(found, probes, epoch=step, step=10 * step, stage="fit"))
    pages = gallery_of(archive, monitor)
    assert sorted(monitor.drawn) == shown
    assert [shot.step for shot in pages.layers["0"]] == shown
    assert pages.remark == ("" if len(shown) == 8 else "2 of 8 steps, evenly chosen")
    (header,) = pages.header()["layers"]
    assert [shot["step"] for shot in header["shots"]] == shown
    assert len(header["numbers"]) == len(shown)
    # Sheets are kept as files: their pixels would be a hundred times as much.
    kept = [value for shot in pages.layers["0"] for value in vars(shot).values()]
    assert not any(isinstance(value, (Picture, np.ndarray)) for value in kept)
