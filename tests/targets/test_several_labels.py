"""Tests of several labels a sample: each class is likely or not on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams
from tests.targets.test_reading import body, pictures

MARKED = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])


def logits() -> Tensor:
    with torch.no_grad():
        found: Tensor = body(3)(pictures())
    return found


@pytest.mark.parametrize("batch_size", [None, 1])
def test_rows_of_several_labels_choose_sigmoids(batch_size: int | None) -> None:
    cams = compute_cams(body(3), pictures(), "1", targets=["predicted", "label"], labels=MARKED, batch_size=batch_size)
    assert cams.confidence is not None
    torch.testing.assert_close(cams.confidence, logits().sigmoid().max(dim=1).values)
    torch.testing.assert_close(cams.scores["label"], (logits() * MARKED).sum(dim=1))
    assert cams.score == "logit"


@pytest.mark.parametrize(
    ("labels", "score", "expected"),
    [
        (MARKED, "probability", "softmax"),
        (torch.eye(3), "logit", "softmax"),
        (torch.tensor([2, 0, 1]), "logit", "softmax"),
        (torch.tensor([2, 0, 1]), "sigmoid", "sigmoid"),
    ],
)
def test_what_is_asked_for_and_one_label_a_sample_stay_as_they_are(labels: Tensor, score: Any, expected: str) -> None:
    cams = compute_cams(body(3), pictures(), "1", labels=labels, score=score)
    shares = logits().sigmoid() if expected == "sigmoid" else logits().softmax(dim=1)
    assert cams.confidence is not None
    torch.testing.assert_close(cams.confidence, shares.max(dim=1).values)


@pytest.mark.filterwarnings("ignore:lightning-gradcam. the model ends in")
def test_a_sum_of_probabilities_stays_below_the_number_of_classes() -> None:
    model = nn.Sequential(*body(3), nn.Sigmoid())
    cams = compute_cams(model, pictures(), "1", targets="label", labels=MARKED)
    torch.testing.assert_close(cams.scores["label"], (logits().sigmoid() * MARKED).sum(dim=1))
    assert bool((cams.scores["label"] <= MARKED.sum(dim=1)).all())
