"""How a run ends, and where what it leaves behind lies."""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradcam import Drawing, FeatureMapCallback, GradCAMCallback, MemorySink
from lightning_gradcam.callbacks.ending import Note
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.sheets.cam_sheet import sheet
from tests.conftest import TinyModule, loaders, trainer

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"num_probes": 4, "on_error": "raise"}
METHODS = ["gradcam", "gradcam++", "smoothgradcam++", "xgradcam", "hirescam", "layercam", "gradcam_elementwise"]
METHODS += ["eigencam", "eigengradcam", "scorecam", "random"]


class Ended(TinyModule):
    """Training ends in the second epoch."""

    how: BaseException

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1:
            raise self.how
        return super().training_step(batch, batch_idx)


def last_words(root: Path, layers: str, steps: int) -> list[str]:
    folder = root / "logs" / "version_0" / "gradcam"
    return [
        f"lightning-gradcam: logged {layers} at {steps} step{'s' if steps > 1 else ''}",
        f"lightning-gradcam: report: {folder}/report.html",
        f"lightning-gradcam: tensorboard --logdir {root}    (tabs GRAD-CAM and IMAGES)",
    ]


def without_findings(lines: list[str]) -> list[str]:
    """The lines, whose first may go on with what the maps show: random weights may give blank ones."""
    return [re.sub(r"; \d+ findings?( in findings\.md, first)?: .*?(?=; \w+: logged|$)", "", line) for line in lines]


def test_a_run_ends_with_layers_report_and_tensorboards_command(tmp_path: Path, said: list[str]) -> None:
    running = trainer(
        tmp_path, callbacks=GradCAMCallback(**OPTIONS), logger=TensorBoardLogger(tmp_path, "logs"), max_epochs=2
    )
    running.fit(TinyModule(), *loaders())
    assert without_findings(said) == last_words(tmp_path, "net.relu2 (chosen by auto)", 2)
    # Nothing new is in the record.
    running.validate(TinyModule(), loaders()[1], verbose=False)
    assert len(said) == 3


@pytest.mark.parametrize("how", [KeyboardInterrupt(), RuntimeError("mine")])
def test_so_does_one_that_is_interrupted_or_fails(tmp_path: Path, said: list[str], how: BaseException) -> None:
    module = Ended()
    module.how = how
    running = trainer(
        tmp_path, callbacks=GradCAMCallback("net.conv1", **OPTIONS), logger=TensorBoardLogger(tmp_path, "logs")
    )
    running.fit_loop.max_epochs = 3
    # Lightning ignores further interrupts from there on.
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((SystemExit, RuntimeError)):
        running.fit(module, *loaders())
    signal.signal(signal.SIGINT, handler)
    assert without_findings(said) == last_words(tmp_path, "net.conv1", 1)
    assert (tmp_path / "logs" / "version_0" / "gradcam" / "report.html").exists()


def test_callbacks_side_by_side_share_the_lines_and_no_command_without_tensorboard(
    tmp_path: Path, said: list[str]
) -> None:
    ours = [GradCAMCallback("net.conv1", **OPTIONS), FeatureMapCallback("net.conv1", name="maps", num_probes=4)]
    trainer(tmp_path, callbacks=ours, logger=CSVLogger(tmp_path), max_epochs=1).fit(TinyModule(), *loaders())
    assert len(said) == 2
    first = "lightning-gradcam: gradcam: logged net.conv1 at 1 step; maps: logged net.conv1 at 1 step"
    assert without_findings(said)[0] == first
    assert "gradcam" in said[1]
    assert said[1].endswith("/maps/report.html")


def test_validation_alone_says_where_its_record_is(tmp_path: Path, said: list[str]) -> None:
    running = trainer(tmp_path, callbacks=GradCAMCallback("net.conv1", **OPTIONS), logger=CSVLogger(tmp_path))
    running.validate(TinyModule(), loaders()[1], verbose=False)
    assert said == [
        "lightning-gradcam: logged net.conv1 at 1 step",
        f"lightning-gradcam: record: {tmp_path}/lightning_logs/version_0/gradcam",
    ]


