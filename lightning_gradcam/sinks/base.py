"""What every backend gets, and the interface it fills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

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


@dataclass(frozen=True)
class Numbers:
    """Numbers of one logged step.

    Attributes:
        step: The x value.
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        values: Tag (``gradcam_stats/seconds``) to number.
    """

    step: int
    epoch: int
    values: Mapping[str, float]


class Sink(ABC):
    """A backend for pictures. Give instances to ``GradCAMCallback(sinks=[…])`` to add your own.

    Attributes:
        thread_safe: ``False`` (default): everything is called on the training thread, at the next hook after the
            pictures are finished. ``True``: in the background, one call at a time, while training goes on.
        formats: The files that it takes; these are encoded in the background. Others are given to it as PNG.

    Example::

        class Folder(Sink):
            thread_safe = True

            def log(self, entry):
                for tag, picture in entry.pictures.items():
                    format, content = picture.file(self.formats)
                    Path(f"{tag.replace('/', '-')}-{entry.step}.{format}").write_bytes(content)
    """

    thread_safe: ClassVar[bool] = False
    formats: ClassVar[Sequence[str]] = ("png", "jpeg", "webp")

    def prepare(self) -> None:  # noqa: B027 - most backends have nothing to prepare
        """Called on the training thread when a run begins, before anything is logged."""

    @abstractmethod
    def log(self, entry: Entry) -> None:
        """Takes all pictures of one step; called in the order of the steps."""

    def log_numbers(self, numbers: Numbers) -> None:  # noqa: B027 - a backend may take pictures alone
        """Takes numbers of one step, after its pictures; there may be several calls a step."""

    def close(self) -> None:  # noqa: B027 - most backends have nothing to close
        """Called once when the run ends, after an exception too, on the training thread."""
