"""Tests of MLflow's sink on its real stores: files, which newer versions want to be allowed, and SQLite."""

from __future__ import annotations

import io
import os
import random
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger
from torch import Tensor, nn

from lightning_gradcam import Archive, GradCAMCallback
from lightning_gradcam.sinks import Entry, MLflowSink, Numbers, TensorBoardSink, sinks_for
from tests.children import LIMIT, At, answer_of, warned
from tests.conftest import CLASSES, TinyModule, loaders, trainer
from tests.sinks.test_sinks import decoded, entry, evolution, picture

mlflow = pytest.importorskip("mlflow", reason="needs the extra `mlflow`")
pytest.importorskip("sqlalchemy", reason="needs mlflow; mlflow-skinny has no database")
LAYERS = ["net.conv1", "net.relu2"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    # The logger sets the address for the whole process.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///nowhere")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database; making the tables takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def files(tmp_path: Path) -> MLFlowLogger:
    """On an empty file store."""
    return MLFlowLogger(save_dir=str(tmp_path / "mlruns"), tracking_uri=None)


@pytest.fixture(params=["files", "sqlite"])
def logger(request: pytest.FixtureRequest, tmp_path: Path) -> MLFlowLogger:
    """On an empty store of both kinds."""
    if request.param == "files":
        found: MLFlowLogger = request.getfixturevalue("files")
        return found
    shutil.copy(request.getfixturevalue("database"), tmp_path / "mlflow.db")
    location = f"file://{tmp_path}/artifacts"
    return MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=location)


def random_numbers() -> Any:
    """The state that each of the three packages draws from."""
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]


def artifacts(logger: MLFlowLogger) -> Path:
    return Path(logger.experiment.get_run(logger.run_id).info.artifact_uri.removeprefix("file://"))


def images(logger: MLFlowLogger) -> dict[tuple[str, int], bytes]:
    """Key and step to the file, as MLflow's page reads them from the names."""
    found = {}
    for file in (artifacts(logger) / "images").glob("*.png"):
        key, _, step, *_ = file.stem.replace("%", "+").split("+")
        assert (key, int(step)) not in found
        found[key.replace("#", "/").replace("~", "/"), int(step)] = file.read_bytes()
    return found


# ---- the sink


def test_pictures_lie_at_their_steps_as_they_were_encoded(logger: MLFlowLogger) -> None:
    sink = MLflowSink(logger)
    sink.prepare()
    given = [entry(0, -1), entry(469, 3)]
    drawn = random_numbers()
    for each in given:
        sink.log(each)
    sink.close()
    assert random_numbers() == drawn
    expected = {(tag, e.step): shown.encoded("png") for e in given for tag, shown in e.pictures.items()}
    assert len(expected) == 4
    assert images(logger) == expected
    # The small copies that the page shows first, and what makes it look for pictures at all.
    small = list((artifacts(logger) / "images").glob("*.webp"))
    assert len(small) == 4
    assert max(Image.open(small[0]).size) == 256
    assert logger.experiment.get_run(logger.run_id).data.tags["mlflow.loggedImages"] == "True"


def test_every_picture_goes_as_png(files: MLFlowLogger) -> None:
    pictures = {f"gradcam/{format}": replace(picture(), format=format) for format in ("png", "jpeg", "webp")}
    MLflowSink(files).log(Entry(1, 0, pictures))
    assert len(images(files)) == 3
    for content in images(files).values():
        assert content.startswith(b"\x89PNG")
        assert np.array_equal(decoded(content), picture().pixels)


def _in_threads_of_its_own(root: Path) -> dict[tuple[str, int], bytes]:
    os.environ.update(MLFLOW_ENABLE_ASYNC_LOGGING="true", MLFLOW_ALLOW_FILE_STORE="true")
    logger = MLFlowLogger(save_dir=str(root / "mlruns"), tracking_uri=None, run_name="one")
    MLflowSink(logger).log(entry(469, 3))
    until = time.monotonic() + LIMIT / 2
    while len(list((artifacts(logger) / "images").glob("*"))) < 4 and time.monotonic() < until:
        time.sleep(0.05)
    return images(logger)


