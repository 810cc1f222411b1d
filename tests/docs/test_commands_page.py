"""The page on commands: its examples run, and print what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gradcam.cli.app import _parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text()


def examples() -> list[tuple[str, str]]:
    """Every command of the page, and what stands below it."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def pattern(output: str) -> str:
    """A line of an ellipsis alone stands for any lines, one within a line for anything in it."""
    lines = ["(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + "\n" for line in output.splitlines()]
    return "".join(lines)


def test_ellipses() -> None:
    assert re.fullmatch(pattern("…\nb…\n"), "a\na\nbcd\n")
    assert not re.fullmatch(pattern("…\nb…\n"), "a\nbcd\ne\n")


def test_every_command_is_on_the_page() -> None:
    (commands,) = (action for action in _parser()._actions if action.choices)
    assert commands.choices is not None
    for name in commands.choices:
        assert re.search(rf"\[`.*`{name}`|\[`{name}`|, `{name}`", PAGE), name


@pytest.mark.slow
def test_the_pages_examples_print_what_it_says(tmp_path: Path) -> None:
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    # As wide as the terminal that the page was written from; runners may say something else.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "120"}
    exports = ""
    for command, output in examples():
        if command.startswith("export "):
            exports += f"{command}; "
            continue
        done = subprocess.run(
            ["bash", "-c", exports + command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
        # How a training ends is said through Lightning's logger.
        own = "".join(line for line in done.stderr.splitlines(True) if line.startswith("lightning-gradcam: "))
        shown = done.stdout + own if "lightning-gradcam: logged" in output else done.stdout
        shown = shown.replace(str(tmp_path), "/home/me/clone")
        assert re.fullmatch(pattern(output), shown), f"{command} printed\n{shown}\nand not\n{output}"
