"""Tests of recovering pixels from preprocessed inputs, with torchvision's own transforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.datasets.vision import StandardTransform
from torchvision.transforms import v2

from lightning_gradcam import ProbeError
from lightning_gradcam.probes.display import Normalization, find_normalization, normalization, to_pixels

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
AS_LOADED = Normalization((0.0,), (1.0,), "as loaded")


def bytes_picture(channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    values = torch.arange(2 * channels * height * width) * 37 % 256
    return values.reshape(2, channels, height, width).to(torch.uint8)


@pytest.mark.parametrize(
    "transform",
    [
        v1.Normalize(MEAN, STD),
        v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        v1.Compose([v1.Resize(5), v1.Compose([v1.ToTensor(), v1.Compose([v1.Normalize(MEAN, STD)])])]),
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
        nn.Sequential(v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD)),
        StandardTransform(v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]), None),
        v1.Compose([v1.ToTensor(), v1.RandomApply([v1.Normalize(MEAN, STD)])]),
        v1.Compose([v1.ToTensor(), v1.Normalize(tuple(MEAN), torch.tensor(STD))]),
    ],
    ids=["bare", "Compose", "nested", "v2", "Sequential", "StandardTransform", "RandomApply", "tensors"],
)
def test_normalize_is_found(transform: Any) -> None:
    found = find_normalization(transform)
    assert found is not None
    assert found.source == "Normalize undone"
    assert found.mean == pytest.approx(MEAN)
    assert found.std == pytest.approx(STD)


def test_last_normalize_counts() -> None:
    found = find_normalization(v1.Compose([v1.Normalize([0.1], [0.2]), v1.Normalize([0.3], [0.4])]))
    assert found is not None
    assert (found.mean, found.std) == ((pytest.approx(0.3),), (pytest.approx(0.4),))


@pytest.mark.parametrize(
    "transform",
    [
        v1.ToTensor(),
        v1.Compose([v1.Resize(4), v1.ToTensor()]),
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    ],
)
def test_scaling_alone_is_as_loaded(transform: Any) -> None:
    assert find_normalization(transform) == AS_LOADED


@pytest.mark.parametrize("transform", [None, v1.Resize(4), lambda x: x, v1.Compose([]), object()])
def test_transform_that_shows_nothing_gives_none(transform: Any) -> None:
    assert find_normalization(transform) is None


def test_conversion_without_scaling_is_not_as_loaded() -> None:
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)])
    original = bytes_picture()
    pixels, _ = to_pixels(torch.stack([transform(p) for p in original]), find_normalization(transform))
    assert (pixels == 255).mean() < 0.5


@pytest.mark.parametrize(("height", "width"), [(5, 7), (7, 5), (1, 9)])
def test_normalize_is_undone_exactly(height: int, width: int) -> None:
    original = bytes_picture(3, height, width)
    transform = v1.Compose([v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD)])
    pixels, how = to_pixels(torch.stack([transform(p) for p in original]), find_normalization(transform))
    assert how == "Normalize undone"
    assert torch.equal(torch.from_numpy(pixels), original.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_any_float_type_is_undone(dtype: torch.dtype) -> None:
    pixels, _ = to_pixels(torch.full((1, 1, 2, 2), -0.5, dtype=dtype), normalization(0.5, 0.5))
    assert pixels.tolist() == [[[[64] * 3] * 2] * 2]


def test_users_numbers_are_undone_for_each_channel() -> None:
    inputs = torch.tensor([1.0, -1.0, 0.0])[None, :, None, None].expand(1, 3, 2, 2)
    pixels, how = to_pixels(inputs, normalization([0.5, 0.4, 0.2], [0.1, 0.2, 0.3]))
    assert how == "mean and std as given"
    assert pixels[0, 0, 0].tolist() == [153, 51, 51]


def test_undone_values_outside_are_clipped() -> None:
    pixels, _ = to_pixels(torch.tensor([[[[-5.0, 5.0]]]]), AS_LOADED)
    assert pixels[0, 0, :, 0].tolist() == [0, 255]


def test_without_knowledge_each_picture_is_stretched_by_itself() -> None:
    inputs = torch.tensor([[[[-2.0, 0.0, 2.0]]], [[[10.0, 10.5, 11.0]]]])
    pixels, how = to_pixels(inputs, None)
    assert how == "each image min-max stretched"
    assert pixels[:, 0, :, 0].tolist() == [[0, 128, 255], [0, 128, 255]]


def test_stretching_keeps_colours_together() -> None:
    inputs = torch.zeros(1, 3, 1, 2)
    inputs[0, 0, 0, 1], inputs[0, 1, 0, 1] = 1.0, 0.5
    assert to_pixels(inputs, None)[0][0, 0].tolist() == [[0, 0, 0], [255, 128, 0]]


@pytest.mark.parametrize("value", [0.0, 3.0, -1e30])
def test_constant_picture_is_black_and_does_not_fail(value: float) -> None:
    assert to_pixels(torch.full((1, 1, 2, 2), value), None)[0].max() == 0


@pytest.mark.parametrize("known", [None, AS_LOADED, normalization(0.5, 0.5)], ids=["none", "loaded", "given"])
def test_bytes_are_shown_as_they_are(known: Normalization | None) -> None:
    pixels, how = to_pixels(bytes_picture(), known)
    assert how == "as loaded"
    assert torch.equal(torch.from_numpy(pixels), bytes_picture().permute(0, 2, 3, 1))


def test_one_channel_is_grey() -> None:
    pixels, _ = to_pixels(bytes_picture(1), None)
    assert pixels.shape == (2, 5, 7, 3)
    assert torch.equal(torch.from_numpy(pixels), bytes_picture(1).permute(0, 2, 3, 1).expand(-1, -1, -1, 3))


def test_no_channel_axis_is_grey() -> None:
    assert (to_pixels(bytes_picture(1)[:, 0], None)[0] == to_pixels(bytes_picture(1), None)[0]).all()


def test_fourth_channel_is_left_out() -> None:
    pixels, how = to_pixels(bytes_picture(4), None)
    assert how == "as loaded"
    assert torch.equal(torch.from_numpy(pixels), bytes_picture(4)[:, :3].permute(0, 2, 3, 1))


@pytest.mark.parametrize("channels", [2, 12])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_other_channels_are_averaged_and_said_to_be(channels: int, dtype: torch.dtype) -> None:
    inputs = torch.zeros(1, channels, 1, 3, dtype=dtype)
    inputs[0, 0, 0] = torch.tensor([0, 1, 2], dtype=dtype)
    pixels, how = to_pixels(inputs, AS_LOADED)
    assert how == f"mean of {channels} channels, min-max stretched"
    assert pixels[0, 0, :, 0].tolist() == [0, 128, 255]
    assert (pixels == pixels[..., :1]).all()


def test_number_for_each_of_twelve_channels_is_taken() -> None:
    assert to_pixels(torch.rand(1, 12, 3, 3), normalization([0.5] * 12, [0.5] * 12))[0].shape == (1, 3, 3, 3)


@pytest.mark.parametrize(("channels", "values"), [(1, 3), (3, 2), (12, 3)])
def test_wrong_number_of_means_is_refused_with_both_numbers(channels: int, values: int) -> None:
    with pytest.raises(ProbeError, match=f"mean, std: got {values} values for inputs of {channels} channels; pass 1"):
        to_pixels(torch.rand(1, channels, 3, 3), normalization([0.5] * values, [0.5] * values))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5, 6, 7)])
def test_inputs_that_are_no_pictures_are_refused_with_their_shape(shape: tuple[int, ...]) -> None:
    came = ", ".join(map(str, shape))
    with pytest.raises(
        ProbeError, match=rf"shape \[{came}\]; images are \[N, C, H, W\].*\[N, C, T, H, W\]; .*input_key=; .*, pass a"
    ):
        to_pixels(torch.zeros(shape), None)


# ---- clips and volumes


def bytes_clip(channels: int = 3) -> Tensor:
    values = torch.arange(2 * channels * 4 * 5 * 7) * 37 % 256
    return values.reshape(2, channels, 4, 5, 7).to(torch.uint8)


def test_frames_of_a_clip_come_before_rows_and_columns() -> None:
    pixels, how = to_pixels(bytes_clip(), None)
    assert how == "as loaded"
    assert pixels.shape == (2, 4, 5, 7, 3)
    assert pixels.flags["C_CONTIGUOUS"]
    assert torch.equal(torch.from_numpy(pixels), bytes_clip().permute(0, 2, 3, 4, 1))


def test_each_frame_of_a_clip_is_shown_as_a_picture_would_be() -> None:
    known = normalization([0.5, 0.4, 0.2], [0.1, 0.2, 0.3])
    inputs = torch.randn(2, 3, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    pixels, how = to_pixels(inputs, known)
    assert how == "mean and std as given"
    for frame in range(4):
        assert (pixels[:, frame] == to_pixels(inputs[:, :, frame], known)[0]).all()


def test_normalize_of_a_clip_is_undone_exactly() -> None:
    frames = bytes_clip().transpose(1, 2)  # torchvision's transforms take [..., C, H, W]
    transform = v1.Compose([v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD)])
    inputs = torch.stack([transform(clip) for clip in frames]).transpose(1, 2)
    pixels, how = to_pixels(inputs, find_normalization(transform))
    assert how == "Normalize undone"
    assert torch.equal(torch.from_numpy(pixels), bytes_clip().permute(0, 2, 3, 4, 1))


def test_clip_is_stretched_over_all_its_frames_and_apart_from_others() -> None:
    inputs = torch.tensor([[[[[-2.0]], [[0.0]], [[2.0]]]], [[[[10.0]], [[10.5]], [[11.0]]]]])
    pixels, how = to_pixels(inputs, None)
    assert how == "each clip or volume min-max stretched"
    assert pixels[:, :, 0, 0, 0].tolist() == [[0, 128, 255], [0, 128, 255]]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_of_a_clip_are_shown_as_those_of_a_picture(channels: int) -> None:
    pixels, how = to_pixels(bytes_clip(channels), None)
    # Frames below each other are one picture, which is stretched as a whole, too.
    flat, flat_how = to_pixels(bytes_clip(channels).flatten(2, 3), None)
    assert how == flat_how
    assert (pixels.reshape(flat.shape) == flat).all()


def test_wrong_number_of_means_for_a_clip_says_where_channels_are() -> None:
    with pytest.raises(ProbeError, match=r"got 3 values for inputs of 16 channels; pass 1 or 16 .*\[N, C, T, H, W\]"):
        to_pixels(torch.rand(1, 16, 3, 4, 4), normalization([0.5] * 3, [0.5] * 3))


def test_not_finite_pixels_are_black_where_the_scale_is_known() -> None:
    inputs = torch.tensor([[[[float("nan"), 1.0, float("-inf")]]]])
    assert to_pixels(inputs, AS_LOADED)[0][0, 0, :, 0].tolist() == [0, 255, 0]


def test_one_nan_does_not_blacken_a_stretched_picture() -> None:
    inputs = torch.tensor([[[[float("nan"), 1.0, 0.5, 0.0]]]])
    assert to_pixels(inputs, None)[0][0, 0, :, 0].tolist() == [0, 255, 128, 0]


def test_numbers_as_given() -> None:
    assert normalization(None, None) is None
    assert normalization(0.5, 2) == Normalization((0.5,), (2.0,), "mean and std as given")
    assert normalization([0.1, 0.2], (1, 2)) == Normalization((0.1, 0.2), (1.0, 2.0), "mean and std as given")


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.5, None, "mean, std: got mean=0.5 and std=None; pass both or neither"),
        (None, [0.5], r"mean, std: got mean=None and std=\[0.5\]; pass both or neither"),
        (
            [0.5, 0.5],
            [0.5],
            r"mean, std: got mean=\[0.5, 0.5\] and std=\[0.5\]; pass the same number of means and positive standard",
        ),
        (0.5, 0.0, "got mean=0.5 and std=0.0; pass the same number of means and positive standard deviations"),
        (
            [0.5, 0.5],
            [0.5, -1],
            "pass the same number of means and positive standard deviations: one each, or one per channel",
        ),
        ([], [], "pass the same number of means and positive standard deviations"),
    ],
)
def test_impossible_numbers_are_refused_with_both(mean: Any, std: Any, text: str) -> None:
    with pytest.raises(ProbeError, match=text):
        normalization(mean, std)
