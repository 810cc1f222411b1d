"""`explain`: pictures and a checkpoint in, a folder and lines out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_gradcam import Archive
from lightning_gradcam.cli import main
from lightning_gradcam.cli.options import target
from tests.cli.tiny import Module, write_checkpoint_and_pictures

MODEL = ["--model", "tests.cli.tiny:Module", "--mean", "0", "--std", "1"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint_and_pictures()


def test_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--layers", "net.relu1", "net.relu2", "--targets", "predicted", "3", "--score", "probability"]
    assert main(["explain", "a.ckpt", "pictures", "-o", "out", *MODEL, *options, "--progress"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    archive = Archive.open("out")
    assert (archive.layers, archive.targets, archive.epochs) == (("net.relu1", "net.relu2"), ("predicted", "3"), (2,))
    record = archive.record(0)
    for place in range(3):
        assert lines[place] == f"{place}.png  {record.predicted[place]} {record.confidence[place]:.1%}"
    assert lines[3] == "out/report.html: 3 images, net.relu1, net.relu2"
    assert "images: 100%" in said.err
    assert Path("out/report.html").is_file()
    assert len(list(Path("out/overlays").iterdir())) == 12


def test_boxes_above_a_threshold() -> None:
    def drawn(*options: str) -> bytes:
        assert main(["explain", "a.ckpt", "pictures", "-o", "out", "--force", *MODEL, *options]) == 0
        return b"".join(path.read_bytes() for path in sorted(Path("out/overlays").iterdir()))

    plain, boxes = drawn(), drawn("--boxes")
    assert boxes == drawn("--box-threshold", "0.15") != plain
    assert drawn("--box-threshold", "0.95") not in (plain, boxes)


def test_signed_maps() -> None:
    def drawn(*options: str) -> bytes:
        assert main(["explain", "a.ckpt", "pictures", "-o", "out", "--force", *MODEL, *options]) == 0
        return b"".join(path.read_bytes() for path in sorted(Path("out/overlays").iterdir()))

    assert drawn("--signed") != drawn()


def test_a_scale_for_each_map(capsys: pytest.CaptureFixture[str]) -> None:
    def drawn(*options: str) -> list[bytes]:
        command = ["explain", "a.ckpt", "pictures", "-o", "out", "--force", *MODEL, "--targets", "predicted", "3"]
        assert main([*command, *options]) == 0
        return [path.read_bytes() for path in sorted(Path("out/overlays").iterdir())]

    assert drawn("--scale", "run") == drawn() != drawn("--scale", "image")
    assert main(["explain", "a.ckpt", "pictures", "-o", "other", *MODEL, "--scale", "imge"]) == 1
    assert "'imge'; did you mean 'image'" in capsys.readouterr().err


def test_files_and_folders_with_the_most_likely_classes(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 20)).save("wide.jpg")
    options = ["--top", "3", "--size", "8", "--class-names", "ant", "bee", "cat", "dog", "eel", "--targets", "bee"]
    assert main(["explain", "a.ckpt", "wide.jpg", "pictures", "-o", "out", *MODEL, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["wide.jpg", "0.png", "1.png", "2.png"]
    assert lines[0].count("%") == 3
    assert Archive.open("out").targets == ("1",)


def test_the_transform_of_a_data_module(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--model", "tests.cli.tiny:Module", "--data", "tests.saved_models.test_explanation:Data"]
    assert main(["explain", "a.ckpt", "pictures", "-o", "out", *names]) == 0
    assert Archive.open("out").probes.class_names == ("ant", "bee", "cat", "dog", "elk")
    assert "no transform" not in capsys.readouterr().err


def test_what_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "a.ckpt", "pictures/0.png", "-o", "out", "--model", "tests.cli.tiny:Module"]) == 0
    said = capsys.readouterr().err
    assert "lightning-gradcam: no transform is known, so images are only scaled to 0…1" in said
    assert "lightning-gradcam: the file does not say at which step" in said
    Path("wide.py").write_text("from tests.cli.tiny import Module\n")
    torch.save(Module().state_dict(), "weights.pth")
    assert main(["explain", "weights.pth", "pictures/0.png", "-o", "other", "--model", "wide.py:Module"]) == 0
    found = capsys.readouterr()
    assert "at which step" not in found.err
    assert found.out.endswith("other/report.html: 1 image, net.relu2\n")


def test_what_can_not_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["nowhere.ckpt", "pictures", *MODEL], "no file 'nowhere.ckpt'"),
        (["a.ckpt", "nowhere.png", *MODEL], "no file 'nowhere.png'"),
        (["a.ckpt", "pictures"], "is not known: it was not saved by LightningCLI"),
        (["a.ckpt", "pictures", *MODEL, "--layers", "net.rely1"], "did you mean 'net.relu1'"),
        (["a.ckpt", "pictures", *MODEL, "--targets", "cow"], "'cow'"),
        (["a.ckpt", "pictures", *MODEL, "--size", "9"], "the forward pass failed on images [3, 1, 9, 9]"),
        (["a.ckpt", "pictures", *MODEL, "--top", "11"], "--top: got 11; pass 1 to 10"),
        (["a.ckpt", "pictures", *MODEL, "--size", "9", "9", "9"], "size: got [9, 9, 9]"),
        (["a.ckpt", "pictures", *MODEL, "--device", "gpu"], "device: got 'gpu'"),
        (["a.ckpt", "pictures", *MODEL, "-o", "a.ckpt"], "'a.ckpt' is not a folder"),
        (["a.ckpt", "pictures", *MODEL, "--model-args", "depth=3"], "Module can't be created with depth=3"),
        (["a.ckpt", "pictures", *MODEL, "--model-args", "depth"], "model-args: got 'depth'"),
    ):
        assert main(["explain", *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("lightning-gradcam: ")
        assert said in line
        assert not Path("explained").exists()


def test_usage_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, said in (
        (["explain", "a.ckpt"], 2, "IMAGES"),
        (["explain", "a.ckpt", "pictures", "--score", "loud"], 2, "--score"),
        (["explain", "--help"], 0, "last.ckpt photos/ -o maps"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
        found = capsys.readouterr()
        assert said in found.err + found.out


def test_targets_on_the_command_line() -> None:
    assert [target(text) for text in ("3", "label", '{"top": 3}', "true", "1.5")] == [
        3,
        "label",
        {"top": 3},
        "true",
        "1.5",
    ]


def test_arguments_of_the_model_and_an_output_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    Path("several.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.conv, self.head = nn.Conv2d(1, width, 3), nn.Linear(width, 3)\n"
        "    def forward(self, x):\n"
        "        return {'aux': x, 'out': self.head(self.conv(x).mean((2, 3)))}\n"
    )
    from torch import nn

    torch.save({"conv.weight": torch.ones(5, 1, 3, 3), "conv.bias": torch.zeros(5), **_head(nn.Linear(5, 3))}, "a.pth")
    arguments = ["explain", "a.pth", "pictures", "--model", "several.py:Net", "-o", "out"]
    assert main(arguments) == 1
    assert "Net can't be created with no arguments" in capsys.readouterr().err
    assert main([*arguments, "--model-args", "width=5"]) == 1
    assert "output_key" in capsys.readouterr().err
    assert main([*arguments, "--model-args", "width=5", "--output-key", "out"]) == 0
    assert Archive.open("out").layers == ("conv",)


def _head(linear: torch.nn.Linear) -> dict[str, torch.Tensor]:
    return {f"head.{name}": value for name, value in linear.state_dict().items()}
