"""Reports maps that are not finite: at which layers, how many, and what to check."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.record.cams import CamKey

# Maximum number of layers named in a warning.
_MOST_NAMED = 2
_OF_SCORE = (
    "because the explained score is NaN or infinite. Look for NaN in the inputs, loss and weights: training may have"
    " diverged, or half precision may have overflowed (then use precision='bf16-mixed')."
)
_OF_GRADIENT = (
    "although the explained score is finite: an activation or a gradient there is NaN or infinite. Half precision"
    " may have overflowed (then use precision='bf16-mixed'), or the model divides by zero or takes the square root"
    " of zero after that layer."
)


def not_finite_remark(
    maps: Mapping[CamKey, FloatArray],
    scores: Mapping[str, FloatArray],
    when: str = "",
    known: Collection[str] = (),
) -> tuple[str, tuple[str, ...]]:
    """Returns a warning about maps that contain NaN or infinity, and the names of their layers.

    Args:
        maps: Key to maps ``[N, *S]``.
        scores: Target name to the scores they explain, ``[N]``.
        when: Their step, for the warning, ending in ``", "``.
        known: Layers that have already been reported; these are skipped.

    Returns:
        One warning about all these layers, and their names; empty if there are none.

    Example::

        text, layers = not_finite_remark(record.maps, record.scores)
    """
    broken = 0
    total = 0
    of_score = True
    layers: dict[str, None] = {}
    for key, values in maps.items():
        rows = ~np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if key.layer in known or not rows.any():
            continue
        layers[key.layer] = None
        broken, total = broken + int(rows.sum()), total + len(rows)
        of_score = of_score and not np.isfinite(scores[key.target][rows]).any()
    if not layers:
        return "", ()
    names = ", ".join(map(repr, list(layers)[:_MOST_NAMED]))
    more = f" and {len(layers) - _MOST_NAMED} more" if len(layers) > _MOST_NAMED else ""
    text = (
        f"layer{'s' if len(layers) > 1 else ''} {names}{more}: {when}{broken} of {total} maps"
        f" {'is' if broken == 1 else 'are'} not finite, {_OF_SCORE if of_score else _OF_GRADIENT}"
    )
    return text, tuple(layers)
