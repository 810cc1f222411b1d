"""Both packages that carry Lightning: a Trainer's callback alone, in a list, and from each one's command line."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

_MODULE = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import {namespace} as pl

class Module(pl.LightningModule):
    def __init__(self, width: int = 2):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 3))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, i):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def validation_step(self, batch, i):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(12, 1, 8, 8), torch.arange(12) % 3), 4)
    val_dataloader = train_dataloader
"""

_TRAINER = """
from lightning_gradcam import GradCAMCallback
callback = GradCAMCallback("net.1", on_error="raise")
quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
pl.Trainer(max_epochs=2, callbacks={callbacks}, default_root_dir=sys.argv[1], accelerator="cpu", **quiet).fit(Module())
"""

_CLI = """
from {namespace}.cli import LightningCLI
# Nothing of ours is imported here: the class path alone names the callback.
cli = LightningCLI(Module, args=["fit", "--config", sys.argv[1] + "/config.yaml"], save_config_callback=None)
callback = next(each for each in cli.trainer.callbacks if type(each).__name__ == "GradCAMCallback")
"""

_CHECK = """
print(callback.archive.epochs, [kind.__module__ for kind in type(callback).__mro__ if kind.__name__ == "Callback"][0])
"""

_YAML = """
trainer:
  max_epochs: 2
  accelerator: cpu
  default_root_dir: {root}
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_gradcam.GradCAMCallback
      init_args:
        layers: [net.0, net.1]
        methods: [gradcam, layercam]
        targets: [predicted, label]
        on_error: raise
"""


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "way", ["alone", pytest.param("in a list", marks=SLOW), pytest.param("LightningCLI", marks=SLOW)]
)
@pytest.mark.parametrize("namespace", [pytest.param("pytorch_lightning", marks=SLOW), "lightning.pytorch"])
def test_the_callback_works_in_both_namespaces(tmp_path: Path, namespace: str, way: str) -> None:
    if find_spec(namespace.split(".")[0]) is None:
        pytest.skip(f"{namespace} is not installed")
    if way == "LightningCLI" and find_spec("jsonargparse") is None:
        pytest.skip("jsonargparse is not installed")
    (tmp_path / "config.yaml").write_text(_YAML.format(root=tmp_path))
    callbacks = "[callback, pl.Callback()]" if way == "in a list" else "callback"
    doing = _CLI.format(namespace=namespace) if way == "LightningCLI" else _TRAINER.format(callbacks=callbacks)
    script = _MODULE.format(namespace=namespace) + doing + _CHECK
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    epochs, base = done.stdout.strip().splitlines()[-1].rsplit(" ", 1)
    assert epochs == "(0, 1)"
    assert base.startswith(namespace)
