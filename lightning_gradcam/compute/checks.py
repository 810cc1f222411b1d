"""Checks that maps are meaningful: layers no score depends on, moved positions, saturated scores."""

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

# Moves that dead units were never seen to imitate: they need a response at another position, not a missing one.
_CERTAIN = ("samples", "turned", "shifted", "spectrum")


def explains_classes(targets: Sequence[Target]) -> bool:
    """Whether any target explains a class's own score."""
    return any(isinstance(target.select, (Class, Contrast, Segment)) for target in targets)


def require_reached(search: Search, missing: set[str]) -> None:
    """Rejects layers that no gradient reaches.

    Args:
        search: Finds alternatives to name in the error.
        missing: Names of layers without a gradient.

    Raises:
        CaptureError: No gradient reaches a layer.
    """
    try:
        require_gradients(dict.fromkeys(sorted(missing)))
    except CaptureError as error:
        name = min(missing)
        if why := quantised_part(search.model):
            raise CaptureError(f"layers: no gradient reaches {name!r:.80}: {why}") from None
        # A later layer if part of the model runs without a graph; an earlier one if the layer does not feed the score.
        instead = search.instead_of(name, later=True) or search.instead_of(name, later=False)
        raise CaptureError(f"{error}, for instance {instead!r}" if instead else str(error)) from None


def check_dependence(
    search: Search, layouts: Mapping[str, Layout], maps: Mapping[CamKey, Tensor], sums: Mapping[CamKey, float]
) -> None:
    """Rejects a layer on whose positions no score can depend, whatever the weights.

    Args:
        search: Consulted if all maps of a layer are zero.
        layouts: Layer name to layout.
        maps: All maps.
        sums: The sums of the maps.

    Raises:
        LayerError: No score depends on a layer.
    """
    needed = [name for name, method in search.asked.methods.items() if method.needs == "gradients"]
    for layer, layout in layouts.items() if needed else ():
        # If a map is not zero, neither is its gradient; its sum nearly always shows this.
        own = [key for key in maps if key.layer == layer and key.method in needed]
        if any(sums[key] != 0 or bool(maps[key].any()) for key in own) or search.is_reached(layer):
            continue
        instead = search.instead_of(layer, later=False)
        why = "later layers read only its class or register tokens" if layout.extra else "no later layer reads it"
        raise LayerError(
            f"layers: the gradient at {layer!r} is zero everywhere by construction: {why}; name"
            f" {repr(instead) if instead else 'an earlier layer'} instead"
        )


def check_moves(search: Search, seen: Mapping[str, LayerMap], axes: str) -> None:
    """Rejects layers with misplaced positions or rows, and warns if they only cover a part of the image.

    Args:
        search: The model and its inputs.
        seen: The explained feature maps, by name.
        axes: The meaning of the input's axes, as in :class:`~lightning_gradcam.capture.inputs.InputForm`.

    Raises:
        LayerError: A map would be drawn at wrong positions or on another sample.
    """
    found: Mapping[str, Move] = {}
    # A model may not accept another number of samples or another image.
    with suppress(Exception):
        found = find_moves(Trial(search.asked.run, search.inputs, axes), seen)
        if any(move.kind not in _CERTAIN for move in found.values()):
            # A dead unit does not see its part of the image either, so check with other weights.
            with awakened(search.model):
                again = find_moves(Trial(search.asked.run, search.inputs, axes), seen)
            found = {name: move for name, move in found.items() if move.kind in _CERTAIN or name in again}
    for name, move in found.items():
        if move.kind not in _CERTAIN:
            warn(
                f"layers: {name!r:.80} does not line up with the image: {move.what}. This happens in a model that "
                "crops, pads or warps its input. Maps are stretched over the whole image, so they are misplaced. Crop "
                "or pad the images before the model is called, or pass a forward without that step (forward=, in a "
                "callback forward_fn=)"
            )
            continue
        where = "another sample" if move.kind == "samples" else "other places"
        advice = (
            "name a layer before the transform or after its inverse"
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
    """Warns, once per run, if class probabilities are explained although logits were requested."""
    if given.kind not in ("softmax", "sigmoid") or given.score != "logit" or given.first:
        return
    warn(
        f"lightning-gradcam: the model ends in a {given.kind}: percentages are its unchanged output, and the maps "
        "explain this probability, whose gradient vanishes when the model is confident. To explain the logit, return "
        f"it from forward() and apply the {given.kind} outside the model; if the model returns both, name the logit "
        "with output_key=; or pass a forward without the last layer (forward=, in a callback forward_fn=)"
    )
