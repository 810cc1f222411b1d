"""TensorBoard, through the SummaryWriter of Lightning's TensorBoardLogger."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.errors import printable
from lightning_gradcam.sinks.base import Entry, Evolution, Histograms, Numbers, Sink


class TensorBoardSink(Sink):
    """Writes image, scalar and histogram summaries.

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
        # Lightning falls back to tensorboardX, whose event files are made of its own classes.
        ready = type(writer).__module__.startswith("torch.utils.tensorboard")
        for tag, picture in entry.pictures.items():
            if ready:
                # `add_image` encodes slowly (0.9 s for a large sheet) and draws nothing better; ready bytes pass
                # through. Each goes through TensorBoard's checksum, a second for 7 MB, while no other Python runs.
                content = picture.small(self.formats)[1]
                _add(writer, printable(tag), picture.size, content, entry.step)
            else:
                writer.add_image(printable(tag), picture.pixels, entry.step, dataformats="HWC")
        # TensorBoard's own thread would keep them for up to two minutes.
        writer.flush()

    def log_numbers(self, numbers: Numbers) -> None:
        """Writes one scalar summary a tag."""
        for tag, value in numbers.values.items():
            self._logger.experiment.add_scalar(printable(tag), value, numbers.step)

    def log_histograms(self, histograms: Histograms) -> None:
        """Writes one histogram summary a tag, with the bins as they are."""
        writer = self._logger.experiment
        for tag, found in histograms.values.items():
            writer.add_histogram_raw(
                printable(tag),
                min=found.min,
                max=found.max,
                num=found.number,
                sum=found.sum,
                sum_squares=found.sum_squares,
                # TensorBoard has the right edges; the first bin begins at the smallest value.
                bucket_limits=found.edges[1:].tolist(),
                bucket_counts=found.counts.tolist(),
                global_step=histograms.step,
            )

    def log_evolution(self, evolution: Evolution) -> None:
        """Writes the film strips, and at the end the animations, which the images tab plays."""
        if not evolution.repeated:
            self.log(Entry(evolution.step, evolution.epoch, evolution.strips))
        writer = self._logger.experiment
        if type(writer).__module__.startswith("torch.utils.tensorboard"):
            for tag, animation in evolution.animations.items():
                _add(writer, printable(f"{tag}/animation"), animation.size, animation.encoded("gif"), evolution.step)
            writer.flush()


def _add(writer: Any, tag: str, size: tuple[int, int], content: bytes, step: int) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=content)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
