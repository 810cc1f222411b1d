"""Filter patterns: the inputs to which a layer's filters respond most, found by gradient ascent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Forward
from lightning_gradcam.capture.layers import LayerSpec, mixing_layers, named_layers
from lightning_gradcam.capture.layout import Layout
from lightning_gradcam.capture.memory import in_parts
from lightning_gradcam.compute.ascent import Ascent, Parametrisation, spatial_axes
from lightning_gradcam.compute.callers import check_module, check_whole, eager
from lightning_gradcam.compute.partial_forward import Route, find_routes
from lightning_gradcam.errors import CaptureError, ConfigurationError, LayerError
from lightning_gradcam.guard.model import preserved

Filters = int | Sequence[int] | None
Progress = Callable[[int, int], Any]


@dataclass(frozen=True, eq=False)
class LayerPatterns:
    """The patterns for one layer's filters.

    Attributes:
        filters: The filter indices.
        pictures: One image per filter, ``[F, *shape]``, in the model's input space, at the end of the ascent.
        activations: Each filter's mean activation on its image, without the border, ``[F]``.
        silent: Which filters had no gradient in any step, bool ``[F]``, for instance because a ReLU is inactive
            everywhere. Their images are the unchanged starting images.
        layout: The meaning of the axes of the layer's output.
    """

    filters: tuple[int, ...]
    pictures: Tensor
    activations: Tensor
    silent: Tensor
    layout: Layout


def filter_patterns(
    model: nn.Module,
    layers: LayerSpec,
    shape: Sequence[int],
    *,
    filters: Filters = None,
    steps: int = 30,
    step_size: float | None = None,
    border: int = 2,
    seed: int = 0,
    jitter: int = 0,
    total_variation: float = 0.0,
    parametrisation: Parametrisation = "pixels",
    value_range: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 64,
    forward: Forward | None = None,
    layout: str | Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> dict[str, LayerPatterns]:
    """Finds the image to which each filter responds most, as in the chapter "Interpreting what convnets learn".

    The method follows François Chollet and Matthew Watson, *Deep Learning with Python*, 3rd edition, chapter 10
    (listings 10.1 to 10.23). It starts from uniform noise between 0.4 and 0.6 and takes thirty steps along the gradient
    of the filter's mean activation, divided by its L2 norm over the whole image, as the chapter's text describes. Each
    filter has its own image, start and norm, and a layer's filters run through the model in batches. The forward pass
    stops at the layer.

    The model runs in evaluation mode during the call, and its exact state is restored afterwards (see
    :func:`lightning_gradcam.guard.model.preserved`). The function works under ``no_grad`` and ``inference_mode``, and
    with frozen parameters.

    For a convolution preceded only by linear layers, the mean response over all positions is maximised by a plain
    colour; patterns appear after the first ReLU or stride.

    Args:
        model: Any module that accepts a batch of images, normalised or not.
        layers: A dotted name, a shell pattern, a module, ``"auto"`` (the last layer with a spatial output), or a list
            of these.
        shape: Shape of one image without the batch axis, such as ``(3, 224, 224)``.
        filters: Filters to visualise. ``None`` (default): all. An integer ``n``: the first ``n`` (the chapter uses the
            first 64). A list: filter indices from 0.
        steps: Number of ascent steps. :class:`~lightning_gradcam.compute.ascent.Ascent` describes this option and those
            below in detail.
        step_size: Length of a step. ``None`` (default): the chapter's 10, scaled to the image's size.
        border: Number of positions to exclude at each edge of the feature map; fewer if the map is small.
        seed: Random seed. Each filter has its own start, independent of the other filters requested.
        jitter: Maximum random shift before each step, in pixels.
        total_variation: Weight of the smoothing term.
        parametrisation: ``"pixels"`` or ``"fourier"``.
        value_range: The values of black and white in the model's inputs.
        batch_size: Maximum number of images per forward pass; halved if memory runs out.
        forward: Function called with images ``[F, *shape]`` instead of ``model``, for instance to normalise them:
            ``lambda x: model((x - mean) / std)``.
        layout: The meaning of a layer's axes, if it can't be detected: ``"NHWC"``, ``"NLC:1+14x14"``, or a mapping from
            layer names to these.
        progress: Called after each step with the number of steps done and the total.

    Returns:
        Patterns by layer name, on the model's device, in float32 (float64 if the parameters are).

    Raises:
        LayerError: A layer is not found, not reached or has no feature map, or a filter does not exist.
        CaptureError: No gradient reaches the input from the layer.
        ConfigurationError: An option is out of range, or the model does not accept images of this shape.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
        >>> found = filter_patterns(model, "0", (1, 8, 8), filters=[3, 1])["0"]
        >>> found.filters, found.pictures.shape
        ((3, 1), torch.Size([2, 1, 8, 8]))
    """
    check_module(model, "whose filters are observed")
    check_whole("batch_size", batch_size)
    own = next((p for p in model.parameters() if p.is_floating_point()), torch.empty((), device="cpu"))
    ascent = Ascent(steps, step_size, border, seed, jitter, total_variation, parametrisation, value_range)
    spatial_axes(shape)
    like = torch.empty((0, *shape), dtype=own.dtype, device=own.device)
    with preserved(model):
        return climb(
            model, layers, forward or model, like, ascent, filters, layout, batch_size=batch_size, progress=progress
        )


def climb(
    model: nn.Module,
    layers: LayerSpec,
    run: Forward,
    like: Tensor,
    ascent: Ascent,
    filters: Filters = None,
    layout: str | Mapping[str, str] | None = None,
    *,
    batch_size: int = 64,
    halve: bool = True,
    progress: Progress | None = None,
) -> dict[str, LayerPatterns]:
    """Finds patterns as :func:`filter_patterns` does; the caller guards the model and sets evaluation mode.

    Args:
        model: The model.
        layers: The layers, in any form that :func:`filter_patterns` accepts.
        run: Runs the model on images.
        like: A batch of images with the shape, dtype and device of the model's inputs; it may be empty.
        ascent: The settings of the gradient ascent.
        filters: The filters, in any form that :func:`filter_patterns` accepts.
        layout: The meaning of a layer's axes, if it can't be detected.
        batch_size: Maximum number of images per forward pass.
        halve: Whether to halve the number of images per forward pass if memory runs out.
        progress: Called after each step with the number of steps done and the total.
    """
    if not like.is_floating_point():
        raise ConfigurationError(
            f"inputs: the model takes {like.dtype}, which has no gradient; pass a forward= that accepts "
            "floating-point images"
        )
    tell: Progress = progress or (lambda _done, _total: None)
    found: dict[str, LayerPatterns] = {}
    with eager(model):
        routes = find_routes(model, layers, run, like, ascent, layout)
        chosen = {name: _chosen(name, filters, route.channels) for name, route in routes.items()}
        total, done = sum(map(len, chosen.values())) * ascent.steps, 0
        # If samples influence each other, a pattern would depend on the other filters.
        most = 1 if mixing_layers(named_layers(model)) else batch_size
        for name, route in routes.items():
            numbers = chosen[name]

            def climbed(
                start: int, stop: int, route: Route = route, numbers: list[int] = numbers, before: int = done
            ) -> tuple[Tensor, Tensor, Tensor]:
                first = before + start * ascent.steps
                return _climbed(route, ascent, numbers[start:stop], like, lambda more: tell(first + more, total))

            # Memory that is too small for a late layer may suffice for an early one, so each layer starts with the full
            # batch.
            parts = in_parts(len(numbers), most, climbed, halve=halve)
            pictures, activations, silent = (torch.cat(values) for values in zip(*parts, strict=True))
            done += len(numbers) * ascent.steps
            found[name] = LayerPatterns(tuple(numbers), pictures, activations, silent, route.layout)
    return found


def _climbed(
    route: Route, ascent: Ascent, filters: Sequence[int], like: Tensor, tell: Callable[[int], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images, their activations, and which filters never had a gradient."""
    # Half precision would lose steps: near 0.5, bfloat16 has a resolution of 1/256.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    shape = tuple(like.shape[1:])
    axes, length = spatial_axes(shape), ascent.step_length(shape)
    pictures = ascent.start(filters, shape, dtype).to(like.device)
    silent = torch.ones(len(filters), dtype=torch.bool, device=like.device)
    for step, move in enumerate(ascent.moves(len(axes))):
        moved = pictures.roll(move, axes) if any(move) else pictures
        gradients = route.gradients(moved, filters, like.dtype)
        if gradients is None and not route.forced:
            route = replace(route, forced=True)
            gradients = route.gradients(moved, filters, like.dtype)
        if gradients is None:
            raise CaptureError(
                f"layers: no gradient flows from {route.name!r} back to the input (a detach(), torch.inference_mode() "
                "or NumPy in the model's own forward, or inputs that it looks up or rounds); choose a layer before "
                "that step, or pass a forward= without it"
            )
        gradients = gradients.roll([-by for by in move], axes) if any(move) else gradients
        silent &= (gradients == 0).flatten(1).all(1)
        pictures = pictures + length * ascent.direction(gradients, pictures)
        tell((step + 1) * len(filters))
    reached = route.responses(pictures.to(like.dtype, copy=True), filters).detach().mean(1)
    return pictures, reached, silent


def _chosen(name: str, filters: Filters, channels: int) -> list[int]:
    """Returns the indices of the requested filters in a layer with ``channels`` filters."""
    if filters is None:
        return list(range(channels))
    what = (
        f"{name!r} has {channels} filters, 0 to {channels - 1}; pass a list of these, a number for the first ones, "
        "or None for all"
    )
    try:
        if isinstance(filters, Sequence) and not isinstance(filters, str):
            numbers = [index(number) for number in filters if not isinstance(number, bool)]
            if not numbers or len(numbers) < len(filters):
                raise TypeError
        else:
            numbers = [] if isinstance(filters, bool) else list(range(min(index(filters), channels)))
    except TypeError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or not 0 <= min(numbers) <= max(numbers) < channels:
        raise LayerError(f"filters: got {filters!r:.60}, but {what}")
    return numbers
