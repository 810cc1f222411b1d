"""What hidden pixels become: systems solved by hand, every equation of large ones, and pytorch-grad-cam's imputer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats import imputation
from lightning_gradcam.stats.imputation import baseline_of, impute

ONES = torch.ones(1, 1, 2, 2)


@pytest.fixture(scope="module")
def peer() -> Any:
    # Before the tests' own fixtures: what it imports changes environment variables, which no test may do.
    pytest.importorskip("pytorch_grad_cam", reason="the extra [dev] is not installed")
    return pytest.importorskip("pytorch_grad_cam.metrics.road", reason="pytorch-grad-cam's ROAD needs scipy")


def test_blurred_is_rises_gaussian() -> None:
    picture = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    picture[0, 0, 15, 15] = 1
    bell = np.exp(-0.5 * (np.arange(-5, 6) / 5) ** 2)
    expected = np.outer(bell, bell) / bell.sum() ** 2
    found = baseline_of(picture, "blurred")[0, 0].numpy()
    np.testing.assert_allclose(found[10:21, 10:21], expected, atol=1e-8)
    assert found.sum() == pytest.approx(1)
    assert baseline_of(torch.ones(1, 2, 3, 4), "blurred").sub(1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("row", "removed", "expected"),
    [
        # x1 = (0 + x2) / 2 and x2 = (x1 + 3) / 2.
        ([0.0, 9.0, 9.0, 3.0], [1, 2], [0, 1, 2, 3]),
        # The outermost has a single neighbour.
        ([9.0, 9.0, 6.0], [0, 1], [6, 6, 6]),
    ],
)
def test_rows_by_hand(row: list[float], removed: list[int], expected: list[float]) -> None:
    gone = torch.zeros(1, 1, len(row), dtype=torch.bool)
    gone[0, 0, removed] = True
    assert impute(torch.tensor([[[row]]]), gone, noise=0).flatten().tolist() == pytest.approx(expected)


def test_direct_neighbours_weigh_twice_what_diagonal_ones_do() -> None:
    pictures = torch.tensor([[[[100.0, 1.0], [2.0, 4.0]]]])
    found = impute(pictures, torch.tensor([[[True, False], [False, False]]]), noise=0)
    assert float(found[0, 0, 0, 0]) == pytest.approx((2 * 1 + 2 * 2 + 4) / 5)
    assert torch.equal(found[0, 0, 1], pictures[0, 0, 1])


@pytest.mark.parametrize("size", [6, 48])
def test_a_linear_picture_is_reconstructed_inside_its_border(size: int) -> None:
    down, across = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    picture = torch.stack([2.0 * down - 3 * across, 0.5 * across + 7, torch.zeros(size, size)])[None].double()
    removed = torch.zeros(1, size, size, dtype=torch.bool)
    removed[:, 1:-1, 1:-1] = True
    found = impute(picture, removed, noise=0)
    np.testing.assert_allclose(found.numpy(), picture.numpy(), atol=1e-6)


def test_the_equations_hold_for_any_hole() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 2, 9, 11, generator=generator, dtype=torch.float64)
    removed = torch.rand(3, 9, 11, generator=generator) < torch.tensor([0.2, 0.6, 0.97])[:, None, None]
    found = impute(pictures, removed, noise=0)
    for n, y, x in removed.nonzero().tolist():
        total, weights = torch.zeros(2, dtype=torch.float64), 0.0
        for dy, dx in [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]:
            if 0 <= y + dy < 9 and 0 <= x + dx < 11:
                weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                total, weights = total + weight * found[n, :, y + dy, x + dx], weights + weight
        np.testing.assert_allclose(found[n, :, y, x], total / weights, atol=1e-6)


def test_a_large_hole_takes_few_steps_and_is_as_exact_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    cycle = imputation._cycle
    monkeypatch.setattr(imputation, "_cycle", lambda grids, rest: taken.append(rest.shape[-1]) or cycle(grids, rest))
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, 96, 101, generator=generator)
    coarse = torch.rand(1, 1, 6, 6, generator=generator)
    removed = torch.nn.functional.interpolate(coarse, size=(96, 101), mode="bilinear")[0] > 0.4
    exact = impute(picture, removed, noise=0)
    # Plain conjugate gradients take 260.
    assert taken.count(101) <= 30
    found = impute(picture, removed, noise=0, precision=1e-4)
    assert 0 < float((found - exact).abs().max()) <= 1e-3


def test_noise_is_that_of_the_seed_and_only_where_something_was_removed() -> None:
    pictures, removed = torch.zeros(2, 1, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    removed[:, :32] = True
    found = impute(pictures, removed, noise=0.5, seed=3)
    assert (found[:, :, 32:] == 0).all()
    assert float(found[0, 0, :32].std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found, impute(pictures, removed, noise=0.5, seed=3))
    assert not torch.equal(found, impute(pictures, removed, noise=0.5, seed=4))


def test_nothing_removed_is_the_picture() -> None:
    pictures = torch.rand(1, 3, 4, 4)
    assert torch.equal(impute(pictures, torch.zeros(1, 4, 4, dtype=torch.bool)), pictures)


@pytest.mark.parametrize(
    ("pictures", "removed", "message"),
    [
        (torch.rand(1, 2, 2), torch.zeros(1, 2, 2).bool(), r"pictures: got a tensor \[1, 2, 2\].*\[N, C, H, W\]"),
        (torch.ones(1, 1, 2, 2).byte(), torch.zeros(1, 2, 2).bool(), "pictures: got .*uint8"),
        (ONES, torch.zeros(1, 2, 3).bool(), r"removed: got a tensor \[1, 2, 3\].*pass bool \[1, 2, 2\]"),
        (ONES, torch.zeros(1, 2, 2), "removed: got .*float32"),
        (ONES, None, "removed: got NoneType"),
        (ONES, torch.ones(1, 2, 2).bool(), "removed: got an image with every pixel removed"),
    ],
)
def test_what_does_not_fit_is_refused(pictures: Tensor, removed: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        impute(pictures, removed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_imputation_is_pytorch_grad_cams(peer: Any, channels: int, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(channels, 17, 13, generator=generator)
    removed = torch.rand(17, 13, generator=generator) < share
    expected = peer.NoisyLinearImputer(noise=0)(picture, (~removed).float())
    found = impute(picture[None], removed[None], noise=0)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
