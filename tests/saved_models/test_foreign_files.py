"""A stranger's checkpoint, or the config beside it, runs nothing: the proof is a file that its code would have made."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_gradcam import GradCAMCallback, ProbeSet, explain
from lightning_gradcam.cli import main
from lightning_gradcam.errors import ConfigurationError, RefusedError
from lightning_gradcam.saved_models.config import read_config
from lightning_gradcam.saved_models.construction import named_class
from lightning_gradcam.saved_models.loader import load_checkpoint
from lightning_gradcam.saved_models.replay import replay
from lightning_gradcam.saved_models.stored import stored_arguments
from tests.cli.tiny import Module

MODEL = "tests.saved_models.test_foreign_files:Open"
EVIL = """
from pathlib import Path
import lightning_gradcam, pytorch_lightning as pl

Path("imported").touch()

def run(*_, **__): Path("called").touch()

class Other:
    __init__ = run

class Data(pl.LightningDataModule):
    def __init__(self, **_):
        super().__init__()
        run()

class Maps(lightning_gradcam.GradCAMCallback):
    def __init__(self, **_):
        super().__init__()
        run()
"""
FUNCTION = {"_class_path": "os.system", "command": "touch called", "_instantiator": "x"}
OTHER = {"_class_path": "evil.Other", "_instantiator": "x"}
NESTED = {"class_path": "evil.Other"}
TINY = {"_class_path": MODEL.replace(":", "."), "_instantiator": "x"}
_DATA = "data: {{class_path: {}, init_args: {}}}"
_MODEL = "model: {{class_path: {}, init_args: {}}}"
_CALLBACK = "trainer: {{callbacks: [{{class_path: {}, init_args: {}}}]}}"
# What the checkpoint holds, and the config beside.
OF_DATA: dict[str, tuple[dict[str, Any], str]] = {
    "a function as data": ({"datamodule_hyper_parameters": FUNCTION}, ""),
    "another class as data": ({"datamodule_hyper_parameters": OTHER}, ""),
    "a function as data beside": ({}, _DATA.format("os.system", "{command: touch called}")),
    "another class as data beside": ({}, _DATA.format("evil.Other", "{}")),
    "a class in an argument": ({"hyper_parameters": {**TINY, "note": [NESTED]}}, ""),
    "another class than the annotation's": ({"hyper_parameters": {**TINY, "part": NESTED}}, ""),
    "a function in an argument": ({"hyper_parameters": {**TINY, "part": {"class_path": "evil.run"}}}, ""),
    "a function as an argument": ({"hyper_parameters": {**TINY, "then": "evil.run"}}, ""),
    "a class as anything hashable": ({"hyper_parameters": {**TINY, "key": NESTED}}, ""),
    "a class in an argument beside": ({}, _MODEL.format(TINY["_class_path"], "{note: {class_path: evil.Other}}")),
}
OF_MODEL: dict[str, tuple[dict[str, Any], str]] = {
    "a function as the model": ({"hyper_parameters": FUNCTION}, ""),
    "another class as the model": ({"hyper_parameters": OTHER}, ""),
    "a function as the model beside": ({}, _MODEL.format("os.system", "{command: touch called}")),
    "another class as the model beside": ({}, _MODEL.format("evil.Other", "{}")),
    "a module as the model": ({"hyper_parameters": {**FUNCTION, "_class_path": "pathlib:os"}}, ""),
    "a script": ({"hyper_parameters": {**OTHER, "_class_path": "evil.py:Other"}}, ""),
}
COMMANDS = {
    "explain": ["explain", "run/checkpoints/a.ckpt", "probes.npz", "-o", "out"],
    "layers": ["layers", "run/checkpoints/a.ckpt", "--input-shape", "1,8,8"],
    "replay": ["replay", "run/checkpoints", "-o", "again", "--probes", "probes.npz"],
}


class Color(enum.Enum):
    RED = 1


class Open(Module):
    """Arguments with and without types, as modules have them."""

    def __init__(
        self,
        note: Any = None,
        part: nn.Module | None = None,
        then: Callable[..., Any] | None = None,
        key: Hashable = None,
        color: Color | None = None,
        size: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.note, self.then, self.key, self.color, self.size = note, then, key, color, size
        self.parts = [part]


@pytest.fixture(autouse=True)
def _in_a_folder_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    Path("evil.py").write_text(EVIL)
    ProbeSet(torch.rand(2, 1, 8, 8)).save("probes.npz")


def write(contents: dict[str, Any], config: str) -> str:
    Path("run/checkpoints").mkdir(parents=True)
    file = "run/checkpoints/a.ckpt"
    torch.save({"state_dict": Module().state_dict(), "epoch": 0, "global_step": 1, **contents}, file)
    if config:
        Path("run/config.yaml").write_text(config)
    return file


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", OF_DATA)
def test_with_the_model_named_nothing_is_imported(form: str, command: str) -> None:
    write(*OF_DATA[form])
    main([*COMMANDS[command], "--model", MODEL])
    assert not Path("called").exists()
    assert not Path("imported").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", [*OF_DATA, *OF_MODEL])
def test_what_is_no_class_of_the_right_kind_is_refused_before_a_call(
    form: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    contents, config = {**OF_DATA, **OF_MODEL}[form]
    if form in OF_DATA and "model:" not in config:
        contents = {"hyper_parameters": TINY, **contents}
    write(contents, config)
    assert main(COMMANDS[command]) == 1
    assert not Path("called").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "at which step" not in line]
    assert "the file" in line
    assert any(name in line for name in ("os.system", "evil.", "note", "pathlib"))


@pytest.mark.parametrize("form", [*OF_DATA, *OF_MODEL])
def test_in_python(form: str) -> None:
    file = write(*{**OF_DATA, **OF_MODEL}[form])
    for options in ({}, {"model_class": Open}):
        with suppress(ConfigurationError):
            explain(file, torch.rand(1, 1, 8, 8), **options)  # type: ignore[arg-type]
        assert not Path("called").exists()
    replay("run/checkpoints", Open(), {"probes": "probes.npz"}, output="again")
    assert not Path("called").exists()


@pytest.mark.parametrize("options", [["--model", MODEL], []])
@pytest.mark.parametrize(
    "callback",
    [
        _CALLBACK.format("evil.Other", "{}"),
        _CALLBACK.format("lightning_gradcam.GradCAMCallback", "{forward_fn: evil.run}"),
        _CALLBACK.format("lightning_gradcam.GradCAMCallback", "{targets: evil.run}"),
        _CALLBACK.format("lightning_gradcam.GradCAMCallback", "{forward_fn: {class_path: evil.Other}}"),
        _CALLBACK.format("lightning_gradcam.GradCAMCallback", "{probes: {class_path: evil.Other}}"),
    ],
)
def test_callbacks_of_the_config_beside(callback: str, options: list[str]) -> None:
    write({"hyper_parameters": TINY}, callback)
    main([*COMMANDS["replay"], *options])
    assert not Path("called").exists()
    if options:
        assert not Path("imported").exists()


def test_a_callback_of_ones_own_needs_no_option_unless_the_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write({"hyper_parameters": TINY}, _CALLBACK.format("evil.Maps", "{}"))
    assert main([*COMMANDS["replay"], "--model", MODEL]) == 0
    assert not Path("imported").exists()
    assert (
        "callback 'evil.Maps' in the config next to the checkpoint is not imported with --model"
        in capsys.readouterr().err
    )
    main([*COMMANDS["replay"][:3], "other"])
    assert Path("called").exists()


@pytest.mark.parametrize("allowed", [["--data", "evil:Data"], ["--config", "run/config.yaml"], ["--trust"], None])
def test_a_data_module_is_imported_where_the_user_says_so(
    allowed: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"hyper_parameters": TINY}, _DATA.format("evil.Data", "{}"))
    model = [] if allowed is None else ["--model", MODEL]
    assert main([*COMMANDS["explain"], "--model", MODEL]) == 0
    assert (
        "named in the checkpoint or its config ('evil.Data') is not imported, because you specified the model"
        in capsys.readouterr().err
    )
    assert not Path("imported").exists()
    # `--data` asks for a transform, which it has not: it was made before that is known.
    main([*COMMANDS["explain"][:-1], "other", *model, *(allowed or [])])
    assert Path("called").exists()


def test_a_config_that_is_given_is_checked_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    write({}, _MODEL.format("evil.run", "{}") + "\n" + _DATA.format("evil.Other", "{}"))
    for command in ("explain", "layers", "replay"):
        for model in ([], ["--model", MODEL]):
            code = main([*COMMANDS[command], "--config", "run/config.yaml", *model])
            assert code == 1
            assert "which is not a subclass of" in capsys.readouterr().err
    assert main(["layers", "--config", "run/config.yaml", "--input-shape", "1,8,8"]) == 1
    assert not Path("called").exists()


def test_a_text_that_is_yaml_stays_a_text() -> None:
    text = "{class_path: evil.Other}"
    file = write({"hyper_parameters": {**TINY, "note": text}}, "")
    assert load_checkpoint(file, model=Open).module.note == text
    assert load_checkpoint(file).module.note == text
    assert not Path("imported").exists()


def test_values_become_what_annotations_ask_for() -> None:
    part = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 1, "out_channels": 2, "kernel_size": [3, 3]}}
    values = {**TINY, "color": "RED", "size": [3, 4], "part": part, "key": None}
    file = write({"hyper_parameters": values}, "")
    made: Any = load_checkpoint(file).module
    assert (made.color, made.size) == (Color.RED, (3, 4))
    assert isinstance(made.parts[0], nn.Conv2d)
    with pytest.raises(
        RefusedError, match=r"'part' in the file.*names a class, which is not imported when you specify"
    ):
        load_checkpoint(file, model=Open)
    trusted: Any = load_checkpoint(file, model=Open, trust=True).module
    assert (trusted.color, trusted.size, type(trusted.parts[0])) == (Color.RED, (3, 4), nn.Conv2d)
    with pytest.raises(RefusedError, match=r"'color' in the file, 'PINK'"):
        stored_arguments(Open, {"color": "PINK"}, "model", names=True)


def test_classes_that_only_claim_to_be_of_a_kind() -> None:
    class Claims(type):
        def __subclasscheck__(cls, other: type) -> bool:
            return True

    Base = Claims("Base", (), {})
    with pytest.raises(RefusedError, match="is not a subclass of Base"):
        named_class("subprocess.Popen", "model", Base)
    for name in ("torch.nn.functional.relu", "torch.nn.functional", "torch.nn", "torch.float32"):
        with pytest.raises(RefusedError, match=r"not a subclass of Module"):
            named_class(name, "model", nn.Module)
    for name in (
        "evil.py:Other",
        "../evil:Other",
        ".evil.Other",
        "evil",
        "a..b",
        "evil:Other.__init__",
        "e\0vil.A",
        "a." * 200,
    ):
        with pytest.raises(RefusedError, match=r"not of the form package.module.Class"):
            named_class(name, "model", nn.Module)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
ENDLESS = "model: &a {init_args: [*a]}\n"


@pytest.mark.parametrize(
    "text", [LAUGHS, MERGES, ENDLESS, "a: " + "[" * 5000, "a: 1" + ":1" * 50_000, "a: " + "x" * 300_000]
)
def test_yaml_without_bounds(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write({"hyper_parameters": TINY}, text)
    with pytest.raises(RefusedError, match=r"config.yaml' was not read: "):
        read_config("run/config.yaml")
    for command in COMMANDS.values():
        for options in ([], ["--config", "run/config.yaml"]):
            assert main([*command, *options]) == 1
            assert "config.yaml' was not read: " in capsys.readouterr().err
    with pytest.raises(RefusedError, match="was not read"):
        main(["--traceback", "fit", "--config", "run/config.yaml"])
    if "\n" not in text:
        assert main(["layers", "--model", MODEL, "--model-args", text.replace("a: ", "note=")]) == 1


@pytest.mark.parametrize("value", ["!!int ''", "!!bool x", "!!timestamp x", "2024-99-99"])
def test_yaml_whose_values_can_not_be_made(value: str) -> None:
    Path("config.yaml").write_text(f"a: {value}\n")
    with pytest.raises(ConfigurationError, match=r"config: 'config.yaml' can't be read"):
        read_config("config.yaml")


@pytest.mark.parametrize(
    "options",
    [
        {"targets": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}},
        {"targets": ["predicted", {"class_path": "subprocess.Popen"}]},
        {"targets": ["label", "os.getcwd"]},
        {"output_key": "os.getcwd"},
        {"output_key": {"class_path": "subprocess.Popen"}},
    ],
)
@pytest.mark.parametrize("names", [False, True])
def test_targets_of_a_file_name_no_function_and_no_class(options: dict[str, Any], names: bool) -> None:
    with pytest.raises(RefusedError, match="might name a function|names a class"):
        stored_arguments(GradCAMCallback, options, "callbacks", names=names)
    plain = {"targets": ["predicted", {"class": "3"}, {"top": 2}], "output_key": "out"}
    assert stored_arguments(GradCAMCallback, plain, "callbacks", names=names) == plain
