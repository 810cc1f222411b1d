"""Two processes on Lightning's own strategies: no hang, the maps of one process, one set of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gradcam import Archive, compute_cams
from tests.callbacks.test_purity import listed
from tests.conftest import TinyModule, tiny_data
from tests.guard.test_model import assert_same
from tests.setups import LAYERS

try:
    from torch.distributed.fsdp import FSDPModule  # noqa: F401
except ImportError:
    pytest.skip("this torch has no fully_shard in torch.distributed.fsdp", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
# Training alone takes some ten seconds; whoever hangs is found here and not by CI's own limit.
LIMIT = 150


def run(out: Path, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """Trains in two processes; returns what each rank has left, and all that was printed."""
    done = start(out, **options)
    assert done.returncode == 0, done.stderr
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)], done.stderr


def start(out: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    hidden = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["OMP_NUM_THREADS"] = "1"
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-m",
        "tests.callbacks.ranks",
        json.dumps(options),
        str(out),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=LIMIT
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_several_fits_go_on_or_go_beside_on_all_ranks(tmp_path: Path, strategy: str) -> None:
    run(tmp_path, strategy=strategy, again=True)
    first, second = sorted(path.parent for path in tmp_path.rglob("manifest.json"))
    assert (first.name, second.name) == ("gradcam", "gradcam-1")
    assert Archive.open(first).epochs == (-1, 0, 1, 2, 3)
    assert Archive.open(second).epochs == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_training_ends_in_the_same_bits_and_maps_are_those_of_one_process(tmp_path: Path, strategy: str) -> None:
    with_ours, _ = run(tmp_path / "with", strategy=strategy)
    without, _ = run(tmp_path / "without", strategy=strategy, **{"with": False})
    for rank in (0, 1):
        for part in ("local", "whole", "grads", "optimizers", "watched", "logged", "random", "python", "groups"):
            assert_same(listed(without[rank][part]), listed(with_ours[rank][part]), f"rank {rank} {part}")
    if strategy == "sharded":
        name = "net.conv1.weight"
        assert with_ours[0]["local"][name].shape[0] == with_ours[1]["local"][name].shape[0] == 2
    # One set of files, rank zero's.
    assert [rank["steps"] for rank in with_ours] == [with_ours[0]["steps"], []]
    folders = [path.parent for path in (tmp_path / "with").rglob("manifest.json")]
    assert len(folders) == 1
    archive = Archive.open(str(folders[0]))
    assert archive.epochs == (-1, 0, 1, 2)
    sheets = [path.name for path in (folders[0] / "sheets").rglob("*.png")]
    assert len(sheets) == len(LAYERS) * 4, sheets
    # The last validation saw the final weights.
    module = TinyModule()
    module.load_state_dict(
        {name: value for name, value in with_ours[0]["whole"].items() if "num_batches" not in name}, strict=False
    )
    cams = compute_cams(module, with_ours[0]["inputs"], LAYERS, relu=False)
    for layer in LAYERS:
        found = with_ours[0]["maps"][layer, "gradcam", "predicted"]
        torch.testing.assert_close(found, cams[layer, "gradcam", "predicted"], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_the_maps_are_checked_once_and_training_ends_in_the_same_bits(tmp_path: Path, strategy: str) -> None:
    checked, printed = run(tmp_path / "checked", strategy=strategy, ours={"check": True})
    without, _ = run(tmp_path / "without", strategy=strategy, **{"with": False})
    for rank in (0, 1):
        for part in ("local", "whole", "grads", "optimizers", "watched", "logged", "random", "python", "groups"):
            assert_same(listed(without[rank][part]), listed(checked[rank][part]), f"rank {rank} {part}")
    files = list(tmp_path.rglob("check.json"))
    if strategy == "sharded":
        assert not files
        assert printed.count("the check of the maps failed") == 1, printed
        assert "the weights are sharded" in printed
    else:
        assert len(files) == 1
        found = json.loads(files[0].read_text())
        assert found["quick"]
        assert [row["layer"] for row in found["verdicts"]] == LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_numbers_and_the_alarm_steer_all_ranks_alike(tmp_path: Path, strategy: str) -> None:
    name = "gradcam_stats/net.conv1/energy_inside"
    ours = {"monitor": True, "every_n_epochs": 2, "min_energy_inside": 1.0, "on_alarm": "checkpoint"}
    options = {"max_epochs": 9, "enable_checkpointing": True}
    ranks, printed = run(tmp_path, strategy=strategy, ours=ours, steered=name, trainer=options)
    assert [rank["epoch"] for rank in ranks] == [4, 4]
    own = [{tag: value for tag, value in rank["metrics"].items() if tag.startswith("gradcam_stats/")} for rank in ranks]
    # NaN is not equal to itself.
    assert repr(own[0]) == repr(own[1])
    archive = Archive.open(next(tmp_path.rglob("manifest.json")).parent)
    assert archive.epochs == (-1, 1, 3)
    numbers = archive.numbers("net.conv1")["energy_inside"].mean(axis=1)[1:]
    assert own[0][name] == pytest.approx(numbers[-1], rel=1e-5)
    assert [rank["best"] for rank in ranks] == pytest.approx([max(numbers)] * 2, rel=1e-5)
    # Five batches of an epoch's 40 samples, half of them on each rank.
    assert [path.name for path in (tmp_path / "best").glob("*min_energy_inside=1.ckpt")] == [
        "epoch=1-step=6-gradcam-min_energy_inside=1.ckpt"
    ]
    assert printed.count("on_alarm='checkpoint' has saved") == 1, printed


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_a_wrong_configuration_ends_all_ranks_before_the_first_step(tmp_path: Path, strategy: str) -> None:
    done = start(tmp_path / "run", strategy=strategy, ours={"layout": {"net.conv9": "NCHW"}})
    assert done.returncode != 0
    assert "layout: layer 'net.conv9' not found" in done.stderr
    assert not list(tmp_path.rglob("rank*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("at", ["norm1", "head"])
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_what_fails_on_all_ranks_is_reported_and_training_goes_on(tmp_path: Path, strategy: str, at: str) -> None:
    failing = {"ranks": [0, 1], "after": 1, "at": at}
    broken, printed = run(tmp_path / "broken", strategy=strategy, failing=failing)
    without, _ = run(tmp_path / "without", strategy=strategy, **{"with": False})
    assert printed.count("explaining failed at step") == 3, printed
    assert "for the 3rd time in a row, and is disabled" in printed
    for rank in (0, 1):
        assert_same(without[rank]["local"], broken[rank]["local"], f"rank {rank}")


@pytest.mark.slow
def test_what_fails_on_one_rank_before_the_shared_forward_is_reported_and_training_goes_on(tmp_path: Path) -> None:
    broken, printed = run(tmp_path / "broken", strategy="preparing", ours={"num_probes": 5})
    without, _ = run(tmp_path / "without", strategy="preparing", **{"with": False})
    assert "preparing the probes failed on rank 1: RuntimeError: rank 1 fails" in printed
    for rank in (0, 1):
        assert_same(without[rank]["local"], broken[rank]["local"], f"rank {rank}")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_in_the_middle_of_a_shared_forward_leaves_no_other_waiting_for_ever(
    tmp_path: Path, rank: int
) -> None:
    failing = {"ranks": [rank], "after": 1, "at": "norm1"}
    done = start(tmp_path / "run", strategy="sharded", failing=failing, patience=5)
    assert done.returncode != 0
    assert "another rank did not reach the same point within 5 seconds" in done.stderr


@pytest.mark.slow
def test_a_stream_under_shards_is_refused_with_what_to_give(tmp_path: Path) -> None:
    done = start(tmp_path / "run", strategy="sharded", stream=True)
    assert done.returncode != 0
    assert "each rank sees different samples" in done.stderr


@pytest.mark.slow
def test_a_stream_is_explained_on_replicated_ranks(tmp_path: Path) -> None:
    ranks, _ = run(tmp_path / "run", strategy="ddp", stream=True)
    assert ranks[0]["steps"] == sorted(ranks[0]["steps"])
    assert len(ranks[0]["steps"]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_probes_are_of_the_sampler_that_lightning_distributes(tmp_path: Path, strategy: str) -> None:
    with_ours, _ = run(tmp_path / "with", strategy=strategy, sampler=True)
    without, _ = run(tmp_path / "without", strategy=strategy, sampler=True, **{"with": False})
    for rank in (0, 1):
        for part in ("local", "watched", "random", "python"):
            assert_same(listed(without[rank][part]), listed(with_ours[rank][part]), f"rank {rank} {part}")
    pictures = tiny_data(seed=2).tensors[0]
    places = [int((pictures == probe).flatten(1).all(1).nonzero()) for probe in with_ours[0]["inputs"]]
    assert len(set(places)) == 8
    # The sampler goes through 20 of 40, and each rank gets half of these.
    assert max(places) < 20
    assert strategy == "ddp" or torch.equal(with_ours[0]["inputs"], with_ours[1]["inputs"])


@pytest.mark.slow
def test_a_forward_that_sends_to_all_ranks_is_refused_before_the_first_step(tmp_path: Path) -> None:
    done = start(tmp_path / "run", strategy="gathering")
    assert done.returncode != 0
    assert "its forward() communicates with all ranks" in done.stderr
    assert not list(tmp_path.rglob("rank*.pt"))
