"""The measures, by hand."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from lightning_gradcam import check_maps
from lightning_gradcam.checks.asking import Asked, blur, dependence, emptied, knowledge
from lightning_gradcam.checks.chance import either, p_value, random_maps, ranked, standing
from lightning_gradcam.checks.hiding import Hidden, hide_and_ask
from lightning_gradcam.checks.redrawn import from_the_top, redrawn
from lightning_gradcam.checks.similarity import complexity, signed_correlation, structural_similarity
from lightning_gradcam.checks.verdicts import VERDICTS, decide
from tests.checks.planted import LAYER, shapes, trained

SOUND = {
    "pictures": 8.0, "blank": 0.0, "used": 8.0, "p": 0.001, "channels_p": 0.01,
    "inverted_p": 1.0, "inverted_channels_p": 0.02, "inverted_used": 8.0, "faithful": 1.0,
    "dependence": 0.9, "learnt": 9.0, "random_weights_correlation": 0.1, "random_maps_correlation": 0.3,
    "random_weights_faithful": 0.1, "class_correlation": 0.4,
}  # fmt: skip


def test_random_maps_are_as_smooth_and_elsewhere() -> None:
    down, across = np.meshgrid(np.arange(16.0), np.arange(16.0), indexing="ij")
    blob = np.exp(-((down - 4) ** 2 + (across - 4) ** 2) / 8)
    found = random_maps(blob, 200, np.random.default_rng(0))
    spectrum = np.abs(np.fft.fft2(blob - blob.mean()))
    np.testing.assert_allclose(np.abs(np.fft.fft2(found[7])), spectrum, atol=1e-9)
    # Neighbours are as alike as in the blob, and the place of the maximum is anywhere.
    assert np.ptp([np.unravel_index(one.argmax(), one.shape)[0] for one in found]) == 15
    assert not random_maps(np.full((4, 4), 3.0), 2, np.random.default_rng(0)).any()


def test_a_p_value_is_the_share_of_draws_that_do_as_well() -> None:
    one = p_value(np.array([9.0]), np.zeros((1, 20)), np.random.default_rng(0))
    assert one == pytest.approx(1 / 21, abs=0.01)
    assert p_value(np.array([9.0, 9.0]), np.zeros((2, 20)), np.random.default_rng(0)) == pytest.approx(
        1 / 441, abs=2e-3
    )
    assert p_value(np.zeros(2), np.zeros((2, 20)), np.random.default_rng(0)) == 1
    assert standing(np.array([[1.0, 1.0]])).tolist() == [[0, 0]]


def test_one_of_two_tests_is_enough_at_twice_its_p() -> None:
    assert either(0.02, 0.9) == 0.04
    assert either(0.6, 0.9) == 1


def test_why_a_map_is_weak_is_reported() -> None:
    assert "random maps" in decide({**SOUND, "p": 0.3})[1]
    assert "random weightings of this layer's channels" in decide({**SOUND, "channels_p": 0.3})[1]


def test_a_figure_that_is_one_of_many_has_any_rank_alike() -> None:
    drawn = np.random.default_rng(0).normal(size=(2000, 100))
    found = [ranked(row[0], row[1:]) for row in drawn]
    for level in (0.05, 0.3, 0.8):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.03)


def test_agreement_by_hand() -> None:
    """Three maps hide a pixel each; the log-odds fall by 1, 2 and 6 where pixels 0, 1 and 2 are hidden."""
    empty = np.zeros((1, 3))
    regions = np.eye(3).reshape(1, 3, 1, 1, 3)
    fall = np.array([1.0, 2.0, 6.0]).reshape(1, 3, 1)
    found = Hidden(empty, empty, empty, empty, np.stack([-fall, fall]), np.stack([-fall, fall])[None], regions)
    maps = [np.array([[[1.0, 2.0, 6.0]], [[-1.0, -2.0, -6.0]], [[6.0, 1.0, 2.0]], [[5.0, 5.0, 5.0]]])]
    r = np.corrcoef([6, 1, 2], [1, 2, 6])[0, 1]
    assert found.agreement(maps, range(3))[0].tolist() == pytest.approx([1, -1, r, 0])


def test_agreement_of_several_classes_by_hand() -> None:
    """Hiding moves the first class ten times as much as the second: it counts for as much more."""
    empty, fall = np.zeros((1, 3)), np.array([1.0, 2.0, 6.0])
    regions = np.eye(3).reshape(1, 3, 1, 1, 3)
    logits = np.stack([10 * fall, np.array([3.0, 1.0, 2.0])]).reshape(2, 1, 1, 3, 1)
    found = Hidden(empty, empty, empty, empty, np.zeros((2, 1, 3, 1)), np.concatenate([-logits, logits], 1), regions)
    maps = np.array([[10 * fall, 10 * fall, [0, 0, 0]], [[3.0, 1, 2], [0, 0, 0], [3.0, 1, 2]]])
    got = found.agreement([maps[:, :, None]], range(3), of_classes=True)[0]
    x, y = 10 * (fall - 3), np.array([1.0, -1, 0])
    whole = math.sqrt((x**2).sum() + (y**2).sum())
    assert got.tolist() == pytest.approx([1, math.sqrt((x**2).sum()) / whole, math.sqrt((y**2).sum()) / whole])


def test_similarities_by_hand() -> None:
    ramp = np.arange(9.0).reshape(1, 3, 3)
    assert signed_correlation(ramp, -3 * ramp).tolist() == pytest.approx([-1])
    assert math.isnan(structural_similarity(ramp, np.zeros((1, 3, 3)))[0])
    a, b = ramp / 8, 1 - ramp / 8
    mean, spread, both = 0.5, a.var(), -a.var()
    expected = (2 * mean**2 + 1e-4) * (2 * both + 9e-4) / ((2 * mean**2 + 1e-4) * (2 * spread + 9e-4))
    assert structural_similarity(a, b).tolist() == pytest.approx([expected])
    assert complexity(np.array([[[0.0, 1.0, 2.0, 3.0]]])).tolist() == pytest.approx([math.log(4)])


def test_hiding_asks_about_the_pixels_of_the_map() -> None:
    """A model that looks at the left half alone: its map is best, its inverse worst, and ROAD knows as well."""
    picture = torch.ones(1, 1, 8, 8) + torch.arange(64.0).view(1, 1, 8, 8) / 640
    asked = Asked(lambda x: torch.stack([x[..., :4].mean((1, 2, 3)) * 4 - 2, x.new_zeros(len(x))], 1), False, 5)
    left = np.zeros((8, 8))
    left[:, :4] = 1
    maps = [np.stack([left, 1 - left])]
    found = hide_and_ask(asked, picture, torch.zeros_like(picture), [[0]], maps, quick=False, seed=0)
    assert found.deletion[0, 0] < found.deletion[0, 1]
    assert found.insertion[0, 0] > found.insertion[0, 1]
    standings = found.standing([0, 1])
    assert standings[0, 0] > 0 > standings[0, 1]
    # Half of the pixels are the left half: nothing is left, or all of it.
    sure, unsure = (1 / (1 + math.exp(-z)) for z in (4 * float(picture[..., :4].mean()) - 2, -2.0))
    half = hide_and_ask(asked, picture, torch.zeros_like(picture), [[0]], maps, quick=True, seed=0)
    assert half.deletion.shape == (1, 2)
    assert unsure < half.deletion[0, 0] < sure
    assert np.isnan(half.road).all()


def test_a_strong_blur_and_what_an_output_depends_on() -> None:
    picture = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    assert float(blur(picture, 1000.0).std(dim=(2, 3)).max()) < 1e-4
    assert emptied(picture).shape == (5, 1, 3, 16, 20)
    asked = Asked(lambda x: x, False, 8)
    same = torch.tensor([[[4.0, 0, 0]] * 2] * 3)
    assert dependence(asked, same) == 0
    assert knowledge(asked, same) == (0, 0)
    apart = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0]], [[0.0, 0, 0]] * 2])
    assert dependence(asked, apart) > 0.99
    assert knowledge(asked, apart)[0] == pytest.approx(math.sqrt(3), rel=1e-4)


def test_weights_are_redrawn_from_the_top_and_come_back() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (_, top), (_, everything) = from_the_top(model, 2)
    picture = torch.rand(3, 1, 4, 4)
    with redrawn(top, 0):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"4.weight", "4.bias"}
    with pytest.raises(KeyError), redrawn(everything, 0, lambda: model(picture)):
        # The statistics are those of the new weights.
        out = model[1](model[0](picture))
        assert float(out.detach().mean((0, 2, 3)).abs().max()) < 1e-4
        assert not model[1].training
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model[1].momentum, model[1].training) == (0.1, False)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "sound"),
        ({"blank": 0.6}, "blank"),
        ({"blank": 0.5}, "sound"),
        ({"p": 1.0, "inverted_p": 0.01}, "backwards"),
        # Positive everywhere, with its sign turned: what is left of it is blank, and why is known.
        ({"p": 1.0, "inverted_p": 0.01, "blank": 1.0, "used": 0.0}, "backwards"),
        ({"p": 1.0, "inverted_p": 0.06, "blank": 1.0, "used": 0.0}, "blank"),
        ({"p": 1.0, "inverted_p": 0.01, "blank": 1.0, "used": 0.0, "inverted_used": 1.0}, "blank"),
        ({"p": 1.0, "inverted_p": 0.01, "inverted_used": 1.0, "used": 1.0}, "weak"),
        ({"p": 1.0, "inverted_p": 0.01, "inverted_channels_p": 0.3}, "weak"),
        ({"channels_p": 0.3}, "weak"),
        ({"channels_p": 0.25}, "sound"),
        # A method without a layer.
        ({"channels_p": math.nan, "inverted_channels_p": math.nan}, "sound"),
        ({"dependence": 0.05}, "not learnt"),
        ({"learnt": 1.2}, "not learnt"),
        ({"random_weights_correlation": 0.8, "random_weights_faithful": 0.9}, "not learnt"),
        ({"random_weights_correlation": 0.8, "random_weights_faithful": 0.2}, "sound"),
        ({"class_correlation": 1.0}, "class-blind"),
        ({"class_correlation": math.nan}, "sound"),
        # The same for all classes, it is backwards for some of them.
        ({"class_correlation": 1.0, "p": 1.0, "inverted_p": 0.01}, "class-blind"),
        ({"class_correlation": 1.0, "p": 1.0, "inverted_p": 0.01, "blank": 1.0, "used": 0.0}, "blank"),
        ({"p": 0.06}, "weak"),
        ({"used": 1.0}, "weak"),
        ({"blank": 1.0, "learnt": 0.1}, "blank"),
    ],
)
def test_the_first_verdict_that_applies(changed: dict[str, float], verdict: str) -> None:
    assert decide({**SOUND, **changed})[0] == verdict
    assert verdict in VERDICTS


def test_batch_norms_that_wait_for_other_processes_are_calibrated_alone(tmp_path: Path) -> None:
    # With sync_batchnorm=True only the first process checks, and would wait for the others for ever.
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    pictures, statistics = torch.rand(3, 1, 6, 6), []
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for one in (plain, model):
            with redrawn(list(one), 0, functools.partial(one, pictures)):
                statistics.append(one[1].get_buffer("running_mean").clone())
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(*statistics)
    assert "forward" not in vars(model[1])


class Sharp(nn.Module):
    """Trained, but a picture whose first pixel is 3 gets another class as soon as that changes at all."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        first = pictures[:, 0, 0, 0]
        moved = ((first - 3).abs() < 0.5) & (first != 3)
        logits: torch.Tensor = self.model(pictures)
        return torch.where(moved[:, None], logits.roll(1, dims=1), logits)


def test_a_picture_whose_prediction_changes_under_any_noise_is_left_out_of_the_largest_change() -> None:
    pictures = shapes(2, 5000)[0]
    pictures[1, 0, 0, 0] = 3
    model = Sharp(trained(0)[0])

    def changed(chosen: torch.Tensor) -> tuple[float, float]:
        row = check_maps(model, chosen, f"model.{LAYER}", quick=True).verdicts[f"model.{LAYER}", "gradcam"]
        return row.figures["largest_change"], row.figures["noise"]

    alone = changed(pictures[:1])
    assert changed(pictures) == pytest.approx(alone, rel=1e-4)
    assert np.isnan(changed(pictures[1:])).all()


def test_blank_maps_that_are_not_finite_are_reported_as_such() -> None:
    changed = {"blank": 1.0, "not_finite": 0.875}
    assert decide({**SOUND, **changed})[1] == "8 of 8 maps have no positive value (7 are not finite)"
