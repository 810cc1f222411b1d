"""Trains a small ConvNet (or ResNet-18) on Fashion-MNIST and logs Grad-CAM overlays after every epoch.

    python examples/fashion_mnist.py fit --config configs/fashion_mnist.yaml

Every option can be changed on the command line (``fit --help`` lists them), for example
``--trainer.max_epochs 10``, ``--data.source fashion_mnist`` or ``--trainer.callbacks.num_probes 16``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pytorch_lightning.cli import ArgsType, LightningCLI

from lightning_gradcam import GradCAMCallback

# The example's other files are next to this one, which may be imported from elsewhere instead of run as a script.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from fashion_mnist_data import FashionMNISTDataModule
from fashion_mnist_model import FashionMNISTClassifier
from fashion_mnist_report import report

# Importing the callback lets YAML use its bare name, too.
__all__ = ["FashionMNISTClassifier", "FashionMNISTDataModule", "GradCAMCallback", "main"]


class FashionMNISTCLI(LightningCLI):
    """LightningCLI that evaluates on the test images after ``fit``."""

    model: FashionMNISTClassifier
    datamodule: FashionMNISTDataModule

    def before_instantiate_classes(self) -> None:
        """Keeps W&B offline if no user is logged in: otherwise it would stop and ask."""
        if "WANDB_MODE" not in os.environ and not _logged_in_to_wandb():
            os.environ["WANDB_MODE"] = "offline"

    def after_fit(self) -> None:
        """Tests the trained model, and prints and logs the report."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        if self.trainer.is_global_zero:
            print(report(self.trainer, self.model, self.datamodule))


def main(args: ArgsType = None) -> FashionMNISTCLI:
    """Runs the command line; ``args`` replaces ``sys.argv[1:]``."""
    return FashionMNISTCLI(
        FashionMNISTClassifier,
        FashionMNISTDataModule,
        args=args,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
    )


def _logged_in_to_wandb() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False


if __name__ == "__main__":
    main()
