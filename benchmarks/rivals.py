"""The networks that benchmarks/compute.py measures, and who computes their maps: the package, a limit, its peers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerGradCam  # type: ignore[import-untyped]
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCAM
from torchvision.models import resnet18, resnet50, vit_b_16
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from lightning_gradcam import compute_cams

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from fashion_mnist_model import FashionMNISTClassifier

OURS, LIMIT, PLAIN = "ours", "limit", "plain forward"
GRAD_CAM, GRAD_CAM_MEAN, TORCH_CAM, CAPTUM = "pytorch-grad-cam", "pytorch-grad-cam, mean", "torch-cam", "captum"
SEED = 0

Call = Callable[[], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Case:
    """A network, a batch, and what is explained.

    Attributes:
        title: What the table is headed with.
        model: In evaluation mode.
        inputs: The batch.
        layers: Names, in the order of the forward.
        grid: Of a layer of tokens ``[N, 1 + h * w, C]``, ``(h, w)``.
        category: Of a segmentation model, whose output stands under ``"out"``: the class that is explained. All other
            models are classifiers, explained for the predicted class.
    """

    title: str
    model: nn.Module
    inputs: Tensor
    layers: list[str]
    grid: tuple[int, ...] | None = None
    category: int | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """The layers themselves."""
        return [self.model.get_submodule(name) for name in self.layers]

    @property
    def logits(self) -> nn.Module:
        """A module that returns the output that is explained, for libraries that can't pick it themselves."""
        return self.model if self.category is None else _Out(self.model)

    def scores(self, logits: Tensor) -> Tensor:
        """Returns the explained score of every sample, ``[N]``."""
        if self.category is None:
            return logits.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0]
        chosen = logits[:, self.category]
        # On the CPU, `amax` takes a thirtieth of the time of `argmax`.
        return (chosen * (chosen == logits.detach().amax(dim=1))).sum(dim=(1, 2))

    def feature_map(self, values: Tensor) -> Tensor:
        """Returns tokens as ``[N, C, h, w]``."""
        assert self.grid is not None
        return values[:, 1:].reshape(len(values), *self.grid, -1).permute(0, 3, 1, 2)


class _Out(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.model(inputs)["out"]
        return out


# ---- the cases


def tutorials(small: bool, layers: Sequence[str]) -> Case:
    """The tutorials' network."""
    batch = 2 if small else 16
    names = [f"network.{layer}" for layer in layers]
    title = f"the tutorials' network, {batch} x 28x28, {', '.join(layers)}"
    return Case(title, FashionMNISTClassifier().eval(), torch.rand(batch, 1, 28, 28), names)


def resnet(small: bool, build: Callable[..., nn.Module], batch: int, layers: Sequence[str]) -> Case:
    """A ResNet of torchvision."""
    batch, size = (2, 64) if small else (batch, 224)
    title = f"{build.__name__}, {batch} x {size}x{size}, {', '.join(layers)}"
    return Case(title, build(weights=None).eval(), torch.randn(batch, 3, size, size), [*layers])


def vit(small: bool) -> Case:
    """ViT-B/16 of torchvision at the layer that ``"auto"`` picks."""
    batch, size = (2, 64) if small else (4, 224)
    model = vit_b_16(weights=None, image_size=size).eval()
    # torchvision starts it at zero, where every map is zero too.
    nn.init.normal_(model.heads.head.weight, std=0.02)
    inputs = torch.randn(batch, 3, size, size)
    ((layer, layout),) = compute_cams(model, inputs, "auto").layouts.items()
    assert (layout.axes, layout.prefix) == ("NLC", 1), layout
    return Case(f"vit_b_16, {batch} x {size}x{size}, {layer}", model, inputs, [layer], grid=layout.grid)


def segmentation(small: bool) -> Case:
    """DeepLabV3 of torchvision at the end of its backbone, for the class that it predicts most."""
    batch, size = (2, 64) if small else (4, 224)
    # The auxiliary head is for training alone.
    model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, aux_loss=False).eval()
    inputs = torch.randn(batch, 3, size, size)
    with torch.no_grad():
        category = int(model(inputs)["out"].argmax(dim=1).flatten().mode().values)
    title = f"deeplabv3_mobilenet_v3_large, {batch} x {size}x{size}, backbone.16, class {category} where predicted"
    return Case(title, model, inputs, ["backbone.16"], category=category)


CASES: dict[str, Callable[[bool], Case]] = {
    "tutorials": partial(tutorials, layers=["relu1", "relu2", "relu3"]),
    "tutorials-last": partial(tutorials, layers=["relu3"]),
    "resnet18": partial(resnet, build=resnet18, batch=16, layers=["layer4"]),
    "resnet18-four": partial(resnet, build=resnet18, batch=16, layers=["layer1", "layer2", "layer3", "layer4"]),
    "resnet50": partial(resnet, build=resnet50, batch=8, layers=["layer4"]),
    "vit": vit,
    "segmentation": segmentation,
}
SEVERAL = "several"


