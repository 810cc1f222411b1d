"""The objectives by hand, and their gradients by finite differences: every parameter, second-order terms included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import AttentionLoss, compute_cams, drift, energy_inside
from lightning_gradcam.losses.objectives import distance, mean_of, share_outside
from tests.losses.models import Signal, Smooth, Tokens, Volume, batch, differences, halves

GIVEN = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
GIVEN[-1] = torch.nan
CASES: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "inside": (Smooth, (1, 6, 6), {"layers": "conv"}, {"masks": halves(6, 6)}),
    "match": (Smooth, (1, 6, 6), {"layers": ["conv", "act"], "objective": "match"}, {"maps": GIVEN}),
    "reasons": (Smooth, (1, 6, 6), {"objective": "reasons"}, {"masks": halves(6, 6)}),
    "hirescam": (Smooth, (1, 6, 6), {"layers": "act", "methods": "hirescam"}, {"masks": halves(6, 6)}),
    "tokens": (Tokens, (1, 9, 9), {"layers": "block"}, {"masks": halves(9, 9)}),
    "signal": (Signal, (2, 12), {"layers": "conv"}, {"masks": halves(12)}),
    "volume": (Volume, (1, 4, 6, 6), {"layers": "conv", "targets": "predicted"}, {"masks": halves(6, 6)}),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_finite_differences_for_every_parameter(case: str) -> None:
    kind, shape, options, given = CASES[case]
    torch.manual_seed(3)
    # Batch norm in training mode mixes the samples: that is a part of what is differentiated.
    model, (x, y) = kind().double(), batch(*shape)
    attention = AttentionLoss(**options)

    def value() -> Tensor:
        with attention.watching(model):
            logits = model(x)
        return attention(logits, y, **given)

    own = value()
    assert float(own.detach()) > 1e-3
    parameters = dict(model.named_parameters())
    slopes = torch.autograd.grad(own, [*parameters.values()], allow_unused=True)
    compared = 0
    for (name, parameter), slope in zip(parameters.items(), slopes, strict=True):
        # Of a transformer's many weights a few of each; of the others all.
        places = torch.arange(parameter.numel())[:: max(1, parameter.numel() // 12) if case == "tokens" else 1]
        wanted = differences(value, parameter, places)
        found = torch.zeros_like(wanted) if slope is None else slope.flatten()[places]
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-8), name
        compared += bool(wanted.abs().max() > 1e-5)
    # What comes before the layer, and what comes after it: there by second derivatives alone.
    assert compared >= 4


def test_inside_is_one_less_the_energy_inside_and_match_is_the_drift() -> None:
    model, (x, y) = Smooth().double().eval(), batch(1, 6, 6)
    masks = halves(6, 6)
    maps = compute_cams(model, x, "head.0", targets="label", labels=y)["head.0", "gradcam", "label"]
    attention = AttentionLoss("head.0")
    with attention.watching(model):
        logits = model(x)
    found = attention(logits, y, masks=masks)
    # Maps of 2x2 places for pictures of 6x6 pixels; the sample without a mask counts nothing, and no blank map does.
    torch.testing.assert_close(found, 1 - energy_inside(maps, masks).nanmean())
    other = torch.rand(4, 2, 2, dtype=torch.float64)
    matching = AttentionLoss("head.0", "match")
    with matching.watching(model):
        logits = model(x)
    wanted = torch.from_numpy(drift(maps.numpy(), other.numpy()))
    shown = maps.flatten(1).any(dim=1)
    torch.testing.assert_close(matching(logits, y, maps={"head.0": other}), wanted[shown].mean())


def test_reasons_is_ross_and_others_formula() -> None:
    model, (x, y) = Smooth(norm=False).double(), batch(1, 6, 6)
    attention = AttentionLoss(objective="reasons")
    with attention.watching(model):
        logits = model(x)
    masks = halves(6, 6)
    found = attention(logits, y, masks=masks, inputs=x)
    assert not x.requires_grad
    own = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(model(own).log_softmax(1).sum(), own)
    torch.testing.assert_close(found, ((slopes * ~masks[:, None]) ** 2).sum(dim=(1, 2, 3))[:3].mean())


def test_boxes_are_masks_with_parts_of_pixels() -> None:
    model, (x, y) = Smooth().double().eval(), batch(1, 6, 6)
    attention = AttentionLoss("conv")
    values = []
    for right in (2.0, 2.5, 3.0, None):
        box = torch.tensor([[0.0, 0.0, right or 0.0, 6.0]] * 3 + [[torch.nan] * 4])
        with attention.watching(model):
            logits = model(x)
        given = {"boxes": box} if right else {"masks": halves(6, 6)}
        values.append(float(attention(logits, y, **given).detach()))
    assert values[3] == pytest.approx(values[2], abs=1e-12)
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, abs=1e-12)
    assert values[2] < values[0] - 1e-3


@pytest.mark.parametrize("top", [0.0, 1e-45, 1e-30, 1e-20])
def test_a_blank_or_tiny_map_has_a_finite_loss_and_gradient(top: float) -> None:
    maps = torch.full((2, 2, 2), top).requires_grad_()
    weights = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]] * 2)
    for losses, counted in (share_outside(maps, weights, torch.ones(2, 2)), distance(maps, weights)):
        value = mean_of(losses, counted)
        (slope,) = torch.autograd.grad(value, maps)
        assert value.isfinite()
        assert slope.isfinite().all()
        assert bool(counted.all()) == (top >= 1e-29)
        assert counted.all() or not slope.any()


def test_a_broken_map_is_not_hidden() -> None:
    maps = torch.tensor([[[1.0, torch.nan]]])
    assert mean_of(*share_outside(maps, torch.ones(1, 1, 2), torch.ones(1, 2))).isnan()
