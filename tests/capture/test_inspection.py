"""Which layer is explained where none is named, and how activations are laid out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_gradcam import LayerError, compute_cams
from lightning_gradcam.capture.awaken import awakened
from lightning_gradcam.capture.inspection import Survey, mixed
from tests.capture.test_layers import Nested
from tests.conftest import TinyNet
from tests.methods.models import ChannelsLast, Tokens


def auto(model: nn.Module, *shape: int) -> list[str]:
    model.eval()
    return [Survey(model, model, torch.rand(2, *shape), {}).auto(mixed)]


def test_auto_takes_the_last_spatial_output_of_a_cnn() -> None:
    assert auto(TinyNet(), 1, 8, 8) == ["relu2"]


def test_auto_names_the_container_of_the_last_feature_map() -> None:
    assert auto(Nested(), 1, 8, 8) == ["body.layer2"]


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("mobilenet_v3_small", "features")])
def test_auto_on_a_torchvision_model_is_its_last_feature_map(name: str, layer: str) -> None:
    model = torchvision.models.get_model(name)
    assert auto(model, 3, 64, 64) == [layer]


@pytest.mark.parametrize(
    "last",
    [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.ZeroPad2d(1), nn.Upsample(scale_factor=2),
     nn.AdaptiveAvgPool2d(1)],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_auto_passes_over_what_only_hands_on(last: nn.Module) -> None:
    features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), last)
    assert auto(nn.Sequential(features, nn.Flatten(), nn.LazyLinear(2)), 1, 9, 9) == ["0.1"]


@pytest.mark.parametrize("last", [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.Identity()], ids=lambda m: type(m).__name__)
def test_auto_names_the_container_where_its_last_part_does_nothing(last: nn.Module) -> None:
    features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), last)
    assert auto(nn.Sequential(features, nn.Flatten(), nn.LazyLinear(2)), 1, 9, 9) == ["0"]


class Vit(Tokens):
    """A class token, `extra` registers after it, and an output that is read off the class token or off all tokens."""

    def __init__(self, extra: int = 0, *, pooled: bool = False) -> None:
        super().__init__()
        self.extra, self.pooled, self.out = nn.Parameter(torch.randn(1, extra, 6)), pooled, nn.LayerNorm(6)
        nn.init.zeros_(self.head.weight)

    def body(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        before = torch.cat([self.token, self.extra], 1).expand(len(x), -1, -1)
        return self.norm(torch.cat([before, x], 1))

    def top(self, a: Tensor) -> Tensor:
        assert isinstance(self.attention, nn.MultiheadAttention)
        y = self.out(a + self.attention(a, a, a, need_weights=False)[0])
        return self.head(y.mean(1) if self.pooled else y[:, 0])


@pytest.mark.parametrize("extra", [0, 1, 4])
def test_auto_on_tokens_with_a_class_token_is_the_last_that_counts_though_the_head_is_zero(extra: int) -> None:
    assert auto(Vit(extra), 1, 6, 8) == ["norm"]


def test_auto_on_tokens_that_are_pooled_is_the_last_norm() -> None:
    assert auto(Vit(pooled=True), 1, 6, 8) == ["out"]


@pytest.mark.parametrize(("extra", "layout"), [(0, "NLC:1+3x4"), (4, "NLC:5+3x4")])
def test_registers_and_class_tokens_are_left_out(extra: int, layout: str) -> None:
    model, x = Vit(extra), torch.rand(2, 1, 6, 8)
    assert str(compute_cams(model, x, methods="eigencam").layouts["norm"]) == layout


class Patches(nn.Module):
    """Tokens of patches of any shape, with or without a class token before them."""

    def __init__(self, patch: tuple[int, int], before: int) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(1, 6, patch, patch), nn.LayerNorm(6), nn.Linear(6, 3)
        self.token = nn.Parameter(torch.randn(1, before, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((self.norm(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)) ** 2).mean(1))


@pytest.mark.parametrize("layer", ["auto", "norm"])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    ("patch", "size", "grid"),
    [
        ((16, 4), (32, 32), (2, 8)),
        ((8, 32), (32, 64), (4, 2)),
        ((32, 2), (32, 32), (1, 16)),
        ((8, 8), (32, 32), (4, 4)),
    ],
)
def test_patches_that_are_no_squares(patch: Any, size: Any, grid: Any, before: int, layer: str) -> None:
    """The norm's Grad-CAM equals that of the grid itself, where every place is its own."""
    torch.manual_seed(0)
    model, x = Patches(patch, before).double(), torch.randn(2, 1, *size, dtype=torch.float64)
    cams = compute_cams(model, x, layer, methods="hirescam", targets=1, relu=False)
    ((key, maps),) = cams.items()
    assert (key.layer, cams.layouts[key.layer].grid, cams.layouts[key.layer].prefix) == ("norm", grid, before)
    tokens = model.norm(model.embed(x).permute(0, 2, 3, 1)).detach()
    weights = model.head.weight[1].detach() * 2 / (grid[0] * grid[1] + before)
    torch.testing.assert_close(maps, (tokens**2 * weights).sum(3))


