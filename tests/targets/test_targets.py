"""Tests of the scores that are explained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import (
    ClassName,
    Contrast,
    Detect,
    Output,
    PerProbe,
    Segment,
    SimilarTo,
    TargetError,
    Top,
    compute_cams,
)
from lightning_gradcam.targets import Given, Target, check_score, class_scores, resolve_targets, written
from lightning_gradcam.targets.classes import Class
from tests.conftest import named

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
    ids=named,
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


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64], ids=named)
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
    ids=named,
)
def test_names_follow_the_order_asked_for(spec: Any, names: list[str]) -> None:
    assert [target.name for target in resolve_targets(spec)] == names


NAMES = ["Boot", "tabby, tabby cat", "crane", "a/b", "crane"]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"class": "Boot"}, ["0"]),
        ({"class": ["a/b", "tabby, tabby cat"]}, ["3", "1"]),
        ({"class": ("Boot", 2)}, ["0", "2"]),
        (["predicted", {"class": "Boot"}, 4], ["predicted", "0", "4"]),
    ],
    ids=named,
)
def test_classes_by_name_are_those_of_their_index(spec: Any, names: list[str]) -> None:
    resolved = resolve_targets(spec, NAMES)
    assert [target.name for target in resolved] == names
    assert resolved[-1] == resolve_targets(int(names[-1]))[0]


def test_a_class_by_name_selects_its_score() -> None:
    (target,) = resolve_targets({"class": "c"}, ["a", "b", "c"])
    scores, classes = pair(target, LOGITS)
    assert (scores.tolist(), classes.tolist()) == ([2.0, 0.0], [2, 2])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class": "Bot"}, r"targets: class 'Bot' not found; did you mean 'Boot'\? available: Boot, tabby, tabby cat"),
        ({"class": ["Boot", ""]}, "targets: class '' not found; available: Boot"),
        ({"class": "crane"}, "targets: 2 classes are named 'crane'; pass the index of one: 2, 4"),
        ({"class": []}, r"targets: got {'class': \[\]}; pass 'predicted', 'label', a class index, {'class': name}"),
        ({"class": None}, "targets: got {'class': None}"),
        ({"class": -1}, "targets: got {'class': -1}"),
        ({"class": "Boot", "top": 2}, "targets: got {'class': 'Boot', 'top': 2}"),
        ([{"class": "Boot"}, 0], "targets: '0' is listed 2 times"),
        ({"class": 5}, None),
    ],
    ids=named,
)
def test_a_name_that_no_class_or_several_have_is_refused(spec: Any, message: str | None) -> None:
    if message is None:
        # An index is held against the output, as elsewhere.
        assert resolve_targets(spec, NAMES)[0].name == "5"
        return
    with pytest.raises(TargetError, match=message):
        resolve_targets(spec, NAMES)


def test_a_name_is_taken_before_names_are_known_and_can_not_explain() -> None:
    (target,) = resolve_targets({"class": "Boot"})
    assert target.name == "Boot"
    with pytest.raises(TargetError, match=r"targets: class 'Boot' is given by name.*pass class_names="):
        target.explain(LOGITS, Given(2))


def test_targets_are_frozen_and_plain() -> None:
    assert resolve_targets({"per_probe": [1, 2]}) == (Target("per_probe", Class((1, 2))),)


@pytest.mark.parametrize("spec", [[3, 3], ["predicted", "label", "predicted"], [margin, margin]], ids=named)
def test_target_named_twice_is_refused(spec: Any) -> None:
    name = resolve_targets(spec[0])[0].name
    with pytest.raises(TargetError, match=f"targets: '{name}' is listed 2 times; list each target once"):
        resolve_targets(spec)


@pytest.mark.parametrize("make", [lambda f: lambda output: f(output), functools.partial], ids=["lambda", "partial"])
def test_two_nameless_callables_are_refused_with_how_to_name_them(make: Callable[[Any], Any]) -> None:
    with pytest.raises(TargetError, match="__name__|def "):
        resolve_targets([make(margin), make(margin)])


@pytest.mark.parametrize("spec", [True, False, None, "best", "3", 2.0, {"per_probe": []}, {"per_probe": [1.5]},
                                  {"per_probe": [True]}, {"per_probe": [-1]}, {"per_probe": 3}, {"other": [1]},
                                  {"per_probe": [1], "x": 2}, ["predicted", [1]]], ids=named)  # fmt: skip
def test_impossible_target_is_refused_with_the_choices(spec: Any) -> None:
    with pytest.raises(TargetError) as caught:
        resolve_targets(spec)
    came = spec[1] if isinstance(spec, list) else spec
    assert str(caught.value).startswith(
        f"targets: got {came!r}; pass 'predicted', 'label', a class index, {{'class': name}}, {{'per_probe'"
    )


def test_a_bare_name_is_the_class_of_that_name() -> None:
    assert resolve_targets(["hat", "label"], ["coat", "label", "hat"]) == resolve_targets([2, "label"])
    with pytest.raises(
        TargetError, match="targets: class 'lable' not found; did you mean 'label'. available: predicted"
    ):
        resolve_targets("lable", ["coat"])
    with pytest.raises(TargetError, match="targets: 2 classes are named 'crane'; pass the index of one: 2, 4"):
        resolve_targets("crane", NAMES)


def test_a_bare_name_is_refused_where_no_names_are_known_with_how_to_name_a_class() -> None:
    with pytest.raises(
        TargetError, match="; to explain a class of that name, pass {'class': 'coat'} and class_names=$"
    ):
        resolve_targets("coat")


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        (ClassName("Boot"), {"class": "Boot"}),
        (PerProbe([3, 0]), {"per_probe": [3, 0]}),
        (PerProbe(torch.tensor([3, 0])), {"per_probe": [3, 0]}),
        (Top(2), {"top": 2}),
        (Contrast("predicted", "label"), {"contrast": ["predicted", "label"]}),
        (Contrast(np.int64(2), 1), {"contrast": [2, 1]}),
        (Output(2), {"output": 2}),
        (Segment("predicted"), {"segment": "predicted"}),
        (Segment(3, masked=True), {"segment_mask": 3}),
        (Detect(3), {"detect": 3}),
        (Detect(3, np.array([[1, 2, 3, 4]])), {"detect": 3, "boxes": [[1, 2, 3, 4]]}),
        (SimilarTo(1), {"similar_to": 1}),
    ],
    ids=str,
)
def test_an_object_means_what_its_dict_means(given: Any, spec: Any) -> None:
    assert resolve_targets(given, NAMES) == resolve_targets(spec, NAMES)
    assert resolve_targets(["predicted", given], NAMES)[1:] == resolve_targets(spec, NAMES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(given, dataclasses.fields(given)[0].name, 0)


@pytest.mark.parametrize("given", [Top(0), PerProbe([]), Contrast("predicted", "worst"), Output(-1), ClassName("Bot")])
def test_an_object_that_can_not_work_is_refused_as_its_dict(given: Any) -> None:
    with pytest.raises(TargetError) as of_object:
        resolve_targets(given, NAMES)
    with pytest.raises(TargetError) as of_dict:
        resolve_targets(written(given), NAMES)
    assert str(of_object.value) == str(of_dict.value)


def test_no_target_is_refused_with_the_choices() -> None:
    with pytest.raises(TargetError, match="targets: got an empty list; pass 'predicted', 'label'"):
        resolve_targets([])


def test_negative_index_is_refused() -> None:
    with pytest.raises(TargetError, match="targets: got class index -1; indices start at 0"):
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
        TargetError, match=f"'{name}' asks for class {index}, but the model's output has 3 classes; valid: 0 to 2"
    ):
        scored(spec, labels=labels)


def test_label_without_labels_is_refused_with_what_to_give() -> None:
    with pytest.raises(
        TargetError, match=r"'label' needs the true classes, but there are none; .*label_key.*'predicted'"
    ):
        scored("label")


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(2, 2), torch.tensor(1)])
def test_labels_of_another_shape_are_refused_with_it(labels: Tensor) -> None:
    with pytest.raises(TargetError) as caught:
        scored("label", labels=labels)
    assert f"labels: got shape {list(labels.shape)} for " in str(caught.value)
    assert "pass one class for each" in str(caught.value)


def test_per_probe_of_another_length_is_refused_with_both() -> None:
    with pytest.raises(TargetError, match="'per_probe' has 3 indices for 2 probes; pass one for each probe"):
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
        assert "select the logits in it with output_key=" in str(caught.value)
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
    with pytest.raises(TargetError, match="asks for class 2, but the model's output has 2 classes; valid: 0 to 1"):
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
        (torch.zeros(2, 1), r"a tensor \[2, 1\] of torch.float32"),
        (torch.zeros(3), r"a tensor \[3\] of torch.float32"),
        (torch.tensor(1.0), r"a tensor \[\] of torch.float32"),
        ([1.0, 2.0], "a list of 2"),
        (None, "NoneType"),
    ],
)
def test_callable_of_another_shape_is_refused_with_what_came(returned: Any, came: str) -> None:
    def mine(output: Tensor) -> Any:
        return returned

    with pytest.raises(TargetError, match=rf"the callable 'mine' returned {came}; it must return a tensor \[2\]"):
        scored(mine)


def test_score_is_one_of_two() -> None:
    assert [check_score(score) for score in ("logit", "probability")] == ["logit", "probability"]
    with pytest.raises(
        TargetError, match=r"score: got 'logits'; valid: 'logit' \(.*\), 'probability' \(its softmax\) and 'sigmoid'"
    ):
        check_score("logits")


# ---- outputs of another number of samples, labels and callables of other kinds


@pytest.mark.parametrize("spec", ["predicted", 0, {"top": 1}, {"per_probe": [0]}, {"contrast": [0, 1]}, {"output": 0}])
@pytest.mark.parametrize("shape", [(5,), (5, 3), ()], ids=named)
def test_an_output_without_a_row_for_each_sample_is_refused(spec: Any, shape: tuple[int, ...]) -> None:
    (target,) = resolve_targets(spec)
    with pytest.raises(TargetError) as caught:
        target.explain(torch.zeros(shape), Given(1))
    text = f"the model returned a tensor {list(shape)} of torch.float32 for 1 sample, expected one row for each; if"
    assert text in str(caught.value)


class Squeezing(nn.Module):
    """Drops the batch axis of a single sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3))).squeeze()


