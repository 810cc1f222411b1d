"""Feature maps: every channel of some layers for some samples, from forward passes without a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.activations import no_feature_map
from lightning_gradcam.capture.calls import call_of
from lightning_gradcam.capture.inputs import Forward, Inputs, caller
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.capture.layout import Layout, parse_layouts
from lightning_gradcam.capture.tensors import main_tensor
from lightning_gradcam.compute.batches import in_searched_parts
from lightning_gradcam.compute.callers import Request, check_module, check_whole
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import LayerError
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.methods.variants import full_precision
from lightning_gradcam.probes.batches import one_size
from lightning_gradcam.targets import Given, resolve_targets


@dataclass(frozen=True, eq=False)
class FeatureMaps(Mapping[str, Tensor]):
    """Feature maps of several layers; a read-only mapping from layer names to :attr:`activations`.

    Attributes:
        activations: Feature maps ``[N, C, h, w]`` (``[N, C, d, h, w]`` in 3-D) by layer, signed and not normalised.
            Tokens and channels-last activations are converted to this form, without class tokens.
        chosen: The channel indices of the maps, by layer: all, or those selected with ``max_channels``.
        dead: Whether each channel is zero everywhere on all samples, by layer: bool ``[C]``, for **all** channels of
            the layer.
        layouts: Layouts by layer.
    """

    activations: Mapping[str, Tensor]
    chosen: Mapping[str, tuple[int, ...]]
    dead: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]

    def __getitem__(self, layer: str) -> Tensor:
        return self.activations[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{layer!r}: {list(maps.shape)}" for layer, maps in self.activations.items())
        return f"FeatureMaps({shapes})"


def compute_feature_maps(
    model: nn.Module,
    inputs: Any,
    layers: LayerSpec = "auto",
    *,
    layout: str | Mapping[str, str] | None = None,
    picture: Tensor | None = None,
    forward: Forward | None = None,
    batch_size: int | None = None,
    max_channels: int | None = None,
) -> FeatureMaps:
    """Returns every channel's activation in the given layers for a batch.

    The model runs in evaluation mode without a graph during the call, and its exact state is restored afterwards (see
    :func:`lightning_gradcam.guard.model.preserved`).

    Args:
        model: Any module.
        inputs: The batch, in any form that :func:`~lightning_gradcam.compute_cams` accepts.
        layers: A dotted name, a shell pattern, a module, ``"auto"`` (the layer Grad-CAM would use), or a list of these.
        layout: The meaning of a layer's axes, if it can't be detected; see ``compute_cams``.
        picture: The image among several inputs, as the same tensor object.
        forward: Function called with ``inputs`` instead of ``model``.
        batch_size: Maximum number of samples per forward pass; default: all. It is halved if memory runs out.
        max_channels: Maximum number of channels to keep per layer, evenly spaced; default: all.

    Returns:
        The feature maps, float32 (float64 if the activations are), on the model's device.

    Raises:
        LayerError: A layer is not found or not reached, or has no spatial activation.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        >>> maps = compute_feature_maps(model, torch.rand(2, 1, 5, 5), ["0", "1"])
        >>> maps["1"].shape, maps.dead["1"].shape
        (torch.Size([2, 4, 3, 3]), torch.Size([4]))
    """
    layouts = parse_layouts(layout)
    check_module(model, "whose layers are observed")
    for name, value in (("batch_size", batch_size), ("max_channels", max_channels)):
        if value is not None:
            check_whole(name, value, instead=", or None for all")
    with preserved(model):
        whole = Inputs(inputs, picture)
        return feature_maps(
            model,
            layers,
            whole.part,
            whole.samples,
            run=caller(model, forward, None),
            batch_size=batch_size,
            layouts=layouts,
            max_channels=max_channels,
        )


def feature_maps(
    model: nn.Module,
    layers: LayerSpec,
    load: Callable[[int, int], Inputs],
    samples: int,
    *,
    run: Forward,
    batch_size: int | None = None,
    layouts: Mapping[str, str] | None = None,
    max_channels: int | None = None,
    device: torch.device | str | None = None,
    check: bool = True,
    halve: bool = True,
) -> FeatureMaps:
    """Computes feature maps part by part; the caller guards the model and sets evaluation mode.

    Args:
        model: The model.
        layers: As in :func:`compute_feature_maps`.
        load: Returns the inputs for the samples between a start and a stop index.
        samples: Number of samples.
        run: Maps inputs to the model's output.
        batch_size: Number of samples per forward pass; ``None`` means all.
        layouts: The user's layouts by layer name; ``""`` means all layers.
        max_channels: Maximum number of channels to keep per layer, evenly spaced; ``None`` means all.
        device: The device on which to keep the maps; ``None`` keeps them where they were computed. ``"cpu"`` bounds the
            memory used on the model's device.
        check: Whether to check the user's layouts and the model; once per model is enough.
        halve: Whether to halve the number of samples per forward pass if memory runs out.

    Raises:
        LayerError: A layer is not found or not reached, or has no spatial activation.
    """
    # This request explains nothing.
    asked = Request(
        resolve_targets("predicted"), {}, layouts or {}, run, batch_size=batch_size, check=check, halve=halve
    )

    def part_of(search: Search, modules: Mapping[str, nn.Module]) -> FeatureMaps:
        return _part(search, modules, max_channels, device)

    with torch.no_grad():
        parts = in_searched_parts(model, layers, load, Given(samples), asked, part_of)
    first = parts[0]
    return FeatureMaps(
        MappingProxyType({name: one_size([part[name] for part in parts]) for name in first}),
        MappingProxyType(first.chosen),
        MappingProxyType({name: torch.stack([part.dead[name] for part in parts]).all(0) for name in first}),
        MappingProxyType(first.layouts),
    )


def _part(
    search: Search, modules: Mapping[str, nn.Module], most: int | None, device: torch.device | str | None
) -> FeatureMaps:
    activations: dict[str, Tensor] = {}
    chosen: dict[str, tuple[int, ...]] = {}
    dead: dict[str, Tensor] = {}
    layouts: dict[str, Layout] = {}
    outputs = _outputs(search, modules)
    for name in modules:
        output = outputs.pop(name)
        layouts[name] = search.layout_of(name, modules[name], output)
        maps = layouts[name].feature_map(output)
        channels = maps.shape[1]
        shown = min(channels, most or channels)
        chosen[name] = tuple(place * channels // shown for place in range(shown))
        dead[name] = (maps == 0).flatten(2).all(2).all(0).to(device)
        # Copy if only some are kept: a view would keep the whole tensor alive.
        kept = maps if shown == channels else maps[:, list(chosen[name])]
        activations[name] = full_precision(kept).to(device).contiguous()
    return FeatureMaps(activations, chosen, dead, layouts)


def _outputs(search: Search, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Returns the layers' outputs from one forward pass; for a layer that is called several times, the last output."""
    found: dict[str, Tensor] = {}
    calls = {name: count() for name in modules}

    def keep(name: str, module: nn.Module, _args: Any, output: Any) -> None:
        if call_of(name) not in (None, next(calls[name])):
            return
        main = main_tensor(output)
        if main is None:
            raise no_feature_map(name, module, output)
        # Clone, because a later in-place operation would overwrite the stored output.
        found[name] = main.detach().clone()

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(partial(keep, name)).remove)
        search.asked.run(search.inputs.fresh())
    if missing := [name for name in modules if name not in found]:
        raise LayerError(
            f"layers: {missing[0]!r} exists, but the forward pass never reached it (reached: "
            f"{', '.join(found) or 'none'}); choose a layer that the model's forward() calls"
        )
    return found
