"""From a checkpoint to its module: which class, which arguments, which step, and what is said where that fails."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn

from lightning_gradcam import ConfigurationError
from lightning_gradcam.errors import CheckpointFileError
from lightning_gradcam.saved_models.checkpoints import aligned
from lightning_gradcam.saved_models.config import read_config
from lightning_gradcam.saved_models.construction import find_class
from lightning_gradcam.saved_models.file import place_of, read_checkpoint
from lightning_gradcam.saved_models.loader import load_checkpoint
from tests.conftest import TinyModule, TinyNet, loaders, trainer


class Sized(TinyModule):
    """Has arguments, and keeps them in its checkpoints."""

    def __init__(self, width: int = 4, note: Any = "") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net.drop = nn.Dropout(0.1 * width)
        self.extra = nn.Linear(width, 2)


class Forgetful(pl.LightningModule):
    """Has an argument, and keeps it nowhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return loaders(batch_size=self.batch_size)[0]

    def val_dataloader(self) -> Any:
        return loaders(batch_size=self.batch_size)[1]


def saved(path: Path, module: pl.LightningModule, **contents: Any) -> Path:
    """A file as Lightning writes them, with other contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": module.state_dict(), "epoch": 2, "global_step": 7, **contents}, path)
    return path


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TinyModule]:
    """A real run of two epochs: a checkpoint at the end of each, and one that was saved afterwards."""
    root = tmp_path_factory.mktemp("trained")
    module = Sized(3)
    saving = ModelCheckpoint(root, save_top_k=-1, filename="{epoch}")
    running = trainer(root, callbacks=[saving], enable_checkpointing=True)
    running.fit(module, datamodule=Data(5))
    running.save_checkpoint(root / "after.ckpt")
    return root, module


def test_a_real_checkpoint(trained: tuple[Path, TinyModule]) -> None:
    root, module = trained
    loaded = load_checkpoint(root / "epoch=1.ckpt", model=f"{__name__}:Sized")
    assert isinstance(loaded.module, Sized)
    assert_same_weights(loaded.module, module)
    assert not any(part.training for part in loaded.module.modules())
    assert loaded.hyper_parameters == {"width": 3, "note": ""}
    assert loaded.datamodule is None
    assert any("ModelCheckpoint" in key for key in loaded.callbacks)
    assert loaded.remarks == ()
    # 40 samples in batches of 5: 8 steps an epoch; metrics are logged before the last one counts.
    assert (loaded.epoch, loaded.step) == (1, 15)


@pytest.mark.parametrize(("name", "expected"), [("epoch=0", (0, 7)), ("epoch=1", (1, 15)), ("after", (1, 15))])
def test_epoch_and_step_are_those_of_the_validation(
    trained: tuple[Path, TinyModule], name: str, expected: tuple[int, int]
) -> None:
    assert place_of(read_checkpoint(trained[0] / f"{name}.ckpt"))[:2] == expected


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({}, {"save_on_train_epoch_end": True}),
        ({}, {"save_on_train_epoch_end": False}),
        ({"val_check_interval": 2, "accumulate_grad_batches": 3}, {}),
        ({"val_check_interval": 5, "check_val_every_n_epoch": None}, {}),
        ({"check_val_every_n_epoch": 2, "max_epochs": 4}, {}),
    ],
)
def test_the_step_is_the_x_value_of_val_loss(tmp_path: Path, options: Any, keep: Any) -> None:
    """Lightning's own logger says where; a checkpoint is saved after each validation."""
    logged: list[tuple[int, int]] = []

    class Logger(pl.loggers.logger.DummyLogger):
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            if "val_loss" in metrics:
                logged.append((int(metrics["epoch"]), step))

    class Plain(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", 0.0)

    saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}-{step}", **keep)
    running = trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, logger=Logger(), **options)
    running.fit(Plain(), *loaders())
    found = sorted(place_of(read_checkpoint(file))[:2] for file in tmp_path.glob("*.ckpt"))
    assert len(found) >= 2
    # No second checkpoint is saved of the same optimizer step.
    assert found == sorted(logged) if "accumulate_grad_batches" not in options else set(found) < set(logged)


def test_without_loops_the_global_step_is_taken_and_said(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path / "a.ckpt", TinyModule()), model=TinyModule)
    assert (loaded.epoch, loaded.step) == (2, 7)
    assert "global_step" in loaded.remarks[0]


@pytest.mark.parametrize("name", [f"{__name__}:Sized", f"{__name__}.Sized", f"{__file__}:Sized", Sized])
def test_ways_to_name_the_class(tmp_path: Path, name: Any) -> None:
    path = saved(tmp_path / "a.ckpt", Sized(5), hyper_parameters={"width": 5})
    assert type(load_checkpoint(path, model=name).module).__name__ == "Sized"


