"""Tests of the sinks with the real loggers behind them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from lightning_gradcam import MemorySink, Sink
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.animation import Animation
from lightning_gradcam.sinks import (
    Entry,
    Evolution,
    FileSink,
    Numbers,
    Row,
    ScalarSink,
    TensorBoardSink,
    WandbSink,
    sinks_for,
)


def picture(seed: int = 0, height: int = 12, width: int = 20) -> Picture:
    return Picture(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def entry(step: int = 469, epoch: int = 3, *tags: str) -> Entry:
    names = tags or ("gradcam/conv1", "gradcam/conv2")
    return Entry(step=step, epoch=epoch, pictures={tag: picture(step + i) for i, tag in enumerate(names)})


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


# ---- TensorBoard


def test_tensorboard_event_file_holds_every_picture_at_its_step(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    sink = TensorBoardSink(logger)
    sink.log(entry(0, -1))
    sink.log(entry(469, 3))
    sink.close()
    # Read before the logger is finalised: each step is flushed.
    events = EventAccumulator(logger.log_dir, size_guidance={IMAGES: 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["gradcam/conv1", "gradcam/conv2"]
    for place, tag in enumerate(("gradcam/conv1", "gradcam/conv2")):
        images = events.Images(tag)
        assert [image.step for image in images] == [0, 469]
        for image in images:
            assert (image.width, image.height) == (20, 12)
            assert image.encoded_image_string.startswith(b"\x89PNG")
            assert np.array_equal(decoded(image.encoded_image_string), picture(image.step + place).pixels)
    logger.finalize("success")


def test_tensorboard_scalars_and_pictures_share_a_file(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    logger.log_metrics({"val_loss": 0.5}, 469)
    TensorBoardSink(logger).log(entry(469, 0))
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert events.Scalars("val_loss")[0].step == events.Images("gradcam/conv1")[0].step == 469
    assert len(list(Path(logger.log_dir).glob("events*"))) == 1


def test_tensorboard_gets_no_webp(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    pictures = {f"gradcam/{format}": replace(picture(), format=format) for format in ("png", "jpeg", "webp")}
    TensorBoardSink(logger).log(Entry(1, 0, pictures))
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    starts = {tag: events.Images(f"gradcam/{tag}")[0].encoded_image_string[:4] for tag in ("png", "jpeg", "webp")}
    assert starts["png"] == starts["webp"] == b"\x89PNG"
    assert starts["jpeg"][:3] == b"\xff\xd8\xff"


def test_numbers_go_to_every_logger_that_takes_them(tmp_path: Path) -> None:
    numbers = Numbers(469, 3, {"gradcam_stats/seconds": 0.25})
    tensorboard, csv = TensorBoardLogger(str(tmp_path / "t")), CSVLogger(str(tmp_path / "c"))
    for sink in (TensorBoardSink(tensorboard), ScalarSink(csv)):
        sink.log_numbers(numbers)
    for logger in (tensorboard, csv):
        logger.finalize("success")
    events = EventAccumulator(tensorboard.log_dir)
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("gradcam_stats/seconds")] == [(469, 0.25)]
    assert (Path(csv.log_dir) / "metrics.csv").read_text().split() == ["gradcam_stats/seconds,step", "0.25,469"]


def test_writer_of_another_package_gets_the_pixels(tmp_path: Path) -> None:
    class Writer:
        """What tensorboardX's SummaryWriter takes."""

        def __init__(self) -> None:
            self.images: list[tuple[str, Any, int, str]] = []

        def add_image(self, tag: str, pixels: Any, step: int, dataformats: str) -> None:
            self.images.append((tag, pixels, step, dataformats))

        def flush(self) -> None:
            pass

    class Named:
        experiment = Writer()

    TensorBoardSink(Named()).log(entry(7, 0, "gradcam/conv1"))
    ((tag, pixels, step, layout),) = Named.experiment.images
    assert (tag, step, layout) == ("gradcam/conv1", 7, "HWC")
    assert np.array_equal(pixels, picture(7).pixels)


