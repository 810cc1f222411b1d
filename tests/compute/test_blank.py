"""Why maps are blank: codes and sentences of maps whose numbers are found by hand, in float64."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import CamRecord, compute_cams
from lightning_gradcam.record.blank import HIRESCAM, Cause, blank_sentence, codes_of, longest_sentence

CLASSES = {
    # The gradient's mean is -0.25, its magnitude 1.25: Grad-CAM is (-0.5, -0.25), HiResCAM (2, -1.5).
    "cancels": [1.0, -1.5, 0.0, 0.0],
    "against": [-1.0, -1.0, -1.0, -1.0],
    # 2 - 4 and 1 - 4: one channel speaks for the class, the other against it, at every place more.
    "outweighed": [1.0, 1.0, -4.0, -4.0],
    "unread": [0.0, 0.0, 0.0, 0.0],
    "shown": [1.0, 1.0, 1.0, 1.0],
}


def model() -> nn.Sequential:
    """Two channels at two places, as they come, read by a linear layer on the flattened features."""
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2)[:, :, None, None])
        net[3].weight.copy_(torch.tensor(list(CLASSES.values())))
    return net


def pictures() -> Tensor:
    alive = torch.tensor([[[2.0, 1.0]], [[1.0, 1.0]]], dtype=torch.float64)
    return torch.stack([alive, torch.zeros_like(alive)])


@pytest.mark.filterwarnings("ignore:lightning-gradcam. layer '1'")
@pytest.mark.parametrize("batch_size", [None, 1])
def test_each_cause_is_told_from_the_numbers(batch_size: int | None) -> None:
    cams = compute_cams(model(), pictures(), "1", targets=[0, 1, 2, 3, 4], relu=False, batch_size=batch_size)
    none = torch.zeros(2, dtype=torch.int8)
    found = {name: cams.causes.get(("1", "gradcam", str(n)), none).tolist() for n, name in enumerate(CLASSES)}
    assert found == {
        "cancels": [Cause.CANCELLED + HIRESCAM, Cause.NO_ACTIVATION],
        "against": [Cause.NEGATIVE, Cause.NO_ACTIVATION],
        "outweighed": [Cause.OUTWEIGHED, Cause.NO_ACTIVATION],
        "unread": [Cause.NO_GRADIENT, Cause.NO_GRADIENT],
        "shown": [Cause.SHOWN, Cause.NO_ACTIVATION],
    }
    record = CamRecord.from_cams(cams, probe_ids=("a", "b"), epoch=0, step=1, stage="fit", score="logit")
    assert {key.target: codes.tolist() for key, codes in record.part([0]).causes.items()} == {
        str(n): [codes[0]] for n, codes in enumerate(found.values())
    }


@pytest.mark.filterwarnings("ignore:lightning-gradcam. layer '1'")
def test_hirescam_shows_what_the_advice_says() -> None:
    cams = compute_cams(model(), pictures()[:1], "1", targets=0, methods=["gradcam", "hirescam"])
    assert cams["1", "gradcam", 0].tolist() == [[[0.0, 0.0]]]
    assert cams["1", "hirescam", 0].tolist() == [[[2.0, 0.0]]]


def test_one_warning_a_layer_says_how_many_why_and_what_to_use() -> None:
    with pytest.warns(UserWarning, match="blank") as caught:
        compute_cams(model(), pictures().repeat(2, 1, 1, 1)[:3], ["0", "1"], targets=0)
    said = [str(warning.message) for warning in caught]
    assert said == [
        f"lightning-gradcam: layer {layer!r}, method 'gradcam': 3 of 3 maps are blank (zero after the ReLU): in 2 the "
        "gradient mostly cancels out when averaged over locations, as is common before a linear layer on flattened "
        "features. Use methods=['hirescam'] or an earlier layer."
        for layer in ("0", "1")
    ]


@pytest.mark.parametrize("options", [{"targets": 4}, {"targets": 0, "relu": False}], ids=["shown", "signed"])
def test_no_warning_where_every_map_is_shown(options: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_cams(model(), pictures()[:1], "1", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("broken", "why"), [("input", "because the explained score"), ("gradient", "although the explained score")]
)
def test_maps_that_are_not_finite_are_reported_as_such_and_not_as_blank(broken: str, why: str) -> None:
    net, images = model(), pictures()[:2].clone()
    if broken == "input":
        images[0] = torch.nan
    else:
        net[0].register_full_backward_pre_hook(lambda _, grads: (grads[0] * torch.inf,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cams = compute_cams(net, images, "0", targets=0)
        compute_cams(net, images, "0", targets=0, relu=False)
    wrong = int(cams["0"].isnan().flatten(1).any(dim=1).sum())
    said = [str(warning.message) for warning in caught]
    assert wrong == (1 if broken == "input" else 2)
    (text,) = [each for each in said if "finite" in each and "maps" in each]
    count = f"{wrong} of 2 maps {'is' if wrong == 1 else 'are'} not finite, {why}"
    assert text.startswith(f"lightning-gradcam: layer '0': {count} is ")


def test_a_map_that_is_not_finite_is_not_blank_and_one_without_a_cause_is() -> None:
    maps = np.array([[[np.nan, -1.0]], [[-1.0, 0.0]], [[0.0, 2.0]]])
    assert codes_of(maps, None).tolist() == [Cause.SHOWN, Cause.NOWHERE_POSITIVE, Cause.SHOWN]
    sentence = blank_sentence(codes_of(maps, None))
    assert sentence == (
        "1 of 3 maps is blank (zero after the ReLU): the method finds no evidence for the score anywhere. Use an"
        " earlier layer."
    )
    assert blank_sentence(np.zeros(3, np.int8)) == ""


def test_a_cause_of_a_later_version_is_one_that_is_not_known() -> None:
    assert "the method finds no evidence" in blank_sentence(np.array([15], np.int8))


def test_sentences_are_short() -> None:
    every = [blank_sentence(np.full(999, cause + flag, np.int8)) for cause in list(Cause)[1:] for flag in (0, HIRESCAM)]
    assert max(map(len, every)) <= len(longest_sentence()) + 20 <= 260


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.project = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.body(x).relu().mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch_size", [None, 1])
def test_a_probe_compared_with_itself_has_a_blank_map_and_no_noise(dtype: torch.dtype, batch_size: int | None) -> None:
    torch.manual_seed(0)
    net, x = Embedding().to(dtype).eval(), torch.rand(3, 3, 9, 9, dtype=dtype)
    # The third is the first one again, and the second nearly so.
    x[1] += 1e-2 * (x[1] - x[0])
    x[2] = x[0]
    with pytest.warns(UserWarning, match=r"'body', .* 2 of 3 maps are blank .* the similarity is at its maximum"):
        cams = compute_cams(net, x, "body", targets={"similar_to": 0}, batch_size=batch_size)
    signed = compute_cams(net, x, "body", targets={"similar_to": 0}, relu=False)["body"]
    assert not signed[[0, 2]].any()
    assert cams.causes[next(iter(cams))].tolist() == [Cause.AT_LIMIT, 0, Cause.AT_LIMIT]
    a = net.body(x).detach().requires_grad_()
    out = net.project(a.relu().mean((2, 3)))
    (g,) = torch.autograd.grad(nn.functional.cosine_similarity(out, out[:1].detach())[1], a)
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1)[1]
    torch.testing.assert_close(signed[1], expected.detach(), rtol=1e-4 if dtype == torch.float32 else 1e-6, atol=0)


class Normed(nn.Module):
    """A norm over places removes each channel's mean, and with it all that Grad-CAM's weights measure."""

    def __init__(self, size: float, *, norm: bool = True) -> None:
        super().__init__()
        self.conv, self.head, self.size = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), size
        self.norm = nn.InstanceNorm2d(8) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.size * self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("size", [1.0, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_rounding_alone_has_made_is_blank_at_any_scale(size: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = Normed(size).to(dtype).eval(), torch.rand(2, 3, 12, 12, dtype=dtype)
    with pytest.warns(UserWarning, match=r"2 of 2 maps are blank .* cancels out up to rounding"):
        cams = compute_cams(net, x, "conv", targets=1)
    signed = compute_cams(net, x, "conv", targets=1, relu=False)
    assert not signed["conv"].any()
    assert (cams.causes[next(iter(cams))] % HIRESCAM).tolist() == [Cause.ROUNDING] * 2


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-30])
def test_a_small_gradient_is_no_rounding(size: float) -> None:
    torch.manual_seed(0)
    net, x = Normed(size, norm=False).eval(), torch.rand(2, 3, 12, 12)
    plain = Normed(1.0, norm=False).eval()
    plain.load_state_dict(net.state_dict())
    found = compute_cams(net, x, "conv", targets=1, methods=["gradcam", "hirescam"], relu=False)
    expected = compute_cams(plain, x, "conv", targets=1, methods=["gradcam", "hirescam"], relu=False)
    for key, maps in found.items():
        assert maps.abs().flatten(1).amax(1).gt(0).all()
        torch.testing.assert_close(maps / size, expected[key], rtol=1e-4, atol=1e-7)
    assert not any((codes % HIRESCAM == Cause.ROUNDING).any() for codes in found.causes.values())


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


class Boxes(Pixels):
    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:  # type: ignore[override]
        scores = super().forward(x).mean((2, 3))
        label = torch.tensor([1])
        return [{"boxes": torch.rand(1, 4), "labels": label + row, "scores": s[:1]} for row, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("net", "targets", "labels"),
    [
        (Embedding, {"contrast": ["label", 2]}, [0, 2]),
        (Embedding, "label", [[0, 1, 0, 0, 1, 0], [0] * 6]),
        (Pixels, {"segment": 1}, None),
        (Boxes, {"detect": 1}, None),
    ],
)
def test_a_map_of_nothing_is_not_blamed_on_the_gradient(net: type[nn.Module], targets: Any, labels: Any) -> None:
    torch.manual_seed(0)
    made, x = net().eval(), torch.rand(2, 3, 9, 9)
    if net is Pixels:
        with torch.no_grad():
            # The first image is of class 1, the second, which is black, of class 2.
            made.body.weight.abs_()
            made.body.bias.zero_()
            made.head.weight.copy_(torch.tensor([0.0, 1.0, 0.0])[:, None, None, None].expand_as(made.head.weight))
            made.head.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
            x[1] = 0
    given = None if labels is None else torch.tensor(labels)
    with pytest.warns(
        UserWarning,
        match=r"maps? (is|are) blank .* there is nothing to explain \(no pixel or box of the class, no true class",
    ):
        cams = compute_cams(made, x, "body", targets=targets, labels=given)
    (codes,) = cams.causes.values()
    assert codes[1] == Cause.NO_SCORE
    assert codes[0] % HIRESCAM != Cause.NO_SCORE


@pytest.mark.filterwarnings("ignore:lightning-gradcam. layer")
@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "smoothgradcam++", "guided_gradcam", "fullgrad"])
def test_a_method_that_runs_the_model_again_shows_nothing_where_there_is_nothing(method: str) -> None:
    torch.manual_seed(0)
    made, x, target = Embedding().eval(), torch.rand(2, 3, 9, 9), {"contrast": ["label", 2]}
    cams = compute_cams(made, x, "body", methods=[method], targets=target, labels=torch.tensor([0, 2]), relu=False)
    some = compute_cams(made, x, "body", methods=[method], targets=target, labels=torch.tensor([0, 1]), relu=False)
    (key,) = cams.maps
    assert some[key][1].any()
    assert not cams[key][1].any()
    assert torch.equal(cams[key][0], some[key][0])
    assert cams.causes[key].tolist() == [0, Cause.NO_SCORE]
    assert key not in some.causes
