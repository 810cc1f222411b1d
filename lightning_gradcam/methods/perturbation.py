"""Methods that run the model on modified inputs or activations; they need no gradient.

They run the model once for every channel of the layer, in batches of 32 samples, for all targets together. With 8
probes and a layer of 512 channels, each logged step takes 128 forward passes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_gradcam.methods.input_space import at_size, scaled_maps
from lightning_gradcam.methods.rerun import Rerun


def scorecam(rerun: Rerun) -> Tensor:
    r"""Score-CAM: :math:`M_s = \sum_k \alpha_k A_{ks}`, :math:`\alpha = \mathrm{softmax}_k\, f(X \circ H_k)`.

    :math:`H_k` is the channel's activation, resized (bilinear, corners not aligned) to the input :math:`X` and scaled
    to 0…1, and :math:`f` the explained score. The paper subtracts the score of a baseline image, which cancels in the
    softmax. A constant channel has :math:`H_k = 0`.

    Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR 2020 workshops.

    Args:
        rerun: The handle to the model.

    Returns:
        Signed maps ``[T, N, *S]`` for all targets. Cost: one forward pass of the batch per channel.

    Raises:
        MethodError: The input is not an image.
    """
    activations, picture, places = rerun.activations, rerun.picture, rerun.places

    def masked() -> Iterator[Tensor]:
        for channel in activations.unbind(dim=1):
            # In the shape of maps for a single target and channel.
            mask = scaled_maps(at_size(channel[:, None], places)[None])[0]
            yield picture * mask.to(picture.dtype)

    weights = rerun.on_pictures(masked()).softmax(dim=0)
    return torch.einsum("ktn,nk...->tn...", weights, activations)


def ablationcam(rerun: Rerun) -> Tensor:
    r"""Ablation-CAM: :math:`M_s = \sum_k w_k A_{ks}`, :math:`w_k = (y - y_k) / |y|`.

    :math:`y_k` is the score when channel :math:`k` of the layer is set to 0. The paper divides by :math:`y`, which
    flips every sign if the score is negative; here the magnitude is used, so a channel whose removal lowers the score
    always has a positive weight. If the score is 0, differences are not scaled.

    Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization", WACV 2020, equation 4.

    Args:
        rerun: The handle to the model.

    Returns:
        Signed maps ``[T, N, *S]`` for all targets. Cost: one forward pass of the batch per channel.
    """
    activations, scores = rerun.activations, rerun.scores

    def ablated() -> Iterator[Tensor]:
        for channel in range(activations.shape[1]):
            without = activations.clone()
            without[:, channel] = 0
            yield without

    drops = scores - rerun.on_activations(ablated())
    weights = drops / torch.where(scores == 0, 1, scores.abs())
    return torch.einsum("ktn,nk...->tn...", weights, activations)
