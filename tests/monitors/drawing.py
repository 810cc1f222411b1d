"""A whole run drawn at once."""

from __future__ import annotations

from typing import Any

from lightning_gradcam.monitors.evolution import Evolving
from lightning_gradcam.sinks import Evolution


def evolution_of(*run: Any, **options: Any) -> Evolution:
    """Draws the run so far, and writes it into the archive's folder; takes what :class:`Evolving` takes."""
    evolving = Evolving(*run, **options)
    for _, draw in evolving.parts():
        draw()
    return evolving.result()
