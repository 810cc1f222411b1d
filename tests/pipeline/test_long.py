"""Long runs and large models: nothing grows with the steps, and what is large is bounded."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
from torch import Tensor, nn

from lightning_gradcam import Archive, Drawing, GradCAMCallback, MemorySink, ProbeSet, compute_cams
from lightning_gradcam.archive import ArchiveWriter, folder
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.pipeline.destination import Destination
from lightning_gradcam.pipeline.failures import Failures
from lightning_gradcam.pipeline.recorder import Recorder
from lightning_gradcam.pipeline.worker import Worker
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.sinks import FileSink
from lightning_gradcam.storage import Storage
from tests.conftest import TinyModule, loaders, trainer

pytestmark = pytest.mark.slow

MEGABYTE = 2**20


def open_files() -> int:
    """Open files, a moment later: the worker closes what it is writing, a leak stays in every count."""
    time.sleep(0.01)
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0


def held(model: nn.Module | None = None) -> dict[str, int]:
    """What this process holds: bytes in memory, threads, open files, and hooks on the model."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    files = min(open_files() for _ in range(20))
    hooks = [value for module in (model.modules() if model is not None else ()) for value in vars(module).items()]
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": threading.active_count(),
        "files": files,
        "hooks": sum(len(value) for name, value in hooks if name.endswith("_hooks")),
    }


def flat(early: dict[str, int], late: dict[str, int], *, room: int = 8 * MEGABYTE) -> None:
    assert late["memory"] - early["memory"] < room + early["memory"] // 50
    for name in ("threads", "files", "hooks"):
        assert late[name] <= early[name], name


# ---- long


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_a_thousand_epochs_hold_no_more_than_two_hundred(tmp_path: Path, logger: Any) -> None:
    seen: dict[int, dict[str, int]] = {}

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch in (200, 990):
                seen[trainer.current_epoch] = held(pl_module)

    callback = GradCAMCallback("net.conv2", num_probes=2, on_error="raise")
    trainer(
        tmp_path,
        logger=logger(str(tmp_path)),
        callbacks=[callback, Watch()],
        max_epochs=1000,
        num_sanity_val_steps=0,
        log_every_n_steps=1000,
    ).fit(TinyModule(), *loaders(8))
    flat(seen[200], seen[990])
    assert callback.archive is not None
    assert callback.archive.epochs == tuple(range(1000))
    assert Archive.open(callback.archive.path).maps("net.conv2").shape == (1000, 2, 6, 6)


class Small(nn.Module):
    def __init__(self, channels: int = 2, size: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x).relu()).flatten(1))


def logged(
    root: Path, steps: int, watch: dict[int, dict[str, int]], *, scale: Any = "image"
) -> tuple[CamMonitor, ProbeSet]:
    """So many steps through a recorder with an archive, picture files of a few, and a worker in the background."""
    torch.manual_seed(0)
    probes = ProbeSet(torch.rand(1, 1, 4, 4), ids=("0",))
    plan = CamMonitor("gradcam", "conv", "gradcam", "predicted", "logit", Drawing(magnification=1, scale=scale))
    cams = compute_cams(Small(), probes.inputs, "conv", relu=False)

    class Every(FileSink):
        def log(self, entry: Any) -> None:
            if entry.step % 1000 == 0:
                super().log(entry)

    archive, _ = ArchiveWriter.start(str(root), plan.manifest(probes, cams, "run"), probes)
    failures = Failures("raise", pytest.fail)
    sinks = [Every(str(root / "sheets"), prefix="gradcam")]
    recorder = Recorder(CamReporter(plan, probes), archive, sinks, Worker, failures)
    for step in range(steps):
        recorder.hand_over(cams, epoch=step, step=step, stage="fit", began=time.perf_counter())
        recorder.settle()
        if step in (steps // 5, steps - 1):
            recorder.finish()
            watch[step] = held()
    recorder.close()
    return plan, probes


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, int]]]:
    root, watch = tmp_path_factory.mktemp("long") / "gradcam", {}  # type: ignore[var-annotated]
    logged(root, 10_000, watch)
    return root, watch


def test_ten_thousand_steps_hold_no_more_than_two_thousand(ten_thousand: Any) -> None:
    root, watch = ten_thousand
    flat(watch[2000], watch[9999])
    assert len(list((root / "sheets").rglob("step-*"))) == 10


class Counted:
    """How often the archive reads a file, lists its folder, and looks at a file's name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        for owner, name in ((Storage, "open"), (Storage, "names"), (folder, "parse_step_file_name")):
            monkeypatch.setattr(owner, name, self._counting(name, getattr(owner, name)))

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            self.calls[name] += 1
            return function(*arguments)

        return counting


def test_a_long_archive_is_read_file_by_file_and_listed_once(
    ten_thousand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive.open(ten_thousand[0])
    _ = archive.probes
    counted = Counted(monkeypatch)
    assert archive.maps("conv").shape == (10_000, 1, 4, 4)
    assert counted.calls == {"open": 10_000, "names": 1, "parse_step_file_name": 10_000}
    counted.calls.clear()
    assert [archive.record(place).step for place in range(len(archive.steps))] == list(range(10_000))
    # Nothing new lies there, so that no name is taken apart again.
    assert counted.calls == {"open": 10_000, "names": 1}
    counted.calls.clear()
    assert archive.record(-1).step == 9999
    assert counted.calls == {"open": 1, "names": 1}


def test_a_long_run_is_resumed_with_its_last_steps_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, probes = logged(tmp_path / "gradcam", 500, {}, scale="run")
    cams = compute_cams(Small(), probes.inputs, "conv", relu=False)
    counted = Counted(monkeypatch)
    recorder = Recorder.start(
        plan,
        probes,
        cams,
        reporter=CamReporter,
        to=Destination(str(tmp_path), run="run"),
        worker=Worker,
        failures=Failures("raise", pytest.fail),
    )
    recorder.finish()
    assert recorder.last_step == 499
    # The manifest, the last step, which has the largest values of all, and those before it that `settled` looks at.
    assert counted.calls["open"] <= 6
    assert counted.calls["names"] <= 6
    recorder.close()


def test_a_step_that_vanished_since_the_listing_is_looked_for_anew(tmp_path: Path) -> None:
    logged(tmp_path / "gradcam", 5, {})
    archive = Archive.open(tmp_path / "gradcam")
    assert archive.steps == (0, 1, 2, 3, 4)
    next((tmp_path / "gradcam" / "steps").glob("step-0000000001-*")).unlink()
    assert archive.record(1).step == 2


# ---- large


class Around(pl.Callback):
    """Notes how many forwards there have been; one stands before the callback under test and one behind it."""

    def __init__(self, sizes: list[int], seen: list[int]) -> None:
        self.sizes, self.seen = sizes, seen

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(len(self.sizes))


class Noting(TinyModule):
    """Puts each forward's number of samples on a list that is no part of it: the guard takes back what is."""

    def __init__(self, network: nn.Module, sizes: list[int]) -> None:
        super().__init__()
        self.net = network  # type: ignore[assignment]
        network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))


