"""``"auto"`` follows the explained score back through the graph, past branches that were called later."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import CaptureError, compute_cams
from lightning_gradcam.capture.graph import upstream
from lightning_gradcam.capture.inspection import Survey, mixed
from lightning_gradcam.capture.trail import Watcher, executed
from tests.reference import plain_gradcam


class Branching(nn.Module):
    """A classifier that goes on, after its encoder, with something that its classes do not depend on."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.classes, self.out = nn.Linear(8, 4), nn.Conv2d(8, 4, 1)
        # More layers than are tried at a time, none of which dies out.
        self.decoder = nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(100 if kind == "decoder" else 1)])
        self.teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.double().eval()

    def top(self, features: Tensor) -> Tensor:
        scores: Tensor = self.classes(features.mean((2, 3)))
        return scores

    def dense(self, features: Tensor) -> Tensor:
        scores: Tensor = self.out(features).mean((2, 3))
        return scores

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(x)
        if self.kind == "teacher":
            scores = self.top(features)
            with torch.no_grad():
                return scores, self.teacher(x)
        if self.kind == "logits at every place":
            return self.dense(features), self.decoder(features.detach())
        return self.top(features), self.out(self.decoder(features))


@pytest.mark.parametrize("kind", ["decoder", "auxiliary head", "teacher", "logits at every place"])
def test_auto_is_the_layer_before_the_explained_head(kind: str) -> None:
    model = Branching(kind)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    cams = compute_cams(model, x, output_key=0, targets=1)
    assert list(cams.layouts) == ["encoder"]
    top = model.dense if kind == "logits at every place" else model.top
    expected = plain_gradcam(top, model.encoder, x, [1, 1])
    assert (expected > 0).any()
    torch.testing.assert_close(cams["encoder"], expected, rtol=1e-6, atol=1e-12)


def test_a_layer_of_a_long_branch_is_refused_with_one_that_works() -> None:
    with pytest.raises(CaptureError, match="no gradient reaches 'out': .* for instance 'encoder'"):
        compute_cams(Branching("decoder"), torch.randn(2, 3, 12, 12).double(), "out", output_key=0, targets=1)


def test_what_leads_to_a_score_and_what_does_not() -> None:
    shared, left, right = nn.Linear(2, 4), nn.Linear(2, 2), nn.ReLU()
    for module in (shared, left):
        module.requires_grad_(False)
    layers = {"shared": shared, "left": left, "right": right}

    def forward() -> tuple[Tensor, Tensor]:
        first, second = shared(torch.rand(1, 1, 2)).split(2, 2)
        return left(first), right(second)

    watcher = Watcher(None, force=False)
    _, scores, _ = executed(layers, forward, watcher=watcher)
    origins = watcher.trail.origins()
    leading = [{name for name, origin in origins.items() if origin in upstream(score)} for score in scores]
    assert upstream(scores[0].detach()) == set()
    assert leading == [{"shared", "left"}, {"shared", "right"}]
    assert not any(module._forward_hooks for module in (shared, left, right))


