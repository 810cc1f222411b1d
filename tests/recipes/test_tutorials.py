"""The tutorials' algorithms, written out plainly in float64, give the package's numbers, like for like, to 1e-10."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from drawn_garments import draw_garments
from fashion_mnist_model import convnet
from torch import Tensor, nn

from lightning_gradcam import Drawing, compute_cams, compute_feature_maps, filter_patterns, register_method
from lightning_gradcam.compute.ascent import Ascent
from lightning_gradcam.methods import registry
from lightning_gradcam.record.gradients import EDGES
from lightning_gradcam.render.grid import normalised, tiled
from lightning_gradcam.render.overlay import maxima, scaled
from lightning_gradcam.sheets.pattern_sheet import cropped, deprocessed
from tests.recipes import plain as chapter
from tests.recipes.plain import min_max, positive_share, steps, walk

# First, second-last and last convolution, before and after their ReLUs.
BEFORE, AFTER = ("conv1", "conv2", "conv3"), ("relu1", "relu2", "relu3")
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


def garments(count: int, seed: int) -> tuple[Tensor, Tensor]:
    drawn = draw_garments(count, seed)
    return torch.from_numpy(drawn.images)[:, None].double() / 255, torch.from_numpy(drawn.labels)


def train(made: nn.Module) -> None:
    """Trains a network for a few steps on garments."""
    images, labels = garments(480, seed=3)
    optimizer = torch.optim.Adam(made.parameters(), lr=2e-3)
    for picture, label in zip(images.float().split(32), labels.split(32), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(made(picture), label).backward()
        optimizer.step()


@pytest.fixture(scope="module", params=["random", "trained"])
def network(request: pytest.FixtureRequest) -> nn.Sequential:
    """The tutorials' network of 48, 32 and 16 channels in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = convnet()
        if request.param == "trained":
            train(made)
    return made.double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return garments(4, seed=11)[0]


@pytest.fixture
def registered() -> Iterator[None]:
    """Methods registered by a test are gone after it."""
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


def pre_relu_gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """As docs/recipes/pytorch.md registers it, for a layer that is a ReLU."""
    before = gradients * (activations > 0)
    return torch.einsum("nc,nchw->nhw", before.mean(dim=(2, 3)), activations)


