"""Every formula against one written out plainly with loops in float64, and against pytorch-grad-cam's own numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams
from lightning_gradcam.methods import available_methods, resolve_methods
from tests.conftest import TinyNet
from tests.reference import apply

Array = np.ndarray[Any, np.dtype[np.float64]]


def places(values: Array) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, values.shape[1:])))


def by_channel_weights(a: Array, weights: list[float]) -> Array:
    result = np.zeros(a.shape[1:])
    for s in places(a):
        result[s] = sum(weights[k] * a[(k, *s)] for k in range(len(a)))
    return result


def plain_gradcam(a: Array, g: Array) -> Array:
    return by_channel_weights(a, [sum(g[(k, *s)] for s in places(a)) / len(places(a)) for k in range(len(a))])


def plain_gradcam_plus_plus(a: Array, g: Array) -> Array:
    weights = []
    for k in range(len(a)):
        total, weight = sum(a[(k, *s)] for s in places(a)), 0.0
        for s in places(a):
            slope = g[(k, *s)]
            denominator = 2 * slope**2 + total * slope**3
            if slope > 0 and denominator != 0:
                weight += slope**2 / denominator * slope
        weights.append(weight)
    return by_channel_weights(a, weights)


def plain_xgradcam(a: Array, g: Array) -> Array:
    weights = []
    for k in range(len(a)):
        total = sum(a[(k, *s)] for s in places(a))
        weights.append(sum(g[(k, *s)] * a[(k, *s)] for s in places(a)) / total if total else 0.0)
    return by_channel_weights(a, weights)


def by_place(term: Callable[[float, float], float]) -> Callable[[Array, Array], Array]:
    def plain(a: Array, g: Array) -> Array:
        result = np.zeros(a.shape[1:])
        for s in places(a):
            result[s] = sum(term(a[(k, *s)], g[(k, *s)]) for k in range(len(a)))
        return result

    return plain


def plain_component(values: Array) -> Array:
    """The first principal component from the covariance's eigenvectors, and not from a decomposition of the data."""
    samples = np.array([[values[(k, *s)] for k in range(len(values))] for s in places(values)])
    centred = samples - samples.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    projection = (centred @ direction).reshape(values.shape[1:])
    return -projection if abs(projection.min()) > abs(projection.max()) else projection


PLAIN: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam": plain_gradcam,
    "gradcam++": plain_gradcam_plus_plus,
    "xgradcam": plain_xgradcam,
    "hirescam": by_place(lambda a, g: a * g),
    "layercam": by_place(lambda a, g: a * max(g, 0)),
    "gradcam_elementwise": by_place(lambda a, g: max(a * g, 0)),
    "eigencam": lambda a, g: plain_component(a),
    "eigengradcam": lambda a, g: plain_component(a * g),
}


def layer(shape: tuple[int, ...], *, relu: bool) -> tuple[Tensor, Tensor]:
    """Activations and gradients of two samples; a silent channel and vanished gradients are among them."""
    generator = torch.Generator().manual_seed(3)
    activations, gradients = (torch.randn(2, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    activations = activations.relu() if relu else activations
    activations[:, 1] = 0
    gradients[0, 0] = 0
    gradients[..., 0] = 0
    return activations, gradients


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(5, 4, 6), (3, 1, 7), (4, 2, 3, 5)], ids=["2-D", "one row", "3-D"])
@pytest.mark.parametrize("name", PLAIN)
def test_method_equals_the_formula_written_out(name: str, shape: tuple[int, ...], relu: bool) -> None:
    activations, gradients = layer(shape, relu=relu)
    found = apply(name, activations, gradients)
    expected = np.stack([PLAIN[name](a.numpy(), g.numpy()) for a, g in zip(activations, gradients, strict=True)])
    assert found.dtype == torch.float64
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-8)


def test_every_method_of_the_registry_is_tested_here_and_takes_every_shape() -> None:
    # A docstring's example registers "mean_activation", and examples/shortcut.py "sizes".
    pure = {name for name, m in resolve_methods(available_methods()).items() if m.needs in ("gradients", "activations")}
    own = sorted(pure - {"mean_activation", "sizes"})
    assert set(own) == {*PLAIN, "random"}
    for name, shape in itertools.product(own, [(3, 4, 4), (2, 1, 3), (2, 2, 3, 4)]):
        activations, gradients = layer(shape, relu=True)
        single = apply(name, activations.float(), gradients.float())
        assert single.shape == (2, *shape[1:])
        assert single.dtype == torch.float32
        assert single.isfinite().all()


@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "gradcam_elementwise"])
def test_silence_gives_zero_and_not_nan(name: str) -> None:
    nothing = torch.zeros(1, 2, 3, 3)
    assert (apply(name, nothing, nothing) == 0).all()


@pytest.mark.parametrize("name", ["eigencam", "eigengradcam"])
def test_a_constant_layer_has_no_component(name: str) -> None:
    assert (apply(name, torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)) == 0).all()


def test_random_is_the_same_in_every_call_and_draws_no_global_number() -> None:
    activations = torch.rand(2, 5, 3, 3)
    before = torch.get_rng_state()
    first, second = apply("random", activations, activations), apply("random", activations, activations * 2)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    one = torch.zeros(1, 5, 1, 1)
    one[0, 2] = 1
    assert -1 < float(apply("random", one, one)) < 1


def test_all_methods_layers_and_targets_share_one_forward() -> None:
    calls = []
    model = TinyNet().eval()
    model.conv1.register_forward_hook(lambda *a: calls.append("forward"))
    cams = compute_cams(
        model,
        torch.rand(2, 1, 8, 8),
        ["conv1", "relu1", "conv2", "relu2"],
        targets=["predicted", 0, 1],
        methods=list(PLAIN),
    )
    assert calls == ["forward"]
    assert len(cams) == 4 * 3 * len(PLAIN)


def test_gradcam_plus_plus_of_tiny_gradients_does_not_underflow() -> None:
    torch.manual_seed(0)
    activations, gradients = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4) * 1e-25
    found = apply("gradcam++", activations, gradients)
    expected = apply("gradcam++", activations.double(), gradients.double())
    assert expected.abs().max() > 1e-26
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_smooth_gradcam_plus_plus_of_tiny_gradients_does_not_underflow() -> None:
    def scaled(factor: float) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 2))
        inputs, options = torch.rand(2, 1, 5, 5), {"methods": "smoothgradcam++", "relu": False}
        return compute_cams(model, inputs, "1", targets=lambda o: o[:, 0] * factor, **options)["1"]

    # Where gradients are small against the activations, both are Grad-CAM++'s limit, in proportion to them.
    torch.testing.assert_close(scaled(1e-25) * 1e20, scaled(1e-5), rtol=1e-3, atol=0)
    assert (scaled(1e-25) != 0).all()
