"""Checks the user's masks, boxes or maps against the image and resamples them to a layer's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_gradcam.capture.layout import ends_in_channels
from lightning_gradcam.capture.shapes import same_proportions
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.targets.reading import described


def region_of(
    masks: Any, boxes: Any, like: Tensor, sizes: Sequence[tuple[int, ...]], layer: str = ""
) -> tuple[Tensor, Tensor]:
    """Converts masks or boxes to the region of each image where the evidence should be.

    Args:
        masks: Masks, bool ``[N, *P]``, or ``None``.
        boxes: Boxes in pixels, ``[N, 4]``, or ``None``.
        like: A layer's maps ``[N, *S]``, or the inputs.
        sizes: The shapes that a mask may have, which end in the image's height and width; empty if these are unknown.
        layer: The layer's name; ``""`` for the inputs.

    Returns:
        The fraction of each pixel inside the region, 0 to 1, ``[N, *P]``, and which samples have a region, bool
        ``[N]``.

    Raises:
        ConfigurationError: The masks or boxes do not match the samples or their images.
    """
    samples = len(like)
    if (masks is None) == (boxes is None):
        raise ConfigurationError(
            "masks: got both masks and boxes; pass only one"
            if masks is not None
            else "masks: got neither masks nor boxes; pass masks= (bool [N, H, W]; all False for a sample without one) "
            "or boxes= ([N, 4]: left, top, right and bottom in pixels; NaN for a sample without one)"
        )
    if boxes is not None:
        return _of_boxes(boxes, samples, sizes, like)
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.dim() < 2:
        raise ConfigurationError(f"masks: got {described(masks)}; pass a bool tensor [N, H, W], such as mask > 0.5")
    if len(masks) != samples:
        raise ConfigurationError(
            f"masks: got {len(masks)} for {samples} samples; pass one for each, all False for a sample without one"
        )
    shape = tuple(masks.shape[1:])
    if sizes and shape not in sizes:
        raise ConfigurationError(
            f"masks: got shape {list(masks.shape)} for images of "
            f"{' or '.join('x'.join(map(str, p)) for p in sizes)}; pass "
            "bool masks at the images' own size, cropped and resized like the images"
        )
    if not sizes and len(shape) > 1 and not same_proportions(like.shape[1:], shape):
        raise ConfigurationError(
            f"masks: got shape {list(masks.shape)}, whose proportions differ from those of the maps "
            f"{list(like.shape)} at {layer!r}; pass masks at the size of the model's images"
        )
    # One mask applies to all slices.
    if layer and not 0 <= like.dim() - masks.dim() <= (like.dim() == 4):
        raise ConfigurationError(
            f"masks: got shape {list(masks.shape)} for maps {list(like.shape)} of {layer!r}; pass"
            f" {'[N, L]' if like.dim() == 2 else '[N, H, W]'}"
        )
    own = masks.to(like.device)
    return own.to(like.dtype), own.flatten(1).any(dim=1)


def on_grid(values: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Resamples pixels to a map's grid, so that sums over the map equal sums over the bilinearly resized map.

    Args:
        values: The value of each pixel ``[N, *P]``; with one spatial axis fewer than the map, all slices share them.
        grid: The map's shape ``S``.

    Returns:
        The weight of each position, ``[N, *S]``, and its weight if all pixels were 1, ``[*S]``.

    Example:
        >>> marked, whole = on_grid(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), (1, 2))
        >>> marked, whole
        (tensor([[[1.7500, 0.2500]]]), tensor([[2., 2.]]))
    """
    shape, own = values.shape[1:], tuple(grid[-(values.dim() - 1) :])
    whole = values.new_ones(own)
    for axis, (pixels, places) in enumerate(zip(shape, own, strict=True)):
        # Each row contains a position's contribution to every pixel.
        shares = functional.interpolate(
            torch.eye(places, dtype=values.dtype, device=values.device)[None], pixels, mode="linear"
        )[0]
        values = torch.tensordot(values, shares, dims=([1], [1]))
        whole = whole * shares.sum(dim=1).reshape(-1, *[1] * (len(own) - 1 - axis))
    if len(own) < len(grid):
        values, whole = values[:, None].expand(-1, *grid), whole.expand(*grid)
    return values, whole


