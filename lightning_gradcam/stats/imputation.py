"""Replacements for hidden pixels: a blurred image, a uniform colour, or imputation from neighbouring pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.targets.reading import described

# RISE's values, for photographs of 224 by 224 pixels.
_BLUR_SIZE, _BLUR_SIGMA = 11, 5.0
# The highest precision that float32 can reach.
_SINGLE = 1e-6


def impute(pictures: Tensor, removed: Tensor, *, noise: float = 0.01, seed: int = 0, precision: float = 1e-8) -> Tensor:
    """Fills in removed pixels with ROAD's noisy linear imputation.

    Each removed pixel becomes the weighted mean of its up to eight neighbours, including removed ones: a direct
    neighbour has weight 1/6, a diagonal one 1/12, and a pixel outside the image 0. This defines one sparse, symmetric
    and positive definite linear system per image and channel, solved by conjugate gradients with a multigrid
    preconditioner.

    Args:
        pictures: The images, ``[N, C, H, W]``.
        removed: Flags for removed pixels, bool ``[N, H, W]``; at least one pixel in each image must remain.
        noise: Standard deviation of the Gaussian noise added to filled-in pixels, in the images' units. Default: 0.01.
        seed: Random seed for the noise. The noise is the same for every image, so results do not depend on the batch.
        precision: Norm of the system's residual relative to that of its right-hand side. Default: 1e-8, computed in
            float64. With 1e-5, computed in float32 in a third of the time, no pixel of a photograph deviates by more
            than 1e-4 of the image's range, a hundredth of the usual noise.

    Returns:
        The images with removed pixels filled in.

    Raises:
        ConfigurationError: A shape or type is wrong, or all pixels of an image are removed.

    Example:
        >>> impute(torch.tensor([[[[1.0, 9.0, 3.0]]]]), torch.tensor([[[False, True, False]]]), noise=0)
        tensor([[[[1., 2., 3.]]]])
    """
    pictures = checked_pictures("pictures", pictures)
    size = (len(pictures), *pictures.shape[2:])
    if not isinstance(removed, Tensor) or removed.dtype != torch.bool or removed.shape != size:
        raise ConfigurationError(f"removed: got {described(removed)}; pass bool {list(size)}, True at removed pixels")
    if bool(removed.flatten(1).all(dim=1).any()):
        raise ConfigurationError("removed: got an image with every pixel removed; keep at least one pixel")
    dtype = torch.float64 if precision < _SINGLE or pictures.dtype == torch.float64 else torch.float32
    # Apple's GPUs have no float64.
    on = torch.device("cpu") if pictures.device.type == "mps" else pictures.device
    filled = _solved(pictures.to(on, dtype), removed.to(on)[:, None], precision).to(pictures)
    grain = torch.randn(pictures.shape[1:], generator=torch.Generator().manual_seed(seed), device="cpu").to(pictures)
    return torch.where(removed[:, None], filled + noise * grain, pictures)


def baseline_of(pictures: Tensor, baseline: str | Tensor) -> Tensor:
    """Returns an uninformative replacement for each image.

    Args:
        pictures: The images, ``[N, C, H, W]``.
        baseline: ``"zeros"``, ``"mean"`` (each channel's mean over the image), ``"blurred"`` (a Gaussian of 11 by 11
            pixels with sigma 5 as in RISE, but with a replicated border, because RISE's zero padding darkens it), or a
            tensor that broadcasts to the images.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        ConfigurationError: The baseline is anything else or does not broadcast.

    Example:
        >>> baseline_of(torch.tensor([[[[1.0, 3.0]]]]), "mean")
        tensor([[[[2., 2.]]]])
    """
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(pictures).expand_as(pictures)
        except RuntimeError:
            shapes = f"{list(baseline.shape)} for images {list(pictures.shape)}"
            raise ConfigurationError(f"baseline: got shape {shapes}; pass one that broadcasts to the images") from None
    if baseline == "zeros":
        return torch.zeros_like(pictures)
    if baseline == "mean":
        return pictures.mean(dim=(2, 3), keepdim=True).expand_as(pictures)
    if baseline == "blurred":
        return _blurred(pictures)
    raise ConfigurationError(f"baseline: got {baseline!r}; valid: 'zeros', 'mean', 'blurred', or a tensor")


def checked_pictures(argument: str, pictures: Tensor) -> Tensor:
    """Returns the images, detached.

    Raises:
        ConfigurationError: The images are not a floating-point tensor ``[N, C, H, W]``.
    """
    if not isinstance(pictures, Tensor) or pictures.dim() != 4 or not pictures.is_floating_point():
        raise ConfigurationError(f"{argument}: got {described(pictures)}; pass floating-point images [N, C, H, W]")
    return pictures.detach()


def _blurred(pictures: Tensor) -> Tensor:
    reach = _BLUR_SIZE // 2
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device="cpu") / _BLUR_SIGMA) ** 2).to(pictures)
    bell = bell / bell.sum()
    rows = F.pad(pictures, (reach, reach, reach, reach), mode="replicate").unfold(2, _BLUR_SIZE, 1) @ bell
    return rows.unfold(3, _BLUR_SIZE, 1) @ bell


def _solved(pictures: Tensor, removed: Tensor, precision: float) -> Tensor:
    """Returns the solution of each image's system, 0 where nothing was removed.

    Uses conjugate gradients preconditioned with one multigrid V-cycle, which needs about ten steps instead of hundreds.
    """
    grids = _grids(removed.to(pictures.dtype))
    weight, hole = grids[0]
    residual = _neighbours(pictures.masked_fill(removed, 0)) * hole
    solution, enough = torch.zeros_like(residual), precision**2 * _dot(residual, residual)
    direction = better = _cycle(grids, residual)
    square = _dot(residual, better)
    # In exact arithmetic, the number of steps is at most the number of unknowns.
    for _ in range(removed.shape[1:].numel()):
        # Stop updating converged images: their result must not depend on the batch.
        going = _dot(residual, residual) > enough
        if not bool(going.any()):
            break
        image = (weight * direction - _neighbours(direction)) * hole
        length = (square / _dot(direction, image)).where(going, 0)
        solution, residual = solution + length * direction, residual - length * image
        better = _cycle(grids, residual)
        before, square = square, _dot(residual, better)
        direction = better + (square / before).where(going, 0) * direction
    return solution


def _grids(hole: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Returns each grid's weights and hole, from the image's grid to the coarsest; holes consist of whole cells."""
    grids = []
    while True:
        grids.append((_neighbours(torch.ones_like(hole[:1])).clamp_min(1e-30), hole))
        coarser = (F.avg_pool2d(hole, 2, ceil_mode=True, count_include_pad=False) == 1).to(hole.dtype)
        if max(hole.shape[2:]) <= 2 or not bool(coarser.any()):
            return grids
        hole = coarser


def _cycle(grids: list[tuple[Tensor, Tensor]], residual: Tensor) -> Tensor:
    """Runs one V-cycle from 0, with one Jacobi step before and one after; conjugate gradients require this symmetry.

    A Jacobi step with this stencil divides the rough part of the error by three; the coarser grids, with the same
    stencil, handle the rest.
    """
    weight, hole = grids[0]
    found = residual / weight
    if len(grids) > 1:
        rest = (residual - weight * found + _neighbours(found)) * hole
        coarser = F.avg_pool2d(rest, 2, ceil_mode=True, divisor_override=1) * grids[1][1]
        up = F.interpolate(_cycle(grids[1:], coarser), scale_factor=2.0, mode="nearest")
        found = found + up[..., : hole.shape[2], : hole.shape[3]] * hole
    return found + (residual - weight * found + _neighbours(found)) * hole / weight


def _neighbours(values: Tensor) -> Tensor:
    # The weights are 1-2-1 across times 1-2-1 down, minus the centre. In place, because this takes most of the time.
    padded = F.pad(values, (1, 1, 1, 1))
    rows = (padded[..., :-2, :] + padded[..., 2:, :]).add_(padded[..., 1:-1, :], alpha=2)
    return (rows[..., :-2] + rows[..., 2:]).add_(rows[..., 1:-1], alpha=2).sub_(values, alpha=4).div_(12)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)
