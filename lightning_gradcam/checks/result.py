"""What a check of maps has found: a table to read, JSON for scripts, and a page with pictures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.checks.faithful import HiddenTop
from lightning_gradcam.checks.verdicts import MapVerdict
from lightning_gradcam.storage import Storage, join

_COLUMNS = ("layer", "method", "verdict", "p", "blank", "other class", "random weights", "change")
JSON, PAGE = "check.json", "check.html"


@dataclass(frozen=True, eq=False)
class Evidence:
    """The pictures that led to the verdicts.

    Attributes:
        inputs: The pictures as the model takes them, ``[N, C, H, W]``.
        names: What each is called.
        classes: What the explained class of each is called.
        confidence: The model's in it, ``[N]``.
        maps: ``(layer, method)`` to what is shown: a name (``"map"``, ``"other class"``, ``"random weights"``) to
            signed maps ``[N, h, w]``.
        others: What the class of the other map is called, for each picture; empty: there is none.
        tops: ``(layer, method)`` to what hiding the pixels of its maps did to the confidence.
        shown: The pictures as a person sees them, uint8 ``[N, H, W, 3]``; ``None``: the inputs, scaled.
    """

    inputs: npt.NDArray[np.float32]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    confidence: npt.NDArray[np.float64]
    maps: Mapping[tuple[str, str], Mapping[str, npt.NDArray[np.float64]]]
    tops: Mapping[tuple[str, str], HiddenTop]
    others: tuple[str, ...] = ()
    shown: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class MapCheck:
    """What :func:`~lightning_gradcam.check_maps` returns; printing it shows a table with a sentence of advice a row.

    Attributes:
        verdicts: ``(layer, method)`` to :class:`MapVerdict`.
        pictures: How many were looked at.
        forwards: How many pictures went through the model, a backward counted as two.
        quick: Whether fewer steps were taken.
        remarks: What was left out, and why.
        evidence: The pictures that led to the verdicts.
    """

    verdicts: Mapping[tuple[str, str], MapVerdict]
    pictures: int
    forwards: int
    quick: bool
    evidence: Evidence
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdicts", MappingProxyType(dict(self.verdicts)))

    @property
    def best(self) -> tuple[str, str] | None:
        """The layer and method that are sound and furthest above random maps; ``None`` where none is sound."""
        found = max(self.verdicts.values(), key=lambda row: row.strength)
        return (found.layer, found.method) if found.verdict == "sound" else None

    def __str__(self) -> str:
        rows = [_COLUMNS, *(_cells(row) for row in self.verdicts.values())]
        widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        told = [f"{self.pictures} picture{'' if self.pictures == 1 else 's'}, {self.forwards:,} forwards"]
        for line, row in zip(lines[1:], self.verdicts.values(), strict=True):
            told += [line, f"    {row.reason[:1].upper()}{row.reason[1:]}. {row.advice}"]
        told.insert(1, lines[0])
        best = f"best: {self.best[1]!r} at {self.best[0]!r}" if self.best else "best: none is sound"
        return "\n".join([*told, best, *self.remarks])

    def __repr__(self) -> str:
        return f"MapCheck({', '.join(f'{key}: {row.verdict!r}' for key, row in self.verdicts.items())})"

    def _repr_html_(self) -> str:
        # Drawing is a later room; only a notebook, or saving, goes there.
        shown: str = import_module("lightning_gradcam.report.check_page").check_html(self)
        return shown

    def to_json(self) -> str:
        """Returns verdicts, reasons, advice and figures as JSON; a figure that could not be measured is ``null``."""
        rows = [
            {
                "layer": row.layer,
                "method": row.method,
                "verdict": row.verdict,
                "reason": row.reason,
                "advice": row.advice,
                "figures": {name: _number(value) for name, value in row.figures.items()},
                "cascade": [
                    {"down_to": name, "rank_correlation": _number(rho), "ssim": _number(ssim)}
                    for name, rho, ssim in row.cascade
                ],
            }
            for row in self.verdicts.values()
        ]
        content: dict[str, Any] = {
            "pictures": self.pictures,
            "forwards": self.forwards,
            "quick": self.quick,
            "best": self.best,
            "verdicts": rows,
            "remarks": list(self.remarks),
        }
        return json.dumps(content, indent=2)

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Writes ``check.json`` and ``check.html``, the page with the pictures that led to each verdict.

        Args:
            folder: Local, or a URL that fsspec knows; made where it is missing. An earlier check's files are replaced.

        Returns:
            The page's path.
        """
        storage = Storage(os.fspath(folder))
        page: str = import_module("lightning_gradcam.report.check_page").check_page(self)
        storage.write(JSON, self.to_json().encode())
        storage.write(PAGE, page.encode())
        return join(os.fspath(folder), PAGE)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cells(row: MapVerdict) -> tuple[str, ...]:
    of = row.figures

    def text(name: str, form: str = ".2f") -> str:
        return "-" if math.isnan(of[name]) else format(of[name], form)

    return (
        row.layer,
        row.method,
        row.verdict,
        text("p", ".2g"),
        f"{round(of['blank'] * of['pictures'])} of {of['pictures']:g}",
        text("class_correlation"),
        text("random_weights_correlation"),
        text("largest_change"),
    )
