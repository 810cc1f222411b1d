"""Tests of inputs, names and labels that don't fit the model: errors that say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import (
    ConfigurationError,
    FeatureMapCallback,
    GradCAMCallback,
    LayerError,
    TargetError,
    compute_cams,
)
from tests.targets.test_reading import body, pictures


def unbatched() -> nn.Sequential:
    """One that can do with a picture without the batch's axis: nothing but its output's shape is wrong."""
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(-3), nn.Linear(8, 4)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("layer", ["1", "auto"])
@pytest.mark.parametrize(
    ("made", "picture", "advice"),
    [
        (lambda: body(3), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "inputs.float() / 255"),
        (lambda: body(3), torch.zeros(1, 8, 8, dtype=torch.uint8), "image[None].float() / 255"),
        (lambda: body(3), torch.zeros(1, 8, 8, dtype=torch.float64), "pass a batch of one: image[None]"),
        (lambda: body(3), torch.zeros(8, 8, dtype=torch.float64), "pass a batch of one: image[None, None]"),
        (unbatched, torch.zeros(3, 8, 8, dtype=torch.float64), "pass a batch of one: image[None]"),
    ],
)
def test_pictures_that_are_no_batch_or_no_numbers_are_refused(
    made: Any, picture: Tensor, advice: str, layer: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compute_cams(made(), picture, layer)
    came = f"{list(picture.shape)}" + (" of torch.uint8" if picture.dtype == torch.uint8 else "")
    assert str(caught.value).startswith(f"inputs: the model failed on {came} (")
    assert advice in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_what_is_wrong_besides_keeps_its_own_error() -> None:
    grey = nn.Sequential(nn.Unflatten(0, (-1, 1)), *body(3))
    assert compute_cams(grey, pictures()[:, 0], "2").predicted is not None
    with pytest.raises(LayerError, match="'7' not found"):
        compute_cams(grey, pictures()[:, 0], "7")
    with pytest.raises(RuntimeError, match="channels"):
        compute_cams(body(3), torch.zeros(2, 3, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize(("outputs", "names", "classes"), [(3, "ab", 3), (3, "abcd", 3), (1, "abc", 2)])
def test_names_of_another_number_than_the_classes_are_refused(outputs: int, names: str, classes: int) -> None:
    said = f"class_names: got {len(names)} names, but the model's output has {classes} classes; pass {classes} names"
    with pytest.raises(TargetError, match=said):
        compute_cams(body(outputs), pictures(), "1", class_names=list(names))
    assert compute_cams(body(outputs), pictures(), "1", class_names=list("xyz")[:classes]).predicted is not None


def test_a_label_that_the_model_cannot_have_is_refused() -> None:
    with pytest.raises(TargetError, match=r"labels: got class 7, but the model's output has 3 classes; valid: 0 to 2"):
        compute_cams(body(3), pictures(), "1", labels=torch.tensor([0, 7, 1]))
    # Without a label, and not asked for as a class.
    for labels, targets in ((torch.tensor([0, -100, 1]), "predicted"), (torch.tensor([0, 7, 1]), {"output": 0})):
        assert len(compute_cams(body(3), pictures(), "1", labels=labels, targets=targets)) == 1


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (
            {0: "cat", 1: "dog", 2: "hat"},
            "got a dict; pass a list of names, in the order of the outputs: [names[",
        ),
        ("cat", "'cat' is no file; pass the names, a file with one name per line, a JSON file, 'imagenet', or"),
    ],
)
@pytest.mark.parametrize(
    "give",
    [
        lambda names: compute_cams(body(3), pictures(), "1", targets={"class": "dog"}, class_names=names),
        lambda names: GradCAMCallback(class_names=names),
        lambda names: FeatureMapCallback(class_names=names),
    ],
)
def test_names_of_classes_that_are_no_list_are_refused(give: Any, names: Any, way: str) -> None:
    with pytest.raises(TargetError) as caught:
        give(names)
    assert way in str(caught.value)
