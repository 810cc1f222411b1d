"""Methods that run the model again, against their papers' formulas written out sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_gradcam import compute_cams
from tests.methods.models import CASES, Case, case

Score = Callable[[Tensor], Tensor]


def gradient(case: Case, raw: Tensor, score: Score) -> Tensor:
    """Of one sample's score with respect to the layer, as a feature map."""
    leaf = raw.detach().clone().requires_grad_()
    return case.to_map(torch.autograd.grad(score(case.model.top(leaf[None])[0]), leaf)[0])


def resized(maps: Tensor, size: torch.Size) -> Tensor:
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(maps[None, None], size=tuple(size), mode=mode, align_corners=False)[0, 0]


def scaled(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values * 0


def weighted(weights: list[Tensor] | Tensor, feature_map: Tensor) -> Tensor:
    return torch.stack([w * a for w, a in zip(weights, feature_map, strict=True)]).sum(0)


def scorecam(case: Case, place: int, score: Score) -> Tensor:
    x = case.inputs[place]
    feature_map = case.to_map(case.model.body(x[None])[0])
    masks = [scaled(resized(channel, x.shape[1:])) for channel in feature_map]
    scores = torch.stack([score(case.model((x * mask)[None])[0]) for mask in masks])
    return weighted(scores.exp() / scores.exp().sum(), feature_map)


def ablationcam(case: Case, place: int, score: Score) -> Tensor:
    raw = case.model.body(case.inputs[place][None])[0]
    feature_map, whole = case.to_map(raw), score(case.model.top(raw[None])[0])
    weights = []
    for channel in range(len(feature_map)):
        without = feature_map.clone()
        without[channel] = 0
        weights.append((whole - score(case.model.top(case.to_raw(without, raw)[None])[0])) / whole.abs())
    return weighted(weights, feature_map)


def smoothgradcam(case: Case, place: int, score: Score) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = case.inputs[place]
    raw = case.model.body(x[None])[0]
    feature_map = case.to_map(raw)
    first, second, third = [], [], []
    for _ in range(8):
        noise = torch.randn(case.inputs.shape[1:], generator=generator).double()
        noisy = case.model.body((x + noise * 0.15 * (x.max() - x.min()))[None])[0]
        g = gradient(case, noisy, score)
        first.append(g)
        second.append(g * g)
        third.append(g * g * g)
    d1, d2, d3 = (torch.stack(d).mean(0) for d in (first, second, third))
    weights = []
    for k in range(len(feature_map)):
        denominator = 2 * d2[k] + d3[k] * feature_map[k].sum()
        alpha = torch.where(denominator != 0, d2[k] / denominator, torch.zeros_like(denominator))
        weights.append((alpha * d1[k].clamp(min=0)).sum())
    return weighted(weights, feature_map)


def finercam(case: Case, place: int, score: Score) -> Tensor:
    raw = case.model.body(case.inputs[place][None])[0]
    logits = case.model.top(raw[None])[0]
    own = next(c for c in range(5) if torch.equal(score(logits), logits[c]))
    near = sorted((c for c in range(5) if c != own), key=lambda c: float((logits[c] - logits[own]).abs()))[:3]

    def contrast(z: Tensor) -> Tensor:
        p = z.softmax(0)
        return sum(p[d] * (z[own] - z[d]) for d in near) / (sum(p[d] for d in near) + 1e-9)  # type: ignore[return-value]

    return weighted(gradient(case, raw, contrast).flatten(1).mean(1), case.to_map(raw))


def shapleycam(case: Case, place: int, score: Score) -> Tensor:
    raw = case.model.body(case.inputs[place][None])[0].detach()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        hessian = torch.autograd.functional.hessian(lambda a: score(case.model.top(a[None])[0]), raw)
    size = raw.numel()
    product = (hessian.reshape(size, size) @ raw.flatten()).reshape(raw.shape)
    weights = gradient(case, raw, score) - case.to_map(product) / 2
    return weighted(weights.flatten(1).mean(1), case.to_map(raw))


PLAIN: dict[str, Callable[[Case, int, Score], Tensor]] = {
    "scorecam": scorecam,
    "ablationcam": ablationcam,
    "smoothgradcam++": smoothgradcam,
    "finercam": finercam,
    "shapleycam": shapleycam,
}


def selected(case: Case, target: Any, place: int) -> Score:
    """The score that `target` selects for one sample, with the classes of its own prediction held."""
    with torch.no_grad():
        top = int(case.model(case.inputs[place][None])[0].argmax())
    if target == "predicted":
        return lambda z: z[top]
    if isinstance(target, int):
        return lambda z: z[target]
    if callable(target):
        return lambda z: target(z[None])[0]
    return lambda z: z[top] - z[target["contrast"][1]]


def squared(output: Tensor) -> Tensor:
    return output[:, 0] ** 2 + output[:, 2]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("model", CASES)
@pytest.mark.parametrize("name", PLAIN)
def test_method_equals_its_formula_written_out(name: str, model: str, samples: int) -> None:
    made = case(model, samples)
    targets: list[Any] = ["predicted", 2] if name == "finercam" else ["predicted", 2, {"contrast": ["predicted", 1]}]
    cams = compute_cams(made.model, made.inputs, made.layer, methods=name, targets=targets, relu=False)
    for target, found in zip(targets, cams.values(), strict=True):
        with torch.no_grad() if name in ("scorecam", "ablationcam") else torch.enable_grad():
            expected = torch.stack([PLAIN[name](made, n, selected(made, target, n)) for n in range(samples)]).detach()
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "finercam"])
def test_a_callable_target_is_called_with_the_batch_as_it_is(name: str) -> None:
    made = case("cnn")
    sizes = []

    def counted(output: Tensor) -> Tensor:
        sizes.append(len(output))
        return squared(output)

    found = compute_cams(made.model, made.inputs, made.layer, methods=name, targets=counted, relu=False)[made.layer]
    with torch.no_grad() if name in ("scorecam", "ablationcam") else torch.enable_grad():
        expected = torch.stack([PLAIN[name](made, n, selected(made, squared, n)) for n in range(3)]).detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert set(sizes) == {3}
    assert len(sizes) > 1


