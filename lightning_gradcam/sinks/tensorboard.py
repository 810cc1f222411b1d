"""TensorBoard, through the SummaryWriter of Lightning's TensorBoardLogger."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.errors import printable
from lightning_gradcam.picture import Picture
from lightning_gradcam.sinks.base import Entry, Numbers, Sink


class TensorBoardSink(Sink):
    """Writes image and scalar summaries.

    Args:
        logger: Lightning's ``TensorBoardLogger``.
    """

    # Event files are written by a thread of TensorBoard's own, which takes its summaries under a lock.
    thread_safe = True
    # TensorBoard's page tells a browser nothing of WebP files.
    formats = ("png", "jpeg")

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def prepare(self) -> None:
        """Makes sure that there is one writer: the logger makes it at the first use, without a lock."""
        _ = self._logger.experiment

    def log(self, entry: Entry) -> None:
        """Writes one image summary a tag."""
        writer = self._logger.experiment
        # Lightning falls back to tensorboardX, whose event files are made of classes of its own.
        ready = type(writer).__module__.startswith("torch.utils.tensorboard")
        for tag, picture in entry.pictures.items():
            if ready:
                _add_encoded(writer, printable(tag), picture, entry.step)
            else:
                writer.add_image(printable(tag), picture.pixels, entry.step, dataformats="HWC")
        # TensorBoard's own thread would keep them for up to two minutes.
        writer.flush()

    def log_numbers(self, numbers: Numbers) -> None:
        """Writes one scalar summary a tag."""
        for tag, value in numbers.values.items():
            self._logger.experiment.add_scalar(tag, value, numbers.step)


def _add_encoded(writer: Any, tag: str, picture: Picture, step: int) -> None:
    # `add_image` encodes at a slow level (0.9 s for a large sheet) and draws nothing better; ready bytes pass through.
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = picture.pixels.shape[:2]
    _, content = picture.file(TensorBoardSink.formats)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
