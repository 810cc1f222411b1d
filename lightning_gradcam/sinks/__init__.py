"""Logging backends for finished images: one module per backend, selected by the logger's class.

Does not depend on how images and numbers are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning_gradcam.sinks.base import Entry, Evolution, Histogram, Histograms, Numbers, Row, Sink
from lightning_gradcam.sinks.comet import CometSink
from lightning_gradcam.sinks.files import FileSink
from lightning_gradcam.sinks.memory import MemorySink
from lightning_gradcam.sinks.mlflow import MLflowSink
from lightning_gradcam.sinks.scalars import ScalarSink
from lightning_gradcam.sinks.tensorboard import TensorBoardSink
from lightning_gradcam.sinks.wandb import WandbSink

__all__ = [
    "CometSink",
    "Entry",
    "Evolution",
    "FileSink",
    "Histogram",
    "Histograms",
    "MLflowSink",
    "MemorySink",
    "Numbers",
    "Row",
    "ScalarSink",
    "Sink",
    "TensorBoardSink",
    "WandbSink",
    "sinks_for",
]

# Matched by name: each of the two Lightning packages has its own logger classes, and neither needs to be imported.
_BY_LOGGER: dict[str, Callable[[Any], Sink]] = {
    "CometLogger": CometSink,
    "MLFlowLogger": MLflowSink,
    "TensorBoardLogger": TensorBoardSink,
    "WandbLogger": WandbSink,
}


def sinks_for(loggers: Sequence[object], files: Callable[[], Sink]) -> list[Sink]:
    """Selects a sink for every logger.

    Args:
        loggers: The trainer's loggers; subclasses are treated like their base class.
        files: Creates the sink for loggers without image support and for runs without a logger; called at most once.

    Returns:
        One sink for each logger except dummies, plus one file sink if any logger does not support images or there is
        no logger.
    """
    found: list[Sink] = []
    plain = not loggers
    for logger in loggers:
        names = [base.__name__ for base in type(logger).__mro__]
        make = next((_BY_LOGGER[name] for name in names if name in _BY_LOGGER), None)
        if make is not None:
            found.append(make(logger))
        elif "DummyLogger" not in names:
            found.append(ScalarSink(logger))
            plain = True
    return [*found, files()] if plain else found
