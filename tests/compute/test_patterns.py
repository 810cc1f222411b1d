"""Filters' patterns: the chapter's algorithm written out plainly, cases by hand, and a model that stays as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_gradcam import CaptureError, ConfigurationError, LayerError
from lightning_gradcam.compute.ascent import Ascent, rise, spatial_axes, unit, variation, weighted_by_wavelength
from lightning_gradcam.compute.patterns import filter_patterns
from tests.conftest import TinyNet
from tests.guard.test_model import assert_same, everything

SHAPE = (2, 12, 11)


def small(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(5, 7, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(7 * 90, 3)).to(dtype)


def plainly(body: nn.Module, start: Tensor, number: int, *, steps: int, size: float, border: int) -> tuple[Any, float]:
    """The chapter's loop for one filter, `[1, c, H, W]`: the loss is a mean, and the step a gradient of length 1."""
    picture = start.clone()
    for _ in range(steps):
        picture.requires_grad_()
        activation = body(picture)
        height, width = activation.shape[2:]
        loss = activation[:, number, border : height - border, border : width - border].mean()
        (gradient,) = torch.autograd.grad(loss, picture)
        length = math.sqrt(sum(value**2 for value in gradient.flatten().tolist()))
        picture = (picture + size * gradient / length).detach()
    activation = body(picture)[:, number, border:-border, border:-border]
    return picture, float(activation.detach().mean())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_all_filters_as_one_batch_are_each_by_itself(batch_size: int) -> None:
    model = small()
    found = filter_patterns(model, "2", SHAPE, steps=8, batch_size=batch_size)["2"]
    size = 10 * math.sqrt(2 * 12 * 11 / 120_000)
    for place, number in enumerate(found.filters):
        start = Ascent().start([number], SHAPE, torch.float64)
        expected, reached = plainly(model[:3], start, number, steps=8, size=size, border=2)
        torch.testing.assert_close(found.pictures[place : place + 1], expected, rtol=0, atol=1e-10)
        assert float(found.activations[place]) == pytest.approx(reached, abs=1e-10)
    assert found.filters == tuple(range(7))
    assert not found.silent.any()


def test_a_linear_filter_by_hand() -> None:
    # The gradient of the mean of `x * (1, -2, 2)` over the 4x4 places inside the border is the same in each of them:
    # its direction is the filter, of length 3, over the root of 16 places.
    model = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False)).double()
    model[0].weight.data = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    found = filter_patterns(model, "0", (3, 8, 8), steps=5, step_size=2.0)["0"]
    change = found.pictures - Ascent().start([0], (3, 8, 8), torch.float64)
    expected = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    expected[:, :, 2:6, 2:6] = (5 * 2.0 * torch.tensor([1, -2, 2], dtype=torch.float64) / (3 * 4)).reshape(3, 1, 1)
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("side", "border", "kept"), [(8, 2, 4), (5, 2, 1), (4, 2, 2), (3, 2, 1), (2, 2, 2), (1, 2, 1), (8, 0, 8), (8, 1, 6)]
)
def test_the_border_is_left_out_and_smaller_on_small_maps(side: int, border: int, kept: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1)).double()
    found = filter_patterns(model, "0", (1, side, 8), steps=1, border=border, filters=1)["0"]
    changed = (found.pictures != Ascent().start([0], (1, side, 8), torch.float64))[0, 0]
    assert changed.any(dim=1).sum() == kept
    assert changed.any(dim=0).sum() == 8 - 2 * border


def test_steps_scale_with_the_size_and_range_of_pictures() -> None:
    assert Ascent().step_length((3, 200, 200)) == 10.0
    shapes = ((1, 28, 28), (3, 224, 224), (28, 28))
    changes = {shape: Ascent().step_length(shape) / math.sqrt(math.prod(shape)) for shape in shapes}
    for change in changes.values():
        assert change == pytest.approx(10 / math.sqrt(120_000), rel=1e-12)
    assert Ascent(value_range=(-1.0, 1.0)).step_length((3, 200, 200)) == 20.0
    assert Ascent(step_size=3, value_range=(-1.0, 1.0)).step_length((3, 200, 200)) == 3


