"""Numbers and labelled arrays of an archive."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_gradcam import Archive, ArchiveError, CamKey, ConfigurationError
from lightning_gradcam.stats import drift
from tests.archive.test_archive import COUNT, SHAPES, TARGETS, record, started

KEY = CamKey("conv2", "gradcam", "3")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    writer = started(tmp_path / "a")
    for epoch, step in enumerate((10, 20, 30)):
        stats = {"entropy": np.full(COUNT, epoch, np.float32)}
        if epoch:
            stats["drift"] = np.full(COUNT, 0.5, np.float32)
        shares = {"3": np.full(COUNT, 0.25, np.float32)}
        metrics = {"val_loss": 1.0 / step} if epoch else {}
        kept = dataclasses.replace(record(step, epoch), numbers={KEY: stats}, confidences=shares, metrics=metrics)
        writer.append(kept)
    return Archive.open(tmp_path / "a")


def test_numbers_stand_by_step_and_probe(archive: Archive) -> None:
    found = archive.numbers("conv2", target=3)
    np.testing.assert_array_equal(found["entropy"], np.arange(3, dtype=np.float32)[:, None].repeat(COUNT, 1))
    assert np.isnan(found["drift"][0]).all()
    np.testing.assert_array_equal(found["drift"][1:], 0.5)
    np.testing.assert_array_equal(found["confidence"], 0.25)
    np.testing.assert_allclose(found["score"][1], archive.record(1).scores["3"])
    maps = archive.maps("conv2", target=3, relu=False)
    np.testing.assert_allclose(found["drift_to_last"][0], drift(maps[0], maps[2]), rtol=1e-6)
    np.testing.assert_allclose(found["drift_to_last"][2], 0, atol=1e-6)


def test_numbers_of_an_unknown_map_are_refused(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match="layer: 'conv9' is not in this archive"):
        archive.numbers("conv9")


def test_labelled_arrays_have_the_maps_and_numbers(archive: Archive) -> None:
    pytest.importorskip("xarray", reason="xarray is not installed")
    data = archive.to_xarray()
    assert data["conv2"].dims == ("step", "probe", "cam_method", "target", "conv2_y", "conv2_x")
    assert data["conv2"].shape == (3, COUNT, 2, 2, *SHAPES["conv2"])
    assert data.sizes["conv1_x"] == SHAPES["conv1"][1]
    for target in TARGETS:
        np.testing.assert_array_equal(
            data["conv1"].sel(cam_method="mean", target=target).values,
            archive.maps("conv1", "mean", target, relu=False),
        )
    np.testing.assert_allclose(data["conv2_x"].values, [1 / 6, 0.5, 5 / 6])
    assert data["epoch"].values.tolist() == [0, 1, 2]
    assert data["step"].values.tolist() == [10, 20, 30]
    entropy = data["entropy"].sel(layer="conv2", cam_method="gradcam", target="3")
    np.testing.assert_array_equal(entropy.values[:, 0], [0, 1, 2])
    assert np.isnan(data["entropy"].sel(layer="conv1")).all()
    assert data["label"].values.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(data["predicted"].values[0], [0, 1, 2, -1])
    np.testing.assert_array_equal(data["explained_class"].sel(target="3").values[0], [3, 3, 3, -1])
    np.testing.assert_array_equal(data["score"].sel(target="3").values[2], archive.record(2).scores["3"])
    np.testing.assert_array_equal(data["metrics"].sel(metric="val_loss"), [np.nan, 0.05, 1 / 30])
    assert data.attrs["fingerprint"] == archive.probes.fingerprint


def test_an_archive_without_steps_gives_empty_arrays(tmp_path: Path) -> None:
    pytest.importorskip("xarray", reason="xarray is not installed")
    started(tmp_path / "a")
    data = Archive.open(tmp_path / "a").to_xarray()
    assert (data.sizes["step"], data.sizes["probe"]) == (0, COUNT)
    assert Archive.open(tmp_path / "a").numbers("conv1") == {}


def test_missing_xarray_is_said(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-gradcam\[xarray\]'"):
        archive.to_xarray()