def test_arguments_of_the_config_come_before_those_of_the_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", Sized(5), hyper_parameters={"width": 4, "note": "kept", "strange": 1})
    config = tmp_path / "config.yaml"
    # As a script's own command line saves it: the class is the script's.
    config.write_text("model:\n  width: 5\n")
    loaded = load_checkpoint(path, model=Sized, config=config)
    assert loaded.module.extra.in_features == 5  # type: ignore[union-attr]
    assert loaded.module.hparams["note"] == "kept"  # type: ignore[index]


def test_the_class_of_a_config(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", Sized(5))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model:\n  class_path: {__name__}.Sized\n  init_args: {{width: 5}}\n"
        f"data:\n  class_path: {__name__}.Data\n  init_args: {{batch_size: 3}}\n"
    )
    loaded = load_checkpoint(path, config=config)
    assert isinstance(loaded.module, Sized)
    assert isinstance(loaded.datamodule, Data)
    assert loaded.datamodule.batch_size == 3


def test_what_lightning_cli_saves_is_enough(tmp_path: Path) -> None:
    """It writes the classes into the checkpoint, where they were chosen on the command line."""
    cli = LightningCLI(
        args=[
            f"--model={__name__}.Sized",
            "--model.width=6",
            f"--data={__name__}.Data",
            "--data.batch_size=10",
            *("--trainer.max_epochs=1", "--trainer.logger=false", "--trainer.enable_progress_bar=false"),
            *("--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"),
        ],
        run=False,
        save_config_callback=None,
    )
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    (path,) = tmp_path.rglob("*.ckpt")
    loaded = load_checkpoint(path)
    assert isinstance(loaded.module, Sized)
    assert_same_weights(loaded.module, cli.model)
    assert isinstance(loaded.datamodule, Data)
    assert loaded.datamodule.batch_size == 10
    assert "_class_path" not in loaded.hyper_parameters


def test_the_config_beside_the_checkpoints_folder(tmp_path: Path) -> None:
    path = saved(tmp_path / "version_0" / "checkpoints" / "a.ckpt", Sized(5))
    (tmp_path / "version_0" / "config.yaml").write_text(
        f"model:\n  class_path: {__name__}.Sized\n  init_args: {{width: 5}}\n"
    )
    assert isinstance(load_checkpoint(path).module, Sized)


def test_nothing_names_the_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"the class of .* is not known.*--model"):
        load_checkpoint(saved(tmp_path / "a.ckpt", TinyModule()))


def test_an_argument_that_nobody_knows(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", Forgetful(3))
    with pytest.raises(
        ConfigurationError, match=r"Forgetful can't be created with no arguments .*'width'.*model: section"
    ):
        load_checkpoint(path, model=Forgetful)


def test_other_weights_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", Sized(5))
    with pytest.raises(ConfigurationError, match=r"with a different shape: extra.weight \[2, 5\] instead of \[2, 4\]"):
        load_checkpoint(path, model=Sized)
    with pytest.raises(ConfigurationError, match=r"does not fit TinyModule: unexpected: extra.weight, extra.bias;"):
        load_checkpoint(path, model=TinyModule)


def test_a_module_that_is_not_strict(tmp_path: Path) -> None:
    class Loose(TinyModule):
        strict_loading = False

    module = TinyModule()
    state = {name: value for name, value in module.state_dict().items() if "head" not in name}
    torch.save({"state_dict": {**state, "other": torch.zeros(1)}}, tmp_path / "a.ckpt")
    loaded = load_checkpoint(tmp_path / "a.ckpt", model=Loose)
    torch.testing.assert_close(loaded.module.net.conv1.weight, module.net.conv1.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "model_state_dict"])
