"""`report`: one page of one or several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_gradcam.cli import main
from tests.archive.test_archive import started


def test_report_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started(tmp_path / "version_0" / "gradcam", 10, 20)
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "version_0"), "-o", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert text.count('id="gradcam-run-') == 1
    assert "1 run(s), 2 steps" in capsys.readouterr().out


def test_report_of_several_runs_takes_each_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        started(tmp_path / name / "gradcam", 10, run=name)
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), str(tmp_path / "a" / "gradcam"), "-o", str(page)]) == 0
    assert page.read_text().count('id="gradcam-run-') == 2


def test_what_is_no_run_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "missing")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("lightning-gradcam: run: no archive at or below")
    assert len(said.splitlines()) == 1


def test_a_damaged_step_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started(tmp_path / "a", 10)
    (file,) = (tmp_path / "a" / "steps").iterdir()
    file.write_bytes(b"no step")
    assert main(["report", str(tmp_path / "a"), "-o", str(tmp_path / "page.html")]) == 1
    assert f"{file.name} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report"])
    assert ended.value.code == 2
    assert "RUN" in capsys.readouterr().err
