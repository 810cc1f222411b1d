"""`replay`: the checkpoints of a training, from a config or from options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gradcam import Archive
from lightning_gradcam.cli import main
from tests.cli.tiny import CONFIG, config

SAVING = """
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {save_top_k: -1, filename: "{epoch}"}
"""
VERSION = Path("logs/tiny/version_0")
CHECKPOINTS = str(VERSION / "checkpoints")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(folder: Path, *, callback: bool = True, text: str = CONFIG) -> Path:
    """Trains three epochs with a checkpoint of each; returns the run's folder."""
    head, _, ours = text.partition("    - class_path: lightning_gradcam.GradCAMCallback\n")
    folder.mkdir(exist_ok=True)
    whole = head + (f"    - class_path: lightning_gradcam.GradCAMCallback\n{ours}" if callback else "") + SAVING
    file = config(folder, whole.replace("save_dir: logs", f"save_dir: {folder}/logs"))
    assert main(["fit", "--config", file, "--trainer.max_epochs=3"]) == 0
    return folder / VERSION


def assert_same(one: Archive, other: Archive) -> None:
    assert (one.steps, one.epochs, one.layers) == (other.steps, other.epochs, other.layers)
    assert one.epochs == (0, 1, 2)
    assert one.probes.fingerprint == other.probes.fingerprint
    for place in range(3):
        first, second = one.record(place), other.record(place)
        for key in first.maps:
            np.testing.assert_array_equal(first.maps[key], second.maps[key])
        for target in first.scores:
            np.testing.assert_array_equal(first.scores[target], second.scores[target])


def test_the_config_beside_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = fit(tmp_path)
    capsys.readouterr()
    assert main(["replay", CHECKPOINTS, "-o", "again", "--progress"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/again/gradcam: 3 steps from 3 checkpoints\n"
    assert "checkpoints: 100%" in said.err
    assert "GPU available" not in said.err
    assert_same(Archive.open("again/gradcam"), Archive.open(version / "gradcam"))


def test_a_training_without_the_callback(tmp_path: Path) -> None:
    """The same seed gives the same data, though its order is drawn at `setup`; nothing in the files says which."""
    live, without = fit(tmp_path / "a"), fit(tmp_path / "b", callback=False)
    saved = torch.load(next((without / "checkpoints").iterdir()), weights_only=True)
    assert not any("GradCAM" in key for key in saved["callbacks"])
    assert main(["replay", str(without / "checkpoints"), "--config", str(live / "config.yaml"), "-o", "again"]) == 0
    assert_same(Archive.open("again/gradcam"), Archive.open(live / "gradcam"))


def test_a_callback_that_cannot_be_imported_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = fit(tmp_path)
    file = version / "config.yaml"
    file.write_text(file.read_text().replace("lightning_gradcam.GradCAMCallback", "not_here.OurGradCAM"))
    capsys.readouterr()
    assert main(["replay", CHECKPOINTS, "--config", str(file), "-o", "again"]) == 0
    said = capsys.readouterr().err
    assert "the config's callback 'not_here.OurGradCAM' is skipped: callbacks: 'not_here' can't be imported" in said
    assert "ModelCheckpoint" not in said


def test_the_configs_precision(tmp_path: Path) -> None:
    version = fit(tmp_path, text=CONFIG.replace("accelerator: cpu", "accelerator: cpu\n  precision: bf16-mixed"))
    assert main(["replay", CHECKPOINTS, "-o", "again"]) == 0
    assert_same(Archive.open("again/gradcam"), Archive.open(version / "gradcam"))
    assert main(["replay", CHECKPOINTS, "-o", "full", "--precision", "32-true"]) == 0
    full, half = Archive.open("full/gradcam"), Archive.open("again/gradcam")
    assert not np.array_equal(full.maps("net.relu1"), half.maps("net.relu1"))


def test_options_come_before_the_configs(tmp_path: Path) -> None:
    fit(tmp_path, text=CONFIG.replace("evolution: false", "evolution: false, every_n_epochs: 2, log_untrained: true"))
    options = ["--layers", "net.relu2", "net.conv1", "--targets", "label", "3", "--methods", "layercam", "--all"]
    assert main(["replay", CHECKPOINTS, "-o", "again", *options]) == 0
    archive = Archive.open("again/gradcam")
    assert (archive.layers, archive.methods, archive.targets) == (
        ("net.relu2", "net.conv1"),
        ("layercam",),
        ("label", "3"),
    )
    assert archive.epochs == (0, 1, 2)


def test_the_configs_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, text=CONFIG.replace("evolution: false", "evolution: false, every_n_epochs: 2"))
    capsys.readouterr()
    assert main(["replay", CHECKPOINTS, "-o", "again"]) == 0
    assert (
        "1 step from 3 checkpoints; the other 2 are not due under the callback's schedule (--all includes them)"
    ) in capsys.readouterr().out
    assert Archive.open("again/gradcam").epochs == (1,)


def test_without_a_config(tmp_path: Path) -> None:
    version = fit(tmp_path)
    (version / "config.yaml").unlink()
    names = ["--model", "tests.cli.tiny:Module", "--data", "tests.cli.tiny:Data"]
    assert main(["replay", CHECKPOINTS, "-o", "again", *names, "--layers", "net.relu1", "--accelerator", "cpu"]) == 0
    # The data is in another order without the seed; the live run's archive has the probes.
    assert_same(Archive.open("again/gradcam"), Archive.open(version / "gradcam"))


def test_a_damaged_checkpoint_is_named_and_the_rest_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = fit(tmp_path)
    file = version / "checkpoints" / "epoch=1.ckpt"
    file.write_bytes(file.read_bytes()[:1000])
    capsys.readouterr()
    assert main(["replay", CHECKPOINTS, "-o", "again"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"lightning-gradcam: {CHECKPOINTS}/epoch=1.ckpt is skipped: ")
    assert "2 steps from 2 checkpoints" in said.out
    assert Archive.open("again/gradcam").epochs == (0, 2)


def test_what_can_not_be_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path)
    capsys.readouterr()
    for arguments, said in (
        (["nowhere"], "no file 'nowhere'"),
        ([CHECKPOINTS, "--layers", "net.nothing"], "'net.nothing'"),
        ([CHECKPOINTS, "--model", "tests.saved_models.test_replay:Wide"], "epoch=0.ckpt' does not fit Wide"),
        ([CHECKPOINTS, "-o", str(VERSION)], "already contains an archive"),
    ):
        assert main(["replay", *arguments]) == 1
        found = capsys.readouterr().err.splitlines()
        assert said in found[-1]
        assert found[-1].startswith("lightning-gradcam: ")


def test_usage_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, said in (
        (["replay"], 2, "CKPT"),
        (["replay", "--help"], 0, "replay version_0/checkpoints -o"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
        found = capsys.readouterr()
        assert said in found.err + found.out
