"""Whether maps mean what they show: layers that no score depends on, places that have moved, scores that saturate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from torch import Tensor

from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.changes import Move
from lightning_gradcam.capture.gradients import require_gradients
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.moved import LayerMap, Trial, find_moves
from lightning_gradcam.capture.obstacles import quantised_part
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import CaptureError, LayerError
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.targets import Contrast, Given, Segment, Target
from lightning_gradcam.targets.classes import Class
from lightning_gradcam.warn import warn

# Moves that no network with dead units was seen to feign: they need an answer at another place, and not a missing one.
_CERTAIN = ("samples", "turned", "shifted", "spectrum")


def explains_classes(targets: Sequence[Target]) -> bool:
    """Whether any target explains a class's own score."""
    return any(isinstance(target.select, (Class, Contrast, Segment)) for target in targets)


def require_reached(search: Search, missing: set[str]) -> None:
    """Rejects layers that no gradient reaches.

    Args:
        search: For what to name instead.
        missing: Names of layers without a gradient.

    Raises:
        CaptureError: There is one.
    """
    try:
        require_gradients(dict.fromkeys(sorted(missing)))
    except CaptureError as error:
        name = min(missing)
        if why := quantised_part(search.model):
            raise CaptureError(f"layers: no gradient reaches {name!r:.80}: {why}") from None
        # Behind it, where a part of the model runs without a graph; or before it, where it does not lead there.
        instead = search.instead_of(name, later=True) or search.instead_of(name, later=False)
        raise CaptureError(f"{error}, for instance {instead!r}" if instead else str(error)) from None


def check_dependence(
    search: Search, layouts: Mapping[str, Layout], maps: Mapping[CamKey, Tensor], sums: Mapping[CamKey, float]
) -> None:
    """Rejects a layer on whose places no score can depend, whatever the weights.

    Args:
        search: Is asked where all maps of a layer are zero.
        layouts: Layer name to layout.
        maps: All maps.
        sums: Those of the maps.

    Raises:
        LayerError: There is one.
    """
    needed = [name for name, method in search.asked.methods.items() if method.needs == "gradients"]
    for layer, layout in layouts.items() if needed else ():
        # Where a map is not zero, neither is its gradient; nearly always its sum tells.
        own = [key for key in maps if key.layer == layer and key.method in needed]
        if any(sums[key] != 0 or bool(maps[key].any()) for key in own) or search.is_reached(layer):
            continue
        instead = search.instead_of(layer, later=False)
        why = (
            "what follows reads its class or register tokens alone" if layout.extra else "nothing that follows reads it"
        )
        raise LayerError(
            f"layers: the gradient at {layer!r} is zero everywhere by construction: {why}; name"
            f" {repr(instead) if instead else 'an earlier layer'} instead"
        )


def check_moves(search: Search, seen: Mapping[str, LayerMap], axes: str) -> None:
    """Rejects layers whose places or rows belong elsewhere, and warns where they belong to a part of the picture.

    Args:
        search: The model and its inputs.
        seen: What is explained, by the feature map's name.
        axes: What the input's axes mean, as of :class:`~lightning_gradcam.capture.inputs.InputForm`.

    Raises:
        LayerError: A map would be drawn on other places, or another sample, than its own.
    """
    found: Mapping[str, Move] = {}
    # A model may take no other number of samples, or no other picture.
    with suppress(Exception):
        found = find_moves(Trial(search.asked.run, search.inputs, axes), seen)
        if any(move.kind not in _CERTAIN for move in found.values()):
            # A dead unit does not see its part of the picture either: what other weights see counts.
            with awakened(search.model):
                again = find_moves(Trial(search.asked.run, search.inputs, axes), seen)
            found = {name: move for name, move in found.items() if move.kind in _CERTAIN or name in again}
    for name, move in found.items():
        if move.kind not in _CERTAIN:
            warn(
                f"layers: {name!r:.80} does not line up with the picture: {move.what}. This happens in a model that"
                " crops, pads or warps its input. Maps are stretched over the whole picture, so they are misplaced;"
                " crop or pad the pictures before the model is called, or give a forward without that step (forward=,"
                " in a callback forward_fn=)"
            )
            continue
        where = "another sample" if move.kind == "samples" else "other places"
        advice = (
            "name a layer before the transform or behind its inverse"
            if move.kind == "spectrum"
            else "do that step before the model is called, or explain a part of the model that does not contain it"
            " (forward=, of a callback forward_fn=)"
        )
        text = (
            f"layers: {name!r:.80} does not match the input: {move.what}, so its map would be drawn on {where} than its"
            f" own; {advice}"
        )
        if move.kind not in ("turned", "shifted") or search.asked.layout_of(name) is None:
            raise LayerError(text)
        warn(text)


def remark_on_score(given: Given) -> None:
    """Warns, once per run, where probabilities of classes are explained and logits were asked for."""
    if given.kind not in ("softmax", "sigmoid") or given.score != "logit" or given.first:
        return
    warn(
        f"lightning-gradcam: the model ends in a {given.kind}: percentages are its unchanged output, and the maps"
        " explain this probability, whose gradient vanishes when the model is confident. To explain the logit, return"
        f" it from forward() and apply the {given.kind} outside the model; if the model returns both, name the logit"
        " with output_key=; or give a forward without the last layer (forward=, in a callback forward_fn=)"
    )
