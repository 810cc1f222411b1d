"""Collects sheets of feature maps and filter patterns, which a page shows step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np

from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.report.payload import rounded
from lightning_gradcam.report.pictures import data_url

# Maximum size in bytes and maximum number of steps of a page's sheets; beyond these, evenly spaced steps are shown.
MAX_BYTES = 24_000_000
MAX_STEPS = 48


@dataclass(frozen=True, eq=False)
class Shot:
    """One layer's sheet at one step, stored as a compressed file.

    Args:
        picture: The sheet; only its file is stored.

    Attributes:
        epoch: The epoch, counted from 0; -1 for the untrained baseline.
        step: The step at which the sheet is logged.
        format: The file's format.
        content: The file's content.
        size: Height and width in pixels.
    """

    epoch: int
    step: int
    picture: InitVar[Picture]
    format: str = field(init=False)
    content: bytes = field(init=False, repr=False)
    size: tuple[int, int] = field(init=False)

    def __post_init__(self, picture: Picture) -> None:
        # The same format as the sheet's file.
        format, content = picture.file(("png", "jpeg", "webp"))
        for name, value in (("format", format), ("content", content), ("size", picture.size)):
            object.__setattr__(self, name, value)


def places_for(count: int, last: Iterable[Shot]) -> list[int]:
    """Returns indices of the steps that fit on a page, evenly spaced and including the first and the last.

    Args:
        count: Number of steps.
        last: The last step's sheets, used to estimate the size of a step.
    """
    one = sum(len(shot.content) for shot in last)
    return evenly(count, max(2, min(MAX_STEPS, MAX_BYTES * 3 // 4 // max(one, 1))), ends=True)


@dataclass(frozen=True, eq=False)
class Gallery:
    """Sheets for some layers at a run's steps.

    Attributes:
        title: The run's name.
        kind: The content of the sheets, such as ``"Feature maps"``.
        number: The meaning of the curves, such as ``"dead channels, share"``.
        layers: Each layer's sheets in the order of the steps, which are the same for all layers.
        numbers: One number per step for each layer.
        remark: A note for the reader, for example about omitted steps.
    """

    title: str
    kind: str
    number: str
    layers: Mapping[str, Sequence[Shot]]
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    remark: str = ""

    def header(self) -> dict[str, Any]:
        """Returns the gallery as JSON-compatible values, with sheets as ``data:`` URLs, and the steps that fit."""
        count = max((len(shots) for shots in self.layers.values()), default=0)
        shown = places_for(count, [shots[-1] for shots in self.layers.values() if shots])
        left_out = f"{len(shown)} of {count} steps, evenly chosen" if len(shown) < count else ""
        return {
            "title": self.title,
            "kind": self.kind,
            "number": self.number,
            "remark": "; ".join(filter(None, (self.remark, left_out))),
            "layers": [
                {
                    "name": layer,
                    "shots": [_shot(shots[place]) for place in shown],
                    "numbers": rounded(np.array(self.numbers[layer])[shown]) if layer in self.numbers else None,
                }
                for layer, shots in self.layers.items()
            ],
        }


def _shot(shot: Shot) -> dict[str, Any]:
    return {
        "epoch": None if shot.epoch == UNTRAINED_EPOCH else shot.epoch,
        "step": shot.step,
        "width": shot.size[1],
        "height": shot.size[0],
        "picture": data_url(shot.content, shot.format),
    }