@pytest.mark.slow
def test_pictures_arrive_where_mlflow_logs_in_threads_of_its_own(tmp_path: Path) -> None:
    """These live as long as their process."""
    expected = {(tag, 469): shown.encoded("png") for tag, shown in entry(469, 3).pictures.items()}
    assert answer_of(_in_threads_of_its_own, tmp_path) == expected


ODD = ["gradcam_stats/gradcam++/drift", "gradcam_stats/gradcam--/drift", "gradcam_stats/größe", "gradcam_stats/a:b"]


def test_numbers_of_odd_names_stay_apart_and_nothing_warns(logger: MLFlowLogger) -> None:
    values = {tag: float(place) for place, tag in enumerate([*ODD, f"gradcam_stats/{'x' * 300}/drift"])}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "MLFlow only allows")
        MLflowSink(logger).log_numbers(Numbers(469, 3, values))
    logged = logger.experiment.get_run(logger.run_id).data.metrics
    assert sorted(logged.values()) == sorted(values.values())
    assert all(name.startswith("gradcam_stats/") for name in logged)
    assert logged["gradcam_stats/gradcam--/drift"] == 1.0
    (history,) = logger.experiment.get_metric_history(logger.run_id, "gradcam_stats/gradcam--/drift")
    assert history.step == 469


def test_more_numbers_than_one_request_may_have(logger: MLFlowLogger) -> None:
    MLflowSink(logger).log_numbers(Numbers(469, 3, {f"gradcam_stats/{i}": float(i) for i in range(1500)}))
    assert len(logger.experiment.get_run(logger.run_id).data.metrics) == 1500


def test_what_is_not_a_number_is_taken(logger: MLFlowLogger) -> None:
    MLflowSink(logger).log_numbers(Numbers(1, 0, {"a": float("nan"), "b": 1.0}))
    logged = logger.experiment.get_run(logger.run_id).data.metrics
    assert np.isnan(logged["a"])
    assert logged["b"] == 1.0


def test_film_strips_lie_at_their_steps_and_animations_among_the_artifacts(logger: MLFlowLogger) -> None:
    tag = "gradcam_evolution/conv1"
    sink = MLflowSink(logger)
    sink.log_evolution(evolution(10, ended=False))
    assert not (artifacts(logger) / tag).exists()
    sink.log_evolution(evolution(20))
    sink.log_evolution(replace(evolution(30), repeated=True))
    assert set(images(logger)) == {(tag, 10), (tag, 20)}
    file = artifacts(logger) / tag / "animation.gif"
    assert file.read_bytes() == evolution().animations[tag].encoded("gif")
    assert Image.open(io.BytesIO(file.read_bytes())).n_frames == 2


def test_calls_from_two_threads_lose_nothing(logger: MLFlowLogger) -> None:
    """The worker logs through the sink while training logs its own metrics."""
    rounds, sink = 25, MLflowSink(logger)
    sink.prepare()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for step in range(rounds):
                sink.log(entry(step, 0, "gradcam/conv1"))
                sink.log_numbers(Numbers(step, 0, {"gradcam_stats/seconds": step, "gradcam_stats/drift": step}))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for step in range(rounds):
        logger.log_metrics({"train_loss": float(step), "epoch": 0}, step)
    thread.join()
    assert not errors
    assert set(images(logger)) == {("gradcam/conv1", step) for step in range(rounds)}
    for name in ("train_loss", "gradcam_stats/seconds", "gradcam_stats/drift"):
        history = logger.experiment.get_metric_history(logger.run_id, name)
        assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [(s, s) for s in range(rounds)]


def test_a_metric_that_training_is_just_creating_costs_no_image(
    files: MLFlowLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = MLflowSink(files)
    sink.prepare()
    metric = artifacts(files).parent / "metrics" / "epoch"
    metric.parent.mkdir(exist_ok=True)
    metric.touch()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            metric.write_text("1700000000000 0 0\n")

    monkeypatch.setattr("lightning_gradcam.sinks.mlflow.time.sleep", sleep)
    sink.log(entry(3, 0, "gradcam/conv1"))
    assert len(waited) == 2
    assert set(images(files)) == {("gradcam/conv1", 3)}


def test_the_loggers_of_both_packages_get_it(files: MLFlowLogger) -> None:
    other = pytest.importorskip("lightning.pytorch.loggers").MLFlowLogger

    found = sinks_for([files, other.__new__(other)], lambda: pytest.fail("no files"))
    assert [type(sink) for sink in found] == [MLflowSink, MLflowSink]
    assert MLflowSink.thread_safe
    assert not MLflowSink.takes_rows


# ---- whole runs


class OddNet(nn.Module):
    """Layers whose names differ in signs that MLflow does not take."""

    def __init__(self) -> None:
        super().__init__()
        kinds = {"a+b": 1, "a*b": 3, "größe 1": 3}
        self.parts = nn.ModuleDict({name: nn.Conv2d(channels, 3, 3) for name, channels in kinds.items()})
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x).relu()
        return self.head(x.mean((-2, -1)))


