"""Files from anyone: whatever bytes come, the readers answer with an error of ours or a sound object."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

import lightning_gradcam.npz
from lightning_gradcam import (
    Archive,
    ArchiveError,
    CamKey,
    CamRecord,
    LightningGradCAMError,
    ProbeFileError,
    ProbeSet,
)
from lightning_gradcam.archive import Manifest
from lightning_gradcam.archive.cam_file import packed_cams, parse_step_file_name, unpacked_cams
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.sheets.cam_sheet import sheet
from tests.archive.test_archive import COUNT, SHAPES, manifest, probe_set, record, started

# It would leave a folder in the working directory.
set_hypothesis_home_dir(Path(tempfile.gettempdir(), "lightning-gradcam-hypothesis"))

MEGABYTE = 2**20
STEP = packed_cams(record())
PROBES = ProbeSet(
    torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)),
    ids=("a", "ü", "\ud800"),
    labels=torch.tensor([0, 1, 1]),
    masks=torch.ones(3, 4, 5, dtype=torch.bool),
    class_names=("cat", "dog"),
    indices=(5, 6, 7),
    note="drawn",
).to_bytes()
MANIFEST = manifest(parent={"archive": "a", "run": "b", "step": 3}).stamped(None).to_bytes()


def few(**options: Any) -> Any:
    return settings(
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **{"max_examples": 200, **options},
    )


# ---- what may come out


def outcome(read: Callable[[], Any], ours: type[Exception]) -> tuple[Any, str]:
    try:
        return read(), ""
    except ours as error:
        return None, str(error)


def read_step(data: bytes) -> None:
    """As `Archive` reads it: any error is one of ours there."""
    try:
        found = unpacked_cams(data)
    except Exception:
        return
    assert isinstance(found, CamRecord)
    count = len(found.probe_ids)
    assert all(isinstance(name, str) for name in (*found.probe_ids, found.stage, found.score, *found.scores))
    assert type(found.epoch) is int
    assert type(found.step) is int
    for key, maps in found.maps.items():
        assert type(key) is CamKey
        assert all(isinstance(name, str) for name in key)
        assert maps.dtype == np.float32
        assert maps.ndim >= 2
        assert len(maps) == count
    arrays = [*found.scores.values(), *found.classes.values(), found.predicted, found.confidence]
    assert all(array.shape == (count,) for array in arrays)
    assert set(found.scores) == set(found.classes)


def read_probes(data: bytes) -> None:
    found, error = outcome(lambda: ProbeSet.from_bytes(data, name="p.npz"), ProbeFileError)
    if found is None:
        assert "p.npz" in error
        assert len(error) < 600
        return
    assert len(found.ids) == len(found.inputs) == len(found.pixels) > 0
    names = (*found.ids, *(found.class_names or ()), found.note, found.display_source)
    assert all(isinstance(name, str) for name in names)
    assert found.labels is None or (found.labels.dtype == torch.int64 and found.labels.dim() in (1, 2))
    assert found.masks is None or found.masks.dtype == torch.bool
    assert found.indices is None or all(type(index) is int for index in found.indices)
    assert len(found.fingerprint) == 64


def read_manifest(data: bytes) -> None:
    found, error = outcome(lambda: Manifest.parse(data, "place"), ArchiveError)
    if found is None:
        assert "place" in error
        assert len(error) < 600
        return
    assert all(isinstance(name, str) for name in (*found.layers, *found.methods, *found.targets))
    assert all(isinstance(name, str) for name in (found.run, found.name, found.score, found.fingerprint, found.created))
    assert isinstance(found.map_shapes, Mapping)
    assert Manifest.parse(found.to_bytes(), "again") == found


READERS = {"step": (STEP, read_step), "probes": (PROBES, read_probes), "manifest": (MANIFEST, read_manifest)}
EACH = pytest.mark.parametrize("kind", READERS)


# ---- broken bytes


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """A few bytes flipped, cut, repeated or inserted, one after the other."""

    def apply(changes: list[tuple[str, float, int, bytes]]) -> bytes:
        data = bytearray(valid)
        for what, share, length, content in changes:
            at = int(share * len(data))
            if what == "flip":
                data[at : at + len(content)] = bytes(a ^ b for a, b in zip(data[at:], content, strict=False))
            elif what == "cut":
                del data[at : at + length]
            elif what == "repeat":
                data[at:at] = data[at : at + length]
            elif what == "insert":
                data[at:at] = content
            else:
                del data[at:]
        return bytes(data)

    what = st.sampled_from(["flip", "flip", "flip", "cut", "repeat", "insert", "end"])
    change = st.tuples(what, st.floats(0, 1), st.integers(1, 400), st.binary(min_size=1, max_size=8))
    return st.lists(change, min_size=1, max_size=4).map(apply)


def broken(examples: int, kind: str) -> None:
    valid, read = READERS[kind]

    @few(max_examples=examples)
    @given(st.one_of(mutated(valid), st.binary(max_size=300), st.binary(max_size=60).map(valid[:30].__add__)))
    def check(data: bytes) -> None:
        read(data)

    check()


@EACH
def test_broken_bytes_give_an_error_of_ours_or_a_sound_object(kind: str) -> None:
    broken(300, kind)


@pytest.mark.slow
@EACH
def test_many_more_broken_bytes_do_so_too(kind: str) -> None:
    broken(3500, kind)


@EACH
def test_unbroken_bytes_are_read(kind: str) -> None:
    valid = READERS[kind][0]
    assert {"step": unpacked_cams, "probes": ProbeSet.from_bytes, "manifest": lambda raw: Manifest.parse(raw, "p")}[
        kind
    ](valid)


# ---- whole files with wrong content

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, -1, 10**400, float("nan"), float("inf"), 1.0, "", "\ud800", "torch.float64"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DTYPES = st.sampled_from(
    ["|u1", "<f2", "<f4", "<f8", ">f4", "<i8", "|b1", "|O", "<U9", "|S3", "|V8", "<M8[s]", "<c8", "<f16", "<u8"]
)
SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, COUNT, -1, 2**31, 2**40, 2**62, 2**70, True])


def npz(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}


def header(text: str) -> bytes:
    raw = text.encode("utf-8", "replace") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(raw), 65535)) + raw


def npy(shape: Any, dtype: Any, content: bytes, *, fortran: Any = False) -> bytes:
    return header(str({"descr": dtype, "fortran_order": fortran, "shape": shape})) + content


def npy_of(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def meta_of(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        stated: dict[str, Any] = json.loads(bytes(file["meta"]))
    return stated


def with_meta(data: bytes, stated: str | bytes) -> bytes:
    raw = stated.encode() if isinstance(stated, str) else stated
    return npz({**members_of(data), "meta": npy_of(np.frombuffer(raw, np.uint8))}, zipfile.ZIP_DEFLATED)


ARRAYS = st.one_of(
    st.builds(npy, st.lists(SIZES, max_size=6).map(tuple), DTYPES, st.binary(max_size=200), fortran=st.booleans()),
    st.builds(npy, JSON, JSON.map(lambda value: value or "<f4"), st.just(b"")),
    st.builds(
        lambda shape, dtype: npy_of(np.zeros(shape, dtype)),
        st.lists(st.integers(0, 4), max_size=5),
        st.sampled_from(["u1", "f2", "f4", "f8", "i8", "?", "i2", "U3"]),
    ),
    st.binary(max_size=50),
    st.binary(max_size=50).map(header(""[:0]).__add__),
)


def wrong_content(examples: int, kind: str) -> None:
    valid, read = READERS[kind]
    stated = json.loads(valid) if kind == "manifest" else meta_of(valid)

    @few(max_examples=examples)
    @given(st.dictionaries(st.sampled_from([*stated, "more"]), JSON, max_size=2), st.booleans())
    def check_meta(changes: dict[str, Any], removed: bool) -> None:
        kept = {key: value for key, value in stated.items() if not (removed and key in changes)}
        raw = json.dumps(kept if removed else {**stated, **changes})
        read(raw.encode() if kind == "manifest" else with_meta(valid, raw))

    check_meta()
    if kind == "manifest":
        return
    members = members_of(valid)

    @few(max_examples=examples)
    @given(st.dictionaries(st.sampled_from([*members, "more"]), ARRAYS, min_size=1, max_size=3), st.booleans())
    def check_arrays(changes: dict[str, bytes], deflated: bool) -> None:
        read(npz({**members, **changes}, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED))

    check_arrays()


@EACH
def test_wrong_entries_give_an_error_of_ours_or_a_sound_object(kind: str) -> None:
    wrong_content(250, kind)


@pytest.mark.slow
@EACH
def test_many_more_wrong_entries_do_so_too(kind: str) -> None:
    wrong_content(1700, kind)


def test_any_manifest_that_opens_gives_maps_or_an_error_of_ours(tmp_path: Path) -> None:
    started(tmp_path / "a", 10, 20)
    path = tmp_path / "a" / "manifest.json"
    stated = json.loads(path.read_text())
    shapes = st.dictionaries(
        st.sampled_from([*SHAPES, "conv1/gradcam", "model/gradcam", "x"]), st.lists(SIZES, max_size=5), max_size=3
    )
    names = st.lists(st.sampled_from(["conv1", "gradcam", "mean", "predicted", "", "x\x1b[2J"]), max_size=3)

    @few()
    @given(st.fixed_dictionaries({}, optional={"map_shapes": shapes, "layers": names, "methods": names}))
    def check(changes: dict[str, Any]) -> None:
        path.write_text(json.dumps({**stated, **changes}))
        try:
            archive = Archive.open(tmp_path / "a")
        except ArchiveError:
            return
        for layer in (*archive.layers, "conv1"):
            for method in (None, *archive.methods):
                try:
                    maps = archive.maps(layer, method)
                except ArchiveError:
                    continue
                assert maps.shape == (2, COUNT, *SHAPES[layer])

    check()


def test_probes_that_can_be_read_can_be_drawn() -> None:
    @few(max_examples=60)
    @given(st.dictionaries(st.sampled_from(["labels", "masks", "display", "indices"]), ARRAYS, min_size=1, max_size=2))
    def check(changes: dict[str, bytes]) -> None:
        try:
            probes = ProbeSet.from_bytes(npz({**members_of(PROBES), **changes}))
        except ProbeFileError:
            return
        key = CamKey("conv1", "gradcam", "predicted")
        drawn = record(maps={key: np.ones((COUNT, 2, 2), np.float32)})
        sheet(drawn, probes, layer="conv1", method="gradcam", drawing=Drawing(), title="gradcam")

    check()


@pytest.mark.parametrize("digits", ["²", "٣", "1" * 20, "1" * 10_000, "-1", " 1", "1_0"])
def test_odd_numbers_in_a_steps_name_are_no_steps(digits: str) -> None:
    assert parse_step_file_name(f"step-{digits}-epoch-0000.npz") is None


def test_json_that_is_nested_deeply_or_long_is_refused() -> None:
    for raw in (
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        '{"schema": ' + "9" * 100_000 + "}",
        '{"schema": 1e999}',
        '{"schema": NaN}',
        '{"schema": "' + "x" * 100_000 + '"}',
        '{"schema": 1, "\x1b[2J": 1}',
        b"\xff\xfe{\x00}\x00",
        b"\x80",
    ):
        data = raw.encode() if isinstance(raw, str) else raw
        with pytest.raises(ArchiveError) as caught:
            Manifest.parse(data, "place")
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()
        for valid, read in ((STEP, unpacked_cams), (PROBES, ProbeSet.from_bytes)):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                read(with_meta(valid, data))
            assert len(str(caught.value)) < 600
            assert str(caught.value).isprintable()


@EACH
def test_the_last_of_two_equal_keys_counts_as_in_json_elsewhere(kind: str) -> None:
    valid, read = READERS[kind]
    stated = json.dumps(json.loads(valid) if kind == "manifest" else meta_of(valid))
    for first, last in (("1", "99"), ("99", "1")):
        twice = '{"schema": ' + first + "," + stated[1:].replace('"schema": 1', f'"schema": {last}')
        data = twice.encode() if kind == "manifest" else with_meta(valid, twice)
        readers: dict[str, Callable[[bytes], Any]] = {
            "step": unpacked_cams,
            "probes": ProbeSet.from_bytes,
            "manifest": lambda raw: Manifest.parse(raw, "place"),
        }
        if last == "1":
            assert readers[kind](data)
        else:
            with pytest.raises((LightningGradCAMError, ValueError), match="schema 99"):
                readers[kind](data)
        read(data)


# ---- bombs


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        read(data)
    assert not isinstance(caught.value, MemoryError)


def zeros(size: int) -> bytes:
    """`size` bytes of zero, a whole number of megabytes, as a deflate stream; a thousandth as long, at once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size // MEGABYTE) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def zipped(name: str, stream: bytes, claimed: int, *, method: int = 8, beside: Mapping[str, bytes] = {}) -> bytes:
    """A zip file with one member as it is given, whatever it claims to hold, behind sound ones."""
    buffer = io.BytesIO(npz({key: value for key, value in beside.items() if f"{key}.npy" != name}))
    with zipfile.ZipFile(buffer, "a") as file:
        file.start_dir = start = file.start_dir
        info = zipfile.ZipInfo(name)
        info.compress_type, info.CRC = method, 0
        info.file_size, info.compress_size, info.header_offset = claimed, len(stream), start
        assert file.fp is not None
        file.fp.seek(start)
        file.fp.write(info.FileHeader(zip64=False) + stream)
        file.start_dir = file.fp.tell()
        file.filelist.append(info)
        file.NameToInfo[name] = info
        file._didModify = True
    return buffer.getvalue()


