"""Small records and probes for tests of drawing, and where a sheet's pictures are."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_gradcam import CamKey, CamRecord, Drawing, ProbeSet
from lightning_gradcam.render.text import LINE
from lightning_gradcam.sheets.cam_sheet import sheet

Array = npt.NDArray[Any]
LEFT, GAP = 202, 8  # where a strip's first column begins, and what lies between two on a sheet
MARGIN, APART, WIDEST, LABEL = 12, 24, 640, 36  # of a sheet: its edge, between two probes, its width, above a tile
NAN, INF = float("nan"), float("inf")


def record(*maps: Any, targets: tuple[str, ...] = ("predicted", "label", "3"), **fields: Any) -> CamRecord:
    """A record of one layer; `maps` [N, h, w] go to `targets` in turn."""
    arrays = [np.asarray(values, np.float32) for values in maps]
    count = len(arrays[0])
    names = targets[: len(arrays)]
    return CamRecord(
        **{
            "epoch": 3,
            "step": 469,
            "stage": "fit",
            "score": "logit",
            "probe_ids": tuple(map(str, range(count))),
            "maps": {CamKey("conv", "gradcam", name): values for name, values in zip(names, arrays, strict=True)},
            "scores": MappingProxyType({name: np.full(count, 1.2345, np.float32) for name in names}),
            "classes": MappingProxyType({name: np.zeros(count, np.int64) for name in names}),
            "predicted": np.zeros(count, np.int64),
            "confidence": np.full(count, 0.75, np.float32),
            **fields,
        }
    )


def probe_set(count: int = 2, height: int = 28, width: int = 28, **fields: Any) -> ProbeSet:
    generator = np.random.default_rng(0)
    return ProbeSet(
        torch.zeros(count, 1, 2, 2),
        **{"display": generator.integers(0, 256, (count, height, width, 3)).astype(np.uint8), **fields},
    )


class Drawn(np.ndarray):  # type: ignore[type-arg]
    """A sheet's pixels that know how many tiles each probe has."""

    columns: int = 2


def drawn(maps: CamRecord, probes: ProbeSet, drawing: Drawing | None = None, **options: Any) -> Array:
    drawing = drawing or Drawing()
    pixels = sheet(maps, probes, layer="conv", method="gradcam", drawing=drawing, title="gradcam", **options).pixels
    found = pixels.view(Drawn)
    keys = sum(key[:2] == ("conv", "gradcam") for key in maps.maps)
    found.columns = sum(1 if column == "input" else keys for column in drawing.columns)
    return found


def rules(pixels: Array) -> list[int]:
    """The lines across the sheet: above each row of probes, and below the last."""
    return np.flatnonzero((pixels[:, MARGIN:-MARGIN] == LINE).all(axis=(1, 2))).tolist()  # type: ignore[no-any-return]


def corner(pixels: Array, probes: ProbeSet, row: int, width: int, *, label: int = LABEL) -> tuple[int, int]:
    """Where a probe's first tile begins, with tiles of this width: probes are side by side where they fit."""
    block = getattr(pixels, "columns", 2) * (width + GAP) - GAP
    fitting = min(len(probes), max(1, (WIDEST - 2 * MARGIN + APART) // (block + APART)))
    side = -(-len(probes) // -(-len(probes) // fitting))
    return rules(pixels)[row // side] + 4 + label, MARGIN + row % side * (block + APART)


def tile(pixels: Array, probes: ProbeSet, row: int, column: int, height: int, width: int, *, least: int = 0) -> Array:
    """One picture of the sheet."""
    across = max(width, least)
    top, left = corner(pixels, probes, row, across)
    left += column * (across + GAP)
    return np.asarray(pixels[top : top + height, left : left + width])


def ramp(count: int = 2) -> Array:
    """Signed maps 2x2 whose largest values are 4 and 8."""
    return np.array([[[-2.0, 0.0], [2.0, 4.0]], [[8.0, -4.0], [0.0, 6.0]]])[:count]


PLAIN = {"columns": ("input", "overlay", "heatmap"), "interpolation": "nearest", "colormap": "viridis"}
