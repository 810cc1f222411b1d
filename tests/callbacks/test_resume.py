"""A resumed run has the very same probes, and its archive holds the earlier steps too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_gradcam import Archive, GradCAMCallback, MemorySink
from lightning_gradcam.render.scale import both_limits
from tests.conftest import TinyModule, loaders, tiny_data, trainer


def run(
    root: Path,
    epochs: int,
    *,
    ckpt: str | None = None,
    version: Any = None,
    data: Any = None,
    model: Any = None,
    **options: Any,
) -> Any:
    """Trains up to `epochs` and keeps a checkpoint of every epoch."""
    pl.seed_everything(0, verbose=False)
    settings: dict[str, Any] = {"layers": ["net.conv1", "net.relu2"], "log_untrained": True, "on_error": "raise"}
    callback = GradCAMCallback(**{**settings, **options})
    logger = CSVLogger(root, version=version)
    keep = ModelCheckpoint(root / "checkpoints", filename="{epoch}", save_top_k=-1, enable_version_counter=False)
    running = trainer(root, callbacks=[callback, keep], logger=logger, max_epochs=epochs, enable_checkpointing=True)
    running.fit(model or TinyModule(), *(data or loaders()), ckpt_path=ckpt)
    return callback


def checkpoint(root: Path, epoch: int) -> str:
    return str(root / "checkpoints" / f"epoch={epoch}.ckpt")


def test_a_resumed_run_has_the_same_probes_and_the_earlier_steps(tmp_path: Path) -> None:
    first = run(tmp_path, 3, seed=5)
    # Another seed: the checkpoint decides, not the option.
    second = run(tmp_path, 5, ckpt=checkpoint(tmp_path, 1), seed=6)
    assert second.probes.indices == first.probes.indices
    assert second.probes.fingerprint == first.probes.fingerprint
    assert first.archive.epochs == (-1, 0, 1, 2)
    assert second.archive.epochs == (-1, 0, 1, 2, 3, 4)
    assert second.archive.path != first.archive.path
    np.testing.assert_array_equal(second.archive.maps("net.conv1")[:3], first.archive.maps("net.conv1")[:3])
    parent = second.archive.manifest.parent
    assert parent == {"archive": first.archive.path, "run": first.archive.manifest.run, "step": 9}


def test_another_number_of_probes_than_the_run_has_is_said(tmp_path: Path, said: list[str]) -> None:
    run(tmp_path, 1, num_probes=4)
    resumed = run(tmp_path, 2, ckpt=checkpoint(tmp_path, 0), num_probes=6)
    assert len(resumed.probes) == 4
    text = "num_probes: got 6, but a resumed run keeps its probes, and the checkpoint has 4"
    assert [line for line in said if "num_probes" in line] == [f"lightning-gradcam: {text}"]
    run(tmp_path, 2, ckpt=checkpoint(tmp_path, 0))
    run(tmp_path, 2, ckpt=checkpoint(tmp_path, 0), num_probes=4)
    assert len([line for line in said if "num_probes" in line]) == 1


def test_interrupted_and_uninterrupted_runs_give_the_same_maps(tmp_path: Path) -> None:
    """No shuffling, so that both see the same batches: Lightning does not restore a loader's random numbers."""

    def data() -> Any:
        return DataLoader(tiny_data(), 8), loaders()[1]

    class Plain(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net.drop.p = 0.0

    straight = run(tmp_path / "a", 4, data=data())
    run(tmp_path / "b", 2, data=data())
    resumed = run(tmp_path / "b", 4, ckpt=checkpoint(tmp_path / "b", 1), data=data())
    assert resumed.archive.epochs == straight.archive.epochs
    assert resumed.archive.steps == straight.archive.steps
    np.testing.assert_array_equal(resumed.archive.maps("net.conv1")[:3], straight.archive.maps("net.conv1")[:3])


def test_resuming_in_the_same_folder_rewinds_to_the_checkpoint(tmp_path: Path) -> None:
    first = run(tmp_path, 3, version="fixed")
    later = first.archive.maps("net.conv1")[3]
    second = run(tmp_path, 4, version="fixed", ckpt=checkpoint(tmp_path, 0))
    assert second.archive.path == first.archive.path
    assert second.archive.epochs == (-1, 0, 1, 2, 3)
    assert second.archive.manifest.run == first.archive.manifest.run
    assert later.shape == second.archive.maps("net.conv1")[3].shape


def test_the_state_is_small_and_survives_weights_only_loading(tmp_path: Path) -> None:
    first = run(tmp_path, 1)
    loaded = torch.load(checkpoint(tmp_path, 0), weights_only=True)
    state = loaded["callbacks"]["GradCAMCallback{'name': 'gradcam'}"]
    assert state == {
        "schema": 1,
        "indices": list(first.probes.indices),
        "fingerprint": first.probes.fingerprint,
        "archive": first.archive.path,
        "run": first.archive.manifest.run,
        "step": 4,
        "validations": 1,
        "logged": 2,
        "transferred": False,
        "form": "",
        "model": "tests.conftest:TinyModule",
        "layers": list(first.archive.layers),
    }


def test_a_relative_log_folder_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(Path("logs"), 1)
    monkeypatch.chdir(tmp_path / "there")
    second = run(Path("logs"), 2, ckpt=checkpoint(tmp_path / "here" / "logs", 0))
    assert second.archive.epochs == (-1, 0, 1)


def test_changed_data_brings_back_the_archived_inputs(tmp_path: Path) -> None:
    first = run(tmp_path, 1)
    other = DataLoader(tiny_data(), 8), DataLoader(tiny_data(seed=99), 8)
    with pytest.warns(
        UserWarning, match="has different inputs at the checkpoint's indices; the archived inputs are used"
    ):
        second = run(tmp_path, 2, ckpt=checkpoint(tmp_path, 0), data=other)
    assert second.probes.fingerprint == first.probes.fingerprint
    assert second.archive.epochs == (-1, 0, 1)


def test_a_vanished_archive_is_said(tmp_path: Path) -> None:
    first = run(tmp_path, 1)
    Path(first.archive.path).rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="the earlier steps could not be copied, so the record begins here"):
        second = run(tmp_path, 2, ckpt=checkpoint(tmp_path, 0))
    assert second.probes.fingerprint == first.probes.fingerprint
    assert second.archive.epochs == (1,)


