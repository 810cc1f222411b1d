"""``"auto"`` follows the explained score back through the graph, past branches that were called later."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import CaptureError, compute_cams
from lightning_gradcam.capture.graph import traced, upstream
from tests.reference import plain_gradcam


class Branching(nn.Module):
    """A classifier that goes on, after its encoder, with something that its classes do not depend on."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.classes, self.out = nn.Linear(8, 4), nn.Conv2d(8, 4, 1)
        # More layers than are tried at a time, none of which dies out.
        self.decoder = nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(100 if kind == "decoder" else 1)])
        self.teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.double().eval()

    def top(self, features: Tensor) -> Tensor:
        scores: Tensor = self.classes(features.mean((2, 3)))
        return scores

    def dense(self, features: Tensor) -> Tensor:
        scores: Tensor = self.out(features).mean((2, 3))
        return scores

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(x)
        if self.kind == "teacher":
            scores = self.top(features)
            with torch.no_grad():
                return scores, self.teacher(x)
        if self.kind == "logits at every place":
            return self.dense(features), self.decoder(features.detach())
        return self.top(features), self.out(self.decoder(features))


@pytest.mark.parametrize("kind", ["decoder", "auxiliary head", "teacher", "logits at every place"])
def test_auto_is_the_layer_before_the_explained_head(kind: str) -> None:
    model = Branching(kind)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    cams = compute_cams(model, x, output_key=0, targets=1)
    assert list(cams.layouts) == ["encoder"]
    top = model.dense if kind == "logits at every place" else model.top
    expected = plain_gradcam(top, model.encoder, x, [1, 1])
    assert (expected > 0).any()
    torch.testing.assert_close(cams["encoder"], expected, rtol=1e-6, atol=1e-12)


def test_a_layer_of_a_long_branch_is_refused_with_one_that_works() -> None:
    with pytest.raises(CaptureError, match="no gradient reaches 'out': .* for instance 'encoder'"):
        compute_cams(Branching("decoder"), torch.randn(2, 3, 12, 12).double(), "out", output_key=0, targets=1)


def test_what_leads_to_a_score_and_what_does_not() -> None:
    shared, left, right = nn.Linear(2, 4), nn.Linear(2, 2), nn.ReLU()
    for module in (shared, left):
        module.requires_grad_(False)
    with traced({"shared": shared, "left": left, "right": right}) as origins:
        first, second = shared(torch.rand(1, 2)).split(2, 1)
        scores = left(first), right(second)
        leading = [{name for name, origin in origins.items() if origin in upstream(score)} for score in scores]
        assert upstream(scores[0].detach()) == set()
    assert leading == [{"shared", "left"}, {"shared", "right"}]
    assert not origins
    assert not any(module._forward_hooks for module in (shared, left, right))
