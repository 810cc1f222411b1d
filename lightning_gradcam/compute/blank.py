"""Determines why maps are blank, or only rounding error, from the activation and its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from lightning_gradcam.methods import Method
from lightning_gradcam.record.blank import HIRESCAM, Cause, blank_remarks
from lightning_gradcam.record.cams import CamKey, Cams
from lightning_gradcam.record.not_finite import not_finite_remark

# For Grad-CAM's weights: the share of the gradient's magnitude that remains in its mean over positions. It is 1 if the
# gradient has one sign in each channel, and about 1 / sqrt(S) if it varies freely over S positions.
_CANCELLED_BELOW = 0.5


def causes_of(
    maps: Mapping[CamKey, Tensor],
    features: Tensor,
    slopes: Tensor,
    constant: Tensor | None = None,
    noise: Mapping[CamKey, Tensor] | None = None,
    zero: Tensor | None = None,
) -> dict[CamKey, Tensor]:
    """Determines why maps are blank. On the CPU, a map that is not blank costs only one maximum.

    Args:
        maps: Signed maps ``[N, *S]`` of one layer, by key.
        features: The layer's activation ``[N, C, *S]``.
        slopes: The gradient with respect to it, of the same shape.
        constant: Which scores have no gradient by definition, bool ``[N]``; ``None`` if there are no such scores.
        noise: Which maps were only rounding error and have been set to zero, by key: bool ``[N]``, or ``[N, T]`` for
            frames.
        zero: Which scores are zero because there is nothing to explain, bool ``[N]``; ``None`` if there are none.

    Returns:
        Codes of :class:`~lightning_gradcam.Cause` by key, int8 ``[N]``; on the CPU, keys without a blank map are
        omitted.

    Example:
        >>> key = CamKey("conv", "gradcam", "label")
        >>> found = causes_of({key: torch.tensor([[[-2.0, -4.0]]])}, torch.ones(1, 1, 1, 2), -torch.ones(1, 1, 1, 2))
        >>> Cause(found[key].item()).name
        'NEGATIVE'
    """
    # NaN is not blank: comparisons with it are false.
    blank = torch.stack([values.flatten(1).amax(dim=1) for values in maps.values()]) <= 0
    found = {}
    for key, rows in zip(maps, blank, strict=True):
        chosen: Any = slice(None)
        if rows.device.type == "cpu":
            # On the CPU this check is free. On other devices the host would have to wait, so all maps are examined.
            places = rows.numpy().nonzero()[0]
            if not len(places):
                continue
            chosen = torch.from_numpy(places)
        codes = torch.zeros(len(rows), dtype=torch.int8, device=rows.device)
        codes[chosen] = _codes(key.method, features[chosen].flatten(2), slopes[chosen].flatten(2))
        if noise is not None and key in noise:
            rounded = noise[key].reshape(len(rows), -1).any(dim=1)
            codes = torch.where(rounded, codes // HIRESCAM * HIRESCAM + int(Cause.ROUNDING), codes)
        if constant is not None:
            codes.masked_fill_(constant, int(Cause.AT_LIMIT))
        if zero is not None:
            codes.masked_fill_(zero, int(Cause.NO_SCORE))
        found[key] = codes * rows
    return found


def without_nothing(maps: Tensor, zero: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Blanks the maps of scores with nothing to explain, for methods that run the model again.

    Score-CAM, for instance, weights all channels alike if no channel changes the score, and so returns a map.

    Args:
        maps: Maps ``[N, *S]``.
        zero: As in :func:`causes_of`.

    Returns:
        The maps, and their causes, int8 ``[N]``; ``None`` if all have something to explain (on the CPU; on other
        devices, looking would make the host wait).

    Example:
        >>> found, causes = without_nothing(torch.ones(2, 1, 1), torch.tensor([True, False]))
        >>> found.flatten().tolist(), causes.tolist()
        ([0.0, 1.0], [9, 0])
    """
    if zero is None or (zero.device.type == "cpu" and not bool(zero.any())):
        return maps, None
    return maps.masked_fill(zero.reshape(-1, *[1] * (maps.dim() - 1)), 0), zero.to(torch.int8) * int(Cause.NO_SCORE)


