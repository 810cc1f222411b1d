"""`"auto"` on every classification and video model of torchvision, and on the page that lists what it picks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.sweep import CLASSIFICATION, VIDEO, found, input_for, torchvision_model
from tests.shapes.page import shapes_row
from tests.shapes.zoo import SHAPES, Shape

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
QUICK = ("convnext_tiny", "densenet121", "mobilenet_v3_small", "resnet18", "squeezenet1_0", "swin_t", "vit_b_32")


def listed() -> dict[str, tuple[str, str]]:
    """Layer and layout of each model on the page."""
    rows = [[cell.strip(" `") for cell in line.split("|")] for line in PAGE.read_text().splitlines() if "|" in line]
    # timm has models of the same names, further down.
    return {cells[1]: (cells[3], cells[4]) for cells in reversed(rows)}


@pytest.mark.parametrize("name", QUICK)
def test_a_model_of_each_family(name: str) -> None:
    result = found(name, torchvision_model(name), input_for(name, samples=1))
    assert (result.layer, result.layout) == listed()[name]


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in CLASSIFICATION if name not in QUICK])
def test_every_other_classification_model(name: str) -> None:
    result = found(name, torchvision_model(name), input_for(name, samples=1))
    assert (result.layer, result.layout) == listed()[name]


@pytest.mark.nightly
@pytest.mark.parametrize("name", VIDEO)
def test_every_video_model(name: str) -> None:
    result = found(name, torchvision_model(name), input_for(name, video=True, samples=1))
    assert (result.layer, result.layout) == listed()[name]
    assert len(result.grid) == 3


def test_the_page_lists_every_model_of_torchvision() -> None:
    assert {*CLASSIFICATION, *VIDEO} <= set(listed())


def test_the_page_lists_every_model_of_another_shape() -> None:
    assert {shape.name for shape in SHAPES} <= {
        line.split(" | ")[1] for line in PAGE.read_text().splitlines() if " | " in line
    }


@pytest.mark.slow
@pytest.mark.parametrize("shape", [pytest.param(shape, id=shape.name) for shape in SHAPES if shape.sample])
def test_a_sample_of_other_shapes(shape: Shape) -> None:
    assert shapes_row(shape) in PAGE.read_text().splitlines()
