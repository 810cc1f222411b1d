"""Checks that maps are meaningful: the score depends on the layer, and positions match those in the image.

Also warns if a layer sees a different image or only some frames, or if probabilities are explained instead of logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.activations import capture
from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.calls import layer_of
from lightning_gradcam.capture.changes import Move
from lightning_gradcam.capture.graph import require_gradients
from lightning_gradcam.capture.inputs import Forward, Inputs, with_gradient
from lightning_gradcam.capture.inspection import mixed
from lightning_gradcam.capture.layers import quantised_part
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.moved import LayerMap, Trial, find_moves
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import CaptureError, LayerError
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.targets import Contrast, Given, Segment, Target
from lightning_gradcam.targets.classes import Class
from lightning_gradcam.targets.labels import number_of_classes
from lightning_gradcam.warn import warn

# Kinds of moves that dead units were never seen to imitate: these moves require a response at a different position,
# not a missing one.
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
    """Rejects layers on whose positions no score can depend, whatever the weights.

    Args:
        search: Queried if all maps of a layer are zero.
        layouts: Layouts by layer name.
        maps: All maps.
        sums: The sum of each entry in ``maps``.

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
            f"layers: the gradient at {layer!r} is zero everywhere by construction: {why}; choose"
            f" {repr(instead) if instead else 'an earlier layer'} instead"
        )


def check_moves(search: Search, seen: Mapping[str, LayerMap], axes: str) -> None:
    """Rejects layers with misplaced positions or rows, and warns about layers that do not line up with the image.

    Args:
        search: The model and its inputs.
        seen: The explained feature maps by name.
        axes: The meaning of the input's axes, as in :class:`~lightning_gradcam.capture.inputs.InputForm`.

    Raises:
        LayerError: A map would be drawn at the wrong positions or on the wrong sample.
    """
    found: Mapping[str, Move] = {}
    # A model may not accept a different number of samples or a different image.
    with suppress(Exception):
        trial = Trial(search.asked.run, search.inputs, axes)
        found = find_moves(trial, seen)
        if any(move.kind not in _CERTAIN for move in found.values()):
            # Dead units do not see their part of the image either, so check again with other weights.
            with awakened(search.model):
                again = find_moves(trial, seen)
            found = {name: move for name, move in found.items() if move.kind in _CERTAIN or name in again}
    for name, move in found.items():
        if move.kind not in _CERTAIN:
            warn(
                f"layers: {name!r:.80} does not line up with the image: {move.what}. This happens in a model that "
                "crops, pads or warps its input. Maps are stretched over the whole image, so they are misplaced. Crop "
                "or pad the images before the model is called, or pass a forward without that step (forward=; in a "
                "callback, forward_fn=)"
            )
            continue
        where = "over the wrong sample" if move.kind == "samples" else "at the wrong locations"
        advice = (
            "choose a layer before the transform or after its inverse"
            if move.kind == "spectrum"
            else "perform that step before calling the model, or explain a part of the model that does not contain it"
            " (forward=; in a callback, forward_fn=)"
        )
        text = (
            f"layers: {name!r:.80} does not match the input: {move.what}, so its map would be drawn {where}; {advice}"
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
        f"it from forward() and apply the {given.kind} outside the model; if the model returns both, select the logit "
        "with output_key=; or pass a forward function without the last layer (forward=; in a callback, forward_fn=)"
    )


def remark_on_names(output: Any, given: Given) -> None:
    """Warns, once per run, if the number of class names found with the data differs from the model's number of classes.

    Args:
        output: The model's output.
        given: The targets' additional data.
    """
    classes = number_of_classes(output, given.labels)
    if given.first or given.found_names is None or classes in (None, given.found_names):
        return
    warn(
        f"lightning-gradcam: class_names: names of {given.found_names} classes were found, but the model's output has "
        f"{classes}, so sheets may show wrong names (did a target_transform or a wrapper renumber the labels?); pass "
        f"class_names= with {classes} names, in the order of the outputs"
    )


def remark_on_labels(output: Any, given: Given) -> None:
    """Warns, once per run, if the data set counts its classes from 1 and the probes' labels do not show it.

    A label that is not one of the model's classes is an error, but the probes may have no such label.

    Args:
        output: The model's output.
        given: The targets' additional data.
    """
    classes = number_of_classes(output, given.labels)
    if given.first or given.from_one is None or classes != given.from_one:
        return
    warn(
        f"lightning-gradcam: labels: the data set's labels go up to {classes} and none is 0, but the model's output has"
        f" the classes 0 to {classes - 1}, so true classes are probably shown one too high; count the labels from 0"
        " (in a callback, for example label_key=lambda batch: batch[1] - 1)"
    )


