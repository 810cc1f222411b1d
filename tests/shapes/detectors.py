"""torchvision's detectors on a small backbone, and an anchor-free head. Each is explained at the level of its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign

from tests.shapes.case import FIRST, LEVEL, numbers, shape
from tests.shapes.parts import cnn

BEST = {"detect": "predicted"}
# What gives the logits and the boxes themselves shows nothing but these.
ONE_LEVEL = {"backbone*": LEVEL, "head.*conv*": LEVEL}


def best(output: Sequence[dict[str, Tensor]]) -> Tensor:
    """The score of each picture's best box."""
    return torch.stack([one["scores"].max() for one in output])


def picture() -> Tensor:
    """One picture: two may have their best boxes on two levels."""
    return numbers(1, 3, 64, 64).sigmoid()


class Pyramid(nn.Module):
    """Two levels in a dict, each added to from above."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.low, self.high = cnn(width=width, strides=(2, 2)), cnn(width, width, (2,))
        self.lateral, self.smooth = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.out_channels = width

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.low(x)
        high = self.high(low)
        return {"0": self.smooth(self.lateral(low) + high.repeat_interleave(2, 2).repeat_interleave(2, 3)), "1": high}


SIZES: dict[str, Any] = {"min_size": 64, "max_size": 64}


def louder(model: nn.Module, level: str) -> nn.Module:
    """Makes one level decide: its features are larger."""
    backbone: Any = model.backbone
    (backbone.high[0] if level == "high" else backbone.smooth).weight.data.mul_(20)
    return model


def retina(level: str) -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
    return louder(RetinaNet(Pyramid(), 3, anchor_generator=anchors, score_thresh=0.0, **SIZES), level)


@shape("RetinaNet, a box from the lower level", picture, ONE_LEVEL, target=BEST, score=best)
def retina_low() -> nn.Module:
    return retina("low")


@shape("RetinaNet, a box from the higher level", picture, ONE_LEVEL, target=BEST, score=best, sample=True)
def retina_high() -> nn.Module:
    return retina("high")


@shape(
    "RetinaNet, pyramid selected by name",
    picture,
    {"backbone": LEVEL},
    target=BEST,
    score=best,
    options=lambda: {"layers": "backbone"},
)
def retina_by_name() -> nn.Module:
    return retina("high")


@shape("FCOS", picture, ONE_LEVEL, target=BEST, score=best)
def fcos() -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
    return louder(FCOS(Pyramid(32), 3, anchor_generator=anchors, score_thresh=0.0, **SIZES), "high")


def two_outputs() -> nn.Module:
    """SSD asks for a width for each level."""
    backbone: Any = Pyramid()
    backbone.out_channels = [8, 8]
    return backbone


@shape("SSD", picture, ONE_LEVEL, target=BEST, score=best)
def ssd() -> nn.Module:
    return louder(SSD(two_outputs(), DefaultBoxGenerator([[2], [2]]), (64, 64), 3, score_thresh=0.0), "high")


@shape("SSDlite", picture, {**ONE_LEVEL, "head.classification_head.module_list.*.0*": LEVEL}, target=BEST, score=best)
def ssdlite() -> nn.Module:
    boxes = DefaultBoxGenerator([[2], [2]])
    head = SSDLiteHead([8, 8], boxes.num_anchors_per_location(), 3, nn.BatchNorm2d)
    return SSD(two_outputs(), boxes, (64, 64), 3, head=head, score_thresh=0.0)


def regions(output: int) -> dict[str, Any]:
    """A single level, and the pooling of its regions."""
    backbone = nn.Sequential(cnn(strides=(2, 2, 2)), nn.Conv2d(8, output, 1), nn.ReLU())
    backbone.out_channels = output
    pool = MultiScaleRoIAlign(["0"], 4, 2)
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    few = {
        "rpn_post_nms_top_n_test": 20,
        "rpn_pre_nms_top_n_test": 50,
        "box_score_thresh": 0.0,
        "box_detections_per_img": 3,
    }
    return {"backbone": backbone, "rpn_anchor_generator": anchors, "box_roi_pool": pool, **few, **SIZES}


REGIONS = {"backbone": FIRST, "backbone.2": FIRST, "backbone.0*": FIRST, "backbone.1": FIRST}


@shape("Faster R-CNN", lambda: numbers(2, 3, 64, 64).sigmoid(), REGIONS, target=BEST, score=best)
def faster() -> nn.Module:
    return FasterRCNN(num_classes=3, **regions(16))


@shape("Mask R-CNN", lambda: numbers(2, 3, 64, 64).sigmoid(), REGIONS, target=BEST, score=best)
def masks() -> nn.Module:
    return MaskRCNN(num_classes=3, mask_roi_pool=MultiScaleRoIAlign(["0"], 4, 2), **regions(16))


@shape("Keypoint R-CNN", lambda: numbers(2, 3, 64, 64).sigmoid(), REGIONS, target=BEST, score=best)
def keypoints() -> nn.Module:
    parts = {
        "keypoint_roi_pool": MultiScaleRoIAlign(["0"], 4, 2),
        "keypoint_head": KeypointRCNNHeads(16, (8, 8)),
        "keypoint_predictor": KeypointRCNNPredictor(8, 5),
    }
    return KeypointRCNN(num_classes=2, **parts, **regions(16))


def finds_nothing() -> nn.Module:
    return RetinaNet(Pyramid(), 3, anchor_generator=AnchorGenerator(((8,), (16,)), ((1.0,),) * 2), **SIZES)


shape(
    "a detector that detects nothing yet",
    picture,
    ONE_LEVEL,
    target=BEST,
    score=lambda out: torch.stack([one["scores"].sum() for one in out]),
    error=("layers", "finds nothing"),
)(finds_nothing)


def best_anchor(output: Tensor) -> Tensor:
    """The best class score over all anchors of [N, 4 + classes, anchors]."""
    return output[:, 4:].flatten(1).amax(1)


APART = {"low": FIRST, "high": FIRST, "heads.0.[01]": FIRST, "heads.1.0": FIRST}
SHARED = {"low": FIRST, "high": FIRST, "heads.?.[01]": LEVEL}


@shape("anchor-free head, a box from the higher level", lambda: numbers(1, 3, 64, 64), APART, target=best_anchor)
class AnchorFree(nn.Module):
    """Boxes and classes of two levels, as [N, 4 + classes, anchors]; 20 anchors are no picture."""

    def __init__(self, *, shared: bool = False, loud: int = 1) -> None:
        super().__init__()
        self.low, self.high = cnn(strides=(4, 4)), cnn(8, strides=(2,))
        head = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 4 + 3, 1))
        self.heads = nn.ModuleList([head, head if shared else nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 7, 1))])
        self.loud = loud

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        outputs = [head(f).flatten(2) for head, f in zip(self.heads, (low, self.high(low)), strict=True)]
        outputs[self.loud] = 9 * outputs[self.loud] + 1
        joined = torch.cat(outputs, 2)
        return torch.cat([joined[:, :4], joined[:, 4:].sigmoid()], 1)


@shape("anchor-free head, a box from the lower level", lambda: numbers(1, 3, 64, 64), APART, target=best_anchor)
def low_level() -> nn.Module:
    return AnchorFree(loud=0)


@shape("anchor-free head shared by levels", lambda: numbers(1, 3, 64, 64), SHARED, target=best_anchor)
def shared_head() -> nn.Module:
    return AnchorFree(shared=True, loud=0)


def one_level_each(output: Tensor) -> Tensor:
    """The first picture's best anchor of the lower level, the second's of the higher."""
    return torch.stack([output[0, 4:, :16].amax(), output[1, 4:, 16:].amax()])


@shape(
    "anchor-free head, a different level for each image",
    lambda: numbers(2, 3, 64, 64),
    {"low": FIRST, "heads.?.[01]": LEVEL},
    target=one_level_each,
)
def level_of_each() -> nn.Module:
    return AnchorFree(shared=True)


def at_the_peak(output: dict[str, Tensor]) -> Tensor:
    """The highest centre of an object."""
    return output["centres"].flatten(1).amax(1)


@shape("object centres", lambda: numbers(2, 3, 32, 32), {"up": FIRST, "body*": FIRST}, target=at_the_peak)
class Centres(nn.Module):
    """Heat maps of centres and their sizes, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.up = cnn(), nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU())
        self.centres, self.sizes = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        f = self.up(self.body(x))
        return {"centres": self.centres(f), "sizes": self.sizes(f)}
