"""Derives a verdict and one sentence of advice from the figures for each layer and method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Verdict = Literal["blank", "backwards", "not learnt", "class-blind", "weak", "sound"]
# In order of precedence.
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

# Fraction of maps without a positive value above which a layer and method are blank.
BLANK = 0.5
# Maximum p-value at which a map, or its inverse, follows the model better than chance.
CHANCE = 0.05
# Maximum fraction of random weightings of a layer's channels that do as well as a map or its inverse. They are strong
# rivals: if all channels follow the object, so does any sum of them.
RIVALS = 0.25
# Minimum change in probability between an image and an emptied or different one.
DEPENDS = 0.1
# Minimum factor by which the output depends more on the image than with any random weights.
LEARNT = 1.5
# Rank correlation with maps from random weights from which maps count as unchanged, and the fraction of the maps'
# faithfulness that those must also reach.
KEPT, KEPT_FAITH = 0.5, 0.75
# Correlation from which maps for different classes count as the same; its magnitude if there are more than two. It is 1
# if all classes depend on the layer through a single number, and up to 0.99 in a network for a single kind of object.
SAME = 0.999
# Minimum number of images for each verdict.
LEAST: Mapping[Verdict, int] = MappingProxyType(
    {"blank": 1, "backwards": 2, "not learnt": 1, "class-blind": 1, "weak": 0, "sound": 2}
)


@dataclass(frozen=True, eq=False)
class MapVerdict:
    """The result of :func:`~lightning_gradcam.check_maps` for one layer and method.

    Attributes:
        layer: The layer's name; ``"model"`` for methods without a layer of their own.
        method: The method's name.
        verdict: ``"blank"``, ``"backwards"``, ``"not learnt"``, ``"class-blind"``, ``"weak"`` or ``"sound"``.
        reason: The reason, with the deciding figures.
        advice: One sentence of advice.
        figures: All measurements by name; NaN if a measurement was not possible. ``docs/checks.md`` explains each one.
        cascade: The maps' similarity to those with random weights in only the last layer, up to all layers: the lowest
            randomised layer, rank correlation, and structural similarity.
    """

    layer: str
    method: str
    verdict: Verdict
    reason: str
    advice: str
    figures: Mapping[str, float]
    cascade: tuple[tuple[str, float, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", MappingProxyType(dict(self.figures)))

    @property
    def strength(self) -> float:
        """Standard deviations by which a sound map is better than random maps; minus infinity for other verdicts."""
        return self.figures["faithful"] if self.verdict == "sound" else -math.inf


def decide(figures: Mapping[str, float]) -> tuple[Verdict, str]:
    """Returns the first verdict that applies, with its reason.

    Args:
        figures: The figures, as in :class:`MapVerdict`.

    Example:
        >>> shown = {"used": 1, "p": 1.0, "channels_p": 0.6}
        >>> inverse = {"inverted_used": 4, "inverted_p": 0.3, "inverted_channels_p": 0.4}
        >>> decide({"pictures": 4, "blank": 0.75, "class_correlation": 0.2, **shown, **inverse})
        ('blank', '3 of 4 maps have no positive value')
    """
    pictures, used, p = figures["pictures"], figures["used"], figures["p"]
    inverse_p = figures["inverted_p"]
    empty = f"{round(figures['blank'] * pictures)} of {pictures:g} maps have no positive value"
    if broken := round(figures.get("not_finite", 0) * pictures):
        empty += f" ({broken} {'is' if broken == 1 else 'are'} not finite)"
    blank = figures["blank"] > BLANK and pictures >= LEAST["blank"]
    same = pictures >= LEAST["class-blind"] and figures["class_correlation"] >= SAME
    # A blank map can also be backwards: it is negative everywhere if all evidence is positive and the sign is flipped.
    # A map that is the same for all classes is backwards for some of them by chance.
    turned = figures["inverted_used"] >= LEAST["backwards"] and inverse_p <= CHANCE < p
    # The fraction of random weightings is NaN for methods without a layer.
    backwards = turned and not figures["inverted_channels_p"] > RIVALS and not same
    if blank and not backwards:
        return "blank", empty
    if backwards:
        inverse = f"the inverted map is more faithful to the model than random maps (p = {inverse_p:.2g})"
        return "backwards", f"{empty}, and {inverse}" if blank else inverse
    if pictures >= LEAST["not learnt"] and (why := _not_learnt(figures)):
        return "not learnt", why
    if same:
        return "class-blind", f"the maps for different classes have a correlation of {figures['class_correlation']:.3f}"
    if used < LEAST["sound"]:
        lost = (
            (f" (of {pictures:g}; the others have a blank map or keep their class when the whole image is hidden)")
            if used < pictures
            else ""
        )
        return "weak", f"too few images to tell: {used:g}{lost}; at least {LEAST['sound']} are needed"
    if p > CHANCE:
        return "weak", f"no better than random maps of the same smoothness (p = {p:.2g})"
    if figures["channels_p"] > RIVALS:
        share = f"{figures['channels_p']:.0%} of them do as well"
        return "weak", f"no better than random weightings of this layer's channels ({share})"
    return "sound", f"more faithful to the model than random maps (p = {p:.2g})"


def _not_learnt(figures: Mapping[str, float]) -> str:
    if figures["dependence"] < DEPENDS:
        return f"the output hardly depends on the image: probabilities change by {figures['dependence']:.3f} at most"
    if figures["learnt"] < LEARNT:
        times = figures["learnt"]
        return f"the output depends on the image about as much as with random weights: {times:.2g} times as much"
    alike, by_chance = figures["random_weights_correlation"], figures["random_maps_correlation"]
    faith, kept = figures["faithful"], figures["random_weights_faithful"]
    if alike >= max(KEPT, by_chance) and kept >= KEPT_FAITH * faith:
        return f"with random weights the map is nearly the same (rank correlation {alike:.2f}) and just as faithful"
    return ""


def advise(row: MapVerdict, others: Mapping[tuple[str, str], MapVerdict]) -> str:
    """Returns one sentence of advice.

    Args:
        row: The verdict for the layer and method.
        others: The verdicts for all layers and methods checked.
    """
    layer, method = row.layer, row.method
    if row.verdict == "sound":
        if row.figures["blank"] > 0 or row.figures["largest_change"] > 0.5:
            weak = "some maps are blank" if row.figures["blank"] > 0 else "the maps change under invisible noise"
            return f"Use it, but look at several images before drawing conclusions: {weak}."
        return "Use it."
    if row.figures["dependence"] < DEPENDS or row.figures["learnt"] < LEARNT:
        return "Train the model further, or check the weights that were loaded and how the images are preprocessed."
    sound = sorted((v for v in others.values() if v.verdict == "sound"), key=lambda v: -v.strength)
    beside = next((v for v in sound if v.layer == layer), next(iter(sound), None))
    if beside is not None:
        where = "at this layer" if beside.layer == layer else f"at layer {beside.layer!r}"
        return f"Use {beside.method!r} {where} instead, which is sound here."
    tried = {name for where, name in others if where == layer}
    other = next((name for name in ("hirescam", "layercam", "gradcam") if name not in tried), None)
    if row.verdict == "weak" and row.figures["used"] < LEAST["sound"]:
        return "Check more images whose class the model is sure of."
    if row.verdict == "class-blind":
        return "Don't read it as evidence for one class; check an earlier layer, or another method."
    if other is not None and layer != "model":
        why = (
            "which keeps each location's own gradient" if other == "hirescam" else "which weights locations differently"
        )
        return f"Don't rely on {method!r} here; check {other!r} at this layer, {why}."
    return f"Don't rely on {method!r} here; check an earlier layer and more images."