def fit(root: Path, logger: Any, *others: pl.Callback, module: Any = None, **options: Any) -> tuple[Any, list[str]]:
    callback = GradCAMCallback(**{"layers": LAYERS, **options})
    running = trainer(root, callbacks=[callback, *others], logger=logger, log_every_n_steps=1)
    with warned() as texts:
        running.fit(module or TinyModule(), *loaders())
    assert running.current_epoch == 2
    return callback, texts


def test_a_run_leaves_its_pictures_numbers_strips_and_animations(logger: MLFlowLogger, tmp_path: Path) -> None:
    callback, texts = fit(tmp_path / "root", logger)
    assert not texts
    sheets = {(f"gradcam/{layer}", step) for layer in LAYERS for step in (4, 9)}
    strips = {(f"gradcam_evolution/{layer}", step) for layer in LAYERS for step in (4, 9)}
    assert set(images(logger)) == sheets | strips
    for layer in LAYERS:
        assert (artifacts(logger) / f"gradcam_evolution/{layer}/animation.gif").is_file()
    run = logger.experiment.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    for name in ("val_loss", "gradcam_stats/seconds", "gradcam_stats/net.conv1/blank"):
        history = logger.experiment.get_metric_history(logger.run_id, name)
        assert [metric.step for metric in history] == [4, 9], name
    archive = Archive.open(callback.archive.path)
    assert archive.steps == (4, 9)
    # In the file store's root it would count as an experiment.
    assert Path(archive.path).parts[-3:] == (str(logger.name), str(logger.run_id), "gradcam")
    # Pictures are MLflow's here: there are no files beside the archive.
    assert not list(Path(archive.path).rglob("sheets"))


def test_layers_whose_names_differ_in_odd_signs_stay_apart(files: MLFlowLogger, tmp_path: Path) -> None:
    class Odd(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = OddNet()  # type: ignore[assignment]

    _, texts = fit(tmp_path / "root", files, module=Odd(), layers="net.parts.*", methods=["gradcam", "gradcam++"])
    assert not texts
    keys = {key for key, _ in images(files) if key.startswith("gradcam/")}
    assert len(keys) == 3 * 2
    metrics = files.experiment.get_run(files.run_id).data.metrics
    assert len([name for name in metrics if name.endswith("/blank")]) == 3 * 2


def test_beside_tensorboard_both_get_all(files: MLFlowLogger, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardLogger(str(tmp_path / "board"))
    kinds = [type(sink) for sink in sinks_for([board, files], lambda: pytest.fail("no files"))]
    assert kinds == [TensorBoardSink, MLflowSink]
    _, texts = fit(tmp_path / "root", [board, files])
    assert not texts
    events = EventAccumulator(board.log_dir)
    events.Reload()
    logged = images(files)
    for layer in LAYERS:
        for shown in events.Images(f"gradcam/{layer}"):
            assert logged[f"gradcam/{layer}", shown.step] == shown.encoded_image_string


def test_a_store_that_breaks_in_training_is_said_and_training_goes_on(files: MLFlowLogger, tmp_path: Path) -> None:
    place = artifacts(files) / "images"

    def harm() -> None:
        shutil.rmtree(place)
        place.write_text("mine")

    callback, texts = fit(tmp_path / "root", files, At(1, harm))
    assert callback.archive.epochs == (0, 1)
    assert sum("the sink MLflowSink failed" in text for text in texts) == 1
    assert place.read_text() == "mine"
    # What does not go there still arrives.
    history = files.experiment.get_metric_history(files.run_id, "gradcam_stats/net.conv1/blank")
    assert [metric.step for metric in history] == [4, 9]
