"""Measures what looking for ``"auto"`` costs, in units of a bare forward, for ten model families.

    pip install -e ".[dev]"
    python benchmarks/search.py --threads 2

Every model has random weights from a fixed seed and is in evaluation mode. The search looks at two samples, once a run;
the unit is one forward of the same two under ``no_grad``. Forwards are counted as well: they do not depend on how busy
the machine is. Each round times the bare forward, the search and the bare forward again; figures are medians of the
rounds' own ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, segmentation, video

from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.compute.search import Search
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.targets import Given, resolve_targets

SEED = 0


class UNet(nn.Module):
    """Four levels with skip connections, two classes a pixel."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.out = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scores ``[N, 2, H, W]``."""
        kept: list[Tensor] = []
        for block in self.down:
            x = block(nn.functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), skip], 1))
        scores: Tensor = self.out(x)
        return scores


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def _detector(make: Callable[..., nn.Module]) -> nn.Module:
    model = make(weights=None, weights_backbone=None, num_classes=2, min_size=224, max_size=224)
    model.roi_heads.score_thresh = 0.0  # type: ignore[union-attr]
    return model


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "ResNet-18": (models.resnet18, (3, 224, 224), "predicted"),
    "VGG-11": (models.vgg11, (3, 224, 224), "predicted"),
    "ViT-B/16": (models.vit_b_16, (3, 224, 224), "predicted"),
    "Swin-T": (models.swin_t, (3, 224, 224), "predicted"),
    "ConvNeXt-T": (models.convnext_tiny, (3, 224, 224), "predicted"),
    "U-Net": (UNet, (3, 128, 128), {"segment": "predicted"}),
    "DeepLabV3 (MobileNetV3)": (
        lambda: segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None),
        (3, 224, 224),
        {"segment": "predicted"},
    ),
    "Faster R-CNN (ResNet-50 FPN)": (
        lambda: _detector(detection.fasterrcnn_resnet50_fpn),
        (3, 224, 224),
        {"detect": "predicted"},
    ),
    "Keypoint R-CNN (ResNet-50 FPN)": (
        lambda: _detector(detection.keypointrcnn_resnet50_fpn),
        (3, 224, 224),
        {"detect": "predicted"},
    ),
    "R3D-18, 8 frames": (video.r3d_18, (3, 8, 112, 112), "predicted"),
}


def measure(name: str, rounds: int) -> tuple[float, float, int, str]:
    """Returns the bare forward's seconds, the search's in its units, the search's forwards and the layer found."""
    make, shape, target = FAMILIES[name]
    torch.manual_seed(SEED)
    model, x = make().eval(), torch.rand(2, *shape)
    forwards = [0]
    model.register_forward_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1))

    def run(values: Any) -> Any:
        output = model(values)
        return output["out"] if isinstance(output, dict) else output

    def bare() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            run(x)
        return time.perf_counter() - start

    bare()
    units, ratios, layer = list[float](), list[float](), ""
    for _ in range(rounds):
        before = bare()
        forwards[0] = 0
        start = time.perf_counter()
        with preserved(model):
            layer = Search(model, Request(resolve_targets(target), {}, {}, run), Inputs(x), Given(2)).auto()
        took, count = time.perf_counter() - start, forwards[0]
        units.append((before + bare()) / 2)
        ratios.append(took / units[-1])
    return statistics.median(units), statistics.median(ratios), count, layer


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(FAMILIES), default=list(FAMILIES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        "| model | bare forward, 2 samples | search, in forwards' time | forwards run | layer |\n|---|---|---|---|---|"
    )
    for name in options.only:
        seconds, ratio, count, layer = measure(name, options.rounds)
        print(f"| {name} | {seconds * 1e3:,.0f} ms | {ratio:.1f} | {count} | `{layer}` |", flush=True)


if __name__ == "__main__":
    main()
