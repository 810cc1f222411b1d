"""Functions of images that move, crop or pad them, and those that leave each part in its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from lightning_gradcam.capture.image_moves import few, image_moves


def smooth(*shape: int) -> Tensor:
    return interpolate(torch.rand(*shape[:2], 5, 5, generator=torch.Generator().manual_seed(0)), shape[2:])


IMAGES = {
    "noise": torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
    "wide": smooth(2, 1, 40, 64),
    "one of bytes": (smooth(1, 3, 64, 48) * 255).to(torch.uint8),
    "bytes, channels last": (smooth(2, 3, 40, 40) * 255).to(torch.uint8).movedim(1, -1),
}
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "normalised": lambda x: (x - 0.4) / 0.2,
    "normalised by each image": lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std(),
    "smaller": lambda x: interpolate(x, scale_factor=0.5),
    "larger and square": lambda x: interpolate(x, (96, 96), mode="bilinear"),
    "with a black border": lambda x: pad(x[..., 4:-4, 4:-4], (4, 4, 4, 4)),
    "half erased": lambda x: x * (torch.arange(x.shape[-1]) > x.shape[-1] // 2),
    "grey and noisy": lambda x: (
        x.mean(1, keepdim=True) + torch.randn(64, generator=torch.Generator())[: len(x), None, None, None]
    ),
}
MOVED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "mirrored": ("turned", lambda x: x.flip(-1)),
    "turned": ("turned", lambda x: x.rot90(1, (-2, -1))),
    "rolled": ("shifted", lambda x: x.roll(x.shape[-1] // 4, -1)),
    "the middle, seven eighths": ("part", lambda x: x[..., x.shape[-2] // 16 : -x.shape[-2] // 16, 4:-4]),
    "a corner, enlarged": ("part", lambda x: interpolate(x[..., :16, :16], (32, 32))),
    "with a border": ("border", lambda x: pad(x, (8, 8, 8, 8))),
}


def floats(x: Tensor) -> Tensor:
    x = x.movedim(-1, 1) if x.shape[-1] == 3 else x
    return x.float() / 255 if x.dtype == torch.uint8 else x


@pytest.mark.parametrize("images", IMAGES)
def test_what_moves_images_is_found_and_nothing_else(images: str) -> None:
    given = IMAGES[images]
    before = given.clone()
    for name, function in KEPT.items():
        assert image_moves(lambda x, f=function: f(floats(x)), given) == {}, name  # type: ignore[misc]
    for name, (kind, function) in MOVED.items():
        found = image_moves(lambda x, f=function: f(floats(x)), given)  # type: ignore[misc]
        assert found == dict.fromkeys(range(len(given)), kind), name
    assert torch.equal(given, before)


def test_each_image_is_judged_by_itself() -> None:
    def every_other(x: Tensor) -> Tensor:
        return torch.stack([image.flip(-1) if number % 2 else image for number, image in enumerate(x)])

    assert image_moves(every_other, IMAGES["noise"]) == {1: "turned"}


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 9), (2, 1, 64)])
def test_other_inputs_are_left_alone(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    assert image_moves(lambda x: x.flip(-1), images) == {}


def test_a_function_that_fails_or_drops_images_shows_nothing() -> None:
    images = IMAGES["noise"]
    assert image_moves(lambda x: x[:1], images) == {}
    assert image_moves(lambda x: x.reshape(7), images) == {}


@pytest.mark.parametrize(
    ("shape", "count"), [((64, 3, 224, 224), 8), ((5, 1, 28, 28), 5), ((4, 3, 512, 512), 1), ((4, 1, 200, 200, 200), 1)]
)
def test_only_as_many_images_are_judged_as_take_no_time(shape: tuple[int, ...], count: int) -> None:
    assert few(torch.empty(shape, device="meta")) == count