def stored_bombs(size: int) -> dict[str, tuple[bytes, int]]:
    """Members as a deflate stream, and how much each claims to hold: it does so, or claims it alone."""
    start = npy((size,), "|u1", b"")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    return {
        "it holds them": (head + zeros(size), len(start) + size),
        "it claims them": (head + zeros(0), len(start) + size),
        "it is no array": (zeros(size), size),
    }


BOMBED = pytest.mark.parametrize(("kind", "member"), [("step", "map0"), ("step", "meta"), ("probes", "inputs")])
TRUSTING: dict[str, Callable[[bytes], object]] = {"step": unpacked_cams, "probes": ProbeSet.from_bytes}


@BOMBED
@pytest.mark.parametrize("bomb", ["it holds them", "it claims them", "it is no array"])
def test_a_member_of_gigabytes_is_refused_before_anything_is_allocated(kind: str, member: str, bomb: str) -> None:
    valid = READERS[kind][0]
    for suffix in (".npy", ""):
        data = zipped(member + suffix, *stored_bombs(3 * 2**30)[bomb], beside=members_of(valid))
        assert len(data) < 5 * MEGABYTE
        assert peak(lambda data=data: refused(TRUSTING[kind], data)) < 3 * len(data) + 8 * MEGABYTE  # type: ignore[misc]