@pytest.mark.parametrize("wanted", [None, 6])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("layers", [BEFORE, AFTER], ids=["before", "after"])
def test_maps_of_the_three_layers(
    network: nn.Sequential, images: Tensor, layers: tuple[str, ...], score: str, wanted: int | None
) -> None:
    target = "predicted" if wanted is None else wanted
    cams = compute_cams(network, images, list(layers), targets=target, score=score, relu=False)
    for number, image in enumerate(images):
        for layer in layers:
            plain = steps(
                network,
                image,
                gradients_of=layer,
                weighted=layer,
                wanted=wanted,
                probability=score == "probability",
            )
            assert plain.heatmap.abs().max() > 0
            torch.testing.assert_close(cams[layer, "gradcam", target][number], plain.heatmap, **EXACT)
            assert int(cams.classes[str(target)][number]) == plain.chosen
            assert float(cams.scores[str(target)][number]) == pytest.approx(plain.score, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("wanted", [None, 6])
def test_the_gradient_before_a_relu_weighs_the_activation_after_it(
    network: nn.Sequential, images: Tensor, wanted: int | None, registered: None
) -> None:
    register_method("pre_relu_gradcam", pre_relu_gradcam)
    target = "predicted" if wanted is None else wanted
    cams = compute_cams(
        network, images, list(AFTER), targets=target, methods="pre_relu_gradcam", score="probability", relu=False
    )
    differs = False
    for number, image in enumerate(images):
        for before, after in zip(BEFORE, AFTER, strict=True):
            plain = steps(network, image, gradients_of=before, weighted=after, wanted=wanted, probability=True)
            torch.testing.assert_close(cams[after, "pre_relu_gradcam", target][number], plain.heatmap, **EXACT)
            usual = steps(network, image, gradients_of=after, weighted=after, wanted=wanted, probability=True)
            differs |= not torch.allclose(usual.heatmap, plain.heatmap, rtol=1e-3)
    assert differs


def test_min_max_pictures(network: nn.Sequential, images: Tensor) -> None:
    cams = compute_cams(network, images, list(AFTER), score="probability", relu=False)
    for layer in AFTER:
        maps = cams[layer].numpy()
        shown = scaled(maps, Drawing(scale="minmax"), maxima(maps))
        plain = [steps(network, i, gradients_of=layer, weighted=layer, probability=True).heatmap for i in images]
        for found, heatmap in zip(shown, plain, strict=True):
            np.testing.assert_allclose(found, min_max(heatmap.numpy()), **EXACT)
            assert found.min() == 0
            assert found.max() == 1


def test_pictures_of_what_is_positive(network: nn.Sequential, images: Tensor) -> None:
    cams = compute_cams(network, images, list(AFTER))
    met = 0
    for layer in AFTER:
        maps = cams[layer].numpy()
        shown = scaled(maps, Drawing(), maps.max(axis=(1, 2)))
        for found, image in zip(shown, images, strict=True):
            heatmap = steps(network, image, gradients_of=layer, weighted=layer).heatmap.numpy()
            if heatmap.max() > 0:
                met += 1
                np.testing.assert_allclose(found, positive_share(heatmap), **EXACT)
                # The book takes the mean over channels where others take the sum: a factor, which scaling undoes.
                np.testing.assert_allclose(found, positive_share(heatmap / 16), **EXACT)
            else:
                assert not found.any()
    assert met >= 4


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("layers", [BEFORE, AFTER], ids=["before", "after"])
def test_gradients_and_pooled_gradients(
    network: nn.Sequential, images: Tensor, layers: tuple[str, ...], score: str
) -> None:
    cams = compute_cams(network, images, list(layers), score=score, gradients=True)
    for number, image in enumerate(images):
        for layer in layers:
            plain = steps(network, image, gradients_of=layer, weighted=layer, probability=score == "probability")
            found = cams.gradients[layer, "predicted"]
            channels = found.channels[number]
            assert len(channels) == 8
            torch.testing.assert_close(found.channel_weights[number], plain.pooled[channels], **EXACT)
            rest = [k for k in range(len(plain.pooled)) if k not in channels.tolist()]
            assert plain.pooled[rest].max() <= plain.pooled[channels].min()
            for spread, values in ((found.gradients, plain.gradients), (found.weights, plain.pooled)):
                torch.testing.assert_close(spread.min[number], values.min(), **EXACT)
                torch.testing.assert_close(spread.max[number], values.max(), **EXACT)
                torch.testing.assert_close(spread.sum[number], values.sum(), **EXACT)
                torch.testing.assert_close(spread.norm[number], values.norm(), **EXACT)
                assert int(spread.counts[number].sum()) == values.numel()
            # Numbers on an edge, and zeros, aside: those are counted by other rules than NumPy's.
            counts, _ = np.histogram(plain.gradients[plain.gradients > 0].numpy(), EDGES)
            above = EDGES[:-1] > 0
            np.testing.assert_array_equal(counts[above], found.gradients.counts[number].numpy()[above])


@pytest.mark.parametrize("layers", [BEFORE, AFTER], ids=["before", "after"])
def test_channel_grids(network: nn.Sequential, images: Tensor, layers: tuple[str, ...]) -> None:
    maps = compute_feature_maps(network, images, list(layers))
    dead = 0
    for number, image in enumerate(images):
        outputs = walk(network, image)
        for layer in layers:
            activation = outputs[layer][0].detach()
            torch.testing.assert_close(maps[layer][number], activation, **EXACT)
            ours = tiled(normalised(maps[layer][number].numpy(), "channel"), columns=16)
            theirs = chapter.channel_grid(activation.numpy())
            assert ours.shape == theirs.shape == ((28 + 1) * (len(activation) // 16) - 1, 16 * 29 - 1)
            # Both cut to whole numbers, on whose very edge a value can fall to either side.
            unlike = ours != theirs
            assert unlike.mean() < 1e-4
            assert np.abs(ours.astype(int) - theirs)[unlike].max(initial=0) <= 1
            empty = (activation == 0).flatten(1).all(1)
            dead += int(empty.sum())
            assert not ours[:28, :28].any() or not empty[0]
    assert dead or layers == BEFORE, "no channel is zero everywhere: the rule for these is not tried"


@pytest.mark.parametrize(("layer", "body"), [("conv1", 1), ("relu2", 4), ("conv3", 5), ("relu3", 6)])
def test_filter_patterns(network: nn.Sequential, layer: str, body: int) -> None:
    filters = [0, 1, 3, 9]
    found = filter_patterns(network, layer, (1, 28, 28), filters=filters, step_size=10.0, seed=5)[layer]
    starts = Ascent(seed=5).start(filters, (1, 28, 28), torch.float64)
    assert 0.4 <= starts.min() < 0.41 < 0.59 < starts.max() <= 0.6
    moved = 0
    for place, (number, start) in enumerate(zip(filters, starts, strict=True)):
        pattern = chapter.filter_pattern(network[:body], start[None], number)
        torch.testing.assert_close(found.pictures[place], pattern, **EXACT)
        reached = network[:body](pattern[None])[0, number, 2:-2, 2:-2].mean()
        torch.testing.assert_close(found.activations[place], reached.detach(), **EXACT)
        moved += not bool(found.silent[place])
        assert bool(found.silent[place]) == torch.equal(pattern, start)
    assert moved


def test_pictures_of_filter_patterns() -> None:
    generator = torch.Generator().manual_seed(2)
    pictures = torch.randn(3, 3, 200, 200, generator=generator, dtype=torch.float64).numpy()
    ours = cropped(deprocessed(pictures))
    for found, picture in zip(ours, pictures, strict=True):
        np.testing.assert_array_equal(found.transpose(1, 2, 0), chapter.deprocessed(picture.transpose(1, 2, 0)))
    assert ours.shape == (3, 3, 150, 150)
