"""The report after training: accuracy, precision, recall and F1 of each class, and a confusion matrix."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from fashion_mnist_data import FashionMNISTDataModule
from fashion_mnist_model import FashionMNISTClassifier
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_gradcam import Entry, FileSink, Picture, sinks_for


def report(trainer: Trainer, model: FashionMNISTClassifier, data: FashionMNISTDataModule) -> str:
    """Logs the confusion matrix and the per-class results, and returns the report as text.

    Args:
        trainer: The Trainer that has just tested ``model``.
        model: The tested model, with its ``test_results``.
        data: The data module, for the class names and the origin of the data.
    """
    names, results = data.class_names, model.test_results
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics(
            {
                f"test_{metric}/{name.replace('/', '-')}": float(value)
                for metric in ("precision", "recall", "f1")
                for name, value in zip(names, results[metric], strict=True)
            },
            step,
        )
    picture = Picture(confusion_picture(results["confusion"], names))
    entry = Entry(step, trainer.current_epoch, {"test/confusion_matrix": picture})
    for sink in sinks_for(trainer.loggers, lambda: FileSink(str(trainer.log_dir), prefix="")):
        sink.log(entry)
    rows = [f"{'class':<14}{'precision':>10}{'recall':>10}{'F1':>10}"]
    for row, name in enumerate(names):
        values = "".join(f"{float(results[metric][row]):>10.3f}" for metric in ("precision", "recall", "f1"))
        rows.append(f"{name:<14}{values}")
    head = f"Test images: {len(data.test_set)} ({data.data}), accuracy {float(results['accuracy']):.3f}"
    return "\n".join(["", head, *rows, ""])


def confusion_picture(matrix: Tensor, names: list[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draws a normalised confusion matrix.

    Args:
        matrix: ``[C, C]``; rows are true classes and add up to 1.
        names: Class names.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    from matplotlib.figure import Figure

    # A separate Figure instead of pyplot: it needs no display and leaves no global figure.
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix.cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title("Confusion matrix: share of each true class (rows add up to 1)")
    for row, values in enumerate(matrix.tolist()):
        for column, value in enumerate(values):
            color = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        return np.asarray(picture.convert("RGB"))