class Heads(nn.Module):
    """A head of convolutions for each class, or each pair of outputs, behind one trunk."""

    def __init__(self, seed: int, *, mixed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.mixed = mixed
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.heads = nn.ModuleList(nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.tops = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk(x)
        found = [top(head(features).mean((2, 3))) for head, top in zip(self.heads, self.tops, strict=True)]
        joined = torch.cat(found, 1)
        # Every class depends on every head then, and the last of these will do.
        return self.last(joined) if self.mixed else joined


@pytest.mark.parametrize("seed", range(8))
def test_auto_is_no_head_that_some_classes_do_not_depend_on(seed: int) -> None:
    x = torch.randn(4, 3, 12, 12)
    for wanted in ([0, 1, 2], "predicted"):
        cams = compute_cams(Heads(seed).eval(), x, targets=wanted, relu=False)
        assert list(cams.layouts) == ["trunk"]
    assert list(compute_cams(Heads(seed, mixed=True).eval(), x, relu=False).layouts) == ["heads.2"]


class SingleShot(nn.Module):
    """A detector whose levels have a head each."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.down = nn.Conv2d(3, 6, 3, 4, 1), nn.Conv2d(6, 6, 3, 2, 1)
        self.backbone = Levels(self.stem, self.down)
        self.heads = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.tops = nn.ModuleList(nn.Conv2d(6, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        maps = [head(level).relu() for head, level in zip(self.heads, self.backbone(x), strict=True)]
        scores = torch.cat([top(found).flatten(1) for top, found in zip(self.tops, maps, strict=True)], 1).sigmoid()
        boxes = torch.zeros(scores.shape[1], 4)
        return [{"boxes": boxes, "labels": torch.ones(len(row), dtype=torch.long), "scores": row} for row in scores]


class Levels(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.layers[0](x)
        return [first, self.layers[1](first.relu())]


@pytest.mark.parametrize("seed", range(8))
def test_auto_on_a_detector_is_what_all_its_boxes_come_from(seed: int) -> None:
    cams = compute_cams(SingleShot(seed).eval(), torch.randn(4, 3, 32, 32), targets={"detect": 1}, relu=False)
    assert list(cams.layouts) == ["backbone"]
    assert all(bool(found.any()) for found in next(iter(cams.values())))


def test_auto_takes_one_forward() -> None:
    calls: list[int] = []
    single = SingleShot(0).eval()
    single.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    compute_cams(single, torch.randn(4, 3, 32, 32), targets={"detect": 1})
    # One of two samples to look, one that explains, and two that show that places are those of the picture.
    assert calls == [2, 4, 2, 2]


class Counted(nn.Module):
    """Hands its input on, and counts the backwards that come through."""

    def __init__(self) -> None:
        super().__init__()
        self.backwards = 0

    def _count(self, _gradient: Tensor) -> None:
        self.backwards += 1

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        if x.requires_grad:
            x.register_hook(self._count)
        return x


class Keypoints(nn.Module):
    """Boxes and scores from a short head, keypoints from a long one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.short, self.counted = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, 5), Counted()
        self.long = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(4)])

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        pooled = self.backbone(x).relu().mean((2, 3))
        found, keypoints = self.short(pooled), self.counted(self.long(pooled))
        one = torch.ones(1, dtype=torch.long)
        return [
            {"keypoints": k[None], "boxes": row[None, :4], "labels": one, "scores": row[4:].sigmoid()}
            for k, row in zip(keypoints, found, strict=True)
        ]


def test_auto_does_not_ask_the_keypoints_what_the_boxes_tell() -> None:
    model = Keypoints().eval()
    survey = Survey(model, model, torch.randn(2, 3, 16, 16), {}, graph=True)
    assert (survey.auto(mixed), model.counted.backwards) == ("backbone", 0)


class DeadEnd(nn.Sequential):
    """Twelve layers in front of a head that begins at zero."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3 if at == 0 else 4, 4, 3, padding=1) for at in range(12)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), Counted(), nn.Flatten(), nn.Linear(4, 3))
        nn.init.zeros_(self[-1].weight)


def test_auto_asks_many_layers_in_a_few_backwards() -> None:
    model = DeadEnd().eval()
    survey = Survey(model, model, torch.randn(2, 3, 12, 12), {}, graph=True)
    assert survey.auto(mixed) == "11"
    assert sum(module.backwards for module in model if isinstance(module, Counted)) <= 8


def test_a_block_that_only_passes_an_earlier_map_on_is_not_the_layer_that_made_it() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, 2, 1)

        def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
            return fine, self.conv(coarse)

    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.block, self.head = Beside(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            fine = self.first(x)
            _, coarse = self.block(fine, self.second(fine))
            scores: Tensor = self.head(coarse.mean((2, 3)))
            return scores

    torch.manual_seed(0)
    assert list(compute_cams(Parallel(), torch.randn(2, 3, 32, 32), relu=False).layouts) == ["block.conv"]