def test_a_list_of_tokens_that_a_2d_layer_takes_is_no_grid() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.norm = nn.Linear(16, 6), nn.Conv2d(6, 6, 1), nn.LayerNorm(6)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(nn.functional.unfold(x, 4, stride=4).transpose(1, 2))
            tokens = self.mix(tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
            return self.head(self.norm(tokens).mean(1))

    assert str(compute_cams(Listed(), torch.rand(2, 1, 16, 16), "norm").layouts["norm"]) == "NLC:4x4"


def test_what_a_1d_convolution_gives_is_a_signal_and_as_one_row_where_that_is_asked_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    x = torch.rand(2, 2, 32)
    activations = model[:4](x).detach()
    expected = (activations * model[6].weight.detach()[1][:, None] / 16).sum(1)
    for layer in ("3", "auto"):
        cams = compute_cams(model, x, layer, targets=1, methods="hirescam", relu=False)
        torch.testing.assert_close(cams["3"], expected)
    cams = compute_cams(model, x, "3", layout={"3": "NCL:1x16"}, targets=1, methods="hirescam", relu=False)
    torch.testing.assert_close(cams["3"], expected[:, None])


def test_1d_convolutions_over_a_grids_tokens_find_the_grid() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.act = nn.Conv2d(1, 6, (4, 2), (4, 2)), nn.Conv1d(6, 5, 1), nn.ReLU()
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.mix(self.embed(x).flatten(2))).mean(2))

    cams = compute_cams(Mixing(), torch.rand(2, 1, 16, 16), ["mix", "act"])
    assert {str(layout) for layout in cams.layouts.values()} == {"NCL:4x8"}


def test_1d_convolutions_over_the_places_of_tokens_leave_them_tokens() -> None:
    """As in MLP-Mixers that mix places by a convolution with the places as its channels."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Conv2d(1, 6, 4, 4), nn.LayerNorm(6)
            self.mix, self.act, self.head = nn.Conv1d(16, 16, 1), nn.GELU(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.norm(self.embed(x).flatten(2).transpose(1, 2))
            return self.head((tokens + self.act(self.mix(tokens))).mean(1))

    assert str(compute_cams(Mixer(), torch.rand(2, 1, 16, 16), "act").layouts["act"]) == "NLC:4x4"


@pytest.mark.parametrize(
    "compiled",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 can't leave compilation out"
            ),
        ),
    ],
)
def test_a_compiled_convolution_tells_where_channels_stand(compiled: bool) -> None:
    model: Any = nn.Sequential(nn.Conv2d(1, 8, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2))
    if compiled:
        model[0] = torch.compile(model[0], backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(compute_cams(model, torch.rand(2, 1, 16, 16), "1").layouts["1"]) == "NCHW"


def test_a_residual_sum_in_place_is_more_than_the_dropout_before_it() -> None:
    """As in torchvision's ConvNeXt: in evaluation mode the dropout hands on the tensor that is then added to."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop = nn.Conv2d(2, 2, 3, padding=1), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.drop(self.conv(x))
            y += x
            return y

    assert auto(nn.Sequential(nn.Conv2d(1, 2, 1), Block(), nn.Flatten(), nn.LazyLinear(2)), 1, 6, 6) == ["1"]


