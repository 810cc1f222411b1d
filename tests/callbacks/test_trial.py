"""Tests of what happens before the first training step: the configuration is tried on two probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import (
    FeatureMapCallback,
    GradCAMCallback,
    LayerError,
    LightningGradCAMError,
    MemorySink,
    ProbeSet,
    TargetError,
)
from tests.conftest import TinyModule, loaders, trainer

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


class Watched(TinyModule):
    """Keeps how many samples each forward had, those before the first training step apart."""

    # Not the module's own: the guard takes back what a forward does to an attribute.
    seen: ClassVar[list[int]] = []
    before: list[int] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        Watched.seen.append(len(inputs))
        return super().forward(inputs)

    def on_train_start(self) -> None:
        self.before, Watched.seen[:] = list(Watched.seen), []


class Tokens(nn.Module):
    """16 patches behind a class token, for `[N, 1, 8, 8]`; ``overwritten`` changes the norm's output in place."""

    def __init__(self, *, overwritten: bool = False) -> None:
        super().__init__()
        self.overwritten = overwritten
        self.patches, self.token = nn.Conv2d(1, 6, 2, 2), nn.Parameter(torch.rand(1, 1, 6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).mT
        tokens = self.norm(torch.cat([self.token.expand(len(x), 1, 6), patches], 1))
        tokens = tokens.relu_() if self.overwritten else tokens.relu()
        scores: Tensor = self.head(tokens.mean(1))
        return scores


def before_training(root: Path, callback: Any, net: nn.Module | None = None) -> list[int]:
    """Runs one epoch, and returns the samples of each forward before its first step."""
    Watched.seen.clear()
    module = Watched()
    module.net = net or module.net
    trainer(root, callbacks=callback, num_sanity_val_steps=0, max_epochs=1).fit(module, *loaders())
    assert module.before is not None
    return module.before


def probes(labels: Tensor = LABELS) -> ProbeSet:
    torch.manual_seed(0)
    return ProbeSet(torch.rand(len(labels), 1, 8, 8), labels=labels)


@pytest.mark.parametrize("kind", [GradCAMCallback, FeatureMapCallback])
def test_the_configuration_is_tried_on_two_probes_and_all_are_explained_when_due(tmp_path: Path, kind: Any) -> None:
    sink = MemorySink()
    before = before_training(tmp_path, kind("net.relu2", probes=probes(), sinks=[sink], on_error="raise"))
    assert before == [2]
    assert 6 in Watched.seen
    assert len(sink.entries) == 1


@pytest.mark.parametrize("overwritten", [False, True])
def test_tokens_are_looked_at_in_the_forward_that_is_tried(tmp_path: Path, *, overwritten: bool) -> None:
    torch.manual_seed(0)
    callback = GradCAMCallback("net.norm", probes=probes(), on_error="raise")
    before = before_training(tmp_path, callback, Tokens(overwritten=overwritten))
    # What is changed in place shows in the end, and takes another forward with copies.
    assert before == ([2, 2] if overwritten else [2])
    assert callback.archive is not None
    assert callback.archive.maps("net.norm").shape == (1, 6, 4, 4)


def test_a_baseline_is_explained_whole(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", probes=probes(), log_untrained=True, on_error="raise")
    before = before_training(tmp_path, callback)
    # Two more of two samples show that places are those of the picture.
    assert before == [6, 2, 2]
    assert callback.archive is not None
    assert callback.archive.maps("net.relu2").shape[:2] == (2, 6)


@pytest.mark.parametrize(
    ("options", "labels", "error", "said"),
    [
        ({"layers": "net.relu9"}, LABELS, LayerError, "'net.relu9' not found"),
        ({"targets": 7}, LABELS, TargetError, "class 7"),
        ({}, torch.tensor([0, 1, 2, 3, 4, 9]), TargetError, "labels: got class 9"),
        ({"targets": "label"}, torch.tensor([0, 1, 2, 3, -1, 0]), TargetError, "class -1"),
        ({"targets": [{"per_probe": [0, 1, 2, 3, 4, 8]}]}, LABELS, TargetError, "class 8"),
    ],
)
def test_what_no_tried_probe_shows_fails_before_the_first_step(
    tmp_path: Path, options: dict[str, Any], labels: Tensor, error: type[Exception], said: str
) -> None:
    callback = GradCAMCallback(**{"layers": "net.relu2", "probes": probes(labels), **options})
    module = Watched()
    with pytest.raises(error, match=said) as caught:
        trainer(tmp_path, callbacks=callback, num_sanity_val_steps=0).fit(module, *loaders())
    assert isinstance(caught.value, LightningGradCAMError)
    assert len(str(caught.value)) <= 500
    assert module.before is None


def test_a_target_that_takes_all_probes_alone_is_tried_on_all(tmp_path: Path) -> None:
    def first_of_six(output: Tensor) -> Tensor:
        return output.reshape(6, 5)[:, 0]

    before = before_training(tmp_path, GradCAMCallback("net.relu2", probes=probes(), targets=first_of_six))
    assert 6 in before


class SteepInEvaluation(TinyModule):
    """Its gradients are NaN in evaluation mode, its outputs are not."""

    modes: ClassVar[list[bool]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        output = super().forward(inputs)
        return output if self.training else output + (output - 1e9).relu().sqrt()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        SteepInEvaluation.modes.append(torch.is_anomaly_enabled())


@pytest.mark.filterwarnings("ignore:lightning-gradcam.*are not finite")
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_detection_stops_no_training_because_of_a_map(tmp_path: Path) -> None:
    SteepInEvaluation.modes.clear()
    callback = GradCAMCallback("net.relu2", on_error="raise")
    trainer(tmp_path, callbacks=callback, detect_anomaly=True).fit(SteepInEvaluation(), *loaders())
    assert callback.archive is not None
    assert callback.archive.maps("net.relu2", relu=False).shape[0] == 2
    assert len(SteepInEvaluation.modes) == 10
    assert all(SteepInEvaluation.modes)
