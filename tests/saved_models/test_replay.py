"""A replay of checkpoints equals the live run, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_gradcam import Archive, ConfigurationError, GradCAMCallback, LightningGradCAMError, ProbeSet
from lightning_gradcam.callbacks.feature_maps import FeatureMapCallback
from lightning_gradcam.callbacks.filter_patterns import FilterPatternCallback
from lightning_gradcam.errors import CheckpointFileError
from lightning_gradcam.saved_models.checkpoints import find_checkpoints
from lightning_gradcam.saved_models.replay import replay, replay_all
from tests.conftest import CLASSES, TinyModule, loaders, tiny_data, trainer

LAYERS = ["net.conv1", "net.relu2"]
OPTIONS: dict[str, Any] = {
    "layers": LAYERS,
    "targets": ["predicted", "label", 2],
    "num_probes": 10,
    "on_error": "raise",
    "evolution": False,
    "background": False,
}


def live(
    root: Path,
    kind: Callable[[], pl.LightningModule],
    *,
    data: Any = None,
    callbacks: Any = None,
    keep: dict[str, Any] | None = None,
    epochs: int = 3,
    **options: Any,
) -> GradCAMCallback | None:
    """Trains with the callback (or others), and keeps a checkpoint of every epoch in `root/checkpoints`."""
    pl.seed_everything(0, verbose=False)
    module = kind()
    callback = GradCAMCallback(**OPTIONS) if callbacks is None else next(iter(callbacks), None)
    saving = ModelCheckpoint(root / "checkpoints", save_top_k=-1, **{"filename": "{epoch}-{step}", **(keep or {})})
    listed = [saving, *([callback] if callback is not None else [])]
    running = trainer(root, callbacks=listed, max_epochs=epochs, enable_checkpointing=True, **options)
    running.fit(module, datamodule=data) if isinstance(data, pl.LightningDataModule) else running.fit(
        module, *(data or loaders())
    )
    return callback


def assert_same(one: Archive, other: Archive) -> None:
    assert one.steps == other.steps
    assert one.epochs == other.epochs
    assert (one.layers, one.methods, one.targets) == (other.layers, other.methods, other.targets)
    assert one.probes.fingerprint == other.probes.fingerprint
    assert one.probes.ids == other.probes.ids
    assert len(one.steps) > 1
    for place in range(len(one.steps)):
        first, second = one.record(place), other.record(place)
        for key in first.maps:
            np.testing.assert_array_equal(first.maps[key], second.maps[key])
            for name, values in first.numbers[key].items():
                np.testing.assert_array_equal(values, second.numbers[key][name])
        for target in first.scores:
            np.testing.assert_array_equal(first.scores[target], second.scores[target])
            np.testing.assert_array_equal(first.classes[target], second.classes[target])
        np.testing.assert_array_equal(first.predicted, second.predicted)
        np.testing.assert_array_equal(first.confidence, second.confidence)
    # The maps differ between epochs, so that equality says something.
    maps = one.maps(one.layers[0], relu=False)
    assert not np.array_equal(maps[0], maps[-1])


def test_a_compiled_module_is_replayed_as_it_was_trained(tmp_path: Path) -> None:
    def compiled() -> Any:
        return torch.compile(TinyModule(), backend="eager")

    callback = live(tmp_path, compiled)
    assert callback is not None
    assert callback.archive is not None
    again = replay(tmp_path / "checkpoints", compiled(), OPTIONS, datamodule=loaders()[1], output=tmp_path / "again")
    assert_same(callback.archive, again)


@pytest.mark.parametrize("validation_end", [False, True])
def test_the_maps_equal_those_of_the_live_run(tmp_path: Path, validation_end: bool) -> None:
    """With batch norm and dropout; saved at the end of an epoch, or of its validation, which is a step earlier."""
    options = {**OPTIONS, "evolution": True}
    keep = {"save_on_train_epoch_end": not validation_end}
    callback = live(tmp_path, TinyModule, keep=keep, callbacks=[GradCAMCallback(**options)])
    assert callback is not None
    found = replay(tmp_path / "checkpoints", TinyModule(), options, datamodule=loaders()[1], output=tmp_path / "again")
    assert found.path == str(tmp_path / "again" / "gradcam")
    assert_same(found, callback.archive)
    assert found.manifest.run != callback.archive.manifest.run
    assert (tmp_path / "again" / "gradcam" / "report.html").is_file()
    live_sheets = {
        file.relative_to(tmp_path): file for file in tmp_path.rglob("gradcam_runs/*/gradcam/sheets/**/*.png")
    }
    assert len(live_sheets) == 3 * len(LAYERS)
    for file in live_sheets.values():
        again = tmp_path / "again" / "gradcam" / file.relative_to(Path(callback.archive.path))
        assert again.read_bytes() == file.read_bytes()


class Balanced(Dataset[Any]):
    """Classes of different sizes, with names and targets, so that the draw is balanced."""

    classes = ("a", "b", "c", "d", "e")

    def __init__(self, seed: int) -> None:
        self.data = tiny_data(60, seed)
        self.targets = [0] * 30 + [1] * 20 + [2] * 6 + [3] * 3 + [4]

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return self.data[index][0], self.targets[index]


class Data(pl.LightningDataModule):
    """Drawn anew in setup, and changed on the device in validation."""

    def setup(self, stage: str) -> None:
        self.sets = Balanced(1), Balanced(2)

    def train_dataloader(self) -> Any:
        return DataLoader(self.sets[0], 8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets[1], 8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        images, labels = batch
        return (images + 1 if self.trainer.training else images * 2 - 1), labels


def test_probes_are_drawn_as_the_callback_would_have_drawn_them(tmp_path: Path) -> None:
    """Two equal trainings, one of them without the callback: its checkpoints give the other's archive."""
    callback = live(tmp_path / "a", TinyModule, data=Data())
    assert callback is not None
    live(tmp_path / "b", TinyModule, data=Data(), callbacks=[])
    saved = torch.load(next((tmp_path / "b" / "checkpoints").iterdir()), weights_only=True)
    assert not any("GradCAM" in key for key in saved["callbacks"])
    found = replay(tmp_path / "b" / "checkpoints", TinyModule(), OPTIONS, datamodule=Data(), output=tmp_path / "again")
    assert_same(found, callback.archive)
    assert found.probes.labels is not None
    assert sorted(np.bincount(found.probes.labels.numpy()).tolist()) == [1, 2, 2, 2, 3]


