"""Weights & Biases, through Lightning's WandbLogger."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.sinks.base import Entry, Sink


class WandbSink(Sink):
    """Logs all pictures of a step as one row.

    Args:
        logger: Lightning's ``WandbLogger``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, entry: Entry) -> None:
        """Logs every tag's picture under ``trainer/global_step``, beside the metrics."""
        import wandb

        caption = "untrained" if entry.epoch < 0 else f"epoch {entry.epoch}"
        # uint8: float pictures are truncated to black by some versions of wandb.
        images = {tag: [wandb.Image(picture.pixels, caption=caption)] for tag, picture in entry.pictures.items()}
        # One call for all tags: `log_image` would make a row of each.
        self._logger.log_metrics(images, entry.step)
