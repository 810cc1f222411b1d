"""What is done in the background leaves torch alone: its threads would compete with the training's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradcam import (
    Drawing,
    FeatureMapCallback,
    FilterPatternCallback,
    GradCAMCallback,
    MemorySink,
    ProbeSet,
)
from lightning_gradcam.pipeline.worker import THREAD_NAME
from tests.conftest import TinyModule, loaders, trainer

# Probes of 8 x 3 x 96 x 96 values: torch splits an operation on more than 32,768 of them among threads.
FIT = """
    import os, sys, threading, time
    from pathlib import Path

    import torch
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.loggers import TensorBoardLogger
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from lightning_gradcam import Drawing, GradCAMCallback, ProbeSet

    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2

    def tasks():
        return set(map(int, os.listdir("/proc/self/task")))

    class Watch(threading.Thread):
        # Whatever is seen three times in a row and is no thread of Python's; those of training's last step are known.
        def __init__(self):
            super().__init__(daemon=True)
            self.known, self.seen, self.found, self.over = tasks(), {}, set(), False

        def run(self):
            while not self.over:
                time.sleep(0.002)
                now = tasks()
                python = {thread.native_id for thread in threading.enumerate()}
                if None in python:  # a thread of Python's is starting: its task is there before its number is known
                    continue
                self.known |= python
                self.seen = {task: self.seen.get(task, 0) + 1 for task in now - self.known}
                self.found.update(task for task, times in self.seen.items() if times >= 3)

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential()
            self.net.add_module("conv1", nn.Conv2d(3, 8, 3, stride=2, padding=1))
            self.net.add_module("relu1", nn.ReLU())
            self.net.add_module("conv2", nn.Conv2d(8, 8, 3, stride=2, padding=1))
            self.net.add_module("relu2", nn.ReLU())
            self.net.add_module("pool", nn.AdaptiveAvgPool2d(1))
            self.net.add_module("flat", nn.Flatten())
            self.net.add_module("head", nn.Linear(8, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    class Start(Callback):
        def on_validation_epoch_end(self, trainer, module):
            if trainer.current_epoch == 0:
                watch.start()

    torch.manual_seed(0)
    data = TensorDataset(torch.rand(16, 3, 96, 96), torch.arange(16) % 3)
    boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0]] * 8)
    masks = torch.zeros(8, 96, 96, dtype=torch.bool)
    masks[:, 10:60, 10:60] = True
    probes = ProbeSet(data.tensors[0][:8], labels=data.tensors[1][:8], boxes=boxes, masks=masks)
    callback = GradCAMCallback(
        ["net.relu1", "net.relu2"], probes=probes, gradients=True, drawing=Drawing(boxes=True, top=3), on_error="raise"
    )
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, logger=TensorBoardLogger(sys.argv[1]), callbacks=[Start(), callback],
        num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(data, 8), DataLoader(data, 8))
    watch.over = True
    watch.join()
    folder = Path(callback.archive.path)
    assert (folder / "report.html").exists()
    assert len(list((folder / "evolution").iterdir())) == 4
    print(f"FOREIGN {len(watch.found)}")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux alone")
def test_the_worker_wakes_no_second_team_of_threads(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", textwrap.dedent(FIT), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "FOREIGN 0" in ran.stdout


class Recording:
    """Notes every function and operation of torch that is called on the worker: modes belong to a thread."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.entered = 0

    def __call__(self, run: Any) -> Any:
        called = self.called

        class Functions(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                called.append(str(func))
                return func(*args, **(kwargs or {}))

        class Operations(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                called.append(str(func))
                return func(*args, **(kwargs or {}))

        def recorded(thread: threading.Thread) -> None:
            if not thread.name.startswith(THREAD_NAME):
                run(thread)
                return
            self.entered += 1
            with Functions(), Operations():
                run(thread)

        return recorded


def boxed() -> ProbeSet:
    torch.manual_seed(0)
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    boxes = torch.tensor([[2.0, 2.0, 6.0, 6.0]] * 4)
    labels = torch.tensor([0, 1, 2, 0])
    return ProbeSet(torch.rand(4, 1, 8, 8), labels=labels, masks=masks, boxes=boxes, class_names=("a", "b", "c"))


def gradcam() -> Any:
    drawing = Drawing(boxes=True, top=2, columns=("input", "overlay", "heatmap"))
    return GradCAMCallback(
        ["net.relu1", "net.relu2"], probes=boxed(), gradients=True, drawing=drawing, sinks=[MemorySink()]
    )


def features() -> Any:
    return FeatureMapCallback(["net.relu1"], probes=boxed(), sinks=[MemorySink()])


def patterns() -> Any:
    return FilterPatternCallback(["net.relu1"], probes=boxed(), steps=2, filters=2, sinks=[MemorySink()])


@pytest.mark.parametrize("make", [gradcam, features, patterns])
def test_no_function_of_torch_is_called_in_the_background(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording()
    monkeypatch.setattr(threading.Thread, "run", recording(threading.Thread.run))
    loggers = [TensorBoardLogger(str(tmp_path / "board")), CSVLogger(str(tmp_path / "csv"))]
    callback = make()
    trainer(tmp_path, callbacks=callback, logger=loggers, max_epochs=3).fit(TinyModule(), *loaders())
    assert recording.entered
    assert callback.archive is not None
    assert Path(callback.archive.path, "report.html").exists()
    assert recording.called == []
