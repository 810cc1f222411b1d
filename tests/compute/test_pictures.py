"""Tests of models with several pictures: a map of another one than is shown is reported."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.compute.checks import seen_elsewhere


class Pair(nn.Module):
    """A branch for each of two pictures, which may differ in size, and a layer that sees both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(1, 4, 3, 2, 1)
        self.both, self.head = nn.Conv2d(8, 4, 1), nn.Linear(4, 3)

    def forward(self, context: Tensor, crop: Tensor) -> Tensor:
        a, b = self.a(context), self.b(crop)
        size = a.shape[2:]
        return self.head(self.both(torch.cat([a, nn.functional.interpolate(b, size)], 1)).mean((2, 3)))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(4, 3)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return self.head((self.encoder(one) - self.encoder(two)).abs().mean((2, 3)))


def pictures(*sizes: tuple[int, int]) -> tuple[Tensor, ...]:
    made = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 1, *size, generator=made) for size in sizes)


def said(model: nn.Module, inputs: Any, layers: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compute_cams(model.eval(), inputs, layers, relu=False, **options)
    return [str(w.message) for w in caught]


def test_a_layer_that_sees_another_picture_is_reported_once() -> None:
    inputs = pictures((16, 8), (8, 8))
    (message,) = said(Pair(), inputs, ["a", "b", "both"], batch_size=1)
    assert message.startswith(
        "lightning-gradcam: layer 'b' sees a different input ([1, 1, 8, 8]) from the explained image"
    )
    assert message.endswith("Pass that tensor as picture=, or choose a layer that sees the explained image")
    (named,) = said(Pair(), inputs, ["a", "b", "both"], picture=inputs[1])
    assert named.startswith("lightning-gradcam: layer 'a' sees a different input ([3, 1, 16, 8])")


def test_the_call_that_sees_the_picture_is_named() -> None:
    inputs = pictures((8, 8), (8, 8))
    (message,) = said(Siamese(), inputs, "auto")
    assert "layer 'encoder' sees a different input" in message
    assert message.endswith("choose a call ('encoder#0', …) that sees the explained image")
    assert said(Siamese(), inputs, "encoder#0") == []
    assert said(Siamese(), inputs, "encoder", picture=inputs[1]) == []


def test_a_layer_that_no_picture_leads_to_is_not_reported() -> None:
    class Cut(Pair):
        def forward(self, context: Tensor, crop: Tensor) -> Tensor:
            return super().forward(context.detach(), crop.detach())

    model, inputs = Cut().eval(), Inputs(pictures((8, 8), (8, 8)))
    assert seen_elsewhere(lambda values: model(*values), inputs, {"b": model.b}) == {}


class Stacked(Siamese):
    """Both pictures in one tensor."""

    def forward(self, pair: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(pair[:, 0], pair[:, 1])


def test_a_layer_that_sees_one_picture_of_a_stack_is_reported() -> None:
    pair = torch.stack(pictures((8, 8), (8, 8)), 1)
    (message,) = said(Stacked(), pair, "encoder")
    assert message.startswith(
        "lightning-gradcam: layer 'encoder' sees only index 1 (of 0 to 1) along axis 1 of the input"
    )
    assert "(a call of 'encoder' each: 'encoder#0', …)" in message
    (first,) = said(Stacked(), pair, "encoder#0")
    assert first.startswith("lightning-gradcam: layer 'encoder#0' sees only index 0 (of 0 to 1) along axis 1")


def test_a_layer_that_sees_all_frames_is_not_reported() -> None:
    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 3)

        def forward(self, clip: Tensor) -> Tensor:
            return self.head(self.conv(clip.mean(1)).mean((2, 3)))

    assert said(Clip(), torch.randn(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)), "conv") == []
