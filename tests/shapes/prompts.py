"""Tokens that are no plain square grid behind one class token: prompts, registers, odd patches, mixers, scans."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.shapes.case import FIRST, LAST, Places, numbers, shape, tokens
from tests.shapes.parts import Attention, Block, token


def picture() -> Tensor:
    return numbers(2, 3, 32, 32)


class Prompted(nn.Module):
    """A class token, prompts, the grid, and more tokens behind it; the class token is read, or the grid's mean."""

    def __init__(self, prompts: int, behind: int = 0, grid: int = 4, *, cls: bool = True) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 12, 8, 8), token(1, 12) if cls else None
        self.prompts = token(prompts, 12) if prompts else None
        self.registers = token(behind, 12) if behind else None
        self.place, self.blocks = token(grid * grid, 12), nn.Sequential(Block(12), Block(12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        before = [t.expand(len(x), -1, -1) for t in (self.cls, self.prompts) if t is not None]
        behind = [] if self.registers is None else [self.registers.expand(len(x), -1, -1)]
        count, places = sum(t.shape[1] for t in before), x.shape[1]
        x = self.norm(self.blocks(torch.cat([*before, x, *behind], 1)))
        return self.head(x[:, 0] if self.cls is not None else x[:, count : count + places].mean(1))


def prompted(
    name: str, prompts: int, behind: int = 0, side: int = 32, *, cls: bool = True, sample: bool = False
) -> None:
    """Puts one into the sweep."""
    grid = side // 8
    right = tokens(grid, grid, before=prompts + cls, behind=behind)
    layers = {"blocks.1.norm1": right} if cls else {"blocks": right, "norm": right}
    shape(name, lambda: numbers(2, 3, side, side), layers, sample=sample)(
        lambda: Prompted(prompts, behind, grid, cls=cls)
    )


prompted("20 prompts before 10 x 10 locations", 20, side=80, sample=True)
prompted("50 prompts before 10 x 10 locations", 50, side=80)
prompted("100 prompts before 10 x 10 locations", 100, side=80)
prompted("4 registers after the grid", 0, 4, sample=True)
prompted("10 detection tokens after the grid", 0, 10)
prompted("prompts before and registers after the grid", 8, 4)
prompted("registers after the grid, no class token", 0, 4, cls=False)
prompted("9 tokens after the grid, which could form a square", 0, 9, cls=False)


@shape(
    "prompts in every block, discarded afterwards",
    picture,
    {"blocks.1.norm1": tokens(4, 4, before=6), "blocks.0": tokens(4, 4, before=6)},
)
class DeepPrompts(nn.Module):
    """New prompts take the places of the old ones before each block."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls, self.place = nn.Conv2d(3, 12, 8, 8), token(1, 12), token(16, 12)
        self.prompts = nn.ParameterList([token(5, 12), token(5, 12)])
        self.blocks, self.head = nn.ModuleList([Block(12), Block(12)]), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for prompts, block in zip(self.prompts, self.blocks, strict=True):
            x = block(torch.cat([x[:, :1], prompts.expand(len(x), -1, -1), x[:, -16:]], 1))
        return self.head(x[:, 0])


class Patched(nn.Module):
    """Patches by any layer, blocks, the mean."""

    def __init__(self, patch: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.patch, self.blocks = patch, nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        x = x if x.dim() == 3 else x.flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class Rearranged(nn.Module):
    """Pixels of a patch in a row, through a linear layer: no convolution anywhere."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size, self.linear = (height, width), nn.Linear(3 * height * width, 12)

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size
        x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
        return self.linear(x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))


def patched(
    name: str, patch: object, *grid: int, size: tuple[int, int] = (32, 32), error: tuple[str, ...] = ()
) -> None:
    """Puts one into the sweep."""
    right = {"blocks": tokens(*grid), "norm": tokens(*grid)}
    shape(name, lambda: numbers(2, 3, *size), right, error=error)(lambda: Patched(patch()))


patched("patches of 8 by 16", lambda: nn.Conv2d(3, 12, (8, 16), (8, 16)), 8, 4, size=(64, 64))
patched("patches of 16 by 4 on a wide image", lambda: nn.Conv2d(3, 12, (16, 4), (16, 4)), 2, 16, size=(32, 64))
patched("overlapping patches", lambda: nn.Conv2d(3, 12, 7, 4, 3), 8, 8)
patched("patches made by rearranging", lambda: Rearranged(8, 8), 4, 4)
# Thirty-two tokens could be 8 by 4 or 4 by 8 places.
patched(
    "patches of 8 by 16 made by rearranging", lambda: Rearranged(8, 16), 8, 4, size=(64, 64), error=("layout", "tokens")
)
patched(
    "a convolutional stem", lambda: nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 12, 4, 4)), 4, 4
)


