"""Warnings point at the user's own line, whichever frames lie between."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor, thread
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_gradcam import GradCAMCallback, MemorySink, compute_cams
from lightning_gradcam.warn import warn
from tests.conftest import TinyModule, loaders, trainer


class Full(MemorySink):
    def log(self, entry: object) -> None:
        raise OSError("no room")


def line_of(words: str, function: object) -> int:
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    (place,) = [number for number, line in enumerate(lines) if words in line and "line_of" not in line]
    return first + place


def places(caught: list[warnings.WarningMessage], text: str) -> set[tuple[str, int]]:
    return {(warning.filename, warning.lineno) for warning in caught if text in str(warning.message)}


@pytest.mark.parametrize(
    ("callback", "text"),
    [
        (GradCAMCallback("net.relu2", every_n_epochs=9), "nothing was logged"),
        # Reported from inside a context manager, and of work in the background.
        (GradCAMCallback("net.relu2", sinks=[Full()], background=False), "the sink Full failed"),
        (GradCAMCallback("net.relu2", sinks=[Full()], background=True), "the sink Full failed"),
    ],
    ids=["nothing logged", "sink", "sink in the background"],
)
def test_a_warning_during_training_points_at_the_call_of_fit(
    tmp_path: Path, callback: GradCAMCallback, text: str
) -> None:
    host = trainer(tmp_path, callbacks=callback, max_epochs=1)
    with pytest.warns(UserWarning, match=text) as caught:
        host.fit(TinyModule(), *loaders())
    line = line_of("host.fit(", test_a_warning_during_training_points_at_the_call_of_fit)
    assert places(list(caught), text) == {(__file__, line)}


def test_a_warning_about_a_model_points_at_the_call_that_was_given_it() -> None:
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), norm, nn.Flatten(), nn.Linear(32, 2))
    with pytest.warns(UserWarning, match="do not keep running statistics") as caught:
        compute_cams(model, torch.rand(2, 1, 4, 4), "0")
    assert str(caught[0].message).startswith("lightning-gradcam: model: '1' do not keep")
    line = line_of("compute_cams(", test_a_warning_about_a_model_points_at_the_call_that_was_given_it)
    assert places(list(caught), "do not keep running statistics") == {(__file__, line)}


def test_filters_by_module_and_once_a_line_go_by_the_users_line() -> None:
    script = (
        "import warnings; from lightning_gradcam.warn import warn\n"
        "for _ in range(2): warn('one')\n"
        "warnings.filterwarnings('ignore', module='__main__')\n"
        "warn('two')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines() == ["<string>:2: UserWarning: lightning-gradcam: one"]


def test_without_a_frame_of_the_users_a_warning_points_at_who_gives_it() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.warns(UserWarning, match="from a thread") as caught:
        pool.submit(warn, "from a thread").result()
    assert Path(caught[0].filename) == Path(thread.__file__)
