"""`probes`: the same draw as the callback's, the file, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gradcam import Archive, ProbeSet
from lightning_gradcam.cli import main
from lightning_gradcam.render.text import WRONG
from lightning_gradcam.sheets.contact_sheet import contact_sheet
from tests.cli.tiny import CONFIG, config


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def described(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["probes", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("drawn", "trained"),
    [
        # What the callback in the configuration says, and what the command line says instead.
        ([], []),
        (["-n", "7", "--seed", "4"], ["--trainer.callbacks.num_probes=7", "--trainer.callbacks.seed=4"]),
    ],
)
def test_the_draw_is_the_callbacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: list[str], trained: list[str]
) -> None:
    # The data's order comes from the global random numbers: the draw has to meet them where `fit` does.
    file = config(tmp_path)
    found = described(capsys, "draw", "--config", file, "-o", "chosen.npz", *drawn)
    assert not (tmp_path / "logs").exists()
    assert main(["fit", "--config", file, *trained]) == 0
    live = Archive.open(tmp_path / "logs" / "tiny" / "version_0" / "gradcam").probes
    assert found["fingerprint"] == live.fingerprint == ProbeSet.load("chosen.npz").fingerprint
    assert found["ids"] == list(live.ids)
    assert found["class_names"] == ["ant", "bee", "cat", "dog", "eel"]
    assert live.labels is not None
    assert found["labels"] == live.labels.tolist()


def test_a_saved_set_serves_another_run(tmp_path: Path) -> None:
    file = config(tmp_path)
    assert main(["probes", "draw", "--config", file, "-n", "3", "-o", "chosen.npz"]) == 0
    other = ["--seed_everything=9", "--trainer.callbacks.probes=chosen.npz"]
    assert main(["fit", "--config", file, *other]) == 0
    live = Archive.open(tmp_path / "logs" / "tiny" / "version_0" / "gradcam").probes
    assert live.fingerprint == ProbeSet.load("chosen.npz").fingerprint


def test_data_that_cant_be_indexed_gives_its_first_samples(tmp_path: Path) -> None:
    file = config(tmp_path)
    arguments = ["--set", "data=tests.cli.tiny.Stream", "-n", "10", "--no-progress"]
    assert main(["probes", "draw", "--config", file, *arguments]) == 0
    probes = ProbeSet.load("probes.npz")
    assert probes.labels is not None
    assert probes.labels.tolist() == [0, 1, 2, 3, 4] * 2
    assert main(["fit", "--config", file, "--data=tests.cli.tiny.Stream", "--trainer.callbacks.num_probes=10"]) == 0
    live = Archive.open(tmp_path / "logs" / "tiny" / "version_0" / "gradcam").probes
    assert live.fingerprint == probes.fingerprint


def test_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes = ProbeSet(
        torch.arange(2 * 64).reshape(2, 1, 8, 8).float(),
        ids=("a/1.png", "b"),
        labels=torch.tensor([1, 0]),
        class_names=("ant", "bee"),
        boxes=torch.tensor([[1.0, 2.0, 5.0, 6.0], [float("nan")] * 4]),
        note="a remark",
    )
    probes.save("some.npz")
    assert main(["probes", "show", "some.npz"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "some.npz: 2 probes, 1 x 8 x 8, 2 classes",
        f"fingerprint   {probes.fingerprint}",
        f"input pixels  {probes.display_source}",
        "note          a remark",
        "known parts   boxes",
        "",
        "place  id        true class",
        "    0  #a/1.png  1 bee",
        "    1  #b        0 ant",
    ]
    assert main(["probes", "show", "some.npz", "--sheet", "some.png"]) == 0
    assert capsys.readouterr().out.endswith("sheet: some.png\n")
    with Image.open("some.png") as image:
        assert image.size[0] >= 2 * 112


def test_the_sheet_has_every_probe_its_class_and_the_frame_of_its_parts() -> None:
    pictures = torch.stack([torch.full((1, 8, 8), value) for value in (0.2, 0.8)])
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, 2:6, 2:6] = True
    colors = np.array([[50, 0, 90], [0, 200, 90]], np.uint8)
    display = np.broadcast_to(colors[:, None, None], (2, 8, 8, 3))
    probes = ProbeSet(pictures, masks=masks, display=display, display_source="as drawn")
    sheet = contact_sheet(probes, "two").pixels
    # 8 x 8 is enlarged fourteen times; the first has no frame.
    assert (sheet == colors[0]).all(axis=2).sum() == 112**2
    red = (sheet == np.array(WRONG)).all(axis=2)
    assert red.sum() == 4 * 55, "a frame of 56 x 56, a pixel wide"
    assert (sheet == colors[1]).all(axis=2).sum() == 112**2 - 4 * 55
    many = contact_sheet(ProbeSet(torch.rand(40, 3, 8, 8)), "forty").pixels
    assert many.shape[1] <= 1200
    assert many.shape[0] > 4 * 112


def test_clips_show_their_middle_frame() -> None:
    display = np.zeros((1, 5, 20, 20, 3), np.uint8)
    display[0, 2] = 77
    sheet = contact_sheet(ProbeSet(torch.rand(1, 1, 5, 20, 20), display=display), "a clip").pixels
    assert (sheet == 77).all(axis=2).sum() == (20 * 6) ** 2


def pictures(folder: Path) -> None:
    for name, value in (("ant/1.png", 10), ("bee/1.png", 200), ("bee/2.png", 90)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 6), (value, value, value)).save(folder / name)


def test_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "own")
    arguments = ["--folder", "own", "--size", "4", "--mode", "L", "--mean", "0.5", "--std", "0.5"]
    found = described(capsys, "draw", *arguments, "-o", "own.npz", "--sheet", "own.webp")
    assert found["shape"] == [3, 1, 4, 4]
    assert found["ids"] == ["ant/1.png", "bee/1.png", "bee/2.png"]
    assert found["labels"] == [0, 1, 1]
    expected = torch.tensor([10, 200, 90]) / 255 * 2 - 1
    torch.testing.assert_close(ProbeSet.load("own.npz").inputs[:, 0, 0, 0], expected)
    with Image.open("own.webp") as image:
        assert image.format == "WEBP"
    found = described(capsys, "draw", "--folder", "own", "--size", "4", "6", "--class-names", "bee", "ant")
    assert found["shape"] == [3, 3, 4, 6]
    assert found["labels"] == [1, 0, 0]


def test_the_probes_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.archive.test_archive import started

    started(tmp_path / "gradcam", 10)
    found = described(capsys, "show", str(tmp_path / "gradcam"))
    assert found["fingerprint"] == Archive.open(tmp_path / "gradcam").probes.fingerprint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "missing.npz"], "missing.npz"),
        (["show", "broken.npz"], "truncated or not a probe set"),
        (["draw", "--folder", "missing"], "is not a folder"),
        (["draw", "--config", "tiny.yaml", "-n", "41"], "the data set has 40 samples"),
        (["draw", "--folder", "own", "--sheet", "own.txt"], ".png, .jpg"),
    ],
)
def test_failures_are_one_line(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.npz").write_bytes(b"no probes")
    pictures(tmp_path / "own")
    config(tmp_path)
    assert main(["probes", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lightning-gradcam: ")
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["draw"],
        ["draw", "--folder", "own", "-n", "3"],
        ["draw", "--folder", "own", "--size", "0"],
        ["draw", "--folder", "own", "--config", "tiny.yaml", "--size", "4"],
        ["show"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["probes", *arguments])
    assert ended.value.code == 2
    assert "usage: lightning-gradcam probes" in capsys.readouterr().err


def test_the_configurations_data_may_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, CONFIG.replace("tests.cli.tiny.Data", "tests.cli.tiny.Date"))
    assert main(["probes", "draw", "--config", file]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lightning-gradcam: config: ")
    assert "Date" in error
    assert len(error.splitlines()) == 1


def test_the_data_module_alone(capsys: pytest.CaptureFixture[str]) -> None:
    # As `explain` takes it; in the order of the data, the draw is that of a training with this data module.
    data = "tests.cli.tiny:Data"
    ordered = "data: {class_path: tests.cli.tiny.Data, init_args: {shuffled: false}}"
    Path("full.yaml").write_text(CONFIG.replace("data:\n  class_path: tests.cli.tiny.Data", ordered))
    wanted = described(capsys, "draw", "--config", "full.yaml", "-o", "full.npz")
    assert len(wanted["ids"]) == 5
    # The configuration of a script names no class; its arguments, seed and callback count.
    Path("script.yaml").write_text(CONFIG.replace("class_path: tests.cli.tiny.Data", "shuffled: false"))
    found = described(capsys, "draw", "--data", data, "--config", "script.yaml", "-o", "own.npz")
    assert found["fingerprint"] == wanted["fingerprint"]
    alone = described(capsys, "draw", "--data", data, "-n", "3", "-o", "alone.npz")
    assert (len(alone["ids"]), alone["class_names"]) == (3, ["ant", "bee", "cat", "dog", "eel"])
    stream = described(capsys, "draw", "--data", "tests.cli.tiny:Stream", "-n", "3", "-o", "stream.npz")
    assert stream["indices"] is None


def test_the_data_modules_transform_for_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").mkdir()
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save("pictures/a.png")
    data = ["--data", "tests.saved_models.test_explanation:Data"]
    found = described(capsys, "draw", "--folder", "pictures", *data, "-o", "probes.npz")
    assert found["display_source"] == "Normalize undone"
    assert ProbeSet.load("probes.npz").class_names == ("ant", "bee", "cat", "dog", "elk")


def test_what_data_can_not_do(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, said in (
        (["--data", "tests.cli.tiny:Empty"], 1, "has no validation loader"),
        (["--data", "tests.cli.tiny:Module"], 1, "returned a Module; pass the class of a LightningDataModule"),
        (["--data", "tests.cli.tiny:Dada"], 1, "did you mean 'Data'"),
        (["--data", "tests.cli.tiny:Data", "--set", "data.shuffled=false"], 2, "one --config and no --set"),
        ([], 2, "there is nothing to draw from; pass --config, --data or --folder"),
    ):
        try:
            ended = main(["probes", "draw", *arguments])
        except SystemExit as end:
            ended = int(end.code or 0)
        assert ended == code
        assert said in capsys.readouterr().err
