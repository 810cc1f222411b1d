"""Layouts of tokens are looked for once, and again where the model has become another."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams
from lightning_gradcam.capture import known


class Patches(nn.Module):
    """Sixteen tokens, a class token, a block and a head; counts its forwards."""

    def __init__(self, *, pooled: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 4, 4)
        self.first, self.turned, self.pooled = nn.Parameter(torch.randn(1, 1, 8)), False, pooled
        self.norm, self.block = nn.LayerNorm(8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.register_buffer("order", torch.arange(17))
        self.last: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        FORWARDS.append(len(x))
        grid = self.embed(x)
        tokens = (grid.transpose(2, 3) if self.turned else grid).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)[:, self.order]
        found = self.block(self.norm(tokens))
        scores: Tensor = self.head(found.tanh().mean(1) if self.pooled else found[:, 0])
        return scores


FORWARDS: list[int] = []
LOOKED_AT = [3, 2]
X = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def explained(model: nn.Module, x: Tensor = X, **options: object) -> tuple[list[int], str, Tensor]:
    """The number of samples in the first two forwards, the layout and the maps; later ones check the places."""
    FORWARDS.clear()
    cams = compute_cams(model, x, "norm", targets=1, relu=False, **options)  # type: ignore[arg-type]
    return FORWARDS[:2], str(cams.layouts["norm"]), cams["norm", "gradcam", 1]


@pytest.fixture
def model() -> Patches:
    torch.manual_seed(0)
    return Patches().eval()


def test_tokens_are_followed_in_one_short_forward_of_the_first_call_alone(model: Patches) -> None:
    # Its own forward, and one of two samples that shows what it calls and where tokens come from.
    first = explained(model)
    assert first[:2] == (LOOKED_AT, "NLC:1+4x4")
    second = explained(model)
    assert second[:2] == ([3], "NLC:1+4x4")
    assert torch.equal(first[2], second[2])
    # Of any number of samples; another size of pictures is another question.
    assert explained(model, X[:2])[:2] == ([2], "NLC:1+4x4")
    model.order = torch.arange(9)
    assert explained(model, X[:, :, :8])[:2] == (LOOKED_AT, "NLC:1+2x4")


def test_the_layer_that_auto_takes_is_found_in_two_forwards_and_checked_in_two() -> None:
    torch.manual_seed(0)
    # The score reads the class token behind the last block, so that its places have no gradient.
    FORWARDS.clear()
    assert list(compute_cams(Patches().eval(), X, "auto").layouts) == ["norm"]
    assert FORWARDS == [2, 2, 3, 2, 2]


def test_a_changed_model_is_looked_at_again(model: Patches) -> None:
    assert explained(model)[0] == LOOKED_AT
    for patch, expected in (((2, 8), "NLC:1+8x2"), ((8, 2), "NLC:1+2x8")):
        model.embed = nn.Conv2d(1, 8, patch, patch)
        assert explained(model)[:2] == (LOOKED_AT, expected)
        assert explained(model)[:2] == ([3], expected)
    model.turned = True
    with pytest.raises(Exception, match="'norm' returns"):
        explained(model)
    model.turned = False
    assert explained(model)[1] == "NLC:1+2x8"
    # Tokens in another order have another grid, or none.
    model.order.copy_(torch.tensor([*range(1, 17), 0]))
    assert explained(model)[:2] == (LOOKED_AT, "NLC:2x8+1")
    handle = model.embed.register_forward_hook(lambda _module, _args, output: output.transpose(2, 3))
    assert explained(model)[:2] == (LOOKED_AT, "NLC:8x2+1")
    handle.remove()
    assert explained(model)[:2] == (LOOKED_AT, "NLC:2x8+1")


def test_what_was_found_is_the_models_own_and_keeps_nothing_alive(model: Patches) -> None:
    gc.collect()
    explained(model)
    before = len(known._entries)
    # Another way of calling it may give another order.
    assert explained(model, forward=lambda x: model(x))[0] == LOOKED_AT
    other = copy.deepcopy(model)
    assert explained(other)[0] == LOOKED_AT
    assert len(known._entries) == before + 1
    assert explained(model)[0] == explained(other)[0] == [3]
    alive = weakref.ref(other)
    del other
    gc.collect()
    assert alive() is None
    assert len(known._entries) == before
