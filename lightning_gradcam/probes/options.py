"""The user's probe options in one object, shared by drawing, streaming and resuming."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_gradcam.probes.class_names import named_classes
from lightning_gradcam.probes.paths import Key
from lightning_gradcam.probes.probe_set import ProbeSet

DEFAULT_PROBES = 8


@dataclass(frozen=True)
class ProbeOptions:
    """The user's choice of probes.

    Attributes:
        given: A probe set, the path to a saved one or to a folder of images, or ``None`` to draw probes.
        num_probes: Number of probes to draw; ``None``: 8, or all if there are fewer. Classes are balanced (their counts
            differ by at most one) if labels exist: in an attribute (``targets``, ``labels``, ``samples``), in a column
            of a Hugging Face data set, or in the first samples of the draw. Up to 1,000 samples, or 8 per probe if that
            is more, are decoded for this; fewer if more would change nothing or take over 20 seconds.
        seed: Random seed for the draw.
        input_key: Location of the image in a batch: a dict key, a field, an index into a tuple, a path of these
            (``["views", "left"]``, ``"views.left"``, ``"0.1"``), or a function that extracts it from the batch.
            Default: the first entry of a tuple, or a common name (``image``, ``pixel_values``, ``x``, …). If there are
            several views of the same samples, the first is used.
        label_key: Location of the true class, in the same forms. Default: the second entry of a tuple, or a common
            name.
        class_names: Class names by index, instead of the data set's: a list, ``"imagenet"``, the path to a file, or
            ``"package.module:Name"``.
        mean: Mean of the normalisation to undo for display, if the data set's transform does not reveal one.
        std: Standard deviation of that normalisation.
        apart: Put images of different sizes into separate batches; the probes then show them resized to the first
            image's size.
        fewer: Use all samples if there are fewer than ``num_probes``.
    """

    given: str | os.PathLike[str] | ProbeSet | None = None
    num_probes: int | None = None
    seed: int = 0
    input_key: Key | None = None
    label_key: Key | None = None
    class_names: Sequence[str] | str | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    apart: bool = False
    fewer: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", named_classes(self.class_names))
