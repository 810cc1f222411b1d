"""All rows of the sweep, family by family."""

from __future__ import annotations

from importlib import import_module

from tests.shapes.case import SHAPES, Shape

FAMILIES = {
    "towers": "several towers",
    "sequences": "sequences",
    "bags": "bags and volumes",
    "video": "video",
    "detectors": "detectors",
    "segmenters": "segmenters and queries",
    "prompts": "tokens",
    "outputs": "outputs and set-ups",
    "signals": "signals, and tokens without locations",
    "moved": "moved locations",
    "libraries": "libraries",
}
for family in FAMILIES:
    import_module(f"tests.shapes.{family}")
assert len({row.name for row in SHAPES}) == len(SHAPES), "two rows have the same name"

__all__ = ["FAMILIES", "SHAPES", "Shape"]
