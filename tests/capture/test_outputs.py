"""Layers whose channels are the output's own numbers: `"auto"` explains one before them, as nothing leads there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams
from lightning_gradcam.capture.auto import owns_numbers
from tests.shapes.case import numbers


def of_layer(channels: int = 5) -> Tensor:
    return torch.randn(2, channels, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


OWN: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "any order of axes": lambda a: [a.flatten(2).permute(2, 0, 1).sigmoid()],
    "anchors out of the channels, two levels joined": lambda a: [
        torch.cat([a[:, :4].reshape(2, 2, 2, 12).permute(0, 3, 1, 2).reshape(2, 24, 2), 9 * torch.ones(2, 6, 2)], 1)
    ],
    "enlarged": lambda a: [nn.functional.interpolate(a, scale_factor=2, mode="bilinear") * 3 + 1],
    "two tensors": lambda a: [a[:, :2], a[:, 2:].exp()],
    "their mean over places": lambda a: [a.mean((2, 3))],
    "a tensor for each": lambda a: [(at + 1) * a[:, at].exp() for at in range(5)],
}
NOT: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "two heads, each of half of the channels": lambda a: [a[:, :2].sum(1), a[:, 2:].sum(1)],
    "even channels here, odd ones there": lambda a: [a[:, ::2].sum(1), a[:, 1::2].sum(1)],
    "a norm": lambda a: [nn.functional.layer_norm(a.movedim(1, -1), (5,))],
    "itself, and numbers from all of it": lambda a: [a, a.sum(1)],
    "itself, and further on numbers from all of it": lambda a: [a * 2, a.sin().cos().sum(1)],
    "nothing of it": lambda a: [torch.ones(2, 5, dtype=torch.float64, requires_grad=True) * 2],
}


@pytest.mark.parametrize("name", [*OWN, *NOT])
def test_each_number_of_the_output_depends_on_one_channel_alone(name: str) -> None:
    a = of_layer().requires_grad_()
    assert owns_numbers({**OWN, **NOT}[name](a), [a], 1) is (name in OWN)


class Columns(nn.Module):
    """Letters at each column, classes last; or columns first."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.cnn, self.letters, self.first = nn.Conv2d(1, 6, 4, 4), nn.Linear(12, 7), first

    def forward(self, x: Tensor) -> Tensor:
        steps: Tensor = self.letters(self.cnn(x).flatten(1, 2).transpose(1, 2))
        return steps.transpose(0, 1) if self.first else steps


@pytest.mark.parametrize("first", [False, True])
def test_auto_passes_over_the_letters_of_columns(first: bool) -> None:
    torch.manual_seed(0)
    model, x = Columns(first=first).double().eval(), numbers(2, 1, 8, 24)
    cams = compute_cams(model, x, targets=lambda out: out.amax(2).sum(0 if first else 1), relu=False)
    a = model.cnn(x).detach().requires_grad_()
    score = model.letters(a.flatten(1, 2).transpose(1, 2)).amax(2).sum()
    (g,) = torch.autograd.grad(score, a)
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1)
    assert next(iter(cams)).layer == "cnn"
    torch.testing.assert_close(cams["cnn"], expected.detach(), rtol=1e-6, atol=1e-12)


class Levels(nn.Module):
    """Two levels joined as `[N, 7, anchors]`; the head of the lower one is called first."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)
        self.low_head, self.high_head = nn.Conv2d(8, 7, 1), nn.Conv2d(8, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x).relu()
        heads = [self.low_head(low).flatten(2) + 9, self.high_head(self.high(low).relu()).flatten(2)]
        joined = torch.cat(heads, 2)
        return torch.cat([joined[:, :4], joined[:, 4:].sigmoid()], 1)


def test_auto_passes_over_the_head_of_a_lower_level() -> None:
    torch.manual_seed(0)
    cams = compute_cams(
        Levels().double().eval(), numbers(1, 3, 32, 32), targets=lambda out: out[:, 4:].flatten(1).amax(1)
    )
    assert next(iter(cams)).layer in ("low", "high")