def test_the_checkpoints_name_the_live_runs_probes(tmp_path: Path) -> None:
    callback = live(tmp_path, TinyModule, callbacks=[GradCAMCallback(**{**OPTIONS, "seed": 7})])
    assert callback is not None
    # Another seed and number in the options: the checkpoints decide.
    found = replay(
        tmp_path / "checkpoints",
        TinyModule(),
        {**OPTIONS, "num_probes": 3},
        datamodule=loaders()[1],
        output=tmp_path / "again",
    )
    assert_same(found, callback.archive)
    assert found.manifest.parent is not None
    assert found.manifest.parent["run"] == callback.archive.manifest.run


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_in_the_precision_of_the_training(tmp_path: Path, precision: str) -> None:
    callback = live(tmp_path, TinyModule, precision=precision)
    assert callback is not None
    found = replay(
        tmp_path / "checkpoints",
        TinyModule(),
        OPTIONS,
        datamodule=loaders()[1],
        output=tmp_path / "again",
        trainer={"precision": precision},
    )
    assert_same(found, callback.archive)
    full = replay(tmp_path / "checkpoints", TinyModule(), OPTIONS, datamodule=loaders()[1], output=tmp_path / "full")
    assert not np.array_equal(full.maps(LAYERS[0]), found.maps(LAYERS[0])), "the precision makes no difference here"


