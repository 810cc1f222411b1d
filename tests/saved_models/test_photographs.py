"""Overlays in the photograph's own resolution, where the model saw a part of it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lightning_gradcam import explain
from lightning_gradcam.probes.folder import Preparation
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.saved_models.photographs import Photographs, placed, put_back


def photograph() -> Image.Image:
    """120 wide and 80 high: noise in blocks of 20, which looks the same nowhere else."""
    blocks = np.random.default_rng(0).integers(0, 255, (4, 6), np.uint8)
    return Image.fromarray(blocks.repeat(20, axis=0).repeat(20, axis=1)).convert("RGB")


def cropped(image: Image.Image) -> torch.Tensor:
    """The shorter side to 40, then the middle 24 x 24, normalised: columns 24 to 96 and rows 4 to 76 of the picture."""
    small = image.resize((60, 40)).crop((18, 8, 42, 32))
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255 - 0.5) / 0.2


def found(image: Image.Image, transform: object, size: tuple[int, int]) -> object:
    made = Photographs.of([image], how := Preparation(transform, mode="RGB"))  # type: ignore[arg-type]
    probes = how.probes([how.apply(image)], ("cat",))
    assert probes.pixels.shape[1:3] == size
    part = made.read(0, probes.view)
    return None if part is None else part[1]


def test_the_part_that_a_crop_keeps_is_found() -> None:
    assert found(photograph(), cropped, (24, 24)) == (36, 16, 84, 64)


def test_padding_lies_outside_of_the_photograph() -> None:
    # To 30 x 20 in the middle of 30 x 30: 5 rows more above and below, each 4 of the photograph's.
    def padded(image: Image.Image) -> torch.Tensor:
        small = torch.from_numpy(np.array(image.resize((30, 20)))).permute(2, 0, 1).float() / 255
        return F.pad(small, (0, 0, 5, 5))

    assert found(photograph(), padded, (30, 30)) == (0, -20, 120, 100)


@pytest.mark.parametrize("change", ["mirrored", "another part", "small"])
def test_a_part_that_is_not_sure_is_not_used(change: str) -> None:
    count = iter(range(9))

    def transform(image: Image.Image) -> torch.Tensor:
        if change == "mirrored":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # As a random crop does: the ramps meet another one than the photograph did.
        moved = 0 if change != "another part" or next(count) else 18
        return cropped(image.crop((moved, 0, moved + 102, 80)).resize((120, 80)))

    image = photograph().resize((20, 20)) if change == "small" else photograph()
    assert found(image, transform, (24, 24)) is None


def test_a_random_crop_is_not_placed_where_another_one_would_be() -> None:
    smooth = photograph().resize((6, 4)).resize((120, 80), Image.Resampling.BICUBIC)
    own = np.random.default_rng(0)

    def transform(draw: Callable[[], float]) -> Callable[[Image.Image], torch.Tensor]:
        # Another corner of the picture each time, so close that all parts look alike.
        return lambda image: cropped(image.crop((left := round(6 * draw()), 0, 114 + left, 80)).resize((120, 80)))

    for draw in (random.random, np.random.random, lambda: torch.rand(()).item(), own.random):
        assert found(smooth, transform(draw), (24, 24)) is None
    assert found(smooth, transform(lambda: 0.5), (24, 24)) is not None


def test_a_padded_part_that_is_larger_than_an_overlay_can_be_is_scaled_down() -> None:
    pale, seen, region = placed(np.zeros((30, 90, 3), np.uint8), (-10, -40, 101, 70), 100)
    assert max(seen.shape[:2]) == 100
    # All of the photograph is inside.
    assert (put_back(pale, seen + 9, region) == 9).all()


def test_an_overlay_is_the_photograph_with_the_map_on_its_part(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    # A map of ones.
    for parameter, value in zip(net.parameters(), ([0.0], [1.0], [1.0, 0.0], [0.0]), strict=True):
        parameter.data = (
            torch.tensor(value).expand(parameter.numel() if len(value) == 1 else -1).reshape(parameter.shape).clone()
        )
    photograph().save(tmp_path / "cat.png")
    made = explain(net, [tmp_path / "cat.png"], "0", transform=cropped, drawing={"opacity": 1.0})
    ((name, picture),) = made.save(tmp_path / "out").overlays()
    assert picture.size == (80, 120)
    assert (picture.pixels[16:64, 36:84] == lookup_table("turbo")[255]).all()
    outside = np.ones((80, 120), bool)
    outside[16:64, 36:84] = False
    assert (picture.pixels[outside] == (np.asarray(photograph())[outside] // 2 + 128)).all()
    written = Image.open(io.BytesIO((tmp_path / "out" / "overlays" / f"{name}.png").read_bytes()))
    assert written.size == (120, 80)
