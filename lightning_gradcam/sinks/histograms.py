"""Converts a record's gradient statistics to histograms for loggers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lightning_gradcam.record.gradients import EDGES, GradientSummary, NumPyArray, Spread
from lightning_gradcam.sinks.base import Histogram


def histograms_of(
    gradients: Mapping[tuple[str, str], GradientSummary[NumPyArray]], name: str, first: str
) -> dict[str, Histogram]:
    """Returns a step's histograms over all probes.

    Args:
        gradients: A record's gradients, by layer and target.
        name: The callback's name.
        first: The first target, whose name is omitted from tags.

    Returns:
        ``<name>_gradients/<layer>`` to the histogram of the layer's gradients, ``<name>_weights/<layer>`` to that of
        its channel weights; with ``/<target>`` appended for all targets but the first. Probes with non-finite gradients
        are excluded; if none remain, the histogram is omitted.
    """
    found: dict[str, Histogram] = {}
    for (layer, target), summary in gradients.items():
        place = layer if target == first else f"{layer}/{target}"
        for kind, spread in (("gradients", summary.gradients), ("weights", summary.weights)):
            if (histogram := pooled(spread)) is not None:
                found[f"{name}_{kind}/{place}"] = histogram
    return found


def pooled(spread: Spread[NumPyArray]) -> Histogram | None:
    """Combines all samples, from the first non-empty bin to the last; ``None`` if no values are known."""
    known = np.isfinite(spread.sum) & np.isfinite(spread.norm)
    counts = spread.counts[known].sum(axis=0)
    if not counts.any():
        return None
    filled = np.flatnonzero(counts)
    low, high = int(filled[0]), int(filled[-1]) + 1
    smallest, largest = float(spread.min[known].min()), float(spread.max[known].max())
    edges = EDGES[low : high + 1].copy()
    # Trim the outermost bins to the range of values, so that charts don't extend further; no bin gets zero width.
    if edges[0] < smallest < min(edges[1], largest):
        edges[0] = smallest
    if max(edges[-2], smallest) < largest < edges[-1]:
        edges[-1] = largest
    return Histogram(
        counts=counts[low:high].astype(np.float64),
        edges=edges,
        min=smallest,
        max=largest,
        sum=float(spread.sum[known].sum(dtype=np.float64)),
        sum_squares=float((spread.norm[known].astype(np.float64) ** 2).sum()),
        number=int(counts.sum()),
    )
