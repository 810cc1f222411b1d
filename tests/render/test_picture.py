"""Pictures and their files."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from lightning_gradcam.render.picture import PackedPicture, Picture


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


def test_an_enlarged_picture_is_packed_better() -> None:
    rows, columns = np.mgrid[:40, :40]
    pixels = (rows * columns // 6 % 256).astype(np.uint8)[..., None].repeat(3, -1).repeat(4, 0).repeat(4, 1)
    large, small = (Picture(pixels, enlarged=enlarged).encoded() for enlarged in (False, True))
    assert len(small) < 0.8 * len(large)


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


def test_a_small_file_has_few_colours_where_they_do_and_all_where_they_do_not() -> None:
    rows, columns = np.mgrid[:28, :28]
    grey = ((9 * rows + columns // 4) // 24 * 24).astype(np.uint8)[..., None].repeat(3, -1)
    pixels = np.full((400, 480, 3), 255, np.uint8)
    pixels[100:212, 200:312] = grey.repeat(4, 0).repeat(4, 1)
    picture = Picture(pixels, enlarged=True)
    for small in (picture, PackedPicture(picture)):
        format, content = small.small()
        with Image.open(io.BytesIO(content)) as image:
            assert (format, image.format, image.mode) == ("png", "PNG", "P")
            shown = np.asarray(image.convert("RGB")).astype(int)
        assert (shown[:100] == 255).all()
        assert np.abs(shown - pixels)[100:212, 200:312].mean() < 3
    # Who chooses a format gets every pixel.
    assert Picture(pixels, enlarged=True, format="png").small() == ("png", picture.encoded("png"))
    coarse = Picture(noise(60, 60).repeat(4, 0).repeat(4, 1), enlarged=True)
    assert coarse.small(("png",)) == ("png", coarse.encoded("png"))


def test_a_photograph_of_any_size_is_the_smaller_of_both_files() -> None:
    board = np.indices((600, 600)).sum(axis=0) % 2 * 255
    photograph, drawn = Picture(noise(600, 600)), Picture(board.astype(np.uint8)[..., None].repeat(3, -1))
    assert photograph.file()[0] == "jpeg"
    assert drawn.file()[0] == "png"
    assert photograph.file(("png",))[0] == "png"