def test_a_model_that_squeezes_a_single_sample_is_refused_and_explains_several() -> None:
    model, x = Squeezing(), torch.rand(3, 1, 6, 6)
    assert compute_cams(model, x, "conv")["conv"].shape == (3, 4, 4)
    with pytest.raises(TargetError, match=r"returned a tensor \[5\] of torch.float32 for 1 sample, expected one row"):
        compute_cams(model, x[:1], "conv")
    # Three samples in parts of two leave one alone.
    with pytest.raises(TargetError, match=r"returned a tensor \[5\] of torch.float32 for 1 sample, expected one row"):
        compute_cams(model, x, "conv", batch_size=2)


def test_labels_of_a_binary_cross_entropy_are_classes() -> None:
    z = torch.tensor([[2.0], [-3.0]])
    for labels in (torch.tensor([[1.0], [0.0]]), torch.tensor([1, 0]), torch.tensor([[True], [False]])):
        assert scored("label", output=z, labels=labels) == ([2.0, 3.0], [1, 0])
        assert scored({"contrast": ["label", 0]}, output=z, labels=labels)[0] == [4.0, 0.0]


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(TargetError, match=r"labels: got 0\.7, which is not a class; pass integers"):
        scored("label", labels=torch.tensor([0.7, 1.9]))
    assert scored("label", labels=torch.tensor([0.0, 2.0]))[1] == [0, 2]
    with pytest.raises(TargetError, match="labels: got numbers other than 0 and 1 for several classes per sample"):
        scored("label", labels=torch.tensor([[0, 2, 0], [1, 0, 0]]))


