"""Tests of the scores that are explained."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_gradcam import TargetError
from lightning_gradcam.targets import Given, Target, check_score, class_scores, resolve_targets
from lightning_gradcam.targets.classes import Class

LOGITS = torch.tensor([[1.0, 4.0, 2.0], [5.0, 3.0, 0.0]])


def scored(
    spec: Any, *, output: Any = LOGITS, labels: Tensor | None = None, score: Any = "logit"
) -> tuple[list[float], list[int]]:
    (target,) = resolve_targets(spec)
    samples = len(output) if isinstance(output, Tensor) else 2
    explained = target.explain(output, Given(samples, labels, None, score))
    return explained.scores.tolist(), explained.classes.tolist()


def pair(
    target: Target, output: Tensor, *, labels: Tensor | None = None, score: Any = "logit"
) -> tuple[Tensor, Tensor]:
    explained = target.explain(output, Given(len(output), labels, None, score))
    return explained.scores, explained.classes


def margin(output: Tensor) -> Tensor:
    return output[:, 0] - output[:, 1]


@pytest.mark.parametrize(
    ("spec", "scores", "classes"),
    [
        ("predicted", [4.0, 5.0], [1, 0]),
        ("label", [2.0, 3.0], [2, 1]),
        (0, [1.0, 5.0], [0, 0]),
        (2, [2.0, 0.0], [2, 2]),
        ({"per_probe": [2, 1]}, [2.0, 3.0], [2, 1]),
        ({"per_probe": (0, 2)}, [1.0, 0.0], [0, 2]),
        (margin, [-3.0, 2.0], [-1, -1]),
        (["predicted"], [4.0, 5.0], [1, 0]),
    ],
    ids=str,
)
def test_target_selects_scores_and_classes(spec: Any, scores: list[float], classes: list[int]) -> None:
    assert scored(spec, labels=torch.tensor([2, 1])) == (scores, classes)


def test_probability_is_the_softmax_at_the_class() -> None:
    scores, classes = scored(2, score="probability")
    exponentials = LOGITS.double().exp()
    assert scores == pytest.approx((exponentials[:, 2] / exponentials.sum(1)).tolist())
    assert classes == [2, 2]


def test_callable_gets_the_plain_output_under_probability_too() -> None:
    assert scored(margin, score="probability")[0] == [-3.0, 2.0]


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_scores_stay_attached_to_the_graph(score: Any) -> None:
    output = LOGITS.clone().requires_grad_()
    (target,) = resolve_targets(1)
    target.explain(output, Given(2, score=score)).scores.sum().backward()
    assert output.grad is not None
    if score == "logit":
        assert output.grad.tolist() == [[0, 1, 0], [0, 1, 0]]
    else:
        p = LOGITS.softmax(1)
        assert torch.allclose(output.grad[:, 1], p[:, 1] * (1 - p[:, 1]))
        assert torch.allclose(output.grad[:, 0], -p[:, 1] * p[:, 0])


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64], ids=str)
def test_labels_of_any_integer_type_serve(dtype: torch.dtype) -> None:
    assert scored("label", labels=torch.tensor([0, 2], dtype=dtype))[1] == [0, 2]


def test_callable_takes_any_output() -> None:
    assert scored(lambda output: output["logits"][:, 0], output={"logits": LOGITS}) == ([1.0, 5.0], [-1, -1])


class Margin:
    def __call__(self, output: Tensor) -> Tensor:
        return margin(output)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("predicted", ["predicted"]),
        (["label", 3, "predicted", 0], ["label", "3", "predicted", "0"]),
        ([margin, {"per_probe": [1]}], ["margin", "per_probe"]),
        ((Margin(), 1), ["Margin", "1"]),
    ],
    ids=str,
)
def test_names_follow_the_order_asked_for(spec: Any, names: list[str]) -> None:
    assert [target.name for target in resolve_targets(spec)] == names


def test_targets_are_frozen_and_plain() -> None:
    assert resolve_targets({"per_probe": [1, 2]}) == (Target("per_probe", Class((1, 2))),)


@pytest.mark.parametrize("spec", [[3, 3], ["predicted", "label", "predicted"], [margin, margin]], ids=str)
def test_target_named_twice_is_refused(spec: Any) -> None:
    name = resolve_targets(spec[0])[0].name
    with pytest.raises(TargetError, match=f"targets: '{name}' is asked for 2 times; name each target once"):
        resolve_targets(spec)


@pytest.mark.parametrize("make", [lambda f: lambda output: f(output), functools.partial], ids=["lambda", "partial"])
def test_two_nameless_callables_are_refused_with_how_to_name_them(make: Callable[[Any], Any]) -> None:
    with pytest.raises(TargetError, match="__name__|def "):
        resolve_targets([make(margin), make(margin)])


@pytest.mark.parametrize("spec", [True, False, None, "best", "3", 2.0, {"per_probe": []}, {"per_probe": [1.5]},
                                  {"per_probe": [True]}, {"per_probe": [-1]}, {"per_probe": 3}, {"other": [1]},
                                  {"per_probe": [1], "x": 2}, ["predicted", [1]]], ids=str)  # fmt: skip
def test_impossible_target_is_refused_with_the_choices(spec: Any) -> None:
    with pytest.raises(TargetError) as caught:
        resolve_targets(spec)
    came = spec[1] if isinstance(spec, list) else spec
    assert str(caught.value).startswith(
        f"targets: got {came!r}; give 'predicted', 'label', a class index, {{'per_probe'"
    )


def test_no_target_is_refused_with_the_choices() -> None:
    with pytest.raises(TargetError, match="targets: got an empty list; give 'predicted', 'label'"):
        resolve_targets([])


def test_negative_index_is_refused() -> None:
    with pytest.raises(TargetError, match="targets: got class index -1; indices begin at 0"):
        resolve_targets([0, -1])


@pytest.mark.parametrize(
    ("spec", "labels", "name", "index"),
    [
        (3, None, "3", 3),
        ({"per_probe": [0, 7]}, None, "per_probe", 7),
        ("label", torch.tensor([1, 3]), "label", 3),
        ("label", torch.tensor([-1, 0]), "label", -1),
    ],
)
def test_class_out_of_range_is_refused_with_the_range(spec: Any, labels: Any, name: str, index: int) -> None:
    with pytest.raises(
        TargetError, match=f"'{name}' asks for class {index}, but the model's output has 3 classes; valid are 0 to 2"
    ):
        scored(spec, labels=labels)


def test_label_without_labels_is_refused_with_what_to_give() -> None:
    with pytest.raises(
        TargetError, match=r"'label' needs the true classes, but there are none; .*label_key.*'predicted'"
    ):
        scored("label")


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(2, 1), torch.tensor(1)])
def test_labels_of_another_shape_are_refused_with_it(labels: Tensor) -> None:
    with pytest.raises(TargetError) as caught:
        scored("label", labels=labels)
    assert f"labels: got shape {list(labels.shape)} for " in str(caught.value)
    assert "give one class for each" in str(caught.value)


def test_per_probe_of_another_length_is_refused_with_both() -> None:
    with pytest.raises(TargetError, match="'per_probe' has 3 indices for 2 probes; give one for each probe"):
        scored({"per_probe": [0, 1, 2]})


@pytest.mark.parametrize(
    ("output", "came"),
    [
        (torch.zeros(2, 3, 4), "a tensor [2, 3, 4] of torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int64), "a tensor [2, 3] of torch.int64"),
        ({"logits": LOGITS}, "a dict with 'logits'"),
        ((LOGITS, None), "a tuple of 2"),
        (None, "NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_output_that_is_no_logits_is_refused_with_what_came(output: Any, came: str) -> None:
    for call in (lambda: class_scores(output, "logit"), lambda: scored("predicted", output=output)):
        with pytest.raises(TargetError) as caught:
            call()
        assert f"targets: the model returned {came}, expected logits [N, C]" in str(caught.value)
        assert "name the logits in it with output_key=" in str(caught.value)
        assert "or a callable that turns it into scores [N]" in str(caught.value)


def test_half_precision_logits_are_logits() -> None:
    assert class_scores(LOGITS.half(), "logit").dtype == torch.float16


# ---- a single logit, ranks and contrasts


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_the_sign_of_a_single_logit_decides(shape: tuple[int, ...]) -> None:
    z = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64).reshape(shape).requires_grad_()
    labels = torch.tensor([0, 0, 1])
    predicted, classes = pair(resolve_targets("predicted")[0], z, labels=None, score="logit")
    assert (predicted.tolist(), classes.tolist()) == ([2.0, 3.0, 0.5], [1, 0, 1])
    true, _ = pair(resolve_targets("label")[0], z, labels=labels, score="logit")
    assert true.tolist() == [-2.0, 3.0, 0.5]
    one, _ = pair(resolve_targets(1)[0], z, labels=None, score="probability")
    assert torch.allclose(one, z.flatten().sigmoid())
    (gradient,) = torch.autograd.grad(predicted.sum(), z)
    assert gradient.flatten().tolist() == [1.0, -1.0, 1.0]
    with pytest.raises(TargetError, match="asks for class 2, but the model's output has 2 classes; valid are 0 to 1"):
        pair(resolve_targets(2)[0], z, labels=None, score="logit")


def test_top_is_one_target_for_each_rank() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]])
    targets = resolve_targets({"top": 3})
    assert [target.name for target in targets] == ["top1", "top2", "top3"]
    found = [pair(target, logits, labels=None, score="logit") for target in targets]
    assert [classes.tolist() for _, classes in found] == [[1, 0], [2, 2], [0, 1]]
    assert [values.tolist() for values, _ in found] == [
        pytest.approx([0.9, 3.0]),
        pytest.approx([0.5, 2.0]),
        pytest.approx([0.1, 1.0]),
    ]
    with pytest.raises(TargetError, match="'top4' asks for more than the model's 3 classes"):
        pair(resolve_targets({"top": 4})[3], logits, labels=None, score="logit")


def test_contrast_is_the_difference_of_two_scores() -> None:
    logits = torch.tensor([[0.0, 4.0, 1.0], [5.0, 1.0, 2.0]])
    labels = torch.tensor([2, 0])
    (fixed,) = resolve_targets({"contrast": [1, 2]})
    values, classes = pair(fixed, logits, labels=None, score="logit")
    assert (fixed.name, values.tolist(), classes.tolist()) == ("1_vs_2", [3.0, -1.0], [1, 1])
    (mistake,) = resolve_targets({"contrast": ["predicted", "label"]})
    values, classes = pair(mistake, logits, labels=labels, score="logit")
    assert (mistake.name, values.tolist(), classes.tolist()) == ("predicted_vs_label", [3.0, 0.0], [1, 0])
    softmax = logits.softmax(1)
    values, _ = pair(fixed, logits, labels=None, score="probability")
    assert torch.allclose(values, softmax[:, 1] - softmax[:, 2])
    with pytest.raises(TargetError, match="asks for class 7"):
        pair(resolve_targets({"contrast": [1, 7]})[0], logits, labels=None, score="logit")


@pytest.mark.parametrize(
    "spec", [{"top": 0}, {"top": "3"}, {"top": True}, {"contrast": [1]}, {"contrast": [1, "best"]}, {"contrast": 1}]
)
def test_impossible_ranks_and_contrasts_are_refused(spec: Any) -> None:
    with pytest.raises(TargetError, match=r"targets: got .*\{'top': k\}, \{'contrast': \[class, class\]\}"):
        resolve_targets(spec)


@pytest.mark.parametrize(
    ("returned", "came"),
    [
        (torch.zeros(2, 1), r"shape \[2, 1\]"),
        (torch.zeros(3), r"shape \[3\]"),
        (torch.tensor(1.0), r"shape \[\]"),
        ([1.0, 2.0], "a list"),
        (None, "a NoneType"),
    ],
)
def test_callable_of_another_shape_is_refused_with_what_came(returned: Any, came: str) -> None:
    def mine(output: Tensor) -> Any:
        return returned

    with pytest.raises(TargetError, match=rf"the callable 'mine' returned {came}; it needs to return a tensor \[2\]"):
        scored(mine)


def test_score_is_one_of_two() -> None:
    assert [check_score(score) for score in ("logit", "probability")] == ["logit", "probability"]
    with pytest.raises(
        TargetError, match=r"score: got 'logits'; valid are 'logit' \(.*\), 'probability' \(its softmax\) and 'sigmoid'"
    ):
        check_score("logits")
