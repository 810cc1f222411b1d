"""Tests of models that end in a sigmoid or a softmax of their own: nothing is squashed twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gradcam import compute_cams
from lightning_gradcam.targets import Given, output_kind, resolve_targets
from lightning_gradcam.targets.reading import traced_output
from tests.conftest import named

LOGITS = torch.tensor([[1.0, 4.0, 2.0], [5.0, 3.0, 0.0]], dtype=torch.float64)


def body(classes: int) -> nn.Sequential:
    torch.manual_seed(3)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    return nn.Sequential(*layers).double().eval()


def pictures() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (torch.sigmoid, "sigmoid"),
        (lambda z: torch.sigmoid(z)[:, 0], "sigmoid"),
        (lambda z: 1 - torch.sigmoid(z)[:, :1], "sigmoid"),
        (lambda z: torch.sigmoid(z).clamp(1e-6, 1 - 1e-6).float(), "sigmoid"),
        (lambda z: torch.cat([torch.sigmoid(z[:, :2]), torch.sigmoid(z[:, 2:])], 1), "sigmoid"),
        (lambda z: torch.sigmoid(z[:, :1]) * torch.softmax(z, 1), "sigmoid"),
        (F.hardsigmoid, "sigmoid"),
        (lambda z: torch.softmax(z, 1), "softmax"),
        (lambda z: torch.softmax(z, 1)[:, :2], "softmax"),
        (lambda z: (torch.softmax(z, 1) + torch.softmax(-z, 1)) / 2, "softmax"),
        (lambda z: torch.log_softmax(z, 1), "log_softmax"),
        (lambda z: torch.log_softmax(z, 1).exp(), "softmax"),
        (F.logsigmoid, "log_sigmoid"),
        (lambda z: z * 1, "logits"),
        (lambda z: torch.sigmoid(z) * z, "logits"),
        (lambda z: torch.sigmoid(z) * 8 - 4, "logits"),
        (lambda z: torch.softmax(z, 1) * 3, "logits"),
        (lambda z: torch.softmax(z, 1) @ torch.eye(3).double(), "logits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_graph_tells_what_an_output_is(end: Callable[[Tensor], Tensor], kind: str) -> None:
    assert output_kind(end(LOGITS.clone().requires_grad_())) == kind
    with torch.no_grad():
        output, told = traced_output(lambda z: end(z * 1), LOGITS.clone())
    assert told == kind
    assert not output.requires_grad


def test_values_alone_never_decide() -> None:
    logits = torch.tensor([[0.25, 0.75], [1.0, 0.0]], requires_grad=True)
    assert output_kind(logits * 1) == "logits"
    assert output_kind(LOGITS.softmax(1)) == "logits"


@pytest.mark.parametrize("as_column", [True, False])
@pytest.mark.parametrize("score", ["logit", "probability", "sigmoid"])
def test_a_single_sigmoid_below_a_half_is_class_0(as_column: bool, score: Any) -> None:
    model = nn.Sequential(*body(1), nn.Sigmoid(), *([] if as_column else [nn.Flatten(0)]))
    model[4].bias.data.fill_(-2.0)
    with torch.no_grad():
        share = model(pictures()).flatten()
    assert 0 < float(share.max()) < 0.5
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        cams = compute_cams(model, pictures(), "1", targets=["predicted", 1], score=score, relu=False)
    assert cams.predicted is not None
    assert cams.confidence is not None
    assert cams.predicted.tolist() == [0, 0, 0]
    torch.testing.assert_close(cams.confidence, 1 - share)
    torch.testing.assert_close(cams.scores["predicted"], 1 - share)
    torch.testing.assert_close(cams.scores["1"], share)
    assert cams.score == "sigmoid"
    torch.testing.assert_close(cams["1", "gradcam", "predicted"], -cams["1", "gradcam", 1])


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (nn.Softmax(1), lambda z: z.softmax(1)),
        (nn.Sigmoid(), lambda z: z.sigmoid()),
        (nn.LogSoftmax(1), lambda z: z.softmax(1)),
        (nn.LogSigmoid(), lambda z: z.sigmoid()),
    ],
    ids=named,
)
@pytest.mark.parametrize("score", ["logit", "probability", "sigmoid"])
@pytest.mark.filterwarnings("ignore:lightning-gradcam. the model ends in")
def test_percentages_are_the_output_itself(end: nn.Module, expected: Callable[[Tensor], Tensor], score: Any) -> None:
    model = nn.Sequential(*body(3), end)
    with torch.no_grad():
        shares = expected(model[:5](pictures()))
    cams = compute_cams(model, pictures(), "1", targets=["predicted", 2], score=score)
    assert cams.confidence is not None
    torch.testing.assert_close(cams.confidence, shares.max(dim=1).values)
    torch.testing.assert_close(cams.confidences["2"], shares[:, 2])
    if score != "logit" or not isinstance(end, (nn.LogSoftmax, nn.LogSigmoid)):
        torch.testing.assert_close(cams.scores["2"], shares[:, 2])


def test_one_remark_a_call_names_the_way_to_the_logit() -> None:
    model = nn.Sequential(*body(3), nn.Softmax(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Signed, so that there is nothing to report of blank maps.
        options: dict[str, Any] = {"methods": ["gradcam", "eigencam"], "batch_size": 1, "relu": False}
        compute_cams(model, pictures(), "1", targets=["predicted", 0], **options)
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith("lightning-gradcam: the model ends in a softmax")
    assert "forward()" in said
    assert "output_key=" in said
    assert len(said) <= 500


@pytest.mark.parametrize(
    ("end", "options"),
    [
        (nn.Softmax(1), {"score": "probability"}),
        (nn.Softmax(1), {"targets": {"output": 0}}),
        (nn.Softmax(1), {"targets": lambda output: output[:, 0]}),
        (nn.LogSoftmax(1), {}),
        (nn.Identity(), {}),
    ],
    ids=named,
)
def test_no_remark_where_no_logit_is_meant(end: nn.Module, options: dict[str, Any]) -> None:
    model = nn.Sequential(*body(3), end)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_cams(model, pictures(), "1", relu=False, **options)


@pytest.mark.filterwarnings("ignore:lightning-gradcam. the model ends in")
def test_finer_cam_compares_the_logits_before_a_softmax() -> None:
    plain = body(3)
    ended = nn.Sequential(*plain, nn.Softmax(1))
    expected = compute_cams(plain, pictures(), "1", methods="finercam", relu=False)["1"]
    torch.testing.assert_close(compute_cams(ended, pictures(), "1", methods="finercam", relu=False)["1"], expected)


def test_a_segmentation_by_one_sigmoid_is_class_1_only_above_a_half() -> None:
    logits = torch.tensor([[[[-2.0, 1.0], [-1.0, -3.0]]]], dtype=torch.float64, requires_grad=True)
    output = logits.sigmoid()
    (target,) = resolve_targets({"segment": "predicted"})
    found = target.explain(output, Given(1, kind=output_kind(output)))
    assert found.classes.tolist() == [0]
    torch.testing.assert_close(found.scores, (1 - output.detach()).flatten(1)[:, [0, 2, 3]].sum(1))