def evolution(step: int = 469, *, ended: bool = True) -> Evolution:
    strip, sheet = "gradcam_evolution/conv1", "gradcam/conv1"
    original = picture(99)
    rows = [
        Row(name, original, epoch, step, "Coat", "Shirt", 0.5, 1.5, {sheet: picture(epoch)})
        for name in ("a", "b")
        for epoch in (0, 1)
    ]
    frames = [Image.fromarray(picture(seed).pixels) for seed in (1, 2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)
    animation = Animation(buffer.getvalue(), (12, 20), (100, 100))
    return Evolution(
        "gradcam", step, 3, ended, {strip: picture(7)}, {strip: animation} if ended else {}, rows if ended else []
    )


def test_tensorboard_plays_animations_beside_the_film_strips(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    sink = TensorBoardSink(logger)
    sink.log_evolution(evolution(10, ended=False))
    sink.log_evolution(evolution(20))
    events = EventAccumulator(logger.log_dir, size_guidance={IMAGES: 0})
    events.Reload()
    tag = "gradcam_evolution/conv1"
    assert [image.step for image in events.Images(tag)] == [10, 20]
    (animated,) = events.Images(f"{tag}/animation")
    assert (animated.step, animated.width, animated.height) == (20, 20, 12)
    assert animated.encoded_image_string == evolution().animations[tag].encoded("gif")
    logger.finalize("success")


def test_own_sinks_and_those_without_pictures_take_no_evolution(tmp_path: Path) -> None:
    class Counting(Sink):
        calls = 0

        def log(self, entry: Entry) -> None:
            self.calls += 1

    own = Counting()
    files = FileSink(str(tmp_path), prefix="gradcam")
    for sink in (own, files, ScalarSink(CSVLogger(str(tmp_path)))):
        sink.log_evolution(evolution())
    assert own.calls == 0
    assert not list(tmp_path.rglob("*.png"))


# ---- W&B


@pytest.fixture
def wandb_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbLogger]:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    (tmp_path / "wandb-home").mkdir()
    yield WandbLogger(save_dir=str(tmp_path), project="test")
    wandb.finish()


def test_wandb_offline_run_holds_the_pictures_and_one_row_a_step(wandb_logger: WandbLogger, tmp_path: Path) -> None:
    logged: list[dict[str, Any]] = []
    log = wandb_logger.experiment.log

    def watched(data: dict[str, Any], *args: Any, **options: Any) -> None:
        logged.append(dict(data))
        log(data, *args, **options)

    wandb_logger.experiment.log = watched
    sink = WandbSink(wandb_logger)
    sink.log(entry(0, -1))
    sink.log(entry(469, 3))
    sink.close()
    run = Path(wandb_logger.experiment.dir).parent
    assert run.name.startswith("offline-run-")
    files = sorted((run / "files" / "media" / "images").rglob("*.png"))
    assert len(files) == 4
    expected = {(step, tag): picture(step + i).pixels for step in (0, 469) for i, tag in enumerate(("conv1", "conv2"))}
    shown = [decoded(file.read_bytes()) for file in files]
    for (step, tag), pixels in expected.items():
        matches = [file for file, seen in zip(files, shown, strict=True) if np.array_equal(seen, pixels)]
        assert len(matches) == 1, f"{tag} at {step}"
        assert tag in matches[0].name
    assert [row["trainer/global_step"] for row in logged] == [0, 469]
    assert all(set(row) == {"gradcam/conv1", "gradcam/conv2", "trainer/global_step"} for row in logged)
    captions = [[image._caption for image in row["gradcam/conv1"]] for row in logged]
    assert captions == [["untrained"], ["epoch 3"]]


def test_wandb_keeps_findings_in_the_runs_summary(wandb_logger: WandbLogger) -> None:
    WandbSink(wandb_logger).log_summary({"gradcam_findings/1": "one", "gradcam_findings/2": "two"})
    assert dict(wandb_logger.experiment.summary) == {"gradcam_findings/1": "one", "gradcam_findings/2": "two"}


def test_wandb_gets_videos_and_a_table_whose_originals_go_up_once(wandb_logger: WandbLogger, tmp_path: Path) -> None:
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    logged: list[dict[str, Any]] = []
    log = wandb_logger.experiment.log

    def watched(data: dict[str, Any], *args: Any, **options: Any) -> None:
        logged.append(dict(data))
        log(data, *args, **options)

    wandb_logger.experiment.log = watched
    sink = WandbSink(wandb_logger)
    sink.log_evolution(evolution(10, ended=False))
    sink.log_evolution(evolution(20))
    tag = "gradcam_evolution/conv1"
    assert [set(row) - {"trainer/global_step"} for row in logged] == [
        {tag},
        {tag},
        {f"{tag}/animation", "gradcam_table"},
    ]
    assert [row["trainer/global_step"] for row in logged] == [10, 20, 20]
    table = logged[-1]["gradcam_table"]
    assert table.columns == [
        *("probe", "original", "epoch", "step", "true", "predicted", "confidence", "score"),
        "gradcam/conv1",
    ]
    assert [row[0] for row in table.data] == ["a", "a", "b", "b"]
    assert [row[2] for row in table.data] == [0, 1, 0, 1]
    assert len({id(row[1]) for row in table.data}) == 1
    files = Path(wandb_logger.experiment.dir).parent / "files" / "media"
    (video,) = (files / "videos").rglob("*.gif")
    assert video.read_bytes() == evolution().animations[tag].encoded("gif")
    # What a table holds waits for its upload there.
    waiting = [file.read_bytes() for file in (tmp_path / "wandb-home" / "artifacts" / "staging").iterdir()]
    shown = [decoded(content) for content in waiting if content.startswith(b"\x89PNG")]
    assert len(shown) == 1 + 4
    assert sum(np.array_equal(seen, picture(99).pixels) for seen in shown) == 1
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), state[2])


# ---- files


