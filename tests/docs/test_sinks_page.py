"""docs/sinks.md: its sink and its configuration run as they stand there, and its table says what the sinks have."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.cli import LightningCLI

from lightning_gradcam import GradCAMCallback, Sink
from lightning_gradcam.sinks import CometSink, MLflowSink, ScalarSink, TensorBoardSink, WandbSink
from tests.conftest import TinyModule, loaders, trainer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sinks.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return str(found)


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loaders()[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the page's module in it."""
    (tmp_path / "my_sinks.py").write_text(block("python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_sinks", None)


def written(folder: Path) -> list[str]:
    files = sorted((folder / "pictures").iterdir())
    for file in files:
        with Image.open(file) as image:
            image.verify()
    return [file.name for file in files]


EXPECTED = ["gradcam-net.relu2-epoch-0.png", "gradcam-net.relu2-epoch-1.png"]


def test_the_pages_sink_has_ten_lines_and_writes_the_pictures(folder: Path) -> None:
    from my_sinks import OneFolder  # type: ignore[import-not-found]

    body = block("python").split("class ")[1].splitlines()[1:]
    assert len([line for line in body if line.strip()]) <= 10
    callback = GradCAMCallback(sinks=[OneFolder("pictures")], on_error="raise")
    trainer(folder, callbacks=callback).fit(TinyModule(), *loaders())
    assert written(folder) == EXPECTED


def test_the_pages_configuration_finds_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.yaml").write_text(block("yaml"))
    quiet = {"accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_checkpointing": False}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False}
    LightningCLI(
        TinyModule,
        Data,
        trainer_defaults=quiet,
        args=["fit", "--config", "config.yaml"],
        save_config_callback=None,
        auto_configure_optimizers=False,
    )
    assert written(folder) == EXPECTED


KINDS = {
    "TensorBoardLogger": TensorBoardSink,
    "WandbLogger": WandbSink,
    "MLFlowLogger": MLflowSink,
    "CometLogger": CometSink,
    "CSVLogger": ScalarSink,
}


@pytest.mark.parametrize("name", list(KINDS))
def test_the_table_says_what_the_sinks_have(name: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`")]
    sheets, numbers, histograms, strips, animations, table, called = [cell.strip() for cell in row.split("|")[2:-1]]
    kind: Any = KINDS[name]

    def has(method: str) -> bool:
        return getattr(kind, method) is not getattr(Sink, method)

    assert (bool(numbers), bool(histograms)) == (has("log_numbers"), has("log_histograms"))
    assert bool(strips) == bool(animations) == has("log_evolution")
    assert bool(table) == kind.takes_rows
    assert ("in the background" in called) == (kind.thread_safe or kind is ScalarSink)
    if kind is not ScalarSink:
        assert ("JPEG" in sheets) == ("jpeg" in kind.formats)