def over_axes(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Adds an axis of size 1 to pixels ``[N, *P]`` for each axis of the input ``[N, …]`` that they lack.

    Example:
        >>> over_axes(torch.zeros(2, 8, 9), (2, 3, 8, 9)).shape, over_axes(torch.zeros(2, 8, 9), (2, 8, 9, 3)).shape
        (torch.Size([2, 1, 8, 9]), torch.Size([2, 8, 9, 1]))
    """
    left, found = list(values.shape[1:]), list[int]()
    # Start at the last axis: channels come last only if the image's own shape shows it.
    last = ends_in_channels(shape)
    for place in reversed(range(1, len(shape))):
        takes = left and left[-1] == shape[place] and not (last and place == len(shape) - 1)
        found.insert(0, left.pop() if takes else 1)
    return values.reshape(len(values), *found)


def maps_on(given: Any, maps: Tensor, layer: str) -> Tensor:
    """Resizes reference maps to the size of a layer's maps: enlarges them bilinearly, or averages finer ones.

    Args:
        given: The reference maps, ``[N, *P]``.
        maps: The layer's maps, ``[N, *S]``.
        layer: The layer's name.

    Raises:
        ConfigurationError: The reference maps are not floating-point, or their shape does not match.
    """
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.dim() != maps.dim():
        raise ConfigurationError(
            f"maps: got {described(given)}; pass floating-point maps [N, h, w] for {layer!r}, whose own maps are"
            f" {list(maps.shape)} (NaN for a sample without a map), or a dict of maps by layer"
        )
    if len(given) != len(maps):
        raise ConfigurationError(f"maps: got {len(given)} for {len(maps)} samples; pass one for each, NaN for none")
    shape, own = given.shape[1:], maps.shape[1:]
    if len(own) > 1 and not same_proportions(own, shape) and not same_proportions(shape, own):
        raise ConfigurationError(
            f"maps: got shape {list(given.shape)}, whose proportions differ from those of the maps "
            f"{list(maps.shape)} at {layer!r}; pass maps computed for the same images"
        )
    others = given.detach().to(maps)
    if shape == own:
        return others
    if any(size > wanted for size, wanted in zip(shape, own, strict=True)):
        pooled: Tensor = getattr(functional, f"adaptive_avg_pool{len(own)}d")(others[:, None], tuple(own))
        return pooled[:, 0]
    mode = ("linear", "bilinear", "trilinear")[len(own) - 1]
    return functional.interpolate(others[:, None], tuple(own), mode=mode)[:, 0]


def _of_boxes(boxes: Any, samples: int, sizes: Sequence[tuple[int, ...]], like: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(boxes, Tensor) or tuple(boxes.shape) != (samples, 4):
        raise ConfigurationError(
            f"boxes: got {described(boxes)} for {samples} samples; pass a tensor [N, 4] of left, top, right and bottom"
            " in pixels, NaN for a sample without one"
        )
    if not sizes or len(sizes[0]) < 2:
        raise ConfigurationError(
            "boxes: the image's height and width are not known, because the watched module itself was not called with "
            "an image; call model(x) inside watching(model), pass inputs=x, or pass masks="
        )
    own = boxes.to(like)
    known = own.isfinite().all(dim=1) & (own[:, 2] > own[:, 0]) & (own[:, 3] > own[:, 1])
    own = torch.where(known[:, None], own, 0)
    height, width = sizes[0][-2:]
    down, across = (_covered(own[:, [k, k + 2]], size) for k, size in ((1, height), (0, width)))
    return down[:, :, None] * across[:, None], known


def _covered(edges: Tensor, size: int) -> Tensor:
    """Returns the fraction of each pixel ``[N, size]`` between two edges ``[N, 2]``."""
    left = torch.arange(size, dtype=edges.dtype, device=edges.device)
    return (torch.minimum(left + 1, edges[:, 1:]) - torch.maximum(left, edges[:, :1])).clamp(min=0)
