"""`explain` of a model named alone, into a folder that is there, with names of classes from a file."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from lightning_gradcam import Archive, ConfigurationError, GradCAMCallback
from lightning_gradcam.cli import main
from lightning_gradcam.saved_models.construction import read_class_names
from tests.cli.tiny import Module
from tests.conftest import TinyModule, loaders

HERE = "tests.cli.test_model_alone"
NAMES = ["ant", "bee", "cat", "dog", "eel"]
NUMBERED = {str(place): name for place, name in enumerate(NAMES)}


def offline(weights: str | None = None) -> nn.Module:
    """As a function of torchvision's does where there is no network."""
    if weights is not None:
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")
    torch.manual_seed(0)
    return Module().net


@pytest.fixture(autouse=True)
def _in_a_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(Module().state_dict(), "a.pth")
    Path("pictures").mkdir()
    for place, picture in enumerate(np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)):
        Image.fromarray(picture).save(f"pictures/{place}.png")


def test_a_model_of_torchvision(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model-args", "weights=None", "num_classes=7", "--size", "64", "--mean", "0.5", "--std", "0.2"]
    model = ["--model", "torchvision.models:resnet18", *options]
    assert main(["explain", "pictures/0.png", *model, "--layers", "layer4", "-o", "one"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("one/report.html: 1 image, layer4\n")
    assert "no checkpoint or weights were given, so the maps show the model's initial weights" in said.err
    # A folder, several pictures, and pictures behind the options.
    for paths in (["pictures"], ["pictures/0.png", "pictures/1.png"], ["pictures/0.png", "-o", "x", "pictures/1.png"]):
        assert main(["explain", *paths, *model, "--layers", "layer4", "-o", "-".join(paths).replace("/", "")]) == 0
        assert ": 2 images, layer4\n" in capsys.readouterr().out


def test_options_may_stand_between_checkpoint_and_pictures() -> None:
    model = ["--model", "tests.cli.tiny:Module"]
    assert main(["explain", "a.pth", "-o", "out", "pictures/0.png", *model, "--layers", "net.relu1"]) == 0
    assert len(Archive.open("out").probes) == 1
    with pytest.raises(SystemExit):
        main(["explain", "a.pth", "pictures", *model, "--wibble", "3"])


def test_pictures_without_any_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", "pictures/0.png", "pictures/1.png"])
    assert ended.value.code == 2
    assert (
        "'pictures/0.png' is not a checkpoint, so there is no model to explain; pass CKPT first, or --model"
        in capsys.readouterr().err
    )


def test_a_download_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", f"{HERE}:offline", "--mean", "0", "--layers", "relu1"]
    assert main(["explain", "pictures", *options, "--model-args", "weights=DEFAULT", "--std", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lightning-gradcam: model: offline could not download its weights (URLError: ")
    assert "pass it as the checkpoint: explain FILE IMAGES --model" in line
    assert main(["explain", "pictures", *options, "--model-args", "weights=None", "--std", "1"]) == 0


def test_force_replaces_what_explain_has_left(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1", "-o", "out"]
    assert main(["explain", "a.pth", "pictures", *model, "--layers", "net.relu1", "net.relu2"]) == 0
    mine = [Path("out", name) for name in ("mine.txt", "sheets/mine.png", "overlays/mine.png")]
    for path in mine:
        path.write_text("of the user's own")
    capsys.readouterr()
    assert main(["explain", "a.pth", "pictures/1.png", *model, "--layers", "net.conv1"]) == 1
    assert (
        "'out' already contains an archive; pass another folder (-o), or replace it (--force)"
        in capsys.readouterr().err
    )
    assert Archive.open("out").layers == ("net.relu1", "net.relu2")
    assert main(["explain", "a.pth", "pictures/1.png", *model, "--layers", "net.conv1", "--force"]) == 0
    archive = Archive.open("out")
    assert (archive.layers, len(archive.steps), archive.probes.ids) == (("net.conv1",), 1, ("1.png",))
    assert all(path.read_text() == "of the user's own" for path in mine)
    drawn = [sorted({path.name for path in Path("out", inner).iterdir()}) for inner in ("overlays", "sheets")]
    assert drawn == [["1.png.net.conv1.gradcam.predicted.png", "mine.png"], ["mine.png", "net.conv1.png"]]


def test_a_report_of_the_users_own_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/report.html").write_text("of the user's own")
    model = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1", "-o", "out"]
    assert main(["explain", "a.pth", "pictures", *model, "--layers", "net.relu1"]) == 1
    assert "'out' already contains a report.html; pass another folder (-o), or replace it" in capsys.readouterr().err
    assert [path.read_text() for path in Path("out").iterdir()] == ["of the user's own"]


def test_sheets_and_overlays_of_an_earlier_explain_are_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("pictures")
    model = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1", "--layers", "net.relu1"]
    assert main(["explain", "../a.pth", ".", *model]) == 0
    assert main(["explain", "../a.pth", ".", *model, "--force"]) == 0
    assert Archive.open("explained").probes.ids == ("0.png", "1.png")
    # Whoever names the folder itself means it.
    assert main(["explain", "../a.pth", "explained/overlays", *model, "--size", "8", "-o", "again"]) == 0
    assert len(Archive.open("again").probes) == 2


def test_more_names_than_classes(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1", "--layers", "net.relu1", "--force"]
    assert main(["explain", "a.pth", "pictures", *model, "--class-names", *NAMES, *"fgh"]) == 0
    classes = Module().net(torch.zeros(1, 1, 8, 8)).shape[1]
    known = f"class_names: 8 names are known, but the model has {classes} classes: the names may belong to another"
    assert known in capsys.readouterr().err
    assert main(["explain", "a.pth", "pictures", *model, "--class-names", *(NAMES + list("fgh"))[:classes]]) == 0
    assert "class_names" not in capsys.readouterr().err


def test_pictures_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "pictrues", "--model", "tests.cli.tiny:Module"]) == 1
    assert "IMAGES: there is no file or folder 'pictrues'; pass images or a folder" in capsys.readouterr().err


def test_force_never_replaces_the_record_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = GradCAMCallback("net.relu1", num_probes=2, evolution=False)
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {**options, "accelerator": "cpu", "max_epochs": 1}
    trainer = pl.Trainer(default_root_dir=tmp_path, callbacks=[callback], **options)
    trainer.fit(TinyModule(), *loaders())
    assert callback.archive is not None
    folder = Path(callback.archive.path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1"]
    assert main(["explain", "a.pth", "pictures", *model, "-o", str(folder), "--force"]) == 1
    assert "contains an archive that explain did not create, such as a training run's record" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "\n".join(NAMES)),
        ("names", "\ufeff" + "\r\n".join(NAMES) + "\n\n"),
        ("names.json", json.dumps(NAMES)),
        ("numbered.json", json.dumps(NUMBERED)),
        ("imagenet_class_index.json", json.dumps({place: ["n0", name] for place, name in NUMBERED.items()})),
        ("class_to_idx.json", json.dumps({name: place for place, name in enumerate(NAMES)})),
        ("config.json", json.dumps({"architectures": ["Net"], "id2label": NUMBERED})),
    ],
)
def test_names_of_classes_in_a_file(file: str, text: str) -> None:
    Path(file).write_text(text, encoding="utf-8")
    options = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1", "--layers", "net.relu1"]
    assert main(["explain", "a.pth", "pictures", "-o", "out", *options, "--class-names", file, "--targets", "bee"]) == 0
    archive = Archive.open("out")
    assert archive.probes.class_names == tuple(NAMES)
    assert archive.targets == ("1",)
    assert main(["probes", "draw", "--folder", "pictures", "--class-names", file]) == 0


def test_names_of_classes_of_weights() -> None:
    for name in ("ResNet18_Weights", "ResNet18_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V1"):
        names = read_class_names(f"torchvision.models:{name}")
        assert names is not None
        assert (len(names), names[:2], names[-1]) == (1000, ["tench", "goldfish"], "toilet tissue")
    assert read_class_names("imagenet") == read_class_names(["ImageNet"]) == names
    assert read_class_names(f"{HERE}:NAMES") == NAMES
    assert read_class_names(["T-shirt/top", "Shirt"]) == ["T-shirt/top", "Shirt"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["nowhere.txt"],
            "'nowhere.txt' is no file; pass the names, a file with one name per line, a JSON file, 'imagenet'",
        ),
        (["data/nowhere"], "'data/nowhere' is no file"),
        (["./pictures"], "'./pictures' is a folder"),
        (["pictures"], "'pictures' is a folder"),
        (
            ["ant", "names.txt"],
            "'names.txt' among 2 names is a file, but would be read as a class name; pass either the file",
        ),
        (["gap.txt"], "line 2 of 'gap.txt' is empty; write one name per line, in the order of the model's outputs"),
        (["empty.txt"], "'empty.txt' is empty"),
        (["numbers.json"], "'numbers.json' does not contain a list of names"),
        (["holes.json"], "'holes.json' does not number its names from 0 to 1"),
        (["broken.json"], "'broken.json' can't be read (JSONDecodeError"),
        (["a.pth"], "'a.pth' can't be read (UnicodeDecodeError"),
        (["torchvision.models:ResNet18_Weight"], "has no 'ResNet18_Weight'; did you mean 'ResNet18_Weights'?"),
        (["torchvision.models:resnet18"], "'torchvision.models:resnet18' does not contain a list of names"),
    ],
)
def test_a_path_that_would_be_taken_for_a_class_is_refused(
    names: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, text in (
        ("gap.txt", "ant\n\nbee"),
        ("empty.txt", " \n"),
        ("numbers.json", "[1, 2]"),
        ("holes.json", '{"0": "ant", "2": "bee"}'),
        ("broken.json", "[1"),
    ):
        Path(file).write_text(text)
    options = ["--model", "tests.cli.tiny:Module", "-o", "out", "--class-names", *names]
    drawing = ["probes", "draw", "--folder", "pictures", *options[4:]]
    for command in (["explain", "a.pth", "pictures", *options], drawing):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert len(line) <= 500 + len("lightning-gradcam: ")
    assert not Path("out").exists()
    with pytest.raises(ConfigurationError):
        read_class_names(names[0] if len(names) == 1 else names)


def test_ten_classes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "torchvision.models:resnet18", "--model-args", "num_classes=12", "--size", "64", "--std", "1"]
    arguments = ["explain", "pictures/0.png", *model, "--mean", "0", "--layers", "layer4"]
    assert main([*arguments, "--top", "10"]) == 0
    assert capsys.readouterr().out.splitlines()[0].count("%") == 10
