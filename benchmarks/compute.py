"""Measures what maps cost to compute, against a hand-written limit and against other libraries.

    pip install -e ".[dev]"
    python benchmarks/compute.py --threads 2

Every case is a network with random weights from a fixed seed, in evaluation mode. In each round, every rival is called
once, in an order that rotates from round to round and turns round in every other; the first rounds are not counted.
Ratios are medians of the rounds' own ratios: what slows the machine for a while slows all rivals. Waiting garbage is
collected before each call. First of all the maps of every rival are compared with ours; where they differ, the run
stops with exit status 1. The figures themselves never fail it. The rivals:

- ``ours``: ``compute_cams(model, x, layers, targets="predicted", methods="gradcam")``; the model comes back as it was.
- ``limit``: what a specialist would write for that very model, and nothing more: a forward without a graph below the
  earliest layer, one backward from the score down to it, a weighted sum and a ReLU a layer. It checks nothing, guards
  nothing, and clones no activation, since no in-place operation follows any of these layers.
- ``pytorch-grad-cam``: ``GradCAM`` made and called once a layer, as its users do. It scales each map to 0…1 and up to
  the input's size, as NumPy arrays; that is part of it and is timed. The parameters' gradients that it leaves behind
  are removed outside the timing.
- ``pytorch-grad-cam, mean``: of several layers, one call with all of them. That gives the mean of their maps, and so
  less than what the others give; it is held against ours, but is not the best peer.
- ``torch-cam``: ``GradCAM`` with all layers at once, without its normalisation.
- ``captum``: ``LayerGradCam`` once a layer, on a function that returns the explained score.
- ``plain forward``: the model under ``no_grad``: the unit.

All find the predicted class from the same forward; of the segmentation model, a class is explained over the pixels
where it is predicted, and pytorch-grad-cam, which can't find these in its forward, gets their mask as a present.

With ``--device cuda`` there are two clocks, both read in the same call: CUDA events around it, and the wall clock up to
the maps' arrival on the CPU. Settings of cuDNN and TF32 are left as they are, except that maps are compared without
TF32, which is coarser than the differences that are looked for.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam  # type: ignore[import-untyped]
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCAM
from torchvision.models import resnet18, resnet50, vit_b_16
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from lightning_gradcam import compute_cams

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fashion_mnist_model import FashionMNISTClassifier

from benchmarks.common import environment, positive, read

WARM_UP, SEED, TOLERANCE = 3, 0, 1e-4
OURS, LIMIT, PLAIN = "ours", "limit", "plain forward"
GRAD_CAM, GRAD_CAM_MEAN, TORCH_CAM, CAPTUM = "pytorch-grad-cam", "pytorch-grad-cam, mean", "torch-cam", "captum"
PEERS = (GRAD_CAM, TORCH_CAM, CAPTUM)
OF_LIMIT, OF_GRAD_CAM, OF_GRAD_CAM_SEVERAL, OF_BEST_PEER = 1.10, 0.40, 0.55, 1.05
WALL, EVENTS, WALL_AND_COPY = "wall clock", "CUDA events", "wall clock, maps copied to the CPU"
TARGETS: list[Any] = ["predicted", 3, 7]
METHODS = ["gradcam", "hirescam", "layercam", "gradcam++", "xgradcam"]

Seconds = dict[str, list[float]]
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
    with _full_precision():
        targets = masked_targets(case)
    calls: dict[str, Call] = {OURS: partial(ours, case), LIMIT: partial(limit, case)}
    calls[GRAD_CAM] = partial(grad_cam, case, targets)
    if len(case.layers) > 1:
        calls[GRAD_CAM_MEAN] = partial(grad_cam, case, targets, mean=True)
    calls[TORCH_CAM] = partial(torch_cam, case)
    if case.grid is None:
        calls[CAPTUM] = partial(captum, case)
    return {**calls, PLAIN: partial(plain_forward, case)}


# ---- agreement


def check(case: Case, calls: Mapping[str, Call]) -> str:
    """Compares the maps of every rival with ours, the largest difference relative to the largest value.

    Returns:
        The largest difference of each.

    Raises:
        SystemExit: They differ, or ours are all zero, which would compare nothing.
    """
    with _full_precision():
        expected = [maps.cpu() for maps in ours(case)]
        blank = [layer for layer, maps in zip(case.layers, expected, strict=True) if not bool((maps > 0).any())]
        if blank:
            raise SystemExit(f"{case.title}: all maps of {blank[0]} are zero, so that there is nothing to compare")
        scaled = [_scaled(case, maps) for maps in expected]
        wanted: dict[str, list[Any]] = dict.fromkeys((LIMIT, TORCH_CAM, CAPTUM), expected)
        wanted |= {GRAD_CAM: [_scaled_again(maps) for maps in scaled]}
        wanted |= {GRAD_CAM_MEAN: [_scaled_again(np.mean(scaled, axis=0))]}
        off = {}
        for name in [name for name in calls if name in wanted]:
            layers = [" and ".join(case.layers)] if name == GRAD_CAM_MEAN else case.layers
            off[name] = _compared(case.title, name, layers, wanted[name], calls[name]())
    return "maps agree with ours up to " + ", ".join(f"{name} {value:.0e}" for name, value in off.items())


def _compared(title: str, name: str, layers: Sequence[str], wanted: Sequence[Any], found: Sequence[Any]) -> float:
    most = 0.0
    for layer, ours_, theirs in zip(layers, wanted, found, strict=True):
        a, b = torch.as_tensor(ours_), torch.as_tensor(theirs).cpu()
        if a.shape != b.shape:
            raise SystemExit(f"{title}: {name} gives maps {list(b.shape)} at {layer}, ours are {list(a.shape)}")
        off = float((a - b).abs().max() / a.abs().max())
        if not off <= TOLERANCE:
            raise SystemExit(
                f"{title}: the maps of {name} at {layer} differ from ours by {off:.1e} of the largest value (allowed:"
                f" {TOLERANCE:.0e}); nothing more is timed"
            )
        most = max(most, off)
    return most


def _scaled(case: Case, maps: Tensor) -> Any:
    """What pytorch-grad-cam makes of each layer's maps."""
    return scale_cam_image(maps.numpy(), (case.inputs.shape[-1], case.inputs.shape[-2]))


