"""Metrics that compare maps with masks, without the model.

Throughout, :math:`M` is a map ``[h, w]`` after its ReLU, resized bilinearly (corners not aligned) to the mask's size
``[H, W]``, :math:`s` is one of its pixels and :math:`B` is the mask's set of pixels. A mask marks the evidence that a
person would use; a model that rightly looks elsewhere scores low. Compare with the method ``random`` and with the
mask's share of the image.

:func:`energy_inside` and :func:`pointing_game` accept torch tensors. :func:`inside` and :func:`points_inside` compute
the same formulas with NumPy, and also accept clips and volumes, where one mask applies to all slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats.numbers import Maps, Numbers, check_arrays
from lightning_gradcam.targets.reading import described


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    r"""Returns the share of a map's positive values inside the mask: :math:`\sum_{s \in B} M_s / \sum_s M_s`.

    This is the energy-based pointing game of Wang et al., "Score-CAM: Score-Weighted Visual Explanations for
    Convolutional Neural Networks", CVPR 2020 workshops, who use a bounding box as the mask.

    Args:
        maps: The maps, ``[N, h, w]``, at the layer's resolution; only positive values count.
        masks: The masks, bool ``[N, H, W]``.

    Returns:
        ``[N]``, 0 to 1; 1 if the whole map is inside. Chance level is the mask's share of the image, which is the value
        for a constant map. NaN if the map has no positive value or is not finite, or if the mask is empty; ``nanmean``
        ignores NaN.

    Raises:
        ConfigurationError: A shape or type is wrong.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> energy_inside(torch.tensor([[[3.0, 1.0], [0.0, -5.0]]]), mask)
        tensor([0.7500])
    """
    maps, masks = _checked(maps, masks)
    return torch.from_numpy(inside(maps.cpu().numpy(), masks.cpu().numpy())).to(maps)


def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: float = 0) -> Tensor:
    r"""Returns whether a map's peak is inside the mask: :math:`\min_{s \in B} \| s - \arg\max_t M_t \| \le` tolerance.

    Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018. They report the hit rate per class,
    averaged over classes, with a tolerance of 15 pixels on photographs.

    Args:
        maps: The maps, ``[N, h, w]``, at the layer's resolution.
        masks: The masks, bool ``[N, H, W]``.
        tolerance: Maximum distance from the mask, in pixels of the mask. Default: 0.

    Returns:
        bool ``[N]``. Chance level is the mask's share of the image (with a tolerance, that of the widened mask). In a
        tie, the first maximum in reading order counts. It is a miss if the map has no positive value or is not finite,
        or if the mask is empty.

    Raises:
        ConfigurationError: A shape or type is wrong, or the tolerance is negative.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]]).expand(2, -1, -1)
        >>> pointing_game(torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 3.0], [0.0, 0.0]]]), mask)
        tensor([ True, False])
    """
    maps, masks = _checked(maps, masks)
    return torch.from_numpy(points_inside(maps.cpu().numpy(), masks.cpu().numpy(), tolerance=tolerance)).to(maps) == 1


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes maps bilinearly with corners not aligned, as the metrics in this module do.

    Drawing does the same unless a map is finer than the image.

    Args:
        maps: Signed or non-negative maps, ``[N, h, w]``.
        size: Height and width.

    Returns:
        ``[N, *size]``, in float64 if the maps are, else in float32.

    Raises:
        ConfigurationError: The maps are not a floating-point tensor ``[N, h, w]``.

    Example:
        >>> upsampled(torch.tensor([[[0.0, 4.0]]]), (1, 4))
        tensor([[[0., 1., 3., 4.]]])
    """
    maps = _floating(maps)
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _floating(maps: Tensor) -> Tensor:
    if not isinstance(maps, Tensor) or maps.dim() != 3 or not maps.is_floating_point() or 0 in maps.shape[1:]:
        raise ConfigurationError(
            f"maps: got {described(maps)}; pass floating-point maps [N, h, w], such as those of compute_cams; for 3-D "
            "maps [N, d, h, w], pass one slice at a time"
        )
    return maps.detach() if maps.dtype == torch.float64 else maps.detach().float()


def _checked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(masks, Tensor) or masks.dim() != 3 or masks.dtype != torch.bool:
        raise ConfigurationError(f"masks: got {described(masks)}; pass a bool tensor [N, H, W], such as mask > 0.5")
    return _floating(maps), masks


Masks = npt.NDArray[np.bool_]