@pytest.mark.parametrize("kind", TRUSTING)
def test_text_of_many_megabytes_is_refused_before_it_is_parsed(kind: str) -> None:
    text = b"[" + b"[]," * (20 * MEGABYTE) + b"[]]"
    data = with_meta(READERS[kind][0], text)
    assert len(data) < MEGABYTE
    assert peak(lambda: refused(TRUSTING[kind], data)) < 60 * MEGABYTE


@pytest.mark.parametrize("kind", TRUSTING)
def test_a_stored_member_that_claims_more_than_the_file_is_refused(kind: str) -> None:
    member = {"step": "map0", "probes": "inputs"}[kind]
    data = zipped(f"{member}.npy", npy((2**31,), "|u1", b"x" * 50), 2**31 + 128, method=0, beside=members_of(STEP))
    assert peak(lambda: refused(TRUSTING[kind], data)) < 8 * MEGABYTE


@BOMBED
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2**40,), "<f4"),
        ((2**62, 2**62), "<f4"),
        ((2**28,), "<f2"),
        ((0, 2**70), "<f4"),
        ((-1,), "<f4"),
        ((-4, -25), "|u1"),
        ((1,), "<U300000000"),
        ((1,), "|V2000000000"),
        ((3,), "|O"),
        ((4,), [("a", "<f4"), ("b", "|O")]),
        ((4,), [("a", "<f4", (2**20, 2**10))]),
        ("x", "<f4"),
        ((1.5,), "<f4"),
        ((1,) * 70, "<f4"),
    ],
    ids=str,
)
def test_a_header_that_claims_more_than_its_member_has_is_refused(
    kind: str, member: str, shape: Any, dtype: Any
) -> None:
    data = npz({**members_of(READERS[kind][0]), member: npy(shape, dtype, bytes(100))})
    assert peak(lambda: refused(TRUSTING[kind], data)) < 8 * MEGABYTE


