"""Sanity of the explanations themselves: maps of a model with other weights are other maps.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: weights are randomised from the top down, layer after
layer, and a map that stays the same does not explain the model.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import available_methods, compute_cams
from tests.methods.models import Cnn, Tokens

SAME = ("eigencam", "random")
EXPLAINING = [name for name in available_methods() if name not in (*SAME, "mean_activation", "sizes")]


def bright_corners(count: int) -> tuple[Tensor, Tensor]:
    """Noise with a brighter square in one of four corners, which is the class."""
    generator = torch.Generator().manual_seed(count)
    pictures = torch.rand(count, 1, 12, 12, generator=generator) * 0.5
    labels = torch.arange(count) % 4
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        y, x = divmod(label, 2)
        picture[0, 2 + 5 * y : 5 + 5 * y, 2 + 5 * x : 5 + 5 * x] += 1 + 0.5 * label
    return pictures, labels


@cache
def trained(kind: str) -> Cnn | Tokens:
    torch.manual_seed(0)
    model: Cnn | Tokens = Tokens() if kind == "tokens" else Cnn(channels=8)
    pictures, labels = bright_corners(64)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
    assert (model(pictures).argmax(1) == labels).float().mean() > 0.5, "it has learned something"
    return model.eval()


def ranks(maps: Tensor) -> np.ndarray:
    return maps.flatten(1).argsort(1).argsort(1).double().numpy()


def agreement(a: Tensor, b: Tensor) -> float:
    """The mean rank correlation of the maps of two models."""
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(ranks(a), ranks(b), strict=True)]))


def cascade(kind: str, method: str, layer: str) -> list[float]:
    """The agreement with the trained model's maps as one layer after the other, from the top, gets random weights."""
    original = trained(kind)
    pictures = bright_corners(16)[0]

    def explained(model: nn.Module) -> Tensor:
        (maps,) = compute_cams(model, pictures, layer, methods=method, targets=1, relu=False).values()
        return maps

    before = explained(original)
    changed: Cnn | Tokens = Tokens() if kind == "tokens" else Cnn(channels=8)
    changed.load_state_dict(original.state_dict())
    found = []
    for names in (["head"], ["conv2", "attention"], ["conv1", "norm", "embed"]):
        for module in [getattr(changed, name) for name in names if hasattr(changed, name)]:
            for number, parameter in enumerate(module.parameters()):
                generator = torch.Generator().manual_seed(10 + number)
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.data = drawn * parameter.std() if parameter.dim() > 1 else drawn * 0.3 + parameter.mean()
        found.append(agreement(before, explained(changed.eval())))
    return found


@pytest.mark.parametrize("method", EXPLAINING)
def test_random_weights_from_the_top_change_the_map(method: str) -> None:
    kind, layer = ("tokens", "attention") if method == "legrad" else ("cnn", "last")
    head, _, whole = cascade(kind, method, layer)
    # FullGrad and Eigen-Grad-CAM, which look at magnitudes, change least (0.99 and 0.96), the others by far more.
    assert head < (0.998 if method in ("fullgrad", "eigengradcam") else 0.9), "the head alone changes the map"
    assert whole < 0.75, "nothing of the trained model is left, nor of its map"


@pytest.mark.parametrize("method", SAME)
def test_methods_that_do_not_look_at_the_class_do_not_see_the_head(method: str) -> None:
    head, below, _ = cascade("cnn", method, "last")
    assert head == pytest.approx(1)
    assert below < 0.95