def inside(maps: Maps, masks: Masks) -> Numbers:
    """Returns the share of a map's positive values inside its mask, as :func:`~lightning_gradcam.energy_inside` does.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``; slices are summed.
        masks: The masks, bool ``[N, H, W]``.

    Returns:
        ``[N]``, 0 to 1. NaN if the resized map has no positive value or is not finite, or if the mask is empty.

    Raises:
        ConfigurationError: A shape or type is wrong.

    Example:
        >>> inside(np.array([[[3.0, 1.0], [0.0, -5.0]]]), np.array([[[True, False], [False, False]]])).tolist()
        [0.75]
    """
    _check(maps, masks)
    found = np.full(len(maps), np.nan)
    for row, values in _shown(maps, masks):
        # Resizing is linear, so resize the sum instead of each slice.
        energy = interpolated(values.sum(axis=0), masks.shape[1:])
        total = energy.sum()
        if total > 0:
            # Sum in the same order as for the total: rounding must not push the share above 1, or a full share below 1.
            energy *= masks[row]
            found[row] = energy.sum() / total
    return found


def points_inside(maps: Maps, masks: Masks, *, tolerance: float = 0) -> Numbers:
    """Returns whether a map's maximum is inside its mask, as :func:`~lightning_gradcam.pointing_game` does.

    Args:
        maps: The maps, ``[N, h, w]`` or ``[N, d, h, w]``; the largest value over all slices counts.
        masks: The masks, bool ``[N, H, W]``.
        tolerance: Maximum distance from the mask, in pixels of the mask. Default: 0.

    Returns:
        ``[N]``: 1 for a hit, 0 for a miss, including maps without a positive value. NaN if the map is not finite or the
        mask is empty. In a tie, the first maximum in reading order counts.

    Raises:
        ConfigurationError: A shape or type is wrong, or the tolerance is negative.

    Example:
        >>> masks = np.array([[[True, False]]]).repeat(2, axis=0)
        >>> points_inside(np.array([[[3.0, 1.0]], [[1.0, 3.0]]]), masks).tolist()
        [1.0, 0.0]
    """
    if not tolerance >= 0:
        raise ConfigurationError(f"tolerance: got {tolerance!r}; pass a distance in pixels, 0 or more")
    _check(maps, masks)
    found = np.full(len(maps), np.nan)
    for row, values in _shown(maps, masks):
        top = interpolated(values, masks.shape[1:]).max(axis=0)
        down, across = np.unravel_index(top.argmax(), top.shape)
        hit = bool(masks[row][down, across])
        if not hit and tolerance > 0:
            rows, columns = np.nonzero(masks[row])
            hit = np.sqrt(((rows - down) ** 2 + (columns - across) ** 2).min()) <= tolerance
        found[row] = top[down, across] > 0 and hit
    return found


def interpolated(values: Numbers, size: tuple[int, ...]) -> Numbers:
    """Resizes bilinearly with corners not aligned, with the same results as ``torch.nn.functional.interpolate``.

    Unlike :func:`lightning_gradcam.stats.resize.resized`, this does not average if a map is finer than the image.
    Mathematically equal values stay exactly equal, so the first of several equal maxima can be found.

    Args:
        values: The maps, ``[..., h, w]``.
        size: Height and width, ``(H, W)``.

    Returns:
        ``[..., H, W]``.
    """
    below, above, near, far = _taps(values.shape[-2], size[0])
    rows = values[..., below, :] * near[:, None] + values[..., above, :] * far[:, None]
    below, above, near, far = _taps(values.shape[-1], size[1])
    found = np.asarray(rows[..., below])
    found *= near
    beside = rows[..., above]
    beside *= far
    found += beside
    return found


def _taps(source: int, target: int) -> tuple[Any, Any, Numbers, Numbers]:
    """Returns the two source indices around each target index, with their weights."""
    # In integers: the centre of pixel i is at (i + 1/2) * source / target - 1/2.
    below, rest = np.divmod(np.maximum((2 * np.arange(target) + 1) * source - target, 0), 2 * target)
    # The smaller weight is exactly 1 minus the larger, so mirrored pixels get mirrored weights.
    larger = np.maximum(rest, 2 * target - rest) / (2 * target)
    swapped = rest > target
    near, far = np.where(swapped, 1 - larger, larger), np.where(swapped, larger, 1 - larger)
    return below, np.minimum(below + 1, source - 1), near, far


def _check(maps: Maps, masks: Masks) -> None:
    check_arrays(maps)
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype != np.bool_ or 0 in masks.shape[1:]:
        came = f"{list(masks.shape)} of {masks.dtype}" if isinstance(masks, np.ndarray) else type(masks).__name__
        raise ConfigurationError(f"masks: got {came}; pass a bool array [N, H, W], such as mask > 0.5")
    if len(maps) != len(masks):
        raise ConfigurationError(f"masks: got {len(masks)} for {len(maps)} maps; pass one mask for each map")


def _shown(maps: Maps, masks: Masks) -> Iterator[tuple[int, Numbers]]:
    """Yields the index of each probe with a mask and a finite map, and its map divided by its maximum, ``[d, h, w]``.

    One probe at a time, because the maps may be resized to many large images.
    """
    for row, signed in enumerate(maps):
        if masks[row].any() and np.isfinite(signed).all():
            values = np.maximum(signed, 0).astype(np.float64).reshape(-1, *maps.shape[-2:])
            yield row, values / (values.max() or 1)