@BOMBED
@pytest.mark.parametrize("text", ["(" * 9000, "[" * 60_000, "{" * 500, "-" * 9000 + "1", "9" * 9000, "", "{}", "\x00"])
def test_a_header_that_is_hard_to_parse_is_refused(kind: str, member: str, text: str) -> None:
    data = npz({**members_of(READERS[kind][0]), member: header(text)})
    assert peak(lambda: refused(TRUSTING[kind], data)) < 16 * MEGABYTE


@pytest.mark.parametrize("kind", TRUSTING)
def test_members_that_lie_upon_each_other_are_refused(kind: str) -> None:
    content = npy((90 * MEGABYTE,), "|u1", b"")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(90 * MEGABYTE)
    buffer = io.BytesIO(zipped("a.npy", stream, len(content) + 90 * MEGABYTE, beside=members_of(READERS[kind][0])))
    with zipfile.ZipFile(buffer, "a") as file:
        first = file.getinfo("a.npy")
        for place in range(500):
            again = zipfile.ZipInfo(f"b{place}.npy")
            for name in ("compress_type", "CRC", "file_size", "compress_size", "header_offset"):
                setattr(again, name, getattr(first, name))
            file.filelist.append(again)
        file._didModify = True
    data = buffer.getvalue()
    assert len(data) < MEGABYTE
    assert peak(lambda: refused(TRUSTING[kind], data)) < 16 * MEGABYTE


