"""Filter patterns as a monitor: what the model is given, what is recorded, and what the first look costs."""

from __future__ import annotations

import importlib
import io
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import ConfigurationError, PatternDrawing, filter_patterns
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.compute.ascent import Ascent
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.monitors import pattern_monitor as pattern_plan
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.pattern_monitor import PatternMonitor
from lightning_gradcam.probes import ProbeSet


class Two(nn.Module):
    """Takes channels last, and a second input for each picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.batches: list[int] = []

    def forward(self, picture: Tensor, shift: Tensor) -> Tensor:
        assert len(shift) == len(picture)
        output: Tensor = self.conv(picture.permute(0, 3, 1, 2) + shift.reshape(-1, 1, 1, 1))
        return output.mean((2, 3))


def looked(plan: PatternMonitor, model: nn.Module, values: Any, probes: ProbeSet, forward: Any) -> Any:
    inputs = Inputs(values)
    with preserved(model):
        return plan.observe(Subject(model, inputs.part, forward), probes)


def two() -> tuple[Two, Any, ProbeSet]:
    torch.manual_seed(0)
    pictures = torch.rand(2, 9, 8, 3)
    return Two(), (pictures, torch.tensor([0.5, 9.0])), ProbeSet(pictures.permute(0, 3, 1, 2), note="drawn")


def test_patterns_of_a_model_with_several_inputs_are_recorded_with_channels_first() -> None:
    model, values, probes = two()
    plan = PatternMonitor("patterns", "conv", filters=[3, 1], ascent=Ascent(steps=2, jitter=1), progress=False)
    found = looked(plan, model, values, probes, lambda both: model(*both))
    expected = filter_patterns(
        model,
        "conv",
        (9, 8, 3),
        filters=[3, 1],
        steps=2,
        jitter=1,
        forward=lambda x: model(x, torch.full([len(x)], 0.5)),
    )["conv"]
    torch.testing.assert_close(found["conv"].pictures, expected.pictures)
    record = plan.record(found, probes, epoch=1, step=7, stage="fit")
    assert record.channels["conv"].shape == (2, 3, 9, 8)
    assert record.chosen["conv"] == (3, 1)
    torch.testing.assert_close(torch.tensor(record.channels["conv"]), expected.pictures.permute(0, 3, 1, 2))
    manifest = plan.manifest(probes, found, "run")
    assert (manifest.kind, dict(manifest.map_shapes)) == ("patterns", {"conv": [2, 3, 9, 8]})
    numbers = plan.numbers(record)["conv"]
    assert numbers["activation"] == pytest.approx(float(expected.activations.mean()), rel=1e-5)
    assert numbers["silent"] == 0
    pinned = plan.pinned(found)
    assert (pinned.layers, pinned.layout) == (["conv"], {"conv": "NCHW"})
    again = looked(pinned, model, values, probes, lambda both: model(*both))
    assert torch.equal(again["conv"].pictures, found["conv"].pictures)
    sheet = plan.sheet(record, "conv", probes)
    assert sheet.pixels.shape[2] == 3


def test_the_first_look_is_short_where_it_is_not_logged() -> None:
    model, values, probes = two()
    runs: list[int] = []

    def forward(both: Any) -> Tensor:
        runs.append(len(both[0]))
        output: Tensor = model(*both)
        return output

    plan = PatternMonitor("patterns", "conv", ascent=Ascent(steps=6), log_untrained=False, progress=False)
    found = looked(plan, model, values, probes, forward)
    # Two pictures show the layer; then one step, and what it reaches.
    assert runs == [2, 4, 4]
    runs.clear()
    looked(plan.pinned(found), model, values, probes, forward)
    assert runs == [2, *[4] * 7]


def test_clips_and_whole_numbers_are_refused() -> None:
    clips = torch.rand(1, 1, 4, 6, 6)
    model = nn.Sequential(nn.Conv3d(1, 2, 3))
    with pytest.raises(
        ConfigurationError, match=r"got shape \[1, 4, 6, 6\] for a sample, but patterns are drawn for images"
    ):
        looked(PatternMonitor("patterns", "0"), model, clips, ProbeSet(clips), model)
    whole = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    scaled = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(ConfigurationError, match=r"the model takes torch.uint8, which has .* pass probes=ProbeSet"):
        looked(PatternMonitor("patterns", "0"), scaled, whole, ProbeSet(whole), lambda x: scaled(x / 255))
    floats = ProbeSet(whole.float())
    plan = PatternMonitor("patterns", "0", ascent=Ascent(steps=1, value_range=(0, 255)))
    found = looked(plan, scaled, floats.inputs, floats, lambda x: scaled(x / 255))["0"]
    assert found.pictures.max() > 100


def test_a_bar_is_shown_on_request_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    model, values, probes = two()
    found = [
        looked(
            PatternMonitor("p", "conv", ascent=Ascent(steps=2), drawing=PatternDrawing(), progress=progress),
            model,
            values,
            probes,
            lambda both: model(*both),
        )["conv"].pictures
        for progress in (True, False)
    ]
    assert torch.equal(*found)
    # No terminal here.
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """Says of itself that somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [False, True])
def test_the_bar_is_one_line_also_beside_lightnings_rich_one(monkeypatch: pytest.MonkeyPatch, rich: bool) -> None:
    terminal = Terminal()
    if rich:
        console = pytest.importorskip("rich.console").Console(file=terminal, force_terminal=True, width=100)
        monkeypatch.setattr("sys.stderr", importlib.import_module("rich.file_proxy").FileProxy(console, terminal))
    else:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(pattern_plan, "_PATIENCE", 0)
    with pattern_plan._bar("patterns", shown=True) as progress:
        assert progress is not None
        for done in range(1, 9):
            time.sleep(0.12)
            progress(done, 8)
    assert terminal.getvalue().count("\n") <= 2
    assert terminal.getvalue().count("patterns") > (0 if rich else 4)
