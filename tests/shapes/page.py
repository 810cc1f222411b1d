"""A row of docs/models.md for a model of the sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.shapes.case import Shape, size_of
from tests.shapes.look import result
from tests.shapes.zoo import FAMILIES

_LONGEST = 160


def shapes_row(shape: Shape) -> str:
    """Explains the row's model, and returns what came of it as a line of the table."""
    outcome, wrong = result(shape)
    message = f"not right yet: {wrong[0]}" if wrong else next(iter(outcome.messages), "")
    grid = "" if outcome.maps is None else "x".join(map(str, outcome.maps.shape[1:]))
    found = ["", "", ""] if wrong or outcome.error else [f"`{outcome.layer}`", outcome.layout, grid]
    cells = [FAMILIES[shape.family], shape.name, size_of(shape.inputs()), _target(shape), *found, _short(message)]
    return f"| {' | '.join(cells)} |"


def _target(shape: Shape) -> str:
    options: Mapping[str, Any] = shape.options()
    name = shape.target.__name__.replace("<lambda>", "a callable") if callable(shape.target) else str(shape.target)
    layers = options.get("layers")
    return f"{name}, at `{layers}`" if layers else name


def _short(message: str) -> str:
    text = re.sub(r"\s+", " ", message).replace("|", "/").removeprefix("lightning-gradcam: ")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2].rsplit(' ', 1)[0]} …"