def test_probes_that_compress_like_a_bomb_are_stored_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = ProbeSet(torch.zeros(2, 3, 256, 256), display=np.zeros((2, 1, 1, 3), np.uint8))
    assert len(flat.to_bytes()) < flat.inputs.nbytes / 100
    monkeypatch.setattr(lightning_gradcam.npz, "_ROOM", MEGABYTE)
    data = flat.to_bytes()
    assert len(data) > flat.inputs.nbytes
    assert torch.equal(ProbeSet.from_bytes(data).inputs, flat.inputs)


def test_an_id_that_many_probes_share_is_found_without_comparing_all_with_all() -> None:
    count = 300_000
    ids = (*map(str, range(count - 1)), "0")
    with pytest.raises(LightningGradCAMError, match="the id '0' is used more than once"):
        ProbeSet(torch.zeros(count, 1), ids=ids, display=np.zeros((count, 1, 1, 3), np.uint8))


def test_an_archive_refuses_bombs_by_the_name_of_their_file(tmp_path: Path) -> None:
    archive = started(tmp_path / "a", 10)
    (path,) = (tmp_path / "a" / "steps").iterdir()
    path.write_bytes(zipped("map0.npy", *stored_bombs(3 * 2**30)["it holds them"], beside=members_of(STEP)))
    for read in (lambda: archive.record(0), lambda: archive.maps("conv1")):
        with pytest.raises(ArchiveError, match=r"step-0000000010-epoch-0000\.npz is damaged .*delete that"):
            read()
    (tmp_path / "a" / "probes.npz").write_bytes(path.read_bytes())
    with pytest.raises(ProbeFileError, match=r"probes\.npz' is truncated or not a probe set"):
        _ = Archive.open(tmp_path / "a").probes


def test_nothing_is_allocated_for_the_shapes_a_manifest_claims(tmp_path: Path) -> None:
    started(tmp_path / "a", *range(10, 60, 10))
    path = tmp_path / "a" / "manifest.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({**stated, "map_shapes": {"conv1": [2**15, 2**15], "conv2": [2, 3]}}))
    archive = Archive.open(tmp_path / "a")
    assert len(archive.probes) == len(probe_set())

    def read() -> None:
        with pytest.raises(ArchiveError, match="expected"):
            archive.maps("conv1")

    assert peak(read) < 8 * MEGABYTE
