"""Tests of the probe set: its checks, its fingerprint and its file."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_gradcam import ConfigurationError, ProbeError, ProbeFileError, ProbeSet


def pictures(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 6, 5, generator=torch.Generator().manual_seed(seed))


def full_set(dtype: torch.dtype = torch.float32) -> ProbeSet:
    """One with every field set to something that is not its default."""
    masks = torch.zeros(4, 6, 5, dtype=torch.bool)
    masks[1, 2:4, 1:3] = True
    return ProbeSet(
        (pictures() * 200).to(dtype),
        ids=("a/1.png", "b", "ü", "4"),
        labels=torch.tensor([2, 0, 1, 1]),
        masks=masks,
        class_names=("Hose", "pull\nover", "👢"),
        display=np.arange(4 * 6 * 5 * 3, dtype=np.uint8).reshape(4, 6, 5, 3),
        display_source="as I like it",
        indices=(7, 3, 11, 2),
        note="drawn garments",
    )


def rewritten(probes: ProbeSet, *, meta: dict[str, Any] | None = None, **arrays: Any) -> bytes:
    """The probe set's file with some of its content replaced."""
    with np.load(io.BytesIO(probes.to_bytes()), allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    content.update(arrays)
    if meta is not None:
        stated = {**json.loads(bytes(content["meta"])), **meta}
        content["meta"] = np.frombuffer(json.dumps(stated).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    return buffer.getvalue()


def test_ids_are_counted_where_not_given() -> None:
    probes = ProbeSet(pictures(3))
    assert probes.ids == ("0", "1", "2")
    assert len(probes) == 3


def test_fields_become_plain_cpu_types() -> None:
    probes = ProbeSet(
        pictures(2).requires_grad_(),
        ids=[5, 6],  # type: ignore[arg-type]
        labels=[1, 0],  # type: ignore[arg-type]
        masks=np.ones((2, 6, 5)),  # type: ignore[arg-type]
        class_names=["x", "y"],  # type: ignore[arg-type]
        indices=np.array([3, 9]),  # type: ignore[arg-type]
    )
    assert not probes.inputs.requires_grad
    assert probes.ids == ("5", "6")
    assert probes.labels is not None
    assert probes.labels.dtype == torch.int64
    assert probes.masks is not None
    assert probes.masks.dtype == torch.bool
    assert probes.class_names == ("x", "y")
    assert probes.indices == (3, 9)
    assert all(type(index) is int for index in probes.indices)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ids", ("a", "b", "c")),
        ("labels", torch.zeros(3)),
        ("masks", torch.zeros(3, 6, 5)),
        ("display", np.zeros((3, 6, 5, 3), np.uint8)),
        ("indices", (1, 2, 3)),
    ],
)
def test_wrong_length_is_refused_with_the_field_and_both_counts(field: str, value: Any) -> None:
    with pytest.raises(ProbeError, match=f"probes: got 3 {field} for 4 inputs; pass one for each"):
        ProbeSet(pictures(4), **{field: value})


def test_repeated_id_is_refused_by_name() -> None:
    with pytest.raises(ProbeError, match="the id 'b' is used more than once"):
        ProbeSet(pictures(3), ids=("a", "b", "b"))


def test_no_inputs_are_refused() -> None:
    with pytest.raises(ProbeError, match="got no inputs; pass at least one"):
        ProbeSet(torch.zeros(0, 1, 6, 5))


def test_errors_are_configuration_errors_and_value_errors() -> None:
    assert issubclass(ProbeError, (ConfigurationError))
    assert issubclass(ProbeError, ValueError)
    assert not issubclass(ProbeFileError, ValueError)


@pytest.mark.parametrize(("index", "name"), [(0, "Hose"), (2, "👢"), (3, "3"), (-1, "-1")])
def test_class_name_falls_back_to_the_index(index: int, name: str) -> None:
    assert full_set().class_name(index) == name


def test_class_name_without_names_is_the_index() -> None:
    assert ProbeSet(pictures(1)).class_name(7) == "7"


def test_display_defaults_to_stretched_inputs() -> None:
    inputs = torch.tensor([[[[-1.0, 1.0], [0.0, 3.0]]]])
    probes = ProbeSet(inputs)
    assert probes.pixels[0, :, :, 0].tolist() == [[0, 128], [64, 255]]
    assert probes.display_source == "each image min-max stretched"


def test_inputs_that_are_no_pictures_need_a_display_of_their_own() -> None:
    with pytest.raises(ProbeError, match=r"shape \[2, 3\].*its own display pixels"):
        ProbeSet(torch.zeros(2, 3))
    assert len(ProbeSet(torch.zeros(2, 3), display=np.zeros((2, 4, 4, 3), np.uint8))) == 2


