r"""Methods that weight activations by gradients.

Throughout, :math:`A_{ks}` is the activation of channel :math:`k` at position :math:`s`, :math:`S` the set of positions
of the layer, :math:`y` the explained score and :math:`g_{ks} = \partial y / \partial A_{ks}`. Every function accepts
activations and gradients ``[N, C, *S]`` and returns a signed map ``[N, *S]``. The cost is one forward pass, and one
backward pass per target; all methods and layers of a call share them.
"""

from __future__ import annotations

from torch import Tensor


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Grad-CAM before its ReLU: :math:`M_s = \sum_k \alpha_k A_{ks}`, :math:`\alpha_k = \frac{1}{|S|} \sum_s g_{ks}`.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
    equations 1 and 2.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Gradients of the score with respect to it, of the same shape.

    Returns:
        Signed map ``[N, *S]``; applying :func:`~lightning_gradcam.methods.registry.relu` yields the published map.

    Example:
        >>> import torch
        >>> gradcam(torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
        tensor([[[2., 2.],
                 [2., 2.]]])
    """
    return _weighted(activations, gradients.flatten(2).mean(dim=2))


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Grad-CAM++: :math:`\alpha_k = \sum_s a_{ks} \max(g_{ks}, 0)`, which counts several objects of a class equally.

    With :math:`a_{ks} = g_{ks}^2 / (2 g_{ks}^2 + g_{ks}^3 \sum_t A_{kt})`, and 0 where the denominator is 0; computed
    as :math:`1 / (2 + g_{ks} \sum_t A_{kt})`, since powers of small gradients underflow. The paper explains
    :math:`e^y`; its factor :math:`e^y` scales a whole map and is left out, as in other implementations.

    Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
    WACV 2018, equations 7 and 19.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Gradients of the score with respect to it, of the same shape.

    Returns:
        Signed map ``[N, *S]``.
    """
    g, total = gradients.flatten(2), activations.flatten(2).sum(dim=2, keepdim=True)
    denominator = 2 + g * total
    share = (1 / denominator.where(denominator != 0, 1)).where(denominator != 0, 0)
    return _weighted(activations, (share * g.clamp(min=0)).sum(dim=2))


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""XGrad-CAM: :math:`\alpha_k = \sum_s g_{ks} A_{ks} / \sum_s A_{ks}`, and 0 for a channel that sums to 0.

    Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", BMVC 2020, equation 8.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Gradients of the score with respect to it, of the same shape.

    Returns:
        Signed map ``[N, *S]``.
    """
    a, g = activations.flatten(2), gradients.flatten(2)
    total = a.sum(dim=2)
    weights = (g * a).sum(dim=2) / total.where(total != 0, 1)
    return _weighted(activations, weights.where(total != 0, 0))


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""HiResCAM: :math:`M_s = \sum_k g_{ks} A_{ks}`, with the gradient at each position instead of its mean.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
    arXiv 2011.08891, equation 3.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Gradients of the score with respect to it, of the same shape.

    Returns:
        Signed map ``[N, *S]``.
    """
    return (activations * gradients).sum(dim=1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""LayerCAM: :math:`M_s = \sum_k \max(g_{ks}, 0) A_{ks}`, also usable in shallow layers.

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021, equations 6
    and 7.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Gradients of the score with respect to it, of the same shape.

    Returns:
        Signed map ``[N, *S]``; non-negative wherever the activations are.
    """
    return (activations * gradients.clamp(min=0)).sum(dim=1)


def gradcam_elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Element-wise Grad-CAM: :math:`M_s = \sum_k \max(g_{ks} A_{ks}, 0)`; negative contributions are not counted.

    Equivalent to pytorch-grad-cam's ``GradCAMElementWise``; there is no paper.

    Args:
        activations: The layer's output ``[N, C, *S]``.
        gradients: Gradients of the score with respect to it, of the same shape.

    Returns:
        Map ``[N, *S]``, never negative.
    """
    return (activations * gradients).clamp(min=0).sum(dim=1)


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    # On a CPU, a matrix product avoids a weighted copy of the activations, which costs three times as much. On a GPU, a
    # matrix product may be allowed to round to TF32.
    places = activations.flatten(2)
    maps = (places * weights[:, :, None]).sum(dim=1) if places.is_cuda else weights[:, None].bmm(places)[:, 0]
    return maps.reshape(-1, *activations.shape[2:])