def test_shapleycam_of_a_probability_differs_from_gradcam_and_of_a_logit_does_not() -> None:
    made = case("cnn")
    both = {"methods": ["gradcam", "shapleycam"], "targets": 2, "relu": False}
    logit = compute_cams(made.model, made.inputs, "last", **both)  # type: ignore[arg-type]
    torch.testing.assert_close(logit["last", "shapleycam", 2], logit["last", "gradcam", 2])
    chance = compute_cams(made.model, made.inputs, "last", score="probability", **both)  # type: ignore[arg-type]
    expected = torch.stack([shapleycam(made, n, lambda z: z.softmax(0)[2]) for n in range(3)]).detach()
    torch.testing.assert_close(chance["last", "shapleycam", 2], expected, rtol=0, atol=1e-8)
    assert (chance["last", "shapleycam", 2] - chance["last", "gradcam", 2]).abs().max() > 1e-5


def test_ablationcam_replaces_the_call_that_is_explained() -> None:
    """A ReLU called twice: channels of the second call are taken out, not those of the first."""

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(3, 3, 3)
            self.relu, self.head = torch.nn.ReLU(), torch.nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(self.conv2(self.relu(self.conv1(x)))).mean((2, 3)))

    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(2, 1, 8, 8).double()
    found = compute_cams(model, x, "relu", methods="ablationcam", targets=1, relu=False)["relu"]
    with torch.no_grad():
        a = model.relu(model.conv2(model.relu(model.conv1(x))))
        whole = model.head(a.mean((2, 3)))[:, 1]
        expected = torch.zeros(2, 4, 4).double()
        for k in range(3):
            less = a.clone()
            less[:, k] = 0
            drop = (whole - model.head(less.mean((2, 3)))[:, 1]) / whole.abs()
            expected += drop[:, None, None] * a[:, k]
    torch.testing.assert_close(found, expected)