def test_display_of_clips_defaults_to_their_stretched_frames() -> None:
    inputs = torch.tensor([-1.0, 1.0, 0.0, 3.0]).reshape(1, 1, 2, 1, 2)
    probes = ProbeSet(inputs)
    assert probes.pixels.shape == (1, 2, 1, 2, 3)
    assert probes.pixels[0, :, 0, :, 0].tolist() == [[0, 128], [64, 255]]
    assert probes.display_source == "each clip or volume min-max stretched"


@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (2, 9, 6, 5, 3), (2, 1, 6, 5, 3)])
def test_display_is_of_pictures_or_of_frames(shape: tuple[int, ...]) -> None:
    assert ProbeSet(pictures(2), display=np.zeros(shape, np.uint8)).pixels.shape == shape


@pytest.mark.parametrize(
    "shape", [(2, 6, 5), (2, 3, 6, 5), (2, 9, 6, 5, 4), (2, 1, 9, 6, 5, 3), (2, 0, 6, 5, 3), (2, 6, 0, 3)]
)
def test_display_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    came = ", ".join(map(str, shape))
    with pytest.raises(
        ProbeError, match=rf"got display pixels uint8 \[{came}\]; pass uint8 \[N, H, W, 3\], or.* \[N, T, H"
    ):
        ProbeSet(pictures(2), display=np.zeros(shape, np.uint8))


def test_display_of_clips_of_another_count_is_refused() -> None:
    with pytest.raises(ProbeError, match="got 3 display for 4 inputs"):
        ProbeSet(pictures(4), display=np.zeros((3, 2, 6, 5, 3), np.uint8))


def test_fingerprint_is_the_sha256_of_type_shape_and_bytes() -> None:
    inputs = pictures(2)
    expected = hashlib.sha256(b"torch.float32 [2, 1, 6, 5] " + inputs.numpy().tobytes()).hexdigest()
    assert ProbeSet(inputs).fingerprint == expected


def test_fingerprint_depends_on_inputs_alone() -> None:
    inputs = pictures()
    plain = ProbeSet(inputs).fingerprint
    dressed = ProbeSet(inputs, ids=tuple("abcd"), labels=torch.arange(4), note="x", indices=(4, 3, 2, 1)).fingerprint
    assert plain == dressed
    assert plain == ProbeSet(inputs.transpose(2, 3).contiguous().transpose(2, 3)).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        pictures(seed=1),
        pictures().double(),
        pictures().reshape(4, 1, 5, 6),
        pictures()[:3],
        pictures().flip(0),
        pictures().view(torch.int32),
    ],
    ids=["values", "type", "shape", "count", "order", "same bytes, other type"],
)
def test_fingerprint_changes_with_the_inputs(other: Tensor) -> None:
    assert ProbeSet(pictures()).fingerprint != ProbeSet(other).fingerprint


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64], ids=str
)
def test_file_gives_back_every_field(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = full_set(dtype)
    saved.save(tmp_path / "deep" / "er" / "probes.npz")
    loaded = ProbeSet.load(tmp_path / "deep" / "er" / "probes.npz")
    assert loaded.inputs.dtype == dtype
    assert torch.equal(loaded.inputs, saved.inputs)
    assert loaded.fingerprint == saved.fingerprint
    for name in ("ids", "class_names", "display_source", "indices", "note"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [2, 0, 1, 1]
    assert loaded.masks is not None
    assert loaded.masks.dtype == torch.bool
    assert torch.equal(loaded.masks, saved.masks)  # type: ignore[arg-type]
    assert np.array_equal(loaded.pixels, saved.pixels)


def test_file_gives_back_clips_with_their_frames(tmp_path: Path) -> None:
    saved = ProbeSet(torch.rand(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(0)))
    saved.save(tmp_path / "clips.npz")
    loaded = ProbeSet.load(tmp_path / "clips.npz")
    assert torch.equal(loaded.inputs, saved.inputs)
    assert loaded.pixels.shape == (2, 4, 6, 5, 3)
    assert np.array_equal(loaded.pixels, saved.pixels)
    assert loaded.fingerprint == saved.fingerprint


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int8, torch.bool], ids=str)
def test_file_gives_back_integer_inputs_of_any_width(dtype: torch.dtype) -> None:
    saved = ProbeSet((pictures() * 2).to(dtype))
    assert torch.equal(ProbeSet.from_bytes(saved.to_bytes()).inputs, saved.inputs)


def test_absent_fields_stay_absent(tmp_path: Path) -> None:
    ProbeSet(pictures()).save(tmp_path / "p.npz")
    loaded = ProbeSet.load(tmp_path / "p.npz")
    assert (loaded.labels, loaded.masks, loaded.class_names, loaded.indices) == (None, None, None, None)
    assert loaded.note == ""
    assert loaded.display_source == "each image min-max stretched"


