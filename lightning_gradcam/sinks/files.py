"""Writes plain image files, for loggers that don't accept images and for runs without a logger."""

from __future__ import annotations

from itertools import count

from lightning_gradcam.sinks.base import Entry, Sink
from lightning_gradcam.storage import Storage, safe_name

# Some systems do not support longer paths.
_LONGEST = 180


class FileSink(Sink):
    """Writes ``<root>/<layer>/step-0000000469-epoch-0003.png``.

    Args:
        root: The folder, as a local path or a URL that fsspec supports.
        prefix: The first part of every tag, omitted from the path.
    """

    thread_safe = True

    def __init__(self, root: str, *, prefix: str) -> None:
        self._storage = Storage(root)
        self._prefix = prefix

    def log(self, entry: Entry) -> None:
        """Writes one file for each image, atomically."""
        epoch = "untrained" if entry.epoch < 0 else f"{entry.epoch:04d}"
        for tag, picture in entry.pictures.items():
            place = tag.removeprefix(f"{self._prefix}/")
            folder = "/".join(safe_name(part) for part in place.split("/"))
            if len(folder) > _LONGEST:
                folder = safe_name(place)
            stem = f"{folder}/step-{entry.step:010d}-epoch-{epoch}"
            format, content = picture.file(self.formats)
            # With gradient accumulation, two validations can share a step.
            names = (f"{stem}{f'-{repeat}' if repeat else ''}.{format}" for repeat in count())
            self._storage.write(next(name for name in names if not self._storage.exists(name)), content)
