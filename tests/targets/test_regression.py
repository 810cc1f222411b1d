"""Tests of outputs that are numbers: no class is claimed where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_gradcam import ProbeSet, TargetError, compute_cams
from tests.targets.test_reading import body, pictures

AGES = torch.tensor([0.37, 41.5, 7.0])


@pytest.mark.parametrize("labels", [AGES, AGES[:, None], torch.tensor([3, 41, 7])])
@pytest.mark.parametrize("target", ["predicted", "label", {"top": 1}, {"contrast": ["predicted", 0]}])
def test_a_class_of_a_regression_is_refused_with_the_target_to_give(target: Any, labels: Tensor) -> None:
    with pytest.raises(TargetError, match=r"regression; choose the number to explain: \{'output': 0\}") as caught:
        compute_cams(body(1), pictures(), "1", targets=target, labels=labels)
    assert len(str(caught.value)) <= 500


def test_of_several_numbers_all_are_named() -> None:
    labels = torch.tensor([[0.2, 0.1, -3.0]] * 3)
    with pytest.raises(TargetError, match=r"the label -3 .* \{'output': 0\} to \{'output': 2\}"):
        compute_cams(body(3), pictures(), "1", labels=labels)


def first(output: Tensor) -> Tensor:
    return output[:, 0]


@pytest.mark.parametrize("target", [{"output": 0}, first, 1])
def test_no_class_is_predicted(target: Any) -> None:
    cams = compute_cams(body(1), pictures(), "1", targets=target, labels=AGES)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(cams.scores.values())), body(1)(pictures())[:, 0])
    assert cams.predicted is None
    assert cams.confidence is None
    assert not cams.confidences


@pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0, 1.0]), torch.tensor([[0], [1], [1]]), None])
def test_labels_of_two_classes_are_no_regression(labels: Tensor | None) -> None:
    cams = compute_cams(body(1), pictures(), "1", labels=labels)
    assert cams.predicted is not None
    assert cams.predicted.tolist() == [int(z > 0) for z in cams.output]


def test_shares_of_classes_are_no_regression() -> None:
    labels = torch.tensor([[0.2, 0.7, 0.1]] * 3)
    assert compute_cams(body(3), pictures(), "1", labels=labels).predicted is not None


def test_a_probe_set_keeps_numbers_that_are_no_classes() -> None:
    probes = ProbeSet(pictures(), labels=AGES)
    assert probes.labels is None
    assert probes.view.true is None
    loaded = ProbeSet.from_bytes(probes.part([1, 0]).to_bytes())
    assert loaded.values is not None
    assert loaded.values.tolist() == AGES[[1, 0]].tolist()
    assert ProbeSet(pictures(), labels=torch.tensor([0.0, 2.0, 1.0])).view.true == ((0,), (2,), (1,))
