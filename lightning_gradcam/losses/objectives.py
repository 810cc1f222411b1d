r"""The objectives, as pure functions from a batch's maps to a loss per sample.

Throughout, :math:`M` is a map after its ReLU and :math:`s` one of its positions. A sample counts only if there is
something to compare; :func:`mean_of` ignores all others.
"""

from __future__ import annotations

import torch
from torch import Tensor


def share_outside(maps: Tensor, marked: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    r"""Share of the evidence outside the mask: :math:`L = 1 - \sum_{s \in B} M_s / \sum_s M_s`.

    The maps are resized bilinearly to the mask's pixels :math:`s`, as in :func:`lightning_gradcam.energy_inside`; the
    loss is 1 minus that share. Resizing is linear, so the mask is resampled to the map's grid instead (see
    :func:`lightning_gradcam.losses.regions.on_grid`), which adds nothing to the graph.

    Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023 (energy loss).
    The measure comes from Wang et al., "Score-CAM", CVPR 2020 workshops.

    Args:
        maps: Non-negative maps, ``[N, *S]``.
        marked: Each position's weight in the numerator, ``[N, *S]``.
        whole: Its weight in the denominator, ``[*S]``.

    Returns:
        The loss of each sample, and whether its map is not blank, both ``[N]``.

    Example:
        >>> maps = torch.tensor([[[3.0, 1.0]], [[0.0, 0.0]]])
        >>> share_outside(maps, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2))
        (tensor([0.2500, 1.0000]), tensor([ True, False]))
    """
    values, shown = _relative(maps)
    whole, marked = whole.flatten(), marked.flatten(1)
    total = (values * whole).sum(dim=1)
    shown = shown & (total != 0)
    return 1 - (values * marked).sum(dim=1) / torch.where(shown, total, 1), shown


def distance(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    r"""Distance to reference maps: :math:`L = \frac{1}{2} \| M / \|M\| - Q / \|Q\| \|^2 = 1 - \cos(M, Q)`.

    Zagoruyko and Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
    Networks via Attention Transfer", ICLR 2017, equation 2 with the distance squared and halved. This equals
    :func:`lightning_gradcam.drift`, ranges from 0 to 1, and has a gradient where both maps are the same. With human
    maps: Selvaraju et al., "Taking a HINT: Leveraging Explanations to Make Vision and Language Models More Grounded",
    ICCV 2019.

    Args:
        maps: Non-negative maps, ``[N, *S]``.
        others: The reference maps, in the same shape; only their positive part counts. A row with NaN means that the
            sample has no map.

    Returns:
        The loss of each sample, and whether both of its maps exist and are not blank, both ``[N]``.

    Example:
        >>> distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
        (tensor([0.4000]), tensor([True]))
    """
    values, shown = _relative(maps)
    given = others.detach().flatten(1)
    wanted, there = _relative(torch.where(given.isfinite().all(dim=1, keepdim=True), given, 0).clamp(min=0))
    shown = shown & there
    lengths = [torch.where(shown, (each * each).sum(dim=1), 1).sqrt() for each in (values, wanted)]
    return 1 - (values * wanted).sum(dim=1) / (lengths[0] * lengths[1]), shown


def gradients_outside(gradients: Tensor, outside: Tensor) -> Tensor:
    r"""Right for the right reasons: :math:`L = \sum_d ((1 - B_d)\, \partial y / \partial x_d)^2` over all inputs.

    Ross et al., "Right for the Right Reasons: Training Differentiable Models by Constraining their Explanations", IJCAI
    2017, equation 1, where :math:`y = \sum_k \log p_k` is the sum of all classes' log-probabilities, which is the
    default score. Unlike the other objectives, this loss grows with the number of pixels and has no upper bound.

    Args:
        gradients: Gradients of the scores with respect to the inputs, ``[N, …]``.
        outside: The fraction of each entry outside the mask, 0 to 1, with the same number of axes as ``gradients``.

    Returns:
        The loss of each sample ``[N]``.

    Example:
        >>> gradients_outside(torch.tensor([[[3.0, 2.0]]]), torch.tensor([[[0.0, 1.0]]]))
        tensor([4.])
    """
    return ((gradients * outside) ** 2).flatten(1).sum(dim=1)


def mean_of(losses: Tensor, counted: Tensor) -> Tensor:
    """Averages over the samples that count; 0, with a gradient of 0, if none does.

    Args:
        losses: The loss of each sample, ``[N]``.
        counted: Which samples count, bool ``[N]``.

    Example:
        >>> mean_of(torch.tensor([0.5, 9.0]), torch.tensor([True, False]))
        tensor(0.5000)
    """
    return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)


def _relative(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns maps ``[N, S]`` divided by their maximum, and which of them are not blank; NaN is not blank."""
    flat = maps.flatten(1)
    top = flat.detach().amax(dim=1)
    # Below this limit, the gradient of the quotient overflows.
    shown = ~(top < torch.finfo(flat.dtype).tiny * 1e8)
    return torch.where(shown[:, None], flat / torch.where(shown, top, 1)[:, None], 0), shown
