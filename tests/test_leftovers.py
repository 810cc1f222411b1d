"""A run of the tests leaves nothing behind in the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

WORKERS = [(), ("-n2",)] if find_spec("xdist") is not None else [()]


@pytest.mark.parametrize("workers", WORKERS, ids=["one process", "xdist"][: len(WORKERS)])
@pytest.mark.parametrize("made", ["checkpoints", pytest.param("build", marks=pytest.mark.slow)])
def test_a_run_that_leaves_a_folder_fails_and_names_it(tmp_path: Path, workers: tuple[str, ...], made: str) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "test_it.py").write_text(f"import os\ndef test_it(): os.mkdir({made!r})\ndef test_other(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout
    assert done.returncode == (1 if made == "checkpoints" else 0)
    assert (f"left in {tmp_path} by the tests: checkpoints; use tmp_path" in done.stdout) == (made == "checkpoints")
