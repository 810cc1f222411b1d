"""Numbers of maps: cases by hand, an independent reference, and what changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats import STATS, agreement, blank, center, drift, entropy, half_area, maximum
from lightning_gradcam.stats import rank_correlation as rho

Array = Any


def center_x(maps: Array) -> Array:
    return center(maps)[0]


def center_y(maps: Array) -> Array:
    return center(maps)[1]


ALONE: dict[str, Callable[[Array], Array]] = {
    "entropy": entropy,
    "half_area": half_area,
    "center_x": center_x,
    "center_y": center_y,
    "blank": blank,
    "maximum": maximum,
}
PAIRS: dict[str, Callable[[Array, Array], Array]] = {"drift": drift, "rank_correlation": rho, "agreement": agreement}


def of(*rows: list[float]) -> Array:
    """One map, [1, h, w], in float64."""
    return np.array([rows], np.float64)


def test_drift_by_hand() -> None:
    # cos((3, 4, 0), (4, 3, 0)) = 24 / 25; what is negative does not count.
    assert drift(of([3, 4, -7]), of([4, 3, -1])).tolist() == pytest.approx([1 / 25], abs=1e-15)
    assert agreement(of([3, 4, -7]), of([4, 3, -1])).tolist() == pytest.approx([24 / 25], abs=1e-15)
    assert drift(of([1, 0]), of([0, 1])).tolist() == [1]
    assert agreement(of([1, 0]), of([0, 1])).tolist() == [0]


def test_small_drifts_are_not_lost_to_rounding() -> None:
    # 1 - cos of an angle of 1e-9 is 5e-19, far below the rounding of 1.
    assert drift(of([1, 0]), of([1, 1e-9])).tolist() == pytest.approx([5e-19], rel=1e-6)


def test_rounding_stays_in_range() -> None:
    values = np.random.default_rng(0).random((500, 1, 9))
    left, right = values.copy(), values.copy()
    left[..., 4:], right[..., :4] = 0, 0
    assert (drift(left, right) <= 1).all()
    assert (agreement(left, right) >= 0).all()


def test_a_blank_map_beside_another_one() -> None:
    full, nothing = of([0, 2]), of([0, -2])
    assert [drift(*pair)[0] for pair in ((full, nothing), (nothing, full))] == [1, 1]
    assert [agreement(*pair)[0] for pair in ((full, nothing), (nothing, full))] == [0, 0]
    assert np.isnan([number(nothing, nothing)[0] for number in (drift, agreement)]).all()
    assert np.isnan([rho(full, nothing)[0], rho(nothing, full)[0], rho(nothing, nothing)[0]]).all()


def test_rank_correlation_by_hand() -> None:
    # Without ties 1 - 6 sum(d²) / (S (S² - 1)): the last two of four change places.
    assert rho(of([1, 2, 3, 4]), of([1, 2, 9, 5])).tolist() == pytest.approx([1 - 6 * 2 / 60])
    assert rho(of([1, 2, 3]), of([3, 2, 1])).tolist() == [-1]
    # Ranks 0.5, 0.5, 2 and 0, 1.5, 1.5; less their mean -0.5, -0.5, 1 and -1, 0.5, 0.5: 0.75 / 1.5.
    assert rho(of([1, 1, 5]), of([1, 5, 5])).tolist() == pytest.approx([0.5])
    # After the ReLU 0, 0, 1 and 0, 0, 2.
    assert rho(of([-5, -1, 1]), of([0, -3, 2])).tolist() == [1]


def by_counting(values: list[float]) -> list[float]:
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 5, 4), (3, 2, 3, 4), (1, 1, 2)])
def test_rank_correlation_equals_the_correlation_of_ranks(shape: tuple[int, ...], dtype: Any) -> None:
    generator = np.random.default_rng(0)
    # Few values, so that many are equal; and zeros of both signs.
    one, other = (generator.integers(-4, 5, shape).astype(dtype) * dtype(0.3) for _ in range(2))
    one[0].flat[:2] = -0.0, 1
    other[0].flat[:2] = 2, 0.0
    expected = []
    for row in range(len(one)):
        ranks = [by_counting(np.maximum(maps[row].astype(float), 0).ravel().tolist()) for maps in (one, other)]
        expected.append(np.corrcoef(*ranks)[0, 1])
    np.testing.assert_allclose(rho(one, other), expected, atol=1e-14)


def test_entropy_by_hand() -> None:
    # p = 1/2, 1/4, 1/4: 1.5 bits of 2.
    assert entropy(of([2, 1], [1, -9])).tolist() == pytest.approx([0.75])
    assert entropy(of([7, 0], [0, 0])).tolist() == [0]
    assert entropy(of([7, 7, 7])).tolist() == [1]


def test_half_area_by_hand() -> None:
    # Of 10: 4 and 1 make 5; 4 alone does not.
    assert half_area(of([4, 1, 1, 1], [1, 1, 1, -20])).tolist() == [2 / 8]
    # Exactly half with two places, in numbers that no float holds.
    assert half_area(of([0.1, 0.2, 0.1, 0.3, 0.3, 0.2, 0, 0, 0, 0])).tolist() == [2 / 10]
    assert half_area(of([0, 0, 0, 9])).tolist() == [1 / 4]
    assert half_area(of([1, 1, 1, 1])).tolist() == [0.5]
    # Two of three are needed; more than half is never said.
    assert half_area(of([1, 1, 1])).tolist() == [0.5]


def test_center_by_hand() -> None:
    x, y = center(of([0, 0, 0, 1], [0, 0, 0, -5], [0, 0, 0, 3]))
    # The last of four columns; rows at 1/6 and 5/6 weigh 1 and 3.
    assert (x[0], y[0]) == pytest.approx((7 / 8, (1 / 6 + 3 * 5 / 6) / 4))
    assert [place[0] for place in center(of([2, 2, 2], [2, 2, 2]))] == pytest.approx([0.5, 0.5])


def test_blank_and_maximum_by_hand() -> None:
    maps = np.array([[[-1.0, 0.0]], [[1e-300, -5.0]], [[3.0, 7.0]]])
    assert blank(maps).tolist() == [1, 0, 0]
    assert maximum(maps).tolist() == [0, 1e-300, 7]


def test_3d_maps_count_all_their_places() -> None:
    # Two slices of [1, 2]: 1, 0 and 1, 2.
    maps = np.array([[[[1.0, 0.0]], [[1.0, 2.0]]]])
    assert entropy(maps).tolist() == pytest.approx([0.75])
    assert half_area(maps).tolist() == [1 / 4]
    # On the left 2, on the right 2.
    assert [place[0] for place in center(maps)] == [0.5, 0.5]
    assert center_x(np.array([[[[1.0, 0.0]], [[1.0, 6.0]]]])).tolist() == pytest.approx([(2 * 0.25 + 6 * 0.75) / 8])
    assert maximum(maps).tolist() == [2]
    flat = maps.reshape(1, 1, 4)
    other = np.array([[[[0.0, 3.0]], [[1.0, 5.0]]]])
    for number in PAIRS.values():
        assert number(maps, other) == number(flat, other.reshape(1, 1, 4))


def test_maps_of_a_single_place() -> None:
    one = of([3.0])
    assert np.isnan(entropy(one)).all()
    assert np.isnan(rho(one, one)).all()
    assert half_area(one).tolist() == [0.5]
    assert [place[0] for place in center(one)] == [0.5, 0.5]
    assert drift(one, 2 * one).tolist() == [0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_spoils_its_map_alone(value: float) -> None:
    good, spoilt = of([1, 2], [3, 0]), of([1, 2], [3, value])
    both = np.concatenate([spoilt, good])
    for number in ALONE.values():
        assert np.isnan(number(both)[0])
        assert number(both)[1] == number(good)[0]
    fine = np.concatenate([good, good])
    for of_two in PAIRS.values():
        for found in (of_two(both, fine), of_two(fine, both)):
            assert np.isnan(found[0])
            assert found[1] == of_two(good, good)[0]


def test_a_blank_map_has_no_shape() -> None:
    nothing = of([0, -1], [-2, 0])
    assert np.isnan([ALONE[name](nothing)[0] for name in ("entropy", "half_area", "center_x", "center_y")]).all()
    assert (blank(nothing)[0], maximum(nothing)[0]) == (1, 0)


@pytest.mark.parametrize("scale", [2.0**-149, 1e-38, 1e38])
def test_tiny_and_huge_values_in_float32(scale: float) -> None:
    # Whole numbers of the smallest float32 above 0, too.
    maps = (of([2, 1], [1, 0]) * scale).astype(np.float32)
    other = (of([0, 1], [1, 2]) * scale).astype(np.float32)
    assert entropy(maps).tolist() == pytest.approx([0.75], abs=1e-6)
    assert half_area(maps).tolist() == [0.25]
    assert center_x(maps).tolist() == pytest.approx([(3 * 0.25 + 0.75) / 4], abs=1e-6)
    assert drift(maps, other).tolist() == pytest.approx([2 / 3], abs=1e-6)
    assert rho(maps, other).tolist() == pytest.approx([-1])
    assert blank(maps).tolist() == [0]
    assert maximum(maps).tolist() == [float(maps.max())]


def test_tiny_and_huge_values_in_float64() -> None:
    for scale in (1e-320, 8e307):
        maps = of([2, 1], [1, 0]) * scale
        assert entropy(maps).tolist() == pytest.approx([0.75], abs=1e-3)
        assert drift(maps, of([2, 1], [1, 0])).tolist() == pytest.approx([0], abs=1e-6)


@settings(deadline=None)
@given(
    maps=arrays(np.float32, array_shapes(min_dims=3, max_dims=4, max_side=5), elements=st.floats(-9, 9, width=32)),
    seed=st.integers(0, 99),
    power=st.integers(-20, 20),
)
def test_ranges_and_what_changes_nothing(maps: Array, seed: int, power: int) -> None:
    other = np.random.default_rng(seed).normal(size=maps.shape).astype(np.float32)
    numbers = {name: number(maps) for name, number in ALONE.items()}
    numbers |= {name: number(maps, other) for name, number in PAIRS.items()}
    for name, values in numbers.items():
        stat = STATS[name]
        assert values.shape == maps.shape[:1]
        assert values.dtype == np.float64
        known = values[~np.isnan(values)]
        assert stat.low is None or (known >= stat.low).all(), name
        assert stat.high is None or (known <= stat.high).all(), name
    for scale in (2.0**power, 3.7):
        # In float64, where no value is lost.
        scaled = maps.astype(np.float64) * scale
        for name in ("entropy", "half_area", "center_x", "center_y", "blank"):
            np.testing.assert_allclose(ALONE[name](scaled), numbers[name], atol=1e-12)
        for name in ("drift", "agreement"):
            np.testing.assert_allclose(PAIRS[name](scaled, other), numbers[name], atol=1e-12)
        np.testing.assert_allclose(maximum(scaled), numbers["maximum"] * scale)
    np.testing.assert_array_equal(rho(maps.astype(np.float64) * 2.0**power, other), numbers["rank_correlation"])
    for name, number in PAIRS.items():
        np.testing.assert_allclose(number(other, maps), numbers[name], atol=1e-12)
    shown = blank(maps) == 0
    assert (drift(maps, maps)[shown] == 0).all()
    assert (rho(maps, maps)[~np.isnan(rho(maps, maps))] == 1).all()


def test_a_map_does_not_depend_on_those_beside_it_nor_changes() -> None:
    generator = np.random.default_rng(0)
    one, other = (generator.normal(size=(5, 3, 4)).astype(np.float32) for _ in range(2))
    one.setflags(write=False)
    other.setflags(write=False)
    for number in ALONE.values():
        assert number(one).tolist() == [float(number(one[row : row + 1])[0]) for row in range(5)]
        assert number(one[:0]).shape == (0,)
    for of_two in PAIRS.values():
        alone = [float(of_two(one[row : row + 1], other[row : row + 1])[0]) for row in range(5)]
        assert of_two(one, other).tolist() == alone
        assert of_two(one[:0], other[:0]).shape == (0,)


@pytest.mark.parametrize("number", [*ALONE.values(), *(lambda maps, n=n: n(maps, maps) for n in PAIRS.values())])
@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.ones((2, 2)), r"maps: got \[2, 2\] of float64; pass a floating-point NumPy array \[N, h, w\]"),
        (np.ones((1, 2, 2), np.int64), r"maps: got \[1, 2, 2\] of int64"),
        (np.ones((1, 0, 2)), r"maps: got \[1, 0, 2\]"),
        ([[[1.0]]], "maps: got list"),
    ],
)
def test_what_are_no_maps_is_refused(number: Any, maps: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        number(maps)


@pytest.mark.parametrize("number", PAIRS.values())
def test_maps_of_another_shape_are_refused(number: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"others: got shape \[1, 2, 3\] for maps of shape \[1, 3, 2\]; pass maps"
    ):
        number(np.ones((1, 3, 2)), np.ones((1, 2, 3)))
    with pytest.raises(ConfigurationError, match="others: got list"):
        number(np.ones((1, 3, 2)), [[[1.0]]])