def remarks_of(cams: Cams, methods: Mapping[str, Method]) -> Iterable[str]:
    """Returns warnings: one per layer with blank maps, and one for all maps that are not finite.

    Args:
        cams: The results.
        methods: Methods by name; for gradient methods on the CPU, the causes already show which maps are blank.
    """
    told = {name for name, method in methods.items() if method.needs == "gradients"}
    looked = {key for key, maps in cams.maps.items() if maps.device.type == "cpu" and key.method in told}
    # A sum is not finite if one of its parts is not.
    finite = all(isfinite(float(values.sum())) for values in cams.maps.values())
    if finite and not cams.causes and looked == set(cams.maps):
        return ()
    maps = {key: values.detach().cpu().float().numpy() for key, values in cams.maps.items()}
    blanks = blank_remarks(maps, {key: codes.cpu().numpy() for key, codes in cams.causes.items()}).values()
    scores = {name: values.cpu().float().numpy() for name, values in cams.scores.items()}
    return [*blanks, *filter(None, not_finite_remark(maps, scores)[:1])]


def _codes(method: str, features: Tensor, slopes: Tensor) -> Tensor:
    """Returns the causes, int8 ``[n]``, from activations and gradients ``[n, C, S]`` of blank maps only."""
    activity = features.abs().mean(dim=2)
    codes = torch.full((len(features),), int(Cause.NOWHERE_POSITIVE), dtype=torch.int8, device=features.device)
    if method == "gradcam":
        weights = slopes.mean(dim=2)
        left = (weights.abs() * activity).sum(dim=1)
        whole = (slopes.abs().mean(dim=2) * activity).sum(dim=1)
        codes.fill_(int(Cause.OUTWEIGHED))
        codes.masked_fill_(((weights <= 0) | (activity == 0)).all(dim=1), int(Cause.NEGATIVE))
        codes.masked_fill_(left < _CANCELLED_BELOW * whole, int(Cause.CANCELLED))
    codes.masked_fill_((features == 0).flatten(1).all(dim=1), int(Cause.NO_ACTIVATION))
    codes.masked_fill_((slopes == 0).flatten(1).all(dim=1), int(Cause.NO_GRADIENT))
    if method != "hirescam":
        codes.add_((features * slopes).sum(dim=1).amax(dim=1) > 0, alpha=HIRESCAM)
    return codes


# Up to this multiple of the precision, relative to the sum of cancelling magnitudes, a number is rounding error.
_ROUNDING = 16
# A map larger than this multiple of that limit, estimated at a few dozen positions, is not examined further.
_SURE, _FEW = 1000, 49


def rounding(method: str, maps: Tensor, features: Tensor, slopes: Tensor) -> Tensor | None:
    """Finds maps that are below the rounding error of their summation at every position.

    A norm over positions after the layer removes any constant component, so the gradient's mean is zero; a norm over
    channels removes each position's scale, so HiResCAM is zero. The test does not depend on the gradients' scale.

    Args:
        method: The method's name; only ``"gradcam"`` and ``"hirescam"`` are tested.
        maps: Signed maps ``[R, *S]``.
        features: The layer's activation ``[R, C, *S]``.
        slopes: The gradient with respect to it, of the same shape.

    Returns:
        Whether each map is only rounding error, bool ``[R]``; ``None`` if the method is not tested or, on the CPU, no
        map is rounding error.

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
    # For the mean gradient, the mean magnitude of its terms.
    weights = g if method == "hirescam" else (g.abs().sum(dim=2) / g.shape[2])[:, :, None]
    there = own * (g.gather(2, at) if method == "hirescam" else weights)[:, :, 0]
    # Comparisons with NaN are false.
    found = (largest > 0) & (largest <= least * there.abs().sum(dim=1))
    rows: Any = slice(None)
    if found.device.type == "cpu":
        # On the CPU this check is free. On other devices the host would have to wait, so all maps are tested.
        places = found.numpy().nonzero()[0]
        if not len(places):
            return None
        rows = torch.from_numpy(places)
    found[rows] &= (sizes[rows] <= least * (a[rows] * weights[rows]).abs().sum(dim=1)).all(dim=1)
    return found
