"""Reporting of maps that are not finite: at which layers, how many, and what to check."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from lightning_gradcam.record.cam_record import UNTRAINED_EPOCH, CamRecord

# The most layers that a warning names.
_MOST_NAMED = 3
_OF_SCORE = (
    "because the score they explain is NaN or infinite. Look for NaN in the loss and the weights: the training may have"
    " diverged, or half precision may have overflowed (then use precision='bf16-mixed')."
)
_OF_GRADIENT = (
    "although the score they explain is finite: an activation or a gradient there is NaN or infinite. Half precision"
    " may have overflowed (then use precision='bf16-mixed'), or the model divides by zero or takes the root of zero"
    " after that layer."
)


def not_finite_remark(record: CamRecord, known: Collection[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Returns a warning about a step's maps that hold NaN or infinity, and the layers it is about.

    Args:
        record: The step's.
        known: Layers that have been reported.

    Returns:
        One warning for all layers, ``""`` if no other layer has such a map; and the names of those layers.

    Example::

        text, layers = not_finite_remark(record)
    """
    broken = 0
    total = 0
    of_score = True
    layers: dict[str, None] = {}
    for key, maps in record.maps.items():
        rows = ~np.asarray(np.isfinite(maps.reshape(len(maps), -1)).all(axis=1))
        if key.layer in known or not rows.any():
            continue
        layers[key.layer] = None
        broken, total = broken + int(rows.sum()), total + len(rows)
        of_score = of_score and not np.isfinite(record.scores[key.target][rows]).any()
    if not layers:
        return "", ()
    names = ", ".join(map(repr, list(layers)[:_MOST_NAMED]))
    more = f" and {len(layers) - _MOST_NAMED} more" if len(layers) > _MOST_NAMED else ""
    when = "in the untrained model" if record.epoch == UNTRAINED_EPOCH else f"in epoch {record.epoch}"
    text = (
        f"layer{'s' if len(layers) > 1 else ''} {names}{more}: {when}, step {record.step}, {broken} of {total} maps"
        f" {'is' if broken == 1 else 'are'} not finite, {_OF_SCORE if of_score else _OF_GRADIENT}"
        " (reported once per layer; sheets and the report mark the maps)"
    )
    return text, tuple(layers)
