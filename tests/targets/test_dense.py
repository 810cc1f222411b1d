"""Targets of models that do not answer with classes a picture, and of several labels a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_gradcam import TargetError, compute_cams
from lightning_gradcam.targets import Given, Scored, class_probabilities, probability_of, resolve_targets
from lightning_gradcam.targets.detection import overlaps
from tests.conftest import named


def explained(spec: Any, output: Any, samples: int = 2, **given: Any) -> Scored:
    (target,) = resolve_targets(spec)
    return target.explain(output, Given(samples, **given))


# ---- several labels a picture


def test_label_of_several_classes_is_the_sum_of_their_scores() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [5.0, 3.0, 7.0]])
    labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
    found = explained("label", logits, labels=labels)
    assert found.scores.tolist() == [3.0, 0.0]
    assert found.classes.tolist() == [0, -1]
    chances = explained("label", logits, labels=labels, score="sigmoid").scores
    torch.testing.assert_close(chances, torch.tensor([torch.tensor([1.0, 2.0]).sigmoid().sum(), 0.0]))
    twice = found.again(torch.cat([logits, logits + 1]), 2)
    assert twice.tolist() == [3.0, 0.0, 5.0, 0.0]


def test_sigmoid_scores_each_class_on_its_own() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [5.0, 3.0, 7.0]])
    torch.testing.assert_close(explained(1, logits, score="sigmoid").scores, logits[:, 1].sigmoid())
    shares = class_probabilities(logits, "sigmoid")
    assert shares is not None
    torch.testing.assert_close(shares, logits.sigmoid())
    found = probability_of(shares, torch.tensor([1, -1]))
    torch.testing.assert_close(found, torch.tensor([torch.tensor(4.0).sigmoid(), torch.nan]), equal_nan=True)


# ---- regression


def test_output_is_the_number_as_it_is() -> None:
    pairs = torch.tensor([[1.0, -4.0], [0.5, 2.0]])
    assert explained({"output": 1}, pairs).scores.tolist() == [-4.0, 2.0]
    assert explained({"output": 0}, pairs[:, :1]).scores.tolist() == [1.0, 0.5]
    assert explained({"output": 0}, pairs[:, 0]).scores.tolist() == [1.0, 0.5]
    assert explained({"output": 0}, pairs).classes.tolist() == [-1, -1]
    with pytest.raises(TargetError, match="'output2' asks for number 2 of an output with 2; valid: 0 to 1"):
        explained({"output": 2}, pairs)
    with pytest.raises(TargetError, match=r"'output0' needs an output \[N\] or \[N, K\], got a dict with 'a'"):
        explained({"output": 0}, {"a": pairs})


def test_a_regression_model_has_no_predicted_class() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    inputs = torch.rand(2, 1, 5, 5)
    cams = compute_cams(model, inputs, "1", targets={"output": 1})
    torch.testing.assert_close(cams.scores["output1"], model(inputs)[:, 1].detach())
    assert cams.predicted is None
    assert compute_cams(model, inputs, "1").predicted is not None


# ---- segmentation


class Segmenter(nn.Module):
    """Three classes a place, at half the input's resolution, under the key `out`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.body(x).relu())}


def by_hand(model: Segmenter, inputs: Tensor, region: Tensor, category: Tensor) -> Tensor:
    activation = model.body(inputs).detach().requires_grad_()
    logits = model.head(activation.relu())
    total = sum(logits[n, int(category[n])][region[n]].sum() for n in range(len(inputs)))
    (gradient,) = torch.autograd.grad(total, activation)  # type: ignore[arg-type]
    return (gradient.mean((2, 3), keepdim=True) * activation.detach()).sum(1)


@pytest.mark.parametrize("category", [0, 2, "predicted"])
def test_segment_sums_a_class_where_it_is_predicted(category: int | str) -> None:
    torch.manual_seed(1)
    model, inputs = Segmenter().double(), torch.randn(3, 1, 8, 12, dtype=torch.float64)
    cams = compute_cams(model, inputs, "body", targets={"segment": category}, output_key="out", relu=False)
    found = model(inputs)["out"].argmax(1)
    wanted = found.flatten(1).mode(1).values if category == "predicted" else torch.full((3,), int(category))
    expected = by_hand(model, inputs, found == wanted[:, None, None], wanted)
    assert expected.abs().max() > 0
    torch.testing.assert_close(cams["body"], expected, rtol=0, atol=1e-10)
    assert next(iter(cams.classes.values())).tolist() == wanted.tolist()
    assert cams.predicted is None


