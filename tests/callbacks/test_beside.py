"""A folder that holds a record already stops nobody, and steps of two networks never share a record."""

from __future__ import annotations

import gc
import logging
import uuid
import weakref
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateFinder, ModelCheckpoint
from pytorch_lightning.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import Archive, FeatureMapCallback, GradCAMCallback, MemorySink, compute_cams
from lightning_gradcam.archive import find_archives
from lightning_gradcam.tensorboard_plugin.places import places_of
from lightning_gradcam.tensorboard_plugin.runs import found
from tests.conftest import TinyModule, loaders, tiny_data, trainer

LAYER = "net.relu2"


class Folder(Logger):
    """Has a log directory, and logs nothing. (Two `CSVLogger`s can't go on with one file by turns.)"""

    name = version = "folder"  # type: ignore[assignment]
    log_dir = ""  # type: ignore[assignment]

    def __init__(self, log_dir: Path | str) -> None:
        super().__init__()
        self.log_dir = str(log_dir)  # type: ignore[misc]

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


def ours(**options: Any) -> GradCAMCallback:
    return GradCAMCallback(**{"layers": LAYER, "on_error": "raise", "background": False, **options})


def running(root: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A Trainer whose log directory is `root` itself."""
    return trainer(root, **{"callbacks": list(callbacks), "logger": Folder(root), **options})


def fit(root: Path, *callbacks: pl.Callback, ckpt: str | None = None, **options: Any) -> pl.Trainer:
    made = running(root, *callbacks, **options)
    made.fit(TinyModule(), *loaders(), ckpt_path=ckpt)
    return made


def keeping(root: Path) -> ModelCheckpoint:
    return ModelCheckpoint(root / "checkpoints", filename="{epoch}", save_top_k=-1, enable_version_counter=False)


def epochs(folder: Path | str) -> tuple[int, ...]:
    return Archive.open(folder).epochs


def goes_to(records: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if "this record goes to" in record.getMessage()]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What Lightning's loggers say at the level of information."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_a_second_training_goes_beside_the_first_and_says_so_in_one_line(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        fit(tmp_path, ours(), FeatureMapCallback(LAYER, background=False), max_epochs=1)
    names = [Path(place).name for place in find_archives(tmp_path)]
    assert names == ["features", "features-1", "features-2", "gradcam", "gradcam-1", "gradcam-2"]
    first = Archive.open(tmp_path / "gradcam").manifest
    expected = f"'{tmp_path}/gradcam' belongs to another run ({first.run}, {first.created}); this record goes to"
    texts = [text for text in goes_to(said.records) if "/gradcam" in text]
    assert texts == [f"lightning-gradcam: {expected} {tmp_path}/gradcam-{number}" for number in (1, 2)]
    # Sheets and page lie with the record that they show.
    for name in ("gradcam", "gradcam-1", "gradcam-2"):
        assert len(list((tmp_path / name / "sheets").rglob("*epoch-0000.png"))) == 1
        assert f"{tmp_path.name}/{name}" in (tmp_path / name / "report.html").read_text()
    assert list(found(places_of(str(tmp_path), None)).runs) == ["gradcam", "gradcam-1", "gradcam-2"]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_looks_of_another_trainer_leave_the_trainings_record_alone(tmp_path: Path, stage: str) -> None:
    model = fit(tmp_path, callback := ours()).lightning_module
    before = {path: path.read_bytes() for path in (tmp_path / "gradcam").rglob("*") if path.is_file()}
    # The same callback and another one: both have another Trainer.
    for looking in (callback, ours()):
        getattr(running(tmp_path, looking), stage)(model, loaders()[1], verbose=False)
    assert {path: path.read_bytes() for path in (tmp_path / "gradcam").rglob("*") if path.is_file()} == before
    for name in ("gradcam-1", "gradcam-2"):
        archive = Archive.open(tmp_path / name)
        assert [archive.record(index).stage for index in range(len(archive.steps))] == [stage]


def test_a_look_before_the_training_by_another_trainer_stops_nobody(tmp_path: Path) -> None:
    running(tmp_path, ours()).validate(TinyModule(), loaders()[1], verbose=False)
    fit(tmp_path, ours())
    assert Archive.open(tmp_path / "gradcam").record(0).stage == "validate"
    assert epochs(tmp_path / "gradcam-1") == (0, 1)


def test_one_callback_of_two_trainers_goes_on_with_the_run_of_each(tmp_path: Path) -> None:
    callback, model = ours(), TinyModule()
    training, testing = running(tmp_path, callback, max_epochs=0), running(tmp_path, callback)
    for number in range(1, 4):
        training.fit_loop.max_epochs = number
        training.fit(model, *loaders())
        testing.test(model, loaders()[1], verbose=False)
    assert epochs(tmp_path / "gradcam") == (0, 1, 2)
    assert len(find_archives(tmp_path)) == 2


class Configured(TinyModule):
    """Makes its callback anew for each `fit`, `validate` and `test`."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options: dict[str, Any] = options
        self.made: list[GradCAMCallback] = []
        self.sinks: list[MemorySink] = []

    def configure_callbacks(self) -> list[pl.Callback]:
        self.sinks.append(MemorySink())
        self.made.append(ours(sinks=[self.sinks[-1]], **self.options))
        return [self.made[-1]]


@pytest.mark.parametrize("logged", [True, False], ids=["a logger", "no logger"])
def test_a_callback_in_anothers_place_goes_on_with_its_run(tmp_path: Path, logged: bool) -> None:
    model = Configured(seed=3)
    made = running(tmp_path, **({} if logged else {"logger": False}))
    made.validate(model, loaders()[1], verbose=False)
    made.fit(model, *loaders())
    made.test(model, loaders()[1], verbose=False)
    made.fit_loop.max_epochs = 4
    made.fit(model, *loaders())
    assert len(model.made) == 4
    last = model.made[-1].archive
    assert last is not None
    assert last.path == str(tmp_path / ("" if logged else "gradcam_runs/0") / "gradcam")
    assert last.epochs == (0, 1, 2, 3)
    assert find_archives(tmp_path) == [last.path]
    # Each has its own sinks, and the run's probes and record.
    assert [[entry.epoch for entry in sink.entries] for sink in model.sinks] == [[0], [0, 1], [], [2, 3]]
    assert {made.archive.manifest.run for made in model.made[1:] if made.archive is not None} == {last.manifest.run}
    assert len({made.probes.fingerprint for made in model.made[1:] if made.probes is not None}) == 1


def test_a_callback_in_anothers_place_that_looks_elsewhere_has_its_own_record(tmp_path: Path) -> None:
    model = Configured()
    made = running(tmp_path)
    made.fit(model, *loaders())
    model.options, made.fit_loop.max_epochs = {"layers": "net.conv1"}, 3
    with pytest.warns(UserWarning, match="the earlier steps remain only in .*, because layers, map_shapes changed"):
        made.fit(model, *loaders())
    assert epochs(tmp_path / "gradcam") == (0, 1)
    assert Archive.open(tmp_path / "gradcam-1").layers == ("net.conv1",)
    assert epochs(tmp_path / "gradcam-1") == (2,)


@pytest.mark.parametrize("logged", [True, False], ids=["a logger", "no logger"])
def test_another_module_in_the_same_trainer_has_a_record_of_its_own(tmp_path: Path, logged: bool) -> None:
    callback = ours()
    made = running(tmp_path, callback, max_epochs=0, **({} if logged else {"logger": False}))
    kept = []
    for fold in range(3):
        made.fit_loop.max_epochs = 2 * fold + 2
        model, validation = TinyModule(), DataLoader(tiny_data(seed=50 + fold), 8)
        made.fit(model, loaders()[0], validation)
        # A look at the network of an earlier fold is no part of this one's record, and ends it not.
        made.test(kept[0][0] if kept else model, validation, verbose=False)
        assert callback.archive is not None
        assert callback.probes is not None
        kept.append((model, callback.archive, callback.probes))
    root = tmp_path if logged else tmp_path / "gradcam_runs" / "0"
    assert [Path(archive.path) for _, archive, _ in kept] == [root / n for n in ("gradcam", "gradcam-1", "gradcam-2")]
    for model, archive, probes in kept:
        # Of its own network, in its own fold's samples.
        assert len(archive.steps) == 2
        assert archive.probes.fingerprint == probes.fingerprint
        expected = compute_cams(model, probes.inputs, LAYER, relu=False)[LAYER].numpy()
        np.testing.assert_allclose(
            archive.maps(LAYER, relu=False)[-1], expected, rtol=0, atol=float(np.abs(expected).max()) * 2e-3 + 1e-9
        )
    assert len({probes.fingerprint for _, _, probes in kept}) == 3
    # The last one goes on.
    made.fit_loop.max_epochs = 7
    made.fit(kept[-1][0], *loaders())
    assert len(Archive.open(kept[-1][1].path).steps) == 3


def test_looks_at_two_modules_have_two_records(tmp_path: Path) -> None:
    made = running(tmp_path, ours())
    for _ in range(2):
        made.validate(TinyModule(), loaders()[1], verbose=False)
    first, second = (Archive.open(tmp_path / name) for name in ("gradcam", "gradcam-1"))
    assert len(first.steps) == len(second.steps) == 1
    assert not np.array_equal(first.record(0).scores["predicted"], second.record(0).scores["predicted"])
    # The looks are no part of the training that follows.
    made.fit(TinyModule(), *loaders())
    assert epochs(tmp_path / "gradcam-1") == (0, 1)


def test_a_module_whose_maps_change_begins_a_record_with_the_same_probes(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    callback = ours(seed=4)
    made = fit(tmp_path, callback)
    model: Any = made.lightning_module
    before = callback.probes
    model.net.conv2, model.net.head = nn.Conv2d(4, 3, 3, padding=1), nn.Linear(3 * 64, 5)
    made.fit_loop.max_epochs = 3
    made.fit(model, DataLoader(tiny_data(), 8), DataLoader(tiny_data(seed=9), 8))
    assert epochs(tmp_path / "gradcam") == (0, 1)
    assert epochs(tmp_path / "gradcam-1") == (2,)
    assert before is not None
    assert Archive.open(tmp_path / "gradcam-1").probes.fingerprint == before.fingerprint
    assert goes_to(said.records) == [
        f"lightning-gradcam: '{tmp_path}/gradcam' was started with different map_shapes; this record goes to"
        f" {tmp_path}/gradcam-1"
    ]


def test_a_checkpoint_of_another_run_begins_another_record_in_the_same_trainer(tmp_path: Path) -> None:
    fit(tmp_path / "other", ours(), keeping(tmp_path), enable_checkpointing=True, max_epochs=3)
    callback = ours()
    made = fit(tmp_path, callback)
    made.fit_loop.max_epochs = 4
    made.fit(made.lightning_module, *loaders(), ckpt_path=str(tmp_path / "checkpoints" / "epoch=2.ckpt"))
    assert epochs(tmp_path / "gradcam") == (0, 1)
    assert epochs(tmp_path / "gradcam-1") == (0, 1, 2, 3)
    assert epochs(tmp_path / "other" / "gradcam") == (0, 1, 2)


def test_a_module_that_is_trained_from_the_beginning_again_has_another_record(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    """Folds with one module, whose weights are reset."""
    callback, module = ours(), TinyModule()
    again = running(tmp_path, callback)
    weights = {name: values.clone() for name, values in module.state_dict().items()}
    again.fit(module, *loaders())
    module.load_state_dict(weights)
    again.fit_loop.epoch_progress.reset()
    again.fit_loop.epoch_loop._batches_that_stepped = 0
    again.fit(module, *loaders())
    assert [epochs(tmp_path / name) for name in ("gradcam", "gradcam-1")] == [(0, 1), (0, 1)]
    (line,) = goes_to(said.records)
    assert "training restarts at step 0" in line


def test_a_module_that_is_trained_further_on_larger_images_has_new_probes_and_another_record(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    callback, module = ours(), TinyModule()
    again = running(tmp_path, callback)
    again.fit(module, *loaders())
    again.fit_loop.max_epochs = 4
    images, labels = torch.rand(16, 1, 12, 12), torch.arange(16) % 5
    larger = DataLoader(TensorDataset(images, labels), 8)
    module.net.head = nn.Linear(3 * 100, 5)
    again.fit(module, larger, larger)
    assert [epochs(tmp_path / name) for name in ("gradcam", "gradcam-1")] == [(0, 1), (2, 3)]
    assert Archive.open(tmp_path / "gradcam-1").probes.inputs.shape[1:] == (1, 12, 12)
    (line,) = goes_to(said.records)
    assert "no longer fit the model" in line


def test_a_callback_in_anothers_place_goes_on_counting_validations(tmp_path: Path) -> None:
    class Configuring(TinyModule):
        def configure_callbacks(self) -> list[pl.Callback]:
            return [ours(every_n_validations=2)]

    module, going = Configuring(), running(tmp_path, max_epochs=0)
    for epoch in range(1, 5):
        going.fit_loop.max_epochs = epoch
        going.fit(module, *loaders())
    assert epochs(tmp_path / "gradcam") == (1, 3)


def test_a_state_that_is_put_back_in_the_middle_of_a_training_deletes_no_later_step(tmp_path: Path) -> None:
    """A finder that looks again while training loads a checkpoint of its own: that is no resumption."""

    class Again(LearningRateFinder):
        def on_fit_start(self, *args: Any) -> None: ...

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                self.lr_find(trainer, pl_module)

    class Tuned(TinyModule):
        lr = 1e-3

    callback, module = ours(), Tuned()
    running = trainer(tmp_path, callbacks=[callback, Again(num_training_steps=3)], max_epochs=3)
    running.fit(module, *loaders())
    running.fit_loop.max_epochs = 4
    running.fit(module, *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1, 2, 3)


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_in_a_sibling_is_resumed_there(tmp_path: Path, moved: bool, said: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "logs"
    fit(root, ours(seed=1))
    fit(root, first := ours(seed=2), keeping(tmp_path), enable_checkpointing=True, max_epochs=3)
    fit(root, ours(seed=3))
    if moved:
        root = root.rename(tmp_path / "elsewhere")
    said.clear()
    fit(root, second := ours(), ckpt=str(tmp_path / "checkpoints" / "epoch=1.ckpt"), max_epochs=4)
    assert second.archive is not None
    assert first.probes is not None
    assert second.probes is not None
    assert second.archive.path == f"{root}/gradcam-1"
    assert second.archive.epochs == (0, 1, 2, 3)
    assert second.probes.fingerprint == first.probes.fingerprint
    assert goes_to(said.records) == []
    assert epochs(root / "gradcam") == epochs(root / "gradcam-2") == (0, 1)


def test_a_record_without_a_step_is_taken_over(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    class Kill(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            raise RuntimeError("killed")

    callback = ours()
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, callback, Kill())
    first = Archive.open(tmp_path / "gradcam").manifest.run
    fit(tmp_path, ours(seed=8))
    assert find_archives(tmp_path) == [str(tmp_path / "gradcam")]
    archive = Archive.open(tmp_path / "gradcam")
    assert archive.manifest.run != first
    assert archive.epochs == (0, 1)
    assert archive.probes.fingerprint == archive.manifest.fingerprint
    assert goes_to(said.records) == []


def test_a_run_whose_empty_record_was_taken_over_goes_beside_it(tmp_path: Path) -> None:
    made = running(tmp_path, ours(every_n_epochs=5))
    with pytest.warns(UserWarning, match="no validation was due"):
        made.fit(model := TinyModule(), *loaders())
    fit(tmp_path, ours())
    made.fit_loop.max_epochs = 5
    made.fit(model, *loaders())
    assert epochs(tmp_path / "gradcam") == (0, 1)
    assert epochs(tmp_path / "gradcam-1") == (4,)


@pytest.mark.parametrize("content", [b"{", b'{"schema": 2}'], ids=["damaged", "of a later version"])
def test_a_record_that_cannot_be_read_stops_nobody_and_stays(tmp_path: Path, content: bytes) -> None:
    fit(tmp_path, ours())
    (tmp_path / "gradcam" / "manifest.json").write_bytes(content)
    fit(tmp_path, ours())
    assert (tmp_path / "gradcam" / "manifest.json").read_bytes() == content
    assert epochs(tmp_path / "gradcam-1") == (0, 1)


def test_remote_folders_have_siblings_too(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    kept = {"enable_checkpointing": True, "logger": Folder(url)}
    try:
        fit(tmp_path, ours(seed=1), logger=Folder(url))
        fit(tmp_path, ours(seed=2), keeping(tmp_path), **kept, max_epochs=1)
        fit(tmp_path, ours(seed=3), logger=Folder(url))
        fit(tmp_path, last := ours(), ckpt=str(tmp_path / "checkpoints" / "epoch=0.ckpt"), **kept, max_epochs=3)
        assert last.archive is not None
        assert last.archive.path == f"{url}/gradcam-1"
        assert last.archive.epochs == (0, 1, 2)
        assert epochs(f"{url}/gradcam") == epochs(f"{url}/gradcam-2") == (0, 1)
        # A look's record makes room for the training's in a store, too.
        made = running(tmp_path, looking := ours(), logger=Folder(f"{url}/look"))
        made.validate(model := TinyModule(), loaders()[1], verbose=False)
        made.fit(model, *loaders())
        assert looking.archive is not None
        assert looking.archive.path == f"{url}/look/gradcam"
    finally:
        fsspec.filesystem("memory").rm(url, recursive=True)


def test_no_run_keeps_its_trainer(tmp_path: Path) -> None:
    # Lightning gives a callback its module's `log`, so that the trainer lives as long as its callbacks.
    made = weakref.ref(fit(tmp_path, ours(), max_epochs=1))
    gc.collect()
    assert made() is None
