"""Numbers that steer: Lightning's callbacks find them in time, and nobody is stopped for want of one."""

from __future__ import annotations

import copy
import math
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gradcam import STATS, ConfigurationError, GradCAMCallback, MemorySink, ProbeSet
from lightning_gradcam.monitors.meter import Meter
from lightning_gradcam.saved_models.replay import replay
from tests.conftest import TinyModule, loaders, tiny_data, trainer
from tests.monitors.test_settled import Still

INSIDE = "gradcam_stats/net.conv1/energy_inside"
DRIFT = "gradcam_stats/net.conv1/drift"
NAN = math.nan


def probes() -> ProbeSet:
    """Eight pictures, whose upper half is marked."""
    inputs, labels = tiny_data(8, seed=2).tensors
    masks = torch.zeros(8, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    return ProbeSet(inputs, labels=labels, masks=masks)


def ours(**options: Any) -> GradCAMCallback:
    return GradCAMCallback("net.conv1", **{"probes": probes(), "evolution": False, "monitor": True, **options})


class Looking(pl.Callback):
    """What a callback listed first finds where a validation ends."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.found: list[tuple[float, ...]] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.found.append(tuple(float(trainer.callback_metrics[name]) for name in self.names))


def fit(
    root: Path, *callbacks: Any, ckpt: str | None = None, module: type[TinyModule] = TinyModule, **options: Any
) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    running = trainer(root, callbacks=list(callbacks), **{"max_epochs": 4, **options})
    running.fit(module(), *loaders(), ckpt_path=ckpt)
    return running


def test_the_example_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "numbers.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    probes().save("probes.npz")
    made: dict[str, Any] = {}
    exec(code.replace("backbone.layer4", "net.conv1"), made)
    # Of a model that does not change, maps have settled at the fourth step.
    running = fit(tmp_path, *made["callbacks"], module=Still, enable_checkpointing=True, max_epochs=9)
    assert running.current_epoch == 4
    _, best, stopper = made["callbacks"]
    assert Path(best.best_model_path).name == "epoch=0-step=5.ckpt"
    assert float(best.best_model_score) == pytest.approx(float(running.callback_metrics[INSIDE]))
    assert float(stopper.best_score) == 0


def test_numbers_are_there_before_anyone_looks_and_stay_where_nothing_is_logged(tmp_path: Path) -> None:
    looking, sink = Looking(INSIDE, DRIFT), MemorySink()
    best = ModelCheckpoint(tmp_path / "best", monitor=INSIDE, mode="max", filename="{epoch}")
    callback = ours(every_n_epochs=2, sinks=[sink], on_error="raise")
    running = fit(tmp_path, looking, callback, best, enable_checkpointing=True, max_epochs=5)
    (first, second) = [numbers.values for numbers in sink.numbers]
    assert (first[INSIDE], second[INSIDE]) != (0, 0)
    # With torch 2.4's arithmetic, no probe's maps can be compared: then there is no drift.
    last = second[INSIDE], second.get(DRIFT, NAN)
    rows = [(NAN, NAN), (first[INSIDE], NAN), (first[INSIDE], NAN), last, last]
    for found, row in zip(looking.found, rows, strict=True):
        assert found == pytest.approx(row, rel=1e-6, nan_ok=True)
    # All numbers, of which loggers may get fewer, but not the times, which are known later.
    shown = {name.removeprefix("gradcam_stats/") for name in running.callback_metrics if "_stats/" in name}
    assert {f"net.conv1/{name}" for name in STATS} | {"score", "confidence"} >= shown
    assert {"net.conv1/entropy", "net.conv1/compared", "net.conv1/settled", "score"} <= shown
    assert {name.removeprefix("gradcam_stats/") for name in second} - {"seconds", "background_seconds"} <= shown
    assert float(best.best_model_score) == pytest.approx(max(first[INSIDE], second[INSIDE]))
    assert Path(best.best_model_path).name == f"epoch={1 if first[INSIDE] >= second[INSIDE] else 3}.ckpt"
    # A record keeps the user's metrics.
    assert callback.archive is not None
    assert set(callback.archive.record(1).metrics) == {"val_loss"}


@pytest.mark.parametrize("place", ["first", "inside an epoch", "without validation"])
def test_early_stopping_looks_once_at_each_value_and_not_before_the_first(tmp_path: Path, place: str) -> None:
    # No value is better by 10 than the one before: the second one that it looks at ends the training.
    stopper = EarlyStopping(
        INSIDE, min_delta=10, patience=1, mode="max", check_on_train_epoch_end=place == "without validation"
    )
    options: dict[str, Any] = {"max_epochs": 20}
    if place == "inside an epoch":
        options["val_check_interval"] = 2
    if place == "without validation":
        options["limit_val_batches"] = 0
    running = fit(tmp_path, stopper, ours(every_n_epochs=3, on_error="raise"), **options)
    # In an epoch with two validations, both are logged.
    assert running.current_epoch == (3 if place == "inside an epoch" else 6)
    assert stopper.stopped_epoch == (2 if place == "inside an epoch" else 5)
    assert "_run_early_stopping_check" not in vars(stopper)


def test_what_validate_has_measured_is_no_news_to_early_stopping(tmp_path: Path) -> None:
    stopper = EarlyStopping(INSIDE, mode="max")
    running = trainer(tmp_path, callbacks=[ours(every_n_epochs=2), stopper], max_epochs=2)
    module, (train, val) = TinyModule(), loaders()
    running.validate(module, val, verbose=False)
    assert math.isfinite(running.callback_metrics[INSIDE])
    running.fit(module, train, val)
    assert running.current_epoch == 2
    assert float(stopper.best_score) == float(running.callback_metrics[INSIDE])


class Meddling(pl.Callback):
    """Copies an EarlyStopping in the middle of training, and has it look at another number."""

    def __init__(self, stopper: EarlyStopping) -> None:
        self.stopper = stopper
        self.copies: list[EarlyStopping] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.copies = [copy.deepcopy(self.stopper), pickle.loads(pickle.dumps(self.stopper))]
            self.stopper.monitor, self.stopper.patience = "val_loss", 1


def test_an_early_stopping_that_is_held_back_stays_the_users(tmp_path: Path) -> None:
    # One that shares nothing but the name, one with a method put on it, and one that is changed and copied.
    own = type("EarlyStopping", (pl.Callback,), {"monitor": [INSIDE]})()
    patched = EarlyStopping("gradcam_stats/net.conv1/entropy")
    changed = EarlyStopping(INSIDE, mode="max", min_delta=10)
    looks: list[Any] = []
    patched._run_early_stopping_check = looks.append  # type: ignore[method-assign]
    method, meddling = patched._run_early_stopping_check, Meddling(changed)
    running = fit(tmp_path, own, patched, changed, meddling, ours())
    assert (running.current_epoch, changed.wait_count, len(looks)) == (2, 1, 2)
    assert vars(patched)["_run_early_stopping_check"] is method
    assert [one._run_early_stopping_check.__self__ for one in meddling.copies] == meddling.copies  # type: ignore[attr-defined]


class Interrupting(MemorySink):
    def close(self) -> None:
        raise KeyboardInterrupt


class FailingModule(TinyModule):
    def on_train_epoch_end(self) -> None:
        raise RuntimeError("the user's")


def test_an_interrupt_while_closing_leaves_early_stopping_as_it_was(tmp_path: Path) -> None:
    stopper = EarlyStopping(INSIDE, mode="max")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, ours(sinks=[Interrupting()]), stopper, module=FailingModule)
    assert "_run_early_stopping_check" not in vars(stopper)


def test_a_number_that_is_looked_for_without_monitor_is_reported_before_the_first_step(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match=f"another callback monitors '{INSIDE}'.* set monitor=True there"),
        pytest.raises(RuntimeError, match="which is not available"),
    ):
        fit(tmp_path, ours(monitor=False), EarlyStopping(INSIDE), max_epochs=1)


def test_a_number_whose_measuring_fails_keeps_its_value_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Meter.measured

    def failing(self: Meter, record: Any) -> Any:
        if record.epoch in (0, 2):
            raise RuntimeError("no numbers")
        return measured(self, record)

    monkeypatch.setattr(Meter, "measured", failing)
    looking, stopper = Looking(INSIDE), EarlyStopping(INSIDE, patience=1, mode="max", stopping_threshold=2.0)
    with pytest.warns(UserWarning, match="measuring failed at step 4 .*training continues"):
        fit(tmp_path, ours(monitor=[INSIDE]), stopper, looking, max_epochs=3)
    (first,), (second,), (third,) = looking.found
    assert math.isnan(first)
    assert second == third


class Broken(TinyModule):
    """Its weights are NaN in epoch 1."""

    def on_validation_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.kept = copy.deepcopy(self.state_dict())
            self.load_state_dict(
                {name: value * NAN if value.is_floating_point() else value for name, value in self.kept.items()}
            )

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 2:
            self.load_state_dict(self.kept)


def test_a_number_that_no_probe_has_is_not_that_of_the_step_before(tmp_path: Path) -> None:
    """A checkpoint would be ranked by what other weights have reached."""
    looking, stopper = Looking(INSIDE), EarlyStopping(INSIDE, mode="max", patience=9)
    best = ModelCheckpoint(tmp_path, monitor=INSIDE, mode="max", filename="{epoch}", save_top_k=2)
    fit(tmp_path, ours(), stopper, looking, best, enable_checkpointing=True, max_epochs=3, module=Broken)
    (first,), (second,), (third,) = looking.found
    assert [math.isnan(value) for value in (first, second, third)] == [False, True, False]
    assert {Path(path).name for path in best.best_k_models} == {"epoch=0.ckpt", "epoch=2.ckpt"}


def test_a_resumed_run_goes_on_with_the_last_value(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1)
    first, second = Looking(INSIDE), Looking(INSIDE)
    fit(tmp_path / "a", first, ours(every_n_epochs=2), keep, enable_checkpointing=True, max_epochs=2)
    state = torch.load(tmp_path / "kept" / "epoch=1.ckpt", weights_only=True)["callbacks"]
    assert state["GradCAMCallback{'name': 'gradcam'}"]["numbers"][INSIDE] == pytest.approx(first.found[1][0])
    fit(tmp_path / "b", second, ours(every_n_epochs=2), ckpt=str(tmp_path / "kept" / "epoch=1.ckpt"), max_epochs=3)
    assert second.found == [first.found[1]]


@pytest.mark.parametrize("other", [False, True], ids=["in the list", "of another callback"])
def test_an_unknown_name_is_refused_before_the_first_step(tmp_path: Path, other: bool) -> None:
    wrong = "gradcam_stats/net.conv1/enery_inside"
    callbacks = [EarlyStopping(wrong), ours()] if other else [ours(monitor=[INSIDE, wrong])]
    with pytest.raises(ConfigurationError, match=re.escape(f"this run logs no number named {wrong!r}")) as caught:
        fit(tmp_path, *callbacks)
    assert f"did you mean {INSIDE!r}?" in str(caught.value)
    assert len(str(caught.value)) <= 500
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"monitor": INSIDE}, "monitor: got 'gradcam_stats/net.conv1/energy_inside'; pass true for all numbers"),
        ({"monitor": []}, "monitor: got []; pass true"),
        (
            {"on_alarm": "halt", "min_energy_inside": 0.5},
            "got 'halt'; valid: 'warn', 'stop' and 'checkpoint'",
        ),
        ({"on_alarm": "stop"}, "on_alarm: got 'stop', but there is no alarm; pass min_energy_inside"),
    ],
)
def test_wrong_options_are_refused_by_the_constructor(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        GradCAMCallback(**options)


@pytest.mark.parametrize("validates", [True, False])
def test_the_alarm_ends_the_training(tmp_path: Path, validates: bool) -> None:
    callback = ours(monitor=False, min_energy_inside=1.0, on_alarm="stop", log_untrained=True)
    with pytest.warns(UserWarning, match="on_alarm='stop' ends the training here"):
        running = fit(tmp_path, callback, limit_val_batches=1.0 if validates else 0)
    assert running.current_epoch == 1
    assert callback.archive is not None
    assert callback.archive.epochs == (-1, 0)
    assert not any(name.startswith("gradcam_stats/") for name in running.callback_metrics)


def test_the_alarm_saves_one_checkpoint_beside_the_others(tmp_path: Path) -> None:
    callback = ours(monitor=False, min_energy_inside=1.0, on_alarm="checkpoint", every_n_epochs=2)
    running = fit(tmp_path, callback, ModelCheckpoint(tmp_path / "all"), enable_checkpointing=True)
    assert running.current_epoch == 4
    alarms = sorted(path.name for path in (tmp_path / "all").glob("*min_energy*"))
    assert alarms == ["epoch=1-step=10-gradcam-min_energy_inside=1.ckpt"]
    resumed = ours(monitor=False)
    fit(tmp_path / "resumed", resumed, ckpt=str(tmp_path / "all" / alarms[0]), max_epochs=3)
    assert resumed.archive is not None
    # Before 2.5, Lightning validates once more where it goes on from the end of a validation.
    once_more = (1,) if tuple(map(int, pl.__version__.split(".")[:2])) < (2, 5) else ()
    assert resumed.archive.epochs == (1, *once_more, 2)
    # A replay has nothing to stop or save.
    options = {"layers": "net.conv1", "probes": probes(), "min_energy_inside": 1.0, "on_alarm": "checkpoint"}
    again = replay(tmp_path / "all", TinyModule(), {**options, "monitor": True}, output=tmp_path / "again")
    assert 1 in again.epochs
    assert not list((tmp_path / "again").rglob("*.ckpt"))


def test_a_checkpoint_of_the_alarm_that_can_not_be_saved_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "gradcam_runs" / "0").mkdir(parents=True)
    (tmp_path / "gradcam_runs" / "1").mkdir()
    (tmp_path / "gradcam_runs" / "2").mkdir()
    callback = ours(monitor=False, min_energy_inside=1.0, on_alarm="checkpoint")

    class Blocking(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            (tmp_path / "gradcam_runs" / "3" / "checkpoints").write_text("a file where the folder should be")

    with pytest.warns(UserWarning, match="the checkpoint of the alarm failed at step 4 .*training continues"):
        running = fit(tmp_path, callback, Blocking(), max_epochs=2)
    assert running.current_epoch == 2


@pytest.mark.parametrize("background", [True, False])
def test_the_wait_is_part_of_the_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool) -> None:
    measured = Meter.measured

    def slow(self: Meter, record: Any) -> Any:
        time.sleep(0.2)
        return measured(self, record)

    monkeypatch.setattr(Meter, "measured", slow)
    sink = MemorySink()
    fit(tmp_path, ours(sinks=[sink], background=background), max_epochs=1)
    # It sleeps that long: no machine is faster.
    assert sink.numbers[0].values["gradcam_stats/seconds"] >= 0.2
