"""Both packages that carry Lightning: a Trainer's callback alone, in a list, and from each one's command line."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.plain_module import plain_module

_TRAINER = """
from lightning_gradcam import GradCAMCallback
callback = GradCAMCallback("net.1", on_error="raise")
quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
pl.Trainer(max_epochs={epochs}, callbacks={callbacks}, default_root_dir=sys.argv[1], accelerator="cpu", **quiet).fit(
    Module(), datamodule=Data()
)
"""

# Its threshold is below any value: it stops at the first one, which is there in the second epoch.
_STEERED = """[
    pl.callbacks.EarlyStopping(
        "cam_stats/net.1/entropy", mode="max", stopping_threshold=-1.0, check_on_train_epoch_end=False
    ),
    callback := GradCAMCallback("net.1", name="cam", monitor=True, every_n_epochs=2, on_error="raise"),
]"""

_CLI = """
from {namespace}.cli import LightningCLI
# Nothing of ours is imported here: the class path alone names the callback.
cli = LightningCLI(Module, Data, args=["fit", "--config", sys.argv[1] + "/config.yaml"], save_config_callback=None)
callback = next(each for each in cli.trainer.callbacks if type(each).__name__ == "GradCAMCallback")
"""

_CHECK = """
other = ({"pytorch_lightning", "lightning"} - {pl.__name__.split(".")[0]}).pop()
assert other not in sys.modules, other
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
    "way", ["alone", *(pytest.param(way, marks=SLOW) for way in ("in a list", "LightningCLI", "steering"))]
)
@pytest.mark.parametrize("namespace", [pytest.param("pytorch_lightning", marks=SLOW), "lightning.pytorch"])
def test_the_callback_works_in_both_namespaces(tmp_path: Path, namespace: str, way: str) -> None:
    if find_spec(namespace.split(".")[0]) is None:
        pytest.skip(f"{namespace} is not installed")
    if way == "LightningCLI" and find_spec("jsonargparse") is None:
        pytest.skip("jsonargparse is not installed")
    (tmp_path / "config.yaml").write_text(_YAML.format(root=tmp_path))
    callbacks = {"in a list": "[callback, pl.Callback()]", "steering": _STEERED}.get(way, "callback")
    doing = (
        _CLI.format(namespace=namespace)
        if way == "LightningCLI"
        else _TRAINER.format(callbacks=callbacks, epochs=4 if way == "steering" else 2)
    )
    script = "import sys" + plain_module(namespace) + doing + _CHECK
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    epochs, base = done.stdout.strip().splitlines()[-1].rsplit(" ", 1)
    assert epochs == ("(1,)" if way == "steering" else "(0, 1)")
    assert base.startswith(namespace)
    if way == "alone":
        events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"), size_guidance={"images": 0})
        events.Reload()
        assert len(events.Images("gradcam/net.1")) == 2
