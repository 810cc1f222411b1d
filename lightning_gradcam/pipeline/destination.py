"""Where the results of a run go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_gradcam.sinks import Sink


@dataclass(frozen=True)
class Destination:
    """Where a run's results go.

    Attributes:
        folder: The folder around the archive's own, local or a URL; ``None``: nothing is written.
        loggers: Those that pictures and numbers go to.
        sinks: Further ones.
        run: The run's own id.
        resumed: What a checkpoint kept of the run that goes on here, empty without one.
        copy_steps: Take over that run's steps.
    """

    folder: str | None
    loggers: Sequence[object] = ()
    sinks: Sequence[Sink] = ()
    run: str = ""
    resumed: Mapping[str, Any] = field(default_factory=dict)
    copy_steps: bool = True
