"""The callback in real Trainers: when it logs, what it logs, and what it refuses before the first step."""

from __future__ import annotations

import copy
import pickle
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities import CombinedLoader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_gradcam import (
    Archive,
    ConfigurationError,
    Contrast,
    Drawing,
    GradCAMCallback,
    LayerError,
    LightningGradCAMError,
    MemorySink,
    MethodError,
    ProbeError,
    ProbeFileError,
    ProbeSet,
    TargetError,
    Top,
    compute_cams,
    explain,
)
from tests.conftest import TinyModule, loaders, tiny_data, trainer


def fitted(root: Path, callback: GradCAMCallback | list[Any], *, data: Any = None, **options: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    running = trainer(root, callbacks=callback, **options)
    running.fit(TinyModule(), *(data or loaders()))
    return running


def test_every_validation_epoch_is_logged_with_the_contracts_tags(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = GradCAMCallback(
        ["net.conv1", "net.relu2"], targets=["predicted", "label", 3], sinks=[sink], on_error="raise", num_probes=6
    )
    fitted(tmp_path, callback, logger=CSVLogger(tmp_path), max_epochs=3)
    assert [(entry.epoch, entry.step) for entry in sink.entries] == [(0, 4), (1, 9), (2, 14)]
    assert all(list(entry.pictures) == ["gradcam/net.conv1", "gradcam/net.relu2"] for entry in sink.entries)
    assert sink.closed
    archive = Archive.open(tmp_path / "lightning_logs" / "version_0" / "gradcam")
    assert (archive.epochs, archive.steps) == ((0, 1, 2), (4, 9, 14))
    assert archive.maps("net.conv1").shape == (3, 6, 8, 8)
    assert archive.targets == ("predicted", "label", "3")
    assert callback.probes is not None
    assert archive.probes.fingerprint == callback.probes.fingerprint
    assert (
        sorted(callback.probes.labels.tolist()) == [0, 0, 1, 2, 3, 4] or len(set(callback.probes.labels.tolist())) == 5
    )


def test_the_last_step_holds_the_maps_of_the_trained_weights(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise")
    running = fitted(tmp_path, callback)
    assert callback.archive is not None
    assert callback.probes is not None
    expected = compute_cams(running.lightning_module, callback.probes.inputs, "net.relu2", relu=False)["net.relu2"]
    found = callback.archive.maps("net.relu2", relu=False)[-1]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=float(expected.abs().max()) * 2e-3)
    assert np.abs(found).max() > 0


def test_pictures_and_val_loss_share_the_x_axis(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fitted(tmp_path, GradCAMCallback("net.relu2"), logger=logger, val_check_interval=2, max_epochs=2)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    strip = "gradcam_evolution/net.relu2"
    assert sorted(events.Tags()["images"]) == ["gradcam/net.relu2", strip, f"{strip}/animation"]
    pictures = [image.step for image in events.Images("gradcam/net.relu2")]
    assert pictures == [scalar.step for scalar in events.Scalars("val_loss")]
    assert len(pictures) == 4


@pytest.mark.parametrize(
    ("options", "trainer_options", "expected"),
    [
        ({}, {}, [0, 1, 2, 3]),
        ({"every_n_epochs": 2}, {}, [1, 3]),
        ({"every_n_epochs": 2}, {"check_val_every_n_epoch": 2}, [1, 3]),
        ({"log_untrained": True}, {}, [-1, 0, 1, 2, 3]),
        ({}, {"val_check_interval": 0.5}, [0, 0, 1, 1, 2, 2, 3, 3]),
        ({"every_n_validations": 3}, {"val_check_interval": 0.5}, [1, 2]),
        ({}, {"limit_val_batches": 0}, [0, 1, 2, 3]),
        ({}, {"num_sanity_val_steps": 0}, [0, 1, 2, 3]),
    ],
)
def test_gates(tmp_path: Path, options: Any, trainer_options: Any, expected: list[int]) -> None:
    sink = MemorySink()
    data = loaders(count=32)
    fitted(tmp_path, GradCAMCallback("net.relu2", sinks=[sink], **options), data=data, max_epochs=4, **trainer_options)
    assert [entry.epoch for entry in sink.entries] == expected


def test_without_a_validation_loader_the_end_of_the_training_epoch_is_used(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = GradCAMCallback("net.relu2", sinks=[sink], log_untrained=True)
    fitted(tmp_path, callback, data=[DataLoader(tiny_data(8), 8)])
    assert [(entry.epoch, entry.step) for entry in sink.entries] == [(-1, 0), (0, 0), (1, 1)]
    assert callback.archive is not None
    assert callback.archive.maps("net.relu2").shape[0] == 3


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validate_and_test_alone_log_too(tmp_path: Path, stage: str) -> None:
    sink = MemorySink()
    callback = GradCAMCallback("net.relu2", sinks=[sink], on_error="raise")
    running = trainer(tmp_path, callbacks=callback)
    getattr(running, stage)(TinyModule(), loaders()[1], verbose=False)
    assert [entry.step for entry in sink.entries] == [0]
    assert callback.archive is not None
    assert callback.archive.path == str(tmp_path / "gradcam_runs" / "0" / "gradcam")
    assert callback.archive.record(0).stage == stage


def test_validating_an_old_checkpoint_in_the_runs_own_folder_leaves_its_record_alone(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    running = fitted(tmp_path, GradCAMCallback("net.relu2"), logger=logger, enable_checkpointing=True)
    assert running.checkpoint_callback is not None
    path = running.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    before = contents(tmp_path / "gradcam")
    again = trainer(tmp_path, callbacks=GradCAMCallback("net.relu2"), logger=CSVLogger(tmp_path, name="", version=""))
    again.validate(TinyModule(), loaders()[1], ckpt_path=path, verbose=False)
    assert contents(tmp_path / "gradcam") == before
    assert Archive.open(tmp_path / "gradcam-1").record(0).stage == "validate"


def test_a_run_that_was_trained_keeps_the_record_of_its_training(tmp_path: Path) -> None:
    sink = MemorySink()
    running = fitted(tmp_path, GradCAMCallback("net.relu2", sinks=[sink]))
    running.test(running.lightning_module, loaders()[1], verbose=False)
    assert [entry.epoch for entry in sink.entries] == [0, 1]


def test_fit_can_go_on_in_the_same_trainer(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise")
    running = fitted(tmp_path, callback)
    running.fit_loop.max_epochs = 4
    running.fit(running.lightning_module, *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1, 2, 3)


def test_callbacks_side_by_side_share_the_run_folder(tmp_path: Path) -> None:
    ours = [GradCAMCallback("net.conv1"), GradCAMCallback("net.relu2", name="late", num_probes=3)]
    fitted(tmp_path, ours)
    paths = [callback.archive.path for callback in ours if callback.archive is not None]
    assert paths == [str(tmp_path / "gradcam_runs" / "0" / name) for name in ("gradcam", "late")]
    fitted(tmp_path, GradCAMCallback("net.conv1"))
    assert (tmp_path / "gradcam_runs" / "1" / "gradcam" / "manifest.json").is_file()


def test_all_loggers_are_served(tmp_path: Path) -> None:
    boards = [TensorBoardLogger(tmp_path, name=name) for name in ("a", "b")]
    fitted(tmp_path, GradCAMCallback("net.relu2"), logger=[*boards, CSVLogger(tmp_path, name="c")], max_epochs=1)
    for board in boards:
        events = EventAccumulator(board.log_dir, size_guidance={"images": 0})
        events.Reload()
        assert len(events.Images("gradcam/net.relu2")) == 1
    archive = Path(boards[0].log_dir) / "gradcam"
    assert [p.name for p in (archive / "sheets" / "net.relu2").iterdir()] == ["step-0000000004-epoch-0000.png"]


def test_fast_dev_run_explains_and_writes_nothing(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = GradCAMCallback("net.relu2", sinks=[sink], on_error="raise")
    fitted(tmp_path, callback, fast_dev_run=True)
    assert len(sink.entries) == 1
    assert callback.archive is None
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_the_last_spatial_layer(tmp_path: Path) -> None:
    sink = MemorySink()
    fitted(tmp_path, GradCAMCallback(sinks=[sink]), max_epochs=1)
    assert list(sink.entries[0].pictures) == ["gradcam/net.relu2"]


def test_transfer_hooks_of_the_module_apply_as_in_validation(tmp_path: Path) -> None:
    class Normalizing(TinyModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            assert not self.trainer.training or self.training, "probes are validation data"
            images, labels = batch
            return images.mul_(2).sub_(1), labels

    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=5)
    running = trainer(tmp_path, callbacks=callback)
    running.fit(Normalizing(), *loaders())
    assert callback.archive is not None
    assert callback.probes is not None
    model = running.lightning_module
    expected = compute_cams(model, callback.probes.inputs * 2 - 1, "net.relu2", relu=False)["net.relu2"]
    found = callback.archive.maps("net.relu2", relu=False)[-1]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=float(expected.abs().max()) * 2e-3)


@pytest.mark.parametrize("kind", ["dict", "list of loaders", "dict of loaders"])
def test_batches_and_loaders_of_other_structures(tmp_path: Path, kind: str) -> None:
    class Dicts(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return {"picture": image, "digit": label}

    class Module(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

    plain = loaders()[1]
    dicts = DataLoader(Dicts(*tiny_data().tensors), 8)
    validation: Any = {"dict": dicts, "list of loaders": [plain, plain], "dict of loaders": {"a": plain, "b": plain}}[
        kind
    ]
    keys = {"input_key": "picture", "label_key": "digit"} if kind == "dict" else {}
    callback = GradCAMCallback("net.relu2", targets="label", on_error="raise", **keys)
    running = trainer(tmp_path, callbacks=callback)
    if kind == "dict":
        running.validate(Module(), validation, verbose=False)
    else:
        running.fit(Module(), loaders()[0], validation)
    assert callback.archive is not None
    assert callback.archive.probes.labels is not None
    assert callback.archive.maps("net.relu2").shape[1] == 8


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("mode", ["max_size", "min_size"])
def test_keys_and_functions_read_combined_batches_as_they_are(
    tmp_path: Path, sanity: int, mode: str, said: list[str]
) -> None:
    class Module(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert set(batch) == {"a", "b"}

    def fitted_with(name: str, **options: Any) -> ProbeSet:
        callback = GradCAMCallback("net.relu2", on_error="raise", **options)
        validation = CombinedLoader({"a": loaders()[1], "b": DataLoader(tiny_data(24, seed=3), 8)}, mode)
        running = trainer(tmp_path / name, callbacks=callback, num_sanity_val_steps=sanity)
        running.fit(Module(), loaders()[0], validation)
        assert callback.archive is not None
        assert callback.archive.steps == (4, 9)
        assert callback.probes is not None
        return callback.probes

    assert fitted_with("plain").indices is not None
    assert not [line for line in said if "side by side" in line or "several loaders" in line]
    second = fitted_with("keys", input_key="b.0", label_key="b.1")
    assert torch.equal(second.inputs, tiny_data(24, seed=3).tensors[0][:8])
    assert second.labels is not None
    assert second.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    fitted_with("function", forward_fn=lambda module, batch: module(batch["a"][0]))
    assert any("a batch contains one batch from each of several loaders" in line for line in said)


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_loader_without_samples_before_another_stops_nothing(tmp_path: Path, sanity: int) -> None:
    class Module(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    training, validation = loaders()
    empty = DataLoader(TensorDataset(torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.int64)), 8)
    callback = GradCAMCallback("net.relu2", on_error="raise")
    running = trainer(tmp_path, callbacks=callback, num_sanity_val_steps=sanity)
    running.fit(Module(), training, {"empty": empty, "full": validation})
    assert callback.archive is not None
    assert callback.archive.steps == (4, 9)
    with pytest.raises(ProbeError, match="TensorDataset has no samples to draw from"):
        ProbeSet.from_dataset(empty.dataset)


def test_saved_probes_and_a_folder_of_pictures_from_a_path(tmp_path: Path) -> None:
    probes = ProbeSet(torch.rand(3, 1, 8, 8), ids=("a", "b", "c"))
    probes.save(tmp_path / "probes.npz")
    callback = GradCAMCallback("net.relu2", probes=str(tmp_path / "probes.npz"), on_error="raise")
    fitted(tmp_path, callback)
    assert callback.probes is not None
    assert callback.probes.ids == ("a", "b", "c")
    assert callback.probes.fingerprint == probes.fingerprint


def test_sinks_are_closed_once_after_an_exception_too(tmp_path: Path) -> None:
    class Counting(MemorySink):
        closings = 0

        def close(self) -> None:
            Counting.closings += 1

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        fitted(tmp_path, [GradCAMCallback("net.relu2", sinks=[Counting()]), Stop()])
    assert Counting.closings == 1


def test_a_sink_that_fails_starves_no_other_and_stops_nobody(tmp_path: Path) -> None:
    class Broken(MemorySink):
        def log(self, entry: Any) -> None:
            raise OSError("full")

        def close(self) -> None:
            raise OSError("full at the end")

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise ValueError("the user's own")

    good = MemorySink()
    with pytest.warns(UserWarning, match=r"(?s)closing the sink Broken failed.*OSError: full at the end"):
        fitted(tmp_path, GradCAMCallback("net.relu2", sinks=[Broken(), good]))
    assert [entry.epoch for entry in good.entries] == [0, 1]
    assert good.closed
    with pytest.raises(ValueError, match="the user's own"), pytest.warns(UserWarning, match="closing the sink"):
        fitted(tmp_path, [GradCAMCallback("net.relu2", sinks=[Broken()]), Stop()])


@pytest.mark.parametrize("before", ["validate", "test"])
def test_an_evaluation_before_the_training_is_no_part_of_its_record(tmp_path: Path, before: str) -> None:
    callback = GradCAMCallback("net.relu2", log_untrained=True, on_error="raise")
    running = trainer(tmp_path, callbacks=callback)
    model, other = TinyModule(), DataLoader(tiny_data(seed=7), 8)
    getattr(running, before)(model, other, verbose=False)
    first = callback.probes
    running.fit(model, *loaders())
    assert callback.archive is not None
    assert callback.probes is not None
    assert first is not None
    assert callback.archive.epochs == (-1, 0, 1)
    assert callback.probes.fingerprint != first.fingerprint
    assert callback.archive.probes.fingerprint == callback.probes.fingerprint
    assert {callback.archive.record(index).stage for index in range(3)} == {"fit"}


def test_another_model_in_the_same_trainer_is_tried_before_its_first_step(tmp_path: Path) -> None:
    class Wide(NoSteps):
        def __init__(self) -> None:
            super().__init__()
            self.net.conv2 = nn.Conv2d(4, 3, 3, padding=1)
            self.net.head = nn.Linear(3 * 64, 5)

    callback = GradCAMCallback("net.relu2")
    running = fitted(tmp_path, callback)
    running.fit_loop.max_epochs = 4
    with pytest.raises(AssertionError, match="the first training step ran"):
        running.fit(Wide(), *loaders())
    assert callback.archive is not None
    assert callback.archive.path == str(tmp_path / "gradcam_runs" / "0" / "gradcam-1")
    assert callback.archive.manifest.map_shapes == {"net.relu2": [8, 8]}


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_validations_at_one_step_are_both_kept(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = GradCAMCallback("net.relu2", sinks=[sink], on_error="raise")
    options = {"accumulate_grad_batches": 4, "val_check_interval": 2, "max_epochs": 1}
    fitted(tmp_path, callback, logger=CSVLogger(tmp_path), **options)
    assert callback.archive is not None
    assert callback.archive.steps == tuple(entry.step for entry in sink.entries) == (0, 0)
    files = Path(callback.archive.path, "sheets", "net.relu2").iterdir()
    assert sorted(p.name for p in files) == ["step-0000000000-epoch-0000-1.png", "step-0000000000-epoch-0000.png"]


def test_predict_needs_no_forward_of_ours(tmp_path: Path) -> None:
    class Predicting(NoForward):
        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(batch[0])

    predictions = trainer(tmp_path, callbacks=GradCAMCallback("net.relu2")).predict(Predicting(), loaders()[1])
    assert predictions is not None
    assert len(predictions) == 5


def test_a_training_in_which_no_validation_was_due_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="nothing was logged: no validation was due .every_n_epochs=9"):
        fitted(tmp_path, GradCAMCallback("net.relu2", every_n_epochs=9))


@pytest.mark.parametrize("background", [False, True])
def test_failures_are_reported_and_given_up_after_three_in_a_row(tmp_path: Path, background: bool) -> None:
    class Full(MemorySink):
        calls = 0

        def log(self, entry: Any) -> None:
            Full.calls += 1
            raise OSError("disk full")

    good = MemorySink()
    callback = GradCAMCallback("net.relu2", sinks=[Full(), good], background=background)
    with pytest.warns(UserWarning, match="the sink Full failed at step") as caught:
        fitted(tmp_path, callback, max_epochs=5)
    texts = [str(w.message) for w in caught if "the sink Full failed" in str(w.message)]
    assert [("tried again" in text, "is disabled" in text) for text in texts] == [(True, False)] * 2 + [(False, True)]
    assert all("OSError: disk full" in text for text in texts)
    assert ["Traceback" in text for text in texts] == [True, False, False]
    assert Full.calls == 3
    # Nobody else is given up with it.
    assert [entry.epoch for entry in good.entries] == list(callback.archive.epochs) == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="disk full"):
        fitted(tmp_path, GradCAMCallback("net.relu2", sinks=[Full()], on_error="raise", background=background))


class NoForward(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = TinyModule().net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from tiny_data(8)


def unlabelled() -> list[DataLoader[Any]]:
    return [loaders()[0], DataLoader(TensorDataset(torch.rand(8, 1, 8, 8)), 4)]


class NoSteps(TinyModule):
    """Training must not begin."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("the first training step ran")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"layers": "net.conv9"},
            LayerError,
            r"layer 'net.conv9' not found; did you mean 'net.conv[12]'\? available: net",
        ),
        ({"layers": "net.x*"}, LayerError, r"no layer matches the pattern 'net.x\*'"),
        (
            {"layers": "net.head"},
            LayerError,
            r"'net.head' has no spatial activation: its output is \[8, 5\].*with a feature map here: net.conv1, ",
        ),
        (
            {"layers": "spare"},
            LayerError,
            r"'spare' exists, but the forward pass never reached it.*map here: .*net.relu2",
        ),
        ({"layers": nn.ReLU()}, LayerError, r"the given ReLU is not a submodule of"),
        ({"targets": 5}, TargetError, r"asks for class 5, but the model's output has 5 classes; valid: 0 to 4"),
        ({"targets": {"per_probe": [1, 2]}}, TargetError, r"'per_probe' has 2 indices for 8 probes"),
        ({"targets": "label", "data": unlabelled}, TargetError, r"'label' needs the true classes.*label_key"),
        ({"num_probes": 41}, ProbeError, r"num_probes: got 41; the data set has 40 samples, so pass 1 to 40"),
        ({"input_key": 7}, ProbeError, r"input_key: '7' is not in the batch; available: 0, 1"),
        ({"probes": "missing.npz"}, ProbeFileError, r"'missing.npz' can't be read"),
        (
            {"probes": ProbeSet(torch.rand(2, 3, 8, 8))},
            ConfigurationError,
            r"the forward pass failed on the probes \[2, 3, 8",
        ),
        (
            {"data": lambda: [loaders()[0], DataLoader(Stream(), 4)], "layers": "net.conv9"},
            LayerError,
            r"layer 'net.conv9' not found",
        ),
        (
            {"data": lambda: [loaders()[0], DataLoader(Stream(), 4)], "input_key": 7},
            ProbeError,
            r"input_key: '7' is no",
        ),
    ],
)
def test_a_wrong_configuration_fails_before_the_first_training_step(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    class Module(NoSteps):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Conv2d(1, 1, 3)

    data = options.pop("data", loaders)()
    callback = GradCAMCallback(**{"layers": "net.relu2", **options})
    with pytest.raises(error, match=text):
        trainer(tmp_path, callbacks=callback).fit(Module(), *data)
    assert issubclass(error, LightningGradCAMError)
    assert not (tmp_path / "gradcam_runs").exists()


def test_a_model_without_forward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"NoForward defines no forward\(\).*define forward\(self, x\)"):
        trainer(tmp_path, callbacks=GradCAMCallback("net.relu2")).fit(NoForward(), loaders()[0])


class Assigned(NoForward):
    """Is given its `forward` when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.net.forward


class Called(NoForward):
    """Defines `__call__` instead."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("kind", [Assigned, Called])
def test_a_model_that_can_be_called_is_accepted_without_a_forward_of_its_class(tmp_path: Path, kind: Any) -> None:
    module, callback = kind(), GradCAMCallback("net.relu2", on_error="raise")
    trainer(tmp_path, callbacks=callback).fit(module, loaders()[0])
    assert callback.archive is not None
    assert callback.probes is not None
    x, key = callback.probes.inputs, ("net.relu2", "gradcam", "predicted")
    assert torch.equal(compute_cams(module, x, key[0])[key], compute_cams(module.net, x, "relu2")[("relu2", *key[1:])])
    expected = compute_cams(module.net, x, "relu2", relu=False)[("relu2", *key[1:])]
    np.testing.assert_allclose(callback.archive.maps(*key, relu=False)[-1], expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("layers", [("net.conv1", "net.relu2"), ("net.conv1", "net.conv1")])
def test_two_callbacks_of_one_name_are_refused(tmp_path: Path, layers: tuple[str, str]) -> None:
    with pytest.raises(
        ConfigurationError, match="name: 2 GradCAMCallbacks are named 'gradcam'.*each a different name="
    ):
        trainer(tmp_path, callbacks=[GradCAMCallback(layer) for layer in layers]).fit(NoSteps(), *loaders())


def test_a_trainer_nested_in_anothers_hook_has_a_record_of_its_own(tmp_path: Path) -> None:
    """The outer run goes on in its record, with its own model's maps, although both use one callback object."""

    class Nested(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 0:
                fitted(tmp_path / "inner", callback, max_epochs=1)
                inner.append(callback.archive)

    inner: list[Any] = []
    callback = GradCAMCallback("net.conv1", methods="hirescam", probes=ProbeSet(tiny_data().tensors[0][:2]))
    running = fitted(tmp_path / "outer", [Nested(), callback], max_epochs=3)
    assert running.lightning_module is not None
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1, 2)
    assert callback.archive.path != inner[0].path
    assert inner[0].epochs == (0,)
    key = ("net.conv1", "hirescam", "predicted")
    expected = compute_cams(
        running.lightning_module, callback.archive.probes.inputs, key[0], methods=key[1], relu=False
    )
    np.testing.assert_allclose(callback.archive.maps(*key, relu=False)[-1], expected[key], rtol=2e-3, atol=1e-6)


def test_a_folder_of_another_run_is_never_mixed(tmp_path: Path) -> None:
    def run() -> None:
        fitted(tmp_path, GradCAMCallback("net.relu2"), logger=CSVLogger(tmp_path, name="", version=""))

    run()
    before = contents(tmp_path / "gradcam")
    run()
    assert contents(tmp_path / "gradcam") == before
    first, second = (Archive.open(tmp_path / name) for name in ("gradcam", "gradcam-1"))
    assert second.epochs == (0, 1)
    assert second.manifest.run != first.manifest.run
    assert second.manifest.parent is None


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layers": []}, LayerError, "layers: got an empty list"),
        ({"methods": "nocam"}, MethodError, "methods: method 'nocam' not found"),
        ({"targets": "lable"}, TargetError, "targets: got 'lable'; pass 'predicted', 'label'"),
        ({"targets": Top(0)}, TargetError, "targets: got {'top': 0}; pass 'predicted', 'label'"),
        ({"targets": -1}, TargetError, "got class index -1"),
        ({"score": "odds"}, TargetError, "score: got 'odds'"),
        ({"num_probes": 0}, ConfigurationError, "num_probes: got 0; pass an integer >= 1"),
        ({"every_n_epochs": 0}, ConfigurationError, "every_n_epochs: got 0"),
        (
            {"every_n_validations": 2, "every_n_epochs": 2},
            ConfigurationError,
            "every_n_validations: got 2 and every_n_epochs",
        ),
        ({"name": "../up"}, ConfigurationError, r"name: got '../up'; it becomes a folder and a tag"),
        ({"on_error": "ignore"}, ConfigurationError, "on_error: got 'ignore'; valid: 'warn' and 'raise'"),
        ({"mean": 0.5}, ConfigurationError, "mean, std: got mean=0.5 and std=None; pass both or neither"),
        ({"num_probes": "8"}, ConfigurationError, "num_probes: got '8'; pass an integer"),
        ({"num_probes": 2.5}, ConfigurationError, "num_probes: got 2.5; pass an integer"),
        ({"seed": None}, ConfigurationError, "seed: got None; pass an integer >= 0"),
        ({"name": 3}, ConfigurationError, "name: got 3; it becomes a folder"),
        ({"drawing": "jet"}, ConfigurationError, r"drawing: got 'jet'; pass Drawing\(\.\.\.\) or a dict"),
        ({"drawing": {"colour": "jet"}}, ConfigurationError, "drawing: got {'colour': 'jet'}"),
        ({"probes": [1, 2]}, ConfigurationError, "probes: got a list; pass a ProbeSet"),
        ({"sinks": MemorySink}, ConfigurationError, "sinks: got .*; pass a list of instances of Sink"),
        ({"sinks": [MemorySink]}, ConfigurationError, "sinks: got .*; pass a list of instances of Sink"),
    ],
)
def test_the_constructor_checks_plain_values(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        GradCAMCallback(**options)


@pytest.mark.parametrize("of_data", [True, False])
def test_a_bare_name_is_a_class_as_in_compute_cams_and_explain(tmp_path: Path, of_data: bool) -> None:
    names = ["ant", "bee", "cat", "dog", "eel"]
    data = loaders()
    if of_data:
        data[1].dataset.classes = names
    model, targets = TinyModule(), ["cat", Contrast("predicted", 0), Top(1), "label"]
    callback = GradCAMCallback(
        "net.relu2", targets=targets, on_error="raise", class_names=None if of_data else names, num_probes=4
    )
    trainer(tmp_path, callbacks=callback).fit(model, *data)
    assert callback.archive is not None
    assert callback.probes is not None
    assert callback.archive.targets == ("2", "predicted_vs_0", "top1", "label")
    found = callback.archive.record(-1)
    cams = compute_cams(model, callback.probes.inputs, "net.relu2", targets="cat", class_names=names, relu=False)
    explained = explain(model, callback.probes.inputs, "net.relu2", targets="cat", class_names=names).record
    for maps in (cams["net.relu2", "gradcam", "2"].numpy(), explained.maps["net.relu2", "gradcam", "2"]):
        np.testing.assert_allclose(found.maps["net.relu2", "gradcam", "2"], maps, rtol=0, atol=2e-3 * abs(maps).max())


def test_class_names_may_be_an_array(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", targets="cat", class_names=np.array(["ant", "bee", "cat", "dog", "eel"]))
    trainer(tmp_path, callbacks=callback).fit(TinyModule(), *loaders())
    assert callback.archive is not None
    assert callback.archive.probes.class_names == ("ant", "bee", "cat", "dog", "eel")
    assert callback.archive.targets == ("2",)


def test_a_name_of_no_class_is_refused_before_training(tmp_path: Path) -> None:
    model = TinyModule()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TargetError, match="targets: class 'cow' not found; did you mean 'crow'. available: ant, crow"):
        callback = GradCAMCallback("net.relu2", targets="cow", class_names=["ant", "crow", "d", "e", "f"])
        trainer(tmp_path, callbacks=callback).fit(model, *loaders())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_constructor_touches_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    GradCAMCallback(["a"], probes="nowhere.npz", drawing=Drawing(colormap="Reds"))
    assert list(tmp_path.iterdir()) == []


def test_the_archive_can_lie_on_a_remote_file_system(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    callback = GradCAMCallback("net.relu2", on_error="raise")
    trainer(url, callbacks=callback).fit(TinyModule(), *loaders())
    assert callback.archive is not None
    assert callback.archive.path == f"{url}/gradcam_runs/0/gradcam"
    archive = Archive.open(f"{url}/gradcam_runs/0/gradcam")
    assert archive.epochs == (0, 1)
    assert archive.maps("net.relu2").shape == (2, 8, 6, 6)
    files = fsspec.filesystem("memory").find(url.removeprefix("memory:/") + "/gradcam_runs/0/gradcam/sheets")
    assert len([name for name in files if name.endswith(".png")]) == 2


class FSDPStrategy(SingleDeviceStrategy):
    """Named as Lightning's, which needs a GPU."""


class DeepSpeedStrategy(SingleDeviceStrategy):
    """Named as Lightning's, which needs another package."""

    zero_stage_3 = True


@pytest.mark.parametrize(
    ("stage", "strategy", "said"),
    [
        ("validate", FSDPStrategy, r"FSDPStrategy \(FSDP1\)"),
        ("test", FSDPStrategy, r"FSDPStrategy \(FSDP1\)"),
        ("test", DeepSpeedStrategy, "DeepSpeed stage 3 .*; use stage 2 or ModelParallelStrategy$"),
    ],
)
def test_a_strategy_whose_weights_cannot_be_explained_is_said_under_validate_and_test(
    tmp_path: Path, stage: str, strategy: Any, said: str
) -> None:
    running = trainer(tmp_path, callbacks=GradCAMCallback("net.relu2"), strategy=strategy("cpu"))
    with pytest.warns(UserWarning, match=f"nothing is logged: {said}"):
        getattr(running, stage)(TinyModule(), loaders()[1], verbose=False)


def test_a_strategy_whose_weights_cannot_be_explained_is_said_and_left_alone(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise")
    running = trainer(tmp_path, callbacks=callback, strategy=FSDPStrategy("cpu"))
    with pytest.warns(UserWarning, match=r"nothing is logged: FSDPStrategy \(FSDP1\).*ModelParallelStrategy"):
        running.fit(TinyModule(), *loaders())
    assert running.current_epoch == 2
    assert callback.archive is None


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
def test_a_copy_of_a_used_callback_has_its_options_and_no_run(tmp_path: Path, copy_of: Any) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=3)
    trainer(tmp_path / "first", callbacks=callback).fit(TinyModule(), *loaders())
    other = copy_of(callback)
    assert other.archive is None
    trainer(tmp_path / "second", callbacks=other).fit(TinyModule(), *loaders())
    assert other.archive.path != callback.archive.path  # type: ignore[union-attr]
    assert len(other.probes) == 3