def _scaled_again(maps: Any) -> Any:
    return scale_cam_image(np.maximum(maps, 0))


@contextmanager
def _full_precision() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


# ---- timing


def measure(model: nn.Module, calls: Mapping[str, Call], rounds: int, device: str) -> dict[str, Seconds]:
    """Times every call once a round.

    Returns:
        Clock to rival to the seconds of every counted round.
    """
    timed = _timed_on_cuda if device == "cuda" else _timed
    clocks: dict[str, Seconds] = {}
    gc.collect()
    # The libraries' own objects are looked through once and not before each call, which would take longer than most.
    gc.freeze()
    for number in range(WARM_UP + rounds):
        turn = number % len(calls)
        order = [*calls][turn:] + [*calls][:turn]
        for name in order if number % 2 == 0 else reversed(order):
            model.zero_grad()
            gc.collect()
            for clock, seconds in timed(calls[name]).items():
                clocks.setdefault(clock, {each: [] for each in calls})[name].append(seconds)
    gc.unfreeze()
    return {clock: {name: times[WARM_UP:] for name, times in seconds.items()} for clock, seconds in clocks.items()}


def _timed(call: Call) -> dict[str, float]:
    begin = time.perf_counter()
    call()
    return {WALL: time.perf_counter() - begin}


def _timed_on_cuda(call: Call) -> dict[str, float]:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin = time.perf_counter()
    first.record()
    maps = call()
    last.record()
    for one in maps:
        # pytorch-grad-cam's are there already.
        if isinstance(one, Tensor):
            one.cpu()
    last.synchronize()
    wall = time.perf_counter() - begin
    return {EVENTS: first.elapsed_time(last) / 1000, WALL_AND_COPY: wall}


# ---- reports


def ratios(seconds: Seconds, over: str, under: str) -> list[float]:
    """The rounds' own ratios."""
    return [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]


def table(clock: str, seconds: Seconds, columns: Mapping[str, Callable[[str], list[float]]]) -> Iterator[str]:
    """The lines of medians and ranges in milliseconds, and of ratios under their headings."""
    yield f"{clock:<36}{'median ms':>10}{'min':>9}{'max':>9}" + "".join(f"{heading:>22}" for heading in columns)
    for name, values in seconds.items():
        low, middle, high = (1000 * value for value in (min(values), statistics.median(values), max(values)))
        cells = [of(name) for of in columns.values()]
        shown = [f"{statistics.median(cell):.3f} ({min(cell):.2f}-{max(cell):.2f})" for cell in cells]
        yield f"{name:<36}{middle:>10.1f}{low:>9.1f}{high:>9.1f}" + "".join(f"{cell:>22}" for cell in shown)


