"""Logs to TensorBoard through the SummaryWriter of Lightning's TensorBoardLogger."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.errors import printable
from lightning_gradcam.sinks.base import Entry, Evolution, Histograms, Numbers, Sink


class TensorBoardSink(Sink):
    """Writes image, scalar and histogram summaries.

    Args:
        logger: Lightning's ``TensorBoardLogger``.
    """

    # TensorBoard's own thread writes event files and receives summaries under a lock.
    thread_safe = True
    # TensorBoard's page does not declare WebP files to the browser.
    formats = ("png", "jpeg")

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def prepare(self) -> None:
        """Creates the writer now, because the logger creates it without a lock on first use."""
        _ = self._logger.experiment

    def log(self, entry: Entry) -> None:
        """Writes one image summary for each tag."""
        writer = self._logger.experiment
        # Lightning falls back to tensorboardX, whose event files use its own classes.
        ready = type(writer).__module__.startswith("torch.utils.tensorboard")
        for tag, picture in entry.pictures.items():
            if ready:
                # `add_image` encodes slowly (0.9 s for a large sheet) without any benefit, so pass encoded bytes. Pass
                # few of them, because TensorBoard's checksum takes a second for 7 MB and blocks all other Python code.
                content = picture.small(self.formats)[1]
                _add(writer, printable(tag), picture.size, content, entry.step)
            else:
                writer.add_image(printable(tag), picture.pixels, entry.step, dataformats="HWC")
        # Flush, because TensorBoard's own thread would keep them for up to two minutes.
        writer.flush()

    def log_numbers(self, numbers: Numbers) -> None:
        """Writes one scalar summary for each tag."""
        for tag, value in numbers.values.items():
            self._logger.experiment.add_scalar(printable(tag), value, numbers.step)

    def log_histograms(self, histograms: Histograms) -> None:
        """Writes one histogram summary for each tag, with unchanged bins."""
        for tag, found in histograms.values.items():
            self._logger.experiment.add_histogram_raw(
                printable(tag),
                min=found.min,
                max=found.max,
                num=found.number,
                sum=found.sum,
                sum_squares=found.sum_squares,
                # TensorBoard stores right edges; the first bin starts at the smallest value.
                bucket_limits=found.edges[1:].tolist(),
                bucket_counts=found.counts.tolist(),
                global_step=histograms.step,
            )

    def log_evolution(self, evolution: Evolution) -> None:
        """Writes the film strips and, at the end, the animations, which the Images tab plays."""
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
