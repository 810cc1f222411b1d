"""What all commands have in common."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gradcam.cli import main
from lightning_gradcam.cli.shared import moving, progress

COMMANDS = (
    "fit",
    "validate",
    "test",
    "layers",
    "probes",
    "probes draw",
    "probes show",
    "explain",
    "check",
    "replay",
    "report",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([*command.split(), "--help"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 0
    said = capsys.readouterr().out
    assert f"Example:\n  lightning-gradcam {command} " in said
    assert "exit codes: 0 done; 1 failed" in said
    assert all(len(line) <= 120 for line in said.splitlines())


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command.split()[0]} " in said


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom lightning_gradcam.cli import main\n"
        f"for command in ['', *{COMMANDS!r}]:\n"
        "    try:\n        main([*command.split(), '--help'])\n    except SystemExit:\n        pass\n"
        "assert not {'torch', 'numpy', 'tqdm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_no_command_and_an_unknown_one_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["explian"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "explian" in capsys.readouterr().err


def test_the_search_path_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "only_here.py").write_text("import torch\nNet = torch.nn.Identity\n")
    before = list(sys.path)
    assert main(["layers", "--model", "only_here:Net", "--input-shape", "1,8,8"]) == 0
    assert sys.path == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("show", "shown"), [(True, True), (None, False), (False, False)])
def test_a_bar_is_shown_where_it_is_asked_for(
    show: bool | None, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress(range(3), "numbers", show=show)) == [0, 1, 2]
    with moving("steps", show=show) as moved:
        moved(2, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert ("numbers: 100%" in said.err) == shown
    assert ("steps: 100%" in said.err) == shown


def test_a_bar_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), "numbers")) == [0, 1, 2]
    assert "numbers: 100%" in terminal.getvalue()