def goals(layers: int, seconds: Seconds) -> Iterator[str]:
    """Every goal's figure of one case, whether it is met, and the limit's own figure: a goal below that is no one's."""
    best = min((peer for peer in PEERS if peer in seconds), key=lambda peer: statistics.median(seconds[peer]))
    asked = [(LIMIT, OF_LIMIT), (GRAD_CAM, OF_GRAD_CAM if layers == 1 else OF_GRAD_CAM_SEVERAL)]
    asked += [(GRAD_CAM_MEAN, OF_GRAD_CAM_SEVERAL)] if GRAD_CAM_MEAN in seconds else []
    for rival, most in [*asked, (best, OF_BEST_PEER)]:
        ratio, least = (statistics.median(ratios(seconds, one, rival)) for one in (OURS, LIMIT))
        which = f"{rival}{', the best peer' if most == OF_BEST_PEER else ''}"
        met = "met   " if ratio <= most else "MISSED"
        yield f"{ratio:>9.3f}  {met}  at most {most:.2f} of {which} (limit: {least:.3f})"


def compare(case: Case, rounds: int, device: str) -> dict[str, Seconds]:
    """Checks and times one case, and prints its tables."""
    print(f"\n{case.title}")
    calls = rivals(case)
    print(check(case, calls))
    if case.grid is not None:
        print("captum is left out: its LayerGradCam takes a token's channels for places")
    clocks = measure(case.model, calls, rounds, device)
    for clock, seconds in clocks.items():
        columns = {
            "of limit": partial(_of, seconds, LIMIT),
            "of plain forward": partial(_of, seconds, PLAIN),
            "ours of it": partial(ratios, seconds, OURS),
        }
        print("\n".join(table(clock, seconds, columns)))
    return clocks


def several(case: Case, rounds: int, device: str) -> None:
    """Checks and times several targets and methods of one case, and prints the table."""
    print(f"\nseveral targets and methods: {case.title}")
    one = "1 target, 1 method"
    calls: dict[str, Call] = {one: partial(ours, case)}
    calls |= {f"{n} targets, 1 method": partial(ours, case, TARGETS[:n]) for n in (2, 3)}
    calls |= {f"1 target, {n} methods": partial(ours, case, methods=METHODS[:n]) for n in (3, 5)}
    with _full_precision():
        first = [calls[one]()[0].cpu()]
        off = max(_compared(case.title, name, case.layers, first, calls[name]()[:1]) for name in calls)
    print(
        f"the first target's {METHODS[0]} agrees up to {off:.0e}; the methods are, in this order, {', '.join(METHODS)}"
    )
    calls[PLAIN] = partial(plain_forward, case)
    for clock, seconds in measure(case.model, calls, rounds, device).items():
        columns = {"of the first": partial(_of, seconds, one), "of plain forward": partial(_of, seconds, PLAIN)}
        print("\n".join(table(clock, seconds, columns)))


def _of(seconds: Seconds, under: str, over: str) -> list[float]:
    return ratios(seconds, over, under)


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, checks, measures and prints."""
    parser = argparse.ArgumentParser(description="Times maps against a hand-written limit and other libraries.")
    parser.add_argument("--rounds", type=positive, default=20, help="rounds that count")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, SEVERAL], default=[*CASES, SEVERAL], metavar="CASE")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--small", action="store_true", help="tiny batches and pictures, to see that it runs")
    options = read(parser, arguments)
    warnings.filterwarnings("ignore")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    print(f"{options.rounds} rounds after {WARM_UP} to warm up, random weights, seed {SEED}, on {device}")
    summary = []
    for name in [name for name in CASES if name in options.cases]:
        case = built(name, options.small, options.device)
        for clock, seconds in compare(case, options.rounds, options.device).items():
            summary += [f"{name} ({clock})", *goals(len(case.layers), seconds)]
    if SEVERAL in options.cases:
        several(built("resnet18", options.small, options.device), options.rounds, options.device)
    if summary:
        print("\ngoals: ours, as the median of the rounds' ratios")
        print("\n".join(summary))
    names = ("lightning-gradcam", "torch", "torchvision", "grad-cam", "torchcam", "captum")
    print(f"\n{environment(*names)}")


if __name__ == "__main__":
    main()
