"""CAM, LeGrad, guided backpropagation and FullGrad, written out plainly, and where they can't work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_gradcam import MethodError, compute_cams
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.methods.rerun import Rerun
from lightning_gradcam.methods.variants import RerunModel
from lightning_gradcam.targets import Given, resolve_targets
from tests.methods.models import Attention, Cnn, Tokens, case
from tests.methods.test_rerun_formulas import resized, scaled

# ---- CAM


@pytest.mark.parametrize("model", ["cnn", "3-D"])
def test_cam_is_the_heads_weights_times_the_activations(model: str) -> None:
    made = case(model)
    assert isinstance(made.model, Cnn)
    cams = compute_cams(made.model, made.inputs, "last", methods="cam", targets=["predicted", 3], relu=False)
    activations, weights = made.model.body(made.inputs).detach(), made.model.head.weight.detach()
    classes = made.model(made.inputs).argmax(1)
    for n in range(3):
        expected = sum(weights[classes[n], k] * activations[n, k] for k in range(4))
        torch.testing.assert_close(cams["last", "cam", "predicted"][n], expected, rtol=0, atol=1e-8)
    expected = torch.einsum("k,nk...->n...", weights[3], activations)
    torch.testing.assert_close(cams["last", "cam", 3], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("head", ["conv", "dropout"])
def test_cam_knows_linear_heads_of_other_kinds(head: str) -> None:
    torch.manual_seed(0)
    tail = {
        "conv": nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "dropout": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 5)),
    }[head]
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), tail)
    x = torch.randn(2, 1, 6, 6)
    found = compute_cams(model, x, "1", methods="cam", targets=2, relu=False)["1"]
    weights = tail[0 if head == "conv" else 3].weight.detach()[2].flatten()
    torch.testing.assert_close(found, torch.einsum("k,nkhw->nhw", weights, model[:2](x).detach()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), "gradient differs between locations"),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5)),
            "what follows is not linear",
        ),
        (nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)), ""),
        (nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 5)), "gradient differs between locations"),
    ],
    ids=["flattened", "two linear layers", "a ReLU between", "max pooling"],
)
def test_cam_is_refused_on_other_heads_with_methods_that_work(tail: nn.Module, why: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), tail)
    with pytest.raises(MethodError, match=f"'cam' needs global average pooling .* after layer '0'.*{why}.*hirescam"):
        compute_cams(model, torch.randn(4, 1, 6, 6), "0", methods="cam", targets=1)


def test_cam_of_a_probability_is_refused() -> None:
    made = case("cnn")
    with pytest.raises(MethodError, match="the score as a logit; what follows is not linear"):
        compute_cams(made.model, made.inputs, "last", methods="cam", score="probability")


# ---- LeGrad


class WrittenOut(nn.Module):
    """`Tokens`' attention as plain matrix products, from the same weights, with its map at hand."""

    def __init__(self, model: Tokens) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        attention = self.model.attention
        if isinstance(attention, Attention):
            weight, bias, out = attention.qkv.weight, attention.qkv.bias, attention.proj
        else:
            weight, bias, out = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj
        q, k, v = (a @ weight.T + bias).reshape(len(a), 3, 2, 3).permute(1, 2, 0, 3)
        paid = (q @ k.transpose(-2, -1) / math.sqrt(3)).softmax(-1)
        y = out((paid @ v).transpose(0, 1).reshape(len(a), 6))
        return self.model.head((a + y)[0].tanh()), paid


@pytest.mark.parametrize("kind", ["multihead", "fused", "by hand"])
def test_legrad_is_the_positive_gradient_of_the_attention(kind: str) -> None:
    torch.manual_seed(3)
    model = Tokens(kind).double()
    x = torch.randn(3, 1, 6, 8).double()
    cams = compute_cams(model, x, "attention", methods="legrad", targets=["predicted", 4])
    for name in ("predicted", "4"):
        for n in range(3):
            logits, paid = WrittenOut(model)(model.body(x)[n])
            (g,) = torch.autograd.grad(logits[logits.argmax() if name == "predicted" else 4], paid)
            expected = g.clamp(min=0).sum((0, 1))[1:].reshape(3, 4) / (2 * 13)
            assert expected.max() > 0
            torch.testing.assert_close(cams["attention", "legrad", name][n], expected, rtol=0, atol=1e-8)


