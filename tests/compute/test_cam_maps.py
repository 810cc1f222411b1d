"""The functional core against Grad-CAM written out plainly, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_gradcam import (
    CamKey,
    CamRecord,
    CaptureError,
    ConfigurationError,
    LayerError,
    MethodError,
    TargetError,
    compute_cams,
)
from lightning_gradcam.methods.registry import _REGISTRY, Method
from tests.conftest import TinyNet
from tests.guard.test_model import assert_same, everything
from tests.reference import plain_gradcam


def tutorial_network() -> nn.Sequential:
    """The tutorials' network, 48-32-16, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 48, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(32, 16, 3, padding="same"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 28 * 28, 10),
    ).double()


@pytest.mark.parametrize("layer", [1, 3, 5])
@pytest.mark.parametrize("target", ["predicted", "label", 3])
def test_maps_equal_plain_gradcam_on_the_tutorial_network(layer: int, target: str | int) -> None:
    model = tutorial_network()
    inputs = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    labels = torch.tensor([9, 0, 4])
    cams = compute_cams(model, inputs, ["1", "3", "5"], targets=["predicted", "label", 3], labels=labels)
    with torch.no_grad():
        classes = {"predicted": model(inputs).argmax(1), "label": labels}.get(str(target), torch.tensor([3, 3, 3]))
    expected = plain_gradcam(model[layer + 1 :], model[: layer + 1], inputs, classes.tolist())
    assert expected.abs().max() > 0
    torch.testing.assert_close(cams[str(layer), "gradcam", target], expected, rtol=0, atol=1e-10)
    assert torch.equal(cams.classes[str(target)], classes)


@pytest.mark.parametrize("layer", [1, 3, 5])
def test_probability_without_relu_is_the_flax_tutorials_signed_map(layer: int) -> None:
    """That tutorial differentiates the softmax, and takes the mean over channels where we sum."""
    model = tutorial_network()
    inputs = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    cams = compute_cams(model, inputs, str(layer), targets=7, score="probability", relu=False)
    head = nn.Sequential(*model[layer + 1 :], nn.Softmax(dim=1))
    expected = plain_gradcam(head, model[: layer + 1], inputs, [7, 7], relu=False)
    torch.testing.assert_close(cams[str(layer)], expected, rtol=0, atol=1e-10)
    activation = model[: layer + 1](inputs).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(head(activation)[:, 7].sum(), activation)
    flax = (activation.detach() * gradient.mean((2, 3), keepdim=True)).mean(1)
    torch.testing.assert_close(cams[str(layer)], flax * activation.shape[1], rtol=0, atol=1e-10)
    assert (expected < 0).any()


def test_a_two_by_two_case_by_hand() -> None:
    """Two channels, logits 3*mean(A0) - 1*mean(A1): weights 3/4 and -1/4."""

    class Hand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            means = self.features(x).mean((2, 3))
            return torch.stack([3 * means[:, 0] - means[:, 1], -means[:, 0]], 1)

    inputs = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[8.0, 4.0], [0.0, 4.0]]]], dtype=torch.float64)
    signed = compute_cams(Hand(), inputs, "features", targets=[0, 1], relu=False)
    assert signed["features", "gradcam", 0].tolist() == [[[-1.25, 0.5], [2.25, 2.0]]]
    assert signed["features", "gradcam", 1].tolist() == [[[-0.25, -0.5], [-0.75, -1.0]]]
    assert signed.scores["0"].tolist() == [3 * 2.5 - 4]
    assert compute_cams(Hand(), inputs, "features", targets=0)["features"].tolist() == [[[0.0, 0.5], [2.25, 2.0]]]


def test_one_forward_serves_all_layers_and_targets() -> None:
    calls = []
    model = TinyNet().eval()
    model.conv1.register_forward_hook(lambda *a: calls.append("forward"))
    cams = compute_cams(model, torch.rand(2, 1, 8, 8), ["conv1", "relu1", "conv2"], targets=["predicted", 0, 1])
    assert calls == ["forward"]
    assert len(cams) == 9


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_every_grad_mode_and_leaves_it(context: Callable[[], torch.inference_mode]) -> None:
    torch.manual_seed(0)
    model = TinyNet().train()
    inputs = torch.rand(2, 1, 8, 8)
    expected = compute_cams(model, inputs, "relu2")["relu2"]
    with context():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert torch.equal(compute_cams(model, inputs.clone(), "relu2")["relu2"], expected)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_untouched_also_when_the_explanation_raises(fails: bool) -> None:
    model = TinyNet().train()
    model.norm1.eval()
    model.conv1.weight.requires_grad_(False)
    model(torch.rand(4, 1, 8, 8)).sum().backward()
    inputs = torch.rand(2, 1, 8, 8)
    before = everything(model)

    def broken(output: Tensor) -> Tensor:
        raise RuntimeError("a target of the user's")

    if fails:
        with pytest.raises(RuntimeError, match="a target of the user's"):
            compute_cams(model, inputs, "relu2", targets=broken)
    else:
        compute_cams(model, inputs, ["conv1", "relu2"], targets=["predicted", 1])
    assert_same(before, everything(model))


