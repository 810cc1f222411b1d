"""Numbers from maps: cases computed by hand, what is left out, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats import energy_inside, pointing_game, upsampled


def mask(*rows: str) -> Tensor:
    """Of one picture, [1, H, W]; '#' is inside."""
    return torch.tensor([[[sign == "#" for sign in row] for row in rows]])


def test_upsampling_is_bilinear_with_corners_not_aligned() -> None:
    # A 2 by 2 map on 4 by 4 pixels: pixel centres lie a quarter and three quarters into each cell.
    found = upsampled(torch.tensor([[[0.0, 4.0], [8.0, 12.0]]]), (4, 4))
    expected = [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]
    assert torch.equal(found, torch.tensor([expected], dtype=torch.float32))
    assert upsampled(torch.rand(1, 2, 2, dtype=torch.float64), (3, 5)).dtype == torch.float64
    assert upsampled(torch.rand(1, 2, 2).half(), (3, 5)).dtype == torch.float32


def test_energy_inside_by_hand() -> None:
    # The map above sums to 96; its right column to 32.
    right = mask("...#", "...#", "...#", "...#")
    found = energy_inside(torch.tensor([[[0.0, 4.0], [8.0, 12.0]]], dtype=torch.float64), right)
    assert found.tolist() == pytest.approx([32 / 96])


def test_energy_takes_the_relu_before_it_resizes() -> None:
    signed = torch.tensor([[[-4.0, 4.0]]])
    masks = mask("..##")
    # After the ReLU 0, 1, 3, 4; before it -4, -2, 2, 4, all of whose positive values lie inside.
    assert energy_inside(signed, masks).tolist() == pytest.approx([7 / 8])
    assert torch.equal(energy_inside(signed, masks), energy_inside(signed.relu(), masks))


def test_a_map_that_is_the_same_everywhere_has_the_masks_share() -> None:
    found = energy_inside(torch.full((1, 2, 2), 0.3), mask("##..", "#...", "....", "...."))
    assert found.tolist() == pytest.approx([3 / 16])


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30, 3e38])
def test_energy_does_not_depend_on_the_maps_scale(scale: float) -> None:
    found = energy_inside(torch.tensor([[[scale, scale], [0.0, 0.0]]]), mask("#.", ".."))
    assert found.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_nothing_to_share_is_nan_and_a_miss(value: float) -> None:
    maps = torch.tensor([[[value, value], [value, value]], [[1.0, 0.0], [0.0, 0.0]]])
    masks = mask("##", "##").expand(2, -1, -1)
    energy = energy_inside(maps, masks)
    assert energy[0].isnan()
    assert energy[1] == 1
    assert pointing_game(maps, masks).tolist() == [False, True]


def test_one_value_that_is_not_finite_spoils_the_map() -> None:
    maps = torch.tensor([[[float("nan"), 0.0], [0.0, 9.0]], [[float("inf"), 0.0], [0.0, 9.0]]])
    masks = mask("##", "##").expand(2, -1, -1)
    assert energy_inside(maps, masks).isnan().all()
    assert not pointing_game(maps, masks).any()


def test_an_empty_mask_is_nan_and_a_miss_at_any_tolerance() -> None:
    maps, nothing = torch.ones(1, 2, 2), mask("..", "..")
    assert energy_inside(maps, nothing).isnan().all()
    assert not pointing_game(maps, nothing, tolerance=100).any()


def test_pointing_game_by_hand() -> None:
    # Resized to 4 by 4, the maximum of the last is in the bottom right corner.
    maps = torch.tensor([[[9.0, 4.0], [8.0, 1.0]], [[0.0, 4.0], [8.0, 12.0]]])
    masks = mask("#...", "....", "....", "...#")
    assert pointing_game(maps, masks.expand(2, -1, -1)).tolist() == [True, True]
    assert pointing_game(maps, mask("#...", "....", "....", "....").expand(2, -1, -1)).tolist() == [True, False]


def test_of_equal_maxima_the_first_in_reading_order_counts() -> None:
    maps = torch.ones(2, 2, 2)
    assert pointing_game(maps, torch.cat([mask("#.", ".."), mask(".#", "##")])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("tolerance", "hit"), [(0, False), (4.9, False), (5, True), (5.1, True), (100, True)], ids=lambda v: str(v)
)
def test_tolerance_is_the_distance_to_the_mask_as_the_crow_flies(tolerance: float, hit: bool) -> None:
    maps = torch.zeros(1, 5, 6)
    maps[0, 0, 5] = 1
    # 3 pixels down and 4 across.
    masks = torch.zeros(1, 5, 6, dtype=torch.bool)
    masks[0, 3, 1] = True
    assert bool(pointing_game(maps, masks, tolerance=tolerance)) is hit


def test_a_sample_does_not_depend_on_its_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.randn(5, 3, 4, generator=generator), torch.rand(5, 9, 8, generator=generator) > 0.6
    for found in (energy_inside, pointing_game):
        alone = torch.cat([found(maps[i : i + 1], masks[i : i + 1]) for i in range(5)])
        assert torch.equal(found(maps, masks), alone)
    assert len(energy_inside(maps[:0], masks[:0])) == 0


def test_what_is_given_stays_as_it_is() -> None:
    maps, masks = torch.randn(2, 3, 3, requires_grad=True), torch.ones(2, 3, 3, dtype=torch.bool)
    before = maps.detach().clone()
    assert not energy_inside(maps, masks).requires_grad
    pointing_game(maps, masks)
    assert torch.equal(maps.detach(), before)


@pytest.mark.parametrize("number", [energy_inside, pointing_game])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.rand(2, 2), mask(".#"), r"maps: got a tensor \[2, 2\] of torch.float32; pass floating-point maps"),
        (torch.rand(1, 2, 2, 2), mask(".#"), r"maps: got a tensor \[1, 2, 2, 2\].*one slice at a time"),
        (torch.ones(1, 2, 2, dtype=torch.int64), mask(".#"), "maps: got .*int64"),
        ([[1.0]], mask(".#"), "maps: got a list"),
        (torch.rand(1, 2, 2), mask(".#").float(), r"masks: got a tensor \[1, 1, 2\] of torch.float32; pass a bool"),
        (torch.rand(1, 2, 2), mask(".#")[0], r"masks: got a tensor \[1, 2\]"),
        (torch.rand(3, 2, 2), mask(".#"), "masks: got 1 for 3 maps; pass one mask for each map"),
    ],
)
def test_what_does_not_fit_is_refused(number: object, maps: Tensor, masks: Tensor, message: str) -> None:
    assert callable(number)
    with pytest.raises(ConfigurationError, match=message):
        number(maps, masks)


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_tolerance_below_zero_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigurationError, match="tolerance: got .*; pass a distance in pixels, 0 or more"):
        pointing_game(torch.ones(1, 2, 2), mask("#."), tolerance=tolerance)
