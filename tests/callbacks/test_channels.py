"""Feature maps and filter patterns while a model trains: what is logged and kept, and that training is untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gradcam import (
    Archive,
    ArchiveError,
    CaptureError,
    ConfigurationError,
    DrawingError,
    FeatureMapCallback,
    FilterPatternCallback,
    GradCAMCallback,
    GridDrawing,
    LayerError,
    MemorySink,
    PatternDrawing,
    filter_patterns,
)
from lightning_gradcam.report import REPORT
from lightning_gradcam.tensorboard_plugin.places import places_of
from lightning_gradcam.tensorboard_plugin.runs import found
from tests.callbacks.test_purity import assert_all_same, run
from tests.children import warned
from tests.conftest import TinyModule, loaders, trainer
from tests.setups import SETUPS, Checkpointed, Setup

LAYERS = ["net.conv1", "net.relu2"]


def both(**options: Any) -> list[Any]:
    return [
        FeatureMapCallback(LAYERS, num_probes=3, **options),
        FilterPatternCallback(LAYERS, steps=3, filters=3, jitter=1, **options),
    ]


QUICK = ("dropout, batch norm, shuffling", "bf16-mixed", "weight averaging (EMA), listed after")
# The forward of these detaches its input, or takes bytes, and no gradient leads there: patterns refuse it at the start.
OTHERS = [name for name in SETUPS if name not in QUICK and "checkpointing" not in name and "byte images" not in name]


def same_bits(tmp_path: Path, name: str) -> None:
    setup = SETUPS[name]
    if setup.needs and not any(hasattr(place, setup.needs) for place in (pl.callbacks, torch.compiler)):
        pytest.skip(f"this Lightning or torch has no {setup.needs}")
    sink = MemorySink()
    ours = both(log_untrained=True, sinks=[sink], on_error="raise")
    with_ours = run(setup, tmp_path / "with", ours)
    without = run(setup, tmp_path / "without", [])
    tags = {tag for entry in sink.entries for tag in entry.pictures}
    assert {tag.split("/")[0] for tag in tags} == {"features", "patterns"}
    assert_all_same(without, with_ours)


@pytest.mark.parametrize("name", QUICK)
def test_training_ends_in_the_same_bits(tmp_path: Path, name: str) -> None:
    same_bits(tmp_path, name)


# Every third with the slow tests; which of them does not matter, since tests/callbacks/test_purity.py has all.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly if place % 3 else pytest.mark.slow)
        for place, name in enumerate(OTHERS)
    ],
)
def test_training_ends_in_the_same_bits_in_every_set_up(tmp_path: Path, name: str) -> None:
    same_bits(tmp_path, name)


def test_a_layer_without_a_way_back_to_the_input_is_refused(tmp_path: Path) -> None:
    callback = FilterPatternCallback("net.conv1")
    with pytest.raises(CaptureError, match="no gradient flows from 'net.conv1' back to the input"):
        trainer(tmp_path, callbacks=[callback]).fit(Checkpointed(), *loaders())


def test_training_ends_in_the_same_bits_when_looking_fails(tmp_path: Path) -> None:
    class Failing(TinyModule):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = super().forward(x)
            if not self.training and self.trainer.global_step > 0 and x.shape[0] in (1, 3):
                raise RuntimeError("the forward fails")
            return output

    ours = [FeatureMapCallback("net.conv1", num_probes=3)]
    without = run(Setup(), tmp_path / "without", [])
    with pytest.warns(UserWarning, match=r"(?s)explaining failed at step 4.*the forward fails"):
        with_ours = run(Setup(Failing), tmp_path / "with", ours)
    assert_all_same(without, with_ours)


def fitted(root: Path, callbacks: list[Any], epochs: int = 2, **options: Any) -> TinyModule:
    pl.seed_everything(0, verbose=False)
    module = TinyModule()
    settings = {"logger": CSVLogger(root), **options}
    trainer(root, callbacks=callbacks, max_epochs=epochs, **settings).fit(module, *loaders())
    return module


def test_feature_maps_are_what_the_layers_gave(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = FeatureMapCallback(LAYERS, num_probes=2, sinks=[sink], log_untrained=True, on_error="raise")
    module = fitted(tmp_path, [callback])
    archive, probes = callback.archive, callback.probes
    assert archive is not None
    assert probes is not None
    assert archive.manifest.kind == "features"
    assert archive.epochs == (-1, 0, 1)
    assert [sorted(entry.pictures) for entry in sink.entries] == [["features/net.conv1", "features/net.relu2"]] * 3
    kept: dict[str, torch.Tensor] = {}
    for layer in LAYERS:
        module.get_submodule(layer).register_forward_hook(
            lambda _module, _args, output, layer=layer: kept.__setitem__(layer, output.detach().clone())
        )
    module.eval()
    with torch.no_grad():
        module(probes.inputs)
    for layer in LAYERS:
        expected = kept[layer].numpy()
        found = archive.channels(layer)
        assert found.shape == (3, *expected.shape)
        np.testing.assert_allclose(found[-1], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    numbers = {tag: value for row in sink.numbers for tag, value in row.values.items() if row.step == 9}
    dead = int((kept["net.relu2"] == 0).flatten(2).all(2).all(0).sum())
    assert numbers["features_stats/net.relu2/dead"] == dead
    assert numbers["features_stats/net.relu2/dead_share"] == pytest.approx(dead / 3)
    assert (Path(archive.path) / REPORT).stat().st_size > 10_000


def test_filter_patterns_are_those_of_the_trained_weights(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = FilterPatternCallback(
        "net.conv1", filters=[2, 0], steps=4, sinks=[sink], every_n_epochs=2, on_error="raise"
    )
    module = fitted(tmp_path, [callback])
    archive, probes = callback.archive, callback.probes
    assert archive is not None
    assert probes is not None
    assert archive.manifest.kind == "patterns"
    assert archive.epochs == (1,)
    assert archive.channel_record(0).chosen == {"net.conv1": (2, 0)}
    shape = probes.inputs.shape[1:]
    expected = filter_patterns(module, "net.conv1", shape, filters=[2, 0], steps=4)["net.conv1"]
    found = archive.channels("net.conv1")
    assert found.shape == (1, 2, *shape)
    np.testing.assert_allclose(found[0], expected.pictures.numpy(), rtol=0, atol=2e-3)
    (numbers,) = [row.values for row in sink.numbers if "patterns_stats/net.conv1/activation" in row.values]
    reached = float(expected.activations.mean())
    assert numbers["patterns_stats/net.conv1/activation"] == pytest.approx(reached, rel=1e-4)


def test_all_three_callbacks_stand_side_by_side_in_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    callbacks = [*both(on_error="raise"), GradCAMCallback(LAYERS, on_error="raise")]
    fitted(tmp_path, callbacks, logger=logger)
    events = EventAccumulator(str(logger.log_dir), size_guidance={"images": 0})
    events.Reload()
    names = ("features", "gradcam", "patterns")
    assert {f"{name}/{layer}" for name in names for layer in LAYERS} <= set(events.Tags()["images"])
    scalars = set(events.Tags()["scalars"])
    assert {"features_stats/net.conv1/dead", "patterns_stats/net.relu2/activation", "features_stats/seconds"} <= scalars
    assert sorted(path.name for path in Path(logger.log_dir).iterdir() if (path / "manifest.json").exists()) == [*names]
    # The tab shows CAMs; the others have pages of their own.
    runs = found(places_of(str(tmp_path), None)).runs
    assert [run.folder.split("/")[-1] for run in runs.values()] == ["gradcam"]


def test_without_a_logger_the_sheets_are_files(tmp_path: Path) -> None:
    callback = FeatureMapCallback("net.conv1", on_error="raise")
    fitted(tmp_path, [callback], logger=False)
    assert callback.archive is not None
    files = sorted(Path(callback.archive.path, "sheets", "net.conv1").iterdir())
    assert [file.name for file in files] == ["step-0000000004-epoch-0000.png", "step-0000000009-epoch-0001.png"]
    with Image.open(files[0]) as image:
        assert min(image.size) > 100


def test_a_resumed_run_takes_the_earlier_steps_over(tmp_path: Path) -> None:
    def go(epochs: int, ckpt: str | None = None) -> list[Any]:
        callbacks = both(on_error="raise")
        keep = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1, enable_version_counter=False)
        running = trainer(
            tmp_path,
            callbacks=[*callbacks, keep],
            logger=CSVLogger(tmp_path),
            max_epochs=epochs,
            enable_checkpointing=True,
        )
        pl.seed_everything(0, verbose=False)
        running.fit(TinyModule(), *loaders(), ckpt_path=ckpt)
        return callbacks

    first = go(2)
    second = go(3, str(tmp_path / "kept" / "epoch=1.ckpt"))
    for before, after in zip(first, second, strict=True):
        assert after.probes.fingerprint == before.probes.fingerprint
        assert after.archive.epochs == (0, 1, 2)
        np.testing.assert_array_equal(after.archive.channels("net.conv1")[:2], before.archive.channels("net.conv1"))


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        ({"filters": 3}, "map_shapes, filters"),
        ({"filters": [2, 3]}, "filters"),
        ({"steps": 3, "value_range": (0, 2)}, "ascent"),
        ({"drawing": {"columns": 1}}, None),
    ],
)
def test_a_run_goes_on_only_with_the_filters_and_the_ascent_it_began_with(
    tmp_path: Path, other: dict[str, Any], changed: str | None
) -> None:
    def go(options: dict[str, Any], ckpt: str | None = None) -> FilterPatternCallback:
        callback = FilterPatternCallback("net.conv1", on_error="raise", **{"filters": 2, "steps": 2, **options})
        keep = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1, enable_version_counter=False)
        settings: dict[str, Any] = {"logger": CSVLogger(tmp_path), "enable_checkpointing": True}
        running = trainer(tmp_path, callbacks=[callback, keep], max_epochs=1 if ckpt is None else 2, **settings)
        running.fit(TinyModule(), *loaders(), ckpt_path=ckpt)
        return callback

    go({})
    with warned() as texts:
        resumed = go(other, str(tmp_path / "kept" / "epoch=0.ckpt"))
    assert resumed.archive is not None
    assert resumed.archive.epochs == ((0, 1) if changed is None else (1,))
    assert [text.split("', ")[-1] for text in texts] == ([] if changed is None else [f"because {changed} changed"])
    assert resumed.archive.channels("net.conv1").shape[1:] == (3 if other.get("filters") == 3 else 2, 1, 8, 8)


def test_an_archive_of_channels_has_no_maps_and_one_of_cams_no_channels(tmp_path: Path) -> None:
    features, cams = FeatureMapCallback("net.conv1"), GradCAMCallback("net.conv1")
    fitted(tmp_path, [features, cams], epochs=1)
    assert features.archive is not None
    assert cams.archive is not None
    opened = Archive.open(features.archive.path)
    with pytest.raises(ArchiveError, match="contains features, not CAMs; call channels"):
        opened.record(0)
    with pytest.raises(ArchiveError, match="'net.conv2' is not in this archive; did you mean 'net.conv1'"):
        opened.channels("net.conv2")
    with pytest.raises(ArchiveError, match="contains CAMs, not channels"):
        Archive.open(cams.archive.path).channel_record(0)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: FeatureMapCallback(num_probes=0), ConfigurationError, "num_probes: got 0"),
        (lambda: FeatureMapCallback(max_channels=0), ConfigurationError, "max_channels: got 0"),
        (lambda: FeatureMapCallback(name="a b"), ConfigurationError, "name: got 'a b'"),
        (lambda: FeatureMapCallback(drawing={"scal": 1}), ConfigurationError, "see lightning_gradcam.GridDrawing"),
        (lambda: GridDrawing(scale="chanel"), DrawingError, "did you mean 'channel'"),
        (lambda: FilterPatternCallback(filters=[-1]), ConfigurationError, "filters: got "),
        (lambda: FilterPatternCallback(filters="all"), ConfigurationError, "filters: got 'all'"),
        (lambda: FilterPatternCallback(steps=0), ConfigurationError, "steps: got 0"),
        (lambda: FilterPatternCallback(parametrisation="furier"), ConfigurationError, "did you mean 'fourier'"),
        (lambda: PatternDrawing(columns=0), DrawingError, "columns"),
    ],
)
def test_a_wrong_option_is_refused_by_the_constructor(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("callback", "match"),
    [
        (FeatureMapCallback("net.conv9"), "'net.conv9' not found; did you mean"),
        (FilterPatternCallback("net.conv1", filters=[99]), "99"),
        (FilterPatternCallback("net.head"), "net.head"),
    ],
)
def test_what_does_not_fit_the_model_fails_before_the_first_step(tmp_path: Path, callback: Any, match: str) -> None:
    module = TinyModule()
    with pytest.raises(LayerError, match=match):
        trainer(tmp_path, callbacks=[callback]).fit(module, *loaders())
    assert module.trainer.global_step == 0


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    callbacks = [FeatureMapCallback(name="x"), GradCAMCallback(name="x")]
    with pytest.raises(ConfigurationError, match="FeatureMapCallbacks and GradCAMCallbacks are named 'x'"):
        trainer(tmp_path, callbacks=callbacks).fit(TinyModule(), *loaders())
