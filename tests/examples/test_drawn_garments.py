"""Tests of the garments drawn in code, the worked example's data without a network."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from drawn_garments import (
    CLASS_NAMES,
    TEST_SIZE,
    TRAIN_SIZE,
    DrawnGarments,
    Garments,
    draw_garments,
)


@pytest.fixture(scope="module")
def garments() -> Garments:
    return draw_garments(3000, seed=11)


def test_shapes_and_dtypes(garments: Garments) -> None:
    assert garments.images.shape == garments.masks.shape == (3000, 28, 28)
    assert garments.labels.shape == (3000,)
    assert garments.images.dtype == np.uint8
    assert garments.labels.dtype == np.int64
    assert garments.masks.dtype == np.bool_


def test_same_seed_gives_same_bytes() -> None:
    first, second = draw_garments(120, seed=3), draw_garments(120, seed=3)
    assert first.images.tobytes() == second.images.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
    assert first.masks.tobytes() == second.masks.tobytes()


def test_different_seeds_give_different_pictures() -> None:
    first, second = draw_garments(120, seed=3), draw_garments(120, seed=4)
    assert not np.array_equal(first.images, second.images)
    assert not np.array_equal(first.labels, second.labels)


def test_sets_of_one_seed_share_no_picture() -> None:
    sets = [DrawnGarments(train=True, count=300), DrawnGarments(train=False, count=300)]
    pictures = {np.asarray(data[index][0]).tobytes() for data in sets for index in range(300)}
    pictures |= {image.tobytes() for image in draw_garments(300, seed=0).images}
    assert len(pictures) == 900


@pytest.mark.parametrize("count", [1, 7, 10, 123, 1000])
def test_classes_are_balanced(count: int) -> None:
    per_class = np.bincount(draw_garments(count, seed=0).labels, minlength=10)
    assert per_class.sum() == count
    assert per_class.max() - per_class.min() <= 1


def test_classes_are_shuffled(garments: Garments) -> None:
    assert len(set(garments.labels[:40].tolist())) > 5
    assert not np.array_equal(garments.labels[:10], garments.labels[10:20])


def test_class_names_are_those_of_fashion_mnist() -> None:
    assert CLASS_NAMES == (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


@pytest.mark.parametrize("label", range(10))
def test_masks_are_small_and_on_the_garment(garments: Garments, label: int) -> None:
    chosen = garments.labels == label
    masks, images = garments.masks[chosen], garments.images[chosen]
    share = masks.mean(axis=(1, 2))
    assert share.min() > 0.015
    assert share.max() < 0.35
    drawn = (masks & (images > 0)).sum(axis=(1, 2)) / masks.sum(axis=(1, 2))
    assert drawn.min() > 0.2
    assert drawn.mean() > 0.7


@pytest.mark.parametrize("label", range(10))
def test_pictures_vary_and_keep_a_black_background(garments: Garments, label: int) -> None:
    images = garments.images[garments.labels == label]
    assert images.max(axis=(1, 2)).min() > 20
    assert (images == 0).mean() > 0.2
    assert len({image.tobytes() for image in images}) == len(images)


def test_global_random_state_is_untouched() -> None:
    random.seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # type: ignore[index]
    DrawnGarments(count=50)[3]
    assert np.array_equal(before[0], np.random.get_state()[1])  # type: ignore[index]
    assert torch.equal(before[1], torch.get_rng_state())
    assert before[2] == random.getstate()


def test_global_seeds_do_not_change_the_pictures() -> None:
    torch.manual_seed(1)
    first = draw_garments(30, seed=5)
    torch.manual_seed(2)
    assert np.array_equal(first.images, draw_garments(30, seed=5).images)


def test_dataset_items_look_like_those_of_torchvision() -> None:
    data = DrawnGarments(count=25, seed=2)
    picture, label = data[4]
    assert len(data) == 25
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == ("L", (28, 28))
    assert type(label) is int
    assert label == int(data.targets[4])
    assert data.classes == list(CLASS_NAMES)
    assert data.probe_note == "drawn data (not photographs)"
    assert data.transform is None


def test_dataset_ends_like_a_sequence() -> None:
    data = DrawnGarments(count=5)
    with pytest.raises(IndexError):
        data[5]
    assert len(list(data)) == 5  # type: ignore[call-overload]


def test_dataset_applies_the_transform() -> None:
    def to_tensor(picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)) / 255

    plain = DrawnGarments(count=12, seed=2)
    scaled = DrawnGarments(count=12, seed=2, transform=to_tensor)
    image, label = scaled[7]
    assert isinstance(image, torch.Tensor)
    assert torch.equal(image, torch.from_numpy(np.array(plain[7][0])) / 255)
    assert label == plain[7][1]


def test_probe_mask_is_a_copy_that_matches_the_picture() -> None:
    data = DrawnGarments(train=False, count=12)
    mask = data.probe_mask(3)
    assert mask.shape == (28, 28)
    assert mask.dtype == np.bool_
    assert (mask & (np.asarray(data[3][0]) > 0)).any()
    mask[:] = True
    assert not data.probe_mask(3).all()


def test_default_sizes() -> None:
    assert len(DrawnGarments(train=False)) == TEST_SIZE
    assert TRAIN_SIZE > TEST_SIZE


@pytest.mark.parametrize("count", [0, -3])
def test_too_small_a_count_is_named_in_the_error(count: int) -> None:
    for make in (lambda: draw_garments(count, seed=0), lambda: DrawnGarments(count=count)):
        with pytest.raises(ValueError, match=rf"count: got {count}; pass the number of images to draw, 1 or more"):
            make()


@pytest.mark.parametrize("make", [draw_garments, lambda n, seed: DrawnGarments(count=n, seed=seed)])
def test_a_negative_seed_is_named_in_the_error(make: Callable[[int, int], object]) -> None:
    with pytest.raises(ValueError, match=r"seed: got .*-1.*; pass an integer, 0 or more"):
        make(10, -1)