def test_changed_layers_are_not_mixed(tmp_path: Path) -> None:
    first = run(tmp_path, 1)
    with pytest.warns(UserWarning, match=r"the earlier steps remain only in .*, because layers, map_shapes changed"):
        second = run(tmp_path, 2, ckpt=checkpoint(tmp_path, 0), layers="net.relu2")
    assert second.archive.epochs == (1,)
    assert Archive.open(first.archive.path).epochs == (-1, 0)
    # In the folder of its own run, too.
    with pytest.warns(UserWarning, match=r"the earlier steps remain only in .*, because layers, map_shapes changed"):
        third = run(tmp_path, 3, ckpt=checkpoint(tmp_path, 1), layers="net.conv1", version=1)
    assert third.archive.path == f"{second.archive.path}-1"
    assert third.archive.epochs == (2,)
    assert Archive.open(second.archive.path).epochs == (1,)


def test_validations_are_counted_on(tmp_path: Path) -> None:
    run(tmp_path, 1, every_n_validations=2, log_untrained=False)
    sink = MemorySink()
    run(tmp_path, 4, ckpt=checkpoint(tmp_path, 0), every_n_validations=2, sinks=[sink])
    assert [entry.epoch for entry in sink.entries] == [1, 3]


def repeatable() -> dict[str, Any]:
    """Without shuffling and dropout: Lightning restores no random numbers."""
    torch.manual_seed(0)
    model = TinyModule()
    model.net.drop.p = 0.0
    return {"data": (DataLoader(tiny_data(), 8), loaders()[1]), "model": model}


def test_a_resumed_run_has_the_scale_of_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = run(tmp_path / "a", 3, **repeatable())
    run(tmp_path / "b", 2, **repeatable())
    resumed = run(tmp_path / "b", 3, ckpt=checkpoint(tmp_path / "b", 1), **repeatable())
    assert resumed.archive.epochs == straight.archive.epochs == (-1, 0, 1, 2)
    for step in range(4):
        found, expected = (callback.archive.record(step).limits for callback in (resumed, straight))
        assert set(found) == set(expected) != set()
        for key, limits in expected.items():
            np.testing.assert_array_equal(found[key], limits)
    for key, limits in found.items():
        # Maps are kept with 11 bits.
        kept = np.max([both_limits(maps) for maps in straight.archive.maps(*key, relu=False)], axis=0)
        np.testing.assert_allclose(limits, kept, rtol=2e-3, atol=1e-9)


