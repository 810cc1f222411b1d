"""Tests of the archive: what was written is read, whatever happened to the folder."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import threading
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from lightning_gradcam import Archive, ArchiveError, CamKey, CamRecord, LightningGradCAMError, ProbeSet
from lightning_gradcam.archive import ArchiveWriter, Manifest
from lightning_gradcam.archive.cam_file import parse_step_file_name
from lightning_gradcam.record.channel_record import ChannelRecord
from lightning_gradcam.render.scale import both_limits
from lightning_gradcam.storage import Storage

Array = npt.NDArray[np.float32]
SHAPES = {"conv1": [5, 4], "conv2": [2, 3]}
METHODS, TARGETS = ("gradcam", "mean"), ("predicted", "3")
COUNT = 4
KEY = CamKey("conv2", "mean", "3")


def probe_set(seed: int = 0) -> ProbeSet:
    inputs = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ProbeSet(inputs, labels=torch.arange(COUNT), class_names=("a", "b", "c", "d"), note="drawn")


def manifest(run: str = "first", **fields: Any) -> Manifest:
    return Manifest(
        **{
            "run": run,
            "name": "gradcam",
            "layers": tuple(SHAPES),
            "methods": METHODS,
            "targets": TARGETS,
            "score": "logit",
            "map_shapes": SHAPES,
            "fingerprint": probe_set().fingerprint,
            **fields,
        }
    )


def record(
    step: int = 10, epoch: int = 0, *, seed: int | None = None, maps: dict[CamKey, Array] | None = None
) -> CamRecord:
    generator = np.random.default_rng(step if seed is None else seed)
    keys = [CamKey(layer, method, target) for layer in SHAPES for method in METHODS for target in TARGETS]
    drawn = {key: generator.standard_normal((COUNT, *SHAPES[key.layer])).astype(np.float32) for key in keys}
    return CamRecord(
        epoch=epoch,
        step=step,
        stage="fit",
        score="logit",
        probe_ids=("0", "1", "2", "ü"),
        maps=MappingProxyType({**drawn, **(maps or {})}),
        scores=MappingProxyType({name: generator.standard_normal(COUNT).astype(np.float32) for name in TARGETS}),
        classes=MappingProxyType({"predicted": np.array([0, 1, 2, 3]), "3": np.array([3, 3, 3, -1])}),
        predicted=np.array([0, 1, 2, -1]),
        confidence=np.array([0.25, 1.0, 0.5, np.nan], np.float32),
    )


def started(path: Path | str, *steps: int, run: str = "first", **options: Any) -> ArchiveWriter:
    writer, remark = ArchiveWriter.start(str(path), manifest(run), probe_set(), **options)
    assert remark is None
    for epoch, step in enumerate(steps):
        writer.append(record(step, epoch))
    # As a recorder that is closed does: the tests keep their writers while others go on in the folder.
    writer.release()
    return writer


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder for archives, on the disk and in fsspec's memory."""
    if request.param == "local":
        yield str(tmp_path / "logs")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)


def one_map(tmp_path: Path, values: Array) -> Array:
    """What comes back of one map [COUNT, 2, 3] of the first key of conv2."""
    key = CamKey("conv2", "gradcam", "predicted")
    started(tmp_path / "a").append(record(maps={key: values}))
    return Archive.open(tmp_path / "a").maps("conv2", relu=False)[0]


# ---- round trip


def test_archive_gives_back_everything(root: str) -> None:
    started(f"{root}/gradcam", 10, 20)
    archive = Archive.open(f"{root}/gradcam")
    assert (archive.steps, archive.epochs) == ((10, 20), (0, 1))
    assert (archive.layers, archive.methods, archive.targets) == (tuple(SHAPES), METHODS, TARGETS)
    assert archive.probes.fingerprint == probe_set().fingerprint
    assert archive.probes.class_names == ("a", "b", "c", "d")
    assert archive.path == f"{root}/gradcam"
    for row, step in enumerate((10, 20)):
        for key, maps in record(step).maps.items():
            read = archive.maps(*key, relu=False)
            assert read.dtype == np.float32
            assert read.shape == (2, COUNT, *SHAPES[key.layer])
            top = np.abs(maps).max((1, 2), keepdims=True)
            assert (np.abs(read[row] - maps) <= top * 2.0**-11).all()


def test_record_gives_back_everything_of_a_step(root: str) -> None:
    written = record(20, 1)
    started(f"{root}/gradcam", 10, 20)
    read = Archive.open(f"{root}/gradcam").record(-1)
    for name in ("epoch", "step", "stage", "score", "probe_ids"):
        assert getattr(read, name) == getattr(written, name), name
    assert list(read.maps) == list(written.maps)
    assert all(type(key) is CamKey for key in read.maps)
    for name in TARGETS:
        assert np.array_equal(read.scores[name], written.scores[name])
        assert np.array_equal(read.classes[name], written.classes[name])
    assert np.array_equal(read.predicted, written.predicted)
    assert np.array_equal(read.confidence, written.confidence, equal_nan=True)


@pytest.mark.parametrize("magnitude", [1e-38, 1e-30, 1e-8, 1.0, 7e4, 1e30, 3e38])
def test_maps_keep_float16_precision_of_their_own_maximum(tmp_path: Path, magnitude: float) -> None:
    shares = np.random.default_rng(0).uniform(-1, 1, (COUNT, 2, 3)).astype(np.float32)
    shares[:, 0, 0] = [1, -1, 1, -1]
    maps = (shares * np.float32(magnitude)).astype(np.float32)
    maps[1] *= np.float32(1e-3)  # beside a larger one: each has a scale of its own
    top = np.abs(maps).max((1, 2), keepdims=True)
    read = one_map(tmp_path, maps)
    assert (np.abs(read.astype(np.float64) - maps) <= top * 2.0**-11).all()
    assert np.array_equal(read[:, 0, 0], maps[:, 0, 0])


