"""Methods that need gradients other than the target score's gradient with respect to the layer."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from lightning_gradcam.errors import MethodError
from lightning_gradcam.methods.rerun import Rerun

_SIMILAR, _FAR = 3, 16
# The wording of torch, torchvision and once_differentiable.
_NO_SECOND_DERIVATIVE = re.compile(r"double backward|differentiate twice|derivative for .* is not implemented", re.I)


def cam(rerun: Rerun) -> Tensor:
    r"""CAM, for a head with global average pooling and one linear layer: :math:`M_s = \sum_k w_{k} A_{ks}`.

    For a linear head on pooled activations, the weight is the gradient summed over positions, so no module has to be
    identified. The model itself is used to test for this kind of head: the gradient must be equal at all positions, and
    the scores for the activation times zero, sixteen and minus sixteen must be those of a linear function.

    Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, equation 2.

    Args:
        rerun: The handle to the model.

    Returns:
        Signed maps ``[T, N, *S]``. Cost: one forward pass, one backward pass per target, and three forward passes for
        the check.

    Raises:
        MethodError: The layer is not followed by pooling and one linear layer.
    """
    activations, gradients = rerun.activations, rerun.gradients()
    flat = gradients.flatten(3)
    weights = flat.sum(dim=3)
    largest = flat.abs().amax(dim=(2, 3), keepdim=True)
    precision = rerun.precision
    same = bool(((flat - flat.mean(dim=3, keepdim=True)).abs() <= precision * largest).all())
    # Scale far up, so that biases do not hide non-linearity.
    none, minus, plus = rerun.on_activations([activations * 0, activations * -_FAR, activations * _FAR])
    change = torch.einsum("tnks,nks->tn", flat, activations.flatten(2))
    size = torch.stack([rerun.scores, none, minus, plus]).abs().amax(dim=0)
    linear = all(
        bool(((other - none - factor * change).abs() <= precision * size).all())
        for factor, other in ((1, rerun.scores), (-_FAR, minus), (_FAR, plus))
    )
    # Non-finite activations can't be checked; their map is marked with NaN.
    if bool(change.isfinite().all()) and not (same and linear):
        differs = "its gradient differs between locations; choose the last layer before the pooling, or"
        raise MethodError(
            f"methods: 'cam' needs global average pooling and one linear layer right after layer {rerun.layer!r}, and"
            f" the score as a logit; {'what follows is not linear;' if same else differs} use gradcam or hirescam,"
            " which equal CAM up to a factor on such heads and work on any head"
        )
    return torch.einsum("tnk,nk...->tn...", weights, activations)


def finercam(rerun: Rerun) -> Tensor:
    r"""Finer-CAM: Grad-CAM of the difference between the class and its three most similar classes.

    The explained score is :math:`\sum_d p_d (y_c - y_d) / \sum_d p_d` over the classes :math:`d` whose logits are
    nearest to that of the explained class :math:`c`, with :math:`p` the softmax of the logits, as in the
    pytorch-grad-cam implementation by the paper's authors (with :math:`\alpha = 1`). Logits are compared even with
    ``score="probability"``.

    Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation", CVPR 2025.

    Args:
        rerun: The handle to the model.

    Returns:
        Signed maps ``[T, N, *S]``. Cost: one forward pass, and one backward pass per target.

    Raises:
        MethodError: A target is not exactly one class.
    """

    def contrast(logits: Tensor, classes: Tensor) -> Tensor:
        own = logits.gather(1, classes[:, None])
        distance = (logits - own).detach().abs().scatter(1, classes[:, None], -1.0)
        similar = distance.argsort(dim=1, stable=True)[:, 1 : 1 + _SIMILAR]
        chances = logits.softmax(dim=1).gather(1, similar)
        differences = own - logits.gather(1, similar)
        return (chances * differences).sum(dim=1) / (chances.sum(dim=1) + 1e-9)

    gradients = rerun.gradients(score=contrast)
    return torch.einsum("tnk,nk...->tn...", gradients.flatten(3).mean(dim=3), rerun.activations)


def shapleycam(rerun: Rerun) -> Tensor:
    r"""ShapleyCAM: :math:`\alpha_k = \frac{1}{|S|} \sum_s (g - \tfrac{1}{2} H A)_{ks}`, with :math:`H` the Hessian.

    This is the second-order expansion of the score between the activation and zero; Grad-CAM keeps only the first term.
    With a ReLU and a linear head, the Hessian of a logit is 0 and the map equals Grad-CAM's; the paper explains
    non-linear scores, such as ``score="probability"``.

    Cai, "CAMs as Shapley Value-based Explainers", The Visual Computer 2025.

    Args:
        rerun: The handle to the model.

    Returns:
        Signed maps ``[T, N, *S]``. Cost: one forward and two backward passes per target.

    Raises:
        MethodError: A part of the model has no second derivative.
    """
    try:
        gradients, products = rerun.curvature()
    except RuntimeError as error:
        if not _NO_SECOND_DERIVATIVE.search(str(error)):
            raise
        raise MethodError(
            f"methods: 'shapleycam' differentiates twice, which the model after layer {rerun.layer!r} does not support"
            f" ({error}); use gradcam, which is its first term, or hirescam or layercam"
        ) from error
    weights = (gradients - products / 2).flatten(3).mean(dim=3)
    return torch.einsum("tnk,nk...->tn...", weights, rerun.activations)


def smoothgradcam_plus_plus(rerun: Rerun, *, samples: int = 8, noise: float = 0.15) -> Tensor:
    r"""Smooth Grad-CAM++: Grad-CAM++ with derivatives averaged over noisy copies of the input.

    :math:`\alpha_{ks} = \bar{D_2} / (2 \bar{D_2} + \bar{D_3} \sum_t A_{kt})` and weights
    :math:`\sum_s \alpha_{ks} \max(\bar{D_1}, 0)_{ks}`, where :math:`D_1 = g`, :math:`D_2 = g^2`, :math:`D_3 = g^3` and
    the bar is the mean over ``samples`` copies with Gaussian noise. The noise has its own seed and is the same at every
    step, so maps are comparable across epochs.

    Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional
    Neural Network Models", arXiv 1908.01224, equations 9 to 11.

    Args:
        rerun: The handle to the model.
        samples: Number of noisy copies; to use a different number, register a :func:`functools.partial` with
            ``register_method``.
        noise: Standard deviation of the noise, as a fraction of each image's range from minimum to maximum.

    Returns:
        Signed maps ``[T, N, *S]``. Cost: ``samples`` forward passes and, for each target, as many backward passes.
    """
    picture, activations = rerun.picture, rerun.activations
    generator = torch.Generator().manual_seed(0)
    axes = tuple(range(1, picture.dim()))
    spread = (picture.amax(axes, keepdim=True) - picture.amin(axes, keepdim=True)) * noise
    first = second = third = size = torch.zeros((), device="cpu")
    for number in range(samples):
        # The same noise for every sample, so that a map does not depend on the other samples in the batch.
        drawn = torch.randn(picture.shape[1:], generator=generator, device="cpu").to(picture)
        g = rerun.gradients(picture + drawn * spread)
        if not number:
            # Powers of small gradients underflow unless they are scaled by the first copy's largest gradient.
            size = g.abs().amax(dim=tuple(range(2, g.dim())), keepdim=True)
            size = torch.where((size > 0) & size.isfinite(), size, 1)
        g = g / size / samples
        first, second, third = first.to(g) + g, second.to(g) + g**2 * samples, third.to(g) + g**3 * samples**2
    total = activations.flatten(2).sum(dim=2)[None, :, :, None]
    one, two, three = (first * size).flatten(3), second.flatten(3), third.flatten(3)
    denominator = 2 * two + three * size.flatten(3) * total
    share = torch.where(denominator != 0, two / torch.where(denominator != 0, denominator, 1), 0)
    weights = (share * one.clamp(min=0)).sum(dim=3)
    return torch.einsum("tnk,nk...->tn...", weights, activations)


def legrad(rerun: Rerun) -> Tensor:
    r"""LeGrad: how much the score would increase if a token received more attention.

    :math:`M_j = \frac{1}{hL} \sum_{h,i} \max(\partial y / \partial \mathcal{A}_{hij}, 0)`, with :math:`\mathcal{A}` the
    attention of the layer after its softmax, over heads and queries :math:`i`. This is one layer's term for
    the model's own score; the paper sums the terms of several layers, each for the score of that layer's tokens.

    Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    ICCV 2025, equations 4 to 6.

    Args:
        rerun: The handle to the model; its layer is an attention module, or a block that contains one.

    Returns:
        Maps ``[T, N, *S]``, never negative. Cost: one forward pass, and one backward pass per target.

    Raises:
        MethodError: The layer contains no attention, or only attention within windows.
    """
    _, gradients = rerun.attention()
    return rerun.tokens_to_map(gradients.clamp(min=0).mean(dim=(2, 3)))
