"""A class at every place: segmenters, U-Nets, depth, and queries that choose masks or boxes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from tests.shapes.case import COVERS_MOST, FIRST, LAST, Places, covering_most, numbers, shape, tokens
from tests.shapes.parts import Block, Vit, cnn, token


def picture(side: int = 32) -> Tensor:
    return numbers(2, 3, side, side)


class Levels(nn.Module):
    """A small backbone of torchvision's kind, with a level in each entry of a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = cnn(width=8), cnn(8, strides=(2,))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.low(x)
        high = self.high(low)
        return {"low": low, "high": high, "out": high}


def of_torchvision(name: str, right: dict[str, Places], make: Callable[[], nn.Module]) -> None:
    """Puts a segmenter that returns a dict into the sweep."""
    options = {"output_key": "out"}
    shape(name, lambda: picture(64), right, target=COVERS_MOST, score=covering_most, options=lambda: options)(make)


of_torchvision("DeepLab v3", {"classifier.[0123]*": FIRST}, lambda: DeepLabV3(Levels(), DeepLabHead(8, 3)))
of_torchvision("FCN", {"classifier.[012]": FIRST}, lambda: FCN(Levels(), FCNHead(8, 3)))
of_torchvision("LR-ASPP", {"backbone.*": FIRST, "classifier.cbr*": FIRST}, lambda: LRASPP(Levels(), 8, 8, 3))


class Up(nn.Module):
    """Enlarges, joins what was skipped, and convolves."""

    def __init__(self, below: int, skipped: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(below + skipped, width, 3, 1, 1), nn.ReLU())

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([interpolate(x, scale_factor=2.0), skip], 1))


@shape("U-Net", picture, {"up2*": FIRST}, target=COVERS_MOST, score=covering_most)
@shape(
    "U-Net, bottleneck selected by name",
    picture,
    {"bottom": FIRST},
    target=COVERS_MOST,
    score=covering_most,
    options=lambda: {"layers": "bottom"},
)
class Unet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = cnn(3, 6, (1,)), cnn(6, 8, (2,)), cnn(8, 10, (2,))
        self.up1, self.up2, self.out = Up(10, 8, 8), Up(8, 6, 6), nn.Conv2d(6, classes, 1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        high = self.down1(x)
        middle = self.down2(high)
        bottom = self.bottom(middle)
        return self.up2(self.up1(bottom, middle), high), bottom

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x)[0])


def where_on(output: Tensor) -> Tensor:
    """The logit, summed where it is above zero."""
    return (output * (output > 0)).flatten(1).sum(1)


@shape("U-Net, one channel", picture, {"up2*": FIRST}, target={"segment": 1}, score=where_on)
def one_channel() -> nn.Module:
    return Unet(1)


@shape(
    "U-Net with a classifier at its bottleneck",
    picture,
    {"bottom": FIRST},
    options=lambda: {"output_key": "classes"},
)
class TwoHeads(Unet):
    """The decoder runs before the head that is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features, bottom = self.features(x)
        return {"mask": self.out(features), "classes": self.head(bottom.mean((2, 3)))}


@shape(
    "SegFormer, four levels combined", lambda: picture(64), {"fuse*": FIRST}, target=COVERS_MOST, score=covering_most
)
class SegFormer(nn.Module):
    """Two stages of overlapping patches, joined by linear layers and a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patch1, self.patch2 = nn.Conv2d(3, 8, 7, 4, 3), nn.Conv2d(8, 12, 3, 2, 1)
        self.block1, self.block2 = Block(8), Block(12)
        self.linear1, self.linear2 = nn.Linear(8, 10), nn.Linear(12, 10)
        self.fuse, self.out = nn.Sequential(nn.Conv2d(20, 10, 1), nn.ReLU()), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for patch, block, linear in (
            (self.patch1, self.block1, self.linear1),
            (self.patch2, self.block2, self.linear2),
        ):
            x = patch(x)
            grid = x.shape[2:]
            x = block(x.flatten(2).transpose(1, 2))
            levels.append(linear(x).transpose(1, 2).unflatten(2, grid))
            x = x.transpose(1, 2).unflatten(2, grid)
        return self.out(self.fuse(torch.cat([levels[0], interpolate(levels[1], scale_factor=2.0)], 1)))


@shape(
    "a ViT that classifies its tokens",
    picture,
    {"blocks": tokens(4, 4), "norm": tokens(4, 4)},
    target=COVERS_MOST,
    score=covering_most,
)
class Setr(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 12, 8, 8), nn.Sequential(Block(12), Block(12))
        self.norm, self.out = nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.out(self.norm(self.blocks(self.patch(x).flatten(2).transpose(1, 2))))
        return interpolate(logits.transpose(1, 2).unflatten(2, (4, 4)), scale_factor=8.0, mode="bilinear")