def test_map_that_is_all_zero_stays_so(tmp_path: Path) -> None:
    maps = np.zeros((COUNT, 2, 3), np.float32)
    maps[2] = 1
    assert np.array_equal(one_map(tmp_path, maps), maps)


@pytest.mark.filterwarnings("error")
def test_not_finite_places_are_kept_and_spare_the_others(tmp_path: Path) -> None:
    maps = np.full((COUNT, 2, 3), 0.25, np.float32)
    maps[0, 0] = [np.nan, np.inf, -np.inf]
    maps[1] = np.nan
    read = one_map(tmp_path, maps)
    assert np.array_equal(read, maps, equal_nan=True)


@pytest.mark.parametrize("rest", [np.inf, 0.0], ids=["inf everywhere", "zeros beside it"])
def test_infinity_without_a_finite_magnitude_beside_it_is_kept(tmp_path: Path, rest: float) -> None:
    maps = np.full((COUNT, 2, 3), rest, np.float32)
    maps[:, 0, 0] = np.inf
    assert np.array_equal(one_map(tmp_path, maps), maps)


def test_relu_is_the_default_and_can_be_left_out(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    signed = archive.maps("conv1", relu=False)
    assert (signed < 0).any()
    assert np.array_equal(archive.maps("conv1"), np.maximum(signed, 0))
    assert np.array_equal(archive.maps("conv1", relu=False), signed)


def test_relu_keeps_nan(tmp_path: Path) -> None:
    maps = np.full((COUNT, 2, 3), -1, np.float32)
    maps[0, 0, 0] = np.nan
    one_map(tmp_path, maps)
    read = Archive.open(tmp_path / "a").maps("conv2")[0]
    assert np.isnan(read).sum() == 1
    assert np.nanmax(read) == 0


def test_first_configured_method_and_target_are_the_defaults(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    assert np.array_equal(archive.maps("conv1"), archive.maps("conv1", "gradcam", "predicted"))
    assert not np.array_equal(archive.maps("conv1"), archive.maps("conv1", "mean"))
    assert not np.array_equal(archive.maps("conv1"), archive.maps("conv1", target="3"))
    assert np.array_equal(archive.maps("conv1", target=3), archive.maps("conv1", target="3"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("conv",), r"layer: 'conv' is not in this archive; did you mean 'conv2|1'\? available: conv1, conv2"),
        (
            ("conv1", "gradcm"),
            r"method: 'gradcm' is not in this archive; did you mean 'gradcam'\? available: gradcam, mean",
        ),
        (("conv1", None, "label"), r"target: 'label' is not in this archive; .*available: predicted, 3"),
        (("conv1", None, 7), r"target: '7' is not in this archive; available: predicted, 3"),
    ],
)
def test_unknown_map_is_refused_with_the_choices(tmp_path: Path, arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ArchiveError, match=text):
        started(tmp_path / "a", 10).maps(*arguments)


def test_steps_are_in_the_order_of_their_numbers(root: str) -> None:
    writer = started(f"{root}/gradcam")
    for step, epoch in ((200, 1), (0, -1), (12_345_678_901, 30_000), (1000, 2), (99, 0)):
        writer.append(record(step, epoch))
    archive = Archive.open(f"{root}/gradcam")
    assert archive.steps == (0, 99, 200, 1000, 12_345_678_901)
    assert archive.epochs == (-1, 0, 1, 2, 30_000)
    assert [archive.record(i).epoch for i in range(5)] == [-1, 0, 1, 2, 30_000]
    assert np.array_equal(archive.maps("conv2", relu=False)[2], archive.record(2).maps["conv2", "gradcam", "predicted"])  # type: ignore[index]


def test_untrained_step_comes_before_the_first_epoch_of_the_same_step(tmp_path: Path) -> None:
    writer = started(tmp_path / "a")
    writer.append(record(0, 0))
    writer.append(record(0, -1))
    assert (writer.steps, writer.epochs) == ((0, 0), (-1, 0))


def test_same_step_logged_again_is_kept_beside_the_first(tmp_path: Path) -> None:
    writer = started(tmp_path / "a", 10)
    for seed in (77, 78):
        writer.append(record(10, 0, seed=seed))
    assert writer.steps == (10, 10, 10)
    for place, seed in ((1, 77), (2, 78)):
        expected = record(10, seed=seed).maps[CamKey("conv1", "gradcam", "predicted")]
        assert np.allclose(writer.maps("conv1", relu=False)[place], expected, atol=2e-3)


def test_reader_follows_the_writer(root: str) -> None:
    writer = started(f"{root}/gradcam", 10)
    archive = Archive.open(f"{root}/gradcam")
    writer.append(record(20, 1))
    assert archive.steps == (10, 20)
    assert archive.maps("conv1").shape[0] == 2


def test_archive_without_steps_opens_and_has_none(root: str) -> None:
    started(f"{root}/gradcam")
    archive = Archive.open(f"{root}/gradcam")
    assert (archive.steps, archive.epochs) == ((), ())
    assert archive.maps("conv1").shape == (0, COUNT, 5, 4)
    assert archive.maps("conv2", relu=False).dtype == np.float32
    with pytest.raises(ArchiveError, match="index: got -1; the archive has 0 steps"):
        archive.record(-1)


def test_a_record_of_some_maps_has_those_alone(root: str) -> None:
    started(f"{root}/gradcam", 10, 20)
    archive = Archive.open(f"{root}/gradcam")
    keys = [CamKey("conv2", "mean", "3"), CamKey("conv1", "gradcam", "predicted")]
    read = archive.record(1, keys=keys)
    assert list(read.maps) == keys[::-1]
    for key in keys:
        np.testing.assert_array_equal(read.maps[key], archive.maps(*key, relu=False)[1])
    np.testing.assert_array_equal(read.scores["3"], archive.record(1).scores["3"])
    assert archive.record(1, keys=[]).maps == {}
    with pytest.raises(ArchiveError, match="layer: 'conv3' is not in this archive"):
        archive.record(1, keys=[CamKey("conv3", "mean", "3")])


class CountingStorage(Storage):
    """Counts the bytes that are read of step files."""

    count = 0

    def open(self, name: str) -> BinaryIO:
        storage, whole = self, super().open(name)

        class Counting(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                found = super().read(size)
                storage.count += len(found)
                return found

        return Counting(whole.read())

    def read(self, name: str) -> bytes:
        data = super().read(name)
        self.count += len(data) if name.startswith("steps/") else 0
        return data


def test_what_asks_for_one_map_reads_that_maps_bytes(tmp_path: Path) -> None:
    layers = tuple(f"l{place}" for place in range(40))
    shapes = {layer: [30, 30] for layer in layers}
    stated = manifest(layers=layers, methods=("mean",), targets=("3",), map_shapes=shapes)
    writer, _ = ArchiveWriter.start(str(tmp_path / "a"), stated, probe_set())
    maps = {CamKey(layer, "mean", "3"): np.full((COUNT, 30, 30), i, np.float32) for i, layer in enumerate(layers)}
    for step in (10, 20):
        writer.append(dataclasses.replace(record(step), maps=maps))
    most = sum(path.stat().st_size for path in (tmp_path / "a" / "steps").iterdir()) / 10
    storage = CountingStorage(tmp_path / "a")
    archive = Archive(storage, stated)
    assert (archive.maps("l7") == 7).all()
    assert COUNT * 30 * 30 * 2 * 2 < storage.count < most
    storage.count = 0
    # Of the last step twice: every step is compared with it.
    assert archive.numbers("l7")["drift_to_last"].shape == (2, COUNT)
    assert storage.count < 1.5 * most


def test_what_asks_for_one_layers_channels_reads_that_layers_bytes(tmp_path: Path) -> None:
    layers = tuple(f"l{place}" for place in range(40))
    shapes = {layer: [2, 30, 30] for layer in layers}
    stated = manifest(kind="features", layers=layers, methods=(), targets=(), map_shapes=shapes)
    writer, _ = ArchiveWriter.start(str(tmp_path / "a"), stated, probe_set())
    shown = {layer: np.full((COUNT, 2, 30, 30), place, np.float32) for place, layer in enumerate(layers)}
    writer.append(ChannelRecord(0, 10, "fit", "features", tuple("abcd"), shown, dict.fromkeys(layers, (0, 1))))
    storage = CountingStorage(tmp_path / "a")
    assert (Archive(storage, stated).channels("l7") == 7).all()
    (step,) = (tmp_path / "a" / "steps").iterdir()
    assert COUNT * 2 * 30 * 30 * 2 < storage.count < step.stat().st_size / 10


@pytest.mark.parametrize("index", [2, -3])
def test_record_out_of_range_is_refused_with_the_count(tmp_path: Path, index: int) -> None:
    with pytest.raises(ArchiveError, match=f"index: got {index}; the archive has 2 steps"):
        started(tmp_path / "a", 10, 20).record(index)


def test_repr_says_place_steps_and_layers(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    assert f"Archive('{tmp_path}/a', 1 steps, layers ['conv1', 'conv2'])" in repr(archive)


# ---- the files


def test_manifest_states_what_the_contract_lists(tmp_path: Path) -> None:
    started(tmp_path / "a")
    stated = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert stated["schema"] == 1
    assert stated["layers"] == ["conv1", "conv2"]
    assert stated["methods"] == list(METHODS)
    assert stated["targets"] == list(TARGETS)
    assert (stated["score"], stated["name"], stated["run"], stated["parent"]) == ("logit", "gradcam", "first", None)
    assert stated["map_shapes"] == SHAPES
    assert stated["fingerprint"] == probe_set().fingerprint
    assert stated["versions"]["torch"] == torch.__version__
    assert {"lightning-gradcam", "torch", "python", "pytorch-lightning", "numpy"} <= set(stated["versions"])
    assert stated["created"].endswith("+00:00")


def test_folder_holds_nothing_but_the_named_files(tmp_path: Path) -> None:
    writer = started(tmp_path / "a", 469)
    writer.append(record(0, -1))
    files = sorted(
        path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*") if path.is_file()
    )
    assert files == [
        "manifest.json",
        "probes.npz",
        "steps/step-0000000000-epoch-untrained.npz",
        "steps/step-0000000469-epoch-0000.npz",
    ]


def test_no_file_holds_a_pickle(tmp_path: Path) -> None:
    started(tmp_path / "a", 10)
    for path in (tmp_path / "a").rglob("*.npz"):
        with zipfile.ZipFile(path) as file:
            assert all(name.endswith(".npy") for name in file.namelist())
        with np.load(path, allow_pickle=False) as file:
            assert all(file[name].dtype.kind != "O" for name in file.files)


def test_step_file_is_about_two_bytes_a_place(tmp_path: Path) -> None:
    large = {CamKey("conv1", "gradcam", "predicted"): np.random.default_rng(0).random((64, 14, 14)).astype(np.float32)}
    started(tmp_path / "a").append(record(10, maps=large))
    (step,) = (tmp_path / "a" / "steps").iterdir()
    assert step.stat().st_size < 2 * 64 * 14 * 14 + 10_000


def test_temporary_and_foreign_files_among_the_steps_are_passed_over(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    steps = tmp_path / "a" / "steps"
    (steps / ".step-0000000020-epoch-0001.npz.123.tmp").write_bytes(b"half")
    (steps / "step-0000000030-epoch-0002.npz.bak").write_bytes(b"")
    (steps / "notes.txt").write_text("mine")
    (steps / ".DS_Store").write_text("")
    (steps / "folder").mkdir()
    assert archive.steps == (10,)
    assert archive.maps("conv1").shape[0] == 1
    started(tmp_path / "a").rewind(5)
    assert sorted(os.listdir(steps)) == sorted(
        [
            ".step-0000000020-epoch-0001.npz.123.tmp",
            "step-0000000030-epoch-0002.npz.bak",
            "notes.txt",
            ".DS_Store",
            "folder",
        ]
    )


# ---- what can be wrong with a folder


@pytest.mark.parametrize("there", [True, False], ids=["empty folder", "no folder"])
def test_folder_without_manifest_is_refused_with_what_to_give(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "a").mkdir()
    with pytest.raises(
        ArchiveError, match=rf"no manifest.json in '{tmp_path}/a'; pass a run's folder <log dir>/<name>"
    ):
        Archive.open(tmp_path / "a")


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(ArchiveError, match="no manifest.json in"):
        Archive.open(tmp_path / "a")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '{"schema": 1}', '{"run": "x"}', "\x00\x01"], ids=repr)
def test_damaged_manifest_is_refused_by_place(tmp_path: Path, content: str) -> None:
    started(tmp_path / "a", 10)
    (tmp_path / "a" / "manifest.json").write_text(content)
    with pytest.raises(ArchiveError, match=f"the manifest in '{tmp_path}/a' is damaged"):
        Archive.open(tmp_path / "a")


def test_manifest_with_a_missing_field_is_refused(tmp_path: Path) -> None:
    started(tmp_path / "a", 10)
    path = tmp_path / "a" / "manifest.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in stated.items() if key != "fingerprint"}))
    with pytest.raises(ArchiveError, match="is damaged"):
        Archive.open(tmp_path / "a")


def test_what_a_later_version_adds_is_ignored(tmp_path: Path) -> None:
    written = started(tmp_path / "a", 10)
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1, "\x1b[2J": {"more": []}}))
    (step,) = (tmp_path / "a" / "steps").iterdir()
    with np.load(step) as file:
        meta = {**json.loads(file["meta"].tobytes()), "extra": 1}
    rewritten_step(step, extra=np.zeros(3), meta=np.frombuffer(json.dumps(meta).encode(), np.uint8))
    archive = Archive.open(tmp_path / "a")
    assert archive.manifest == written.manifest
    assert archive.record(0).step == 10
    assert archive.maps("conv1").shape == (1, COUNT, 5, 4)
    started(tmp_path / "a").append(record(20, 1))
    assert archive.steps == (10, 20)


