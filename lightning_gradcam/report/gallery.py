"""Sheets that a page leafs through step by step: feature maps, filter patterns."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_gradcam.picture import Picture
from lightning_gradcam.record import UNTRAINED_EPOCH
from lightning_gradcam.tiles import evenly

# Bytes of pictures in a page; more steps are evenly thinned out.
MAX_BYTES = 24_000_000
MAX_STEPS = 48


@dataclass(frozen=True, eq=False)
class Shot:
    """One layer's sheet at one step.

    Attributes:
        epoch: Counted from 0; -1 is the untrained baseline.
        step: The x value.
        picture: The sheet.
    """

    epoch: int
    step: int
    picture: Picture


@dataclass(frozen=True, eq=False)
class Gallery:
    """The sheets of some layers over the steps of a run.

    Attributes:
        title: What the run is called.
        kind: What the sheets show, such as ``"Feature maps"``.
        number: What the curves show, such as ``"dead channels, share"``.
        layers: Layer to its sheets, in the order of the steps; the same steps for all layers.
        numbers: Layer to a number for each step.
        remark: What the reader is to know, such as that not all steps are shown.
    """

    title: str
    kind: str
    number: str
    layers: Mapping[str, Sequence[Shot]]
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    remark: str = ""

    def header(self) -> dict[str, Any]:
        """Returns it ready for JSON, with pictures as ``data:`` URLs, thinned out to what a page can hold."""
        count = max((len(shots) for shots in self.layers.values()), default=0)
        one = sum(len(_file(shots[-1].picture)[1]) for shots in self.layers.values() if shots)
        shown = evenly(count, max(2, min(MAX_STEPS, MAX_BYTES * 3 // 4 // max(one, 1))), ends=True)
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
                    "numbers": [_plain(self.numbers[layer][place]) for place in shown]
                    if layer in self.numbers
                    else None,
                }
                for layer, shots in self.layers.items()
            ],
        }


def _shot(shot: Shot) -> dict[str, Any]:
    format, content = _file(shot.picture)
    height, width = shot.picture.pixels.shape[:2]
    return {
        "epoch": None if shot.epoch == UNTRAINED_EPOCH else shot.epoch,
        "step": shot.step,
        "width": width,
        "height": height,
        "picture": f"data:image/{format};base64,{base64.b64encode(content).decode()}",
    }


def _file(picture: Picture) -> tuple[str, bytes]:
    # Enlarged pixels compress best as they are; a large sheet of small numbers as WebP.
    return picture.file(("png", "jpeg", "webp"))


def _plain(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
