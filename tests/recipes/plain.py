"""What the tutorials and the book's chapter compute, written out plainly with torch and NumPy: nothing of the package.

One picture at a time, one channel after the other, as they do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Steps:
    """The tutorials' steps for one picture: gradients ``[C, h, w]``, their means ``[C]``, the signed heatmap."""

    chosen: int
    score: float
    gradients: Tensor
    pooled: Tensor
    heatmap: Tensor


def walk(network: nn.Sequential, image: Tensor) -> dict[str, Tensor]:
    """Runs the network layer by layer and keeps every output, in the graph."""
    outputs = {}
    value = image[None].clone().requires_grad_()
    for name, layer in network.named_children():
        value = layer(value)
        outputs[name] = value
    return outputs


def steps(
    network: nn.Sequential,
    image: Tensor,
    *,
    gradients_of: str,
    weighted: str,
    wanted: int | None = None,
    probability: bool = False,
) -> Steps:
    """Output of a layer, gradient of the prediction with respect to it, pooled gradients, weighting, heatmap.

    Args:
        network: A plain chain of layers that ends in logits.
        image: One picture ``[1, H, W]``.
        gradients_of: The layer whose gradient is taken.
        weighted: The layer whose channels are weighted: the same, or the ReLU behind it.
        wanted: The explained class; default: the most likely one.
        probability: Explain the softmax probability, not the logit.
    """
    outputs = walk(network, image)
    logits = list(outputs.values())[-1][0]
    scores = logits.softmax(0) if probability else logits
    chosen = int(scores.argmax()) if wanted is None else wanted
    (gradients,) = torch.autograd.grad(scores[chosen], outputs[gradients_of])
    activation = outputs[weighted][0].detach()
    pooled = torch.stack([channel.sum() / channel.numel() for channel in gradients[0]])
    heatmap = torch.zeros_like(activation[0])
    for weight, channel in zip(pooled, activation, strict=True):
        heatmap += weight * channel
    return Steps(chosen, float(scores[chosen]), gradients[0], pooled, heatmap)


def split(model: nn.Module, layer: str) -> tuple[nn.Module, nn.Module]:
    """Cuts a network behind its last activation (EfficientNet-Lite0), or behind block5_conv3's ReLU (VGG16)."""
    if layer == "features.29":
        features: Any = model.features
        return features[:30], nn.Sequential(features[30:], model.avgpool, nn.Flatten(), model.classifier)
    network: Any = model

    class Features(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = network.extract_features(x)
            return found

    return Features(), nn.Sequential(network._avg_pooling, nn.Flatten(), network._dropout, network._fc)


def of_softmax(model: nn.Module, x: Tensor, layer: str, wanted: int | None = None) -> tuple[Floats, Floats, Floats]:
    """Gradients of a class's softmax probability [C, h, w], their means [C], and the activation [C, h, w].

    As the chapter on heatmaps of class activation does it: the classifier runs again on the activation.
    """
    features, classifier = split(model, layer)
    with torch.no_grad():
        activation = features(x)
    activation.requires_grad_()
    shares = classifier(activation).softmax(dim=-1)
    top = int(shares[0].argmax()) if wanted is None else wanted
    (gradients,) = torch.autograd.grad(shares[:, top].sum(), activation)
    return gradients[0].numpy(), gradients.mean(dim=(0, 2, 3)).numpy(), activation[0].detach().numpy()


def weighted_channels(pooled: Floats, activation: Floats) -> Floats:
    """Each channel times its pooled gradient, in place of the channel."""
    channels = activation.copy()
    for number in range(len(pooled)):
        channels[number] *= pooled[number]
    return channels


def min_max(heatmap: Floats) -> Floats:
    """Stretched from its minimum to its maximum, without a ReLU."""
    return (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())


def positive_share(heatmap: Floats) -> Floats:
    """What Keras' own tutorial and the book do: what is positive, divided by the maximum."""
    return np.maximum(heatmap, 0) / heatmap.max()


def channel_image(channel: Floats) -> Pixels:
    """The chapter's picture of one channel: mean 0, deviation 1, times 64 plus 128, clipped; all zero stays so."""
    values = channel.copy()
    if values.sum() != 0:
        values -= values.mean()
        values /= values.std()
        values *= 64
        values += 128
    return np.clip(values, 0, 255).astype(np.uint8)


def channel_grid(activation: Floats, across: int = 16) -> Pixels:
    """The chapter's grid: so many channels a row, a dark pixel between them; what fills no row is left out."""
    size, down = activation.shape[-1], len(activation) // across
    grid = np.zeros(((size + 1) * down - 1, (size + 1) * across - 1), np.uint8)
    for number in range(down * across):
        y, x = number // across * (size + 1), number % across * (size + 1)
        grid[y : y + size, x : x + size] = channel_image(activation[number])
    return grid


def filter_pattern(
    body: nn.Module, start: Tensor, number: int, steps: int = 30, rate: float = 10.0, *, printed: bool = False
) -> Tensor:
    """The chapter's gradient ascent for one filter, from one start ``[1, c, H, W]``; or as its listing is printed."""
    image = start.clone()
    for _ in range(steps):
        image.requires_grad_()
        loss = body(image)[:, number, 2:-2, 2:-2].mean()
        (gradient,) = torch.autograd.grad(loss, image)
        # TensorFlow's l2_normalize: nothing is divided by less than a millionth.
        squares = gradient * gradient
        # Keras' ops.normalize divides along the last axis, which are the colours.
        norm = squares.sum(dim=1, keepdim=True).sqrt() if printed else squares.sum().clamp(min=1e-12).sqrt()
        image = image.detach() + rate * gradient / norm.clamp(min=1e-12)
    return image[0]


def deprocessed(image: Floats, crop: int = 25) -> Pixels:
    """The chapter's picture of a pattern ``[H, W, c]``: normalised as a channel is, then its border is cut off."""
    values = image - image.mean()
    values /= values.std()
    values = np.clip(values * 64 + 128, 0, 255).astype(np.uint8)
    return values[crop:-crop, crop:-crop]
