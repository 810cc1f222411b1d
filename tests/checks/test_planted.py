"""Planted cases: what is wrong is known, and `check_maps` has to say so. Twenty seeds in `.ci/nightly`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn_garments import draw_garments
from fashion_mnist_model import convnet
from torch import Tensor, nn

from lightning_gradcam import ConfigurationError, check_maps, compute_cams, energy_inside
from lightning_gradcam.checks.verdicts import CHANCE, RIVALS
from lightning_gradcam.methods import registry
from lightning_gradcam.report.check_page import check_page
from tests.checks.planted import LAYER, network, shapes, trained

PICTURES = 8
# One in the README's test command, two more with the slow tests, all twenty every night.
seeds = [pytest.param(seed, marks=pytest.mark.slow if seed < 3 else pytest.mark.nightly) for seed in range(20)]
few = pytest.mark.parametrize("seed", [0, *seeds[1:]])


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def minus_gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    return -(gradients.mean(dim=(-2, -1), keepdim=True) * activations).sum(dim=1)


@few
def test_minus_gradcam_is_backwards_and_gradcam_sound(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._REGISTRY, "minus_gradcam", registry.Method(minus_gradcam))
    model, accuracy = trained(seed)
    assert accuracy > 0.9
    pictures, _, masks = shapes(PICTURES, seed + 5000)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    check = check_maps(model, pictures, LAYER, methods=["gradcam", "minus_gradcam", "random"], masks=masks)
    # Also where Grad-CAM's maps are positive everywhere, so that most of these have no positive value.
    assert check.verdicts[LAYER, "minus_gradcam"].verdict == "backwards", str(check)
    assert "'gradcam'" in check.verdicts[LAYER, "minus_gradcam"].advice
    assert check.verdicts[LAYER, "random"].verdict != "sound", str(check)
    # That it is the same for every class is not all that keeps it from being sound.
    of = check.verdicts[LAYER, "random"].figures
    assert of["p"] > CHANCE or of["channels_p"] > RIVALS, of
    figures = check.verdicts[LAYER, "gradcam"].figures
    if figures["energy_inside"] >= 2 * figures["object_area"]:
        assert check.verdicts[LAYER, "gradcam"].verdict == "sound", str(check)
        assert check.best == (LAYER, "gradcam")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@few
@pytest.mark.parametrize("kind", ["small", "batch norm", "resnet"])
def test_a_network_that_has_learnt_nothing_is_never_sound(seed: int, kind: str) -> None:
    pictures = shapes(PICTURES, seed + 5000)[0]
    layer = LAYER
    if kind == "small":
        model: nn.Module = network(seed)
    elif kind == "batch norm":
        model = network(seed).train()
        # Statistics of these very pictures: as lively as weights that have learnt nothing can be.
        with torch.no_grad():
            for _ in range(40):
                model(pictures)
        model.eval()
    else:
        resnet = pytest.importorskip("torchvision.models").resnet18
        torch.manual_seed(seed)
        model, layer = resnet(num_classes=10), "layer3"
        pictures = torch.nn.functional.interpolate(pictures, scale_factor=2.0)
    check = check_maps(model, pictures, layer, methods=["gradcam", "hirescam"], quick=True)
    assert {row.verdict for row in check.verdicts.values()} <= {"not learnt", "blank", "weak", "backwards"}, str(check)
    assert check.best is None


@few
def test_what_every_class_sees_through_one_number_is_class_blind(seed: int) -> None:
    model, _ = trained(seed, "scalar")
    check = check_maps(model, shapes(PICTURES, seed + 5000)[0], LAYER)
    assert check.verdicts[LAYER, "gradcam"].verdict == "class-blind", str(check)
    assert check.verdicts[LAYER, "gradcam"].figures["class_correlation"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("seed", seeds)
def test_the_examples_last_layer_is_blank_under_gradcam_and_hirescam_is_advised(seed: int) -> None:
    """Behind the example's last convolution, a flattened linear layer: the gradient cancels in its mean over places."""

    def garments(count: int, drawn: int) -> tuple[Tensor, Tensor]:
        found = draw_garments(count, drawn)
        return torch.from_numpy(found.images)[:, None].float() / 127.5 - 1, torch.from_numpy(found.labels).long()

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = convnet()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        pictures, classes = garments(6400, seed)
        for rows in torch.arange(6400).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pictures[rows]), classes[rows]).backward()
            optimizer.step()
    model.eval().zero_grad()
    pictures, classes = garments(200, seed + 1000)
    first = torch.stack([pictures[classes == number][0] for number in range(10)])
    check = check_maps(model, first, "relu3", methods=["gradcam", "hirescam"], quick=True)
    row = check.verdicts["relu3", "gradcam"]
    assert row.verdict in ("blank", "weak"), str(check)
    assert row.advice == "Use 'hirescam' at this layer instead, which is sound here.", str(check)
    assert check.best == ("relu3", "hirescam")
    alone = check_maps(model, first, "relu3", quick=True).verdicts["relu3", "gradcam"]
    assert "check 'hirescam' at this layer" in alone.advice