def test_legrad_leaves_the_attentions_output_as_it_was_also_where_weights_are_returned() -> None:
    class Returned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Conv2d(1, 6, 2, stride=2), nn.Linear(6 + 12, 3)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            y, weights = self.attention(x, x, x)
            return self.head(torch.cat([y.mean(1), weights.mean(1)], 1))

    torch.manual_seed(0)
    model, x = Returned().eval(), torch.randn(2, 1, 6, 8)
    plain = compute_cams(model, x, "attention", targets=1)
    watched = compute_cams(model, x, "attention", methods="legrad", targets=1)
    torch.testing.assert_close(watched.scores["1"], plain.scores["1"])
    assert watched["attention"].max() > 0


def test_legrad_without_attention_names_what_can() -> None:
    made = case("cnn")
    with pytest.raises(MethodError, match="needs attention, but layer 'last' has none; choose .* or use gradcam"):
        compute_cams(made.model, made.inputs, "last", methods="legrad")


class Windows(nn.Module):
    """Attends within the halves of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(6, 2, "fused")

    def forward(self, x: Tensor) -> Tensor:
        n, length, c = x.shape
        return self.attention(x.reshape(2 * n, length // 2, c)).reshape(n, length, c)


def test_legrad_on_windows_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block, self.head = nn.Conv2d(1, 6, 2, stride=2), Windows(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    with pytest.raises(MethodError, match="over the whole image; layer 'block' attends to 6 tokens in 4 windows"):
        compute_cams(Model(), torch.randn(2, 1, 6, 8), "block", methods="legrad")


# ---- guided backpropagation


def guided(model: Cnn, x: Tensor, category: int) -> Tensor:
    """Backward by hand, layer by layer, for one sample."""
    steps = [model.norm(model.conv1(x))]
    steps.append(model.conv2(steps[0].relu()))
    steps.append(steps[1].relu())
    g = torch.autograd.grad(model.top(steps[2].relu())[0, category], steps[2])[0].clamp(min=0)
    for before, after in ((steps[1], steps[2]), (steps[0], steps[1]), (x, steps[0])):
        (g,) = torch.autograd.grad(after, before, grad_outputs=g, retain_graph=True)
        if before is not x:
            g = g.clamp(min=0)
    return g.sum(1)[0]


@pytest.mark.parametrize("model", ["cnn", "3-D"])
def test_guided_backprop_and_guided_gradcam_equal_a_backward_by_hand(model: str) -> None:
    made = case(model)
    assert isinstance(made.model, Cnn)
    cams = compute_cams(
        made.model,
        made.inputs,
        "last",
        methods=["gradcam", "guided_backprop", "guided_gradcam"],
        targets=["predicted", 1],
        relu=False,
    )
    for n in range(3):
        x = made.inputs[n : n + 1].clone().requires_grad_()
        expected = guided(made.model, x, 1).detach()
        assert expected.abs().max() > 0
        torch.testing.assert_close(cams["model", "guided_backprop", 1][n], expected, rtol=0, atol=1e-8)
        shown = resized(cams["last", "gradcam", 1][n].clamp(min=0), x.shape[2:])
        torch.testing.assert_close(cams["last", "guided_gradcam", 1][n], expected * shown, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["guided_backprop", "guided_gradcam"])
def test_guided_methods_without_a_relu_are_refused(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Hardtanh(-1, 1), nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(MethodError, match="this model runs none of them; use gradcam"):
        compute_cams(model, torch.rand(1, 1, 6, 6), "1", methods=method)


# ---- FullGrad


def outputs_with_bias(model: Cnn, x: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Each convolution's and norm's output, and what it adds to it."""
    first = model.conv1(x)
    norm = model.norm(first)
    assert model.norm.running_mean is not None
    assert model.norm.running_var is not None
    shift = model.norm.bias - model.norm.weight * model.norm.running_mean / (model.norm.running_var + 1e-5).sqrt()
    second = model.conv2(norm.relu())
    outputs = [(first, model.conv1.bias), (norm, shift), (second, model.conv2.bias)]
    return outputs, model.top(second.relu())


