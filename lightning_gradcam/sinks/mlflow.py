"""Logs to MLflow through the client of Lightning's MLFlowLogger."""

from __future__ import annotations

import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_gradcam.sinks.base import Entry, Evolution, Numbers, Sink, fitting, ready

# Metric keys can have 250 characters; an image's file name, at most 255 bytes, contains key, step, time and a UUID.
_UNFIT, _LONGEST = re.compile(r"[^A-Za-z0-9_. -]"), 150


class MLflowSink(Sink):
    """Logs images by step, which the run's page shows with a slider, and animations as artifacts.

    Args:
        logger: Lightning's ``MLFlowLogger``, on any tracking server or store.
    """

    # Unlike `mlflow.log_…`, the client has no current run: each call is a separate request, transaction or file, and
    # MLflow itself logs from threads (asynchronous logging, system metrics). Uploads would block training.
    thread_safe = True
    # MLflow names all images .png.
    formats = ("png",)

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def prepare(self) -> None:
        """Creates the run now, because the logger creates it without a lock on first use."""
        _ = self._logger.run_id

    def log(self, entry: Entry) -> None:
        """Logs each tag's image at its step."""
        for tag, picture in entry.pictures.items():
            image = ready(picture.small(("png",))[1])
            self._log_image(image, _name(tag), entry.step)

    def log_numbers(self, numbers: Numbers) -> None:
        """Logs the numbers in one request."""
        self._logger.log_metrics({_name(tag): value for tag, value in numbers.values.items()}, numbers.step)

    def log_evolution(self, evolution: Evolution) -> None:
        """Logs the film strips by step; at the end also ``<tag>/animation.gif`` as an artifact."""
        if not evolution.repeated:
            self.log(Entry(evolution.step, evolution.epoch, evolution.strips))
        with TemporaryDirectory(prefix="lightning-gradcam-") as folder:
            file = Path(folder, "animation.gif")
            for tag, animation in evolution.animations.items():
                file.write_bytes(animation.encoded("gif"))
                self._logger.experiment.log_artifact(self._logger.run_id, str(file), _name(tag))

    def _log_image(self, image: Any, key: str, step: int) -> None:
        # For a run's first image, a store of files reads all metrics. It can't read the empty file of a metric that
        # training is logging for the first time at this moment.
        for pause in (0.05, 0.5):
            try:
                self._logger.experiment.log_image(self._logger.run_id, image, key=key, step=step)
                return
            except ValueError:
                time.sleep(pause)
        self._logger.experiment.log_image(self._logger.run_id, image, key=key, step=step)


def _name(tag: str) -> str:
    return fitting(tag, _UNFIT, _LONGEST)
