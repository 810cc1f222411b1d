"""Each step's record keeps the trainer's metrics, once Lightning has computed them."""

from __future__ import annotations

import math
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gradcam import FeatureMapCallback, GradCAMCallback, MemorySink
from lightning_gradcam.callbacks.host import Host
from tests.conftest import TinyModule, loaders, trainer

OPTIONS: dict[str, Any] = {"num_probes": 4, "on_error": "raise"}


class Counting(Metric):
    """A metric that notes when it is computed."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.computed: list[str] = []

    def update(self, value: float) -> None:
        self.total += value

    def compute(self) -> Tensor:
        self.computed.append("computed")
        return self.total


class Measured(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.counting = Counting()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.counting.update(1.5)
        self.log("counted", self.counting)
        self.log("odd", math.nan)

    def on_validation_epoch_end(self) -> None:
        self.counting.computed.append("module")
        self.log("late", float(self.current_epoch))


class Seen(pl.Callback):
    """What others find at the end of a validation."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.found.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fitted(root: Path, callback: Any, **options: Any) -> tuple[Measured, list[dict[str, float]]]:
    pl.seed_everything(1, verbose=False)
    module, seen = Measured(), Seen()
    running = trainer(root, callbacks=[*([callback] if callback else []), seen], max_epochs=3, **options)
    running.fit(module, *loaders())
    return module, seen.found


@pytest.mark.parametrize("background", [True, False])
def test_a_step_keeps_the_metrics_of_its_validation(tmp_path: Path, background: bool) -> None:
    callback = GradCAMCallback("net.conv1", background=background, log_untrained=True, **OPTIONS)
    _, seen = fitted(tmp_path, callback)
    assert callback.archive is not None
    kept = [dict(callback.archive.record(row).metrics) for row in range(4)]
    assert kept[0] == {}
    assert kept[1:] == [{name: value for name, value in found.items() if name != "odd"} for found in seen]
    assert [step["late"] for step in kept[1:]] == [0, 1, 2]
    assert [step["counted"] for step in kept[1:]] == [7.5] * 3
    assert {"val_loss", "train_loss"} <= kept[2].keys()


def test_nothing_is_computed_early_or_again_and_training_is_the_same(tmp_path: Path) -> None:
    bare, _ = fitted(tmp_path / "bare", None)
    with_it, _ = fitted(tmp_path / "with", GradCAMCallback("net.conv1", **OPTIONS))
    assert with_it.counting.computed == bare.counting.computed
    for (name, value), other in zip(with_it.state_dict().items(), bare.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_channels_and_a_validation_alone_have_them_too(tmp_path: Path) -> None:
    maps, features = GradCAMCallback("net.conv1", **OPTIONS), FeatureMapCallback("net.conv1", name="f", **OPTIONS)
    running = trainer(tmp_path, callbacks=[maps, features])
    running.validate(Measured(), loaders()[1], verbose=False)
    assert maps.archive is not None
    assert features.archive is not None
    wanted = {"val_loss", "counted", "late"}
    assert set(maps.archive.record(0).metrics) == set(features.archive.channel_record(0).metrics) == wanted


def test_without_a_validation_they_are_those_of_the_epoch(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.conv1", **OPTIONS)
    trainer(tmp_path, callbacks=callback, max_epochs=2).fit(Measured(), loaders()[0])
    assert callback.archive is not None
    kept = [callback.archive.record(row).metrics for row in range(2)]
    assert [set(step) for step in kept] == [{"train_loss"}] * 2
    assert kept[0]["train_loss"] > kept[1]["train_loss"]


def test_a_step_is_kept_where_the_validation_ends_in_an_error(tmp_path: Path) -> None:
    class Failing(TinyModule):
        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking:
                raise ValueError("mine")

    callback = GradCAMCallback("net.conv1", **OPTIONS)
    with pytest.raises(ValueError, match="mine"):
        trainer(tmp_path, callbacks=callback).fit(Failing(), *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (0,)
    assert callback.archive.record(0).metrics == {}


def test_metrics_that_can_not_be_read_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Host) -> dict[str, float]:
        raise RuntimeError("no metrics")

    monkeypatch.setattr(Host, "metrics", broken)
    callback = GradCAMCallback("net.conv1", num_probes=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, callbacks=callback, max_epochs=2).fit(TinyModule(), *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)
    assert callback.archive.record(1).metrics == {}
    assert any("reading the trainer's metrics failed" in str(warning.message) for warning in caught)


def test_a_sink_that_reads_the_archive_in_the_background_takes_no_metrics_away(tmp_path: Path) -> None:
    explained, read = threading.Event(), threading.Event()

    class Reading(MemorySink):
        thread_safe = True

        def log_numbers(self, numbers: Any) -> None:
            if not read.is_set():
                explained.wait(30)
                assert callback.archive is not None
                read.set()

    class Waiting(pl.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                explained.set()
                assert read.wait(30)

    callback = GradCAMCallback("net.relu2", sinks=[Reading()], **OPTIONS)
    trainer(tmp_path, callbacks=[callback, Waiting()], max_epochs=2).fit(Measured(), *loaders())
    assert callback.archive is not None
    first, second = (callback.archive.record(step).metrics for step in range(2))
    assert second.keys() == first.keys() | {"train_loss"}
