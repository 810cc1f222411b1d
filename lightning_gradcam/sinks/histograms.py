"""From a record's gradients to the histograms that loggers take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lightning_gradcam.record.gradients import EDGES, GradientSummary, NumPyArray, Spread
from lightning_gradcam.sinks.base import Histogram


def histograms_of(
    gradients: Mapping[tuple[str, str], GradientSummary[NumPyArray]], name: str, first: str
) -> dict[str, Histogram]:
    """Puts all probes of a step together.

    Args:
        gradients: A record's, by layer and target.
        name: The callback's name.
        first: The first target, whose name is left out of tags.

    Returns:
        ``<name>_gradients/<layer>`` to the histogram of all gradients of the layer, ``<name>_weights/<layer>`` to that
        of its channel weights; with ``/<target>`` for all targets but the first. Probes whose gradients are not finite
        are left out; without any other, so is the histogram.
    """
    found: dict[str, Histogram] = {}
    for (layer, target), summary in gradients.items():
        place = layer if target == first else f"{layer}/{target}"
        for kind, spread in (("gradients", summary.gradients), ("weights", summary.weights)):
            if (histogram := pooled(spread)) is not None:
                found[f"{name}_{kind}/{place}"] = histogram
    return found


def pooled(spread: Spread[NumPyArray]) -> Histogram | None:
    """Puts all samples together, from the first bin that is not empty to the last; ``None`` if none is known."""
    known = np.isfinite(spread.sum) & np.isfinite(spread.norm)
    counts = spread.counts[known].sum(axis=0)
    if not counts.any():
        return None
    filled = np.flatnonzero(counts)
    low, high = int(filled[0]), int(filled[-1]) + 1
    smallest, largest = float(spread.min[known].min()), float(spread.max[known].max())
    edges = EDGES[low : high + 1].copy()
    # The outermost bins end where the numbers do, or a chart would seem to go on; none becomes a point.
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