def mean_depth(output: Tensor) -> Tensor:
    """How far all places are on the mean."""
    return output.flatten(1).mean(1)


@shape("depth at every location", picture, {"up2*": FIRST}, target=mean_depth)
def depth() -> nn.Module:
    return Unet(1)


def best_query(output: dict[str, Tensor]) -> Tensor:
    """The best class logit of any query, none of them 'no object'."""
    return output["logits"][..., :-1].flatten(1).amax(1)


MEMORY = {"backbone*": FIRST, "project": FIRST, "encoder*": tokens(8, 8), "norm": tokens(8, 8)}


@shape("DETR, sixteen queries", picture, MEMORY, target=best_query, sample=True)
class Detr(nn.Module):
    """Sixteen queries, which could be four by four places."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.project, self.queries = cnn(), nn.Conv2d(8, 12, 1), token(16, 12)
        self.encoder, self.norm = nn.Sequential(Block(12)), nn.LayerNorm(12)
        self.decoder = nn.ModuleList([Block(12), Block(12)])
        self.classes, self.boxes = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        memory = self.norm(self.encoder(self.project(self.backbone(x)).flatten(2).transpose(1, 2)))
        found = self.queries.expand(len(x), -1, -1)
        for block in self.decoder:
            found = block(found, memory)
        return {"logits": self.classes(found), "boxes": self.boxes(found).sigmoid()}


@shape("classification by queries over the image", picture, MEMORY)
class Queried(Detr):
    """As a Q-Former or a Perceiver: the queries' mean is classified."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)["logits"].mean(1)


@shape("masks from queries", picture, {"pixels": FIRST, "body*": FIRST}, target=COVERS_MOST, score=covering_most)
class MaskQueries(nn.Module):
    """Each query's embedding times every place's: 'classes' at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pixels, self.queries, self.decoder = cnn(), nn.Conv2d(8, 12, 1), token(4, 12), Block(12)

    def forward(self, x: Tensor) -> Tensor:
        places = self.pixels(self.body(x))
        found = self.decoder(self.queries.expand(len(x), -1, -1), places.flatten(2).transpose(1, 2))
        return torch.einsum("nqc,nchw->nqhw", found, places)


@shape(
    "open vocabulary, locations times words",
    picture,
    {"norm": LAST, "vit.blocks": tokens(4, 4)},
    target=COVERS_MOST,
    score=covering_most,
)
class Open(nn.Module):
    """Every place's similarity to three words; features are handed on channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.words, self.norm = Vit(cls=False), nn.Parameter(torch.randn(3, 12)), nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        places = self.vit.blocks(self.vit.patch(x).flatten(2).transpose(1, 2) + self.vit.place)
        return (self.norm(places.unflatten(1, (4, 4))) @ self.words.T).movedim(-1, 1)


def mean_over_patches(output: Tensor) -> Tensor:
    """How real all patches look."""
    return output.flatten(1).mean(1)


@shape("a patch discriminator", picture, {"body": FIRST}, target=mean_over_patches)
class Critic(nn.Module):
    """Real or not at every place, [N, 1, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = cnn(), nn.Conv2d(8, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x))


def count(output: Tensor) -> Tensor:
    """How many there are: the density's sum."""
    return output.flatten(1).sum(1)


@shape("counting from a density map", picture, {"body": FIRST}, target=count)
class Density(Critic):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(super().forward(x))


def sharpness(output: Tensor) -> Tensor:
    """How much neighbours differ."""
    return output.diff(dim=3).square().flatten(1).mean(1)


@shape("upscaling by pixel shuffle", picture, {"body": FIRST, "shuffle": FIRST}, target=sharpness)
class Larger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.wide, self.shuffle = cnn(strides=(1, 1)), nn.Conv2d(8, 16, 3, 1, 1), nn.PixelShuffle(2)
        self.out = nn.Conv2d(4, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.shuffle(self.wide(self.body(x))).relu())


def to_the_right(output: Tensor) -> Tensor:
    """The mean motion along the rows."""
    return output[:, 0].flatten(1).mean(1)


@shape(
    "motion between two images",
    lambda: (picture(), numbers(2, 3, 32, 32, seed=1)),
    {"mix": FIRST},
    target=to_the_right,
)
class Motion(nn.Module):
    """Features of both, their correlation over nine shifts, a motion at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mix = cnn(), nn.Sequential(nn.Conv2d(9, 8, 3, 1, 1), nn.ReLU())
        self.out = nn.Conv2d(8, 2, 3, 1, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.body(x), self.body(y)
        shifts = [b.roll((dy, dx), (2, 3)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        return self.out(self.mix(torch.stack([(a * shifted).mean(1) for shifted in shifts], 1)))
