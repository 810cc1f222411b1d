"""Findings about the last step: blank maps, one-sided maps, identical maps for all classes, and shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lightning_gradcam.findings import kinds
from lightning_gradcam.findings.survey import RunSurvey
from lightning_gradcam.record.blank import HIRESCAM, Cause, blank_parts, record_codes
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.record.finding import Finding
from lightning_gradcam.stats import agreement, half_area
from lightning_gradcam.stats.settled import pictures, shown

Flags = npt.NDArray[np.bool_]
Energy = npt.NDArray[np.float64]
_CORNERS = ("top left", "top right", "bottom left", "bottom right")
# By definition, these methods produce the same map for all classes.
_CLASSLESS = ("eigencam", "random")


def shortcut(survey: RunSurvey) -> Iterator[Finding]:
    """Yields the layers in which most probes' evidence is in the same corner or at the border."""
    for key in survey.main:
        found = _place(survey, key)
        if found is None:
            continue
        place, flags, n, share = found
        count = int(flags.sum())
        # Some of these probes may have no mask.
        outside = ", mostly outside their masks" if np.isfinite(survey.inside(key)[flags]).all() else ""
        yield survey.finding(
            "shortcut",
            key,
            flags,
            {"n": n, "count": count, "share": share, "border": place == "at the border"},
            f"A possible shortcut: {count} of {n} probes have their strongest evidence {place} of the image{outside}"
            f" ({share:.0%} of all their evidence; {survey.named(key)}, {survey.when()}; {survey.listed(flags)}).",
            "Look there for a mark, frame, caption or padding that gives the class away; cover it, and validate again."
            " If accuracy falls, the model relies on it.",
        )


def blank_layers(survey: RunSurvey) -> Iterator[Finding]:
    """Yields the layers and methods whose maps are mostly blank, with a remedy."""
    record = survey.last
    if survey.epochs[-1] < 0:
        return
    for pair in dict.fromkeys((key.layer, key.method) for key in record.maps):
        keys = [key for key in record.maps if (key.layer, key.method) == pair]
        codes = record_codes(record.maps, record.causes, keys, range(len(record.probe_ids)))
        # A blank map of nothing is right.
        explained = (codes & (HIRESCAM - 1)) != Cause.NO_SCORE
        n = int(explained.reshape(len(keys), -1).any(axis=0).sum())
        share = float((codes[explained] != 0).mean()) if n >= kinds.PROBES else 0.0
        if share >= kinds.BLANK:
            flags = (explained & (codes != 0)).reshape(len(keys), -1).any(axis=0)
            reason, advice = blank_parts(codes[explained])
            yield survey.finding(
                "blank",
                keys[0],
                flags,
                {"n": n, "share": share},
                f"In {survey.named(keys[0])}, {survey.when()}, {reason}",
                advice,
            )


def one_sided(survey: RunSurvey) -> Iterator[Finding]:
    """Yields the layers whose maps are positive nearly everywhere and spread out."""
    for key in survey.main:
        maps = survey.last.maps[key]
        flat = maps.reshape(len(maps), -1)
        known = shown(maps)
        n = int(known.sum())
        if n < kinds.PROBES or flat.shape[1] < kinds.SIDE:
            continue
        spread = half_area(pictures(maps))
        flags = known & ((flat > 0).mean(axis=1) >= kinds.EVERYWHERE) & (spread >= kinds.FLAT)
        if flags.sum() >= kinds.MOSTLY * n:
            count = int(flags.sum())
            nearly = "" if (flat[flags] > 0).all() else " nearly"
            # A regression, for instance, has no classes.
            classed = (survey.last.classes[key.target] >= 0).any()
            contrast = "Explain the difference between two classes (targets=Contrast(...)), or use an earlier layer."
            yield survey.finding(
                "one_sided",
                key,
                flags,
                {"n": n, "count": count, "half_area": spread[flags].mean()},
                f"In {survey.named(key)}, {survey.when()}, {count} of {n} maps are positive{nearly} everywhere"
                " and nearly flat, so they say little about where the evidence is.",
                contrast if classed else "Use an earlier layer.",
            )


