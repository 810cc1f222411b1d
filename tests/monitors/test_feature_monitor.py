"""Feature maps as a monitor: found, recorded, archived, drawn and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from lightning_gradcam import Archive, ProbeSet
from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.compute.feature_maps import compute_feature_maps
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.feature_monitor import FeatureMonitor
from lightning_gradcam.render.grid import GridDrawing


def model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 6, 3))
    with torch.no_grad():
        net[0].bias[1] = -100.0
    return net


def plan(**options: object) -> FeatureMonitor:
    return FeatureMonitor(**{"name": "features", "layers": ["0", "1"], "drawing": GridDrawing(), **options})  # type: ignore[arg-type]


PROBES = ProbeSet(torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), labels=torch.arange(3))


def test_one_step_from_the_model_to_the_archive_and_the_sheet(tmp_path: Path) -> None:
    net, monitor = model(), plan(max_channels=4, batch_size=2)
    with preserved(net):
        found = monitor.observe(Subject.of(net, PROBES), PROBES)
    expected = compute_feature_maps(net, PROBES.inputs, ["0", "1"], max_channels=4)
    record = monitor.record(found, PROBES, epoch=0, step=5, stage="fit")
    for layer in ("0", "1"):
        np.testing.assert_allclose(record.channels[layer], expected[layer].numpy(), atol=1e-6)
    assert record.chosen["1"] == (0, 1, 3, 4)
    assert record.probe_ids == PROBES.ids
    dead = int(expected.dead["1"].sum())
    assert dead >= 1
    assert monitor.numbers(record) == {
        "0": {"dead": 0.0, "dead_share": 0.0},
        "1": {"dead": dead, "dead_share": dead / 6},
    }
    assert monitor.tag("1") == "features/1"
    assert monitor.curve[0] in monitor.numbers(record)["1"]

    root = str(tmp_path / "features")
    archive, _ = ArchiveWriter.start(root, monitor.manifest(PROBES, found, "run"), PROBES, parent=None, copy_steps=True)
    archive.append(record)
    read = Archive.open(root)
    assert read.manifest.kind == "features"
    assert read.channels("1").shape == (1, 3, 4, 6, 6)
    np.testing.assert_allclose(read.channels("1")[0], record.channels["1"], rtol=2**-10, atol=1e-7)
    again = read.channel_record(0)
    assert again.chosen == record.chosen
    assert monitor.numbers(again) == monitor.numbers(record)
    assert monitor.sheet(again, "1", PROBES).pixels.shape == monitor.sheet(record, "1", PROBES).pixels.shape


def test_what_was_found_is_pinned() -> None:
    net, monitor = model(), plan(layers="auto")
    with preserved(net):
        found = monitor.observe(Subject.of(net, PROBES), PROBES)
        pinned = monitor.pinned(found)
        again = pinned.observe(Subject.of(net, PROBES), PROBES)
    assert pinned.layers == ["1"]
    assert pinned.layout == {"1": "NCHW"}
    assert pinned.tried
    assert torch.equal(found["1"], again["1"])
    assert monitor.manifest(PROBES, found, "a").differences(pinned.manifest(PROBES, again, "b")) == []
