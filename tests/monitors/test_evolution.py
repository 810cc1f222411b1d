"""A run over its steps: what sinks and the run's folder get, and when."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger

from lightning_gradcam import Archive, CamKey, ConfigurationError, Drawing, GradCAMCallback, MemorySink, ProbeSet
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.render.scale import limits_of, row_limits
from lightning_gradcam.sheets.strip import film_strip
from lightning_gradcam.stats import to_last
from tests.conftest import TinyModule, loaders, trainer
from tests.monitors.drawing import evolution_of
from tests.report.held import described

LAYERS = ["net.relu1", "net.relu2"]


def fitted(root: Path, epochs: int = 5, **options: Any) -> tuple[GradCAMCallback, MemorySink, Trainer]:
    torch.manual_seed(0)
    sink = MemorySink()
    callback = GradCAMCallback(LAYERS, num_probes=3, sinks=[sink], on_error="raise", **{"numbers": "all", **options})
    running = trainer(root, callbacks=callback, max_epochs=epochs)
    running.fit(TinyModule(), *loaders())
    return callback, sink, running


def folder(callback: GradCAMCallback) -> Path:
    assert callback.archive is not None
    return Path(callback.archive.path)


def test_film_strips_come_after_1_2_4_steps_and_at_the_end(tmp_path: Path) -> None:
    _, sink, _ = fitted(tmp_path)
    steps = [entry.step for entry in sink.entries]
    assert [(found.step, found.ended) for found in sink.evolutions] == [
        (steps[0], False),
        (steps[1], False),
        (steps[3], False),
        (steps[4], True),
    ]
    assert not any(found.repeated for found in sink.evolutions)
    for found in sink.evolutions:
        assert list(found.strips) == [f"gradcam_evolution/{layer}" for layer in LAYERS]
        assert list(found.animations) == (list(found.strips) if found.ended else [])
        assert bool(found.rows) == found.ended
    # A column more for every step, so the last is the widest.
    widths = [found.strips["gradcam_evolution/net.relu2"].pixels.shape[1] for found in sink.evolutions]
    assert widths == sorted(widths)


def test_strips_that_have_just_been_given_are_said_to_be_the_same(tmp_path: Path) -> None:
    _, sink, _ = fitted(tmp_path, 2)
    assert [(found.ended, found.repeated) for found in sink.evolutions] == [
        (False, False),
        (False, False),
        (True, True),
    ]


def test_strips_animations_and_the_report_lie_in_the_runs_folder(tmp_path: Path) -> None:
    callback, sink, _ = fitted(tmp_path, 3)
    files = sorted(path.name for path in (folder(callback) / "evolution").iterdir())
    assert files == [f"{layer}.{ending}" for layer in LAYERS for ending in ("gif", "png")]
    shown = np.asarray(Image.open(folder(callback) / "evolution" / "net.relu2.png"))
    np.testing.assert_array_equal(shown, sink.evolutions[-1].strips["gradcam_evolution/net.relu2"].pixels)
    with Image.open(folder(callback) / "evolution" / "net.relu2.gif") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]
    page = (folder(callback) / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert [step["epoch"] for step in described(page)["steps"]] == [0, 1, 2]


def test_rows_have_every_probe_and_step_with_an_overlay_a_layer(tmp_path: Path) -> None:
    callback, sink, _ = fitted(tmp_path, 3)
    rows = sink.evolutions[-1].rows
    assert callback.archive is not None
    assert callback.probes is not None
    assert [(row.probe, row.epoch) for row in rows] == [(name, e) for name in callback.probes.ids for e in range(3)]
    record = callback.archive.record(1)
    for place, row in enumerate(rows[1::3]):
        assert list(row.overlays) == [f"gradcam/{layer}" for layer in LAYERS]
        assert row.predicted == str(record.predicted[place])
        assert row.score == pytest.approx(float(record.scores["predicted"][place]))
        assert row.confidence == pytest.approx(float(record.confidence[place]))
        assert row.original is rows[3 * place].original
    colored = [not np.array_equal(row.overlays["gradcam/net.relu1"].pixels, row.original.pixels) for row in rows]
    assert any(colored)


def test_numbers_reach_sinks_and_archive(tmp_path: Path) -> None:
    callback, sink, _ = fitted(tmp_path, 3)
    assert callback.archive is not None
    first, second = sink.numbers[:2]
    assert "gradcam_stats/net.relu1/drift" not in first.values
    drift = callback.archive.numbers("net.relu1")["drift"]
    assert np.isnan(drift[0]).all()
    assert second.values["gradcam_stats/net.relu1/drift"] == pytest.approx(float(np.nanmean(drift[1])), rel=1e-5)
    entropy = callback.archive.numbers("net.relu1")["entropy"]
    assert second.values["gradcam_stats/net.relu1/entropy"] == pytest.approx(float(np.nanmean(entropy[1])), rel=1e-5)
    confidence = callback.archive.record(1).confidence.mean()
    assert second.values["gradcam_stats/confidence"] == pytest.approx(float(confidence))


def test_the_end_compares_every_step_with_the_last(tmp_path: Path) -> None:
    # The class of a label does not change, so that every map can be compared.
    callback, sink, _ = fitted(tmp_path, 3, targets="label")
    assert callback.archive is not None
    late = [numbers for numbers in sink.numbers if "gradcam_stats/net.relu1/drift_to_last" in numbers.values]
    assert [numbers.step for numbers in late] == list(callback.archive.steps)
    maps = callback.archive.maps("net.relu1", relu=False)
    expected = np.nanmean(to_last(maps[0], maps[2])["drift_to_last"])
    assert late[0].values["gradcam_stats/net.relu1/drift_to_last"] == pytest.approx(float(expected), rel=1e-4)
    assert late[2].values["gradcam_stats/net.relu1/drift_to_last"] == pytest.approx(0, abs=1e-5)


def test_a_csv_logger_gets_the_numbers_of_each_step(tmp_path: Path) -> None:
    fitted_root = tmp_path / "logs"
    callback = GradCAMCallback(LAYERS, num_probes=3, on_error="raise", numbers="all")
    logger = CSVLogger(str(fitted_root))
    running = trainer(tmp_path, callbacks=callback, logger=logger)
    running.fit(TinyModule(), *loaders())
    text = next(fitted_root.rglob("metrics.csv")).read_text()
    assert "gradcam_stats/net.relu1/entropy" in text
    assert "gradcam_stats/net.relu1/drift_to_last" in text


def test_by_default_loggers_get_a_few_numbers_and_the_archive_has_all(tmp_path: Path) -> None:
    callback, sink, _ = fitted(tmp_path, 2, numbers="default")
    names = {tag.rsplit("/", 1)[1] for numbers in sink.numbers for tag in numbers.values}
    assert names == {"drift", "half_area", "blank", "seconds", "background_seconds"}
    archive = callback.archive
    assert archive is not None
    assert {"entropy", "center_x", "rank_correlation", "drift_to_last"} <= {*archive.numbers("net.relu1")}
    with pytest.raises(ConfigurationError, match="numbers: got 'some'; valid: 'default' and 'all'"):
        GradCAMCallback(numbers="some")  # type: ignore[arg-type]


def test_evolution_false_draws_none_of_it(tmp_path: Path) -> None:
    callback, sink, _ = fitted(tmp_path, 2, evolution=False)
    assert sink.evolutions == []
    assert not (folder(callback) / "evolution").exists()
    assert not (folder(callback) / "report.html").exists()
    assert "gradcam_stats/net.relu1/entropy" in sink.numbers[0].values


def test_an_interrupted_run_has_its_report(tmp_path: Path) -> None:
    class Interrupted(TinyModule):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2:
                raise KeyboardInterrupt

    sink = MemorySink()
    callback = GradCAMCallback(LAYERS, num_probes=3, sinks=[sink], on_error="raise")
    with pytest.raises(BaseException):  # noqa: B017, PT011 - what Lightning makes of it differs between versions
        trainer(tmp_path, callbacks=callback, max_epochs=4).fit(Interrupted(), *loaders())
    assert (folder(callback) / "report.html").exists()
    assert sink.evolutions[-1].ended


def test_a_run_that_is_continued_ends_with_all_of_its_steps(tmp_path: Path) -> None:
    callback, sink, running = fitted(tmp_path, 2)
    running.fit_loop.max_epochs = 4
    running.fit(running.lightning_module, *loaders())
    assert callback.archive is not None
    assert [len(callback.archive.steps), sink.evolutions[-1].ended] == [4, True]
    assert len(sink.evolutions[-1].rows) == 3 * 4


def test_validation_alone_has_no_evolution(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = GradCAMCallback(LAYERS, num_probes=3, sinks=[sink], on_error="raise")
    trainer(tmp_path, callbacks=callback).validate(TinyModule(), loaders()[1], verbose=False)
    assert sink.evolutions == []


def test_the_alarm_is_said_once_while_training(tmp_path: Path) -> None:
    probes = ProbeSet(torch.rand(3, 1, 8, 8), boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 3))
    callback = GradCAMCallback(LAYERS, probes=probes, min_energy_inside=0.9, on_error="raise")
    with pytest.warns(UserWarning, match=r"lightning-gradcam: min_energy_inside=0.9: in epoch 0") as caught:
        trainer(tmp_path, callbacks=callback, max_epochs=3).fit(TinyModule(), *loaders())
    assert len([w for w in caught if "min_energy_inside" in str(w.message)]) == 1


@pytest.mark.parametrize("signed", [False, True])
def test_a_strip_is_on_the_runs_scale_over_all_targets_and_epochs(tmp_path: Path, signed: bool) -> None:
    drawing = Drawing(signed=signed)
    callback, sink, _ = fitted(tmp_path, 3, targets=["predicted", "label"], drawing=drawing)
    archive = callback.archive
    assert archive is not None
    records = [archive.record(step) for step in range(3)]
    for layer in LAYERS:
        maps = [one.maps[CamKey(layer, "gradcam", name)] for one in records for name in archive.targets]
        found = np.max([limits_of(each, signed=signed) for each in maps], axis=0)
        key = CamKey(layer, "gradcam", "predicted")
        limits = row_limits(records[-1].limits, key, signed=signed)
        # Maps are kept with 11 bits.
        np.testing.assert_allclose(limits, found, rtol=2e-3)
        again = film_strip(records, archive.probes, key=key, drawing=drawing, title="gradcam", limits=limits)
        np.testing.assert_array_equal(sink.evolutions[-1].strips[f"gradcam_evolution/{layer}"].pixels, again.pixels)


def test_many_probes_are_thinned_and_the_title_says_so(tmp_path: Path) -> None:
    callback, _, _ = fitted(tmp_path, 1)
    archive = callback.archive
    assert archive is not None
    whole = archive.probes
    many = ProbeSet(whole.inputs.repeat(60, 1, 1, 1))
    rows = np.arange(180) % 3

    class Many(Archive):
        """The same maps for sixty times as many probes."""

        def record(self, index: int, *, keys: Any = None) -> Any:
            return super().record(index, keys=keys).part(rows.tolist())

    found = evolution_of(
        Many(archive._storage, archive.manifest),
        CamMonitor("gradcam", LAYERS, "gradcam", "predicted", "logit", Drawing()),
        many,
        {key: np.ones((180, 2), np.float32) for key in archive.record(0).maps},
        ended=True,
        rows=True,
    )
    assert {row.probe for row in found.rows} == {many.ids[place * 128 // 16 * 180 // 128] for place in range(16)}
    assert all(strip.pixels.size <= 3 * Drawing().max_sheet_pixels for strip in found.strips.values())


def test_a_run_whose_last_step_still_waits_has_its_report(tmp_path: Path) -> None:
    class Slow(MemorySink):
        def log(self, entry: Any) -> None:
            time.sleep(0.3)
            super().log(entry)

    slow = Slow()
    callback = GradCAMCallback(LAYERS, num_probes=3, sinks=[slow], on_error="raise")
    trainer(tmp_path, callbacks=callback, max_epochs=2).fit(TinyModule(), *loaders())
    assert (folder(callback) / "report.html").exists()
    assert len(slow.evolutions[-1].rows) == 3 * 2