def test_file_holds_no_pickle(tmp_path: Path) -> None:
    full_set(torch.bfloat16).save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        kinds = {name: file[name].dtype.kind for name in file.files}
    assert "O" not in kinds.values()
    assert set(kinds) == {"meta", "inputs", "display", "labels", "masks", "indices"}


def test_save_leaves_only_the_file(tmp_path: Path) -> None:
    full_set().save(tmp_path / "p.npz")
    ProbeSet(pictures(1)).save(tmp_path / "p.npz")
    assert os.listdir(tmp_path) == ["p.npz"]
    assert len(ProbeSet.load(tmp_path / "p.npz")) == 1


def test_interrupted_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_set().save(tmp_path / "p.npz")

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        ProbeSet(pictures(1)).save(tmp_path / "p.npz")
    assert ProbeSet.load(tmp_path / "p.npz").fingerprint == full_set().fingerprint


def test_failed_save_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "p.npz").mkdir()
    with pytest.raises(OSError, match=r"p\.npz"):
        full_set().save(tmp_path / "p.npz")
    assert os.listdir(tmp_path) == ["p.npz"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused_by_name(tmp_path: Path, share: float) -> None:
    data = full_set().to_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ProbeFileError, match=r"cut\.npz' is truncated or not a probe set .*save the probes again"):
        ProbeSet.load(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, np.random.default_rng(0).bytes(4096), b"PK\x03\x04" + b"x" * 90]
)
def test_foreign_bytes_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "noise.npz").write_bytes(content)
    with pytest.raises(ProbeFileError, match=r"noise\.npz' is truncated or not a probe set"):
        ProbeSet.load(tmp_path / "noise.npz")


def test_pickled_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", meta=np.array([{"schema": 1}], dtype=object))
    with pytest.raises(ProbeFileError, match="truncated or not a probe set"):
        ProbeSet.load(tmp_path / "p.npz")
    torch.save({"inputs": pictures()}, tmp_path / "p.pt")
    with pytest.raises(ProbeFileError, match=r"p\.pt' is truncated or not a probe set"):
        ProbeSet.load(tmp_path / "p.pt")


def test_flipped_bytes_are_refused_or_change_no_input() -> None:
    probes = ProbeSet(pictures())
    data, refused = probes.to_bytes(), 0
    for place in range(0, len(data), 3):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        try:
            assert torch.equal(ProbeSet.from_bytes(bytes(broken)).inputs, probes.inputs)
        except ProbeFileError:
            refused += 1
    assert refused > len(data) / 3 / 2


def test_other_schema_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        ProbeFileError, match=r"'old\.npz' has schema 99, but this version reads 1; save the probes again"
    ):
        ProbeSet.from_bytes(rewritten(full_set(), meta={"schema": 99}), name="old.npz")


@pytest.mark.parametrize("dtype", ["torch.complex32", "object", "torch.nn"])
def test_unknown_input_type_is_refused(dtype: str) -> None:
    with pytest.raises(ProbeFileError, match="truncated or not a probe set"):
        ProbeSet.from_bytes(rewritten(full_set(), meta={"dtype": dtype}))


def test_inputs_that_differ_from_their_fingerprint_are_refused() -> None:
    changed = full_set().inputs.numpy().copy()
    changed[0, 0, 0, 0] += 1
    with pytest.raises(ProbeFileError, match="'p' is damaged: its inputs do not match its fingerprint"):
        ProbeSet.from_bytes(rewritten(full_set(), inputs=changed), name="p")


def test_file_with_fields_of_other_lengths_is_refused() -> None:
    with pytest.raises(ProbeFileError, match="got 3 labels for 4 inputs"):
        ProbeSet.from_bytes(rewritten(full_set(), labels=np.zeros(3, np.int64)))


@pytest.mark.parametrize("there", [False, True], ids=["missing", "a folder"])
def test_path_that_is_no_file_is_refused_by_name(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "nothing.npz"
    if there:
        path.mkdir()
    with pytest.raises(ProbeFileError, match=r"nothing\.npz' can't be read \(.+\); check the path"):
        ProbeSet.load(path)


def test_repr_says_count_shape_and_fingerprint() -> None:
    probes = full_set()
    assert repr(probes) == f"ProbeSet(4 inputs [1, 6, 5], fingerprint {probes.fingerprint[:12]})"


def test_float_display_pixels_are_refused_or_converted() -> None:
    try:
        probes = ProbeSet(pictures(1), display=np.full((1, 6, 5, 3), 0.5))  # type: ignore[arg-type]
    except ProbeError:
        return
    assert probes.pixels.dtype == np.uint8
    assert abs(int(probes.pixels[0, 0, 0, 0]) - 128) <= 1
