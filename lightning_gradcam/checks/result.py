"""The result of a check: a printed table, JSON for scripts, and a page with images."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lightning_gradcam.checks.faithful import HiddenTop
from lightning_gradcam.checks.verdicts import MapVerdict
from lightning_gradcam.storage import Storage, join

_COLUMNS = ("layer", "method", "verdict", "p", "blank", "other class", "random weights", "change")
JSON, PAGE = "check.json", "check.html"


@dataclass(frozen=True, eq=False)
class Evidence:
    """The images behind the verdicts.

    Attributes:
        inputs: The images in the model's form, ``[N, C, H, W]``.
        names: The images' names.
        classes: The name of each image's explained class.
        confidence: The model's confidence in that class, ``[N]``.
        maps: Signed maps ``[N, h, w]`` to show for each ``(layer, method)``, by name (``"map"``, ``"other class"``,
            ``"random weights"``).
        others: The class name of each image's ``"other class"`` map; empty if there is no such map.
        tops: For each ``(layer, method)``, the effect on the confidence of hiding the maps' top pixels.
        shown: The images for display, uint8 ``[N, H, W, 3]``; ``None`` shows the scaled inputs.
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
    """The result of :func:`~lightning_gradcam.check_maps`; printing it shows a table with advice for each row.

    Attributes:
        verdicts: The :class:`MapVerdict` for each ``(layer, method)``.
        pictures: Number of images checked.
        forwards: Number of images run through the model, counting a backward pass as two.
        quick: Whether the check was run with ``quick=True``.
        remarks: Notes on what was skipped, and why.
        evidence: The images behind the verdicts.
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
        """The sound layer and method that are furthest above random maps; ``None`` if none is sound."""
        found = max(self.verdicts.values(), key=lambda row: row.strength)
        return (found.layer, found.method) if found.verdict == "sound" else None

    def __str__(self) -> str:
        rows = [_COLUMNS, *(_cells(row) for row in self.verdicts.values())]
        widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        told = [f"{self.pictures} image{'' if self.pictures == 1 else 's'}, {self.forwards:,} forward passes"]
        for line, row in zip(lines[1:], self.verdicts.values(), strict=True):
            told += [line, f"    {row.reason[:1].upper()}{row.reason[1:]}. {row.advice}"]
        told.insert(1, lines[0])
        best = f"best: {self.best[1]!r} at {self.best[0]!r}" if self.best else "best: none is sound"
        return "\n".join([*told, best, *self.remarks])

    def __repr__(self) -> str:
        return f"MapCheck({', '.join(f'{key}: {row.verdict!r}' for key, row in self.verdicts.items())})"

    def _repr_html_(self) -> str:
        # Drawing belongs to a higher layer of the package; import it only for a notebook or for saving.
        return str(import_module("lightning_gradcam.report.check_page").check_html(self))

    def to_json(self) -> str:
        """Returns verdicts, reasons, advice and figures as JSON, with ``null`` for figures that can't be measured."""
        rows = [
            {
                **vars(row),
                "figures": {name: _number(value) for name, value in row.figures.items()},
                "cascade": [
                    {"down_to": name, "rank_correlation": _number(rho), "ssim": _number(ssim)}
                    for name, rho, ssim in row.cascade
                ],
            }
            for row in self.verdicts.values()
        ]
        content = {
            "pictures": self.pictures,
            "forwards": self.forwards,
            "quick": self.quick,
            "best": self.best,
            "verdicts": rows,
            "remarks": list(self.remarks),
        }
        return json.dumps(content, indent=2)

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Writes ``check.json`` and ``check.html``, a page with the images behind each verdict.

        Args:
            folder: A local folder, or a URL that fsspec supports. It is created if it does not exist; files from an
                earlier check are replaced.

        Returns:
            The path to the page.
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
