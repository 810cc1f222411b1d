r"""Numbers from maps alone, without the model: whether a map points at what a mask marks.

Throughout, :math:`M` is a map ``[h, w]`` after its ReLU, resized bilinearly (corners not aligned) to the mask's
``[H, W]``, :math:`s` a pixel of it and :math:`B` the mask's pixels. A mask marks what should tell a class to a person;
a model that rightly looks elsewhere scores low. Compare with the method ``random`` and with the mask's share of
the picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats.inside import inside, points_inside
from lightning_gradcam.stats.numbers import Numbers
from lightning_gradcam.targets.base import described


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    r"""Share of a map's positive values inside the mask: :math:`\sum_{s \in B} M_s / \sum_s M_s`.

    Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR 2020 workshops:
    their energy-based pointing game, which takes a bounding box for the mask.

    Args:
        maps: ``[N, h, w]`` at the layer's resolution; of signed maps, the positive values count.
        masks: bool ``[N, H, W]``.

    Returns:
        ``[N]``, 0 to 1; 1: all of the map lies inside. A map that is the same everywhere has the mask's share of the
        picture, which is what chance gives. NaN where the map has no positive value or is not finite, and where the
        mask is empty: ``nanmean`` leaves these out.

    Raises:
        ConfigurationError: A shape or type is another one.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> energy_inside(torch.tensor([[[3.0, 1.0], [0.0, -5.0]]]), mask)
        tensor([0.7500])
    """
    maps, masks = _checked(maps, masks)
    return _like(inside(_array(maps), _array(masks)), maps)


def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: float = 0) -> Tensor:
    r"""Whether a map's maximum lies inside the mask: :math:`\min_{s \in B} \| s - \arg\max_t M_t \| \le` tolerance.

    Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018. Their hit rate is the mean over the
    pictures of each class, averaged over classes, with a tolerance of 15 pixels on photographs.

    Args:
        maps: ``[N, h, w]`` at the layer's resolution.
        masks: bool ``[N, H, W]``.
        tolerance: How many pixels of the mask's picture, as the crow flies, the maximum may lie beside the mask.

    Returns:
        bool ``[N]``; chance is the mask's share of the picture (with a tolerance, of the widened mask). Of several
        equal maxima the first in reading order counts. A map without a positive value or with one that is not finite
        points nowhere and is a miss, and so is an empty mask.

    Raises:
        ConfigurationError: A shape or type is another one, or the tolerance is negative.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]]).expand(2, -1, -1)
        >>> pointing_game(torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 3.0], [0.0, 0.0]]]), mask)
        tensor([ True, False])
    """
    maps, masks = _checked(maps, masks)
    return _like(points_inside(_array(maps), _array(masks), tolerance=tolerance), maps) == 1


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes maps bilinearly, corners not aligned, as they are drawn and as these numbers take them.

    Args:
        maps: ``[N, h, w]``, signed or not.
        size: Height and width.

    Returns:
        ``[N, *size]`` in float32; float64 where the maps are.

    Raises:
        ConfigurationError: The maps are no floating-point tensor ``[N, h, w]``.

    Example:
        >>> upsampled(torch.tensor([[[0.0, 4.0]]]), (1, 4))
        tensor([[[0., 1., 3., 4.]]])
    """
    maps = _floating(maps)
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _floating(maps: Tensor) -> Tensor:
    if not isinstance(maps, Tensor) or maps.dim() != 3 or not maps.is_floating_point() or 0 in maps.shape[1:]:
        raise ConfigurationError(
            f"maps: got {described(maps)}; give floating-point maps [N, h, w], such as those of compute_cams; of 3-D"
            " maps [N, d, h, w], give one slice at a time"
        )
    return maps.detach() if maps.dtype == torch.float64 else maps.detach().float()


def _checked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(masks, Tensor) or masks.dim() != 3 or masks.dtype != torch.bool:
        raise ConfigurationError(f"masks: got {described(masks)}; give a bool tensor [N, H, W], such as mask > 0.5")
    return _floating(maps), masks


def _array(values: Tensor) -> Any:
    return values.cpu().numpy()


def _like(numbers: Numbers, maps: Tensor) -> Tensor:
    return torch.from_numpy(numbers).to(maps)
