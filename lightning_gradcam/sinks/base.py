"""The interface of logging backends, the data they receive, and shared helpers for names and files."""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sheets.animation import Animation
from lightning_gradcam.storage import digest, safe_name


@dataclass(frozen=True)
class _AtStep:
    """Data for one logged step."""

    step: int
    epoch: int


@dataclass(frozen=True)
class Entry(_AtStep):
    """The images that loggers receive for one logged step.

    Attributes:
        step: The x value, which is the step at which Lightning logs this validation's metrics.
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        pictures: Tag (``gradcam/<layer>``) to image.
    """

    pictures: Mapping[str, Picture]


@dataclass(frozen=True)
class Numbers(_AtStep):
    """Numbers for one logged step.

    Attributes:
        step: The x value.
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        values: Tag (``gradcam_stats/seconds``) to number.
    """

    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values between edges.

    Attributes:
        counts: Number of values in each bin, ``[B]``.
        edges: Edges of the bins, ``[B + 1]``, ascending.
        min: The smallest value.
        max: The largest value.
        sum: Sum of all values.
        sum_squares: Sum of their squares.
        number: Number of values.
    """

    counts: npt.NDArray[np.float64]
    edges: npt.NDArray[np.float64]
    min: float
    max: float
    sum: float
    sum_squares: float
    number: int


@dataclass(frozen=True)
class Histograms(_AtStep):
    """Histograms for one logged step.

    Attributes:
        step: The x value.
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        values: Tag to histogram.
    """

    values: Mapping[str, Histogram]


@dataclass(frozen=True, eq=False)
class Row:
    """One probe at one step, for backends that have tables.

    Attributes:
        probe: Its id.
        original: Its image; the same object in all of the probe's rows.
        epoch: The epoch, counted from 0; -1 is the untrained baseline.
        step: The x value.
        true: Names of the true classes, separated by commas; empty if unknown.
        predicted: Name of the predicted class; empty if there are no classes.
        confidence: Its probability; NaN if there are no classes.
        score: The explained score.
        overlays: Tag (``gradcam/<layer>``) to the overlay of its map, on one colour scale for all steps.
    """

    probe: str
    original: Picture
    epoch: int
    step: int
    true: str
    predicted: str
    confidence: float
    score: float
    overlays: Mapping[str, Picture]


@dataclass(frozen=True, eq=False)
class Evolution:
    """The run so far: sent after 1, 2, 4, 8, … logged steps, and again when the run ends.

    Attributes:
        name: The callback's name.
        step: The latest step.
        epoch: Its epoch.
        ended: Whether the run has ended; only then are there animations and rows.
        strips: Tag (``gradcam_evolution/<layer>``) to film strip.
        animations: Tag (``gradcam_evolution/<layer>``) to animation; empty during the run.
        rows: Table rows, for sinks that accept them; empty during the run.
        repeated: Whether the previous call already had exactly these strips.
        remark: A note on what strips and animations omit at the end; empty if nothing.
    """

    name: str
    step: int
    epoch: int
    ended: bool
    strips: Mapping[str, Picture]
    animations: Mapping[str, Animation]
    rows: Sequence[Row]
    repeated: bool = False
    remark: str = ""


class Sink(ABC):
    """A logging backend for images. Pass instances to ``GradCAMCallback(sinks=[…])`` to add your own.

    Attributes:
        thread_safe: ``False`` (default): all methods are called on the training thread, at the next hook after the
            images are ready. ``True``: they are called in the background, one at a time, while training continues.
        formats: The file formats that the backend accepts, encoded in the background. Images in other formats are
            passed as PNG.
        takes_rows: Whether the backend supports tables; if so, the evolution at the end of the run includes rows.

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
    takes_rows: ClassVar[bool] = False

    def prepare(self) -> None:  # noqa: B027 - most backends have nothing to prepare
        """Called on the training thread when a run begins, before anything is logged."""

    @abstractmethod
    def log(self, entry: Entry) -> None:
        """Logs all images for one step; called in the order of the steps."""

    def log_numbers(self, numbers: Numbers) -> None:  # noqa: B027 - a backend may take pictures alone
        """Logs numbers for one step, after its images; there may be several calls per step."""

    def log_histograms(self, histograms: Histograms) -> None:  # noqa: B027 - a backend may have none
        """Logs histograms for one step; ignored by default."""

    def log_evolution(self, evolution: Evolution) -> None:  # noqa: B027 - a backend may take sheets alone
        """Logs film strips of the run so far, and animations at its end; ignored by default."""

    def log_summary(self, summary: Mapping[str, str]) -> None:  # noqa: B027 - a backend may have none
        """Logs the findings once, when a run ends: tag (``gradcam_findings/1``) to sentence; ignored by default."""

    def close(self) -> None:  # noqa: B027 - most backends have nothing to close
        """Called once on the training thread when the run ends, even after an exception."""


def fitting(tag: str, unfit: re.Pattern[str], longest: int) -> str:
    """Returns a tag unchanged if the backend accepts it, otherwise a similar valid name.

    Each part between slashes is handled separately. To keep different tags different, a few digits of a hash are added
    to each part that has to change, and to a name that has to be shortened. Shortening keeps the last part, which names
    the number.

    Args:
        tag: A tag with any text.
        unfit: Pattern for text that is not allowed in a part.
        longest: Maximum number of characters, 64 or more.

    Example:
        >>> fitting("gradcam_stats/conv1/drift", re.compile(r"[^a-z0-9_]"), 80)
        'gradcam_stats/conv1/drift'
        >>> fitting("gradcam_stats/conv+/drift", re.compile(r"[^a-z0-9_]"), 80)
        'gradcam_stats/conv_-bbd7a6a8/drift'
    """
    parts = [safe_name(part, unfit, len(part)) for part in tag.split("/")]
    name = "/".join(parts)
    if len(name) <= longest:
        return name
    tail = f"-{digest(tag)}" + (f"/{parts[-1]}" if len(parts) > 1 and len(parts[-1]) < longest // 2 else "")
    return name[: longest - len(tail)] + tail


def ready(content: bytes) -> Image.Image:
    """Returns an image whose ``save`` writes exactly this file, whatever format is requested.

    Nothing is decoded until pixels are accessed.

    Args:
        content: The content of an image file.

    Example:
        >>> from lightning_gradcam.render.picture import Picture
        >>> import numpy as np
        >>> content, written = Picture(np.zeros((8, 8, 3), np.uint8)).encoded("png"), io.BytesIO()
        >>> ready(content).save(written, format="PNG")
        >>> written.getvalue() == content
        True
    """

    def save(to: str | os.PathLike[str] | IO[bytes], *_: Any, **__: Any) -> None:
        if isinstance(to, (str, os.PathLike)):
            with open(to, "wb") as file:
                file.write(content)
        else:
            to.write(content)

    image: Any = Image.open(io.BytesIO(content))
    image.save = save
    made: Image.Image = image
    return made
