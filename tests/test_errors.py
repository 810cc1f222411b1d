"""Tests of what errors say: the cause, the nearest choices and the next step, in at most 500 characters."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import (
    Archive,
    ArchiveError,
    CaptureError,
    ConfigurationError,
    Drawing,
    DrawingError,
    LayerError,
    LightningGradCAMError,
    MethodError,
    ProbeError,
    ProbeFileError,
    ProbeSet,
    TargetError,
    compute_cams,
    compute_feature_maps,
    filter_patterns,
)
from lightning_gradcam.errors import CheckpointFileError, RefusedError, nearest, shortened
from lightning_gradcam.probes.entries import input_of
from lightning_gradcam.saved_models.file import read_checkpoint

LONG = "a_block_with_a_name_that_says_all_that_it_does"
X = torch.rand(2, 3, 16, 16)


class Block(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        setattr(self, f"{LONG}_inner", nn.Sequential(inside, nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self, f"{LONG}_inner")(x)
        return found


class Deep(nn.Module):
    """Some two hundred layers, with names of a hundred characters and more."""

    def __init__(self, head: nn.Module | None = None, *, end: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.end = end
        for place in range(50):
            setattr(self, f"{LONG}_{place}", Block(nn.Conv2d(3, 3, 3, padding=1)))
        self.never_reached_by_the_forward = nn.Linear(2, 2)
        self.head = nn.Linear(3, 4) if head is None else head

    def forward(self, x: Tensor) -> Any:
        for place in range(50):
            x = getattr(self, f"{LONG}_{place}")(x)
        return self.end(self.head(x.mean((2, 3))))


LAST = f"{LONG}_49"


def cams(*args: Any, model: nn.Module | None = None, inputs: Any = X, **options: Any) -> Any:
    return compute_cams((model or Deep()).eval(), inputs, *args, **options)


def many(output: Tensor) -> dict[str, Tensor]:
    return {f"{LONG}_{place}": output for place in range(100)}


def written(folder: Path, content: bytes) -> str:
    path = folder / (LONG * 4)
    path.write_bytes(content)
    return str(path)


MORE = "lightning-gradcam layers` lists all"
ERRORS: dict[str, tuple[type[LightningGradCAMError], str, Callable[[Path], Any]]] = {
    "name": (LayerError, MORE, lambda _: cams(LAST[:-1] + "x")),
    "long name": (LayerError, MORE, lambda _: cams("x" * 3000)),
    "pattern": (LayerError, MORE, lambda _: cams("nothing.*" * 300)),
    "layout": (LayerError, MORE, lambda _: cams(LAST, layout={"x" * 999: "NCHW"})),
    "patterns": (
        LayerError,
        "lightning-gradcam layers` lists",
        lambda _: filter_patterns(Deep(), LAST[:-2], (3, 9, 9)),
    ),
    "feature maps": (
        LayerError,
        "lightning-gradcam layers` lists",
        lambda _: compute_feature_maps(Deep(), X, LAST[:-2]),
    ),
    "no places": (LayerError, "choose a layer before", lambda _: cams("head")),
    "not reached": (LayerError, "choose a layer that the model's forward() calls", lambda _: cams(["never_*", LAST])),
    "auto": (LayerError, "specify the layer", lambda _: cams(model=nn.Linear(16, 3))),
    "class": (TargetError, "valid: 0 to 3", lambda _: cams(LAST, targets=10**9)),
    "class name": (
        TargetError,
        "the nearest of 1000",
        lambda _: cams(LAST, targets={"class": "x"}, class_names=[f"{LONG}_{n}" for n in range(1000)]),
    ),
    "output": (TargetError, "output_key=", lambda _: cams(LAST, model=Deep(end=many))),
    "output key": (ConfigurationError, "pass one of these", lambda _: cams(LAST, model=Deep(end=many), output_key="x")),
    "whole numbers": (TargetError, "before it rounds", lambda _: cams(model=Deep(end=lambda y: y.argmax(1)))),
    "no gradient": (CaptureError, "choose a layer that the score depends on", lambda _: cams("head", model=Cut())),
    "method": (MethodError, "available: ", lambda _: cams(LAST, methods="gradcm")),
    "model": (ConfigurationError, "pass a torch.nn.Module", lambda _: compute_cams(vars(Deep()), X)),  # type: ignore[arg-type]
    "argument": (ConfigurationError, "as a tuple or dict", lambda _: cams(LAST, inputs=(X, X, X))),
    "keys": (ProbeError, "input_key: ", lambda _: input_of({f"{LONG}_{n}": X for n in range(99)}, "picture")),
    "probe file": (ProbeFileError, "probe", lambda folder: ProbeSet.load(written(folder, b"PK"))),
    "archive": (ArchiveError, "", lambda folder: Archive.open(folder / (LONG * 4))),
    "checkpoint": (CheckpointFileError, "", lambda folder: read_checkpoint(written(folder, b"no checkpoint"))),
    "drawing": (DrawingError, "available", lambda _: Drawing(scale="x" * 2000)),  # type: ignore[arg-type]
}


class Cut(nn.Module):
    """Its first part does not reach the score."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.fc = nn.Conv2d(3, 3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.head(x).detach().mean((2, 3)))
        return found


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_has_at_most_500_characters_and_says_what_to_do(case: str, tmp_path: Path) -> None:
    kind, said, call = ERRORS[case]
    with pytest.raises(kind) as caught:
        call(tmp_path)
    text = str(caught.value)
    assert said in text
    assert len(text) <= 500
    assert "\n" not in text


