"""Models with several inputs, and outputs that are not plain logits."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import ConfigurationError, compute_cams
from lightning_gradcam.capture.inputs import Inputs, check_output_key, detached, pick_output


class TwoInputs(nn.Module):
    """A picture, and a weight for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 3, 3)
        self.head = nn.Linear(3, 4)

    def forward(self, weight: Tensor, image: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.head(self.body(image).relu().mean((2, 3)) * weight[:, None]) * scale


@pytest.fixture
def model() -> TwoInputs:
    torch.manual_seed(0)
    return TwoInputs().double()


WEIGHT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("methods", ["gradcam", "ablationcam", "scorecam", "smoothgradcam++", "finercam", "fullgrad"])
def test_several_inputs_as_tuple_and_dict_are_those_of_one(model: TwoInputs, methods: str) -> None:
    image = torch.rand(3, 1, 6, 7, dtype=torch.float64)
    options: dict[str, Any] = {"methods": methods, "targets": ["predicted", 1], "relu": False}

    def closed(x: Tensor) -> Tensor:
        return model(WEIGHT.repeat(-(-len(x) // 3))[: len(x)], x)

    single = compute_cams(model, image, "body", forward=closed, **options)
    named = {"image": image, "weight": WEIGHT}
    for inputs in ((WEIGHT, image), named, {**named, "scale": 1.0}):
        cams = compute_cams(model, inputs, "body", **options)
        for key, maps in single.items():
            torch.testing.assert_close(cams[key], maps)


def test_the_picture_is_the_first_tensor_of_four_axes_or_the_one_that_is_named() -> None:
    a, b, c = torch.rand(2, 5), torch.rand(2, 1, 4, 4), torch.rand(2, 3, 4, 4)
    assert Inputs((a, b, c)).picture is b
    assert Inputs({"a": a, "c": c}).picture is c
    assert Inputs((a, b, c), picture=c).picture is c
    assert Inputs(a).picture is a
    whole = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert Inputs((torch.tensor([1, 2]), whole)).picture is whole
    with pytest.raises(ConfigurationError, match=r"inputs: got a dict; pass a tensor \[N, …\]"):
        Inputs({"a": 1})


def test_what_goes_into_a_forward_is_a_copy_that_repeats_with_the_samples() -> None:
    image, weight, fixed = torch.rand(2, 1, 4, 4), torch.tensor([1.0, 2.0]), torch.rand(7)
    inputs = Inputs((image, weight, fixed, "text"))
    again = inputs.fresh()
    assert torch.equal(again[0], image)
    assert again[0] is not image
    other = torch.rand(6, 1, 4, 4)
    repeated = inputs.fresh(other, copies=3)
    assert repeated[0] is other
    assert repeated[1].tolist() == [1, 2, 1, 2, 1, 2]
    assert torch.equal(repeated[2], fixed)
    assert repeated[3] == "text"
    few = inputs.part(0, 1)
    assert (few.samples, few.fresh()[1].tolist()) == (1, [1.0])


def test_a_model_that_changes_its_input_in_place_leaves_the_users_alone() -> None:
    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x.sub_(0.5)).mean((2, 3)))

    inputs = torch.rand(2, 1, 5, 5)
    before = inputs.clone()
    compute_cams(Scaling(), inputs, "auto", methods=["gradcam", "scorecam"])
    assert torch.equal(inputs, before)


# ---- outputs

Pair = namedtuple("Pair", ["loss", "logits"])


@dataclass
class Output:
    loss: Any
    logits: Tensor


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda z: {"logits": z, "loss": None}, "logits"),
        (lambda z: (None, z), 1),
        (lambda z: (None, z), -1),
        (lambda z: Pair(None, z), "logits"),
        (lambda z: Output(None, z), "logits"),
        (lambda z: {"deep": [z]}, lambda output: output["deep"][0]),
    ],
    ids=["dict", "tuple", "from the end", "namedtuple", "dataclass", "callable"],
)
def test_output_key_names_the_logits(wrap: Any, key: Any) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain

        def forward(self, x: Tensor) -> Any:
            return wrap(self.net(x))

    inputs = torch.rand(2, 1, 5, 5)
    expected = compute_cams(plain, inputs, "1", methods=["gradcam", "ablationcam"])
    cams = compute_cams(Wrapped(), inputs, "net.1", methods=["gradcam", "ablationcam"], output_key=key)
    for (_, method, target), maps in expected.items():
        assert torch.equal(cams["net.1", method, target], maps)
    assert torch.equal(compute_cams(Wrapped(), inputs, output_key=key)["net.1"], expected["1", "gradcam", "predicted"])


@pytest.mark.parametrize(
    ("output", "key", "text"),
    [
        ({"logits": 1}, "logit", r"output_key: got 'logit', but the model returned a dict with 'logits'; pass one"),
        ((1, 2), 2, "output_key: got 2, but the model returned a tuple with 0 to 1"),
        (Output(None, torch.zeros(1)), "x", "a Output with 'loss', 'logits'"),
        (torch.zeros(2, 3), "logits", r"the model returned a plain tensor \[2, 3\]; leave it out"),
        (torch.zeros(2, 3), 0, r"output_key: got 0, but the model returned a plain tensor \[2, 3\]; leave"),
    ],
)
def test_an_output_key_that_is_not_there_is_refused_with_what_is(output: Any, key: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        pick_output(output, key)


@pytest.mark.parametrize("key", [1.5, ["a"], True])
def test_an_impossible_output_key_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="output_key: got .*; pass an index into a tuple, a key of a dict"):
        check_output_key(key)


@dataclass(frozen=True)
class Frozen:
    inner: Output
    kept: str = "text"


def test_an_output_is_detached_in_dataclasses_too() -> None:
    logits = torch.rand(2, 3, requires_grad=True) * 2
    given = {"whole": [Frozen(Output((logits, None), logits))]}
    found = detached(given)["whole"][0]
    assert (found.kept, found.inner.loss[1]) == ("text", None)
    assert torch.equal(found.inner.logits, logits)
    assert not found.inner.logits.requires_grad
    assert not found.inner.loss[0].requires_grad
    # The model's own is left as it is.
    assert given["whole"][0].inner.logits is logits


def test_a_picture_that_is_none_of_the_inputs_is_refused() -> None:
    x = torch.rand(2, 1, 4, 4)
    for other in (torch.rand(2, 1, 4, 4), x.clone(), x[:]):
        with pytest.raises(
            ConfigurationError, match=r"picture: got \[2, 1, 4, 4\], which is not one of the inputs; pass"
        ):
            Inputs((x, x * 2), picture=other)
    with pytest.raises(ConfigurationError, match="picture: got str, which is not one of the inputs"):
        Inputs({"x": x}, picture="x")  # type: ignore[arg-type]


def test_an_input_that_all_samples_share_may_have_as_many_entries_as_there_are() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, 4)

        def forward(self, image: Tensor, scale: Tensor) -> Tensor:
            return self.head(self.body(image).relu().mean((2, 3))) * scale

    torch.manual_seed(0)
    model, image, scale = Weighted(), torch.rand(4, 1, 6, 6), torch.tensor([1.0, 2.0, 3.0, 4.0])
    options: dict[str, Any] = {"targets": 2, "methods": ["gradcam", "scorecam", "ablationcam"]}
    found = compute_cams(model, {"image": image, "scale": scale}, "auto", **options)
    expected = compute_cams(model, image, "auto", forward=lambda x: model(x, scale), **options)
    assert [key.layer for key in found] == ["body"] * 3
    for key, signed in expected.items():
        torch.testing.assert_close(found[key], signed)
