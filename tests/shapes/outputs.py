"""Other outputs than one row of logits, other ways through the network, and convolutions of unusual proportions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam import Cams
from tests.shapes.case import FIRST, LAST, numbers, shape
from tests.shapes.parts import cnn


def picture(side: int = 32) -> Tensor:
    return numbers(2, 3, side, side)


class Classifier(nn.Module):
    """A CNN, the mean over places, a linear layer, and perhaps an activation at its end."""

    def __init__(self, classes: int = 4, end: nn.Module | None = None, bias: float = 0.0) -> None:
        super().__init__()
        self.body, self.head, self.end = cnn(), nn.Linear(8, classes), end or nn.Identity()
        self.head.bias.data[:1] += bias

    def forward(self, x: Tensor) -> Any:
        return self.end(self.head(self.body(x).mean((2, 3))))


BODY = {"body": FIRST}


def is_class_0(cams: Cams) -> None:
    assert cams.confidence is not None
    assert cams.classes["predicted"].tolist() == [0, 0], f"predicted {cams.classes['predicted'].tolist()}, not class 0"
    assert float(cams.confidence.min()) > 0.8, f"confidence {cams.confidence.tolist()}"


def sums_to_one(cams: Cams) -> None:
    assert cams.confidence is not None
    assert cams.confidence.tolist() == cams.output.amax(1).tolist(), f"confidence {cams.confidence.tolist()}"


@shape(
    "a single number after a sigmoid",
    picture,
    BODY,
    score=lambda p: torch.where(p[:, 0] > 0.5, p[:, 0], 1 - p[:, 0]),
    warning=("sigmoid", "logit"),
    check=is_class_0,
)
def ends_in_sigmoid() -> nn.Module:
    return Classifier(1, nn.Sigmoid(), bias=-3.0)


@shape("a softmax at the end", picture, BODY, warning=("softmax", "logit"), check=sums_to_one)
def ends_in_softmax() -> nn.Module:
    return Classifier(4, nn.Softmax(1), bias=2.0)


def several(cams: Cams) -> None:
    expected = cams.output.sigmoid().amax(1)
    assert cams.confidence is not None
    assert torch.allclose(cams.confidence, expected), f"confidence {cams.confidence.tolist()}, not the sigmoids"


@shape(
    "several labels per sample",
    picture,
    BODY,
    options=lambda: {"labels": torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]])},
    check=several,
)
def multi_label() -> nn.Module:
    return Classifier()


NUMBERS = {"labels": torch.tensor([0.3, 7.2])}


@shape("a regression, explained for its number", picture, BODY, target={"output": 0}, score=lambda out: out[:, 0])
@shape("a regression, explained for a class", picture, error=("'output': 0",), options=lambda: dict(NUMBERS))
def regression() -> nn.Module:
    return Classifier(1)


@shape("a dict of tasks, one selected", picture, BODY, options=lambda: {"output_key": "kind"})
@shape("a dict of tasks, none selected", picture, error=("output_key", "kind"))
class Tasks(nn.Module):
    """A class, an age, and a mask that is made last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.age = cnn(), nn.Linear(8, 4), nn.Linear(8, 1)
        self.mask = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        f = self.body(x)
        pooled = f.mean((2, 3))
        return {"kind": self.kind(pooled), "age": self.age(pooled), "mask": self.mask(f)}


def code(output: tuple[Tensor, Tensor]) -> Tensor:
    """The code's first number."""
    return output[1][:, 0]


def error_of(output: tuple[Tensor, Tensor]) -> Tensor:
    """How large the reconstruction is."""
    return output[0].flatten(1).square().mean(1)


@shape("an autoencoder, its code", picture, {"encoder": FIRST}, target=code)
@shape("an autoencoder, its reconstruction", picture, {"decoder.1": FIRST, "decoder.0": FIRST}, target=error_of)
class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.code = cnn(), nn.Linear(8, 4)
        self.unfold = nn.Sequential(nn.Linear(4, 8 * 64), nn.Unflatten(1, (8, 8, 8)))
        self.decoder = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.code(self.encoder(x).mean((2, 3)))
        return self.decoder(self.unfold(found)), found