def test_maps_are_raw_float32_detached_and_at_the_layers_resolution() -> None:
    cams = compute_cams(TinyNet().bfloat16(), torch.rand(2, 1, 8, 8).bfloat16(), ["conv1", "relu2"])
    shapes = {key.layer: tuple(value.shape) for key, value in cams.items()}
    assert shapes == {"conv1": (2, 8, 8), "relu2": (2, 6, 6)}
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in cams.values())
    assert not cams.output.requires_grad


def test_a_model_that_drops_the_short_graph_gets_the_whole_one() -> None:
    class Switching(nn.Module):
        """Its backbone runs under no_grad; the layer is the last operation there."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Conv2d(1, 2, 3).double(), nn.Linear(8, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.backbone(x)
            return self.head(features.flatten(1))

    torch.manual_seed(0)
    model = Switching()
    inputs = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    expected = plain_gradcam(lambda a: model.head(a.flatten(1)), model.backbone, inputs, [1, 1], relu=False)
    found = compute_cams(model, inputs, "backbone", targets=1, relu=False)["backbone"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_layer_behind_a_detach_is_refused() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x).detach().flatten(1))

    with pytest.raises(CaptureError, match="no gradient reaches 'stem'"):
        compute_cams(Cut(), torch.rand(1, 1, 4, 4), "stem")


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 can't leave compilation out")
def test_compiled_models_are_explained_with_hooks_that_fire() -> None:
    torch.manual_seed(0)
    model = TinyNet().eval()
    inputs = torch.rand(2, 1, 8, 8)
    expected = compute_cams(model, inputs, "relu2")["relu2"]
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(inputs)
    assert torch.equal(compute_cams(compiled, inputs, "relu2")["relu2"], expected)


def test_the_likeliest_classes_begin_with_the_predicted_one() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0, -1.0], [5.0] * 6, [0.0, -2.0, -1.0, -9.0, -3.0, 4.0]])

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.features(x).mean((1, 2, 3))[:, None] + logits.to(x)

    cams = compute_cams(Fixed(), torch.rand(3, 6, 2, 2).double(), "features")
    assert cams.likeliest is not None
    assert cams.likeliest_confidence is not None
    # Of equal ones the first: which one stands there must not depend on the device or the batch.
    assert cams.likeliest.tolist() == [[1, 3, 2, 0, 4, 5], [0, 1, 2, 3, 4, 5], [5, 0, 2, 1, 4, 3]]
    assert torch.equal(cams.predicted, cams.likeliest[:, 0])
    assert torch.equal(cams.predicted, logits.argmax(1))
    shares = logits.double().softmax(1)
    torch.testing.assert_close(cams.likeliest_confidence, shares.gather(1, cams.likeliest), rtol=0, atol=1e-12)
    torch.testing.assert_close(cams.confidence, shares.amax(1), rtol=0, atol=1e-12)


def test_a_single_logit_has_two_classes_and_a_picture_has_none() -> None:
    binary = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1))
    cams = compute_cams(binary, torch.rand(2, 1, 4, 4), "0")
    assert cams.likeliest is not None
    assert sorted(cams.likeliest[0].tolist()) == [0, 1]
    dense = compute_cams(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1)), torch.rand(2, 1, 4, 4), "0", targets={"segment": 1}
    )
    assert dense.likeliest is dense.likeliest_confidence is None


def test_keys_full_bare_and_ambiguous() -> None:
    cams = compute_cams(TinyNet(), torch.rand(1, 1, 8, 8), ["conv1", "relu2"], targets=["predicted", 2])
    assert cams[CamKey("conv1", "gradcam", "2")] is cams["conv1", "gradcam", 2]
    assert ("conv1", "gradcam", 2) in cams
    assert "nothing" not in cams
    with pytest.raises(KeyError, match="'conv1' is ambiguous.*'conv1', 'gradcam', '2'"):
        cams["conv1"]
    with pytest.raises(KeyError, match="'conv9' not found"):
        cams["conv9"]
    with pytest.raises(TypeError):
        cams.maps["x"] = torch.zeros(1)  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layers": "relu3"}, LayerError, r"layers: layer 'relu3' not found; did you mean 'relu2'\? available: conv1"),
        ({"layers": "drop*x"}, LayerError, r"layers: no layer matches the pattern 'drop\*x'"),
        ({"layers": "head"}, LayerError, r"layers: 'head' has no spatial activation: its output is \[2, 5\]"),
        ({"targets": 5}, TargetError, r"targets: '5' asks for class 5.*has 5 classes; valid: 0 to 4"),
        ({"targets": "label"}, TargetError, r"targets: 'label' needs the true classes"),
        (
            {"targets": lambda output: output},
            TargetError,
            r"returned a tensor \[2, 5\] of torch.float32; it must return a tensor \[2\]",
        ),
        ({"methods": "grad-cam"}, MethodError, r"methods: method 'grad-cam' not found; did you mean 'gradcam'\?"),
        ({"score": "odds"}, TargetError, r"score: got 'odds'; valid: 'logit'"),
    ],
)
def test_bad_input_is_named(options: dict[str, object], error: type[Exception], text: str) -> None:
    arguments = {"layers": "relu2", **options}
    with pytest.raises(error, match=text):
        compute_cams(TinyNet(), torch.rand(2, 1, 8, 8), **arguments)  # type: ignore[arg-type]


def test_a_model_without_forward_and_inputs_of_another_kind_are_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"model: ModuleList defines no forward\(\); define it, or pass forward="
    ):
        compute_cams(nn.ModuleList([nn.Conv2d(1, 1, 3)]), torch.rand(1, 1, 8, 8), "0")
    with pytest.raises(ConfigurationError, match=r"inputs: got a ndarray; pass a tensor"):
        compute_cams(TinyNet(), torch.rand(1, 1, 8, 8).numpy(), "relu2")  # type: ignore[arg-type]
    cams = compute_cams(TinyNet(), torch.rand(2, 1, 8, 8), "relu2", targets="label", labels=[1, 4])  # type: ignore[arg-type]
    assert cams.classes["label"].tolist() == [1, 4]


def test_a_method_of_the_wrong_shape_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_REGISTRY, "flat", Method(lambda a, g: a.sum((1, 2))))
    with pytest.raises(MethodError, match=r"methods: 'flat' returned \[2, 6\] at layer 'relu2', expected \[2, 6, 6\]"):
        compute_cams(TinyNet(), torch.rand(2, 1, 8, 8), "relu2", methods="flat")


def test_a_single_logit_model_is_explained_and_recorded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 1)).double()
    inputs = torch.randn(4, 1, 5, 5, dtype=torch.float64)
    cams = compute_cams(model, inputs, "1", targets=["predicted", 1], relu=False)
    positive = model(inputs)[:, 0] >= 0
    signs = torch.where(positive, 1.0, -1.0).double()[:, None, None]
    torch.testing.assert_close(cams["1", "gradcam", "predicted"], cams["1", "gradcam", 1] * signs)
    expected = plain_gradcam(model[2:], model[:2], inputs, [0, 0, 0, 0], relu=False)
    torch.testing.assert_close(cams["1", "gradcam", 1], expected, rtol=0, atol=1e-10)
    record = CamRecord.from_cams(cams, probe_ids=("a", "b", "c", "d"), epoch=0, step=0, stage="fit", score="logit")
    assert record.predicted.tolist() == positive.long().tolist()
    np.testing.assert_allclose(record.confidence, model(inputs)[:, 0].abs().sigmoid().detach().numpy(), rtol=1e-6)


def test_an_output_without_classes_is_recorded_without_a_prediction() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    cams = compute_cams(model, torch.rand(2, 1, 5, 5), "1", targets=lambda output: output.mean((1, 2, 3)))
    record = CamRecord.from_cams(cams, probe_ids=("a", "b"), epoch=0, step=0, stage="fit", score="logit")
    assert record.predicted.tolist() == [-1, -1]
    assert np.isnan(record.confidence).all()


@pytest.mark.filterwarnings("ignore:lightning-gradcam.*not finite")
@pytest.mark.parametrize("classes", [1, 3])
def test_an_output_of_nan_predicts_no_class(classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, classes))
    inputs = torch.rand(3, 1, 5, 5)
    ids = {"probe_ids": ("a", "b", "c"), "epoch": 0, "step": 0, "stage": "fit", "score": "logit"}
    whole = CamRecord.from_cams(compute_cams(model, inputs, "1", targets=["predicted", 0]), **ids)  # type: ignore[arg-type]
    inputs[1] = torch.nan
    broken = CamRecord.from_cams(compute_cams(model, inputs, "1", targets=["predicted", 0]), **ids)  # type: ignore[arg-type]
    assert (whole.predicted >= 0).all()
    assert broken.predicted.tolist() == [whole.predicted[0], -1, whole.predicted[2]]
    assert np.isnan(broken.confidence).tolist() == [False, True, False]
    # Its explained class can't have changed either.
    other = replace(whole, classes={name: values + 1 for name, values in whole.classes.items()})
    assert other.changed_from(whole)["predicted"].tolist() == [True, True, True]
    for changed in (broken.changed_from(other), other.changed_from(broken)):
        assert {name: flags.tolist() for name, flags in changed.items()} == {
            "predicted": [True, False, True],
            "0": [True, False, True],
        }


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"labels": ["a", "b"]}, TargetError, r"labels: got \['a', 'b'\] \(.*\); pass a tensor or a list of numbers"),
        ({"masks": [[1], [1, 2]]}, TargetError, r"masks: got \[\[1\], \[1, 2\]\] \(.*\); pass a tensor"),
        ({"layout": {"relu3": "NHWC"}}, LayerError, r"layout: layer 'relu3' not found; did you mean 'relu2'\?"),
        (
            {"layout": "NHWC", "layers": "conv2"},
            ConfigurationError,
            r"layout: 'NHWC\' does not fit 'conv2', a Conv2d, whose",
        ),
        ({"output_key": 0}, ConfigurationError, r"output_key: got 0, but the model returned a plain"),
    ],
    ids=["labels", "masks", "unknown layer", "impossible layout", "output key"],
)
def test_options_that_can_not_be_meant_are_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        compute_cams(TinyNet(), torch.rand(2, 1, 8, 8), **{"layers": "relu2", **options})


def test_a_layout_named_for_one_layer_leaves_the_others_alone() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(1, 5, 3), nn.LayerNorm(5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

    cams = compute_cams(Moving(), torch.rand(2, 1, 7, 9), ["conv", "norm"], layout={"norm": "NHWC"})
    assert {name: (layout.axes, layout.grid) for name, layout in cams.layouts.items()} == {
        "conv": ("NCHW", (5, 7)),
        "norm": ("NHWC", (5, 7)),
    }


def test_what_is_no_model_no_batch_and_no_sample_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"model: got <function .*; pass a torch\.nn\.Module, whose layers"):
        compute_cams(lambda x: x, torch.rand(1, 1, 8, 8), "0")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="inputs: got an empty batch; pass at least one sample"):
        compute_cams(TinyNet(), torch.rand(0, 1, 8, 8), "relu2")
    for layers in ("relu2", "auto"):
        with pytest.raises(ConfigurationError, match=r"inputs: the model failed on \[1, 8, 8\] \(.*; .* image\[None\]"):
            compute_cams(TinyNet(), torch.rand(1, 8, 8), layers)


def test_an_error_of_the_model_itself_is_its_own() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        compute_cams(Failing(), torch.rand(2, 3, 8, 8), "auto")


def test_shapleycam_names_what_has_no_second_derivative() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            boxes = [torch.tensor([[0.0, 0.0, 3.0, 3.0]])] * len(x)
            return self.fc(torchvision.ops.roi_align(self.conv(x), boxes, 2).mean((2, 3))).square()

    with pytest.raises(
        MethodError, match=r"'shapleycam' differentiates twice, which .* after layer 'conv' does not support .*; use"
    ):
        compute_cams(Net(), torch.rand(2, 1, 6, 6), "conv", methods="shapleycam")


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "finercam"])
def test_a_callers_autocast_applies_to_the_model_and_not_to_the_sums_of_a_map(method: str) -> None:
    model, inputs = tutorial_network().float(), torch.randn(3, 1, 28, 28)

    def cast(values: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(values)

    expected = compute_cams(model, inputs, "5", methods=method, forward=cast, relu=False)["5", method, "predicted"]
    assert (expected != 0).flatten(1).any(1).all()
    with torch.autocast("cpu", torch.bfloat16):
        found = compute_cams(model, inputs, "5", methods=method, relu=False)["5", method, "predicted"]
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