def test_labels_and_masks_of_another_length_are_refused_before_they_are_cut_to_parts() -> None:
    model, x = Squeezing(), torch.rand(4, 1, 6, 6)
    with pytest.raises(TargetError, match=r"labels: got shape \[5\] for 4 inputs; pass one class for each"):
        compute_cams(model, x, "conv", targets="label", labels=torch.zeros(5).long(), batch_size=2)
    with pytest.raises(TargetError, match=r"masks: got shape \[1, 6, 6\] for 4 inputs; pass one for each, bool"):
        compute_cams(model, x, "conv", masks=torch.ones(1, 6, 6).bool(), batch_size=2)


def test_a_callables_whole_numbers_are_refused() -> None:
    def best(output: Tensor) -> Tensor:
        return output.argmax(1)

    with pytest.raises(
        TargetError, match=r"the callable 'best' returned a tensor \[2\] of torch.int64; .* floating-point scores"
    ):
        scored(best)


def test_a_callable_that_leaves_the_graph_is_blamed_where_a_gradient_is_needed() -> None:
    def cut(output: Tensor) -> Tensor:
        return torch.from_numpy(output.detach().numpy()[:, 0])

    model, x = Squeezing(), torch.rand(2, 1, 6, 6)
    with pytest.raises(
        TargetError, match=r"the scores returned by the callable 'cut' have no gradient, because it leaves the graph"
    ):
        compute_cams(model, x, "conv", targets=cut)
    found = compute_cams(model, x, "conv", targets=cut, methods="ablationcam")
    torch.testing.assert_close(found["conv"], compute_cams(model, x, "conv", targets=0, methods="ablationcam")["conv"])


