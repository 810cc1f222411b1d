"""Checkpoints of a plain script, made by a real `fit` in another folder and process: what they tell of themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gradcam import Archive, ProbeSet, explain
from lightning_gradcam.cli import main
from lightning_gradcam.errors import RefusedError

ROOT = Path(__file__).parents[2]
SCRIPT = """
from pathlib import Path
import pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader
from lightning_gradcam import FeatureMapCallback, GradCAMCallback
from tests.conftest import TinyModule, tiny_data

(Path(__file__).parent / "imported").touch()

class Net(TinyModule):
    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.spare = nn.Linear(width, 2)

class Data(pl.LightningDataModule):
    def val_transform(self, image):
        return image

    def train_dataloader(self):
        return DataLoader(tiny_data(8), 4)

    val_dataloader = train_dataloader

if __name__ == "__main__":
    for layers, file in (("auto", "auto.ckpt"), (["net.conv1", "net.relu1"], "last.ckpt")):
        callbacks = [
            GradCAMCallback(layers, num_probes=2, evolution=False),
            FeatureMapCallback("net.relu1", num_probes=2),
        ]
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=callbacks, logger=False, enable_progress_bar=False
        )
        trainer.fit(Net(5), DataLoader(tiny_data(8), 4), DataLoader(tiny_data(8), 4))
        trainer.save_checkpoint(file)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the checkpoint that it has left."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "fitted.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "fitted.py"], cwd=folder, env=environment, check=True, capture_output=True)
    shutil.rmtree(folder / "gradcam_runs")
    (folder / "imported").unlink()
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    ProbeSet(torch.rand(2, 1, 8, 8)).save("probes.npz")
    yield
    sys.modules.pop("fitted", None)
    (project / "imported").unlink(missing_ok=True)


def commands(file: Path) -> dict[str, list[str]]:
    return {
        "explain": ["explain", str(file), "probes.npz", "-o", "out"],
        "layers": ["layers", str(file), "--input-shape", "1,8,8"],
        "replay": ["replay", str(file), "-o", "again", "--probes", "probes.npz"],
    }


@pytest.mark.parametrize("command", ["explain", "layers", "replay"])
def test_the_scripts_class_is_imported_with_trust_alone(
    command: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = commands(project / "last.ckpt")[command]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{project}/fitted.py:Net"[:60] in line
    assert "add --trust" in line
    assert len(line) <= 500 + len("lightning-gradcam: ")
    assert not (project / "imported").exists()
    assert main([*arguments, "--trust"]) == 0
    assert (project / "imported").exists()
    # Nobody was trained again.
    assert not (project / "gradcam_runs").exists()
    assert not Path("gradcam_runs").exists()
    if command == "layers":
        assert "Net: " in capsys.readouterr().out
    elif command == "replay":
        assert Archive.open("again/gradcam").layers == ("net.conv1", "net.relu1")


def test_the_layers_are_those_of_the_run_unless_others_are_asked_for(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", f"{project}/fitted.py:Net"]
    arguments = commands(project / "last.ckpt")["explain"]
    assert main([*arguments, *model]) == 0
    assert Archive.open("out").layers == ("net.conv1", "net.relu1")
    assert main([*arguments[:-1], "auto", *model, "--layers", "auto"]) == 0
    assert Archive.open("auto").layers == ("net.relu2",)
    assert main([*arguments[:-1], "own", *model, "--layers", "net.conv2"]) == 0
    assert Archive.open("own").layers == ("net.conv2",)
    # What "auto" took in the run is looked up, not looked for; with other weights it might be another.
    contents = torch.load(project / "auto.ckpt", weights_only=True)
    (state,) = (state for key, state in contents["callbacks"].items() if key.startswith("GradCAMCallback{"))
    assert state["layers"] == ["net.relu2"]
    state["layers"] = ["net.relu1"]
    torch.save(contents, "changed.ckpt")
    assert main([*commands(Path("changed.ckpt"))["explain"][:-1], "third", *model]) == 0
    assert Archive.open("third").layers == ("net.relu1",)
    state["layers"] = ["net.gone"]
    torch.save(contents, "changed.ckpt")
    capsys.readouterr()
    assert main([*commands(Path("changed.ckpt"))["explain"][:-1], "fourth", *model]) == 0
    assert Archive.open("fourth").layers == ("net.relu2",)
    assert (
        "the run explained net.gone, which this model does not have; 'auto' is used instead" in capsys.readouterr().err
    )


def test_the_layers_of_a_config(project: Path) -> None:
    callback = "{class_path: lightning_gradcam.GradCAMCallback, init_args: {layers: net.norm1}}"
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").write_text(f"trainer: {{callbacks: [{callback}]}}\n")
    contents = torch.load(project / "last.ckpt", weights_only=True)
    torch.save(contents, "run/checkpoints/a.ckpt")
    arguments = ["explain", "run/checkpoints/a.ckpt", "probes.npz", "--model", f"{project}/fitted.py:Net", "-o"]
    assert main([*arguments, "stored"]) == 0
    assert Archive.open("stored").layers == ("net.conv1", "net.relu1")
    # The config that is given comes before what is stored, and that before the config beside.
    assert main([*arguments, "given", "--config", "run/config.yaml"]) == 0
    assert Archive.open("given").layers == ("net.norm1",)
    torch.save({**contents, "callbacks": {}}, "run/checkpoints/a.ckpt")
    assert main([*arguments, "beside"]) == 0
    assert Archive.open("beside").layers == ("net.norm1",)


def test_a_class_that_the_users_own_code_has_imported_needs_no_trust(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    import_module("fitted")
    found = explain(project / "last.ckpt", torch.rand(1, 1, 8, 8))
    assert [key.layer for key in found.record.maps] == ["net.conv1", "net.relu1"]
    for command in ("explain", "replay"):
        del sys.modules["fitted"]
        arguments = commands(project / "last.ckpt")[command]
        assert main(arguments) == 1
        # The data module is named, and is of the same script.
        assert main([*arguments, "--data", f"{project}/fitted.py:Data"]) == 0


@pytest.mark.parametrize(
    "name", ["os:system", "evil:Other", "evil:run", "evil.py:Other", "evil", "a:b:c", ":x", "x" * 2000]
)
@pytest.mark.parametrize("options", [[], ["--trust"]])
def test_what_a_stranger_stores_as_the_class_is_not_called(
    name: str, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.saved_models.test_foreign_files import EVIL

    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    Path("evil.py").write_text(EVIL)
    state = {"model": name, "layers": ["net.relu1"]}
    callbacks = {"GradCAMCallback{'name': 'gradcam'}": state}
    torch.save({"state_dict": {}, "callbacks": callbacks, "hyper_parameters": {"command": "touch called"}}, "a.ckpt")
    for command in commands(Path("a.ckpt")).values():
        assert main([*command, *options]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("lightning-gradcam: ")
        assert len(line) <= 500 + len("lightning-gradcam: ")
        assert not Path("called").exists()
        if not options:
            assert not Path("imported").exists()
    main([*commands(Path("a.ckpt"))["explain"], "--model", "tests.cli.tiny:Module"])
    assert Path("imported").exists() == bool(options and "evil" in name and ":" in name)


def test_a_loaded_object_that_is_no_module_is_refused() -> None:
    torch.save({"state_dict": {}, "callbacks": {"GradCAMCallback{}": {"model": "subprocess:Popen"}}}, "a.ckpt")
    with pytest.raises(
        RefusedError, match="'subprocess:Popen', which is not a subclass of Module, so it was not called"
    ):
        explain("a.ckpt", torch.rand(1, 1, 8, 8))
