"""What hidden pixels become: a blurred picture, a plain colour, or what their neighbours suggest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.targets.reading import described

# RISE's, for photographs of 224 by 224.
_BLUR_SIZE, _BLUR_SIGMA = 11, 5.0
# Largest residual of the linear system, relative to its right side.
_PRECISION = 1e-8


def impute(pictures: Tensor, removed: Tensor, *, noise: float = 0.01, seed: int = 0) -> Tensor:
    """Fills in removed pixels by ROAD's noisy linear imputation.

    Each becomes the mean of its up to eight neighbours, removed ones included: a direct neighbour weighs 1/6, a
    diagonal one 1/12, what is outside the picture nothing. That is one sparse, symmetric and positive definite
    linear system a picture and channel, solved by conjugate gradients in float64.

    Args:
        pictures: ``[N, C, H, W]``.
        removed: bool ``[N, H, W]``; at least one pixel of each picture stays.
        noise: Standard deviation of the Gaussian noise that is added to what was filled in, in the pictures' units.
        seed: Of the noise; it is the same for every picture, so that a result does not depend on the batch.

    Returns:
        The pictures, with the removed pixels filled in.

    Raises:
        ConfigurationError: A shape or type is another one, or nothing stays of a picture.

    Example:
        >>> impute(torch.tensor([[[[1.0, 9.0, 3.0]]]]), torch.tensor([[[False, True, False]]]), noise=0)
        tensor([[[[1., 2., 3.]]]])
    """
    pictures = checked_pictures("pictures", pictures)
    size = (len(pictures), *pictures.shape[2:])
    if not isinstance(removed, Tensor) or removed.dtype != torch.bool or removed.shape != size:
        raise ConfigurationError(f"removed: got {described(removed)}; give bool {list(size)}, True where removed")
    if bool(removed.flatten(1).all(dim=1).any()):
        raise ConfigurationError("removed: got a picture with every pixel removed; keep at least one pixel")
    # Apple's accelerators have no float64.
    on = torch.device("cpu") if pictures.device.type == "mps" else pictures.device
    filled = _solved(pictures.to(on, torch.float64), removed.to(on)[:, None]).to(pictures)
    grain = torch.randn(pictures.shape[1:], generator=torch.Generator().manual_seed(seed)).to(pictures)
    return torch.where(removed[:, None], filled + noise * grain, pictures)


def baseline_of(pictures: Tensor, baseline: str | Tensor) -> Tensor:
    """Returns what each picture is without its information.

    Args:
        pictures: ``[N, C, H, W]``.
        baseline: ``"zeros"``, ``"mean"`` (each channel's mean over the picture), ``"blurred"`` (a Gaussian of 11 by 11
            pixels, sigma 5, as RISE's; the border is repeated, where RISE pads with zeros and so darkens it), or a
            tensor that broadcasts to the pictures.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        ConfigurationError: It is anything else, or does not broadcast.

    Example:
        >>> baseline_of(torch.tensor([[[[1.0, 3.0]]]]), "mean")
        tensor([[[[2., 2.]]]])
    """
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(pictures).expand_as(pictures)
        except RuntimeError:
            shapes = f"{list(baseline.shape)} for pictures {list(pictures.shape)}"
            raise ConfigurationError(f"baseline: got shape {shapes}; give one that broadcasts to them") from None
    if baseline == "zeros":
        return torch.zeros_like(pictures)
    if baseline == "mean":
        return pictures.mean(dim=(2, 3), keepdim=True).expand_as(pictures)
    if baseline == "blurred":
        return _blurred(pictures)
    raise ConfigurationError(f"baseline: got {baseline!r}; valid: 'zeros', 'mean', 'blurred' and a tensor")


def checked_pictures(argument: str, pictures: Tensor) -> Tensor:
    """Returns the pictures, detached.

    Raises:
        ConfigurationError: They are not a floating-point tensor ``[N, C, H, W]``.
    """
    if not isinstance(pictures, Tensor) or pictures.dim() != 4 or not pictures.is_floating_point():
        raise ConfigurationError(f"{argument}: got {described(pictures)}; give floating-point pictures [N, C, H, W]")
    return pictures.detach()


def _blurred(pictures: Tensor) -> Tensor:
    reach = _BLUR_SIZE // 2
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / _BLUR_SIGMA) ** 2).to(pictures)
    bell = bell / bell.sum()
    rows = F.pad(pictures, (reach, reach, reach, reach), mode="replicate").unfold(2, _BLUR_SIZE, 1) @ bell
    return rows.unfold(3, _BLUR_SIZE, 1) @ bell


def _solved(pictures: Tensor, removed: Tensor) -> Tensor:
    hole = removed.to(pictures.dtype)
    weight = _neighbours(torch.ones_like(pictures[:1, :1]))
    residual = _neighbours(pictures.masked_fill(removed, 0)) * hole
    solution, direction, square = torch.zeros_like(residual), residual, _dot(residual, residual)
    enough = _PRECISION**2 * square
    # In exact arithmetic it has ended after as many steps as there are unknowns.
    for _ in range(removed.shape[1:].numel()):
        # Those that have arrived rest, so that they end the same in any batch.
        going = square > enough
        if not bool(going.any()):
            break
        image = (weight * direction - _neighbours(direction)) * hole
        length = (square / _dot(direction, image)).where(going, 0)
        solution, residual = solution + length * direction, residual - length * image
        before, square = square, _dot(residual, residual)
        direction = residual + (square / before).where(going, 0) * direction
    return solution


def _neighbours(values: Tensor) -> Tensor:
    # The weights are 1-2-1 across times 1-2-1 down, less the middle; in place, since most of the time goes here.
    padded = F.pad(values, (1, 1, 1, 1))
    rows = (padded[..., :-2, :] + padded[..., 2:, :]).add_(padded[..., 1:-1, :], alpha=2)
    return (rows[..., :-2] + rows[..., 2:]).add_(rows[..., 1:-1], alpha=2).sub_(values, alpha=4).div_(12)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)