@pytest.mark.parametrize("model", ["cnn", "3-D"])
def test_fullgrad_adds_up_the_input_and_every_bias(model: str) -> None:
    made = case(model)
    assert isinstance(made.model, Cnn)
    found = compute_cams(made.model, made.inputs, "last", methods="fullgrad", targets=["predicted", 2])
    assert set(found) == {("model", "fullgrad", "predicted"), ("model", "fullgrad", "2")}
    for n in range(3):
        x = made.inputs[n : n + 1].clone().requires_grad_()
        outputs, logits = outputs_with_bias(made.model, x)
        grads = torch.autograd.grad(logits[0, 2], [x, *(output for output, _ in outputs)])
        expected = scaled((grads[0] * x)[0].abs()).sum(0)
        for (_, bias), g in zip(outputs, grads[1:], strict=True):
            # The authors scale all channels of a layer together.
            shares = scaled(torch.stack([(g[0, k] * bias[k]).abs() for k in range(len(bias))]))
            for share in shares:
                expected = expected + resized(share, x.shape[2:])
        torch.testing.assert_close(found["model", "fullgrad", 2][n], expected.detach(), rtol=0, atol=1e-8)


def test_input_and_biases_together_are_the_logit() -> None:
    """Completeness (equation 3 of the paper) on a ReLU network, the linear layer's bias included."""
    made = case("cnn")
    assert isinstance(made.model, Cnn)
    (target,) = resolve_targets(2)
    explained = target.explain(made.model(made.inputs), Given(3))
    with torch.no_grad():
        handle = Rerun(RerunModel(made.model, made.model, Inputs(made.inputs), {"2": explained}))
        total = (handle.picture_gradients()[0] * made.inputs).flatten(1).sum(1) + made.model.head.bias[2]
        for bias, gradients in handle.bias_gradients():
            total = total + torch.einsum("k,nk...->n...", bias, gradients[0]).flatten(1).sum(1)
    torch.testing.assert_close(total, made.model(made.inputs)[:, 2].detach(), rtol=0, atol=1e-10)


def test_fullgrad_without_biases_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(
        MethodError, match="contributions of the biases of convolutions and batch norms, but this model"
    ):
        compute_cams(model, torch.rand(1, 1, 6, 6), "1", methods="fullgrad")


def test_methods_that_compare_classes_are_refused_without_any() -> None:
    made = case("cnn")
    wanted: list[Any] = [lambda output: output[:, 0], {"output": 1}, {"contrast": [0, 1]}]
    for target in wanted:
        with pytest.raises(MethodError, match="this method compares one class with the others, .*; use gradcam"):
            compute_cams(made.model, made.inputs, "last", methods="finercam", targets=target)
    several = torch.tensor([[1, 1, 0, 0, 0]] * len(made.inputs))
    with pytest.raises(
        MethodError, match="this method compares one class with the others, .*several labels per sample"
    ):
        compute_cams(made.model, made.inputs, "last", methods="finercam", targets="label", labels=several)


@pytest.mark.parametrize("kind", ["relu_", "F.relu_", "inplace", "positional", "module"])
def test_a_relu_in_place_whose_result_is_thrown_away_is_guided_too(kind: str) -> None:
    """Two convolutions of one channel and weight 1 by 1, by hand: the gradient 2 · (-3) is cut, 2 · 1 is not."""
    module = nn.ReLU(inplace=True)
    relus: dict[str, Callable[[Tensor], object]] = {
        "relu_": lambda a: a.relu_(),
        "F.relu_": lambda a: F.relu_(a),
        "inplace": lambda a: F.relu(input=a, inplace=True),
        "positional": lambda a: F.relu(a, True),
        "module": lambda a: module(a),
    }

    class Discarding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
            with torch.no_grad():
                self.first.weight.fill_(2.0)
                self.second.weight.copy_(torch.tensor([-3.0, 1.0]).reshape(2, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            a = self.first(x)
            relus[kind](a)
            return self.second(a).sum((2, 3))

    x = torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]], dtype=torch.float64)
    model = Discarding().double()
    found = [compute_cams(model, x, "first", methods="guided_backprop", targets=k, relu=False)["model"] for k in (0, 1)]
    assert found[0].tolist() == [[[0, 0], [0, 0]]]
    assert found[1].tolist() == [[[2, 0], [2, 0]]]


