"""What every backend gets, and the interface it fills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_gradcam.picture import Picture


@dataclass(frozen=True)
class Entry:
    """Everything that one logged step gives to the loggers.

    Attributes:
        step: The x value: the step at which Lightning logs this validation's metrics.
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        pictures: Tag (``gradcam/<layer>``) to picture.
    """

    step: int
    epoch: int
    pictures: Mapping[str, Picture]


class Sink(ABC):
    """A backend for pictures. Give instances to ``GradCAMCallback(sinks=[…])`` to add your own.

    Example::

        class Folder(Sink):
            def log(self, entry):
                for tag, picture in entry.pictures.items():
                    Path(f"{tag.replace('/', '-')}-{entry.step}.png").write_bytes(picture.encoded())
    """

    @abstractmethod
    def log(self, entry: Entry) -> None:
        """Takes all pictures of one step; called in the order of the steps."""

    def close(self) -> None:  # noqa: B027 - most backends have nothing to close
        """Called once when the run ends, after an exception too."""
