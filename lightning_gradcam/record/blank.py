"""Reports blank maps: how many there are, why, and what to use instead.

A map is blank if it is zero everywhere after its ReLU. The cause is determined from the gradient and activation
(:mod:`lightning_gradcam.compute.blank`) and stored in the record as a code. This module turns it into the one sentence
used in warnings, sheets, film strips and the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_gradcam.record.cams import CamKey

Codes = npt.NDArray[np.int8]


class Cause(IntEnum):
    """Why a map is blank; ``SHOWN`` means it is not."""

    SHOWN = 0
    NOWHERE_POSITIVE = 1
    NO_GRADIENT = 2
    NO_ACTIVATION = 3
    CANCELLED = 4
    NEGATIVE = 5
    OUTWEIGHED = 6
    AT_LIMIT = 7
    ROUNDING = 8
    NO_SCORE = 9


HIRESCAM = 16
"""Added to a cause if HiResCAM's map of the same layer and target is not blank."""

_WHY = {
    Cause.NOWHERE_POSITIVE: "the method finds no evidence for the score anywhere",
    Cause.NO_GRADIENT: "no gradient reaches the layer (dead ReLUs after it, or a saturated probability)",
    Cause.NO_ACTIVATION: "the layer's own output is zero everywhere (dead ReLUs)",
    Cause.CANCELLED: "the gradient mostly cancels out when averaged over locations, as is common before a linear layer"
    " on flattened features",
    Cause.NEGATIVE: "the gradient's mean over locations is negative for every active channel",
    Cause.OUTWEIGHED: "at every location, the channels against the score outweigh those for it",
    Cause.AT_LIMIT: "the similarity is at its maximum, as for a probe compared with itself",
    Cause.ROUNDING: "the gradient cancels out up to rounding, as before a norm layer that removes what the map "
    "measures",
    Cause.NO_SCORE: (
        "there is nothing to explain (no pixel or box of the class, no true class, or a class compared with itself)"
    ),
}
_INSTEAD = {
    Cause.NO_GRADIENT: "Use a later layer, or score='logit'.",
    Cause.AT_LIMIT: "Compare with another probe.",
    Cause.ROUNDING: "Use a layer after the norm layer.",
    Cause.NO_SCORE: "Choose another target or other probes.",
}
_EARLIER = "Use an earlier layer."
_USE_HIRESCAM = "Use methods=['hirescam'] or an earlier layer."


def codes_of(maps: npt.NDArray[Any], causes: Codes | None) -> Codes:
    """Returns each map's cause; 0 if it is not blank or not finite.

    Args:
        maps: ``[N, *S]``, signed or after their ReLU.
        causes: Their known causes, int8 ``[N]``; ``None`` if unknown, as in archives from version 0.1.0.

    Example:
        >>> codes_of(np.array([[[-1.0, 0.0]], [[-1.0, 2.0]]]), None).tolist()
        [1, 0]
    """
    with np.errstate(invalid="ignore"):
        top = maps.reshape(len(maps), -1).max(axis=1)
    own = np.full(len(maps), 0, np.int8) if causes is None else causes
    return np.where(top <= 0, np.where(own > 0, own, Cause.NOWHERE_POSITIVE), Cause.SHOWN).astype(np.int8)


def record_codes(
    maps: Mapping[CamKey, npt.NDArray[Any]], causes: Mapping[CamKey, Codes], keys: Iterable[CamKey], rows: Sequence[int]
) -> Codes:
    """Returns the causes for some of a record's maps in one array.

    Args:
        maps: The record's maps.
        causes: The record's causes.
        keys: The maps to include.
        rows: The indices of the probes.
    """
    chosen = list(rows)
    found = [codes_of(maps[key][chosen], causes[key][chosen] if key in causes else None) for key in keys]
    return np.concatenate(found) if found else np.zeros(0, np.int8)


def blank_sentence(codes: Codes, *, what: str = "maps", zero: str = "zero after the ReLU") -> str:
    """Returns a sentence with the number of blank maps, their main cause, and what to use; empty if none is blank.

    Args:
        codes: The causes of all maps, blank or not, as :func:`codes_of` returns them.
        what: The noun for the maps.
        zero: The meaning of blank.

    Example:
        >>> blank_sentence(np.array([Cause.NEGATIVE, Cause.SHOWN], np.int8))
        "1 of 2 maps is blank (zero after the ReLU): the gradient's mean over locations is negative for every \
active channel. Use an earlier layer."
    """
    return " ".join(filter(None, blank_parts(codes, what=what, zero=zero)))


def blank_parts(codes: Codes, *, what: str = "maps", zero: str = "zero after the ReLU") -> tuple[str, str]:
    """Returns the two parts of :func:`blank_sentence`: what is blank and why, and what to use instead."""
    blank = codes[codes != 0]
    if not blank.size:
        return "", ""
    number, most = Counter((blank & (HIRESCAM - 1)).tolist()).most_common(1)[0]
    # A later version may have written a cause that is unknown here.
    cause = Cause(number) if number in _WHY else Cause.NOWHERE_POSITIVE
    instead = _USE_HIRESCAM if (blank & HIRESCAM).any() else _INSTEAD.get(cause, _EARLIER)
    mostly = "" if most == len(blank) else f"in {most} "
    are = "is" if len(blank) == 1 else "are"
    return f"{len(blank)} of {len(codes)} {what} {are} blank ({zero}): {mostly}{_WHY[cause]}.", instead


def blank_remarks(
    maps: Mapping[CamKey, npt.NDArray[Any]], causes: Mapping[CamKey, Codes], when: str = ""
) -> dict[str, str]:
    """Returns a report on blank maps for each layer, about the first method with any.

    Args:
        maps: All maps ``[N, *S]``.
        causes: Why they are blank, as in a record.
        when: Their step, for the report, ending in ``", "``.

    Example:
        >>> key = CamKey("conv", "gradcam", "label")
        >>> blank_remarks({key: np.zeros((1, 2, 2))}, {key: np.array([Cause.NEGATIVE], np.int8)})["conv"][:58]
        "layer 'conv', method 'gradcam': 1 of 1 maps is blank (zero"
    """
    found: dict[str, str] = {}
    for layer, method in dict.fromkeys((key.layer, key.method) for key in maps):
        keys = [key for key in maps if (key.layer, key.method) == (layer, method)]
        rows = range(len(maps[keys[0]]))
        if layer not in found and (sentence := blank_sentence(record_codes(maps, causes, keys, rows))):
            found[layer] = f"layer {layer!r}, method {method!r}: {when}{sentence}"
    return found


@cache
def longest_sentence() -> str:
    """Returns the longest :func:`blank_sentence` for a few hundred maps, for which sheets reserve space."""
    each = [np.full(100, cause | flag, np.int8) for cause in _WHY for flag in (0, HIRESCAM)]
    # With one map blank for a different cause, the sentence also states how many maps it covers.
    others = [np.concatenate([codes, [Cause.SHOWN, 1 + codes[0] % 2]]).astype(np.int8) for codes in each]
    return max(map(blank_sentence, others), key=len)
