"""Maps and masks in NumPy: the resizing is torch's, maps with slices, ties, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats import energy_inside, inside, pointing_game, points_inside
from lightning_gradcam.stats.masks import interpolated


def mask(*rows: str) -> Any:
    """Of one picture, [1, H, W]; '#' is inside."""
    return np.array([[[sign == "#" for sign in row] for row in rows]])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7), (28, 28), (56, 14), (31, 45)])
@pytest.mark.parametrize("size", [(28, 28), (30, 41), (5, 64), (1, 1), (224, 224)])
def test_resizing_equals_torch_also_on_coarser_pictures(shape: tuple[int, int], size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=(3, *shape))
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[:, None], size, mode="bilinear")[:, 0]
    np.testing.assert_allclose(interpolated(values, size), expected.numpy(), rtol=0, atol=1e-12)


def test_places_that_are_equal_by_hand_stay_equal() -> None:
    # A plateau of the maximum stays one at every size; its first pixel is the same in the mirrored map.
    for size in range(1, 60):
        assert (interpolated(np.ones((3, 5)), (size, size + 1)) == 1).all()
        peak = np.zeros((1, 5))
        peak[0, 2] = 1
        line = interpolated(peak, (1, size))[0]
        assert (line == line[::-1]).all()


def test_the_functions_of_torch_have_the_same_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.randn(6, 5, 4, generator=generator), torch.rand(6, 17, 16, generator=generator) > 0.7
    masks[2], maps[3, 0, 0], maps[4] = False, torch.nan, -1.0
    found = inside(maps.numpy(), masks.numpy())
    assert np.isnan(found).tolist() == [False, False, True, True, True, False]
    np.testing.assert_allclose(energy_inside(maps, masks), found, atol=1e-7)
    points = points_inside(maps.numpy(), masks.numpy(), tolerance=1.5)
    assert np.isnan(points).tolist() == [False, False, True, True, False, False]
    # A miss, where NumPy's numbers tell what can't be told.
    assert pointing_game(maps, masks, tolerance=1.5).tolist() == (points == 1).tolist()
    assert points[4] == 0
    assert {0, 1} <= set(points.tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_functions_of_torch_keep_the_type(dtype: torch.dtype) -> None:
    maps, masks = torch.tensor([[[3.0, 1.0]]], dtype=dtype), torch.tensor([[[True, False]]])
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    energy = energy_inside(maps, masks)
    assert (energy.dtype, energy.tolist()) == (expected, [0.75])
    assert torch.equal(pointing_game(maps, masks), torch.tensor([True]))


def test_energy_is_that_of_torchs_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(4, 7, 6, generator=generator, dtype=torch.float64)
    masks = torch.rand(4, 20, 31, generator=generator) > 0.5
    large = torch.nn.functional.interpolate(maps.clamp(min=0)[:, None], (20, 31), mode="bilinear")[:, 0]
    expected = (large * masks).sum((1, 2)) / large.sum((1, 2))
    torch.testing.assert_close(energy_inside(maps, masks), expected, rtol=0, atol=1e-12)


def test_a_mask_holds_for_all_slices() -> None:
    # Slices 1, 0 and 2, 5: 3 of 8 on the left; the largest is on the right.
    maps = np.array([[[[1.0, 0.0]], [[2.0, 5.0]]]])
    assert inside(maps, mask("#.")).tolist() == pytest.approx([3 / 8])
    assert points_inside(maps, mask("#.")).tolist() == [0]
    assert points_inside(maps, mask(".#")).tolist() == [1]
    # The sum of slices is largest on the left, the largest value stands on the right.
    maps = np.array([[[[3.0, 0.0]], [[3.0, 4.0]]]])
    assert points_inside(maps, mask(".#")).tolist() == [1]
    # The ReLU comes before the sum.
    assert inside(np.array([[[[-9.0, 1.0]], [[1.0, 0.0]]]]), mask("#.")).tolist() == [0.5]


def test_a_map_that_lies_inside_has_all_of_its_energy_there() -> None:
    generator = np.random.default_rng(0)
    maps, masks = np.zeros((50, 9, 9)), np.zeros((50, 40, 40), bool)
    maps[:, 3:6, 2:7] = generator.random((50, 3, 5))
    masks[:, 8:33, 4:37] = True
    assert inside(maps, masks).tolist() == [1] * 50


@pytest.mark.parametrize("scale", [1e-38, 1e38])
def test_tiny_and_huge_values(scale: float) -> None:
    maps = (np.array([[[3.0, 1.0], [0.0, -3.0]]]) * scale).astype(np.float32)
    assert inside(maps, mask("#.", "..")).tolist() == pytest.approx([0.75], abs=1e-6)
    assert points_inside(maps, mask("#.", "..")).tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_has_no_numbers(value: float) -> None:
    maps = np.array([[[1.0, value]]])
    assert np.isnan([inside(maps, mask("##"))[0], points_inside(maps, mask("##"))[0]]).all()


def test_what_resizing_leaves_out_does_not_count() -> None:
    # The one pixel lies in the middle of nine places.
    maps = np.zeros((1, 3, 3))
    maps[0, 0, 0] = 1
    assert np.isnan(inside(maps, mask("#"))).all()
    assert points_inside(maps, mask("#")).tolist() == [0]


@pytest.mark.parametrize("number", [inside, points_inside])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.ones((2, 2)), mask(".#"), r"maps: got \[2, 2\] of float64"),
        (None, mask(".#"), "maps: got NoneType"),
        (np.ones((1, 2, 2)), mask(".#").astype(float), r"masks: got \[1, 1, 2\] of float64; pass a bool array"),
        (np.ones((1, 2, 2)), mask(".#")[0], r"masks: got \[1, 2\] of bool"),
        (np.ones((1, 2, 2)), mask(".#")[:, :0], r"masks: got \[1, 0, 2\] of bool"),
        (np.ones((1, 2, 2)), None, "masks: got NoneType"),
        (np.ones((3, 2, 2)), mask(".#"), "masks: got 1 for 3 maps; pass one mask for each map"),
    ],
)
def test_what_does_not_fit_is_refused(number: Any, maps: Any, masks: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        number(maps, masks)
