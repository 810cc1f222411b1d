"""Runs a model only up to a layer's feature map, with gradients back to the input image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.activations import capture
from lightning_gradcam.capture.calls import call_of
from lightning_gradcam.capture.graph import differentiate
from lightning_gradcam.capture.inputs import Forward, Inputs
from lightning_gradcam.capture.layers import LayerSpec, named_layers, resolve_layers
from lightning_gradcam.capture.layout import Layout, parse_layouts
from lightning_gradcam.capture.tensors import main_tensor
from lightning_gradcam.compute.ascent import Ascent
from lightning_gradcam.compute.batches import check_model
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import ConfigurationError, LayerError, LightningGradCAMError
from lightning_gradcam.methods.variants import full_precision
from lightning_gradcam.targets import Given, resolve_targets


class _Reached(BaseException):
    """Raised once the layer has run, to skip the rest. Models may catch `Exception` but must not catch this."""


@dataclass(frozen=True, eq=False)
class Route:
    """Describes how to get from images to a layer's feature map.

    Attributes:
        model: The model.
        name: The layer's name.
        module: The layer.
        run: Runs the model on images.
        layout: The meaning of the axes of the layer's output.
        channels: Number of filters.
        calls: The call to use, counted from 1: the last one, unless the name includes a call.
        border: Number of edge positions excluded from the maximised mean, for each spatial axis.
        whole: Whether to run the forward pass to its end.
        forced: Whether to record a graph even if the model's own forward pass disables it.
    """

    model: nn.Module
    name: str
    module: nn.Module
    run: Forward
    layout: Layout
    channels: int
    calls: int
    border: tuple[int, ...]
    whole: bool
    forced: bool = False

    def responses(self, pictures: Tensor, filters: Sequence[int]) -> Tensor:
        """Returns each filter's activations on its own image, without the border, ``[F, positions]``."""
        features = self.layout.feature_map(self._output(pictures))
        own = full_precision(features[torch.arange(len(filters), device="cpu"), list(filters)])
        for axis, border in enumerate(self.border, 1):
            own = own.narrow(axis, border, own.shape[axis] - 2 * border)
        return own.flatten(1)

    def gradients(self, pictures: Tensor, filters: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """Returns the gradient of each filter's summed activation with respect to its own image, or ``None``."""
        source = pictures.detach().requires_grad_()
        # Not the mean, which would use up float16's range; the gradient is normalised anyway.
        (found,) = differentiate(self.responses(source.to(dtype, copy=True), filters).sum(1), [source])
        return found

    def _output(self, pictures: Tensor) -> Tensor:
        kept: list[Tensor] = []
        calls = 0

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            nonlocal calls
            calls += 1
            tensor = main_tensor(output)
            if tensor is not None and calls <= self.calls:
                # If the forward pass continues, an in-place operation could follow.
                kept[:] = [tensor.clone() if self.whole else tensor]
            if calls == self.calls and not self.whole:
                raise _Reached

        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.callback(self.module.register_forward_hook(keep).remove)
            for part in self.model.modules() if self.forced else ():
                stack.callback(part.register_forward_pre_hook(_record).remove)
            with suppress(_Reached):
                self.run(pictures)
        if not kept:
            raise LayerError(
                f"layers: the forward pass reached {self.name!r} in its first run, but not in a later one; choose a "
                "layer that every forward pass calls"
            )
        return kept[0]


def _record(_module: nn.Module, _args: Any) -> None:
    torch.set_grad_enabled(True)


def find_routes(
    model: nn.Module,
    layers: LayerSpec,
    run: Forward,
    like: Tensor,
    ascent: Ascent,
    layout: str | Mapping[str, str] | None,
) -> dict[str, Route]:
    """Finds layers and the routes to them with a full forward pass of two images.

    Args:
        model: The model, guarded and in evaluation mode.
        layers: As in :func:`~lightning_gradcam.filter_patterns`.
        run: Runs the model on images.
        like: Any batch of images with the shape, dtype and device that the model accepts.
        ascent: Provides the two images and the border.
        layout: The meaning of a layer's axes.

    Raises:
        LayerError: A layer is not found, not reached or has no feature map.
        ConfigurationError: The model does not accept such images.
    """
    pictures = ascent.start((0, 1), tuple(like.shape[1:]), torch.float64).to(like)
    # This request explains nothing.
    asked = Request(resolve_targets("predicted"), {}, parse_layouts(layout), run)
    search = Search(model, asked, Inputs(pictures), Given(2))
    check_model(named_layers(model), 1, asked.layouts)
    modules = resolve_layers(model, layers, auto=search.auto, calls=search.calls)
    with capture(modules, whole_graph=True) as captured:
        try:
            run(pictures.clone().requires_grad_().clone())
        except LightningGradCAMError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"shape: the model failed on images {list(pictures.shape)} ({type(error).__name__}: {error}); pass the "
                "shape of one image without the batch axis, and forward= if the model needs more inputs"
            ) from error
        shapes = {name: tuple(activation.shape) for name, activation in captured.activations.items()}
        calls = {name: times if (one := call_of(name)) is None else one + 1 for name, times in captured.calls.items()}
    # FSDP2 tracks the end of each forward pass.
    whole = any("FSDPModule" in {kind.__name__ for kind in type(part).__mro__} for part in model.modules())
    found = {}
    for name, module in modules.items():
        known = search.layout_of(name, module, torch.empty(shapes[name], device="meta"), single=True)
        border = tuple(min(ascent.border, (places - 1) // 2) for places in known.grid)
        channels = shapes[name][known.axes.index("C")]
        found[name] = Route(model, name, module, run, known, channels, calls[name], border, whole)
    return found