def test_a_plain_state_dict(tmp_path: Path, wrap: str | None) -> None:
    model = TinyNet()
    torch.save(model.state_dict() if wrap is None else {wrap: model.state_dict(), "epoch": 4}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth", model="tests.conftest:TinyNet")
    assert_same_weights(loaded.module, model)
    assert loaded.epoch == (0 if wrap is None else 4)


def test_a_function_that_makes_the_module(tmp_path: Path) -> None:
    def made(width: int = 2) -> nn.Module:
        return nn.Linear(width, 2)

    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    assert isinstance(load_checkpoint(tmp_path / "a.pt", model=made).module, nn.Linear)


def test_compiled_and_wrapped_weights_fit_the_plain_module() -> None:
    model = TinyNet()
    own = model.state_dict()
    for prefix in ("_orig_mod.", "module."):
        named = {f"{prefix}{name}": value for name, value in own.items()}
        assert list(aligned(named, model)) == list(own)
    inside = {name.replace("conv1.", "conv1._orig_mod."): value for name, value in own.items()}
    assert list(aligned(inside, model)) == list(own)


def test_plain_weights_fit_the_compiled_module() -> None:
    model = TinyNet()
    own = list(model.state_dict())
    compiled = torch.compile(model)
    assert list(aligned(TinyNet().state_dict(), compiled)) == [f"_orig_mod.{name}" for name in own]


def test_objects_need_trust(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", Sized(4), hyper_parameters={"width": 4, "note": argparse.Namespace(prog="kept")})
    with pytest.raises(ConfigurationError, match=r"argparse.Namespace.*--trust"):
        load_checkpoint(path, model=Sized)
    assert load_checkpoint(path, model=Sized, trust=True).hyper_parameters["note"].prog == "kept"


def test_a_whole_module_needs_trust(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(ConfigurationError, match=r"torch.nn.modules.*--trust"):
        load_checkpoint(tmp_path / "a.pt")
    assert isinstance(load_checkpoint(tmp_path / "a.pt", trust=True).module, nn.Sequential)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello world", b"\x80\x02}q\x00.", None])
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.ckpt"
    if content is None:
        saved(path, TinyModule())
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    for mapped in (False, True):
        with pytest.raises(CheckpointFileError, match=r"a.ckpt'"):
            contents = read_checkpoint(path, mapped=mapped)
            # An empty dict is read, and has no weights.
            load_checkpoint(path, model=TinyModule) if not contents else None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match="no file"):
        load_checkpoint(tmp_path / "a.ckpt", model=TinyModule)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Net", "pass package.module:Class"),
        ("nowhere.to.be:Found", "can't be imported"),
        ("torch.nn:Conv22d", "did you mean 'Conv2d'"),
        ("torch:float32", "is a dtype; pass a class"),
        ("nowhere.py:Net", "no file 'nowhere.py'"),
    ],
)
def test_what_is_no_class(name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        find_class(name, "model")


def test_a_class_that_is_no_module(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", TinyModule())
    with pytest.raises(ConfigurationError, match="pass the class of a torch.nn.Module"):
        load_checkpoint(path, model="collections:OrderedDict")
    with pytest.raises(ConfigurationError, match="pass the class of a LightningDataModule"):
        load_checkpoint(path, model=TinyModule, data="collections:OrderedDict")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [", None])
def test_what_is_no_config(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"config: .*config.yaml"):
        read_config(path)


def test_a_config_for_subcommands(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("fit:\n  model: {width: 3}\n")
    assert read_config(path) == {"model": {"width": 3}}


def test_the_part_of_a_module_that_was_saved(tmp_path: Path) -> None:
    """A network's weights lie behind the name that its LightningModule gives it."""
    torch.manual_seed(0)
    network = TinyNet()
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(2)}, "epoch": 1, "global_step": 4}, file)
    assert_same_weights(load_checkpoint(file, model=TinyNet).module, network)
    state.popitem()
    torch.save({"state_dict": state}, file)
    with pytest.raises(ConfigurationError, match="does not fit TinyNet: missing: "):
        load_checkpoint(file, model=TinyNet)


def test_averaged_weights_beside_those_that_are_taken(tmp_path: Path) -> None:
    network = TinyNet()
    torch.save({"model": network.state_dict(), "model_ema": TinyNet().state_dict()}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth", model=TinyNet)
    assert_same_weights(loaded.module, network)
    assert loaded.remarks == ("the weights under 'model' are used, not those under model_ema",)


def test_weights_alone_say_nothing_of_steps(tmp_path: Path) -> None:
    torch.save(TinyNet().state_dict(), tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth", model=TinyNet).remarks == ()


def test_arguments_that_are_given(tmp_path: Path) -> None:
    torch.save({"state_dict": Forgetful(3).state_dict(), "hyper_parameters": {"width": 9}}, tmp_path / "a.ckpt")
    loaded = load_checkpoint(tmp_path / "a.ckpt", model=Forgetful, model_args={"width": 3})
    assert loaded.module(torch.zeros(1, 3)).shape == (1, 2)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    torch.save(TinyNet().state_dict(), tmp_path / "a.pth")
    with pytest.raises(ConfigurationError, match="device: got 'gpu', which can't be used here"):
        load_checkpoint(tmp_path / "a.pth", model=TinyNet, map_location="gpu")


def test_trusted_code_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = __import__(__name__, fromlist=["x"])
    monkeypatch.setattr(here, "Passing", type("Passing", (nn.Module,), {"__module__": __name__}), raising=False)
    torch.save(here.Passing(), tmp_path / "a.pt")
    monkeypatch.delattr(here, "Passing")
    with pytest.raises(ConfigurationError, match=r"whose code can't be imported .*'Passing'.*state_dict"):
        load_checkpoint(tmp_path / "a.pt", trust=True)


def test_scripts(tmp_path: Path) -> None:
    """Two of one name, one that reads its command line, and one without a class."""
    for folder, width in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_script.py").write_text(f"class Net: width = {width}\n")
    (tmp_path / "script_with_options.py").write_text("import sys\nsys.exit(2)\n")
    found = [find_class(f"{tmp_path}/{folder}/same_script.py:Net", "model") for folder in ("one", "two", "one", "two")]
    assert [kind.width for kind in found] == [1, 2, 1, 2]  # type: ignore[attr-defined]
    assert found[1] is found[3]
    with pytest.raises(ConfigurationError, match=r"ended the program \(SystemExit: 2\).*__name__"):
        find_class(f"{tmp_path}/script_with_options.py:Net", "model")
    with pytest.raises(ConfigurationError, match="path/to/file.py:Class for a class in a script"):
        find_class("train.py", "model")
