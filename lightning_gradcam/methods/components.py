"""Methods based on a layer's principal component, and the random baseline that any method must beat."""

from __future__ import annotations

import torch
from torch import Tensor


def eigencam(activations: Tensor) -> Tensor:
    r"""Eigen-CAM: the projection of the activations onto their first principal component; class-independent.

    Positions are treated as samples, and channels are centred, as in pytorch-grad-cam; the paper does not centre them,
    so after a ReLU the mean dominates the first component. A component's sign is arbitrary; it is chosen so that the
    map's largest magnitude is positive.

    Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020.

    Args:
        activations: The layer's output ``[N, C, *S]``.

    Returns:
        Signed map ``[N, *S]``; zero everywhere if the activation is constant. Cost: one forward pass, and one singular
        value decomposition per sample.
    """
    samples = activations.flatten(2).transpose(1, 2)
    centred = samples - samples.mean(dim=1, keepdim=True)
    finite = centred.nan_to_num(0.0, 0.0, 0.0)
    direction = torch.linalg.svd(finite, full_matrices=False).Vh[:, 0, :]
    projection = (centred * direction[:, None, :]).sum(dim=2)
    turned = projection.amin(dim=1).abs() > projection.amax(dim=1).abs()
    signed = torch.where(turned[:, None], -projection, projection)
    return signed.reshape(-1, *activations.shape[2:])


def eigengradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Eigen-CAM of activations times gradients, which makes it class-specific.

    Equivalent to pytorch-grad-cam's ``EigenGradCAM``; there is no paper. Centring and sign are as in :func:`eigencam`.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Gradients of the score with respect to it, of the same shape.

    Returns:
        Signed map ``[N, *S]``. Cost: one forward pass, one backward pass, and one singular value decomposition per
        sample.
    """
    return eigencam(activations * gradients)


def random(activations: Tensor) -> Tensor:
    """Weights channels at random, uniformly from -1 to 1: the baseline that any method must beat.

    The weights are the same in every call, for every sample and on every device, so maps are comparable across epochs.
    The global random state is not used.

    Args:
        activations: The layer's output ``[N, C, *S]``.

    Returns:
        Signed map ``[N, *S]``. Cost: one forward pass.
    """
    return weighted_at_random(activations, 0)


def weighted_at_random(activations: Tensor, seed: int) -> Tensor:
    """Returns :func:`random` maps for a given seed."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(activations.shape[1], generator=generator, dtype=torch.float64, device="cpu") * 2 - 1
    return torch.einsum("nc...,c->n...", activations, weights.to(activations))