# ---- numbers of other libraries, and names


@pytest.mark.parametrize(
    "index", [np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)], ids=lambda v: type(v).__name__
)
def test_whole_numbers_of_other_libraries_are_indices(index: Any) -> None:
    assert resolve_targets(index) == resolve_targets(1)
    assert resolve_targets([index, "label"]) == resolve_targets([1, "label"])
    assert resolve_targets({"contrast": [index, "predicted"]}) == resolve_targets({"contrast": [1, "predicted"]})
    assert resolve_targets({"similar_to": index}) == resolve_targets({"similar_to": 1})


@pytest.mark.parametrize("make", [torch.tensor, np.array, tuple], ids=["tensor", "array", "tuple"])
def test_arrays_and_tensors_are_lists(make: Any) -> None:
    assert resolve_targets({"per_probe": make([2, 1])}) == resolve_targets({"per_probe": [2, 1]})
    boxes = [[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 4.0]]
    assert resolve_targets({"detect": 1, "boxes": make(boxes)}) == resolve_targets({"detect": 1, "boxes": boxes})


@pytest.mark.parametrize("spec", [torch.tensor(True), np.bool_(True), torch.tensor(1.0), np.float32(1)], ids=repr)
def test_other_numbers_are_no_indices(spec: Any) -> None:
    with pytest.raises(TargetError, match="targets: got .*; pass 'predicted', 'label', a class index"):
        resolve_targets(spec)


def test_a_partial_goes_by_its_function_or_by_the_name_it_is_given() -> None:
    def difference(output: Tensor, a: int) -> Tensor:
        return output[:, a]

    first, second = functools.partial(difference, a=0), functools.partial(difference, a=1)
    assert [target.name for target in resolve_targets([first])] == ["difference"]
    with pytest.raises(TargetError, match=r"'difference' is listed 2 times; .*part.__name__ = 'mine'"):
        resolve_targets([first, second])
    second.__name__ = "other"  # type: ignore[attr-defined]
    assert [target.name for target in resolve_targets([first, second])] == ["difference", "other"]


# ---- callables and the search for the layer that "auto" means


class Result:
    """An output whose tensors only its own users know."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Early(nn.Module):
    """Two numbers a sample from the first convolution, and two from the second behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.cat([first.square().mean((2, 3)), self.second(first.detach()).square().mean((2, 3))], dim=1)


def test_an_error_in_a_callable_comes_out_of_the_search_for_a_layer_as_it_was_raised() -> None:
    class Wrapped(Early):
        def forward(self, x: Tensor) -> Result:  # type: ignore[override]
            return Result(super().forward(x))

    def misspelt(output: Any) -> Tensor:
        return output.logit[:, 0]  # type: ignore[no-any-return]

    with pytest.raises(AttributeError, match="no attribute 'logit'") as caught:
        compute_cams(Wrapped(), torch.rand(4, 1, 6, 6), "auto", targets=misspelt)
    assert caught.traceback[-1].name == "misspelt"
    assert caught.value.__context__ is None


@pytest.mark.parametrize("columns", [(0, 1, 0, 1), (2, 3, 2, 3)])
def test_a_callable_that_counts_on_all_samples_says_which_layer_auto_means(columns: tuple[int, ...]) -> None:
    cams = compute_cams(Early(), torch.rand(4, 1, 6, 6), "auto", targets=lambda output: output[range(4), columns])
    assert {key.layer for key in cams.maps} == {"second" if 2 in columns else "first"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", ["probability", "sigmoid"])
def test_a_confident_probability_in_half_precision_keeps_its_gradient(dtype: torch.dtype, score: Any) -> None:
    logits = torch.tensor([[9.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    chances = logits.detach().double().requires_grad_()
    (wanted := chances.softmax(1) if score == "probability" else chances.sigmoid())[0, 0].backward()
    scores = class_scores(logits, score)
    (found,) = torch.autograd.grad(scores[0, 0], logits)
    assert chances.grad is not None
    torch.testing.assert_close(scores.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.double(), chances.grad, rtol=1e-2, atol=0)
