"""The benchmarks still run; what they measure is not asserted."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gradcam import available_methods

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_quality_has_a_row_of_finite_numbers_or_a_reason_for_every_method() -> None:
    command = [sys.executable, "quality.py", "--pictures", "2", "--train", "64", "--epochs", "1"]
    # Its many small operations take longer, not shorter, on several threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line]
    # A docstring's example registers "mean_activation", in this process alone.
    for method in sorted({*available_methods()} - {"mean_activation"}):
        assert any(method in (word.rstrip(":") for word in line) for line in lines), f"{method} is missing"
    rows = [line for line in lines if line[0] == "random"]
    assert rows
    numbers = [float(word.rstrip("*")) for row in rows for word in row if word.lstrip("-")[:1].isdigit()]
    assert len(numbers) >= 7
    assert all(math.isfinite(number) for number in numbers)
