"""Logs numbers to loggers that accept no images, such as Lightning's CSVLogger."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.sinks.base import Entry, Numbers, Sink


class ScalarSink(Sink):
    """Logs numbers through the interface common to all Lightning loggers.

    Args:
        logger: Any of Lightning's loggers.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, entry: Entry) -> None:
        """Does nothing, because the logger accepts no images."""

    def log_numbers(self, numbers: Numbers) -> None:
        """Logs the numbers as metrics."""
        self._logger.log_metrics(dict(numbers.values), numbers.step)
