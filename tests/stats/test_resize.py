"""Maps at a picture's resolution have torch's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam.render.drawing import Interpolation
from lightning_gradcam.stats.resize import resized


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7), (5, 28), (28, 28)])
@pytest.mark.parametrize("size", [(28, 28), (30, 41)])
def test_enlarging_equals_torch(shape: tuple[int, int], size: tuple[int, int], interpolation: Interpolation) -> None:
    maps = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    smooth: dict[str, Any] = {} if interpolation == "nearest" else {"align_corners": False}
    # The cubic kernel of Pillow, which torch takes with antialiasing: -0.5, not -0.75.
    smooth |= {"antialias": True} if interpolation == "bicubic" else {}
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size, mode=interpolation, **smooth)
    found = resized(maps, size, interpolation)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[:, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28), (30, 41), (9, 5)])
def test_what_falls_on_a_pixel_is_averaged(shape: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], (8, 7), mode="area")
    np.testing.assert_allclose(resized(maps, (8, 7), "bicubic"), expected[:, 0].numpy(), atol=1e-5)


def test_no_thread_of_torch_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "interpolate", pytest.fail)
    resized(np.zeros((1, 2, 2), np.float32), (4, 4), "bilinear")
