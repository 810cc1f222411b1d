"""Maps that rounding alone has made: mathematically zero, and in full colours on any scale of their own."""

from __future__ import annotations

import torch
from torch import Tensor

# How many times the precision of a number, relative to the sum of magnitudes that cancel in it, is still rounding.
_ROUNDING = 16
# A map that is so many times larger than that, by the gradient at a few dozen places, is not judged any closer.
_SURE, _FEW = 1000, 49


def rounding(method: str, maps: Tensor, features: Tensor, slopes: Tensor) -> Tensor | None:
    """Finds maps of which every place is smaller than the rounding errors of what was summed up there.

    A norm over places behind the layer removes what is the same at all of them, so that the gradient's mean is zero;
    one over channels removes each place's own scale, so that HiResCAM is. Gradients of any size are judged alike.

    Args:
        method: Its name; only ``"gradcam"`` and ``"hirescam"`` are judged.
        maps: Signed ``[R, *S]``.
        features: The layer's activation ``[R, C, *S]``.
        slopes: The gradient with respect to it, of the same shape.

    Returns:
        bool ``[R]``; ``None`` if the method is not judged or, on the CPU, no map is rounding.

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
        # Nearly all maps end here, after a look at a part of the gradient.
        about = (own * g[:, :, :: max(1, g.shape[2] // _FEW)].abs().mean(dim=2)).abs().sum(dim=1)
        if ((largest == 0) | ((about > 0) & (largest > _SURE * least * about))).numpy().all():
            return None
    # Of the gradient's mean, each part.
    shares = g.abs().sum(dim=2) / g.shape[2] if method == "gradcam" else None
    there = own * (g.gather(2, at)[:, :, 0] if shares is None else shares)
    # Not a number is no less than anything.
    found = (largest > 0) & (largest <= least * there.abs().sum(dim=1))
    if found.device.type == "cpu":
        # To look costs nothing here. Of another device the host would wait: there, all maps are judged.
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