class Wide(pl.LightningModule):
    """A network like the example's: wide enough that the batch size changes the order of its sums."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 48, 3, padding="same"),
            nn.ReLU(),
            nn.Conv2d(48, 32, 3, padding="same"),
            nn.ReLU(),
            nn.Conv2d(32, 16, 3, padding="same"),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 64, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    training_step, validation_step = TinyModule.training_step, TinyModule.validation_step
    configure_optimizers = TinyModule.configure_optimizers


@pytest.mark.slow
def test_in_parts_of_the_batch_size(tmp_path: Path) -> None:
    options = {"layers": "network.[135]", "batch_size": 4, "num_probes": 11, "methods": ["gradcam", "layercam"]}
    callback = live(tmp_path, Wide, callbacks=[GradCAMCallback(**options)])  # type: ignore[arg-type]
    assert callback is not None
    found = replay(tmp_path / "checkpoints", Wide(), options, datamodule=loaders()[1], output=tmp_path / "again")
    assert_same(found, callback.archive)


def test_several_validations_an_epoch_and_accumulation(tmp_path: Path) -> None:
    callback = live(tmp_path, TinyModule, epochs=2, val_check_interval=2, accumulate_grad_batches=2)
    assert callback is not None
    found = replay(tmp_path / "checkpoints", TinyModule(), OPTIONS, datamodule=loaders()[1], output=tmp_path / "again")
    assert_same(found, callback.archive)


def test_without_validation_the_ends_of_epochs_count(tmp_path: Path) -> None:
    callback = live(tmp_path, TinyModule, limit_val_batches=0)
    assert callback is not None
    found = replay(
        tmp_path / "checkpoints",
        TinyModule(),
        OPTIONS,
        datamodule=loaders()[0],
        output=tmp_path / "again",
        trainer={"limit_val_batches": 0},
    )
    assert_same(found, callback.archive)


def test_the_callbacks_schedule_holds(tmp_path: Path) -> None:
    every = {**OPTIONS, "every_n_epochs": 2}
    callback = live(tmp_path, TinyModule, callbacks=[GradCAMCallback(**every)], epochs=5)
    assert callback is not None
    found = replay(tmp_path / "checkpoints", TinyModule(), every, datamodule=loaders()[1], output=tmp_path / "again")
    assert found.epochs == (1, 3)
    assert_same(found, callback.archive)


def test_after_training_and_a_last_one_count_once(tmp_path: Path) -> None:
    live(tmp_path, TinyModule, keep={"save_last": True}, epochs=2)
    found = find_checkpoints(tmp_path / "checkpoints")
    assert [saved.epoch for saved in found.checkpoints] == [0, 1]
    assert [Path(path).name for path in found.repeated] == ["last.ckpt"]


def test_another_models_checkpoint_is_named_and_nothing_written(tmp_path: Path) -> None:
    live(tmp_path, Wide, callbacks=[], epochs=1)
    with pytest.raises(ConfigurationError, match=r"epoch=0-step=5.ckpt' does not fit TinyModule: missing: net\.conv1"):
        replay(tmp_path / "checkpoints", TinyModule(), datamodule=loaders()[1], output=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_damaged_file_is_left_out_and_said(tmp_path: Path) -> None:
    callback = live(tmp_path, TinyModule)
    assert callback is not None
    file = sorted((tmp_path / "checkpoints").iterdir())[1]
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.warns(UserWarning, match=rf"{file.name} is skipped: .* is truncated or not a checkpoint"):
        found = replay(
            tmp_path / "checkpoints", TinyModule(), OPTIONS, datamodule=loaders()[1], output=tmp_path / "again"
        )
    assert found.epochs == (0, 2)
    np.testing.assert_array_equal(found.maps(LAYERS[0]), callback.archive.maps(LAYERS[0])[[0, 2]])


def test_all_damaged_or_none_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=r"no .ckpt file in"):
        find_checkpoints(tmp_path)
    (tmp_path / "torn.ckpt").write_bytes(b"PK")
    with pytest.raises(CheckpointFileError, match="truncated or not a checkpoint"):
        find_checkpoints(tmp_path)


def test_an_archive_that_is_there_is_not_touched(tmp_path: Path) -> None:
    callback = live(tmp_path, TinyModule, epochs=2)
    assert callback is not None
    before = callback.archive.steps
    with pytest.raises(ConfigurationError, match="already contains an archive; pass another folder"):
        replay(
            tmp_path / "checkpoints", TinyModule(), datamodule=loaders()[1], output=Path(callback.archive.path).parent
        )
    assert callback.archive.steps == before


def test_a_live_record_in_a_sibling_is_not_touched(tmp_path: Path) -> None:
    """A replay knows the live run's id: beside the live record, it would take that for its own."""
    logger = CSVLogger(tmp_path, name="", version="")
    live(tmp_path, TinyModule, epochs=1, logger=logger)
    callback = live(tmp_path, TinyModule, epochs=2, logger=CSVLogger(tmp_path, name="", version=""))
    assert callback is not None
    assert callback.archive.path == str(tmp_path / "gradcam-1")
    shutil.rmtree(tmp_path / "gradcam")
    with pytest.raises(ConfigurationError, match=r"gradcam-1' already contains an archive; pass another folder"):
        replay(tmp_path / "checkpoints", TinyModule(), datamodule=loaders()[1], output=tmp_path)
    assert callback.archive.epochs == (0, 1)


