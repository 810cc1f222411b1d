"""Tokens are a grid of the picture where the forward shows it, in whatever order they stand, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gradcam import LayerError, compute_cams, compute_feature_maps
from lightning_gradcam.capture.layout import Layout, parse_layouts
from lightning_gradcam.capture.shapes import find_layout


def embedded(model: Grid, x: Tensor) -> Tensor:
    """Patches by a convolution."""
    return model.embed(x).flatten(2).transpose(1, 2)


def rearranged(model: Grid, x: Tensor) -> Tensor:
    """Patches of 4 x 8 by a view and a linear layer."""
    n, c, h, w = x.shape
    patches = x.view(n, c, h // 4, 4, w // 8, 8).permute(0, 2, 4, 1, 3, 5).reshape(n, (h // 4) * (w // 8), c * 32)
    return model.linear(patches)


def unfolded(model: Grid, x: Tensor) -> Tensor:
    """Patches of 4 x 8 by an unfold and a linear layer."""
    return model.linear(F.unfold(x, (4, 8), stride=(4, 8)).transpose(1, 2))


def clips(model: Grid, x: Tensor) -> Tensor:
    """Patches of each frame, which the batch holds meanwhile."""
    n, frames = x.shape[:2]
    tokens = model.embed(x.flatten(0, 1)).flatten(2).transpose(1, 2)
    return tokens.reshape(n, frames * tokens.shape[1], -1)


class Grid(nn.Module):
    """Tokens with others before, behind or between them, a block and a head."""

    def __init__(
        self, tokens: Callable[[Grid, Tensor], Tensor], before: int, behind: int, split: int | None, patch: Any
    ) -> None:
        super().__init__()
        self.tokens, self.split = tokens, split
        self.embed, self.linear = nn.Conv2d(1, 8, patch, patch), nn.Linear(32, 8)
        self.before = nn.Parameter(torch.randn(1, before, 8))
        self.behind = nn.Parameter(torch.randn(1, behind, 8))
        self.norm, self.block = nn.LayerNorm(8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def body(self, x: Tensor) -> Tensor:
        found = self.tokens(self, x)
        before, behind = (extra.expand(len(x), -1, -1) for extra in (self.before, self.behind))
        at = found.shape[1] if self.split is None else self.split
        normed: Tensor = self.norm(torch.cat([before, found[:, :at], behind, found[:, at:]], 1))
        return normed

    def top(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.block(tokens).tanh().mean(1))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.body(x))


KINDS: dict[str, tuple[Callable[[Grid, Tensor], Tensor], int, int, int | None, Any, tuple[int, ...], str]] = {
    "50 prompts": (embedded, 51, 0, None, 4, (1, 40, 40), "51+10x10"),
    "registers behind": (embedded, 1, 4, None, 4, (1, 16, 24), "1+4x6+4"),
    "class token behind": (embedded, 0, 1, None, 4, (1, 16, 16), "4x4+1"),
    "100 detection tokens behind": (embedded, 1, 100, None, 4, (1, 16, 16), "1+4x4+100"),
    "class token in the middle": (embedded, 0, 1, 8, 4, (1, 16, 16), "4x4+1@8"),
    "middle of an odd grid": (embedded, 0, 1, 4, 4, (1, 12, 12), "3x3+1@4"),
    "patches of 8 x 16": (embedded, 1, 0, None, (8, 16), (1, 64, 64), "1+8x4"),
    "rearranged": (rearranged, 1, 0, None, 4, (1, 32, 32), "1+8x4"),
    "unfolded": (unfolded, 0, 2, None, 4, (1, 32, 32), "8x4+2"),
    "clips": (clips, 1, 0, None, 4, (4, 1, 16, 16), "1+4x4x4"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_tokens_are_those_of_the_places_that_feed_them(kind: str) -> None:
    tokens, before, behind, split, patch, size, expected = KINDS[kind]
    torch.manual_seed(0)
    model = Grid(tokens, before, behind, split, patch).double().eval()
    x = torch.randn(2, *size, dtype=torch.float64)
    cams = compute_cams(model, x, ["norm", "block"], targets=1, relu=False)
    assert {str(layout) for layout in cams.layouts.values()} == {f"NLC:{expected}"}
    grid = cams.layouts["norm"].grid
    places = model.tokens(model, x).shape[1]
    at = before + (places if split is None else split)
    own = [*range(before, at), *range(at + behind, places + before + behind)]

    tokens_now = model.body(x).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(model.top(tokens_now)[:, 1].sum(), tokens_now)
    weights = slopes[:, own].mean(1, keepdim=True)
    reference = (tokens_now.detach()[:, own] * weights).sum(2).reshape(2, *grid)
    torch.testing.assert_close(cams["norm"], reference, rtol=1e-6, atol=1e-12)


def test_layouts_with_tokens_behind_and_between() -> None:
    for layout in (Layout("NLC", (2, 3), 1, 4), Layout("NLC", (3, 3), 0, 1, 4), Layout("LNC", (2, 2, 3), 1, 2, 6)):
        sizes = {"N": 2, "L": layout.tokens, "C": 5}
        raw = torch.randn([sizes[axis] for axis in layout.axes])
        features = layout.feature_map(raw)
        assert features.shape == (2, 5, *layout.grid)
        assert torch.equal(layout.restored(features, raw), raw)
        changed = layout.restored(features * 0, raw)
        assert int((changed != 0).sum()) == layout.extra * 2 * 5
        assert find_layout("x", raw.shape, samples=2, picture=(9, 9), given=str(layout)) == layout
    for spec in ("NLC:4x4+1@0", "NLC:4x4+1@16", "NLC:4x4+0@3", "NLC:4x4@3", "NLC:4x4+1+1"):
        with pytest.raises(LayerError, match="layout: got"):
            parse_layouts(spec)


class Turned(nn.Module):
    """Tokens, places first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(1, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head((self.norm(self.embed(x).flatten(2).permute(2, 0, 1)) ** 2).mean(0))
        return scores


@pytest.mark.parametrize("samples", [1, 2, 3, 16])
def test_as_many_samples_as_tokens_that_come_first(samples: int) -> None:
    torch.manual_seed(0)
    side = 8 if samples == 2 else 16
    model, x = Turned().double(), torch.randn(samples, 1, 8 if samples != 16 else side, side, dtype=torch.float64)
    cams = compute_cams(model, x, "norm", targets=1, methods="hirescam", relu=False)
    assert str(cams.layouts["norm"]) == f"LNC:{x.shape[2] // 4}x{x.shape[3] // 4}"
    tokens = model.norm(model.embed(x).permute(0, 2, 3, 1)).detach()
    weights = model.head.weight[1].detach() * 2 / tokens[0, ..., 0].numel()
    torch.testing.assert_close(cams["norm"], (tokens**2 * weights).sum(3))


class Frames(nn.Module):
    """Features of each frame, and a recurrence over them."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.seq, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.cnn(x.flatten(0, 1)).relu().mean((2, 3)).view(*x.shape[:2], -1)
        scores: Tensor = self.head(self.seq(features)[0][:, -1])
        return scores


class Words(nn.Module):
    """A picture and a text, with as many words as the picture has patches."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Conv2d(3, 16, 4, 4), nn.Embedding(99, 16)
        self.seq = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        pooled = [self.image(image).relu().mean((2, 3)), self.seq(self.words(ids)).mean(1)]
        scores: Tensor = self.head(torch.cat(pooled, 1))
        return scores


class Queries(nn.Module):
    """Learned queries, as many as there are places, look at the picture's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.queries = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 16, 16))
        self.seq = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.embed(x).flatten(2).transpose(1, 2)
        scores: Tensor = self.head(self.seq(self.queries.expand(len(x), -1, -1), memory).mean(1))
        return scores


class Bag(nn.Module):
    """Attention over the pictures of a bag."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 3)
        self.seq = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        features = self.cnn(x.flatten(0, 1)).relu().mean((2, 3)).view(*x.shape[:2], -1)
        scores: Tensor = self.head(self.seq(features).mean(1))
        return scores


class Levels(nn.Module):
    """The tokens of two levels, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.seq = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 2, 2), nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        levels = [level.flatten(2).transpose(1, 2) for level in (fine, self.coarse(fine))]
        scores: Tensor = self.head((self.seq(torch.cat(levels, 1)) ** 2).mean(1))
        return scores


class Shuffled(nn.Module):
    """Patches in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.seq, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        scores: Tensor = self.head(self.seq(tokens[:, torch.arange(16) * 5 % 16]).mean(1))
        return scores


PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
OTHERS: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "frames": (Frames, PICTURES[:, None].repeat(1, 5, 1, 1, 1), "cnn"),
    "words": (Words, {"image": PICTURES, "ids": torch.arange(32).reshape(2, 16)}, "image"),
    "queries": (Queries, PICTURES, "embed"),
    "bag": (Bag, PICTURES[:, None].repeat(1, 16, 1, 1, 1), "cnn"),
    "levels": (Levels, PICTURES, "coarse"),
    "shuffled": (Shuffled, PICTURES, "norm"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_stands_in_a_row_but_not_on_a_grid_is_refused(kind: str) -> None:
    make, inputs, auto = OTHERS[kind]
    torch.manual_seed(0)
    model = make().eval()
    why = r"'seq' returns \[2, \d+, \d+\], which may not be .*\{'seq': 'NLC:1\+14x14'\}"
    if kind in ("frames", "bag"):
        why = r"'seq' returns \d+ tokens \[2, \d+, \d+\] for the input's \d+ frames: one row for each frame"
    with pytest.raises(LayerError, match=why):
        compute_cams(model, inputs, "seq", targets=1)
    with pytest.raises(LayerError, match="'seq' returns"):
        compute_feature_maps(model, inputs, "seq")
    assert list(compute_cams(model, inputs, targets=1).layouts) == [auto]


def test_the_users_word_is_taken() -> None:
    torch.manual_seed(0)
    cams = compute_cams(Queries().eval(), PICTURES, "seq", targets=1, layout={"seq": "NLC:4x4"})
    assert str(cams.layouts["seq"]) == "NLC:4x4"


def test_a_recurrence_over_the_columns_of_a_single_row_has_their_places() -> None:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn, self.seq = nn.Conv2d(1, 6, (16, 2), (16, 2)), nn.LSTM(6, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.seq(self.cnn(x)[:, :, 0].transpose(1, 2))[0].mean(1))
            return scores

    torch.manual_seed(0)
    cams = compute_cams(Columns(), torch.randn(2, 1, 16, 32), "seq", targets=1)
    assert str(cams.layouts["seq"]) == "NLC:1x16"


class CutOut(nn.Module):
    """Patches of 8 by 8 in the batch, each through a convolution; then a block over them, in the order of their rows.

    Or in that of a list of places.
    """

    def __init__(self, order: list[int] | None = None) -> None:
        super().__init__()
        self.order = order
        self.cnn, self.block = nn.Conv2d(3, 6, 3, 1, 1), nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)
        self.head = nn.Linear(6, 3)

    def features(self, x: Tensor) -> Tensor:
        parts = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        members = self.cnn(parts).relu().mean((2, 3)).unflatten(0, (len(x), -1))
        found: Tensor = self.block(members if self.order is None else members[:, self.order])
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.features(x).mean(1))
        return found


def test_patches_cut_out_and_folded_into_the_batch_are_tokens_of_the_picture() -> None:
    torch.manual_seed(0)
    model, x = CutOut().double().eval(), torch.randn(2, 3, 24, 32, dtype=torch.float64)
    cams = compute_cams(model, x, targets=1, relu=False)
    assert {key.layer: str(cams.layouts[key.layer]) for key in cams} == {"block": "NLC:3x4"}
    a = model.features(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(model.head(a.mean(1))[:, 1].sum(), a)
    expected = (g.mean(1, keepdim=True) * a).sum(2).reshape(2, 3, 4)
    torch.testing.assert_close(cams["block"], expected.detach(), rtol=1e-6, atol=1e-12)


def test_patches_in_another_order_are_no_grid() -> None:
    order = [3, 1, 0, 2, *range(4, 12)]
    with pytest.raises(LayerError, match="'block' returns .* may not be locations in the image"):
        compute_cams(CutOut(order).double().eval(), torch.randn(2, 3, 24, 32, dtype=torch.float64), "block", targets=1)