def test_other_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    started(tmp_path / "a", 10)
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    with pytest.raises(ArchiveError, match="has schema 2, but this version reads 1; install the version that wrote it"):
        Archive.open(tmp_path / "a")
    with pytest.raises(ArchiveError, match="has schema 2"):
        started(tmp_path / "a")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.99])
def test_damaged_step_is_refused_by_name_and_the_rest_can_be_read(tmp_path: Path, share: float) -> None:
    archive = started(tmp_path / "a", 10, 20)
    path = tmp_path / "a" / "steps" / "step-0000000020-epoch-0001.npz"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert archive.steps == (10, 20)
    assert archive.record(0).step == 10
    for read in (lambda: archive.maps("conv1"), lambda: archive.record(1)):
        with pytest.raises(ArchiveError, match=r"steps/step-0000000020-epoch-0001\.npz is damaged .*delete that file"):
            read()
    path.unlink()
    assert archive.maps("conv1").shape[0] == 1


def test_flipped_bytes_in_a_step_never_raise_anything_else(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    (path,) = (tmp_path / "a" / "steps").iterdir()
    data = path.read_bytes()
    refused = 0
    for place in range(0, len(data), 23):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        path.write_bytes(bytes(broken))
        try:
            archive.record(0)
        except ArchiveError:
            refused += 1
    assert refused > 25


def rewritten_step(path: Path, **arrays: Any) -> None:
    with np.load(path, allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    buffer = io.BytesIO()
    np.savez(buffer, **{**content, **arrays})
    path.write_bytes(buffer.getvalue())


def test_step_with_maps_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    (path,) = (tmp_path / "a" / "steps").iterdir()
    rewritten_step(path, map0=np.zeros((COUNT, 9, 9), np.float16))
    with pytest.raises(ArchiveError, match=r"step-0000000010-epoch-0000\.npz"):
        archive.maps("conv1")


def test_damaged_probes_are_refused_by_place(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    path = tmp_path / "a" / "probes.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LightningGradCAMError, match=r"a/probes\.npz' is truncated or not a probe set"):
        _ = archive.probes


def test_missing_probes_are_an_error_of_this_package(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    (tmp_path / "a" / "probes.npz").unlink()
    with pytest.raises(LightningGradCAMError, match=r"probes\.npz"):
        _ = archive.probes


# ---- whose folder it is


def test_another_runs_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    started(tmp_path / "a", 10, 20)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with pytest.raises(ArchiveError) as caught:
        ArchiveWriter.start(str(tmp_path / "a"), manifest("second"), probe_set())
    text = str(caught.value)
    assert f"'{tmp_path}/a' belongs to another run (first, " in text
    for way_on in ("another log directory or version", "name=", "ckpt_path", "delete the folder"):
        assert way_on in text
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before


def test_another_runs_folder_is_refused_under_a_resumed_third_run_too(tmp_path: Path) -> None:
    started(tmp_path / "a", 10)
    parent = {"archive": str(tmp_path / "b"), "run": "third", "step": 10}
    with pytest.raises(ArchiveError, match="belongs to another run"):
        ArchiveWriter.start(str(tmp_path / "a"), manifest("second"), probe_set(), parent=parent)


def test_same_run_goes_on_in_its_folder(root: str) -> None:
    started(f"{root}/a", 10, 20)
    again = started(f"{root}/a")
    assert again.steps == (10, 20)
    again.append(record(30, 2))
    assert Archive.open(f"{root}/a").steps == (10, 20, 30)


def test_resumed_run_goes_on_in_its_parents_folder_from_the_checkpoint(root: str) -> None:
    started(f"{root}/a", 10, 20, 30)
    parent = {"archive": f"{root}/a", "run": "first", "step": 20}
    again = started(f"{root}/a", run="second", parent=parent)
    assert again.steps == (10, 20)
    assert again.manifest.run == "first"
    assert again.manifest.parent is None


def test_steps_stay_where_a_checkpoint_is_only_looked_at(tmp_path: Path) -> None:
    started(tmp_path / "a", 10, 20, 30)
    parent = {"archive": str(tmp_path / "a"), "run": "first", "step": 20}
    with pytest.raises(ArchiveError, match="belongs to another run"):
        started(tmp_path / "a", run="second", parent=parent, copy_steps=False)
    assert Archive.open(tmp_path / "a").steps == (10, 20, 30)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layers": ("conv1",)}, "layers"),
        ({"targets": ("label",), "score": "probability"}, "targets, score"),
        ({"map_shapes": {"conv1": [9, 9], "conv2": [2, 3]}}, "map_shapes"),
        ({"fingerprint": "0"}, "fingerprint"),
        ({"methods": ("mean", "gradcam")}, "methods"),
    ],
    ids=str,
)
def test_own_folder_with_another_configuration_is_refused_by_what_changed(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    started(tmp_path / "a", 10)
    with pytest.raises(
        ArchiveError, match=f"was started with different {named}, so nothing is written to it; choose another log"
    ):
        ArchiveWriter.start(str(tmp_path / "a"), manifest(**change), probe_set())


def test_name_and_versions_may_differ() -> None:
    assert manifest().differences(manifest("other", name="x", versions={"torch": "1"}, parent={"run": "y"})) == []


def test_whose_folder_it_is_is_read_again_only_where_the_manifest_changed(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = started(f"{root}/a", 10)
    read: list[str] = []
    reading = Storage.read

    def watched(self: Storage, name: str) -> bytes:
        read.append(name)
        return reading(self, name)

    monkeypatch.setattr(Storage, "read", watched)
    for step in (20, 30):
        writer.append(record(step))
    assert read == []
    Storage(f"{root}/a").write("manifest.json", writer.manifest.to_bytes())
    for step in (40, 50):
        writer.append(record(step))
    assert read == ["manifest.json"]
    Storage(f"{root}/a").write("manifest.json", manifest("second").to_bytes())
    for _ in range(2):
        with pytest.raises(ArchiveError, match=r"taken over by another run \(second\)"):
            writer.append(record(60))
    assert writer.steps == (10, 20, 30, 40, 50)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("steps", [(), (10,)], ids=["at the first step", "later"])
def test_a_manifest_that_could_not_be_opened_is_waited_for(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """A FIFO behaves as a network disk that does not answer: who opens it waits for ever."""
    writer = started(tmp_path / "a", *steps)
    path, aside = tmp_path / "a" / "manifest.json", tmp_path / "manifest.json"
    path.rename(aside)
    os.mkfifo(path)
    waiting = threading.Thread(target=writer.append, args=(record(20, 1),), daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    assert writer.steps == steps
    with pytest.raises(ArchiveError, match="can't be read .*FIFO, not a regular file"):
        Archive.open(tmp_path / "a")
    aside.replace(path)
    waiting.join(30)
    assert not waiting.is_alive()
    assert Archive.open(tmp_path / "a").steps == (*steps, 20)


def test_names_of_steps_are_taken_apart_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = started(tmp_path / "a", 10, 20)
    parsed: list[str] = []

    def watched(name: str) -> tuple[int, int, int] | None:
        parsed.append(name)
        return parse_step_file_name(name)

    monkeypatch.setattr("lightning_gradcam.archive.folder.parse_step_file_name", watched)
    for _ in range(5):
        assert archive.steps == (10, 20)
        assert archive.record(-1).step == 20
    assert len(parsed) <= 2
    archive.append(record(30, 2))
    assert archive.steps == (10, 20, 30)
    assert len(parsed) <= 5


# ---- taking over a parent's steps


def test_parents_steps_are_copied_up_to_the_checkpoints(root: str) -> None:
    started(f"{root}/a", 10, 20, 30)
    parent = {"archive": f"{root}/a", "run": "first", "step": 20}
    writer = started(f"{root}/b", run="second", parent=parent)
    writer.append(record(25, 2))
    archive = Archive.open(f"{root}/b")
    assert (archive.steps, archive.epochs) == ((10, 20, 25), (0, 1, 2))
    assert archive.manifest.parent == parent
    assert archive.manifest.run == "second"
    source = Archive.open(f"{root}/a")
    assert source.steps == (10, 20, 30)
    assert np.array_equal(archive.maps("conv1")[:2], source.maps("conv1")[:2])


def test_parents_steps_are_not_copied_where_not_asked(tmp_path: Path) -> None:
    started(tmp_path / "a", 10, 20)
    parent = {"archive": str(tmp_path / "a"), "run": "first", "step": 20}
    assert started(tmp_path / "b", run="second", parent=parent, copy_steps=False).steps == ()
    assert Archive.open(tmp_path / "b").manifest.parent == parent


def test_changed_layers_are_remarked_and_nothing_is_copied(tmp_path: Path) -> None:
    started(tmp_path / "a", 10, 20)
    parent = {"archive": str(tmp_path / "a"), "run": "first", "step": 20}
    changed = manifest("second", layers=("conv1",), map_shapes={"conv1": [5, 4]})
    writer, remark = ArchiveWriter.start(str(tmp_path / "b"), changed, probe_set(), parent=parent)
    assert remark == f"the earlier steps remain only in '{tmp_path}/a', because layers, map_shapes changed"
    assert writer.steps == ()
    assert writer.manifest.parent == parent


def test_missing_parent_is_remarked(tmp_path: Path) -> None:
    parent = {"archive": str(tmp_path / "gone"), "run": "first", "step": 20}
    writer, remark = ArchiveWriter.start(str(tmp_path / "b"), manifest("second"), probe_set(), parent=parent)
    assert remark is not None
    assert remark.startswith("the earlier steps could not be copied, so the record begins here (")
    assert f"{tmp_path}/gone" in remark
    assert writer.steps == ()


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / "steps").iterdir()}


def test_parents_steps_are_shared_and_either_archive_goes_on_by_itself(tmp_path: Path) -> None:
    first = started(tmp_path / "a", 10, 20, 30)
    parent = {"archive": str(tmp_path / "a"), "run": "first", "step": 20}
    second = started(tmp_path / "b", run="second", parent=parent)
    ours, theirs = inodes(tmp_path / "b"), inodes(tmp_path / "a")
    assert len(ours) == 2
    assert ours.items() <= theirs.items()
    second.append(record(20, 1, seed=1))
    second.rewind(10)
    second.append(record(20, 1, seed=2))
    assert first.steps == (10, 20, 30)
    key = CamKey("conv1", "gradcam", "predicted")
    np.testing.assert_allclose(first.record(1).maps[key], record(20).maps[key], atol=0.01)
    first.discard()
    assert second.record(0).step == 10


@pytest.mark.parametrize("cause", ["no links", "there already"])
def test_parents_steps_are_copied_where_they_can_not_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    started(tmp_path / "a", 10, 20)
    parent = {"archive": str(tmp_path / "a"), "run": "first", "step": 20}
    writer = started(tmp_path / "b", run="second", parent=parent, later=True)

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    if cause == "no links":
        monkeypatch.setattr(os, "link", refuse)
    else:
        writer.append(record(10, 0, seed=5))
    assert writer.take_over(parent) is None
    assert (writer.steps, writer.epochs) == ((10, 20), (0, 1))
    shared = set(inodes(tmp_path / "a").values()) & set(inodes(tmp_path / "b").values())
    assert len(shared) == (0 if cause == "no links" else 1)
    np.testing.assert_array_equal(writer.maps("conv2"), Archive.open(tmp_path / "a").maps("conv2"))
    assert not [name for name in os.listdir(tmp_path / "b" / "steps") if name.endswith("tmp")]


def test_taking_over_can_be_left_for_later(root: str) -> None:
    started(f"{root}/a", 10, 20, 30)
    parent = {"archive": f"{root}/a", "run": "first", "step": 20, "logged": 2}
    writer = started(f"{root}/b", run="second", parent=parent, later=True)
    assert Archive.open(f"{root}/b").steps == ()
    assert Archive.open(f"{root}/b").manifest.parent == {"archive": f"{root}/a", "run": "first", "step": 20}
    assert writer.take_over(parent) is None
    writer.append(record(20, 1))
    assert Archive.open(f"{root}/b").steps == (10, 20, 20)
    own = started(f"{root}/a", run="third", parent=parent, later=True)
    assert Archive.open(f"{root}/a").steps == (10, 20, 30)
    assert own.take_over(parent) is None
    assert Archive.open(f"{root}/a").steps == (10, 20)


@pytest.mark.parametrize("own", [True, False], ids=["own folder", "another folder"])
@pytest.mark.parametrize(
    ("step", "logged", "remark"),
    [
        (20, None, None),
        (20, 2, None),
        (-1, 0, None),
        (25, None, "step 25 is missing: it was not written before the process ended"),
        (25, 3, "step 25 is missing: it was not written before the process ended"),
        (20, 3, "2 of 3 logged steps were written before the process ended"),
        (25, 4, "2 of 4 logged steps were written before the process ended, step 25 is missing"),
    ],
)
def test_steps_that_were_logged_and_never_written_are_remarked(
    tmp_path: Path, own: bool, step: int, logged: int | None, remark: str | None
) -> None:
    started(tmp_path / "a", 10, 20, 30)
    parent = {"archive": str(tmp_path / "a"), "run": "first", "step": step, "logged": logged}
    folder = str(tmp_path / ("a" if own else "b"))
    writer, said = ArchiveWriter.start(folder, manifest("second"), probe_set(), parent=parent)
    assert said == remark
    assert writer.steps == (() if step < 0 else (10, 20))


def test_a_step_of_the_parent_that_can_not_be_read_costs_that_step_alone(tmp_path: Path) -> None:
    started(tmp_path / "a", 10, 20)
    broken = tmp_path / "a" / "steps" / "step-0000000010-epoch-0000.npz"
    broken.unlink()
    broken.mkdir()
    parent = {"archive": str(tmp_path / "a"), "run": "first", "step": 20}
    writer, remark = ArchiveWriter.start(str(tmp_path / "b"), manifest("second"), probe_set(), parent=parent)
    assert remark is not None
    assert remark.startswith("1 of 2 earlier steps could not be copied: step-0000000010-epoch-0000.npz can't be read (")
    assert writer.steps == (20,)


@pytest.mark.parametrize("step", [19, 20, 29, 30, 31])
def test_rewind_deletes_the_later_steps(root: str, step: int) -> None:
    writer = started(f"{root}/a", 10, 20, 30)
    writer.rewind(step)
    assert writer.steps == tuple(s for s in (10, 20, 30) if s <= step)


# ---- a run that was killed


def test_remains_of_a_killed_start_are_cleared(tmp_path: Path) -> None:
    started(tmp_path / "a", 10)
    (tmp_path / "a" / "manifest.json").unlink()
    (tmp_path / "a" / "steps" / ".step-0000000020-epoch-0001.npz.9.tmp").write_bytes(b"half")
    assert started(tmp_path / "a", run="second").steps == ()
    assert os.listdir(tmp_path / "a" / "steps") == []


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_foreign_files_are_spared_by_a_start(tmp_path: Path, folder: bool) -> None:
    foreign = tmp_path / "a" / "steps" / "notes"
    (foreign if folder else foreign.parent).mkdir(parents=True)
    if not folder:
        foreign.write_text("mine")
    started(tmp_path / "a")
    assert foreign.exists()


def test_manifest_appears_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Storage.write

    def watched(self: Storage, name: str, data: bytes) -> None:
        written.append(name)
        write(self, name, data)

    link = Storage.link

    def watched_link(self: Storage, name: str, source: Storage, theirs: str) -> bool:
        written.append(name)
        return link(self, name, source, theirs)

    started(tmp_path / "a", 10)
    monkeypatch.setattr(Storage, "write", watched)
    monkeypatch.setattr(Storage, "link", watched_link)
    started(tmp_path / "b", run="second", parent={"archive": str(tmp_path / "a"), "run": "first", "step": 10})
    assert written == ["steps/step-0000000010-epoch-0000.npz", "probes.npz", "manifest.json"]


# ---- numbers


def numbered(step: int) -> CamRecord:
    found = record(step)
    key = next(iter(found.maps))
    stats = {"drift": np.array([0.1, np.nan, 0.3, 0.4], np.float32), "entropy": np.arange(4, dtype=np.float32)}
    shares = {"predicted": np.array([0.25, 1.0, 0.5, np.nan], np.float32)}
    return dataclasses.replace(found, numbers={key: stats}, confidences=shares)


def test_numbers_are_kept_with_the_maps(tmp_path: Path) -> None:
    writer = started(tmp_path / "a")
    writer.append(numbered(10))
    back = Archive.open(tmp_path / "a").record(0)
    key = next(iter(back.maps))
    assert list(back.numbers) == [key]
    assert list(back.numbers[key]) == ["drift", "entropy"]
    for name, values in numbered(10).numbers[key].items():
        np.testing.assert_array_equal(back.numbers[key][name], values)
    np.testing.assert_array_equal(back.confidences["predicted"], [0.25, 1.0, 0.5, np.nan])
    assert "3" not in back.confidences


def test_a_record_without_numbers_comes_back_without(tmp_path: Path) -> None:
    started(tmp_path / "a", 10)
    back = Archive.open(tmp_path / "a").record(0)
    assert (dict(back.numbers), dict(back.confidences)) == ({}, {})


def test_part_of_a_record(tmp_path: Path) -> None:
    whole = numbered(10)
    part = whole.part([3, 1])
    assert part.probe_ids == ("ü", "1")
    for key, maps in whole.maps.items():
        np.testing.assert_array_equal(part.maps[key], maps[[3, 1]])
    key = next(iter(whole.maps))
    np.testing.assert_array_equal(part.numbers[key]["entropy"], [3.0, 1.0])
    np.testing.assert_array_equal(part.confidences["predicted"], [np.nan, 1.0])
    assert part.predicted.tolist() == [-1, 1]


# ---- what a resumed run goes on with


def with_limits(found: CamRecord, value: float) -> CamRecord:
    return dataclasses.replace(found, limits={key: np.full((COUNT, 2), value, np.float32) for key in found.maps})


def test_limits_are_kept_with_the_maps(root: str) -> None:
    values = np.array([[0, 1e-30], [1e-30, 3e38], [3e38, 0], [np.nan, 1]], np.float32)
    limits = {key: values + place for place, key in enumerate(record().maps)}
    written = dataclasses.replace(record(), limits=limits)
    started(f"{root}/a").append(written)
    archive = Archive.open(f"{root}/a")
    for found in (written, archive.record(0), archive.record(0, keys=list(limits)[2:4])):
        assert list(found.limits) == list(found.maps)
        for key, values in found.limits.items():
            np.testing.assert_array_equal(values, limits[key], strict=True)
            assert not values.flags.writeable
    np.testing.assert_array_equal(written.part([2, 0]).limits[KEY], limits[KEY][[2, 0]])
    next(iter(limits.values()))[:] = 7
    assert (next(iter(written.limits.values())) != 7).all()


def test_limits_of_some_of_the_maps_are_not_written(tmp_path: Path) -> None:
    started(tmp_path / "a").append(dataclasses.replace(record(), limits={KEY: np.ones((COUNT, 2), np.float32)}))
    assert Archive.open(tmp_path / "a").record(0).limits == {}


def test_one_file_tells_how_a_run_goes_on_where_it_has_the_limits(tmp_path: Path) -> None:
    writer = started(tmp_path / "a", 10)
    for epoch, step in enumerate((20, 30), 1):
        writer.append(with_limits(record(step, epoch), step))
    storage = CountingStorage(tmp_path / "a")
    last, limits, damaged = Archive(storage, writer.manifest).recall()
    assert isinstance(last, CamRecord)
    assert (last.step, damaged) == (30, [])
    assert set(limits) == set(last.maps)
    assert all((values == 30).all() for values in limits.values())
    (step,) = (tmp_path / "a" / "steps").glob("step-0000000030-*")
    assert storage.count < 1.5 * step.stat().st_size


def test_limits_of_steps_without_them_are_found_in_their_maps(tmp_path: Path) -> None:
    writer = started(tmp_path / "a", 10)
    writer.append(with_limits(record(20, 1), 0.5))
    writer.append(record(30, 2))
    last, limits, damaged = Archive.open(tmp_path / "a").recall()
    assert last is not None
    assert (last.step, damaged) == (30, [])
    maps = writer.maps(*KEY, relu=False)
    # Of so few places the 98th percentile is the largest.
    expected = np.stack([maps[2].max((1, 2)), np.abs(maps[2]).max((1, 2))], axis=1)
    np.testing.assert_array_equal(limits[KEY], np.maximum(0.5, expected))


def test_a_damaged_step_is_passed_over_and_named(tmp_path: Path) -> None:
    writer = started(tmp_path / "a")
    for epoch, step in enumerate((10, 20, 30)):
        writer.append(with_limits(record(step, epoch), step))
    (step,) = (tmp_path / "a" / "steps").glob("step-0000000030-*")
    step.write_bytes(b"PK")
    last, limits, damaged = Archive.open(tmp_path / "a").recall()
    assert last is not None
    assert last.step == 20
    assert (limits[KEY] == 20).all()
    assert len(damaged) == 1
    assert step.name in damaged[0]


def test_an_archive_without_steps_and_one_of_channels_are_recalled_too(tmp_path: Path) -> None:
    assert started(tmp_path / "a").recall() == (None, {}, [])
    stated = manifest(kind="features", methods=(), targets=(), map_shapes={"conv1": [1, 2, 2], "conv2": [1, 2, 2]})
    writer, _ = ArchiveWriter.start(str(tmp_path / "b"), stated, probe_set())
    maps = {layer: np.ones((COUNT, 1, 2, 2), np.float32) for layer in SHAPES}
    for step in (10, 20):
        writer.append(ChannelRecord(0, step, "fit", "features", tuple("abcd"), maps, dict.fromkeys(maps, (0,))))
    last, limits, damaged = writer.recall()
    assert isinstance(last, ChannelRecord)
    assert (last.step, limits, damaged) == (20, {}, [])


def test_an_archive_that_kept_each_maps_largest_value_is_read_and_continued(tmp_path: Path) -> None:
    """Written before `limits`, with `peaks`: two probes, two layers, two targets."""
    path = tmp_path / "a"
    shutil.copytree(Path(__file__).parent / "written_with_peaks", path)
    for step in (path / "steps").iterdir():
        assert {"peaks"} <= set(np.load(step).files)
    archive = Archive.open(path)
    last, limits, damaged = archive.recall()
    assert isinstance(last, CamRecord)
    assert (last.step, last.limits, damaged, set(limits)) == (4, {}, [], set(last.maps))
    for key, found in limits.items():
        np.testing.assert_array_equal(
            found, np.max([both_limits(maps) for maps in archive.maps(*key, relu=False)], axis=0)
        )
    # Of 64 places the second largest.
    key = CamKey("net.conv1", "gradcam", "label")
    second = np.sort(archive.maps(*key).reshape(2, 2, -1))[..., -2].max(0)
    np.testing.assert_array_equal(limits[key][:, 0], second)
    writer, remark = ArchiveWriter.start(str(path), archive.manifest, archive.probes)
    assert remark is None
    writer.append(dataclasses.replace(last, step=20, epoch=1, limits=limits))
    np.testing.assert_array_equal(Archive.open(path).recall()[1][key], limits[key])


def test_an_archive_of_version_0_1_0_is_read_and_continued(tmp_path: Path) -> None:
    """Its two steps were written by that version: two probes, two layers, two targets, numbers and gradients."""
    path = tmp_path / "a"
    shutil.copytree(Path(__file__).parent / "written_by_0_1_0", path)
    archive = Archive.open(path)
    assert (archive.steps, archive.epochs, archive.layers) == ((0, 10), (-1, 0), ("conv1", "relu2"))
    assert archive.probes.fingerprint == archive.manifest.fingerprint
    last, limits, damaged = archive.recall()
    assert isinstance(last, CamRecord)
    assert (last.step, last.limits, damaged, len(last.gradients)) == (10, {}, [], 4)
    np.testing.assert_array_equal(last.likeliest, [[1, 3, 0, 2, 4]] * 2)
    np.testing.assert_allclose(last.scores["predicted"], [0.05503459, 0.05670286])
    key = CamKey("conv1", "gradcam", "predicted")
    np.testing.assert_allclose(archive.maps(*key).max((0, 2, 3)), [6.3370157e-05, 7.7234511e-04], rtol=1e-6)
    np.testing.assert_array_equal(
        limits[key], np.max([both_limits(maps) for maps in archive.maps(*key, relu=False)], axis=0)
    )
    assert (limits[key] > 0).all()
    np.testing.assert_array_equal(archive.numbers(*key)["entropy"], [[0, 0], [10, 10]])
    writer, remark = ArchiveWriter.start(str(path), archive.manifest, archive.probes)
    assert remark is None
    writer.append(dataclasses.replace(last, step=20, epoch=1, limits=limits))
    assert Archive.open(path).record(-1).limits.keys() == limits.keys()