def test_a_run_without_limits_is_resumed_on_those_of_its_maps(tmp_path: Path) -> None:
    first = run(tmp_path, 2)
    for step in Path(first.archive.path, "steps").iterdir():
        # As versions wrote it that kept each map's largest value.
        with np.load(step) as file:
            arrays = dict(file)
        np.savez(step, **{("peaks" if name == "limits" else name): v for name, v in arrays.items()})
    resumed = run(tmp_path, 3, ckpt=checkpoint(tmp_path, 1))
    assert Archive.open(resumed.archive.path).record(2).limits == {}
    for key, limits in resumed.archive.record(3).limits.items():
        kept = np.max([both_limits(maps) for maps in resumed.archive.maps(*key, relu=False)], axis=0)
        np.testing.assert_allclose(limits, kept, rtol=2e-3, atol=1e-9)


def test_a_step_that_was_handed_over_and_never_written_is_reported(tmp_path: Path) -> None:
    first = run(tmp_path, 3)
    (lost,) = Path(first.archive.path, "steps").glob("*-epoch-0001.npz")
    lost.unlink()
    with pytest.warns(UserWarning, match="lightning-gradcam: .*step 9"):
        second = run(tmp_path, 4, ckpt=checkpoint(tmp_path, 1))
    assert second.archive.epochs == (-1, 0, 2, 3)
    # An earlier one is counted.
    (lost,) = Path(second.archive.path, "steps").glob("*-epoch-0000.npz")
    lost.unlink()
    with pytest.warns(UserWarning, match="lightning-gradcam: 2 of 3 logged steps were written"):
        third = run(tmp_path, 4, ckpt=checkpoint(tmp_path, 2))
    assert third.archive.epochs == (-1, 2, 3)


def test_a_changed_schedule_holds_and_what_was_widened_goes_on_with_the_same_one(tmp_path: Path) -> None:
    run(tmp_path, 2, max_overhead=1e-3)
    state = torch.load(checkpoint(tmp_path, 1), weights_only=True)["callbacks"]["GradCAMCallback{'name': 'gradcam'}"]
    assert state["widened"] > 2
    assert state["widened_from"] == "every_n_epochs=1"
    changed = run(tmp_path, 6, ckpt=checkpoint(tmp_path, 1), every_n_epochs=2)
    assert changed.archive.epochs == (-1, 0, 1, 3, 5)
    same = run(tmp_path, 6, ckpt=checkpoint(tmp_path, 1), max_overhead=1e-3)
    assert same._run._schedule.every >= state["widened"]
    # Of another unit, the same number is another option.
    other = run(tmp_path, 2, ckpt=checkpoint(tmp_path, 1), every_n_validations=1, max_overhead=1e-3)
    assert other._run._schedule.every == 1
    without = run(tmp_path, 4, ckpt=checkpoint(tmp_path, 1))
    assert without.archive.epochs == (-1, 0, 1, 2, 3)


@pytest.mark.skipif(
    tuple(map(int, pl.__version__.split(".")[:2])) < (2, 5),
    reason="before 2.5, Lightning gives callbacks no state under validate and test",
)
def test_validate_with_a_checkpoint_uses_its_probes(tmp_path: Path) -> None:
    first = run(tmp_path, 1, seed=5)
    callback = GradCAMCallback("net.relu2", on_error="raise")
    running = trainer(tmp_path / "later", callbacks=callback)
    running.validate(TinyModule(), loaders()[1], ckpt_path=checkpoint(tmp_path, 0), verbose=False)
    assert callback.probes is not None
    assert callback.probes.fingerprint == first.probes.fingerprint
    assert callback.archive is not None
    assert len(callback.archive.steps) == 1


@pytest.mark.skipif(
    tuple(map(int, pl.__version__.split(".")[:2])) < (2, 5),
    reason="before 2.5, Lightning gives callbacks no state under validate and test",
)
def test_test_with_a_checkpoint_uses_its_probes_without_complaint(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    first = run(tmp_path, 1)
    callback = GradCAMCallback("net.relu2", on_error="raise")
    running = trainer(tmp_path / "later", callbacks=callback)
    other = DataLoader(tiny_data(seed=9), 8)
    running.test(TinyModule(), other, ckpt_path=checkpoint(tmp_path, 0), verbose=False)
    assert callback.probes is not None
    assert callback.probes.fingerprint == first.probes.fingerprint
    # Of blank maps, which so few steps of training give, it is told, too.
    told = [str(w.message) for w in recwarn if "lightning-gradcam" in str(w.message)]
    assert not [text for text in told if "blank" not in text]