def test_the_lines_come_once(tmp_path: Path, said: list[str]) -> None:
    """Not again after what records nothing new, nor where another callback fails when all is over."""

    class Failing(pl.Callback):
        def teardown(self, *args: Any, **kwargs: Any) -> None:
            if running.state.fn == "fit":
                raise ValueError("at the end")

    class Predicting(TinyModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

    module, callbacks = Predicting(), [GradCAMCallback("net.conv1", **OPTIONS), Failing()]
    running = trainer(tmp_path, callbacks=callbacks, max_epochs=1)
    for _ in range(2):
        running.validate(module, loaders()[1], verbose=False)
    running.predict(module, loaders()[1])
    assert len([line for line in said if "record: " in line]) == 1
    with pytest.raises(ValueError, match="at the end"):
        running.fit(module, *loaders())
    assert len([line for line in said if "report: " in line]) == 1


def test_a_callback_inside_another_one_ends_too(tmp_path: Path, said: list[str]) -> None:
    """Hooks are handed on by a callback of the user's: this one is not in the Trainer's list."""
    inner = GradCAMCallback("net.conv1", **OPTIONS)
    outer = pl.Callback()
    for hook in dir(pl.Callback):
        if hook.startswith("on_") or hook in ("setup", "teardown"):
            setattr(outer, hook, getattr(inner, hook))
    trainer(tmp_path, callbacks=outer, max_epochs=1).fit(TinyModule(), *loaders())
    assert len(said) == 2


def test_a_copy_learns_of_its_own_record_alone() -> None:
    callback = GradCAMCallback("net.conv1")
    # What a strategy's processes hand back.
    pickle.loads(pickle.dumps(Note(callback._token, "/nowhere")))
    with pytest.raises(ArchiveError):
        _ = callback.archive
    assert deepcopy(callback).archive is None


def test_the_record_is_that_of_the_last_training_wherever_it_ran(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.conv1", **OPTIONS)
    paths = []
    for name in ("a", "b"):
        trainer(tmp_path / name, callbacks=callback, max_epochs=1).fit(TinyModule(), *loaders())
        assert callback.archive is not None
        paths.append(callback.archive.path)
        if name == "a":
            copytree(paths[0], tmp_path / "spawned")
            # What a strategy's processes hand back.
            pickle.loads(pickle.dumps(Note(callback._token, str(tmp_path / "spawned"))))
            assert callback.archive.path == str(tmp_path / "spawned")
    assert str(tmp_path / "b") in paths[1]


def test_with_wandb_the_record_lies_beside_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="shop", save_dir=str(tmp_path))
    saving, callback = ModelCheckpoint(), GradCAMCallback("net.conv1", **OPTIONS)
    running = trainer(tmp_path, callbacks=[saving, callback], logger=logger, enable_checkpointing=True)
    running.fit(TinyModule(), *loaders())
    import wandb

    wandb.finish()
    assert callback.archive is not None
    folder = Path(callback.archive.path).parent
    assert folder == tmp_path / "shop" / str(logger.version) == Path(str(saving.dirpath)).parent
    assert {file.name for file in folder.iterdir()} == {"checkpoints", "gradcam"}


class Mute(DummyLogger):
    log_dir = "runs"


@pytest.mark.parametrize(("logger", "place"), [(Mute(), "runs/gradcam"), (False, "runs/gradcam_runs/0/gradcam")])
def test_a_relative_folder_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: Any, place: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    class Moving(TinyModule):
        def on_train_epoch_start(self) -> None:
            os.chdir(tmp_path / "there")

    callback = GradCAMCallback("net.conv1", **OPTIONS)
    # CSVLogger and TensorBoardLogger themselves fail there.
    trainer(Path("runs"), callbacks=callback, logger=logger, max_epochs=2).fit(Moving(), *loaders())
    folder = tmp_path / "here" / place
    assert callback.archive is not None
    assert (callback.archive.path, callback.archive.epochs) == (str(folder), (0, 1))
    assert (folder / "report.html").exists()
    assert not list((tmp_path / "there").iterdir())


SCRIPT = """
import atexit
import sys
from pathlib import Path
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger
from torch import distributed
from lightning_gradcam import GradCAMCallback
from lightning_gradcam.sheets.cam_sheet import sheet
from tests.conftest import TinyModule, loaders, trainer

class Leaving(Callback):
    # As in `tests.callbacks.ranks`: gloo's threads must have ended before Python does.
    def teardown(self, trainer, pl_module, stage):
        atexit.register(distributed.destroy_process_group)

if __name__ == "__main__":
    root = Path(sys.argv[1])
    callback = GradCAMCallback("net.conv1", num_probes=4)
    callbacks = [callback, Leaving()]
    running = trainer(root, callbacks=callbacks, logger=CSVLogger(root), strategy=sys.argv[2], devices=2, max_epochs=2)
    running.fit(TinyModule(), *loaders())
    archive = callback.archive
    print(archive.path, archive.epochs, archive.maps("net.conv1").shape)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_of_the_strategys_own_leave_the_record_to_the_one_that_launched_them(
    tmp_path: Path, strategy: str
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path), strategy],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    place = tmp_path / "lightning_logs" / "version_0" / "gradcam"
    assert done.stdout.splitlines()[-1] == f"{place} (0, 1) (2, 4, 8, 8)"
    assert done.stderr.count("lightning-gradcam: logged net.conv1 at 2 steps") == 1


# ---- event files


def test_the_inputs_are_in_the_film_strip_and_not_in_every_step(tmp_path: Path) -> None:
    # With weights whose maps are not blank: an overlay without colours is the input.
    torch.manual_seed(1)
    sink, logger = MemorySink(), TensorBoardLogger(tmp_path, "logs")
    callback = GradCAMCallback("net.conv1", sinks=[sink], **OPTIONS)
    trainer(tmp_path, callbacks=callback, logger=logger, max_epochs=3).fit(TinyModule(), *loaders())
    assert callback.probes is not None
    picture = callback.probes.pixels[0]

    def holds(pixels: Any, factor: int, left: int) -> bool:
        side, tile = 8 * factor, picture.repeat(factor, 0).repeat(factor, 1)
        column = pixels[:, left : left + side]
        return any((column[top : top + side] == tile).all() for top in range(len(column) - side))

    strip = next(iter(sink.evolutions[0].strips.values())).pixels
    # Right of the labels; how far depends on the number of columns.
    assert any(holds(strip, 10, left) for left in range(202, strip.shape[1] - 80))
    for entry in sink.entries:
        assert not holds(entry.pictures["gradcam/net.conv1"].pixels, 14, 12)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    sizes = {(image.width, image.height) for image in events.Images("gradcam/net.conv1")}
    # A slider does not make it jump.
    assert len(sizes) == 1


class Photographs(TinyModule):
    """Explains smooth pictures with a grain, of 224 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shrink = nn.Sequential(nn.Conv2d(channels, 1, 3, padding=1), nn.AdaptiveAvgPool2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.shrink(x))


@pytest.mark.parametrize(("side", "channels", "share"), [(224, 3, 1 / 3), (28, 1, 0.45)])
def test_pictures_in_event_files_are_a_third_and_look_the_same(
    tmp_path: Path, side: int, channels: int, share: float
) -> None:
    rows, columns = np.mgrid[:side, :side] / side
    generator, photographs = np.random.default_rng(0), []
    for number in range(8):
        a, b = generator.uniform(2, 9, 2)
        smooth = np.stack([np.sin(a * rows + b * columns), np.cos(b * columns + number), rows * columns])[:channels]
        grain = generator.normal(size=smooth.shape)
        photographs.append((0.5 + 0.35 * smooth + 0.01 * grain).clip(0, 1))
    data = DataLoader(TensorDataset(torch.tensor(np.stack(photographs)).float(), torch.arange(8) % 5), 8)
    sink, logger = MemorySink(), TensorBoardLogger(tmp_path, "logs")
    callback = GradCAMCallback("net.conv1", num_probes=8, sinks=[sink], on_error="raise")
    trainer(tmp_path, callbacks=callback, logger=logger, max_epochs=1).fit(Photographs(channels), data, data)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    (image,) = events.Images("gradcam/net.conv1")
    with Image.open(io.BytesIO(image.encoded_image_string)) as opened:
        shown = np.asarray(opened.convert("RGB")).astype(int)
    difference = np.abs(shown - sink.entries[0].pictures["gradcam/net.conv1"].pixels)
    assert difference.mean() < 2
    assert callback.archive is not None
    before = sheet(
        callback.archive.record(0),
        callback.archive.probes,
        layer="net.conv1",
        method="gradcam",
        drawing=Drawing(),
        title="gradcam",
    )
    old = io.BytesIO()
    if side == 224:
        Image.fromarray(before.pixels).save(old, "JPEG", quality=90, subsampling=0)
    else:
        old.write(before.encoded("png"))
    assert len(image.encoded_image_string) < share * len(old.getvalue())


@pytest.mark.parametrize(
    "options",
    [
        {"evolution": False},
        {"drawing": Drawing(columns=("input", "heatmap"))},
        {"drawing": Drawing(opacity=0.9)},
        # Strips that leave out probes, and strips that are not drawn for every layer and method.
        {"num_probes": 40},
        {"drawing": Drawing(max_sheet_pixels=500_000)},
        {"layers": ["net.conv1", "net.norm1", "net.relu1"], "methods": METHODS},
    ],
)
def test_a_sheet_keeps_the_inputs_where_nothing_else_shows_them(tmp_path: Path, options: dict[str, Any]) -> None:
    sink = MemorySink()
    callback = GradCAMCallback(**{"layers": "net.conv1", "sinks": [sink], **OPTIONS, **options})
    trainer(tmp_path, callbacks=callback, logger=False, max_epochs=1).fit(TinyModule(), *loaders())
    assert callback.probes is not None
    first = callback.probes.pixels[0].repeat(14, 0).repeat(14, 1)
    picture = next(iter(sink.entries[0].pictures.values()))
    found = [
        top for top in range(len(picture.pixels) - 112) if (picture.pixels[top : top + 112, 12:124] == first).all()
    ]
    assert len(found) >= 1


def test_a_validation_alone_keeps_the_inputs(tmp_path: Path) -> None:
    sink = MemorySink()
    callback = GradCAMCallback("net.conv1", sinks=[sink], **OPTIONS)
    trainer(tmp_path, callbacks=callback, logger=False).validate(TinyModule(), loaders()[1], verbose=False)
    assert callback.archive is not None
    (picture,) = sink.entries[0].pictures.values()
    assert callback.probes is not None
    first = callback.probes.pixels[0].repeat(14, 0).repeat(14, 1)
    assert any((picture.pixels[top : top + 112, 12:124] == first).all() for top in range(len(picture.pixels) - 112))
