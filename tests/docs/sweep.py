"""What `"auto"` finds in a model of a library, for the test of every model and for the page that lists them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from lightning_gradcam import compute_cams

CLASSIFICATION = torchvision.models.list_models(module=torchvision.models)
VIDEO = torchvision.models.list_models(module=torchvision.models.video)
TIMM = [
    "beit_base_patch16_224", "cait_xxs24_224", "coat_tiny", "convnext_atto", "convnextv2_atto",
    "deit_tiny_distilled_patch16_224", "densenet121", "ecaresnet26t", "edgenext_xx_small", "efficientformer_l1",
    "efficientnet_b0", "eva02_tiny_patch14_224", "fastvit_t8", "ghostnet_100", "hiera_tiny_224", "levit_128s",
    "maxvit_rmlp_pico_rw_256", "mixer_s32_224", "mobilenetv3_small_100", "mobilevit_xxs", "nfnet_l0", "poolformer_s12",
    "pvt_v2_b0", "regnety_002", "repvgg_a0", "resnet18", "resnetv2_50", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "tiny_vit_5m_224", "twins_svt_small", "vit_base_patch16_siglip_224",
    "vit_little_patch16_reg4_gap_256", "vit_betwixt_patch16_reg4_gap_256", "vit_small_patch14_dinov2",
    "vit_tiny_patch16_224", "volo_d1_224", "xception41", "xcit_nano_12_p16_224",
]  # fmt: skip
_FIXED = ("vit", "swin", "maxvit", "mvit", "beit", "cait", "coat", "deit", "eva", "hiera", "levit", "mixer", "tiny_vit",
          "twins", "volo", "xcit", "mobilevit", "efficientformer", "pvt", "poolformer")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """One row of the page."""

    model: str
    size: str
    layer: str
    layout: str
    grid: tuple[int, ...]


def input_for(name: str, *, video: bool = False, samples: int = 2) -> Tensor:
    """Pictures or clips, about the smallest that leave the last layer four places a side."""
    generator = torch.Generator().manual_seed(0)
    if video:
        size = (16, 224, 224) if name.startswith(("mvit", "swin", "s3d")) else (16, 112, 112)
        return torch.rand(samples, 3, *size, generator=generator)
    side = next((int(part) for part in reversed(name.split("_")) if part in ("224", "256")), 0)
    if "dinov2" in name:
        side = 518
    if not side:
        side = 224 if name.startswith((*_FIXED, "inception")) else 160
    return torch.rand(samples, 3, side, side, generator=generator)


def prepared(model: nn.Module) -> nn.Module:
    """Gives a head that begins at zero random weights, as the first training steps would."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not bool(module.weight.any()):
            module.weight.data.normal_(0, 0.02, generator=generator)
    return model


def torchvision_model(name: str) -> nn.Module:
    """The model with random weights; those of convolutions and linear layers are cheap to draw."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # Drawing half a billion normal numbers takes longer than the forward.
    with warnings.catch_warnings(), torch.device("meta" if name in HUGE else "cpu"):
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    if name in HUGE:
        model = model.to_empty(device="cpu")
        for module in model.modules():
            _fill(module)
    return prepared(model)


HUGE = ("vit_h_14", "vit_l_16", "vit_l_32", "convnext_large", "wide_resnet101_2", "vgg19", "vgg19_bn",
        "vgg16", "vgg16_bn", "vgg13", "vgg13_bn", "vgg11", "vgg11_bn")  # fmt: skip


def _fill(module: nn.Module) -> None:
    """Random weights of the usual size, from one row of random numbers; norms begin as they always do."""
    generator = torch.Generator().manual_seed(0)
    for name, values in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if not values.is_floating_point():
            values.data.zero_()
        elif values.dim() >= 2:
            size = values.numel()
            drawn = torch.randn(min(size, 1_000_003), generator=generator) * math.sqrt(2 / max(1, size // len(values)))
            values.data.copy_(drawn.repeat(-(-size // len(drawn)))[:size].reshape(values.shape))
        else:
            values.data.fill_(1.0 if name in ("weight", "running_var") else 0.0)


def found(name: str, model: nn.Module, inputs: Tensor) -> Found:
    """Explains the model with `"auto"`; the map has to be finite, not constant, and 4 by 4 at least.

    None of these models turns, crops or pads the picture, and nobody may be told so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not (cover|match)")
        cams = compute_cams(model, inputs, relu=False)
    ((key, maps),) = cams.items()
    layout = cams.layouts[key.layer]
    assert bool(maps.isfinite().all()), f"{name}: {key.layer} is not finite"
    assert float(maps.flatten(1).std(1).min()) > 1e-6 * float(maps.abs().max()), f"{name}: {key.layer} is constant"
    assert min(layout.grid[-2:]) >= 4, f"{name}: {key.layer} has the grid {layout.grid}"
    return Found(name, "x".join(map(str, inputs.shape[2:])), key.layer, str(layout), layout.grid)
