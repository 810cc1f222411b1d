"""Loggers that take numbers and no pictures, such as Lightning's CSVLogger."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.sinks.base import Entry, Numbers, Sink


class ScalarSink(Sink):
    """Logs numbers through the interface that all of Lightning's loggers have.

    Args:
        logger: Any of Lightning's loggers.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, entry: Entry) -> None:
        """Does nothing: the logger takes no pictures."""

    def log_numbers(self, numbers: Numbers) -> None:
        """Logs them as metrics."""
        self._logger.log_metrics(dict(numbers.values), numbers.step)
