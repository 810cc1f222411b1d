"""Tests of finding the modules that are meant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import LayerError, compute_cams
from lightning_gradcam.capture.layers import check_layers, public_name, resolve_layers, unwrapped
from tests.conftest import TinyModule, TinyNet


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Nested(nn.Module):
    """`stem`, `body.layer1`, `body.layer2` with blocks inside, `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.body = nn.ModuleDict({name: nn.Sequential(Block(), Block()) for name in ("layer1", "layer2")})
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.body.values():
            x = stage(x if x.shape[1] == 2 else self.stem(x))
        return self.head(self.pool(x).flatten(1))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("stem", ["stem"]),
        ("body.layer2.0.conv", ["body.layer2.0.conv"]),
        (["head", "stem"], ["head", "stem"]),
        (("stem", "body.layer1", "stem"), ["stem", "body.layer1"]),
        ("body.layer*", ["body.layer1", "body.layer2"]),
        ("body.*.1", ["body.layer1.1", "body.layer2.1"]),
        ("body.layer?.0.act", ["body.layer1.0.act", "body.layer2.0.act"]),
        ("body.layer[2-9]", ["body.layer2"]),
        ("*", ["stem", "body", "pool", "head"]),
        (["body.layer2", "body.layer*"], ["body.layer2", "body.layer1"]),
        ("*.1.conv", ["body.layer1.1.conv", "body.layer2.1.conv"]),
        ("*conv", [f"body.layer{i}.{j}.conv" for i in (1, 2) for j in (0, 1)]),
    ],
    ids=str,
)
def test_names_and_patterns_find_layers_in_order(layers: Any, names: list[str]) -> None:
    model = Nested()
    found = resolve_layers(model, layers)
    assert list(found) == names
    assert all(found[name] is model.get_submodule(name) for name in names)


def test_pattern_crosses_dots_only_where_nothing_matches_between_them() -> None:
    model = nn.Sequential()
    model.conv = nn.Conv2d(1, 1, 1)
    model.deep = nn.Sequential()
    model.deep.conv = nn.Conv2d(1, 1, 1)
    assert list(resolve_layers(model, "*conv")) == ["conv"]
    del model.conv
    assert list(resolve_layers(model, "*conv")) == ["deep.conv"]


def test_modules_find_themselves() -> None:
    model = Nested()
    block = model.body["layer1"]
    found = resolve_layers(model, [model.stem, "body.layer1", block])
    assert list(found) == ["stem", "body.layer1"]
    assert found["body.layer1"] is block


def test_shared_module_is_found_under_each_of_its_names_and_once_as_module() -> None:
    model = nn.Module()
    model.first = nn.Conv2d(1, 1, 1)
    model.second = model.first
    assert list(resolve_layers(model, ["second"])) == ["second"]
    assert list(resolve_layers(model, model.first)) == ["first"]


def test_unknown_name_is_refused_with_the_nearest_and_the_names() -> None:
    with pytest.raises(LayerError) as caught:
        resolve_layers(Nested(), "body.layr2")
    text = str(caught.value)
    assert text.startswith("layers: layer 'body.layr2' not found; did you mean 'body.layer2'? available: stem, body,")
    assert "body.layer1.0.conv" in text


def test_unknown_name_without_a_near_one_lists_the_names() -> None:
    with pytest.raises(LayerError, match="layers: layer 'zzzzzz' not found; available: stem, body"):
        resolve_layers(Nested(), ["stem", "zzzzzz"])


def test_of_many_names_the_nearest_five_are_listed_and_the_command_that_lists_all() -> None:
    model = nn.Sequential(*[nn.ReLU() for _ in range(55)])
    with pytest.raises(LayerError) as caught:
        resolve_layers(model, "555")
    assert str(caught.value) == (
        "layers: layer '555' not found; did you mean '5'? the nearest of 55: 5, 15, 25, 35, 45"
        " (`lightning-gradcam layers` lists all)"
    )


@pytest.mark.parametrize("pattern", ["layer*", "encoder.*", "body.layer[3-9]"])
def test_pattern_without_a_match_is_refused(pattern: str) -> None:
    with pytest.raises(LayerError) as caught:
        resolve_layers(Nested(), pattern)
    assert f"layers: no layer matches the pattern '{pattern}'" in str(caught.value)
    assert "available: stem, body" in str(caught.value)


def test_foreign_module_is_refused_with_both_types() -> None:
    with pytest.raises(LayerError, match="the given Conv2d is not a submodule of Nested; pass a module that belongs"):
        resolve_layers(Nested(), nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    ("layers", "came"), [([], "an empty list"), ("", "''"), ([""], "''"), ([None], "None"), (["stem", 3], "3")], ids=str
)
def test_impossible_layers_are_refused_with_what_came(layers: Any, came: str) -> None:
    with pytest.raises(LayerError, match=f"layers: got {came}; pass a dotted module name, a shell pattern"):
        check_layers(layers)
    with pytest.raises(LayerError, match=f"layers: got {came}"):
        resolve_layers(Nested(), layers)


def test_layers_of_none_are_refused() -> None:
    with pytest.raises(LayerError, match="layers: got None"):
        check_layers(None)  # type: ignore[arg-type]


# ---- names of wrappers


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("_orig_mod.net.conv", "net.conv"),
        ("net._orig_mod.conv", "net.conv"),
        ("net._orig_mod", "net"),
        ("_orig_mod", ""),
        ("net._fsdp_wrapped_module.conv._checkpoint_wrapped_module", "net.conv"),
        ("_orig_mod._fsdp_wrapped_module.conv", "conv"),
        ("net.my_orig_mod.conv", "net.my_orig_mod.conv"),
        ("net._orig_model.conv", "net._orig_model.conv"),
        ("layer4", "layer4"),
    ],
)
def test_names_of_wrappers_are_left_out(name: str, shown: str) -> None:
    assert public_name(name) == shown


@pytest.mark.parametrize("asked", ["net.conv1", "net._orig_mod.conv1", "_orig_mod.net.conv1"])
def test_compiled_model_is_addressed_by_its_plain_names(asked: str) -> None:
    module = TinyModule()
    original = module.net
    module.net = torch.compile(module.net)  # type: ignore[assignment]
    found = resolve_layers(module, asked)
    assert list(found) == ["net.conv1"]
    assert found["net.conv1"] is original.conv1


def test_pattern_sees_plain_names_of_a_compiled_model() -> None:
    assert list(resolve_layers(torch.compile(TinyNet()), "conv*")) == ["conv1", "conv2"]  # type: ignore[arg-type]


def test_auto_within_a_list_stands_for_the_layer_it_names() -> None:
    found = resolve_layers(TinyNet(), ["conv1", "auto", "relu2"], auto=lambda: "relu2")
    assert list(found) == ["conv1", "relu2"]


def test_auto_without_a_forward_is_refused() -> None:
    with pytest.raises(
        LayerError, match="layers: 'auto' needs a forward pass to choose a layer; specify the layer instead"
    ):
        resolve_layers(TinyNet(), "auto")


class Wrapping(nn.Module):
    """A convolution before a part that takes no hooks."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 1, 1), inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.stem(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["script", "trace"])
def test_what_takes_no_hooks_is_refused_with_what_to_give_instead(kind: str) -> None:
    model, x = TinyNet().eval(), torch.rand(2, 1, 8, 8)
    closed = torch.jit.script(model) if kind == "script" else torch.jit.trace(model, x)
    for layer in ("conv2", "auto"):
        with pytest.raises(LayerError, match=r"is compiled by torch.jit .*pass the model as it was before torch.jit"):
            compute_cams(closed, x, layer)
    around = Wrapping(closed)
    assert [key.layer for key in compute_cams(around, x)] == ["stem"]
    with pytest.raises(LayerError, match="'inner.conv2' is compiled by torch.jit"):
        compute_cams(around, x, "inner.conv2")


def test_an_exported_program_is_refused_and_works_unflattened() -> None:
    model, x = TinyNet().eval(), torch.rand(2, 1, 8, 8)
    program = torch.export.export(model, (x,))
    for layer in ("conv2", "auto"):
        with pytest.raises(LayerError, match=r"has no forward of its own; .*torch.export.unflatten\(program\)"):
            compute_cams(program.module(), x, layer)
    expected = compute_cams(model, x, "conv2")["conv2"]
    torch.testing.assert_close(compute_cams(torch.export.unflatten(program), x, "conv2")["conv2"], expected)


def test_wrappers_are_taken_off() -> None:
    conv = nn.Conv2d(1, 1, 1)
    assert unwrapped(torch.compile(conv, backend="eager")) is conv
    assert unwrapped(conv) is conv


def test_a_module_whose_own_name_ends_as_a_calls_is_named_by_its_call() -> None:
    model = nn.ModuleDict({"a#1": nn.Conv2d(1, 1, 1)})
    with pytest.raises(
        LayerError,
        match="own name 'a#1' looks like the name of a call; specify one of the module's calls, such as 'a#1#0'",
    ):
        resolve_layers(model, "a#1")
    assert list(resolve_layers(model, "a#1#0")) == ["a#1#0"]
    auto = resolve_layers(model, "auto", auto=lambda: "a#1", calls=lambda _: 1)
    assert list(auto) == ["a#1#0"]
