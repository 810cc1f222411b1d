"""`"auto"` on models of other shapes than plain classifiers: the right layer and map, or a word that names the way."""

from __future__ import annotations

import pytest

from tests.shapes.look import looked_at, result
from tests.shapes.zoo import SHAPES, Shape


def rows(shapes: list[Shape]) -> list[object]:
    """All rows for the sweep; the twelve run with the slow tests, too."""
    tiers = {True: (pytest.mark.nightly, pytest.mark.slow), False: (pytest.mark.nightly,)}
    return [pytest.param(row, id=f"{row.family}: {row.name}", marks=tiers[row.sample]) for row in shapes]


@pytest.mark.parametrize("row", rows(SHAPES))
def test_the_map_equals_a_plain_reference_or_someone_is_told(row: Shape) -> None:
    _, wrong = result(row)
    assert not wrong, "; ".join(wrong)


@pytest.mark.nightly
@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.family}: {row.name}") for row in SHAPES if row.right])
def test_the_layer_is_the_same_for_another_seed(row: Shape) -> None:
    assert looked_at(row, seed=1).layer == looked_at(row).layer


def test_the_sweep_has_sixty_models_and_a_sample_of_twelve() -> None:
    assert len({row.name for row in SHAPES if row.family != "libraries"}) >= 60
    assert sum(row.sample for row in SHAPES) == 12
