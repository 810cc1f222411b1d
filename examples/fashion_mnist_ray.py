"""Trains the example on two workers of Ray Train, and logs Grad-CAM overlays after every epoch.

    pip install -e ".[examples,ray]"
    python examples/fashion_mnist_ray.py --epochs 5

Ray starts the workers, and Lightning's DDP runs inside them. Only rank zero explains; this needs no setting.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

EXAMPLES = Path(__file__).resolve().parent


def train(options: dict[str, Any]) -> None:
    """Trains on one worker."""
    sys.path.insert(0, str(EXAMPLES))
    # If the package `lightning` is installed, Ray's strategy comes from it; this example's modules come from
    # `pytorch_lightning`, and a Trainer of one package does not accept parts of the other.
    sys.modules["lightning"] = None  # type: ignore[assignment]
    import pytorch_lightning as pl
    from fashion_mnist_data import FashionMNISTDataModule
    from fashion_mnist_model import FashionMNISTClassifier
    from pytorch_lightning.loggers import TensorBoardLogger
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

    from lightning_gradcam import GradCAMCallback

    pl.seed_everything(0)
    callback = GradCAMCallback(["network.relu1", "network.relu2", "network.relu3"], num_probes=10)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[callback],
        # Ray sets the worker's working directory, so the path must be absolute.
        logger=TensorBoardLogger(options["folder"], name="fashion_mnist_ray"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        max_epochs=options["epochs"],
    )
    data = FashionMNISTDataModule(root=options["root"], source=options["source"])
    prepare_trainer(trainer).fit(FashionMNISTClassifier(), datamodule=data)


def main(arguments: list[str] | None = None) -> None:
    """Reads the options and starts the workers."""
    parser = argparse.ArgumentParser(description="Fashion-MNIST with Grad-CAM overlays, on workers of Ray Train.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--root", default="data", help="the folder that contains FashionMNIST/raw")
    parser.add_argument("--source", default="auto", help="see FashionMNISTDataModule")
    parser.add_argument("--folder", default="lightning_logs", help="the folder for logs and the archive")
    options = parser.parse_args(arguments)
    folders = {name: str(Path(getattr(options, name)).resolve()) for name in ("root", "folder")}
    ray.init(num_cpus=max(options.workers, 1), include_dashboard=False)
    TorchTrainer(
        train,
        train_loop_config={"epochs": options.epochs, "source": options.source, **folders},
        scaling_config=ScalingConfig(num_workers=options.workers),
        run_config=RunConfig(storage_path=str(Path(folders["folder"], "ray"))),
    ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