@pytest.mark.parametrize(("format", "exact"), [("png", True), ("jpeg", False), ("webp", False)])
def test_file_sink_writes_one_file_a_picture(tmp_path: Path, format: str, exact: bool) -> None:
    sink = FileSink(str(tmp_path / "sheets"), prefix="gradcam")
    sink.log(Entry(469, 3, {tag: replace(p, format=format) for tag, p in entry(469, 3).pictures.items()}))
    sink.close()
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    name = f"step-0000000469-epoch-0003.{format}"
    assert files == [f"sheets/conv1/{name}", f"sheets/conv2/{name}"]
    for place, file in enumerate(files):
        pixels = decoded((tmp_path / file).read_bytes())
        assert pixels.shape == (12, 20, 3)
        if exact:
            assert np.array_equal(pixels, picture(469 + place).pixels)


@pytest.mark.parametrize(
    ("tag", "epoch", "path"),
    [
        ("gradcam/layer4.1/mean", 0, "layer4.1/mean/step-0000000010-epoch-0000.png"),
        ("gradcam/conv", -1, "conv/step-0000000010-epoch-untrained.png"),
        ("gradcam/gradcam/conv", 0, "gradcam/conv/step-0000000010-epoch-0000.png"),
        ("other/conv", 0, "other/conv/step-0000000010-epoch-0000.png"),
        ("gradcam/../../conv", 0, "_-5ec1f7e7/_-5ec1f7e7/conv/step-0000000010-epoch-0000.png"),
        ("gradcam/con v*", 0, "con_v_-6d79cd2e/step-0000000010-epoch-0000.png"),
    ],
)
def test_file_sinks_path_is_the_tag_without_its_prefix(tmp_path: Path, tag: str, epoch: int, path: str) -> None:
    FileSink(str(tmp_path / "deep" / "sheets"), prefix="gradcam").log(entry(10, epoch, tag))
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / "deep" / "sheets" / path]


def test_file_sink_writes_through_fsspec() -> None:
    import fsspec

    FileSink("memory://file-sink/sheets", prefix="gradcam").log(entry(10, 0, "gradcam/conv"))
    files = fsspec.filesystem("memory")
    data = files.cat_file("/file-sink/sheets/conv/step-0000000010-epoch-0000.png")
    assert np.array_equal(decoded(data), picture(10).pixels)
    files.rm("/file-sink", recursive=True)


# ---- memory


def test_memory_sink_keeps_entries_in_order_and_remembers_the_end() -> None:
    sink = MemorySink()
    entries = [entry(10), entry(20)]
    for each in entries:
        sink.log(each)
    assert sink.entries == entries
    assert not sink.closed
    sink.close()
    assert sink.closed
    assert len(sink.entries) == 2


def test_own_sink_needs_only_log() -> None:
    class Own(Sink):
        def log(self, entry: Entry) -> None:
            self.last = entry.step

    sink = Own()
    sink.log(entry(5))
    sink.close()
    assert sink.last == 5
    with pytest.raises(TypeError, match="abstract"):
        Sink()  # type: ignore[abstract]


# ---- the choice


class OwnTensorBoard(TensorBoardLogger):
    """A user's subclass."""


class OwnerTensorBoard(OwnTensorBoard):
    """And one of that."""


class OwnDummy(DummyLogger):
    """A silent one."""


@pytest.fixture
def loggers(tmp_path: Path) -> dict[str, Logger]:
    return {
        "tensorboard": TensorBoardLogger(str(tmp_path)),
        "own": OwnTensorBoard(str(tmp_path)),
        "owner": OwnerTensorBoard(str(tmp_path)),
        "csv": CSVLogger(str(tmp_path)),
        "dummy": DummyLogger(),
        "own dummy": OwnDummy(),
        "wandb": WandbLogger.__new__(WandbLogger),  # its constructor would want a run
    }


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        ([], [FileSink]),
        (["tensorboard"], [TensorBoardSink]),
        (["own"], [TensorBoardSink]),
        (["owner"], [TensorBoardSink]),
        (["wandb"], [WandbSink]),
        (["csv"], [ScalarSink, FileSink]),
        (["dummy"], []),
        (["own dummy"], []),
        (["tensorboard", "wandb"], [TensorBoardSink, WandbSink]),
        (["csv", "tensorboard"], [ScalarSink, TensorBoardSink, FileSink]),
        (["csv", "csv"], [ScalarSink, ScalarSink, FileSink]),
        (["tensorboard", "own"], [TensorBoardSink, TensorBoardSink]),
    ],
    ids=str,
)
def test_sinks_are_chosen_by_the_loggers_class(
    loggers: dict[str, Logger], tmp_path: Path, names: list[str], kinds: list[type[Sink]]
) -> None:
    made: list[FileSink] = []

    def files() -> Sink:
        made.append(FileSink(str(tmp_path), prefix="gradcam"))
        return made[-1]

    found = sinks_for([loggers[name] for name in names], files)
    assert [type(sink) for sink in found] == kinds
    assert len(made) == kinds.count(FileSink)


def test_sinks_write_to_the_logger_they_were_chosen_for(loggers: dict[str, Logger]) -> None:
    never: Callable[[], Sink] = pytest.fail  # type: ignore[assignment]
    first, second = sinks_for([loggers["tensorboard"], loggers["own"]], never)
    assert first._logger is loggers["tensorboard"]  # type: ignore[attr-defined]
    assert second._logger is loggers["own"]  # type: ignore[attr-defined]
