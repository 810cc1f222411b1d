"""Tests of reading and atomic writing, on the disk and in fsspec's memory."""

from __future__ import annotations

import os
import re
import sys
import threading
import uuid
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import fsspec
import pytest

from lightning_gradcam.storage import Storage, join, safe_name


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "run")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)


def test_what_was_written_is_read(root: str) -> None:
    storage = Storage(root)
    storage.write("a.bin", b"\x00one")
    storage.write("deep/er/b.bin", b"two")
    assert storage.read("a.bin") == b"\x00one"
    assert Storage(root).read("deep/er/b.bin") == b"two"
    assert storage.exists("a.bin")
    assert not storage.exists("b.bin")


def test_second_write_replaces_the_first(root: str) -> None:
    storage = Storage(root)
    storage.write("a.bin", b"a long first content")
    storage.write("a.bin", b"short")
    assert storage.read("a.bin") == b"short"
    assert storage.names("") == ["a.bin"]


def test_missing_file_is_a_file_not_found_error(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        Storage(root).read("a.bin")


def test_an_open_file_can_be_read_in_parts(root: str) -> None:
    storage = Storage(root)
    storage.write("deep/a.bin", b"0123456789")
    with storage.open("deep/a.bin") as file:
        assert file.seek(0, os.SEEK_END) == 10
        file.seek(4)
        assert file.read(2) == b"45"
    with pytest.raises(FileNotFoundError):
        storage.open("deep/b.bin")


def test_a_stamp_changes_with_the_file_alone(root: str) -> None:
    storage = Storage(root)
    assert storage.stamp("a/b") is None
    storage.write("a", b"1")
    assert storage.stamp("a/b") is None
    first = storage.stamp("a")
    assert first is not None
    assert first.prompt
    storage.write("b", b"1")
    storage.read("a")
    assert Storage(root).stamp("a") == first
    storage.write("a", b"1")
    assert storage.stamp("a") != first


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_could_keep_a_reader_waiting_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    (tmp_path / "folder").mkdir()
    stamp = Storage(tmp_path).stamp("a")
    assert stamp is not None
    assert not stamp.prompt
    for read in (Storage(tmp_path).read, Storage(tmp_path).open):
        with pytest.raises(OSError, match=r"it is a FIFO, not a regular file: '.*/a'"):
            read("a")
        with pytest.raises(IsADirectoryError):
            read("folder")


def test_a_link_is_the_file_itself_and_never_replaces_one(tmp_path: Path) -> None:
    storage, source = Storage(tmp_path / "a"), Storage(tmp_path / "b")
    source.write("deep/x", b"1")
    (tmp_path / "b" / "y").symlink_to("deep/x")
    for name in ("deep/x", "y"):
        assert storage.link(name, source, name)
        assert not (tmp_path / "a" / name).is_symlink()
        assert os.path.samefile(tmp_path / "a" / name, tmp_path / "b" / "deep" / "x")
    source.write("deep/x", b"2")
    assert storage.read("deep/x") == b"1"
    assert not storage.link("deep/x", source, "deep/x")
    assert not storage.link("gone", source, "gone")
    assert not storage.link("deep", source, "deep")
    assert not storage.link("x", Storage("memory://none"), "x")


def test_names_are_sorted_and_those_of_the_folder_alone(root: str) -> None:
    storage = Storage(root)
    for name in ("steps/b", "steps/a", "steps/deep/c", "other"):
        storage.write(name, b"")
    assert storage.names("steps") == ["a", "b", "deep"]


def test_missing_folder_has_no_names(root: str) -> None:
    assert Storage(root).names("steps") == []
    Storage(root).write("a", b"")
    assert Storage(root).names("steps") == []


def test_names_follow_what_others_write(root: str) -> None:
    reader = Storage(root)
    assert reader.names("steps") == []
    Storage(root).write("steps/a", b"")
    assert reader.names("steps") == ["a"]
    Storage(root).remove("steps/a")
    assert reader.names("steps") == []


def test_removed_file_is_gone(root: str) -> None:
    storage = Storage(root)
    storage.write("steps/a", b"")
    storage.remove("steps/a")
    assert not storage.exists("steps/a")


def test_nothing_is_touched_before_the_first_write(tmp_path: Path) -> None:
    Storage(tmp_path / "run").names("steps")
    assert os.listdir(tmp_path) == []


def test_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    Storage(tmp_path).write("steps/a.npz", b"x")
    assert os.listdir(tmp_path / "steps") == ["a.npz"]


def test_failing_write_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    storage.write("a.npz", b"old")

    def full(path: Path, data: bytes) -> int:
        with open(path, "wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write("a.npz", b"new content")
    assert os.listdir(tmp_path) == ["a.npz"]
    assert storage.read("a.npz") == b"old"


def test_reader_sees_the_old_or_the_new_content_and_nothing_between(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    contents = {bytes([letter]) * 300_000 for letter in b"ab"}
    storage.write("a", min(contents))
    done = threading.Event()

    def write() -> None:
        for _ in range(40):
            for content in contents:
                storage.write("a", content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(storage.read("a"))
    writer.join()
    assert seen <= contents


@pytest.mark.parametrize("name", ["a b", "ä", "x#y", "50%", "[1]", "v=1,2", "~x"])
def test_folders_of_any_name_work(tmp_path: Path, name: str) -> None:
    storage = Storage(str(tmp_path / name))
    storage.write("steps/a", b"1")
    assert storage.names("steps") == ["a"]
    assert storage.read("steps/a") == b"1"
    assert (tmp_path / name / "steps" / "a").read_bytes() == b"1"


def test_relative_and_trailing_slash_are_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Storage("run/").write("a", b"1")
    assert Storage(tmp_path / "run").read("a") == b"1"


@pytest.mark.parametrize(
    ("root", "parts", "joined"),
    [
        ("logs", ("gradcam",), "logs/gradcam"),
        ("logs/", ("a", "b"), "logs/a/b"),
        ("s3://bucket/logs", ("a",), "s3://bucket/logs/a"),
        ("s3://bucket", ("a",), "s3://bucket/a"),
        pytest.param("/", ("a",), "/a"),
        pytest.param("memory://", ("a",), "memory://a"),
    ],
)
def test_join(root: str, parts: tuple[str, ...], joined: str) -> None:
    assert join(root, *parts) == joined


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("layer4.1.conv", "layer4.1.conv"),
        ("epoch=3-a_B+9", "epoch=3-a_B+9"),
        ("../", "_-"),
        ("..", "_-"),
        ("", "_-"),
        ("...", "_-"),
        ("a/b\\c", "a_b_c-"),
        ("a\x00b\nc", "a_b_c-"),
        ("größe", "gr__e-"),
        ("层", "_-"),
        ("a" * 10_000, "a" * 120 + "-"),
        ("." * 10_000, "_-"),
    ],
    ids=lambda text: ascii(text[:10]),
)
def test_safe_name(text: str, safe: str) -> None:
    assert re.fullmatch(re.escape(safe) + ("[0-9a-f]{8}" if safe.endswith("-") else ""), safe_name(text))


@pytest.mark.parametrize("text", ["../", "", "...", "..", "a/../../b", "/etc/passwd", "C:\\x", "ü" * 10_000, "🦓"])
def test_safe_name_is_one_part_that_can_be_written_inside_the_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "in").mkdir()
    Storage(tmp_path / "in").write(f"{safe_name(text)}/file", b"1")
    assert os.listdir(tmp_path) == ["in"]
    assert len(list((tmp_path / "in").glob("*/file"))) == 1


def test_safe_names_of_different_layers_differ() -> None:
    assert len({safe_name(text) for text in ("schicht_ä", "schicht_ö", "schicht_ü")}) == 3


def test_of_two_that_create_a_remote_file_one_fails() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    Storage(url).create("a", b"first")
    second = Storage(url)
    with pytest.raises(FileExistsError):
        second.create("a", b"second")
    if "mode" not in signature(fsspec.filesystem("memory").pipe_file).parameters:
        pytest.skip("this fsspec can't create a file only where there is none")
    # The store itself refuses, also where both have looked before either has written.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(FileExistsError):
        patch.setattr(Storage, "exists", lambda self, name: False)
        second.create("a", b"second")
    assert Storage(url).read("a") == b"first"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks here")
def test_a_file_is_held_until_it_is_released_also_where_a_child_has_the_lock_too(tmp_path: Path) -> None:
    first, second = Storage(tmp_path), Storage(tmp_path)
    first.write("a", b"")
    held = first.hold("a")
    assert held is not None
    with pytest.raises(BlockingIOError):
        second.hold("a")
    # As a data loader's worker has it that outlives the run.
    copy = os.dup(held._handle)  # type: ignore[arg-type]
    held.release()
    again = second.hold("a")
    assert again is not None
    again.release()
    os.close(copy)
    assert second.hold("missing") is None
    assert Storage("memory://nowhere").hold("a") is None
