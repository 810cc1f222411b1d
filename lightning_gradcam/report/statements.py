"""A run's findings for the page: entries ready for JSON, even if computing them fails."""

from __future__ import annotations

import math
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.errors import printable


def statements(archive: Archive) -> list[dict[str, Any]]:
    """Returns a run's findings, the most severe first.

    Args:
        archive: The run's archive.

    Returns:
        An entry for each, with the field names of :class:`~lightning_gradcam.Finding`. If they can't be computed, a
        single entry that says why, so that the page is still written.
    """
    try:
        found = archive.findings
    except Exception as error:  # nothing in findings may keep a page from being written
        why = printable(f"{type(error).__name__}: {error!s:.200}")
        return [{"kind": "", "severity": "low", "text": f"The findings can't be computed ({why}).", "advice": ""}]
    return [
        {
            "kind": each.kind,
            "severity": each.severity,
            "layer": each.layer,
            "method": each.method,
            "probes": list(each.probes),
            "epochs": list(each.epochs),
            "figures": {name: value for name, value in each.figures.items() if math.isfinite(value)},
            "text": each.text,
            "advice": each.advice,
        }
        for each in found
    ]