def remark_on_pictures(search: Search, modules: Mapping[str, nn.Module], layouts: Mapping[str, Layout]) -> None:
    """Warns, once per run, if a layer's map belongs to a different image or to only some of the frames.

    Args:
        search: The model and its inputs.
        modules: Modules by layer name.
        layouts: Layouts by layer name.
    """
    run, inputs = search.asked.run, search.inputs
    if search.given.first:
        return
    shape = list(inputs.picture.shape)
    for layer, other in seen_elsewhere(run, inputs, modules).items() if inputs.pictures > 1 else ():
        name = layer_of(layer)
        instead = f"a call ({name + '#0'!r}, …)" if search.calls(name) > 1 else "a layer"
        warn(
            f"lightning-gradcam: layer {layer!r} sees a different input ({other}) from the explained image "
            f"({shape}), so its maps show locations in that input. Pass that tensor as picture=, or choose {instead} "
            "that sees the explained image"
        )
    flat = {name: module for name, module in modules.items() if len(layouts[name].grid) == 2}
    for layer, (axis, reached) in frames_seen(run, inputs, flat).items():
        name, frames = layer_of(layer), reached.nonzero().flatten().tolist()
        calls = f" (a call of {name!r} each: '{name}#0', …)" if search.calls(name) > 1 else ""
        warn(
            f"lightning-gradcam: layer {layer!r} sees only index {', '.join(map(str, frames[:5]))} (of 0 to "
            f"{len(reached) - 1}) along axis {axis} of the input {shape}: its maps belong to that part, even where "
            f"they are drawn over a different one{calls}"
        )


def seen_elsewhere(run: Forward, inputs: Inputs, modules: Mapping[str, nn.Module]) -> dict[str, list[int]]:
    """Finds the layers that depend on a different image instead of the chosen one.

    Only the graph decides, so the weights do not matter. Runs two samples once per image.

    Args:
        run: Maps inputs to the explained output.
        inputs: The batch, with several images.
        modules: Modules by layer name.

    Returns:
        The shape of the image on which each of these layers depends, by layer name. Empty if the graph is inconclusive.
    """
    few = inputs.part(0, 2)
    found: dict[str, list[int]] = {}
    # Fails after an in-place change, with a reentrant checkpoint, or if the model accepts no other number of samples.
    with suppress(Exception):
        unseen = set(modules) - _led_to(run, few, modules)
        for whole, other in zip(inputs.others(), few.others(), strict=True):
            for name in (_led_to(run, other, modules) & unseen) - set(found) if unseen else ():
                found[name] = list(whole.picture.shape)
    return {name: found[name] for name in modules if name in found}


def frames_seen(run: Forward, inputs: Inputs, modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, Tensor]]:
    """Finds the layers that see only some frames of a clip or some images of a stack.

    Runs two samples once and differentiates each layer's map. The result is empty for images without such an axis.

    Args:
        run: Maps inputs to the explained output.
        inputs: The batch; only an image with five axes is examined.
        modules: Modules by layer name; their maps have no frame axis.

    Returns:
        By layer name, the input's frame axis and the frames along it on which the layer depends, as a bool tensor.
    """
    found: dict[str, tuple[int, Tensor]] = {}
    few = inputs.part(0, 2)
    if few.picture.dim() != 5 or not modules:
        return found
    # Fails after an in-place change or with a reentrant checkpoint, as above.
    with suppress(Exception), torch.enable_grad(), capture(modules, whole_graph=True) as captured:
        picture = with_gradient(few.picture)
        run(few.fresh(picture))
        for name, tensor in captured.activations.items():
            (slopes,) = torch.autograd.grad(mixed(tensor), picture, retain_graph=True, allow_unused=True)
            for axis in (1, 2) if slopes is not None else ():
                reached = slopes.movedim(axis, 0).flatten(1).ne(0).any(1)
                if bool(reached.any()) and not bool(reached.all()):
                    found[name] = (axis, reached)
                    break
    return found


def _led_to(run: Forward, inputs: Inputs, modules: Mapping[str, nn.Module]) -> set[str]:
    """Returns the layers whose preferred feature map depends on the image through the graph."""
    picture = with_gradient(inputs.picture)
    with torch.enable_grad(), capture(modules, whole_graph=True) as captured:
        run(inputs.fresh(picture))
        maps = {name: tensor for name, tensor in captured.activations.items() if tensor.requires_grad}
        return {
            name
            for name, tensor in maps.items()
            if torch.autograd.grad(tensor.sum(), picture, retain_graph=True, allow_unused=True)[0] is not None
        }