@pytest.mark.parametrize("kind", [*LightningGradCAMError.__subclasses__(), *ConfigurationError.__subclasses__()])
def test_no_error_class_shows_more(kind: type[LightningGradCAMError]) -> None:
    text = str(kind(f"layers: {'x' * 9999}; name another layer"))
    assert len(text) <= 500
    assert text.startswith("layers: x")
    assert text.endswith("; name another layer")
    assert RefusedError in ConfigurationError.__subclasses__()


def test_a_missing_layer_of_a_wrapped_model_is_found_by_its_end() -> None:
    assert nearest("layer4", ["model.layer4.0", "model.layer3", "model.layer4"])[0] == "model.layer4"
    assert shortened("short") == "short"


class Holder(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.body(x).mean((2, 3)))
        return found


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda part: torch.jit.trace(part, X)], ids=["script", "trace"])
def test_a_scripted_part_is_named(compiled: Callable[[nn.Module], nn.Module]) -> None:
    model = Holder(compiled(body())).eval()
    with pytest.raises(LayerError, match=r"'auto' found no layer to explain: 'body' \(.*\) is compiled by torch.jit"):
        compute_cams(model, X)
    with pytest.raises(LayerError, match=r"'body.0' is compiled by torch.jit.*before torch.jit.script"):
        compute_cams(model, X, "body.0")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", ["auto", "body", "body.0"])
def test_a_quantised_part_is_named(layers: str) -> None:
    model = torch.ao.quantization.quantize_dynamic(Holder(body()).eval(), {nn.Linear})
    with pytest.raises(CaptureError, match=r"no gradient reaches 'body.*': 'fc' \(Linear\) is quantised"):
        compute_cams(model, X, layers)


def test_a_mapping_of_another_kind_gives_arguments_by_name() -> None:
    model = Holder(body()).eval()
    expected = compute_cams(model, X, "body.1")["body.1"]
    batch = UserDict(x=X.clone())
    assert torch.equal(compute_cams(model, batch, "body.1")["body.1"], expected)
    assert torch.equal(compute_cams(model, UserDict(x=X), "body.1", batch_size=1)["body.1"].sign(), expected.sign())
    assert isinstance(batch, UserDict)
    assert torch.equal(batch["x"], X)


def test_a_wrapper_is_told_where_its_module_is() -> None:
    class Wrapper:
        def __init__(self) -> None:
            self.model = Holder(body())

    for call in (compute_cams, compute_feature_maps):
        with pytest.raises(ConfigurationError, match="it wraps a Holder, so pass its .model"):
            call(Wrapper(), X, "body")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"the class itself; pass an instance, Holder\(...\)"):
        compute_cams(Holder, X, "body")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((X, X), "its forward takes (x)"),
        ({"pixel_values": X}, "a dict contains arguments by name"),
        ([X[0], X[1]], "torch.stack(images)"),
    ],
)
def test_another_number_of_inputs_is_told_the_forwards_own(inputs: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compute_cams(Holder(body()).eval(), inputs, "body")
    assert said in str(caught.value)