def explained(root: Path, network: nn.Module, epochs: int, callback: GradCAMCallback, logger: Any) -> list[list[int]]:
    """Trains; returns the sizes of the forwards that each epoch's explaining has taken."""
    sizes, seen = [], []  # type: ignore[var-annotated]
    trainer(
        root,
        callbacks=[Around(sizes, seen), callback, Around(sizes, seen)],
        max_epochs=epochs,
        num_sanity_val_steps=0,
        logger=logger,
    ).fit(Noting(network, sizes), *loaders(8))
    return [sizes[start:stop] for start, stop in zip(seen[::2], seen[1::2], strict=True)]


def test_four_thousand_probes_pass_in_parts_and_their_sheet_is_bounded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    count = 4096
    probes = ProbeSet(torch.rand(count, 1, 8, 8), labels=torch.arange(count) % 5, class_names=tuple("abcde"))
    sink = MemorySink()
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    callback = GradCAMCallback("net.1", probes=probes, batch_size=32, sinks=[sink], on_error="raise")
    before = held()
    # With the first maps, two samples twice more show that places are those of the picture.
    (sizes,) = explained(tmp_path, network, 1, callback, False)
    assert sizes == [32, 2, 2] + [32] * (count // 32 - 1)
    assert held()["memory"] - before["memory"] < 300 * MEGABYTE
    assert callback.archive is not None
    assert Archive.open(callback.archive.path).maps("net.1").shape == (1, count, 6, 6)
    (picture,) = sink.entries[0].pictures.values()
    height, width = picture.pixels.shape[:2]
    header = 250
    assert 10_000 < height <= 15_000 + header
    assert height * width <= Drawing().max_sheet_pixels + header * width
    assert len(picture.file()[1]) < 8 * MEGABYTE
    if folder := os.environ.get("LOOK_AT_SHEETS"):
        format, content = picture.file()
        Path(folder, f"many.{format}").write_bytes(content)


def highest(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and by how many bytes its highest need exceeds what was held before it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
    except OSError:
        pytest.skip("this system does not tell how much memory a call takes")
    before = held()["memory"]
    result = call()
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return result, int(line.split()[1]) * 1024 - before


@pytest.mark.parametrize(
    ("methods", "count"),
    [(["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam"], 4), (["eigencam", "eigengradcam"], 1)],
    ids=["gradients", "components"],
)
def test_a_layer_of_two_thousand_channels_takes_a_few_times_its_activations(methods: list[str], count: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2048, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 5)).eval()
    activations = 2048 * 64 * 64 * 4
    pictures = torch.rand(count, 1, 64, 64)
    cams, more = highest(lambda: compute_cams(model, pictures, "0", methods=methods, batch_size=1))
    assert more < 12 * activations
    assert {key.method for key in cams} == set(methods)
    for key, maps in cams.items():
        assert maps.shape == (count, 64, 64), key
        assert maps.isfinite().all(), key


def test_two_hundred_layers_are_explained_by_one_forward_and_drawn_under_their_names(tmp_path: Path) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 2, 1)
            self.blocks = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(200))
            self.head = nn.Linear(128, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for block in self.blocks:
                x = x + 0.1 * block(x).relu()
            return self.head(x.flatten(1))

    torch.manual_seed(0)
    sink, logger = MemorySink(), TensorBoardLogger(str(tmp_path))
    callback = GradCAMCallback("net.blocks.*", num_probes=4, sinks=[sink], on_error="raise")
    assert explained(tmp_path, Deep(), 2, callback, logger) == [[4, 2, 2], [4]]
    tags = [f"gradcam/net.blocks.{number}" for number in range(200)]
    assert [list(entry.pictures) for entry in sink.entries] == [tags, tags]
    events = EventAccumulator(logger.log_dir, size_guidance={IMAGES: 0})
    events.Reload()
    # Of so many layers, evenly chosen ones have strips and animations.
    strips = [tags[place].replace("gradcam/", "gradcam_evolution/") for place in evenly(200, 32, ends=True)]
    animations = [f"{strip}/animation" for strip in strips]
    assert sorted(events.Tags()["images"]) == sorted([*tags, *strips, *animations])
    assert callback.archive is not None
    maps = [callback.archive.maps(f"net.blocks.{number}") for number in range(0, 200, 50)]
    assert all(found.shape == (2, 4, 8, 8) for found in maps)
    assert not any(np.array_equal(maps[0], other) for other in maps[1:])
