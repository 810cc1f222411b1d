"""Ranks of many rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_gradcam.stats.ranks import ranks


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ranks_by_hand(dtype: Any) -> None:
    # Ranks 2, 0.5, 0.5, 3 and 1.5 four times, less 1.5, twice; -0 equals 0.
    values = np.array([[0.5, -0.0, 0.0, 9.0], [2.0, 2.0, 2.0, 2.0]], dtype)
    assert ranks(values).tolist() == [[1, -2, -2, 3], [0, 0, 0, 0]]


@pytest.mark.parametrize("values", [[1e-45, 0.0, 3e-45], [3e38, 1e-38, 3.2e38]])
def test_the_smallest_and_the_largest_values_are_told_apart(values: list[float]) -> None:
    found = ranks(np.array([values], np.float32))
    assert found.tolist() == [[0, -2, 2]]


def test_a_row_does_not_depend_on_the_others() -> None:
    values = np.random.default_rng(0).integers(0, 5, (20, 30)).astype(np.float32)
    assert ranks(values).tolist() == [ranks(row[None])[0].tolist() for row in values]
    assert (ranks(values).sum(axis=1) == 0).all()
    assert ranks(values[:0]).shape == (0, 30)
    assert ranks(values[:, :1]).tolist() == [[0]] * 20