def test_given_probes_and_no_callback_in_the_training(tmp_path: Path) -> None:
    live(tmp_path, TinyModule, callbacks=[], epochs=2)
    probes = ProbeSet(tiny_data(3, 9).tensors[0])
    done: list[int] = []
    found = replay(
        tmp_path / "checkpoints",
        TinyModule(),
        GradCAMCallback("net.relu2", probes=probes, on_error="raise"),
        datamodule=loaders()[1],
        output=tmp_path / "again",
        progress=lambda count, total: done.append(count),
    )
    assert found.probes.fingerprint == probes.fingerprint
    assert (found.epochs, found.steps) == ((0, 1), (4, 9))
    assert done == [0, 1, 2]


def test_averaged_weights(tmp_path: Path) -> None:
    callbacks = pytest.importorskip("pytorch_lightning.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning averages no weights")
    pl.seed_everything(0, verbose=False)
    callback, saving = GradCAMCallback(**OPTIONS), ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1)
    listed = [callback, callbacks.EMAWeightAveraging(decay=0.9), saving]
    trainer(tmp_path, callbacks=listed, enable_checkpointing=True).fit(TinyModule(), *loaders())
    found = replay(tmp_path / "checkpoints", TinyModule(), OPTIONS, datamodule=loaders()[1], output=tmp_path / "again")
    assert_same(found, callback.archive)


@pytest.mark.slow
def test_compiled_weights(tmp_path: Path) -> None:
    class Compiled(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]

    callback = live(tmp_path, Compiled)
    assert callback is not None
    found = replay(tmp_path / "checkpoints", TinyModule(), OPTIONS, datamodule=loaders()[1], output=tmp_path / "again")
    assert_same(found, callback.archive)


@pytest.mark.parametrize("kind", [FeatureMapCallback, FilterPatternCallback])
def test_the_other_callbacks(tmp_path: Path, kind: Callable[..., Any]) -> None:
    callback: Any = live(tmp_path, TinyModule, callbacks=[kind(layers=["net.conv1"], on_error="raise")])
    found = replay(
        tmp_path / "checkpoints",
        TinyModule(),
        kind(layers=["net.conv1"], on_error="raise"),
        datamodule=loaders()[1],
        output=tmp_path / "again",
    )
    assert (found.steps, found.epochs) == (callback.archive.steps, callback.archive.epochs)
    channels = found.channels("net.conv1")
    np.testing.assert_array_equal(channels, callback.archive.channels("net.conv1"))
    assert not np.array_equal(channels[0], channels[2])