def test_channels_last_blocks_and_their_permutation() -> None:
    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 3, 1, 2)

    Turn.__name__ = "Permute"
    model = nn.Sequential(ChannelsLast(), Turn(), nn.Flatten(), nn.LazyLinear(2))
    model[0].forward = lambda x: model[0].body(x)  # type: ignore[method-assign]
    assert auto(model, 1, 6, 8)[0] in ("0", "0.norm")


def test_neighbours_tell_where_channels_stand_when_they_are_as_many_as_rows() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.first, self.norm, self.last = nn.Conv2d(1, 8, 1), nn.ReLU(), nn.LayerNorm(8), nn.GELU()
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(self.norm(self.first(self.conv(x)).permute(0, 2, 3, 1))).mean((1, 2)))

    torch.manual_seed(0)
    cams = compute_cams(Both(), torch.rand(2, 1, 8, 8), ["first", "last"])
    assert {name: str(layout) for name, layout in cams.layouts.items()} == {"first": "NCHW", "last": "NHWC"}


@pytest.mark.parametrize("fails", [False, True])
def test_other_weights_for_a_moment_leave_no_trace(fails: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    tensors = [*model.parameters(), *model.buffers()]
    before = [(t.data_ptr(), t._version, t.detach().clone()) for t in tensors]
    with pytest.raises(KeyError) if fails else nullcontext(), awakened(model):
        assert not torch.equal(model[0].weight, before[0][2])
        if fails:
            raise KeyError
    for tensor, (place, version, content) in zip(tensors, before, strict=True):
        assert (tensor.data_ptr(), tensor._version) == (place, version)
        assert torch.equal(tensor, content)


@pytest.mark.parametrize("layer", ["auto", "conv2"])
def test_a_head_at_zero_under_autocast_is_no_reason_to_refuse_a_layer(layer: str) -> None:
    model, x = TinyNet(), torch.rand(2, 1, 8, 8)
    nn.init.zeros_(model.head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        (key,) = compute_cams(model, x, layer)
    assert key.layer == ("relu2" if layer == "auto" else layer)


def test_auto_goes_by_the_order_of_the_forward() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = nn.Conv2d(1, 1, 1)
            self.early = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.late(self.early(x)).flatten(1)

    assert auto(Backwards(), 1, 4, 4) == ["late"]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)), (1, 4, 4)),
        (nn.Sequential(nn.Conv2d(1, 2, 4), nn.ReLU(), nn.Flatten()), (1, 4, 4)),
        (nn.Sequential(nn.Conv1d(1, 2, 9), nn.Flatten()), (1, 9)),
    ],
    ids=["linear", "one place", "1-D"],
)
def test_auto_without_a_feature_map_is_refused(model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(LayerError, match=r"'auto' found no layer whose output is a feature map .*specify the layer"):
        auto(model, *shape)


def raises(_: Tensor) -> None:
    raise RuntimeError("no")


@pytest.mark.parametrize("forward", [lambda _: None, raises], ids=["done", "failed"])
def test_auto_leaves_no_hook(forward: Callable[[Tensor], Any]) -> None:
    model = TinyNet()
    with pytest.raises((LayerError, RuntimeError)):
        Survey(model, forward, torch.rand(2, 1, 8, 8), {}).auto(mixed)
    assert not any(module._forward_hooks for module in model.modules())