def same_for_classes(survey: RunSurvey) -> Iterator[Finding]:
    """Yields the layers whose maps do not depend on the explained class."""
    record = survey.last
    for main in survey.main:
        if main.method in _CLASSLESS:
            continue
        keys = [key for key in record.maps if (key.layer, key.method) == (main.layer, main.method)][: kinds.TARGETS]
        alike = np.zeros((0, len(record.probe_ids)))
        for one, other in combinations(keys, 2):
            differ = record.classes[one.target] != record.classes[other.target]
            both = shown(record.maps[one]) & shown(record.maps[other])
            same = agreement(pictures(record.maps[one]), pictures(record.maps[other]))
            alike = np.vstack([alike, np.where(differ & both, same, np.nan)])
        known = np.isfinite(alike)
        judged, pairs = known.any(axis=0), int(known.sum())
        n = int(judged.sum())
        if n < kinds.PROBES:
            continue
        count = int((alike >= kinds.ALIKE).sum())
        if count >= 0.9 * pairs:
            yield survey.finding(
                "same_for_classes",
                main,
                judged,
                {"n": n, "pairs": pairs, "count": count, "agreement": np.nanmean(alike)},
                f"The maps of {survey.named(main)} are the same for all classes: {count} of {pairs} class pairs from"
                f" {n} probes have a cosine similarity of {kinds.ALIKE:g} or more ({survey.when()}).",
                "They show what the layer responds to, not the evidence for a class: use a later layer, or explain"
                " the difference between two classes (targets=Contrast(...)).",
            )


def _place(survey: RunSurvey, key: CamKey) -> tuple[str, Flags, int, float] | None:
    """Returns the region with most probes' evidence, these probes, the number judged, and the mean share there."""
    maps = survey.last.maps[key]
    if maps.ndim < 3 or min(maps.shape[-2:]) < kinds.SIDE:
        return None
    known = shown(maps)
    n = int(known.sum())
    if n < kinds.PLACED:
        return None
    energy = np.where(np.isfinite(maps), np.maximum(maps, 0), 0).astype(np.float64)
    energy = energy.reshape(len(maps), -1, *maps.shape[-2:]).sum(axis=1)
    energy /= np.maximum(energy.sum(axis=(1, 2), keepdims=True), np.finfo(np.float64).tiny)
    # Evidence inside the object is not a shortcut, wherever the object is.
    usable = known & ~(survey.inside(key) >= kinds.INSIDE)
    down, across = (np.arange(side) < max(1, round(side * kinds.CORNER)) for side in maps.shape[-2:])
    # In the order of `_CORNERS`.
    areas = [np.outer(rows, columns) for rows in (down, down[::-1]) for columns in (across, across[::-1])]
    corners = [_at(energy, area) for area in areas]
    best = max(range(4), key=lambda place: int((usable & corners[place][0]).sum()))
    steps_in = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in maps.shape[-2:])
    border = ~np.outer(*(steps >= max(1, round(len(steps) * kinds.BORDER)) for steps in steps_in))
    for place, (top, share, area), times in (
        (f"in the {_CORNERS[best]} corner", corners[best], kinds.AT_CORNER),
        ("at the border", _at(energy, border), kinds.AT_BORDER),
    ):
        flags = usable & top & (share > times * area)
        if flags.sum() >= kinds.MOSTLY * n:
            return place, flags, n, float(share[flags].mean())
    return None


def _at(energy: Energy, place: Flags) -> tuple[Flags, Energy, float]:
    """Returns flags for maps with their maximum in a region, each map's share there, and the region's area share."""
    largest = energy.reshape(len(energy), -1).argmax(axis=1)
    return place.ravel()[largest], np.asarray(energy[:, place].sum(axis=1)), float(place.mean())
