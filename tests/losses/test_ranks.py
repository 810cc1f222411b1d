"""Two processes train to the weights of one."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tests.losses.ranks import main

ROOT = Path(__file__).resolve().parents[2]
# Training takes some ten seconds on an idle machine; whoever hangs is found here.
LIMIT = 300


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(tmp_path: Path) -> None:
    hidden = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
    environment = {key: value for key, value in os.environ.items() if key not in hidden} | {"OMP_NUM_THREADS": "1"}
    with warnings.catch_warnings():
        main(1, tmp_path)
    command = [sys.executable, "-m", "tests.losses.ranks", "2", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert int(first["attention.steps"]) == 3
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        # A batch's samples are those of one process, every other one on each rank.
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)
