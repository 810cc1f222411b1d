"""Tests of Comet's sink with the real package, offline: what is in the archive that it would send."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CometLogger

from lightning_gradcam import GradCAMCallback
from lightning_gradcam.sinks import CometSink, Entry, Histogram, Histograms, Numbers, sinks_for
from tests.children import At, warned
from tests.conftest import TinyModule, loaders, trainer
from tests.sinks.test_sinks import decoded, entry, evolution, picture

comet_ml = pytest.importorskip("comet_ml", reason="needs the extra `comet`")
LAYERS = ["net.conv1", "net.relu2"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lightning 2.6's online=False makes an experiment that keeps nothing.
    monkeypatch.setenv("COMET_START_ONLINE", "false")
    # Lightning's logger sets this for the whole process.
    monkeypatch.setenv("COMET_DISABLE_AUTO_LOGGING", "1")
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[CometLogger]:
    quiet = dict.fromkeys(("log_code", "log_git_metadata", "log_git_patch", "log_env_details", "parse_args"), False)
    made = CometLogger(offline_directory=str(tmp_path / "comet"), auto_output_logging=False, **quiet)
    yield made
    made.experiment.end()


class Sent:
    """What an ended offline experiment would send."""

    def __init__(self, logger: CometLogger) -> None:
        logger.experiment.end()
        (self.path,) = Path(str(logger.save_dir)).glob("*.zip")
        with zipfile.ZipFile(self.path) as archive:
            lines = archive.read("messages.json").decode().splitlines()
            messages = [json.loads(line) for line in lines]
            self.pictures: dict[tuple[str, int], bytes] = {}
            self.details: dict[str, dict[str, Any]] = {}
            self.histograms: list[tuple[str, int, bytes]] = []
            for upload in (message["payload"] for message in messages if message["type"] == "file_upload"):
                about = upload["additional_params"]
                if upload["upload_type"] == "visualization":
                    assert (about["figName"], about["step"]) not in self.pictures
                    self.pictures[about["figName"], about["step"]] = archive.read(upload["file_path"])
                    self.details[about["figName"]] = about
                elif upload["upload_type"] == "histogram3d":
                    self.histograms.append((about["fileName"], about["step"], archive.read(upload["file_path"])))
        self.metrics = [
            (
                m["payload"]["metric"]["metricName"],
                m["payload"]["metric"]["step"],
                m["payload"]["metric"]["metricValue"],
            )
            for m in messages
            if m["type"] == "metric_msg" and not m["payload"]["metric"]["metricName"].startswith("sys.")
        ]


def random_numbers() -> Any:
    """The state that each of the three packages draws from."""
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]


# ---- the sink


def test_the_offline_archive_holds_every_picture_as_it_was_encoded(logger: CometLogger) -> None:
    sink = CometSink(logger)
    sink.prepare()
    # Of one colour: Comet's own way from arrays fails there.
    plain = Entry(2000, 4, {"gradcam/net.conv1": replace(picture(), pixels=np.zeros((8, 8, 3), np.uint8))})
    given = [entry(0, -1), entry(469, 3), plain]
    drawn = random_numbers()
    for each in given:
        sink.log(each)
    sink.log_histograms(histograms(469))
    sink.close()
    assert random_numbers() == drawn
    sent = Sent(logger)
    assert sent.pictures == {(t, e.step): shown.encoded("png") for e in given for t, shown in e.pictures.items()}
    # No end of a file's name is made of a layer's.
    assert sent.details["gradcam/net.conv1"].get("extension") is None


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"\x89PNG")])
def test_pictures_keep_their_format_where_comet_shows_it(logger: CometLogger, format: str, start: bytes) -> None:
    CometSink(logger).log(Entry(1, 0, {"gradcam/conv1": replace(picture(), format=format)}))
    (content,) = Sent(logger).pictures.values()
    assert content.startswith(start)
    assert decoded(content).shape == (12, 20, 3)


def test_numbers_lie_at_their_step_and_the_trainings_own_keep_theirs(logger: CometLogger) -> None:
    sink = CometSink(logger)
    logger.log_metrics({"val_loss": 0.5}, 600)
    sink.log(entry(469, 3))
    sink.log_numbers(Numbers(469, 3, {"gradcam_stats/seconds": 0.25}))
    sink.log_histograms(histograms(469))
    sink.log_evolution(evolution(469))
    # A user's own call without a step is dated by the last one.
    logger.experiment.log_metric("mine", 1.0)
    values = {name: (step, value) for name, step, value in Sent(logger).metrics}
    assert values == {"val_loss": (600, 0.5), "gradcam_stats/seconds": (469, 0.25), "mine": (600, 1.0)}


def test_long_and_odd_names_stay_apart_and_nothing_is_cut(logger: CometLogger, tmp_path: Path) -> None:
    logger._prefix = "fold-3"
    layers = ["net.größe 1", "a\nb", "a\\nb", "x" * 200 + "1", "x" * 200 + "2"]
    CometSink(logger).log_numbers(Numbers(1, 0, {f"gradcam_stats/{n}/drift": float(i) for i, n in enumerate(layers)}))
    logged = Sent(logger).metrics
    assert sorted(value for *_, value in logged) == [0.0, 1.0, 2.0, 3.0, 4.0]
    names = [name for name, *_ in logged]
    assert len(set(names)) == 5
    assert "fold-3_gradcam_stats/net.größe 1/drift" in names
    assert all(name.endswith("/drift") and len(name) <= 100 and name.isprintable() for name in names)


# Of nine values from -2 to 1 in four bins: the bins' middles, and how many there are.
MIDDLES = {-1.625: 2, -0.875: 1, -0.125: 4, 0.625: 2}


def histograms(step: int) -> Histograms:
    values = np.array([-2.0, -1.9, -1.2, -0.5, 0.0, 0.1, 0.1, 0.9, 1.0])
    counts, edges = np.histogram(values, 4)
    moments = (values.min(), values.max(), values.sum(), (values**2).sum())
    return Histograms(
        step, 3, {"gradcam_gradients/conv1": Histogram(counts.astype(float), edges, *moments, len(values))}
    )


def test_histograms_keep_their_counts_and_places(logger: CometLogger) -> None:
    sink = CometSink(logger)
    sink.log_histograms(histograms(469))
    sink.log_histograms(histograms(500))
    empty = Histogram(np.zeros(3), np.arange(4.0), 0.0, 0.0, 0.0, 0.0, 0)
    sink.log_histograms(Histograms(500, 3, {"gradcam_gradients/none": empty}))
    sent = Sent(logger)
    assert [(name, step) for name, step, _ in sent.histograms] == [
        ("gradcam_gradients/conv1", 469),
        ("gradcam_gradients/conv1", 500),
    ]
    for *_, content in sent.histograms:
        stored = comet_ml.Histogram.from_json(json.loads(content), verbose=False)
        filled = {stored.get_bin_index(middle): count for middle, count in MIDDLES.items()}
        assert {place: int(count) for place, count in enumerate(stored.counts) if count} == filled


def test_film_strips_lie_at_their_steps_and_animations_are_pictures(logger: CometLogger) -> None:
    sink, tag = CometSink(logger), "gradcam_evolution/conv1"
    sink.log_evolution(evolution(10, ended=False))
    sink.log_evolution(evolution(20))
    sink.log_evolution(replace(evolution(20), repeated=True, animations={}))
    sent = Sent(logger)
    assert set(sent.pictures) == {(tag, 10), (tag, 20), (f"{tag}/animation.gif", 20)}
    assert sent.pictures[f"{tag}/animation.gif", 20] == evolution().animations[tag].encoded("gif")
    assert sent.details[f"{tag}/animation.gif"]["extension"] == "gif"


def test_what_comet_does_not_take_is_an_error_and_an_ended_experiment_is_none(logger: CometLogger) -> None:
    sink = CometSink(logger)
    shutil.rmtree(logger.experiment.tmpdir)
    with pytest.raises(Exception, match=r"Comet rejected|No such file"):
        sink.log(entry(1, 0))
    Path(logger.experiment.tmpdir).mkdir()
    logger.experiment.end()
    sink.log(entry(2, 0))


def test_the_loggers_of_both_packages_get_it(logger: CometLogger) -> None:
    other = pytest.importorskip("lightning.pytorch.loggers").CometLogger
    found = sinks_for([logger, other.__new__(other)], lambda: pytest.fail("no files"))
    assert [type(sink) for sink in found] == [CometSink, CometSink]
    assert not CometSink.thread_safe


# ---- whole runs


def fit(root: Path, logger: Any, *others: pl.Callback) -> tuple[Any, list[str]]:
    callback = GradCAMCallback(LAYERS)
    running = trainer(root, callbacks=[callback, *others], logger=logger, log_every_n_steps=1)
    with warned() as texts:
        running.fit(TinyModule(), *loaders())
    assert running.current_epoch == 2
    return callback, texts


def test_a_run_leaves_its_pictures_numbers_strips_and_animations(logger: CometLogger, tmp_path: Path) -> None:
    callback, texts = fit(tmp_path / "root", logger)
    assert not texts
    key = logger.experiment.get_key()
    # Beside the checkpoints, whose folder Lightning names by the logger's name, which Comet's has not here.
    assert Path(callback.archive.path) == tmp_path / "comet" / str(logger.name) / key / "gradcam"
    sent = Sent(logger)
    expected = {
        (f"{root}/{layer}", step) for root in ("gradcam", "gradcam_evolution") for layer in LAYERS for step in (4, 9)
    }
    assert set(sent.pictures) == expected | {(f"gradcam_evolution/{layer}/animation.gif", 9) for layer in LAYERS}
    for name in ("val_loss", "gradcam_stats/seconds", "gradcam_stats/net.conv1/blank"):
        assert [step for logged, step, _ in sent.metrics if logged == name] == [4, 9], name


def test_a_folder_that_goes_away_in_training_is_said_and_training_goes_on(logger: CometLogger, tmp_path: Path) -> None:
    # Comet's own thread removes files in it, which a removal of ours would stumble over.
    away = At(1, lambda: Path(logger.experiment.tmpdir).rename(tmp_path / "away"))
    callback, texts = fit(tmp_path / "root", logger, away)
    assert callback.archive.epochs == (0, 1)
    assert any("the sink CometSink failed" in text for text in texts)
    Path(logger.experiment.tmpdir).mkdir()
