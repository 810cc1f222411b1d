"""Layers with several feature maps: pyramids, heads that levels share, encoders of two pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator

from lightning_gradcam import LayerError, compute_cams
from lightning_gradcam.methods import resolve_methods

SIDES = (16, 8, 4)


class Pyramid(nn.Module):
    """Three levels, each made from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 4, 1)
        self.down = nn.ModuleList([nn.Conv2d(6, 6, 3, 2, 1) for _ in SIDES[1:]])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = [self.stem(x).tanh()]
        for layer in self.down:
            levels.append(layer(levels[-1]).tanh())
        return {str(number): level for number, level in enumerate(levels)}


class AnchorFree(nn.Module):
    """A small anchor-free detector: ``[N, 4 + classes, anchors]``, as of a single head that its levels share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fpn = Pyramid()
        self.conv, self.out = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4 + 3, 1)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.out(self.conv(level).tanh()).flatten(2) for level in self.fpn(x).values()], 2)


PLACES = [side * side for side in SIDES]
# The anchors that the three samples are explained at: one of the middle level, one of the last, one of the first.
ANCHORS = (PLACES[0] + 21, PLACES[0] + PLACES[1] + 6, 100)
LEVELS = (1, 2, 0)


def boxes(output: Tensor) -> Tensor:
    rows = torch.arange(len(output))
    return output[rows, 5, torch.tensor(ANCHORS[: len(output)])]


def level_of(model: AnchorFree, x: Tensor, layer: str, level: int) -> Tensor:
    """The feature map of one level, as the layer gives it."""
    found: Tensor = list(model.fpn(x).values())[level]
    return found if layer == "fpn" else model.conv(found)


def after(model: AnchorFree, layer: str, level: Tensor) -> Tensor:
    """The level's own part of the output."""
    found: Tensor = model.out((level if layer == "conv" else model.conv(level)).tanh()).flatten(2)
    return found


def plain(model: AnchorFree, x: Tensor, layer: str, method: str) -> Tensor:
    """Each sample's map at its own level by plain autograd, its places repeated up to the finest grid."""
    found = []
    for row, (level, anchor) in enumerate(zip(LEVELS, ANCHORS, strict=True)):
        activation = level_of(model, x[row : row + 1], layer, level).detach().requires_grad_()
        score = after(model, layer, activation)[0, 5, anchor - sum(PLACES[:level])]
        (gradient,) = torch.autograd.grad(score, activation)
        weights = gradient.mean((2, 3), keepdim=True) if method == "gradcam" else gradient
        own = (weights * activation.detach()).sum(1)[0]
        times = SIDES[0] // SIDES[level]
        found.append(own.repeat_interleave(times, 0).repeat_interleave(times, 1))
    return torch.stack(found)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("layer", ["fpn", "conv"])
def test_each_sample_is_explained_at_the_level_of_its_box(layer: str, copies: bool) -> None:
    model = AnchorFree()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    if copies:
        # An operation in place behind the layer.
        model.fpn.register_forward_hook(lambda _, __, output: {name: level.mul_(1) for name, level in output.items()})
    methods = ["gradcam", "hirescam"]
    cams = compute_cams(model, x, layer, targets=boxes, methods=methods, relu=False, gradients=True)
    for method in methods:
        expected = plain(model, x, layer, method)
        assert expected.flatten(1).abs().amax(1).min() > 0
        torch.testing.assert_close(cams[layer, method, "boxes"], expected, rtol=1e-6, atol=0)
    assert cams.layouts[layer].grid == (16, 16)
    names = {"fpn": ("fpn[1]", "fpn[2]", "fpn[0]"), "conv": ("conv#1", "conv#2", "conv#0")}
    assert cams.levels[layer, "boxes"] == names[layer]
    assert not cams.gradients[layer, "boxes"].vanished.any()


@pytest.mark.parametrize("layer", ["fpn", "conv"])
def test_a_sample_is_explained_alone_as_it_is_in_a_batch(layer: str) -> None:
    model = AnchorFree()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    whole = compute_cams(model, x, layer, targets=lambda o: o[:, 5].amax(1), relu=False)
    parts = compute_cams(model, x, layer, targets=lambda o: o[:, 5].amax(1), relu=False, batch_size=1)
    torch.testing.assert_close(whole[layer], parts[layer], rtol=1e-9, atol=0)
    assert whole.levels == parts.levels


