"""Drops, curves and ROAD: linear models whose numbers are found by hand, and pytorch-grad-cam's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.stats.faithfulness import (
    area_under,
    average_drop,
    average_increase,
    deletion_curve,
    insertion_curve,
    road,
)
from lightning_gradcam.stats.imputation import baseline_of
from tests.conftest import TinyNet

NAN = float("nan")
EVERY = [average_drop, average_increase, deletion_curve, insertion_curve, road]


def linear(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Logits ``[w · x, 0]``; the class 0 is explained below."""
    return lambda x: torch.stack([(x * weights).sum((1, 2, 3)), torch.zeros(len(x), dtype=x.dtype)], dim=1)


def chance_of_one(probability: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A single logit whose sigmoid, the confidence in class 1, is the given number ``[N]``."""
    return lambda x: probability(x).logit()


FIRST, SECOND = torch.tensor([0]), torch.tensor([1])
WEIGHTS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
ONES = torch.ones(1, 1, 2, 2)
MAPS = torch.tensor([[[0.9, 0.1], [0.5, 0.3]]])


def test_average_drop_by_hand() -> None:
    model = chance_of_one(lambda x: x.sum((1, 2, 3)) / 8)
    # What is kept is 1, 0.5, 0 and 0 of the picture: 4/8 falls to 1.5/8.
    found = average_drop(model, ONES, torch.tensor([[[4.0, 2.0], [0.0, -4.0]]]), classes=SECOND)
    assert found.tolist() == pytest.approx([(0.5 - 1.5 / 8) / 0.5])
    assert average_increase(model, ONES, torch.tensor([[[4.0, 2.0], [0.0, -4.0]]]), classes=SECOND).tolist() == [0]


def test_a_gain_is_no_drop() -> None:
    model = chance_of_one(lambda x: 0.9 - x.sum((1, 2, 3)) / 8)
    maps = torch.tensor([[[4.0, 2.0], [0.0, -4.0]]])
    assert average_drop(model, ONES, maps, classes=SECOND).tolist() == [0]
    assert average_increase(model, ONES, maps, classes=SECOND).tolist() == [1]


def test_a_map_that_keeps_everything_changes_nothing() -> None:
    model = chance_of_one(lambda x: x.sum((1, 2, 3)) / 8)
    for found in (average_drop, average_increase):
        assert found(model, ONES, torch.full((1, 2, 2), 0.2), classes=SECOND).tolist() == [0]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_blank_map_hides_everything(value: float) -> None:
    model = chance_of_one(lambda x: (1 + x.sum((1, 2, 3))) / 8)
    found = average_drop(model, ONES, torch.full((1, 2, 2), value), classes=SECOND)
    assert found.tolist() == pytest.approx([(5 / 8 - 1 / 8) / (5 / 8)])


def test_no_confidence_is_none_to_lose() -> None:
    model = linear(torch.full((2, 2), -200.0))
    found = average_drop(model, ONES, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), classes=FIRST)
    assert found.tolist() == [0]


def test_the_predicted_class_is_that_of_the_whole_picture() -> None:
    # Masked, the picture's most likely class is 1; the confidence in class 0 is what falls.
    def model(x: Tensor) -> Tensor:
        return torch.stack([x.sum((1, 2, 3)), torch.full((len(x),), 2.0)], dim=1)

    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    before, after = (torch.tensor([s, 2.0]).softmax(0)[0] for s in (4.0, 1.0))
    assert average_drop(model, ONES, maps).tolist() == pytest.approx([float((before - after) / before)])


def test_a_sigmoid_leaves_the_other_classes_out() -> None:
    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    before, after = torch.tensor(1.0).sigmoid(), torch.tensor(0.1).sigmoid()
    found = average_drop(linear(WEIGHTS / 10), ONES, maps, classes=FIRST, score="sigmoid")
    assert found.tolist() == pytest.approx([float((before - after) / before)])


def test_deletion_by_hand() -> None:
    found = deletion_curve(linear(WEIGHTS), ONES, MAPS, classes=FIRST, score="logit", steps=4)
    assert found.tolist() == [[10, 9, 6, 2, 0]]
    assert area_under(found).tolist() == [(10 / 2 + 9 + 6 + 2 + 0 / 2) / 4]


def test_insertion_by_hand() -> None:
    found = insertion_curve(linear(WEIGHTS), ONES, MAPS, classes=FIRST, score="logit", steps=4, baseline="zeros")
    assert found.tolist() == [[0, 1, 4, 8, 10]]


def test_deletion_to_the_mean_by_hand() -> None:
    # Two channels, each with a mean of its own: 2.5 and 0.
    inputs = torch.stack([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, -1.0], [1.0, -1.0]])])[None]
    found = deletion_curve(
        linear(torch.ones(2, 2)), inputs, MAPS, classes=FIRST, score="logit", steps=4, baseline="mean"
    )
    assert found.tolist() == [[10, 10 + 1.5 - 1, 10 + 1.5 - 1 - 0.5 - 1, 10 + 1.5 - 1 - 0.5 - 1 - 1.5 + 1, 10]]


def test_deletion_to_a_picture_of_ones_own() -> None:
    found = deletion_curve(
        linear(WEIGHTS), ONES, MAPS, classes=FIRST, score="logit", steps=1, baseline=torch.tensor(2.0)
    )
    assert found.tolist() == [[10, 20]]


@pytest.mark.parametrize(("steps", "expected"), [(1, [10, 0]), (3, [10, 9, 2, 0]), (8, [10, 10, 9, 6, 6, 6, 2, 0, 0])])
def test_steps_that_do_not_divide_the_pixels(steps: int, expected: list[float]) -> None:
    found = deletion_curve(linear(WEIGHTS), ONES, MAPS, classes=FIRST, score="logit", steps=steps)
    assert found.tolist() == [expected]


def test_a_signed_map_deletes_what_speaks_against_last() -> None:
    maps = torch.tensor([[[-3.0, 1.0], [-1.0, 0.0]]])
    found = deletion_curve(linear(WEIGHTS), ONES, maps, classes=FIRST, score="logit", steps=4)
    assert found.tolist() == [[10, 8, 4, 1, 0]]


def test_a_coarse_map_is_resized() -> None:
    weights = torch.arange(4.0).expand(4, 4)
    found = deletion_curve(
        linear(weights), torch.ones(1, 1, 4, 4), torch.tensor([[[0.0, 1.0]]]), classes=FIRST, score="logit", steps=4
    )
    assert found.tolist() == [[24, 12, 4, 0, 0]]


def test_probabilities_are_the_default() -> None:
    found = deletion_curve(linear(WEIGHTS), ONES, MAPS, steps=1)
    assert found.tolist() == [pytest.approx([float(torch.tensor(10.0).sigmoid()), 0.5])]


def test_equally_important_pixels_go_in_an_order_that_the_seed_decides() -> None:
    weights = 2.0 ** torch.arange(16).view(4, 4)
    inputs, maps = torch.ones(2, 1, 4, 4), torch.full((2, 4, 4), 0.5)

    def curve(seed: int) -> Tensor:
        return deletion_curve(
            linear(weights), inputs, maps, classes=FIRST.expand(2), score="logit", steps=16, seed=seed
        )

    assert torch.equal(curve(0), curve(0))
    assert torch.equal(curve(0)[0], curve(0)[1])
    assert not torch.equal(curve(0), curve(1))
    lost = -curve(0)[0].diff()
    # Every pixel goes once, and not in reading order.
    assert sorted(lost.tolist()) == [2.0**i for i in range(16)]
    assert lost.tolist() != sorted(lost.tolist())


def test_insertion_starts_from_the_blurred_picture() -> None:
    inputs = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(1))
    found = insertion_curve(linear(weights), inputs, torch.rand(1, 3, 3), classes=FIRST, score="logit")
    ends = [float((picture * weights).sum()) for picture in (baseline_of(inputs, "blurred"), inputs)]
    assert found[0, [0, -1]].tolist() == pytest.approx(ends)
    assert found.shape == (1, 26)


def quadrant() -> tuple[Tensor, Tensor]:
    """A picture [1, 1, 8, 8] that is 1 in its top left quadrant and 0 elsewhere, and that quadrant."""
    inside = torch.zeros(8, 8)
    inside[:4, :4] = 1
    return inside[None, None], inside


def test_a_model_that_reads_one_quadrant() -> None:
    picture, inside = quadrant()
    model = linear(inside / 16)
    options: dict[str, Any] = {"classes": FIRST, "score": "logit", "percentiles": [25], "noise": 0}
    # Its quarter removed, nothing but zeros suggests what was there; as many others removed, it sees no difference.
    assert road(model, picture, inside[None], **options).tolist() == pytest.approx([0.5], abs=1e-6)
    assert road(model, picture, 1 - inside[None], **options).tolist() == pytest.approx([-0.5], abs=1e-6)


def test_the_mean_over_percentiles() -> None:
    picture, inside = quadrant()
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 8, 8, generator=generator)

    def value(*percentiles: float) -> float:
        return float(road(linear(inside / 16), picture, maps, classes=FIRST, percentiles=percentiles))

    assert value(20, 50) == pytest.approx((value(20) + value(50)) / 2)
    assert value(20) != value(50)


def test_least_and_most_part_the_picture_between_them() -> None:
    # At 50 percent, LeRF removes exactly what MoRF leaves, of a map with many equal values too.
    maps = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)).sub(0.6).relu()
    changed: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        changed.append(x != 1)
        return x.sum((1, 2, 3))

    road(model, torch.ones(1, 1, 8, 8), maps, percentiles=[50])
    whole, one, other = changed
    assert not whole.any()
    assert torch.equal(one, ~other)


def test_percents_are_exact_however_many_values_are_equal() -> None:
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(int((x != 1).sum()))
        return x.sum((1, 2, 3))

    maps = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(0)).sub(0.6).relu()
    road(model, torch.ones(1, 1, 10, 10), maps, percentiles=[20, 0.001, 99.999])
    assert seen == [0, 20, 20, 1, 1, 99, 99]


@pytest.mark.parametrize("percentiles", [[], [0], [50, 100], [NAN]])
def test_percents_that_leave_nothing_or_everything_are_refused(percentiles: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="percentiles: got .*; pass percentiles between 0 and 100"):
        road(linear(WEIGHTS), ONES, torch.rand(1, 2, 2), percentiles=percentiles)


@pytest.mark.parametrize("number", EVERY)
def test_a_sample_does_not_depend_on_its_batch(number: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model, inputs, maps = TinyNet().eval().double(), torch.rand(5, 1, 8, 8).double(), torch.rand(5, 3, 3).double()
    alone = torch.cat([number(model, inputs[i : i + 1], maps[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(number(model, inputs, maps).numpy(), alone.numpy(), rtol=1e-6, atol=1e-9)
    assert alone.dtype == torch.float64


@pytest.mark.parametrize("number", EVERY)
def test_no_gradient_no_global_number_and_no_other_mode(number: Callable[..., Tensor]) -> None:
    model, grads = TinyNet().eval(), []
    model.relu1.register_forward_hook(lambda *_: grads.append(torch.is_grad_enabled()))
    inputs, maps = torch.rand(2, 1, 8, 8, requires_grad=True), torch.rand(2, 3, 3, requires_grad=True)
    kept, state = inputs.detach().clone(), torch.get_rng_state()
    found = number(model, inputs, maps)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inputs.detach(), kept)
    assert not any(grads)
    assert not found.requires_grad
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(found, number(model, inputs, maps))
    with torch.inference_mode():
        assert torch.equal(found, number(model, inputs, maps))


@pytest.mark.parametrize("number", EVERY)
def test_a_model_that_changes_its_input_in_place(number: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, maps = torch.randn(2, 1, 4, 4, generator=generator), torch.rand(2, 4, 4, generator=generator)
    head = linear(torch.rand(4, 4, generator=generator))
    assert torch.equal(number(lambda x: head(x.relu_()), inputs, maps), number(lambda x: head(x.relu()), inputs, maps))


@pytest.mark.parametrize("number", EVERY)
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_map_that_is_not_finite_is_nan_and_spoils_no_other(number: Callable[..., Tensor], value: float) -> None:
    inputs, maps = torch.rand(2, 1, 2, 2), torch.rand(2, 2, 2)
    maps[0, 0, 0] = value
    found = number(linear(WEIGHTS), inputs, maps)
    assert found[0].isnan().all()
    assert torch.equal(found[1:], number(linear(WEIGHTS), inputs[1:], maps[1:]))


@pytest.mark.parametrize("number", EVERY)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ONES[0]}, r"inputs: got a tensor \[1, 2, 2\].*pass floating-point images \[N, C, H, W\]"),
        ({"inputs": ONES.byte()}, "inputs: got .*uint8"),
        ({"maps": torch.rand(1, 1, 2, 2)}, r"maps: got a tensor \[1, 1, 2, 2\].*pass floating-point maps"),
        ({"maps": torch.rand(3, 2, 2)}, "maps: got 3 for 1 inputs; pass one map for each input"),
        ({"classes": torch.tensor(0)}, r"classes: got a tensor \[\].*pass one class for each of 1 inputs"),
        ({"classes": torch.tensor([0.5])}, "classes: got .*float32"),
        ({"classes": torch.tensor([2])}, r"classes: got \[2\]; valid: 0 to 1"),
        ({"classes": torch.tensor([-1])}, r"classes: got \[-1\]; valid: 0 to 1"),
        ({"score": "loss"}, "score: got 'loss'; valid:"),
        ({"model": lambda x: {"logits": x}}, r"model: returned a dict with 'logits'; pass a callable"),
    ],
)
def test_what_does_not_fit_is_refused(number: Callable[..., Tensor], change: dict[str, Any], message: str) -> None:
    arguments = {"model": linear(WEIGHTS), "inputs": ONES, "maps": torch.rand(1, 2, 2), **change}
    with pytest.raises(ConfigurationError, match=message):
        number(**arguments)


def test_options_of_one_of_them_are_refused() -> None:
    given = (linear(WEIGHTS), ONES, torch.rand(1, 2, 2))
    with pytest.raises(ConfigurationError, match="score: got 'logit', but this measure needs a probability"):
        average_drop(*given, score="logit")
    with pytest.raises(ConfigurationError, match="steps: got 0; pass an integer >= 1"):
        deletion_curve(*given, steps=0)
    with pytest.raises(ConfigurationError, match="baseline: got 'black'; valid: 'zeros', 'mean', 'blurred'"):
        insertion_curve(*given, baseline="black")
    with pytest.raises(ConfigurationError, match=r"baseline: got shape \[3, 3\] for images \[1, 1, 2, 2\]"):
        deletion_curve(*given, baseline=torch.rand(3, 3))
    with pytest.raises(ConfigurationError, match=r"curve: got shape \[4\]; pass \[N, steps \+ 1\]"):
        area_under(torch.rand(4))


@pytest.fixture(scope="module")
def peer() -> Any:
    # Before the tests' own fixtures: what it imports changes environment variables, which no test may do.
    pytest.importorskip("pytorch_grad_cam", reason="the extra [dev] is not installed")
    return pytest.importorskip("pytorch_grad_cam.metrics.road", reason="pytorch-grad-cam's ROAD needs scipy")


class Reader(nn.Module):
    """A small model that is not linear, for 10 by 10 pictures; in evaluation mode from the start."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4)).eval()

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.layers(x)


def batch() -> tuple[Tensor, Tensor]:
    """Pictures, and maps in their size, in 0…1 and without two equal values, as pytorch-grad-cam's are taken here."""
    generator = torch.Generator().manual_seed(1)
    ranks = torch.stack([torch.randperm(100, generator=generator) for _ in range(3)])
    return torch.rand(3, 3, 10, 10, generator=generator), ranks.view(3, 10, 10) / 99


def test_road_is_pytorch_grad_cams(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In sign and value, once its noise, which it draws from the global generator, is silenced."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    inputs, maps = batch()
    targets = [ClassifierOutputSoftmaxTarget(i) for i in (0, 2, 3)]
    with monkeypatch.context() as silenced:
        silenced.setattr(torch, "randn_like", torch.zeros_like)
        expected = peer.ROADCombined([20, 40, 60, 80])(inputs, maps.numpy(), targets, Reader())
    found = road(Reader(), inputs, maps, classes=torch.tensor([0, 2, 3]), noise=0)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pytorch_grad_cam_removes_all_equal_values_at_once(peer: Any) -> None:
    """It removes all that reach a threshold: of a map that is 0 at 60 of 100 places, 60 percent and not 20."""
    maps = torch.arange(100.0).view(1, 10, 10).sub(59).relu() / 40
    kept = peer.RemoveLeastRelevantFirst(80, lambda _picture, mask: mask)(torch.rand(3, 10, 10), maps[0])
    assert int((kept == 0).sum()) == 60
    ours: list[int] = []

    def model(x: Tensor) -> Tensor:
        ours.append(int((x != 1).sum()))
        return x.sum((1, 2, 3))

    road(model, torch.ones(1, 1, 10, 10), maps, percentiles=[20])
    assert ours == [0, 20, 20]


def test_drop_and_increase_are_pytorch_grad_cams(peer: Any) -> None:
    """Its drop is the difference of confidences; the paper, and so ours, divides it by the confidence before."""
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    inputs, maps = batch()
    classes = torch.tensor([0, 2, 3])
    targets = [ClassifierOutputSoftmaxTarget(int(i)) for i in classes]
    before = Reader()(inputs).softmax(1).gather(1, classes[:, None])[:, 0].detach().numpy()
    drop = DropInConfidence()(inputs, maps.numpy(), targets, Reader())
    increase = IncreaseInConfidence()(inputs, maps.numpy(), targets, Reader())
    assert drop.max() > 0.01
    assert increase.max() == 1
    np.testing.assert_allclose(average_drop(Reader(), inputs, maps, classes=classes), drop / before, atol=1e-5)
    np.testing.assert_allclose(average_increase(Reader(), inputs, maps, classes=classes), increase)


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Sigmoid()], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("score", ["probability", "sigmoid"])
def test_the_output_of_a_model_that_ends_in_probabilities_is_the_confidence(end: nn.Module, score: str) -> None:
    """A softmax of a softmax would tell 0.27 of the drop from 0.88 to 0.5 by hand, and not the whole of it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), end).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.5] * 4, [-0.5] * 4]))
    x = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    before = end(torch.tensor([[2.0, -2.0]], dtype=torch.float64))[0, 0].item()
    after = end(torch.tensor([[0.5, -0.5]], dtype=torch.float64))[0, 0].item()
    # The map keeps one pixel of four as it is.
    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64).repeat(2, 1, 1)
    found = average_drop(model, x, maps, classes=torch.tensor([0, 0]), score=score)
    assert found.tolist() == pytest.approx([(before - after) / before] * 2, rel=1e-12)
    curve = deletion_curve(model, x, maps, score=score, steps=4)
    assert curve[:, 0].tolist() == pytest.approx([before] * 2, rel=1e-12)
    assert curve[:, -1].tolist() == pytest.approx([0.5] * 2, rel=1e-12)
    assert model[1].weight.grad is None


def test_a_callable_that_leaves_torch_is_asked_without_a_graph() -> None:
    weights = np.array([[1.0, 2.0], [3.0, 4.0]])
    numpy = lambda x: torch.from_numpy(np.stack([(x.numpy() * weights).sum((1, 2, 3)), np.zeros(len(x))], 1))  # noqa: E731
    expected = deletion_curve(linear(WEIGHTS.double()), ONES.double(), MAPS, score="logit", steps=4)
    found = deletion_curve(numpy, ONES.double(), MAPS, score="logit", steps=4)
    torch.testing.assert_close(found, expected)


def test_signals_are_pictures_of_one_row() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(40, 3))
    signals, maps = torch.randn(3, 2, 12), torch.rand(3, 6)
    rows: Any = lambda pictures: net(pictures[:, :, 0])  # noqa: E731
    for measure, options in (
        (average_drop, {}),
        (average_increase, {}),
        (deletion_curve, {"baseline": torch.ones(2, 12)}),
        (insertion_curve, {}),
        (road, {}),
    ):
        expected = options and {"baseline": torch.ones(2, 1, 12)}
        found = measure(net, signals, maps, **options)  # type: ignore[operator]
        assert torch.equal(found, measure(rows, signals[:, :, None], maps[:, None], **expected))  # type: ignore[operator]
