"""Finds which of several images, or of a clip's frames, a layer sees, because maps are drawn over one image."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.activations import capture
from lightning_gradcam.capture.calls import layer_of
from lightning_gradcam.capture.inputs import Forward, Inputs, with_gradient
from lightning_gradcam.capture.inspection import mixed
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.compute.search import Search
from lightning_gradcam.warn import warn


def remark_on_pictures(search: Search, modules: Mapping[str, nn.Module], layouts: Mapping[str, Layout]) -> None:
    """Warns, once per run, if a layer's map belongs to another image or to only some of the frames.

    Args:
        search: The model and its inputs.
        modules: Layer name to module.
        layouts: Layer name to layout.
    """
    run, inputs = search.asked.run, search.inputs
    if search.given.first:
        return
    shape = list(inputs.picture.shape)
    for layer, other in seen_elsewhere(run, inputs, modules).items() if inputs.pictures > 1 else ():
        name = layer_of(layer)
        instead = f"call of it ({name + '#0'!r})" if search.calls(name) > 1 else "layer"
        warn(
            f"lightning-gradcam: layer {layer!r} sees a different input ({other}) from the image ({shape}): its maps "
            f"show locations in that input. Pass that tensor as picture=, or name another {instead} that sees the image"
        )
    flat = {name: module for name, module in modules.items() if len(layouts[name].grid) == 2}
    for layer, (axis, reached) in frames_seen(run, inputs, flat).items():
        name, frames = layer_of(layer), reached.nonzero().flatten().tolist()
        calls = f" (a call of {name!r} each: '{name}#0', …)" if search.calls(name) > 1 else ""
        warn(
            f"lightning-gradcam: layer {layer!r} sees only index {', '.join(map(str, frames[:5]))} (of 0 to"
            f" {len(reached) - 1}) along axis {axis} of the input {shape}: its maps belong to that part, even where"
            f" they are drawn over another{calls}"
        )


def seen_elsewhere(run: Forward, inputs: Inputs, modules: Mapping[str, nn.Module]) -> dict[str, list[int]]:
    """Finds the layers that depend on another image instead of the chosen one.

    Only the graph decides, whatever the weights. Runs two samples once for each image.

    Args:
        run: Maps inputs to the explained output.
        inputs: The batch, with several images.
        modules: Layer name to module.

    Returns:
        Layer name to the shape of the image on which it depends. Empty if the graph is inconclusive.
    """
    few = inputs.part(0, 2)
    found: dict[str, list[int]] = {}
    # An in-place change, a reentrant checkpoint, or a model that accepts no other number of samples.
    with suppress(Exception):
        unseen = set(modules) - _led_to(run, few, modules)
        for whole, other in zip(inputs.others(), few.others(), strict=True):
            for name in (_led_to(run, other, modules) & unseen) - set(found) if unseen else ():
                found[name] = list(whole.picture.shape)
    return {name: found[name] for name in modules if name in found}


def frames_seen(run: Forward, inputs: Inputs, modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, Tensor]]:
    """Finds the layers that see only some of a clip's frames or of a stack's images.

    Runs two samples once and differentiates each layer's map. Does nothing for images without such an axis.

    Args:
        run: Maps inputs to the explained output.
        inputs: The batch; its image has five axes.
        modules: Layer name to module, for maps without a frame axis.

    Returns:
        Layer name to the input's frame axis and a bool array of the frames on which the layer depends.
    """
    found: dict[str, tuple[int, Tensor]] = {}
    few = inputs.part(0, 2)
    if few.picture.dim() != 5 or not modules:
        return found
    # An in-place change or a reentrant checkpoint, as above.
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
