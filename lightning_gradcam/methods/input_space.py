"""Methods whose maps have the input's resolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gradcam.methods.rerun import Rerun
from lightning_gradcam.methods.variants import refused


def guided_backprop(rerun: Rerun) -> Tensor:
    r"""Guided backpropagation: the gradient at the input if every ReLU propagates only positive gradients.

    The gradient is summed over the colour channels. The same rule applies to ReLU, ReLU6, LeakyReLU, SiLU, GELU and
    Hardswish, as modules and as functions: the gradient at the output is passed unchanged where both it and the
    activation's input are positive, and is set to 0 elsewhere. The activation's own slope and ReLU6's upper limit have
    no effect. Other activations (Tanh, ELU, sigmoid gates, swish written as ``x * sigmoid(x)``) pass their plain
    gradient.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop.

    Args:
        rerun: The handle to the model.

    Returns:
        Signed maps ``[T, N, H, W]`` under the key ``"model"``. Cost: one forward and one backward pass per target.

    Raises:
        MethodError: The model runs none of these activations.
    """
    return rerun.picture_gradients(guided=True).sum(dim=2)


def guided_gradcam(rerun: Rerun) -> Tensor:
    r"""Guided Grad-CAM: guided backpropagation times Grad-CAM after its ReLU, resized bilinearly to the input.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
    section 3.2.

    Args:
        rerun: The handle to the model.

    Returns:
        Signed maps ``[T, N, H, W]`` at the input's resolution. Cost: one forward pass, plus one forward and two
        backward passes per target.

    Raises:
        MethodError: The model runs none of the activations that :func:`guided_backprop` changes.
    """
    weights = rerun.gradients().flatten(3).mean(dim=3)
    maps = torch.einsum("tnk,nk...->tn...", weights, rerun.activations).clamp(min=0)
    guided = guided_backprop(rerun)
    return guided * at_size(maps, guided.shape[2:])


def fullgrad(rerun: Rerun) -> Tensor:
    r"""FullGrad: :math:`\psi(\nabla_x f \circ x) + \sum_l \sum_c \psi(f^b_{lc})`, summed over input and biases.

    :math:`f^b` is the gradient at the output of a convolution or batch norm times its bias; :math:`\psi` takes the
    magnitude, scales a layer's channels together to 0…1, for each sample, and resizes them (bilinear) to the input.
    Biases in linear layers and other norms are left out, and so are biases in layers without a map.

    Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019, equation 8.
    Scaling the channels together follows their code (idiap/fullgrad-saliency): channels that contribute little stay
    small.

    Args:
        rerun: The handle to the model.

    Returns:
        Maps ``[T, N, H, W]``, never negative, under the key ``"model"``. Cost: one forward pass, plus one forward and
        two backward passes per target.

    Raises:
        MethodError: The model has no convolution or batch norm with a bias.
    """
    picture = rerun.picture
    total = scaled_maps((rerun.picture_gradients() * picture).abs()).sum(dim=2)
    number = 0
    for bias, gradients in rerun.bias_gradients():
        if gradients.dim() > min(4, picture.dim()) and gradients.shape[1] != len(picture):
            raise refused(
                "'fullgrad' adds up the biases' contributions for each sample, but a layer's output has "
                f"{gradients.shape[1]} rows for {len(picture)} samples (frames, windows or crops)"
            )
        if gradients.dim() != picture.dim() + 1:
            continue
        number += 1
        shares = (gradients * bias.reshape(-1, *[1] * (gradients.dim() - 3))).abs()
        # Resizing is linear, so resize the sum instead of each of many channels.
        total = total + at_size(scaled_maps(shares).sum(dim=2), total.shape[2:])
    if not number:
        raise refused(
            "'fullgrad' adds up the contributions of the biases of convolutions and batch norms, but this model has "
            "none"
        )
    return total


def scaled_maps(maps: Tensor) -> Tensor:
    """Scales maps ``[T, N, C, *S]`` to 0…1, jointly over the channels of each target and sample."""
    axes = tuple(range(2, maps.dim()))
    low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
    span = high - low
    return torch.where(span != 0, (maps - low) / torch.where(span != 0, span, 1), 0)


def at_size(maps: Tensor, size: torch.Size) -> Tensor:
    """Resizes maps ``[T, N, *S]`` linearly, without aligned corners; repeats a single frame's map for a whole clip."""
    places = size[-(maps.dim() - 2) :]
    mode = ("linear", "bilinear", "trilinear")[len(places) - 1]
    resized = F.interpolate(maps, size=tuple(places), mode=mode, align_corners=False)
    return resized if len(places) == len(size) else resized[:, :, None].expand(-1, -1, *size)