def test_two_pictures_can_be_sound_and_one_is_too_few() -> None:
    model, _ = trained(0)
    pictures = shapes(4, 5000)[0]
    two = check_maps(model, pictures[:2], LAYER).verdicts[LAYER, "gradcam"]
    assert two.verdict == "sound", two.reason
    one = check_maps(model, pictures[:1], LAYER).verdicts[LAYER, "gradcam"]
    assert one.verdict == "weak"
    assert one.reason == "too few images to tell: 1; at least 2 are needed"
    assert one.advice == "Check more images whose class the model is sure of."


def test_batches_of_any_size_give_the_same_figures() -> None:
    # Statistics of batch norms from the last batch alone are those of emptied pictures.
    model, _ = trained(0)
    pictures = shapes(12, 5000)[0]
    whole, parts = (
        check_maps(model, pictures, LAYER, quick=True, batch_size=size).verdicts[LAYER, "gradcam"] for size in (36, 35)
    )
    assert parts.verdict == whole.verdict == "sound", parts.reason
    assert parts.figures["learnt"] == pytest.approx(whole.figures["learnt"], rel=0.1)


def test_a_map_that_is_not_finite_is_called_that_on_the_page() -> None:
    def half(activations: Tensor, gradients: Tensor) -> Tensor:
        maps = (activations * gradients).sum(dim=1)
        maps[1:] = float("nan")
        return maps

    model, _ = trained(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._REGISTRY, "half", registry.Method(half))
        page = check_page(check_maps(model, shapes(3, 5000)[0], LAYER, methods="half", quick=True))
    assert page.count("(not finite)</small>") == 2
    assert "each scaled from its smallest to its largest value" in page


def test_a_model_without_weights_to_draw_at_random_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.rand(4, 3, 3, 3))
            self.features = nn.ReLU()

        def forward(self, pictures: Tensor) -> Tensor:
            return self.features(nn.functional.conv2d(pictures, self.get_buffer("weight"))).mean(dim=(2, 3))

    with pytest.raises(ConfigurationError, match="it has no parameters that can be randomised"):
        check_maps(Fixed(), shapes(2, 0)[0], "features")


def test_energy_inside_is_the_known_number_and_a_page_shows_what_hiding_does() -> None:
    model, _ = trained(0)
    pictures, _, masks = shapes(4, 5000)
    check = check_maps(model, pictures, LAYER, masks=masks, quick=True)
    maps = compute_cams(model, pictures, LAYER)[LAYER]
    page = check_page(check)
    assert page.count("; with random places hidden: 0.") == 4
    assert "The maps mark places that matter to the model." in page
    expected = float(energy_inside(maps, masks).nanmean())
    assert check.verdicts[LAYER, "gradcam"].figures["energy_inside"] == pytest.approx(expected, abs=1e-5)