def test_methods_that_run_the_model_again_replace_the_level_that_is_explained() -> None:
    model = AnchorFree()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    cams = compute_cams(model, x, ["fpn", "conv"], targets=boxes, methods="ablationcam", relu=False)
    for layer in ("fpn", "conv"):
        for row, (level, anchor) in enumerate(zip(LEVELS, ANCHORS, strict=True)):
            activation = level_of(model, x[row : row + 1], layer, level).detach()
            place = anchor - sum(PLACES[:level])
            score = after(model, layer, activation)[0, 5, place]
            summed = torch.zeros(activation.shape[2:], dtype=torch.float64)
            for channel in range(activation.shape[1]):
                without = activation.clone()
                without[:, channel] = 0
                drop = (score - after(model, layer, without)[0, 5, place]) / score
                summed += (drop * activation[0, channel]).detach()
            found = cams[layer, "ablationcam", "boxes"][row]
            times = SIDES[0] // SIDES[level]
            # Up to the method's own scale of scores.
            ratio = found[::times, ::times] / summed.detach()
            torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-6, atol=0)


def detector(name: str) -> Any:
    torch.manual_seed(0)
    own: dict[str, Any] = {"min_size": 64, "max_size": 64} if "resnet" in name else {}
    if "rcnn" not in name:
        own["score_thresh"] = 0.0
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3, **own).eval()
    if "rcnn" in name:
        model.roi_heads.score_thresh = 0.0
    if "ssdlite" in name:
        # Its own start leaves activations of 1e-13, and all boxes with the same score.
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return model.double()


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("retinanet_resnet50_fpn", ["backbone", "backbone.fpn", "head.classification_head.conv"]),
        ("fcos_resnet50_fpn", ["backbone", "backbone.fpn", "head.classification_head.conv"]),
        ("ssd300_vgg16", ["backbone"]),
        ("ssdlite320_mobilenet_v3_large", ["backbone"]),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", ["backbone", "backbone.fpn"]),
        ("fasterrcnn_resnet50_fpn", ["backbone", "backbone.fpn"]),
    ],
)
@pytest.mark.slow
def test_torchvisions_detectors_have_no_blank_map(name: str, layers: list[str]) -> None:
    model = detector(name)
    x = torch.rand(2, 3, 96, 96, dtype=torch.float64)
    cams = compute_cams(model, x, ["auto", *layers], targets={"detect": "predicted"}, relu=False)
    for key, maps in cams.items():
        assert (maps.flatten(1).abs().amax(1) > 0).all(), key
    # The gradient by plain autograd names the same levels.
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.extend(level.clone() for level in output.values())
        return dict(zip(output, kept, strict=True))

    handle = model.backbone.register_forward_hook(keep)
    output = model(x)
    handle.remove()
    target = next(iter(cams)).target
    for row, found in enumerate(output):
        gradients = torch.autograd.grad(found["scores"].max(), kept, allow_unused=True, retain_graph=True)
        strengths = [0.0 if gradient is None else float(gradient[row].abs().sum()) for gradient in gradients]
        strongest = strengths.index(max(strengths))
        assert cams.levels["backbone", target][row] == f"backbone[{strongest}]"
        (found_maps,) = (maps for key, maps in cams.items() if key.layer == "backbone")
        own = kept[strongest][row].detach() * gradients[strongest][row].mean((1, 2), keepdim=True)
        expected = nn.functional.interpolate(own.sum(0)[None, None], size=found_maps.shape[1:], mode="nearest-exact")
        torch.testing.assert_close(found_maps[row], expected[0, 0], rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


class TwoLevels(nn.Module):
    """As the detector that was reported: the best boxes are those of level 1, and level 2 is made from it."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.top = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        p = self.a(x).relu()
        q = self.b(p).relu()
        return {"0": self.top(p), "1": q, "2": q[:, :, ::8, ::8]}


def test_a_retinanets_map_is_that_of_the_boxs_level() -> None:
    torch.manual_seed(0)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    model = torchvision.models.detection.RetinaNet(
        TwoLevels(), 3, anchor_generator=anchors, min_size=64, max_size=64, score_thresh=0.0
    )
    model = model.double().eval()
    model.backbone.b.weight.data *= 30
    model.backbone.top.weight.data *= 0.01
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    for layer in ("auto", "backbone"):
        cams = compute_cams(model, x, layer, targets={"detect": "predicted"}, relu=False)
        assert list(cams.layouts) == ["backbone"]
        kept: dict[str, Tensor] = {}

        def keep(_module: nn.Module, _args: Any, output: dict[str, Tensor], kept: dict[str, Tensor] = kept) -> Any:
            kept.update({name: level.clone() for name, level in output.items()})
            return dict(kept)

        handle = model.backbone.register_forward_hook(keep)
        scores = torch.stack([found["scores"].max() for found in model(x)])
        handle.remove()
        (gradient,) = torch.autograd.grad(scores.sum(), [kept["1"]])
        own = (gradient.mean((2, 3), keepdim=True) * kept["1"].detach()).sum(1)
        assert own.flatten(1).abs().amax(1).min() > 0
        expected = own.repeat_interleave(2, 1).repeat_interleave(2, 2)
        torch.testing.assert_close(next(iter(cams.values())), expected, rtol=1e-6, atol=0)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.Tanh())
        self.head = nn.Linear(10, 3)
        self.double().eval()

    def compared(self, first: Tensor, second: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.cat([first.mean((2, 3)), second.pow(2).mean((2, 3))], 1))
        return scores

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.compared(self.encoder(first), self.encoder(second))


def pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 13, 13, dtype=torch.float64), torch.randn(2, 3, 13, 13, dtype=torch.float64)


def of_pair(model: Siamese, call: int) -> Tensor:
    maps = [model.encoder(x).detach().requires_grad_() for x in pair()]
    (gradient,) = torch.autograd.grad(model.compared(*maps)[:, 1].sum(), maps[call])
    found: Tensor = (gradient.mean((2, 3), keepdim=True) * maps[call].detach()).sum(1)
    return found


@pytest.mark.parametrize("layers", ["encoder#*", ["encoder#0", "encoder#1"], "enc*#*"])
def test_both_pictures_of_a_siamese_network_have_their_map(layers: Any) -> None:
    model = Siamese()
    cams = compute_cams(model, pair(), layers, targets=1, relu=False)
    assert [key.layer for key in cams] == ["encoder#0", "encoder#1"]
    for call in (0, 1):
        torch.testing.assert_close(cams[f"encoder#{call}"], of_pair(model, call), rtol=1e-6, atol=0)


def test_without_a_call_it_is_the_last_whatever_the_first_ones_gradient_is() -> None:
    model = Siamese()
    model.head.weight.data[:, :5] *= 1000
    cams = compute_cams(model, pair(), "encoder", targets=1, relu=False)
    torch.testing.assert_close(cams["encoder"], of_pair(model, 1), rtol=1e-6, atol=0)


def test_each_call_is_replaced_by_methods_that_run_the_model_again() -> None:
    model = Siamese()
    cams = compute_cams(model, pair(), "encoder#*", targets=1, methods="ablationcam", relu=False)
    maps = [model.encoder(x).detach() for x in pair()]
    for call in (0, 1):
        score, summed = model.compared(*maps)[:, 1], torch.zeros(2, 6, 6, dtype=torch.float64)
        for channel in range(5):
            without = [values.clone() for values in maps]
            without[call][:, channel] = 0
            drop = score - model.compared(*without)[:, 1]
            summed += (drop[:, None, None] * maps[call][:, channel]).detach()
        ratio = cams[f"encoder#{call}"] / summed
        torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ("encoder#7", "'encoder#7': the forward pass calls 'encoder' twice; specify 'encoder#0' to 'encoder#1'"),
        ("head#1", "'head#1': the forward pass calls 'head' once; specify 'head#0'"),
        ("encodr#0", "layer 'encodr' not found.*encoder"),
    ],
)
def test_a_call_that_is_not_made_is_named(layers: str, text: str) -> None:
    with pytest.raises(LayerError, match=text):
        compute_cams(Siamese(), pair(), layers, targets=1)


def test_methods_of_the_registry_work_at_levels() -> None:
    model = AnchorFree()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    names = [name for name, method in resolve_methods(["gradcam", "gradcam++", "eigencam", "xgradcam"]).items()]
    cams = compute_cams(model, x, "conv", targets=boxes, methods=names)
    assert {tuple(maps.shape) for maps in cams.values()} == {(3, 16, 16)}
