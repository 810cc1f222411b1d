"""Finding archives below a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_gradcam import ArchiveError
from lightning_gradcam.archive import find_archives


def archive(path: Path) -> str:
    (path / "steps").mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    return str(path)


def test_archives_are_found_at_and_below_a_folder(tmp_path: Path) -> None:
    first = archive(tmp_path / "version_0" / "gradcam")
    second = archive(tmp_path / "version_1" / "gradcam")
    other = archive(tmp_path / "version_1" / "other")
    archive(tmp_path / "version_1" / "gradcam" / "inside")
    archive(tmp_path / ".hidden" / "gradcam")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "manifest.json").write_text("{}")
    assert find_archives(tmp_path) == [first, second, other]
    assert find_archives(tmp_path / "version_1") == [second, other]
    assert find_archives(first) == [first]


def test_a_folder_without_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"run: no archive at or below .*; pass a run's folder <log dir>/<name>"):
        find_archives(tmp_path)
    with pytest.raises(ArchiveError, match="run: no archive"):
        find_archives(tmp_path / "missing")


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link"])
def test_a_manifest_that_is_no_file_hides_no_archive(tmp_path: Path, kind: str) -> None:
    good = archive(tmp_path / "good" / "gradcam")
    for folder in (tmp_path, tmp_path / "bad"):
        (folder / "steps").mkdir(parents=True)
        manifest = folder / "manifest.json"
        if kind == "pipe":
            os.mkfifo(manifest)
        elif kind == "folder":
            manifest.mkdir()
        else:
            manifest.symlink_to(folder / "nowhere")
    assert find_archives(tmp_path) == [good]
