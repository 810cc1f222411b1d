"""Boxes around the telling parts of probes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam import ProbeError, ProbeSet
from lightning_gradcam.probes.boxes import filled

NAN = float("nan")


def test_a_pixel_belongs_to_a_box_where_its_centre_lies_inside() -> None:
    boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.6, 0.4, 1.5, 1.5], [NAN] * 4])
    found = filled(boxes, (3, 4)).astype(int)
    assert found[0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert found[1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert not found[2].any()
    assert filled(torch.tensor([[0.5, 0.5, 1.5, 1.5]]), (2, 2)).astype(int).tolist() == [[[1, 0], [0, 0]]]


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([[0, 0, 2]], r"boxes: got shape \[1, 3\]; pass left, top, right and bottom"),
        ([[3.0, 0.0, 2.0, 2.0]], r"boxes: got \[3.0, 0.0, 2.0, 2.0\] for probe 0"),
        ([[0.0, 2.0, 2.0, 2.0]], "left < right and top < bottom"),
        ([[0.0, 0.0, float("inf"), 2.0]], "boxes: got"),
        ([[0, 0, 2, 2], [0, 0, 2, 2]], "got 2 boxes for 1 inputs"),
    ],
)
def test_boxes_that_cannot_be_are_refused(boxes: Any, says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        ProbeSet(torch.zeros(1, 1, 4, 4), boxes=torch.tensor(boxes))


def test_regions_are_masks_or_else_boxes() -> None:
    inputs = torch.zeros(2, 1, 4, 6)
    boxes = torch.tensor([[0.0, 1.0, 2.0, 2.0], [NAN] * 4])
    of_boxes = ProbeSet(inputs, boxes=boxes).regions
    assert of_boxes is not None
    assert of_boxes.shape == (2, 4, 6)
    assert np.argwhere(of_boxes).tolist() == [[0, 1, 0], [0, 1, 1]]
    masks = torch.ones(2, 3, 3, dtype=torch.bool)
    of_masks = ProbeSet(inputs, masks=masks, boxes=boxes).regions
    assert of_masks is not None
    assert of_masks.shape == (2, 3, 3)
    assert ProbeSet(inputs).regions is None


def test_boxes_are_saved_and_take_part_in_parts() -> None:
    boxes = torch.tensor([[0.0, 1.0, 2.0, 2.0], [NAN] * 4, [1.0, 1.0, 4.0, 4.0]])
    probes = ProbeSet(torch.rand(3, 1, 4, 6), boxes=boxes, labels=torch.tensor([2, 0, 1]), indices=(7, 8, 9))
    back = ProbeSet.from_bytes(probes.to_bytes())
    assert back.boxes is not None
    torch.testing.assert_close(back.boxes, boxes, equal_nan=True)
    part = probes.part([2, 0])
    assert (part.ids, part.indices) == (("2", "0"), (9, 7))
    assert part.labels is not None
    assert part.labels.tolist() == [1, 2]
    assert part.boxes is not None
    torch.testing.assert_close(part.boxes, boxes[[2, 0]])
    assert np.array_equal(part.pixels, probes.pixels[[2, 0]])
    assert torch.equal(part.inputs, probes.inputs[[2, 0]])
