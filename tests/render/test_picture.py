"""Pictures and their files."""

from __future__ import annotations

import io
import zlib

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


@pytest.mark.parametrize(("side", "factor"), [(28, 4), (48, 3), (96, 2)])
def test_an_enlarged_picture_takes_no_more_than_zlibs_best_without_a_filter(side: int, factor: int) -> None:
    """A smooth picture with a grain, as photographs have; enlarged beside white paper, as on a sheet."""
    rows, columns = np.mgrid[:side, :side] / side
    smooth = np.stack([np.sin(5 * rows + 3 * columns), np.cos(4 * columns), rows * columns], axis=-1)
    grain = np.random.default_rng(0).normal(size=smooth.shape)
    picture = (120 + 100 * smooth + 3 * grain).clip(0, 255).astype(np.uint8)
    pixels = np.full((200, 900, 3), 255, np.uint8)
    pixels[: factor * side, : factor * side] = picture.repeat(factor, 0).repeat(factor, 1)
    unfiltered = np.zeros((200, 1 + 3 * 900), np.uint8)
    unfiltered[:, 1:] = pixels.reshape(200, -1)
    content = Picture(pixels, enlarged=True).encoded()
    assert len(content) < len(zlib.compress(unfiltered.tobytes(), 6))
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(np.asarray(image), pixels)