@pytest.mark.parametrize("parametrisation", ["pixels", "fourier"])
@pytest.mark.parametrize(("limits", "low", "high"), [((0.0, 1.0), 0.4, 0.6), ((-1.0, 1.0), -0.2, 0.2)])
def test_starts_are_in_range_and_each_filters_own(parametrisation: Any, limits: Any, low: float, high: float) -> None:
    ascent = Ascent(parametrisation=parametrisation, value_range=limits)
    starts = ascent.start([4, 0, 9], (3, 16, 15), torch.float64)
    assert starts.min() >= low - 1e-12
    assert starts.max() <= high + 1e-12
    assert starts.max() - starts.min() > 0.9 * (high - low)
    assert torch.equal(starts[1:2], ascent.start([0], (3, 16, 15), torch.float64))
    assert not torch.equal(starts[0], starts[1])
    other = Ascent(parametrisation=parametrisation, value_range=limits, seed=1)
    assert not torch.equal(starts, other.start([4, 0, 9], (3, 16, 15), torch.float64))
    torch.testing.assert_close(starts.float(), ascent.start([4, 0, 9], (3, 16, 15), torch.float32))


def test_a_pattern_does_not_depend_on_the_others() -> None:
    model = small()
    options: dict[str, Any] = {"steps": 4, "jitter": 2, "total_variation": 0.3, "parametrisation": "fourier"}
    every = filter_patterns(model, "2", SHAPE, **options)["2"]
    some = filter_patterns(model, "2", SHAPE, filters=[6, 1], **options)["2"]
    first = filter_patterns(model, "2", SHAPE, filters=2, **options)["2"]
    assert (some.filters, first.filters) == ((6, 1), (0, 1))
    torch.testing.assert_close(some.pictures, every.pictures[[6, 1]], rtol=0, atol=1e-12)
    torch.testing.assert_close(first.pictures, every.pictures[:2], rtol=0, atol=1e-12)


def test_lengths_of_one() -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-30, 4e-30], [3e30, 4e30], [math.nan, 1.0]])
    found = unit(values)
    torch.testing.assert_close(found[:4], torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [0.6, 0.8]]))
    assert found[4].isnan().all()


@pytest.mark.parametrize("options", [{}, {"total_variation": 1.0}, {"parametrisation": "fourier"}, {"jitter": 2}])
def test_a_filter_without_a_gradient_stays_where_it_began(options: dict[str, Any]) -> None:
    model = small()
    with torch.no_grad():
        model[2].bias.fill_(2.0)
        model[2].bias[3] = -1e3
    found = filter_patterns(model, "3", SHAPE, steps=3, **options)["3"]
    assert found.silent.tolist() == [number == 3 for number in range(7)]
    assert found.activations[3] == 0
    known = {name: value for name, value in options.items() if name == "parametrisation"}
    assert torch.equal(found.pictures[3], Ascent(**known).start([3], SHAPE, torch.float64)[0])
    assert found.pictures.isfinite().all()


def test_broken_weights_give_broken_patterns_and_no_silence() -> None:
    model = small()
    with torch.no_grad():
        model[2].weight[3, 0] = math.nan
    found = filter_patterns(model, "2", SHAPE, steps=3, filters=[3, 0])["2"]
    assert found.pictures[0].isnan().any()
    assert not found.silent.any()