def test_checkpoints_of_two_trainings_are_refused(tmp_path: Path) -> None:
    """At the same step only one of them could be shown, and the page would be of neither."""
    torch.manual_seed(0)
    modules = {"one": TinyModule(), "two": TinyModule()}
    for place, module in {**modules, "again": modules["two"]}.items():
        (tmp_path / place).mkdir()
        torch.save({"state_dict": module.state_dict(), "epoch": 1, "global_step": 4}, tmp_path / place / "a.ckpt")
    with pytest.raises(ConfigurationError, match=r"one/a.ckpt' and .*two/a.ckpt' have the same epoch and step"):
        find_checkpoints([tmp_path / "one", tmp_path / "two"])
    assert find_checkpoints([tmp_path / "two", tmp_path / "again"]).repeated == (str(tmp_path / "again" / "a.ckpt"),)


class Dataless(TinyModule):
    """As in a script that gives its loaders to `fit`."""


def test_probes_that_are_given_need_no_data(tmp_path: Path) -> None:
    probes = ProbeSet(tiny_data(4).tensors[0], labels=tiny_data(4).tensors[1])
    callback = live(tmp_path, Dataless, callbacks=[GradCAMCallback(**{**OPTIONS, "probes": probes})])
    assert callback is not None
    options = {**OPTIONS, "probes": probes}
    found = replay(tmp_path / "checkpoints", Dataless(), options, output=tmp_path / "again")
    assert_same(found, callback.archive)
    fresh = {**OPTIONS, "name": "other"}
    with pytest.raises(LightningGradCAMError, match="pass probes="):
        replay(tmp_path / "checkpoints", Dataless(), fresh, output=tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"accelerator": "tpu"}, "(TPU|xla)"), ({"precision": "half"}, "half"), ({"speed": 2}, "speed")],
)
def test_what_lightning_refuses(tmp_path: Path, options: Any, said: str) -> None:
    torch.save({"state_dict": TinyModule().state_dict(), "epoch": 1, "global_step": 4}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigurationError, match=f"trainer: Lightning rejected it .*{said}"):
        replay(tmp_path / "a.ckpt", TinyModule(), OPTIONS, datamodule=loaders()[1], trainer=options, output=tmp_path)


def test_an_attempt_that_fails_is_not_in_the_way(tmp_path: Path) -> None:
    live(tmp_path, TinyModule, callbacks=[])
    found = find_checkpoints(tmp_path / "checkpoints")
    for second, error in (("nowhere.npz", LightningGradCAMError), (ProbeSet(tiny_data(4).tensors[0]), None)):
        options = {**OPTIONS, "targets": "predicted"}
        callbacks = [GradCAMCallback(**options), GradCAMCallback(**{**options, "name": "second", "probes": second})]
        again: Any = {"datamodule": loaders()[1], "output": tmp_path / "again"}
        if error is not None:
            with pytest.raises(error, match="nowhere.npz"):
                replay_all(found, TinyModule(), callbacks, **again)
        else:
            assert [len(archive.steps) for archive in replay_all(found, TinyModule(), callbacks, **again)] == [3, 3]


def test_a_module_of_the_other_lightning(tmp_path: Path) -> None:
    other = pytest.importorskip("lightning.pytorch")
    kinds: Any = type("Foreign", (other.LightningModule,), {"configure_optimizers": lambda self: None})
    torch.save({"state_dict": {}, "epoch": 1, "global_step": 4}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigurationError, match=r"Foreign is a LightningModule from lightning.pytorch, but .*import"):
        replay(tmp_path / "a.ckpt", kinds(), OPTIONS, datamodule=loaders()[1], output=tmp_path)
