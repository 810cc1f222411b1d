"""Boxes from maps: by hand, against a flood fill and SciPy, and what has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from lightning_gradcam import ProbeSet
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats.boxes import bounding_boxes, iou, known_boxes, picture_size, strongest_slices
from lightning_gradcam.stats.resize import resized
from lightning_gradcam.targets.detection import overlaps

NAN, INF = float("nan"), float("inf")


def box_of(*rows: str, threshold: float = 0.15) -> list[float]:
    """The box of a map written in digits, as fine as its picture."""
    maps = np.array([[[float(digit) for digit in row] for row in rows]])
    found: list[float] = bounding_boxes(maps, maps.shape[1:], threshold)[0].tolist()
    return found


def flooded(mask: Any) -> list[int]:
    """The box of the largest part, by a flood from each pixel in reading order."""
    left, best = mask.copy(), []
    while left.any():
        y, x = np.argwhere(left)[0]
        part, open_places = [], [(y, x)]
        left[y, x] = False
        while open_places:
            y, x = open_places.pop()
            part.append((y, x))
            for other in [(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)]:
                if 0 <= other[0] < mask.shape[0] and 0 <= other[1] < mask.shape[1] and left[other]:
                    left[other] = False
                    open_places.append(other)
        best = part if len(part) > len(best) else best
    ys, xs = zip(*best, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_the_box_is_around_the_largest_part() -> None:
    assert box_of("0000000", "0099000", "0009000", "0000009") == [2, 1, 4, 3]
    # Its brightest place is elsewhere.
    assert box_of("9000", "0000", "0022", "0022") == [2, 2, 4, 4]
    assert box_of("9") == [0, 0, 1, 1]


def test_edges_of_the_picture_do_not_join() -> None:
    # The end of a row touches the beginning of the next in memory alone.
    assert box_of("00011", "11000", "00000") == [3, 0, 5, 1]
    assert box_of("10001", "10001", "10001") == [0, 0, 1, 3]


def test_corners_join_in_all_directions() -> None:
    assert box_of("1000", "0100", "0010", "0001") == [0, 0, 4, 4]
    assert box_of("0001", "0010", "0100", "1000") == [0, 0, 4, 4]
    assert box_of("10100", "01000", "10100", "00001") == [0, 0, 3, 3]


def test_parts_that_meet_late_are_one() -> None:
    assert box_of("1010101", "1010101", "1111111", "0000000", "1111110") == [0, 0, 7, 3]
    # A spiral.
    assert box_of("1111111", "0000001", "1111101", "1000101", "1011101", "1000001", "1111111") == [0, 0, 7, 7]


def test_of_parts_of_equal_size_the_first_counts() -> None:
    assert box_of("00022", "00000", "99000") == [3, 0, 5, 1]
    assert box_of("22022", "00000", "99000") == [0, 0, 2, 1]


def test_the_threshold_is_a_share_of_the_maximum_and_takes_part() -> None:
    # 15% of 100; 14.9 is left out.
    maps = np.array([[[100, 15, 14.9], [-50, 0, 0]]])
    assert bounding_boxes(maps, (2, 3)).tolist() == [[0, 0, 2, 1]]
    assert bounding_boxes(maps, (2, 3), 0.149).tolist() == [[0, 0, 3, 1]]
    assert bounding_boxes(maps, (2, 3), 0.5).tolist() == [[0, 0, 1, 1]]
    assert bounding_boxes(maps, (2, 3), 0).tolist() == [[0, 0, 3, 1]]
    assert bounding_boxes(maps, (2, 3)).dtype == np.float32


def test_maps_are_resized_as_in_an_overlay() -> None:
    # By hand: 0, 4 in four columns are 0, 1, 3, 4; the threshold is 0.6.
    maps = np.array([[[0.0, 4.0]]])
    assert bounding_boxes(maps, (2, 4)).tolist() == [[1, 0, 4, 2]]
    # The maximum of the resized map counts, 6 and not 8: of it, 2 are a third.
    maps = np.array([[[0.0, 8.0, 0.0]]])
    shown = resized(maps.astype(np.float32), (1, 6), "bilinear")[0, 0]
    assert shown.tolist() == [0, 2, 6, 6, 2, 0]
    assert bounding_boxes(maps, (1, 6), 0.33).tolist() == [[1, 0, 5, 1]]
    assert bounding_boxes(maps, (1, 6), 0.34).tolist() == [[2, 0, 4, 1]]
    # A map finer than the picture is averaged.
    assert bounding_boxes(np.array([[[4.0, 4.0, 0.0, 0.5]]]), (1, 2)).tolist() == [[0, 0, 1, 1]]


@settings(deadline=None)
@given(mask=arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_parts_equal_a_flood(mask: Any) -> None:
    if mask.any():
        assert bounding_boxes(mask[None].astype(float), mask.shape)[0].tolist() == flooded(mask)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.5, 0.6])
def test_parts_equal_scipys(share: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    masks = np.random.default_rng(0).random((20, 60, 70)) < share
    for mask, box in zip(masks, bounding_boxes(masks.astype(float), (60, 70)), strict=True):
        labels, _ = ndimage.label(mask, np.ones((3, 3)))
        largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
        rows, columns = ndimage.find_objects(largest.astype(int))[0]
        assert box.tolist() == [columns.start, rows.start, columns.stop, rows.stop]


@pytest.mark.parametrize("values", [[[0, 0]], [[-1, -2]], [[NAN, 1]], [[INF, 1]], [[1, -INF]]], ids=str)
def test_what_shows_nothing_has_no_box(values: Any) -> None:
    maps = np.array([values, [[0, 1]]], np.float32)
    found = bounding_boxes(maps, (4, 8))
    assert np.isnan(found[0]).all()
    assert found[1].tolist() == bounding_boxes(maps[1:], (4, 8))[0].tolist()
    assert bounding_boxes(maps[:0], (4, 8)).shape == (0, 4)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_maps_have_the_same_box(scale: float) -> None:
    maps = np.array([[[1, 0, 0], [0, 0, 0.2]]])
    expected = bounding_boxes(maps, (20, 30))
    assert bounding_boxes((maps * scale).astype(np.float32), (20, 30)).tolist() == expected.tolist()


def test_maps_with_slices_have_the_box_of_the_strongest() -> None:
    maps = np.zeros((3, 3, 2, 2))
    maps[0, 1, 0, 0], maps[0, 2] = 5, 4
    maps[1, :, 1, 1] = 1
    maps[2, 0], maps[2, 1, 0, 0] = 1, NAN
    assert strongest_slices(maps).tolist() == [1, 0, 0]
    found = bounding_boxes(maps, (2, 2))
    assert found[:2].tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]]
    assert np.isnan(found[2]).all()


def test_maps_stay_as_they_are() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 7, 7)).astype(np.float32)
    copy = maps.copy()
    maps.setflags(write=False)
    bounding_boxes(maps, (28, 28))
    assert np.array_equal(maps, copy)


def test_iou_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 4, 1], [NAN] * 4, [0, 0, 2, 2]])
    others = np.array([[1, 0, 3, 2], [0, 0, 2, 2], [2, 0, 4, 2], [1, 0.5, 3, 2.5], [0, 0, 1, 1], [NAN] * 4])
    # Of the fourth, 2 x 0.5 of 4 + 4 - 1.
    assert iou(boxes, others) == pytest.approx([1 / 3, 1, 0, 1 / 7, NAN, NAN], nan_ok=True)
    assert iou(others, boxes) == pytest.approx(iou(boxes, others), nan_ok=True)


def test_iou_equals_that_of_detections() -> None:
    corners = np.random.default_rng(0).random((2, 50, 2, 2))
    corners.sort(axis=2)
    boxes, others = corners.reshape(2, 50, 4)
    pairs = zip(boxes, others, strict=True)
    expected = [overlaps(torch.tensor(box)[None], torch.tensor(other))[0] for box, other in pairs]
    assert iou(boxes, others) == pytest.approx(np.array(expected))


def test_boxes_are_in_pixels_of_the_masks_picture_or_the_inputs() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [NAN] * 4])
    inputs = torch.rand(2, 1, 4, 6)
    assert picture_size(ProbeSet(inputs, boxes=boxes)) == (4, 6)
    assert picture_size(ProbeSet(inputs, masks=torch.zeros(2, 8, 9), boxes=boxes)) == (8, 9)
    assert picture_size(ProbeSet(torch.rand(2, 1, 5, 4, 6))) == (4, 6)
    display = np.zeros((2, 10, 12, 3), np.uint8)
    assert picture_size(ProbeSet(torch.rand(2, 7), display=display)) == (10, 12)
    known = known_boxes(ProbeSet(inputs, boxes=boxes))
    assert known is not None
    np.testing.assert_array_equal(known, boxes.numpy())
    assert known_boxes(ProbeSet(inputs)) is None
    assert known_boxes(ProbeSet(inputs, boxes=boxes[[1, 1]])) is None


@pytest.mark.parametrize("size", [(4, 6), (5, 5)], ids=str)
def test_boxes_fill_what_regions_are_made_of(size: tuple[int, int]) -> None:
    """The box of a filled box is that box: both mean the same edges."""
    boxes = torch.tensor([[1.0, 0.0, 3.0, 4.0], [0.0, 2.0, 4.0, 3.0]])
    probes = ProbeSet(torch.rand(2, 1, *size), boxes=boxes)
    assert probes.regions is not None
    found = bounding_boxes(probes.regions.astype(np.float32), picture_size(probes))
    assert found.tolist() == boxes.tolist()


@pytest.mark.parametrize(
    ("maps", "size", "threshold", "message"),
    [
        (np.ones((2, 2)), (2, 2), 0.15, r"maps: got \[2, 2\]; pass a NumPy array \[N, h, w\]"),
        ([[[1.0]]], (2, 2), 0.15, "maps: got list"),
        (np.ones((1, 2, 2)), (0, 2), 0.15, r"size: got \(0, 2\); pass the image's height and width"),
        (
            np.ones((1, 2, 2)),
            (2, 2),
            1.0,
            "threshold: got 1.0; pass a fraction of the map's maximum, at least 0 and below 1",
        ),
        (np.ones((1, 2, 2)), (2, 2), NAN, "threshold: got nan"),
    ],
)
def test_what_can_not_be_is_refused(maps: Any, size: Any, threshold: float, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        bounding_boxes(maps, size, threshold)


def test_boxes_of_another_number_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"others: got \[1, 4\]; pass left, top, right and bottom"):
        iou(np.ones((2, 4)), np.ones((1, 4)))
    with pytest.raises(ConfigurationError, match=r"boxes: got \[2, 3\]"):
        iou(np.ones((2, 3)), np.ones((2, 4)))