def test_segment_mask_sums_a_class_over_the_probes_masks() -> None:
    torch.manual_seed(0)
    model, inputs = Segmenter().double(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, 4:], masks[1, 6:] = True, True
    cams = compute_cams(model, inputs, "body", targets={"segment_mask": 1}, masks=masks, output_key="out", relu=False)
    expected = by_hand(model, inputs, masks[:, ::2, ::2], torch.tensor([1, 1]))
    torch.testing.assert_close(cams["body"], expected, rtol=0, atol=1e-10)


def test_segmentation_without_what_it_needs_is_refused() -> None:
    model, inputs = Segmenter(), torch.rand(2, 1, 8, 8)
    with pytest.raises(TargetError, match=r"'segment1' needs logits .* got a dict with 'out'; .*output_key='out'"):
        compute_cams(model, inputs, "body", targets={"segment": 1})
    with pytest.raises(TargetError, match="'segment_mask1' needs the probes' masks, but there are none"):
        compute_cams(model, inputs, "body", targets={"segment_mask": 1}, output_key="out")
    with pytest.raises(TargetError, match="'segment7' asks for class 7, .* has 3 classes; valid: 0 to 2"):
        compute_cams(model, inputs, "body", targets={"segment": 7}, output_key="out")


def test_a_picture_without_the_class_has_the_score_zero_and_an_all_zero_map() -> None:
    torch.manual_seed(0)
    model, inputs = Segmenter(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        model.head.bias[2] = -100
    cams = compute_cams(model, inputs, "body", targets=[{"segment": 2}, {"segment": "predicted"}], output_key="out")
    assert cams.scores["segment2"].tolist() == [0, 0]
    assert (cams["body", "gradcam", "segment2"] == 0).all()


def test_torchvisions_segmentation_models_are_explained() -> None:
    torch.manual_seed(0)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    cams = compute_cams(
        model, torch.rand(2, 3, 64, 96), "backbone.16", targets={"segment": "predicted"}, output_key="out", relu=False
    )
    assert cams["backbone.16"].shape == (2, 4, 6)
    assert cams["backbone.16"].flatten(1).std(1).min() > 0


class Seg(nn.Module):
    """Logits of `classes` channels at every place."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


def gradcam_of(model: Seg, x: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
    activation = model.body(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(total(model.head(activation.relu())), activation)
    return (gradient.mean((2, 3), keepdim=True) * activation.detach()).sum(1)


@pytest.mark.parametrize("score", ["logit", "probability", "sigmoid"])
@pytest.mark.parametrize("category", [0, 1, "predicted"])
def test_one_channel_tells_two_classes_apart_by_its_sign(category: int | str, score: str) -> None:
    torch.manual_seed(0)
    model, x = Seg(1).double(), torch.randn(3, 3, 6, 7, dtype=torch.float64)
    model.head.bias.data += 0.1
    inside = model(x)[:, 0] > 0
    assert 0.1 < inside.double().mean() < 0.9
    ones = torch.full((3,), category) if category != "predicted" else (inside.double().mean((1, 2)) > 0.5).long()

    def total(z: Tensor) -> Tensor:
        signed = torch.where(ones[:, None, None] == 1, z[:, 0], -z[:, 0])
        values = signed if score == "logit" else signed.sigmoid()
        return (values * (inside == (ones[:, None, None] == 1))).sum()

    cams = compute_cams(model, x, "body", targets={"segment": category}, score=score, relu=False)
    assert cams.classes[next(iter(cams.classes))].tolist() == ones.tolist()
    expected = gradcam_of(model, x, total)
    assert expected.abs().max() > 0
    torch.testing.assert_close(cams["body"], expected, rtol=0, atol=1e-10)
    with pytest.raises(TargetError, match="asks for class 2, but the output has 2 classes; valid: 0 to 1"):
        compute_cams(model, x, "body", targets={"segment": 2}, score=score)


@pytest.mark.parametrize("category", [1, "predicted"])
def test_a_segmentation_of_several_classes_a_place_is_scored_by_sigmoids(category: int | str) -> None:
    torch.manual_seed(0)
    model, x = Seg(3).double(), torch.randn(3, 3, 6, 7, dtype=torch.float64)
    inside = model(x) > 0
    chosen = torch.full((3,), 1) if category == 1 else inside.flatten(2).sum(2).argmax(1)
    rows = torch.arange(3)
    # The region is where the class is more likely than not, whichever else is.
    assert not torch.equal(inside[rows, chosen], model(x).argmax(1) == chosen[:, None, None])
    cams = compute_cams(model, x, "body", targets={"segment": category}, score="sigmoid", relu=False)
    expected = gradcam_of(model, x, lambda z: (z.sigmoid() * inside)[rows, chosen].sum())
    torch.testing.assert_close(cams["body"], expected, rtol=0, atol=1e-10)
    assert cams.classes[next(iter(cams.classes))].tolist() == chosen.tolist()


def test_a_probability_of_a_segmentation_is_the_softmax() -> None:
    torch.manual_seed(0)
    model, x = Seg(3).double(), torch.randn(2, 3, 6, 7, dtype=torch.float64)
    region = model(x).argmax(1) == 1
    cams = compute_cams(model, x, "body", targets={"segment": 1}, score="probability", relu=False)
    expected = gradcam_of(model, x, lambda z: (z.softmax(1)[:, 1] * region).sum())
    torch.testing.assert_close(cams["body"], expected, rtol=0, atol=1e-10)


def test_a_sum_over_a_picture_does_not_overflow_half_precision() -> None:
    logits = torch.full((1, 2, 100, 100), 40.0, dtype=torch.float16)
    logits[:, 0] = 0
    found = explained({"segment": 1}, logits, samples=1)
    assert found.scores.tolist() == [400000.0]
    assert found.again(logits, 1).tolist() == [400000.0]
    assert explained({"segment": 1}, logits.double(), samples=1).scores.dtype == torch.float64


@pytest.mark.parametrize(
    ("masks", "came"),
    [
        (torch.ones(2, 1, 8, 8, dtype=torch.bool), r"a tensor \[2, 1, 8, 8\] of torch.bool"),
        (torch.full((2, 8, 8), 2), r"a tensor \[2, 8, 8\] of torch.int64"),
        (torch.ones(2, 8, 8), r"a tensor \[2, 8, 8\] of torch.float32"),
    ],
    ids=["channel", "classes", "floats"],
)
def test_masks_of_another_kind_are_refused(masks: Tensor, came: str) -> None:
    with pytest.raises(TargetError, match=rf"masks: got {came}, expected bool \[N, H, W\], true inside; .*== class"):
        compute_cams(Seg(2), torch.rand(2, 3, 8, 8), "body", targets={"segment_mask": 1}, masks=masks)


def test_an_output_of_another_number_of_pictures_is_refused() -> None:
    with pytest.raises(TargetError, match=r"returned a tensor \[4, 3, 5, 5\] of torch.float32 for 2 samples, expected"):
        explained({"segment": 1}, torch.rand(4, 3, 5, 5))
    with pytest.raises(TargetError, match=r"'segment1' needs logits \[N, C, H, W\], got a tensor \[2, 3, 5, 5\] of"):
        explained({"segment": 1}, torch.ones(2, 3, 5, 5).long())
    with pytest.raises(TargetError, match=r"returned a tensor \[4, 3\] of torch.float32 for 2 samples, expected"):
        explained({"similar_to": 1}, torch.rand(4, 3))


# ---- detection


def test_overlaps_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0]])
    torch.testing.assert_close(overlaps(boxes, torch.tensor([0.0, 0.0, 2.0, 2.0])), torch.tensor([1.0, 1 / 7, 0.0]))


def detections(scores: list[list[float]]) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 4.0, 8.0, 8.0], [0.0, 0.0, 4.0, 5.0]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 2, 2]), "scores": torch.tensor(s)} for s in scores]


def test_detection_takes_the_best_box_of_the_class_or_the_one_that_matches() -> None:
    output = detections([[0.9, 0.3, 0.5], [0.1, 0.8, 0.2]])
    best = explained({"detect": "predicted"}, output)
    assert (best.scores.tolist(), best.classes.tolist()) == (pytest.approx([0.9, 0.8]), [1, 2])
    second = explained({"detect": 2}, output)
    assert second.scores.tolist() == pytest.approx([0.5, 0.8])
    matched = explained({"detect": 2, "boxes": [[0, 0, 4, 4], [0, 0, 4, 4.5]]}, output)
    assert matched.scores.tolist() == pytest.approx([0.5, 0.2])
    none = explained({"detect": 1, "boxes": [[5, 5, 7, 7], [0, 0, 4, 4]]}, output)
    assert (none.scores.tolist(), none.classes.tolist()) == (pytest.approx([0.0, 0.1]), [-1, 1])
    assert explained({"detect": 3}, output).scores.tolist() == [0, 0]


def test_detection_again_follows_the_box_and_not_its_rank() -> None:
    first = explained({"detect": 2}, detections([[0.9, 0.3, 0.5], [0.1, 0.8, 0.2]]))
    changed = detections([[0.9, 0.7, 0.4], [0.1, 0.3, 0.9], [0.0, 0.6, 0.1], [0.0, 0.2, 0.3]])
    assert first.again(changed, 2).tolist() == pytest.approx([0.4, 0.3, 0.1, 0.2])


def test_torchvisions_detectors_are_explained() -> None:
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=128
    ).double()
    model.eval()
    inputs = torch.rand(2, 3, 96, 96, dtype=torch.float64)
    cams = compute_cams(model, inputs, "backbone.body", targets=[{"detect": 1}, {"detect": 2}], relu=False)
    assert cams["backbone.body", "gradcam", "detect1"].abs().max() > 0
    for row in range(2):
        kept: list[Tensor] = []
        handle = model.backbone.body.register_forward_hook(lambda m, a, o, kept=kept: kept.extend(o.values()))
        output = model([inputs[row]])[0]
        handle.remove()
        score = output["scores"][output["labels"] == 2].max()
        (gradient,) = torch.autograd.grad(score, kept[0])
        expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1)[0].detach()
        torch.testing.assert_close(cams.scores["detect2"][row], score.detach())
        torch.testing.assert_close(cams["backbone.body", "gradcam", "detect2"][row], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("output", [torch.rand(2, 3), [{"boxes": torch.rand(1, 4)}] * 2, [{}]], ids=["tensor", "", "1"])
def test_what_is_no_detectors_output_is_refused(output: Any) -> None:
    with pytest.raises(TargetError, match="'detect1' needs a detector's output, a list of 2 dicts with 'boxes'"):
        explained({"detect": 1}, output)


@pytest.mark.parametrize("boxes", [[[0, 0, 1]], [], [[2, 0, 1, 1]], "box"], ids=named)
def test_impossible_boxes_are_refused(boxes: Any) -> None:
    with pytest.raises(TargetError, match="targets: got boxes .*; pass one .* for each probe, in pixels"):
        resolve_targets({"detect": 1, "boxes": boxes})
    with pytest.raises(TargetError, match="'detect1_boxes' has 1 boxes for 2 probes"):
        explained({"detect": 1, "boxes": [[0, 0, 1, 1]]}, detections([[0.1] * 3] * 2))


# ---- embeddings


def test_similarity_to_a_reference_probe_by_hand() -> None:
    output = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]], requires_grad=True)
    found = explained({"similar_to": 0}, output, samples=3)
    assert found.scores.tolist() == pytest.approx([1.0, 0.6, 0.0])
    (gradient,) = torch.autograd.grad(found.scores[1], output)
    # The reference is held: nothing flows back into it.
    assert gradient[0].tolist() == [0, 0]
    assert gradient[1].tolist() == pytest.approx([16 / 125, -12 / 125])
    with pytest.raises(TargetError, match="'similar_to3' asks for probe 3 of 3; valid: 0 to 2"):
        explained({"similar_to": 3}, output, samples=3)
    with pytest.raises(TargetError, match=r"needs embeddings \[N, D\], got a tensor \[3\]"):
        explained({"similar_to": 0}, output[:, 0], samples=3)


# ---- what every kind has in common


@pytest.mark.parametrize(
    ("spec", "output"),
    [
        ("predicted", torch.randn(3, 4)),
        ("label", torch.randn(3, 4)),
        ({"per_probe": [3, 0, 1]}, torch.randn(3, 4)),
        ({"contrast": ["predicted", "label"]}, torch.randn(3, 4)),
        ({"top": 1}, torch.randn(3, 1)),
        ({"output": 2}, torch.randn(3, 4)),
        ({"segment": "predicted"}, torch.randn(3, 4, 5, 6)),
        ({"segment_mask": 1}, torch.randn(3, 4, 5, 6)),
        ({"segment": 1}, torch.randn(3, 4, 2, 5, 6)),
        ({"similar_to": 1}, torch.randn(3, 4)),
    ],
    ids=named,
)
def test_again_holds_the_choices_for_any_number_of_copies(spec: Any, output: Tensor) -> None:
    given = Given(3, labels=torch.tensor([0, 0, 0]), masks=torch.rand(3, 9, 9) > 0.5)
    (target,) = resolve_targets(spec)
    found = target.explain(output, given)
    twice = found.again(torch.cat([output, output]), 2)
    torch.testing.assert_close(twice, found.scores.repeat(2))
    # In another output the choice of the first counts, not that output's own.
    other = torch.cat([output, -output])
    torch.testing.assert_close(found.again(other, 2)[:3], found.scores)
    if spec == "predicted":
        torch.testing.assert_close(found.again(other, 2)[3:], -output.amax(1))
