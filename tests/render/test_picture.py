"""Pictures and their files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lightning_gradcam.render.picture import Picture


def noise(height: int, width: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("enlarged", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 300)])
def test_png_holds_every_pixel(size: tuple[int, int], enlarged: bool) -> None:
    pixels = noise(*size)
    with Image.open(io.BytesIO(Picture(pixels, enlarged=enlarged).encoded())) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), pixels)


def test_an_enlarged_picture_is_smaller_without_filters() -> None:
    pixels = noise(40, 40).repeat(4, 0).repeat(4, 1)
    plain, filtered = (Picture(pixels, enlarged=enlarged).encoded() for enlarged in (True, False))
    assert len(plain) < len(filtered)