@shape("a variational autoencoder, its mean", picture, {"encoder": FIRST}, target=code)
class Variational(Autoencoder):
    """The code is drawn anew in each forward; its mean is explained."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.code(self.encoder(x).mean((2, 3)))
        return self.decoder(self.unfold(found + torch.randn_like(found))), found


class Frozen(nn.Module):
    """A part without gradients, then a convolution that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail, self.head = cnn(), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 4)

    def frozen(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tail(self.frozen(x)).relu().mean((2, 3)))


shape("a backbone under no_grad", picture, {"tail": FIRST})(Frozen)


@shape("a backbone in an inference_mode block", picture, {"tail": FIRST})
class InferenceBlock(Frozen):
    def frozen(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            found = self.body(x)
        return found.clone()


@shape("a backbone under the inference_mode decorator", picture, {"tail": FIRST})
class InferenceDecorator(Frozen):
    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def frozen(self, x: Tensor) -> Tensor:
        return self.features(x).clone()


@shape("a linear probe on a backbone under no_grad", picture, {"tail": FIRST})
class LinearProbe(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pooled = self.tail(self.body(x)).relu().mean((2, 3))
        return self.head(pooled)


def columns(side: tuple[int, int]) -> Tensor:
    return numbers(2, 1, *side)


def only(conv: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


# [2, 32, 32, 16]: channels and rows have the picture's proportions.
@shape("a stride along one axis, 32 channels", lambda: columns((32, 32)), {"[01]": FIRST})
def stride_of_one_axis() -> nn.Module:
    return only(nn.Conv2d(1, 32, 3, (1, 2), 1), 32)


@shape("kernels of 7 by 1 and 1 by 17", lambda: columns((40, 34)), {"body": FIRST})
class LongKernels(nn.Module):
    """Without padding: [2, 17, 17, 9] and the like."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, (7, 1), (2, 1)), nn.ReLU(), nn.Conv2d(8, 17, (1, 17), (1, 2)))
        self.head = nn.Linear(17, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


@shape("blocks that permute to channels last and back", picture, {"blocks*": FIRST})
class Permuting(nn.Module):
    """As ConvNeXt: a depthwise convolution, then a norm and linear layers, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.Sequential(self.Block(), self.Block())
        self.head = nn.Linear(8, 4)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 7, 1, 3, groups=8), nn.LayerNorm(8)
            self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@shape("channels last throughout", picture, {"mlp": LAST, "norm": LAST})
class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.mlp = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.mlp(self.stem(x).permute(0, 2, 3, 1)).relu()).mean((1, 2)))


@shape("one convolution called five times", picture, {"update": FIRST})
class Recurrent(nn.Module):
    """As RAFT: shared weights refine a state; the last call is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.update, self.head = cnn(), nn.Conv2d(16, 8, 3, 1, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        state = torch.zeros_like(features)
        for _ in range(5):
            state = state + self.update(torch.cat([features, state], 1)).tanh()
        return self.head(state.mean((2, 3)))


@shape(
    "the second of five calls to a convolution", picture, {"update#1": FIRST}, options=lambda: {"layers": "update#1"}
)
def second_call() -> nn.Module:
    return Recurrent()


@shape("a mixture of CNNs", picture, {"experts.1": FIRST, "experts.0": FIRST})
class MixtureOfCnns(nn.Module):
    """Both experts see each picture, weighed by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(3, 2), nn.ModuleList([cnn(), cnn()])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x.mean((2, 3))).softmax(1)
        found = torch.stack([expert(x).mean((2, 3)) for expert in self.experts], 1)
        return self.head((shares[..., None] * found).sum(1))


@shape("an auxiliary head, run last", picture, BODY, options=lambda: {"output_key": 0})
class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = cnn(), nn.Linear(8, 4)
        self.extra = nn.Sequential(*[nn.Conv2d(8, 8, 3, 1, 1) for _ in range(50)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.body(x)
        return self.head(f.mean((2, 3))), self.extra(f)


def blank_head() -> nn.Module:
    """A linear layer on flattened features whose weights sum to less than zero for every channel: no map is left."""
    model = nn.Sequential(cnn(), nn.Flatten(), nn.Linear(8 * 64, 4))
    head: Any = model[2]
    head.weight.data = head.weight.data - head.weight.data.mean(1, keepdim=True) - 0.01
    return model


shape("a linear layer on flattened features", picture, {"0": FIRST}, warning=("blank", "hirescam"), sample=True)(
    blank_head
)
