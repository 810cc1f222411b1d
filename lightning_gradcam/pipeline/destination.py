"""The destination of a run's results: its archive and its sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lightning_gradcam.archive import ArchiveWriter, start_beside
from lightning_gradcam.monitors.base import Monitor
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.sinks import FileSink, Sink, sinks_for
from lightning_gradcam.storage import join


@dataclass(frozen=True)
class Destination:
    """The destination of a run's results.

    Attributes:
        folder: The parent of the archive's folder, local or a URL; ``None``: nothing is written.
        loggers: The loggers that receive images and numbers.
        sinks: Additional sinks.
        run: The run's id.
        resumed: The resumed run's state from its checkpoint; empty without one.
        copy_steps: Whether to take over that run's steps.
    """

    folder: str | None
    loggers: Sequence[object] = ()
    sinks: Sequence[Sink] = ()
    run: str = ""
    resumed: Mapping[str, Any] = field(default_factory=dict)
    copy_steps: bool = True

    @property
    def parent(self) -> Mapping[str, Any] | None:
        """The archive's reference to the resumed run; ``None`` without one."""
        if not self.resumed.get("archive"):
            return None
        return {key: self.resumed[key] for key in ("archive", "run", "step", "logged") if key in self.resumed}

    def opened(self, monitor: Monitor, probes: ProbeSet, found: Any) -> tuple[ArchiveWriter | None, str, list[Sink]]:
        """Opens the archive and the sinks.

        Args:
            monitor: What is observed.
            probes: The run's probes.
            found: The monitor's results for the probes, from which the layers' names and shapes are read.

        Returns:
            The archive, or ``None`` if nothing is written; the reason why it is not in the folder named after the
            monitor, empty if it is; and the sinks.

        Raises:
            ArchiveError: The folder can't be written to.
        """
        archive, aside, served = None, "", list(self.sinks)
        if self.folder is not None:
            root, manifest = join(self.folder, monitor.name), monitor.manifest(probes, found, self.run)
            # The recording thread takes over the earlier steps, because there can be many.
            archive, aside = start_beside(root, manifest, probes, parent=self.parent, copy_steps=self.copy_steps)
            files = partial(FileSink, join(archive.path, "sheets"), prefix=monitor.name)
            served = [*sinks_for(self.loggers, files), *served]
        for sink in served:
            sink.prepare()
        return archive, aside, served