def test_functional_relus_are_guided_too() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv1(x), inplace=True)
            return self.head(self.conv2(x).relu_().mean((2, 3)))

    torch.manual_seed(0)
    model = Functional()
    modules = nn.Sequential(
        model.conv1, nn.ReLU(), model.conv2, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head
    )
    x = torch.randn(2, 1, 7, 7)
    found = compute_cams(model, x, "conv1", methods="guided_backprop", targets=1, relu=False)["model"]
    expected = compute_cams(modules, x, "0", methods="guided_backprop", targets=1, relu=False)["model"]
    torch.testing.assert_close(found, expected)
    plain = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(plain)[:, 1].sum(), plain)
    assert not torch.allclose(found, gradient.sum(1))


GUIDED: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "Hardtanh(0, 6)": lambda: nn.Hardtanh(0, 6),
    "LeakyReLU": lambda: nn.LeakyReLU(0.5),
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "Hardswish": nn.Hardswish,
    "ReLU6 in place": lambda: nn.ReLU6(inplace=True),
    "LeakyReLU in place": lambda: nn.LeakyReLU(inplace=True),
    "SiLU in place": lambda: nn.SiLU(inplace=True),
    "Hardswish in place": lambda: nn.Hardswish(inplace=True),
    "F.relu6": lambda: F.relu6,
    "F.leaky_relu": lambda: F.leaky_relu,
    "F.leaky_relu_": lambda: F.leaky_relu_,
    "F.silu": lambda: F.silu,
    "F.gelu": lambda: F.gelu,
    "F.hardswish": lambda: F.hardswish,
    "F.hardtanh_": lambda: lambda a: F.hardtanh_(a, 0, 6),
    "input=": lambda: lambda a: F.silu(input=a, inplace=True),
}


class Guided(nn.Module):
    """A convolution of weight 2, the activation, and two of weights -3 and 1, all 1 by 1; the logits are sums."""

    def __init__(self, activation: Callable[[Tensor], Tensor], *, again: bool = False, added: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
        self.activation, self.again, self.added = activation, again, added
        with torch.no_grad():
            self.first.weight.fill_(2.0)
            self.second.weight.copy_(torch.tensor([-3.0, 1.0]).reshape(2, 1, 1, 1))

    def start(self, x: Tensor) -> Tensor:
        return self.activation(self.first(x))

    def forward(self, x: Tensor) -> Tensor:
        a = checkpoint(self.start, x, use_reentrant=False) if self.again else self.start(x)
        if self.added:
            a += 1
        return self.second(a).sum((2, 3))


@pytest.mark.parametrize("again", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("kind", GUIDED)
def test_the_guided_rule_for_each_activation_by_hand(kind: str, again: bool) -> None:
    """The inputs of the activation are 2, -2, 8, 0, -8 and 1: gradients of 1 pass where these are positive, -3 nowhere.

    Not multiplied by the slope at 2 (SiLU 1.09, GELU 1.09, Hardswish 1.17), nor cut at 8 (ReLU6).
    """
    x = torch.tensor([[[[1.0, -1.0, 4.0], [0.0, -4.0, 0.5]]]], dtype=torch.float64)
    # Behind a plain activation that keeps its input and not its result, a model may change that result in place.
    added = kind in ("ReLU6", "SiLU", "GELU", "F.hardswish") and not again
    model = Guided(GUIDED[kind](), again=again, added=added).double()
    options: dict[str, Any] = {"methods": ["guided_backprop", "guided_gradcam", "gradcam"], "relu": False}
    cams = compute_cams(model, x, "first", targets=[0, 1], **options)
    assert cams["model", "guided_backprop", 0].tolist() == [[[0, 0, 0], [0, 0, 0]]]
    assert cams["model", "guided_backprop", 1].tolist() == [[[2, 0, 2], [0, 0, 2]]]
    product = cams["first", "gradcam", 1].clamp(min=0) * torch.tensor([[2, 0, 2], [0, 0, 2]])
    assert product.max() > 0
    torch.testing.assert_close(cams["first", "guided_gradcam", 1], product, rtol=0, atol=1e-12)
    # The plain model's scores, in the guided forward as in any other.
    torch.testing.assert_close(
        cams.output, Guided(GUIDED[kind](), added=added).double()(x).detach(), rtol=0, atol=1e-12
    )