def test_the_gradient_of_the_total_variation() -> None:
    pictures = torch.rand(2, 3, 5, 4, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(variation(pictures, (2, 3)).sum(), pictures)
    assert torch.equal(rise(pictures.detach(), (2, 3)), expected)
    plain = [[0.0, 1.0], [3.0, 1.0]]
    # 1 + 2 along the rows, 3 + 0 along the columns.
    assert variation(torch.tensor([[plain]]), (2, 3)).tolist() == [6.0]


def test_total_variation_makes_patterns_smoother() -> None:
    model = small()
    rough = filter_patterns(model, "2", SHAPE)["2"].pictures
    smooth = filter_patterns(model, "2", SHAPE, total_variation=0.7)["2"].pictures
    assert (variation(smooth, (2, 3)) < variation(rough, (2, 3))).all()


@pytest.mark.parametrize("sizes", [(8, 6), (7, 9), (6, 5), (4, 5, 6)])
def test_ascent_in_frequencies_is_the_weighted_gradient(sizes: tuple[int, ...]) -> None:
    axes = tuple(range(2, 2 + len(sizes)))
    parameters = torch.randn(2, 3, *sizes, dtype=torch.float64).requires_grad_()
    slope = torch.randn(2, 3, *sizes, dtype=torch.float64)
    (own,) = torch.autograd.grad((weighted_by_wavelength(parameters, axes, power=0.5) * slope).sum(), parameters)
    moved = weighted_by_wavelength(own, axes, power=0.5)
    torch.testing.assert_close(weighted_by_wavelength(slope, axes, power=1.0), moved, rtol=0, atol=1e-12)


def test_frequencies_are_weighted_by_their_wavelength() -> None:
    places = torch.arange(8, dtype=torch.float64)
    waves = {length: (2 * math.pi * places / length).cos().expand(1, 8, 8) for length in (2, 4, 8)}
    for length, wave in waves.items():
        torch.testing.assert_close(weighted_by_wavelength(wave, (1, 2), power=1.0), length * wave)
    level = torch.ones(1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(weighted_by_wavelength(level, (1, 2), power=1.0), 8 * level)


def test_fourier_patterns_are_coarser() -> None:
    model = small()
    found = {}
    for kind in ("pixels", "fourier"):
        pictures = filter_patterns(model, "2", SHAPE, parametrisation=kind, steps=10)["2"].pictures  # type: ignore[arg-type]
        found[kind] = variation(pictures / pictures.flatten(1).std(1).reshape(-1, 1, 1, 1), (2, 3)).mean()
    assert found["fourier"] < 0.8 * found["pixels"]


def test_jitter_is_seeded_and_moved_back() -> None:
    model = small()
    still, first, again, other = (
        filter_patterns(model, "2", SHAPE, steps=3, jitter=jitter, seed=seed)["2"].pictures
        for jitter, seed in ((0, 0), (3, 0), (3, 0), (3, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, still)
    assert not torch.equal(first, other)
    moves = Ascent(steps=200, jitter=3).moves(2)
    assert {move for pair in moves for move in pair} == set(range(-3, 4))
    # Plainly: the gradient goes back through the move by itself.
    picture = Ascent().start([2], SHAPE, torch.float64)
    for move in Ascent(steps=3, jitter=3).moves(2):
        picture.requires_grad_()
        loss = model[:3](picture.roll(move, (2, 3)))[:, 2, 2:-2, 2:-2].mean()
        (gradient,) = torch.autograd.grad(loss, picture)
        picture = (picture + Ascent().step_length(SHAPE) * gradient / gradient.norm()).detach()
    torch.testing.assert_close(first[2:3], picture, rtol=0, atol=1e-10)


class Heads(nn.Module):
    """Calls one layer twice, changes its input in place, counts what comes after, and catches what it can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.after = nn.ReLU(inplace=True)
        self.calls: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        x = self.conv(x)
        try:
            x = self.conv(torch.sin(x))
        except Exception:  # what a robust model might do
            x = x * 0
        self.calls.append("after")
        return self.after(x).mean((2, 3))


def test_the_last_call_counts_and_what_follows_is_not_run() -> None:
    model = Heads().double()
    counted: list[int] = []
    model.after.register_forward_hook(lambda *_: counted.append(1))
    found = filter_patterns(model, "conv", (2, 8, 8), steps=3, step_size=0.5)["conv"]
    assert len(counted) == 1

    def body(x: Tensor) -> Tensor:
        return model.conv(torch.sin(model.conv(x * 0.5)))

    for number in (0, 1):
        start = Ascent().start([number], (2, 8, 8), torch.float64)
        expected, _ = plainly(body, start, number, steps=3, size=0.5, border=2)  # type: ignore[arg-type]
        torch.testing.assert_close(found.pictures[number : number + 1], expected, rtol=0, atol=1e-12)


class Frozen(nn.Module):
    """Transfer learning as Lightning's documentation has it: the backbone runs without a graph."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut
        self.backbone = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features.detach() if self.cut else features).mean((2, 3))


@pytest.mark.parametrize("layer", ["backbone.2", "head"])
def test_a_backbone_under_the_models_own_no_grad(layer: str) -> None:
    model = Frozen().double()
    found = filter_patterns(model, layer, SHAPE, filters=[1], steps=3, step_size=0.5)[layer]
    body = model.backbone if layer == "backbone.2" else nn.Sequential(model.backbone, model.head)
    start = Ascent().start([1], SHAPE, torch.float64)
    expected, _ = plainly(body, start, 1, steps=3, size=0.5, border=2)
    torch.testing.assert_close(found.pictures, expected, rtol=0, atol=1e-12)


def test_a_layer_that_no_gradient_leads_back_from() -> None:
    with pytest.raises(CaptureError, match=r"no gradient flows from 'head' back to the input .*detach"):
        filter_patterns(Frozen(cut=True), "head", SHAPE)


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Sequential, *, reentrant: bool) -> None:
        super().__init__()
        self.body = body
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = checkpoint(self.body, x, use_reentrant=self.reentrant)
        return output


@pytest.mark.parametrize("layer", ["0", "2"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_layer_gives_the_same(layer: str, reentrant: bool) -> None:
    expected = filter_patterns(small(), layer, SHAPE, steps=3)[layer].pictures
    found = filter_patterns(Checkpointed(small(), reentrant=reentrant), f"body.{layer}", SHAPE, steps=3)
    torch.testing.assert_close(found[f"body.{layer}"].pictures, expected, rtol=0, atol=1e-12)


def test_samples_that_influence_each_other_are_kept_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 4, 3)).double()
    found = filter_patterns(model, "2", SHAPE, steps=3, step_size=0.5)["2"].pictures
    for number in range(4):
        start = Ascent().start([number], SHAPE, torch.float64)
        expected, _ = plainly(model, start, number, steps=3, size=0.5, border=2)
        torch.testing.assert_close(found[number : number + 1], expected, rtol=0, atol=1e-10)


class Last(nn.Module):
    """Channels last, then tokens with a class token before them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.norm = nn.LayerNorm(5)
        self.tokens = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).permute(0, 2, 3, 1))
        x = x.flatten(1, 2)
        x = self.tokens(torch.cat([x[:, :1] * 0, x], dim=1))
        return x[:, 0]


def test_layers_with_channels_last_and_tokens() -> None:
    torch.manual_seed(0)
    model = Last().double()
    found = filter_patterns(model, ["norm", "tokens"], (1, 9, 8), steps=3, step_size=0.5)
    assert str(found["norm"].layout) == "NHWC"
    assert str(found["tokens"].layout) == "NLC:1+9x8"

    def norm(x: Tensor) -> Tensor:
        return model.norm(model.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def tokens(x: Tensor) -> Tensor:
        return model.tokens(norm(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    for name, body in (("norm", norm), ("tokens", tokens)):
        start = Ascent().start([4], (1, 9, 8), torch.float64)
        expected, _ = plainly(body, start, 4, steps=3, size=0.5, border=2)  # type: ignore[arg-type]
        torch.testing.assert_close(found[name].pictures[4:], expected, rtol=0, atol=1e-10)


def test_places_of_pictures() -> None:
    shapes = {(3, 8, 8): (2, 3), (8, 8, 3): (1, 2), (8, 8): (1, 2), (3, 3, 3): (2, 3), (3, 4, 8, 8): (2, 3, 4)}
    assert {shape: spatial_axes(shape) for shape in shapes} == shapes


def test_inputs_with_channels_last_and_volumes() -> None:
    torch.manual_seed(0)
    flat = nn.Conv2d(3, 2, 3).double()

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = flat

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.conv(x.permute(0, 3, 1, 2))
            return output

    options: dict[str, Any] = {"steps": 2, "jitter": 2, "total_variation": 0.5, "parametrisation": "fourier"}
    found = filter_patterns(Moved(), "conv", (9, 8, 3), **options)["conv"]
    assert found.pictures.shape == (2, 9, 8, 3)
    assert found.pictures.isfinite().all()
    volume = filter_patterns(nn.Sequential(nn.Conv3d(1, 2, 3)), "0", (1, 6, 7, 8), **options)["0"]
    assert volume.pictures.shape == (2, 1, 6, 7, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_keeps_pictures_in_float32(dtype: torch.dtype) -> None:
    exact = filter_patterns(small(), "2", SHAPE, steps=3)["2"]
    found = filter_patterns(small(dtype), "2", SHAPE, steps=3)["2"]
    assert found.pictures.dtype == torch.float32
    cosine = nn.functional.cosine_similarity(found.pictures.flatten(1) - 0.5, exact.pictures.float().flatten(1) - 0.5)
    assert cosine.min() > (0.999 if dtype == torch.float32 else 0.9)


def test_normalised_inputs_by_a_forward() -> None:
    model = small()

    def forward(x: Tensor) -> Tensor:
        return model((x - 0.5) / 0.25)  # type: ignore[no-any-return]

    found = filter_patterns(model, "2", SHAPE, forward=forward, filters=[5], steps=3, step_size=0.5)["2"]
    start = Ascent().start([5], SHAPE, torch.float64)
    expected, _ = plainly(lambda x: model[:3]((x - 0.5) / 0.25), start, 5, steps=3, size=0.5, border=2)  # type: ignore[arg-type]
    torch.testing.assert_close(found.pictures, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_comes_back_as_it_was(surroundings: Any, frozen: bool) -> None:
    model = TinyNet().train()
    model.drop.eval()
    if frozen:
        model.requires_grad_(False)
    else:
        model(torch.rand(2, 1, 8, 8)).sum().backward()
    expected = filter_patterns(model, "relu2", (1, 8, 8), steps=3)["relu2"].pictures
    with surroundings():
        before = everything(model)
        found = filter_patterns(model, ["conv1", "relu2"], (1, 8, 8), steps=3, jitter=1)
        again = filter_patterns(model, "relu2", (1, 8, 8), steps=3)["relu2"].pictures
        assert_same(before, everything(model))
    assert torch.equal(again, expected)
    assert found["conv1"].pictures.requires_grad is False


def test_the_model_comes_back_as_it_was_after_a_failure() -> None:
    class Failing(TinyNet):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).runs += 1
            torch.rand(1)
            output = super().forward(x)
            assert output is not None
            return output

    model = Failing().train()
    fails = {"at": 3}

    def forward(x: Tensor) -> Tensor:
        if Failing.runs == fails["at"]:
            torch.set_grad_enabled(False)
            raise OSError("gone")
        output: Tensor = model(x)
        return output

    before = everything(model)
    with pytest.raises(OSError, match="gone"):
        filter_patterns(model, "conv2", (1, 8, 8), forward=forward)
    assert_same(before, everything(model))


def test_progress_is_told_and_halves_fit_where_wholes_do_not() -> None:
    model = small()
    expected = filter_patterns(model, ["0", "2"], SHAPE, steps=4)

    def forward(x: Tensor) -> Tensor:
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        output: Tensor = model(x)
        return output

    told: list[tuple[int, int]] = []
    found = filter_patterns(
        model, ["0", "2"], SHAPE, steps=4, forward=forward, progress=lambda *numbers: told.append(numbers)
    )
    assert told[-1] == (48, 48)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    for name in expected:
        torch.testing.assert_close(found[name].pictures, expected[name].pictures, rtol=0, atol=1e-12)


def test_a_shortage_of_memory_at_one_layer_is_over_at_the_next() -> None:
    model, sizes, short = small(), list[int](), [True]

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 3 and short.pop():
            raise RuntimeError("CUDA error: out of memory")
        short.append(False)
        output: Tensor = model(x)
        return output

    filter_patterns(model, ["0", "2"], SHAPE, steps=1, forward=forward)
    assert max(sizes) == sizes[-1] == 7


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": "1.conv"}, LayerError, "layer '1.conv' not found"),
        ({"layers": "5"}, LayerError, r"'5' has no spatial activation: its output is \[2, 3\]"),
        ({"filters": [7]}, LayerError, r"filters: got \[7\], but '2' has 7 filters, 0 to 6"),
        ({"filters": [-1]}, LayerError, r"filters: got \[-1\]"),
        ({"filters": [1, 1]}, LayerError, r"filters: got \[1, 1\]"),
        ({"filters": []}, LayerError, r"filters: got \[\]"),
        ({"filters": 0}, LayerError, "filters: got 0"),
        ({"filters": True}, LayerError, "filters: got True"),
        ({"filters": "all"}, LayerError, "filters: got 'all'"),
        ({"filters": 1.5}, LayerError, "filters: got 1.5"),
        ({"shape": (2, 12, 11, 3, 3)}, ConfigurationError, r"shape: got \(2, 12, 11, 3, 3\); pass the shape of one"),
        ({"shape": "2x12"}, ConfigurationError, "shape: got '2x12'"),
        ({"shape": (1, 12, 11)}, ConfigurationError, r"shape: the model failed on images \[2, 1, 12, 11\] \(Runtime"),
        ({"steps": 0}, ConfigurationError, "steps: got 0; pass an integer >= 1"),
        ({"border": -1}, ConfigurationError, "border: got -1; pass an integer >= 0"),
        ({"seed": 1.0}, ConfigurationError, "seed: got 1.0"),
        ({"jitter": None}, ConfigurationError, "jitter: got None"),
        ({"step_size": 0}, ConfigurationError, "step_size: got 0; pass a value greater than 0"),
        ({"step_size": math.inf}, ConfigurationError, "step_size: got inf"),
        ({"total_variation": -0.1}, ConfigurationError, "total_variation: got -0.1"),
        ({"parametrisation": "furier"}, ConfigurationError, "did you mean 'fourier'"),
        ({"value_range": (1, 0)}, ConfigurationError, r"value_range: got \(1, 0\)"),
        ({"batch_size": 0}, ConfigurationError, "batch_size: got 0"),
        ({"layout": {"9": "NHWC"}}, LayerError, "layout: layer '9' not found"),
        ({"model": len}, ConfigurationError, "model: got <built-in function len>"),
    ],
)
def test_errors_say_what_can_be_given(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"model": small(), "layers": "2", "shape": SHAPE, "steps": 1, **options}
    with pytest.raises(error, match=message):
        filter_patterns(**given)
