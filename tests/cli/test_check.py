"""`check`: pictures and a checkpoint in, a table out, and a folder where one is asked for."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pytest

from lightning_gradcam.cli import main
from tests.cli.tiny import write_checkpoint_and_pictures

MODEL = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1", "--quick"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint_and_pictures()


def test_a_table_the_cost_and_nothing_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a.ckpt", "pictures", *MODEL, "--layers", "net.relu1", "net.relu2"]) == 0
    said = capsys.readouterr()
    assert "lightning-gradcam: takes about " in said.err
    assert " forward passes of one image" in said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("3 images, ")
    assert lines[1].split()[:4] == ["layer", "method", "verdict", "p"]
    # Its weights are random.
    assert lines[2].split()[:2] == ["net.relu1", "gradcam"]
    assert lines[3].strip().endswith(".")
    assert lines[-1] == "best: none is sound"
    assert sorted(path.name for path in Path().iterdir()) == ["a.ckpt", "pictures"]


def test_a_folder_with_json_and_a_page_of_all_methods(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--layers", "net.relu2", "--methods", "all", "--class-names", "ant", "bee", "cat", "dog", "elk"]
    assert main(["check", "a.ckpt", "pictures", "-o", "checked", *MODEL, *options]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "checked/check.html"
    told = json.loads(Path("checked/check.json").read_text())
    assert told["pictures"] == 3
    assert told["best"] is None
    methods = {row["method"] for row in told["verdicts"]}
    assert {"gradcam", "hirescam", "random", "fullgrad"} <= methods
    # A method that can't work on the model is left out, and why is reported.
    assert all("left out" in remark for remark in told["remarks"])
    assert any("'legrad'" in remark for remark in told["remarks"])
    page = Path("checked/check.html").read_text()
    assert page.count("<h2>") == len(told["verdicts"])
    assert "1.png" in page
    assert "explains " in page
    # What is hidden is shown, with what becomes of the confidence; what each verdict means and what to do is there.
    assert page.count("% of the image hidden") == len(told["verdicts"])
    # With random weights, hiding the whole picture takes no class away.
    assert page.count("<small>not tested: ") == 3 * len(told["verdicts"])
    assert all(escape(row["advice"]) in page for row in told["verdicts"])
    assert "http" not in page


def test_several_targets_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a.ckpt", "pictures", *MODEL, "--targets", "predicted", "1"]) == 1
    assert "one class per image" in capsys.readouterr().err