class Mixer(nn.Module):
    """Linear layers over places, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.places = nn.LayerNorm(12), nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.norm2, self.channels = nn.LayerNorm(12), nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


@shape("MLP-Mixer", picture, {"blocks": tokens(4, 4), "norm": tokens(4, 4)})
def mixer() -> nn.Module:
    model = Patched(nn.Conv2d(3, 12, 8, 8))
    model.blocks = nn.Sequential(Mixer(), Mixer())
    return model


class Scan(nn.Module):
    """A selective state space, one token after the other."""

    def __init__(self, width: int = 12, states: int = 4) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.conv = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.step, self.state = nn.Linear(width, width), nn.Linear(width, 2 * states)
        self.decay = nn.Parameter(torch.rand(width, states))

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.into(self.norm(x)).chunk(2, -1)
        values = self.conv(values.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        step = nn.functional.softplus(self.step(values))[..., None]
        into, out = self.state(values).chunk(2, -1)
        state, found = values.new_zeros(*values[:, 0].shape, self.decay.shape[1]), []
        for at in range(x.shape[1]):
            state = (-step[:, at] * self.decay).exp() * state + step[:, at] * into[:, at, None] * values[:, at, :, None]
            found.append((state * out[:, at, None]).sum(-1))
        return x + self.out(torch.stack(found, 1) * nn.functional.silu(gate))


@shape("state-space blocks", picture, {"blocks": tokens(4, 4), "norm": tokens(4, 4)})
def scans() -> nn.Module:
    model = Patched(nn.Conv2d(3, 12, 8, 8))
    model.blocks = nn.Sequential(Scan(), Scan())
    return model


def around_the_middle(a: Tensor) -> Tensor:
    """Four by four places without the ninth token."""
    return torch.cat([a[:, :8], a[:, 9:]], 1).transpose(1, 2).unflatten(2, (4, 4))


@shape(
    "state-space blocks, the class token in the middle",
    picture,
    {"patch": FIRST, "blocks.*": Places("", around_the_middle)},
    error=("layout", "tokens"),
)
class MiddleToken(Patched):
    """As Vision Mamba: eight tokens, the class token, eight tokens."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 12, 8, 8))
        self.cls, self.blocks = token(1, 12), nn.Sequential(Scan(), Scan())

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([x[:, :8], self.cls.expand(len(x), -1, -1), x[:, 8:]], 1)
        return self.head(self.norm(self.blocks(x))[:, 8])


@shape("scans in four directions, channels last", picture, {"norm": LAST, "out": LAST})
class FourScans(nn.Module):
    """As VMamba: cumulative sums of [N, h, w, C] along both axes, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 12)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        ways = [x.cumsum(1), x.cumsum(2), x.flip(1).cumsum(1).flip(1), x.flip(2).cumsum(2).flip(2)]
        return self.head(self.norm(self.out(torch.stack(ways).mean(0).tanh())).mean((1, 2)))


class Experts(nn.Module):
    """Each token goes to the likelier of two experts, which see [tokens, C] alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(width, 2), nn.ModuleList([nn.Linear(width, width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        chosen = shares.argmax(-1)
        found = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            found[chosen == index] = expert(x[chosen == index]) * shares[chosen == index][:, index, None]
        return x + found


@shape("tokens routed to experts", picture, {"blocks": tokens(4, 4), "norm": tokens(4, 4)})
def experts() -> nn.Module:
    model = Patched(nn.Conv2d(3, 12, 8, 8))
    model.blocks = nn.Sequential(Block(12), Experts(12))
    return model


@shape("tokens pooled by a single attention query", picture, {"blocks": tokens(4, 4), "norm": tokens(4, 4)})
class AttentionPooled(Patched):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 12, 8, 8))
        self.query, self.pool = token(1, 12), Attention(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.patch(x).flatten(2).transpose(1, 2)))
        return self.head(self.pool(self.query.expand(len(x), -1, -1), x)[:, 0])


@shape("tokens merged in pairs", picture, {"merge": tokens(2, 2), "blocks": tokens(2, 2), "norm": tokens(2, 2)})
class Merged(Patched):
    """Patch merging by reshaping: from 16 places to 4."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 12, 8, 8))
        self.merge = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).unflatten(3, (2, 2)).unflatten(2, (2, 2))
        x = self.merge(x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))
        return self.head(self.norm(self.blocks(x)).mean(1))


@shape("only the most likely half of the tokens kept", picture, {"blocks.0": tokens(4, 4), "patch": FIRST})
class Pruned(Patched):
    """Eight of sixteen tokens, which are no grid any more."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 12, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.patch(x).flatten(2).transpose(1, 2))
        kept = x.norm(dim=2).topk(8, dim=1).indices
        x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
        return self.head(self.norm(self.blocks[1](x)).mean(1))
