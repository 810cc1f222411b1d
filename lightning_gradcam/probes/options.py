"""What the user chooses of the probes, in one object that drawing, streaming and resuming take as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_gradcam.probes.class_names import named_classes
from lightning_gradcam.probes.paths import Key
from lightning_gradcam.probes.probe_set import ProbeSet

if TYPE_CHECKING:
    from lightning_gradcam.probes.streaming import Passing

DEFAULT_PROBES = 8


@dataclass(frozen=True)
class ProbeOptions:
    """The user's choice of probes.

    Attributes:
        given: A probe set, the path of a saved one or of a folder of pictures, or ``None`` to draw.
        num_probes: Number to draw; ``None``: 8, or all if there are fewer. Classes are balanced (their counts
            differ by one at most) if labels exist: on an attribute (``targets``, ``labels``, ``samples``), in a
            column of a Hugging Face data set, or among the first samples of the draw, which are decoded for it: 1,000
            at most, fewer where that changes nothing or would take more than 20 seconds.
        seed: Of the draw.
        input_key: Where a sample's picture is: a key of a dict, a field, a place in a tuple, a path of these
            (``["views", "left"]``, ``"views.left"``, ``"0.1"``), or a function that takes it out of the batch.
            Default: the first of a tuple, or the usual names (``image``, ``pixel_values``, ``x``, …). Of several views
            of the same samples, the first.
        label_key: Where the true class is, in the same forms; default: the second of a tuple, or the usual names.
        class_names: Names of the classes by index, if the data set has none. A text is read: ``"imagenet"``, the
            path of a file, or ``"package.module:Name"``.
        mean: The normalisation to undo for display, where the data set's transform does not show one.
        std: Its deviation.
        apart: Put pictures of several sizes into a batch each; the probes then show them resized to the first one's.
        fewer: Take all samples if there are fewer than ``num_probes``.
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

    def passing(self) -> Passing:
        """Returns an empty collection of samples that pass by."""
        # Which itself draws with these options.
        from lightning_gradcam.probes.streaming import Passing

        return Passing(self.num_probes or DEFAULT_PROBES, self.input_key)
