"""`layers`: what is listed, of models from everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gradcam.cli import main
from lightning_gradcam.cli.layers import _columns
from tests.cli.tiny import CONFIG, Module, config
from tests.conftest import tiny_data, trainer


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["layers", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["layers"]}


def test_every_layer_with_its_output_calls_parameters_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "tests.cli.tiny:Plain", "--model-args", "width=6", "--input-shape", "1,8,8"]
    found = listed(capsys, *arguments)
    # 6*(9+1), 6*(6*9+1), 2*(6+1), 3*(6+1)
    assert found["parameters"] == 60 + 330 + 14 + 21
    assert found["inputs"] == [1, 8, 8]
    assert found["auto"] == "twice"
    rows = by_name(found)
    assert list(rows) == ["conv", "twice", "spare", "spare.0", "unread", "pool", "head"]
    assert rows["conv"] == {
        "name": "conv", "kind": "Conv2d", "output": ["N", 6, 8, 8], "parameters": 60, "calls": 1, "layout": "NCHW",
        "grid": [8, 8], "why": None, "spatial": True,
    }  # fmt: skip
    assert [rows[name]["calls"] for name in rows] == [1, 2, 0, 0, 1, 1, 1]
    why = {name: row["why"] for name, row in rows.items() if not row["spatial"]}
    assert why == {
        "spare": "never called",
        "spare.0": "never called",
        "unread": "the output ignores it",
        "pool": "one value per channel",
        "head": "flat",
    }
    assert rows["head"]["output"] == ["N", 3]


def test_the_table_is_aligned_and_marks_what_auto_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "--model", "tests.cli.tiny:Plain", "--input-shape", "1x8x8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Plain: 213 parameters, 7 layers; input [N, 1, 8, 8]"
    assert lines[2:5] == [
        "  layer    class              output        parameters  calls  map",
        "  conv     Conv2d             [N, 4, 8, 8]          40      1  8 x 8",
        "* twice    Conv2d             [N, 4, 8, 8]         148      2  8 x 8",
    ]
    assert lines[-1] == '* what layers="auto" selects: twice'


def test_only_layers_with_a_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "--model", "tests.cli.tiny:network", "--input-shape", "1,8,8", "--spatial"]) == 0
    said = capsys.readouterr().out
    assert "conv" in said
    assert "head" not in said


def test_a_function_that_returns_a_module_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "torchvision.models.vision_transformer:VisionTransformer", "--model-args"]
    arguments += ["image_size=16", "patch_size=8", "num_layers=2", "num_heads=2", "hidden_dim=8", "mlp_dim=8"]
    found = listed(capsys, *arguments, "--input-shape", "3,16,16")
    rows = by_name(found)
    assert found["auto"] == "encoder.layers.encoder_layer_1.ln_1"
    assert rows[found["auto"]]["layout"] == "NLC:1+2x2"
    assert rows[found["auto"]]["output"] == ["N", 5, 8]
    assert rows["encoder.ln"]["why"] == "the output ignores it"


def test_a_configurations_model_and_a_sample_of_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "--config", config(tmp_path), "--set", "model.init_args.width=9")
    assert found["model"] == "Module"
    assert found["inputs"] == [1, 8, 8]
    assert found["auto"] == "net.relu2"
    assert by_name(found)["net"]["why"] == "flat"
    assert not (tmp_path / "logs").exists()


def test_a_checkpoints_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saver = trainer(tmp_path)
    saver.strategy.connect(Module())
    saver.save_checkpoint(tmp_path / "some.ckpt")
    arguments = [str(tmp_path / "some.ckpt"), "--model", "tests.cli.tiny:Module"]
    assert listed(capsys, *arguments, "--input-shape", "1,8,8")["auto"] == "net.relu2"
    # The shape can come from the data that a configuration names.
    assert listed(capsys, *arguments, "--config", config(tmp_path))["inputs"] == [1, 8, 8]
    assert main(["layers", *arguments]) == 1
    assert "--input-shape" in capsys.readouterr().err


def test_the_models_own_example_is_an_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, "--model", "tests.cli.test_layers:WithExample")["inputs"] == [1, 8, 8]


class WithExample(Module):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = tiny_data(1).tensors[0]


def test_lazy_layers_are_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "--model", "tests.cli.test_layers:lazy", "--input-shape", "1,8,8")
    assert by_name(found)["0"]["parameters"] == 40


def lazy() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no_such_package:Net", "--input-shape", "1,8,8"], "no_such_package"),
        (["--model", "tests.cli.tiny:Nett", "--input-shape", "1,8,8"], "Nett"),
        (["--model", "tests.cli.tiny:Plain"], "--input-shape"),
        (["--model", "tests.cli.tiny:Plain", "--input-shape", "3,8,8"], "forward pass failed on inputs [2, 3, 8, 8]"),
        (["--model", "tests.cli.tiny:Plain", "--model-args", "width"], "key=value"),
        (["--model", "builtins:dict", "--input-shape", "1,8,8"], "returned a dict"),
        (["missing.ckpt"], "missing.ckpt"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_failures_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lightning-gradcam: ")
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model", "a:B", "--input-shape", "1,x"],
        ["--model", "a:B", "--input-shape", "0,8"],
        ["some.ckpt", "--model-args", "width=3"],
        ["some.ckpt", "--set", "a=b"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["layers", *arguments])
    assert ended.value.code == 2
    assert "usage: lightning-gradcam layers" in capsys.readouterr().err


def test_long_names_go_on_in_further_lines_and_lose_nothing() -> None:
    name = "encoder.layers." + "a_very_long_block_name." * 6 + "end"
    why = "returns windows of the picture and no map of it, which can't be told apart " * 2
    rows = [("*", name, "SomeWideClassNameHere", "[N, 96, 196, 768]", "1,234,567", "12", f"no: {why}")]
    lines = _columns(rows, 120)
    assert all(len(line) <= 120 for line in lines)
    width = lines[0].index("class") - 2
    assert "".join(line[2 : 2 + width].split()[0] for line in lines[1:] if line[2 : 2 + width].strip()) == name
    start = lines[0].index("map")
    assert " ".join(line[start:] for line in lines[1:] if len(line) > start).split() == f"no: {why}".split()


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    code = "import sys; from lightning_gradcam.cli import main; sys.exit(main())"
    command = f"{sys.executable} -c '{code}' layers --model tests.cli.tiny:Plain --input-shape 1,8,8 | true"
    folder = Path(__file__).parents[2]
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_only_the_first_callback_of_ours_counts_and_other_configurations_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = CONFIG[: CONFIG.index("  callbacks:")] + "  callbacks: null\n"
    assert listed(capsys, "--config", config(tmp_path, text))["auto"] == "net.relu2"
