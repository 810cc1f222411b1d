"""Logs to Comet through the experiment of Lightning's CometLogger."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from lightning_gradcam.sinks.base import Entry, Evolution, Histogram, Histograms, Numbers, Sink, fitting, ready

# Comet truncates longer metric names, including the logger's prefix, so two names could become one.
_UNFIT, _LONGEST = re.compile(r"[^ -~\w]"), 100


class CometSink(Sink):
    """Logs images, numbers and histograms by step, online or offline.

    An experiment remembers its last call's step and applies it to later calls, so calls from another thread could
    assign a wrong step to training's own metrics. Therefore, this sink is called on the training thread, with finished
    files, and resets the step. Comet uploads in its own threads.

    Args:
        logger: Lightning's ``CometLogger``.
    """

    formats = ("png", "jpeg")

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, entry: Entry) -> None:
        """Logs each tag's image at its step.

        Raises:
            RuntimeError: Comet rejected the image; see Comet's log for the reason.
        """
        with self._experiment() as experiment:
            for tag, picture in entry.pictures.items():
                format, content = picture.file(self.formats)
                # For a file, Comet would guess the extension from the name, such as .conv1 from net.conv1; not for an
                # image.
                _log_image(experiment, ready(content), name=self._name(tag), image_format=format, step=entry.step)

    def log_numbers(self, numbers: Numbers) -> None:
        """Logs the numbers as metrics."""
        with self._experiment():
            self._logger.log_metrics({self._name(tag): n for tag, n in numbers.values.items()}, numbers.step)

    def log_histograms(self, histograms: Histograms) -> None:
        """Logs each as one slice of a 3-D histogram, in Comet's bins (each 10% wider than the previous one)."""
        with self._experiment() as experiment:
            for tag, histogram in histograms.values.items():
                experiment.log_histogram_3d(_in_comets_bins(histogram), name=self._name(tag), step=histograms.step)

    def log_evolution(self, evolution: Evolution) -> None:
        """Logs the film strips; at the end also the animations, as images ``<tag>/animation.gif``."""
        if not evolution.repeated:
            self.log(Entry(evolution.step, evolution.epoch, evolution.strips))
        with self._experiment() as experiment:
            for tag, animation in evolution.animations.items():
                content = io.BytesIO(animation.encoded("gif"))
                _log_image(experiment, content, name=self._name(f"{tag}/animation.gif"), step=evolution.step)

    @contextmanager
    def _experiment(self) -> Iterator[Any]:
        experiment = self._logger.experiment
        step = experiment.curr_step
        try:
            yield experiment
        finally:
            experiment.curr_step = step

    def _name(self, tag: str) -> str:
        prefix = getattr(self._logger, "_prefix", None)
        return fitting(tag, _UNFIT, max(64, _LONGEST - (len(prefix) + 1 if prefix else 0)))


def _log_image(experiment: Any, image: object, **options: Any) -> None:
    # Comet reports failures in its own log and continues, as it does with all calls after an experiment has ended.
    if experiment.log_image(image, **options) is None and experiment.alive:
        raise RuntimeError(f"Comet rejected {options['name']!r}; see its messages above")


def _in_comets_bins(histogram: Histogram) -> Any:
    import comet_ml

    found: Any = cast(Any, comet_ml).Histogram()
    # The first and the last bin may extend beyond the values.
    middles = np.clip((histogram.edges[:-1] + histogram.edges[1:]) / 2, histogram.min, histogram.max)
    filled = histogram.counts > 0
    if filled.any():
        found.add(middles[filled], counts=histogram.counts[filled].astype(np.int64))
    return found
