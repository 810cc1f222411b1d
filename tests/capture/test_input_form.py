"""Models that take their picture with the channels last, without channels, or in whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gradcam import MethodError, compute_cams
from lightning_gradcam.capture.inputs import InputForm

METHODS = ["guided_backprop", "fullgrad", "guided_gradcam", "scorecam", "smoothgradcam++"]


class Net(nn.Module):
    """Two convolutions with ReLUs on 3 channels (or 1), pooling and a linear head."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


class Taking(nn.Module):
    """A network behind a change of its input."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


def maps(model: nn.Module, inputs: Tensor, methods: Any = METHODS) -> dict[Any, Tensor]:
    cams = compute_cams(model, inputs, "net.conv2", methods=methods, targets=[0, 3], relu=False)
    return dict(cams)


def whole(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("channels", "shape", "own", "change"),
    [
        (3, (2, 3, 12, 16), lambda x: x.permute(0, 2, 3, 1), lambda z: z.permute(0, 3, 1, 2)),
        (1, (2, 1, 12, 16), lambda x: x[:, 0], lambda z: z[:, None]),
    ],
    ids=["channels last", "no channels"],
)
def test_maps_do_not_depend_on_where_the_inputs_channels_stand(
    channels: int, shape: tuple[int, ...], own: Any, change: Any
) -> None:
    torch.manual_seed(0)
    net, x = Net(channels).double(), torch.randn(*shape, dtype=torch.float64)
    methods = METHODS[:-1]
    expected = maps(Taking(net, whole), x, methods)
    found = maps(Taking(net, change), own(x).contiguous(), methods)
    assert found["model", "guided_backprop", "0"].shape == (2, 12, 16)
    assert found.keys() == expected.keys()
    for key, signed in expected.items():
        assert signed.abs().max() > 0, key
        torch.testing.assert_close(found[key], signed, rtol=0, atol=1e-10, msg=str(key))


def test_whole_numbers_are_changed_as_numbers_and_rounded() -> None:
    torch.manual_seed(0)
    net = Net().double()
    net.fc.weight.data *= 300
    pictures = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    model = Taking(net, lambda x: x.double() / 255)
    activation = net.conv2(F.relu(net.conv1(pictures.double() / 255))).detach()
    weights = []
    for channel in activation.unbind(1):
        mask = F.interpolate(channel[:, None], size=(12, 12), mode="bilinear", align_corners=False)
        low, high = mask.amin((1, 2, 3), keepdim=True), mask.amax((1, 2, 3), keepdim=True)
        masked = (pictures * ((mask - low) / (high - low))).round()
        weights.append(net(masked / 255)[:, 3])
    share = torch.stack(weights).softmax(0).detach()
    expected = torch.einsum("kn,nkhw->nhw", share, activation)
    cams = compute_cams(model, pictures, "net.conv2", methods="scorecam", targets=3, relu=False)
    torch.testing.assert_close(cams["net.conv2"], expected, rtol=1e-2, atol=1e-3)
    assert share.std(0).min() > 1e-2

    # Noise on whole numbers goes both ways and does not wrap.
    found = maps(model, pictures, "smoothgradcam++")
    expected_maps = maps(Taking(net, lambda x: x.round().clamp(0, 255) / 255), pictures.double(), "smoothgradcam++")
    for key, signed in expected_maps.items():
        assert (found[key] - signed).abs().max() < 1e-2 * signed.abs().max()


@pytest.mark.parametrize("method", ["guided_backprop", "guided_gradcam", "fullgrad"])
def test_gradients_of_whole_numbers_and_of_no_picture_are_refused(method: str) -> None:
    pictures = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    model = Taking(Net(), lambda x: x.float() / 255)
    with pytest.raises(MethodError, match=r"an input of torch.uint8 has no gradient; pass floating-point images"):
        maps(model, pictures, method)
    flat = Taking(Net(), lambda x: x.reshape(-1, 3, 12, 12))
    with pytest.raises(MethodError, match=r"need an image \[N, C, H, W\], but the model's input is \[2, 432\]"):
        maps(flat, torch.rand(2, 432), method)


def test_scorecam_needs_a_picture_and_smooth_gradients_do_not() -> None:
    flat = Taking(Net(), lambda x: x.reshape(-1, 3, 12, 12))
    with pytest.raises(MethodError, match=r"need an image \[N, C, H, W\], but the model's input is \[2, 432\]"):
        maps(flat, torch.rand(2, 432), "scorecam")
    assert maps(flat, torch.rand(2, 432), "smoothgradcam++")["net.conv2", "smoothgradcam++", "0"].shape == (2, 6, 6)


@pytest.mark.parametrize(
    ("dtype", "changed", "expected"),
    [
        (torch.uint8, [-3.0, 0.6, 254.5001, 300.0], [0, 1, 255, 255]),
        (torch.int16, [-3.4, 0.6, 254.5001, 1e9], [-3, 1, 255, 32767]),
        (torch.bool, [-1.0, 0.4, 0.6, 2.0], [False, False, True, True]),
        (torch.float32, [-1.0, 0.4, 0.6, 2.0], [-1.0, 0.4, 0.6, 2.0]),
    ],
    ids=str,
)
def test_what_is_put_in_the_inputs_place_is_of_its_type(dtype: torch.dtype, changed: Any, expected: Any) -> None:
    form = InputForm(torch.zeros(1, 1, 1, 4, dtype=dtype))
    restored = form.restored(torch.tensor(changed).reshape(1, 1, 1, 4))
    assert restored.dtype == dtype
    assert restored.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 5, 7, 3), (2, 5, 7), (2, 6, 5, 7, 3), (2, 3, 6, 5, 7), (2, 9)])
def test_the_form_is_undone(shape: tuple[int, ...]) -> None:
    picture = torch.rand(shape)
    seen = InputForm(picture).seen(picture)
    assert seen.shape[2:] == {2: (), 5: (6, 5, 7)}.get(len(shape), (5, 7))
    assert torch.equal(InputForm(picture).restored(seen), picture)
