"""Detects maps that are only rounding error: mathematically zero, yet in full colour on their own scale."""

from __future__ import annotations

import torch
from torch import Tensor

# Up to this multiple of the precision, relative to the sum of cancelling magnitudes, a number is rounding error.
_ROUNDING = 16
# A map larger than this multiple of that limit, estimated at a few dozen positions, is not examined further.
_SURE, _FEW = 1000, 49


def rounding(method: str, maps: Tensor, features: Tensor, slopes: Tensor) -> Tensor | None:
    """Finds maps that are smaller than their summation's rounding error at every position.

    A norm over positions after the layer removes any constant component, so the gradient's mean is zero; a norm over
    channels removes each position's scale, so HiResCAM is zero. The test is independent of the gradients' size.

    Args:
        method: The method's name; only ``"gradcam"`` and ``"hirescam"`` are tested.
        maps: Signed maps ``[R, *S]``.
        features: The layer's activation ``[R, C, *S]``.
        slopes: The gradient with respect to it, of the same shape.

    Returns:
        bool ``[R]``; ``None`` if the method is not tested or, on the CPU, no map is rounding error.

    Example:
        >>> noise = 1e-9 * torch.ones(1, 1, 2)
        >>> rounding("gradcam", noise, torch.ones(1, 1, 1, 2), torch.tensor([[[[1.0, -1.0]]]]))
        tensor([True])
        >>> rounding("gradcam", noise, torch.ones(1, 1, 1, 2), 1e-9 * torch.ones(1, 1, 1, 2)) is None
        True
    """
    if method not in ("gradcam", "hirescam"):
        return None
    a, g, sizes = features.flatten(2), slopes.flatten(2), maps.flatten(1).abs()
    least = _ROUNDING * torch.finfo(maps.dtype).eps
    largest, place = sizes.max(dim=1)
    at = place[:, None, None].expand(-1, a.shape[1], 1)
    own = a.gather(2, at)[:, :, 0]
    if method == "gradcam" and maps.device.type == "cpu":
        # Nearly all maps are cleared here, using only a part of the gradient.
        about = (own * g[:, :, :: max(1, g.shape[2] // _FEW)].abs().mean(dim=2)).abs().sum(dim=1)
        if ((largest == 0) | ((about > 0) & (largest > _SURE * least * about))).numpy().all():
            return None
    # Each term of the gradient's mean.
    shares = g.abs().sum(dim=2) / g.shape[2] if method == "gradcam" else None
    there = own * (g.gather(2, at)[:, :, 0] if shares is None else shares)
    # Comparisons with NaN are false.
    found = (largest > 0) & (largest <= least * there.abs().sum(dim=1))
    if found.device.type == "cpu":
        # On the CPU this check is free. For another device the host would wait, so there all maps are tested.
        places = found.numpy().nonzero()[0]
        if not len(places):
            return None
        rows = torch.from_numpy(places)
        a, g, sizes, shares = a[rows], g[rows], sizes[rows], None if shares is None else shares[rows]
        found[rows] = _everywhere(sizes, a, g if shares is None else shares[:, :, None], least)
        return found
    return found & _everywhere(sizes, a, g if shares is None else shares[:, :, None], least)


def _everywhere(sizes: Tensor, features: Tensor, weights: Tensor, least: float) -> Tensor:
    return (sizes <= least * (features * weights).abs().sum(dim=1)).all(dim=1)