def built(name: str, small: bool, device: str) -> Case:
    """Builds a case, with the same weights and inputs on every device."""
    torch.manual_seed(SEED)
    case = CASES[name](small)
    return replace(case, model=case.model.to(device), inputs=case.inputs.to(device))


# ---- the rivals


def ours(case: Case, targets: Any = None, methods: str | Sequence[str] = "gradcam") -> list[Tensor]:
    """This package's maps, by layer; of several targets or methods, all."""
    if targets is None:
        targets = "predicted" if case.category is None else {"segment": case.category}
    key = None if case.category is None else "out"
    cams = compute_cams(case.model, case.inputs, case.layers, targets=targets, methods=methods, output_key=key)
    return [*cams.values()]


def limit(case: Case) -> list[Tensor]:
    """The least that gives these maps."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        kept.append(output if output.requires_grad else output.detach().requires_grad_())
        return kept[-1]

    # Gives back the grad mode that the hook has switched on, too.
    with torch.no_grad():
        handles = [module.register_forward_hook(keep) for module in case.modules]
        output = case.model(case.inputs)
        for handle in handles:
            handle.remove()
        score = case.scores(output if case.category is None else output["out"]).sum()
        gradients = torch.autograd.grad(score, kept)
        return [_weighted(case, a.detach(), g) for a, g in zip(kept, gradients, strict=True)]


def _weighted(case: Case, activations: Tensor, gradients: Tensor) -> Tensor:
    # A matrix product reads the activations once, where `(weights * activations).sum(1)` writes and reads a copy.
    if case.grid is not None:
        weights = gradients[:, 1:].mean(dim=1)
        return torch.bmm(activations[:, 1:], weights[:, :, None]).relu_().view(-1, *case.grid)
    weights = gradients.mean(dim=(2, 3))
    maps = torch.bmm(weights[:, None], activations.flatten(2)).relu_()
    return maps.view(-1, *activations.shape[2:])


def plain_forward(case: Case) -> list[Tensor]:
    """No maps at all."""
    with torch.no_grad():
        case.model(case.inputs)
    return []


def grad_cam(case: Case, targets: list[Any] | None, *, mean: bool = False) -> list[Any]:
    """Maps of pytorch-grad-cam in 0…1, ``[N, H, W]``: by layer, or their mean."""
    reshape = None if case.grid is None else case.feature_map
    found = []
    for modules in [case.modules] if mean else [[module] for module in case.modules]:
        with GradCAM(case.logits, modules, reshape_transform=reshape) as cam:
            found.append(cam(case.inputs, targets))
    return found


def masked_targets(case: Case) -> list[Any] | None:
    """pytorch-grad-cam's targets, where it can't find them itself."""
    if case.category is None:
        return None
    with torch.no_grad():
        masks = case.model(case.inputs)["out"].argmax(dim=1) == case.category
    return [SemanticSegmentationTarget(case.category, mask) for mask in masks.float().cpu().numpy()]


def torch_cam(case: Case) -> list[Tensor]:
    """Maps of torch-cam, not normalised."""
    reshape = None if case.grid is None else case.feature_map
    with TorchCAM(case.model, [*case.layers], reshape_transform=reshape) as extractor:
        output = case.model(case.inputs)
        if case.category is None:
            return extractor(output.argmax(dim=1).tolist(), output, normalized=False)
        return extractor(scores=output["out"], normalized=False, targets=lambda one: case.scores(one[None])[0])


def captum(case: Case) -> list[Tensor]:
    """Maps of captum."""
    module = case.logits

    def scores(inputs: Tensor) -> Tensor:
        return case.scores(module(inputs))

    layers = [LayerGradCam(scores, layer) for layer in case.modules]
    return [layer.attribute(case.inputs, relu_attributions=True)[:, 0].detach() for layer in layers]


def rivals(case: Case) -> dict[str, Call]:
    """Returns everyone who can do this case, by name."""
    with full_precision():
        targets = masked_targets(case)
    calls: dict[str, Call] = {OURS: partial(ours, case), LIMIT: partial(limit, case)}
    calls[GRAD_CAM] = partial(grad_cam, case, targets)
    if len(case.layers) > 1:
        calls[GRAD_CAM_MEAN] = partial(grad_cam, case, targets, mean=True)
    calls[TORCH_CAM] = partial(torch_cam, case)
    if case.grid is None:
        calls[CAPTUM] = partial(captum, case)
    return {**calls, PLAIN: partial(plain_forward, case)}


@contextmanager
def full_precision() -> Iterator[None]:
    """Without TF32, which is coarser than the differences that are looked for."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
