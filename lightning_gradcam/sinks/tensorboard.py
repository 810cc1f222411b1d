"""TensorBoard, through the SummaryWriter of Lightning's TensorBoardLogger."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.picture import Picture
from lightning_gradcam.sinks.base import Entry, Sink


class TensorBoardSink(Sink):
    """Writes image summaries.

    Args:
        logger: Lightning's ``TensorBoardLogger``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, entry: Entry) -> None:
        """Writes one image summary a tag."""
        writer = self._logger.experiment
        # Lightning falls back to tensorboardX, whose event files are made of classes of its own.
        ready = type(writer).__module__.startswith("torch.utils.tensorboard")
        for tag, picture in entry.pictures.items():
            if ready:
                _add_encoded(writer, tag, picture, entry.step)
            else:
                writer.add_image(tag, picture.pixels, entry.step, dataformats="HWC")


def _add_encoded(writer: Any, tag: str, picture: Picture, step: int) -> None:
    # `add_image` encodes at a slow level (0.9 s for a large sheet) and draws nothing better; ready bytes pass through.
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = picture.pixels.shape[:2]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=picture.encoded("png"))
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
