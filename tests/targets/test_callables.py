"""Callable targets on outputs that have no row for each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import TargetError, compute_cams
from tests.reference import plain_gradcam


class Outputs(nn.Module):
    """Pooled features and two numbers a sample, wrapped up in ways that have no row for each sample."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.body, self.head = kind, nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(8, 2)
        self.double().eval()

    def top(self, features: Tensor) -> Tensor:
        numbers: Tensor = self.head(features.mean((2, 3)))
        return numbers

    def forward(self, x: Tensor) -> Any:
        numbers = self.top(self.body(x))
        if self.kind == "windows":
            return torch.cat([numbers, numbers])
        if self.kind == "bag":
            return numbers.mean(0, keepdim=True)
        if self.kind == "bag without its axis":
            return numbers.mean(0)
        return {"class": numbers.argmax(1), "scores": [numbers[:1], numbers[1:]], "name": "net", "none": None}


READ: dict[str, Callable[[Any], Tensor]] = {
    "windows": lambda output: output[:4, 1] + output[4:, 1],
    "bag": lambda output: output[0, 1].expand(4),
    "bag without its axis": lambda output: output[1].expand(4),
    "dict": lambda output: torch.cat(output["scores"])[:, 1],
}


@pytest.mark.parametrize("layer", ["body", "auto"])
@pytest.mark.parametrize(("kind", "factor"), [("windows", 2), ("bag", 1), ("bag without its axis", 1), ("dict", 1)])
def test_a_callable_explains_an_output_without_a_row_for_each_sample(kind: str, factor: int, layer: str) -> None:
    model, x = Outputs(kind), torch.randn(4, 3, 9, 9, dtype=torch.float64)
    cams = compute_cams(model, x, layer, targets=READ[kind])
    assert list(cams.layouts) == ["body"]
    expected = factor * plain_gradcam(model.top, model.body, x, [1, 1, 1, 1])
    assert (expected > 0).any()
    # Four times a bag's mean is the sum of its samples' numbers.
    torch.testing.assert_close(cams["body"], expected, rtol=1e-6, atol=1e-12)
    assert cams.predicted is None
    assert cams.confidence is None


def test_a_model_that_takes_one_number_of_samples_alone() -> None:
    class Counting(Outputs):
        def forward(self, x: Tensor) -> Any:
            if len(x) != 4:
                raise ValueError(f"a bag has 4 pictures, not {len(x)}")
            return super().forward(x)

    cams = compute_cams(Counting("bag"), torch.randn(4, 3, 9, 9).double(), targets=READ["bag"])
    assert list(cams.layouts) == ["body"]


def test_an_output_of_whole_numbers_is_refused_by_its_kind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    x = torch.randn(4, 3, 9, 9)

    def best(output: Tensor) -> Tensor:
        return output.float()

    def forward(inputs: Tensor) -> Tensor:
        return model(inputs).argmax(1)  # type: ignore[no-any-return]

    with pytest.raises(TargetError, match=r"the model returned a tensor \[4\] of torch.int64: integers, which"):
        compute_cams(model, x, "1", targets=best, forward=forward)
    with pytest.raises(TargetError, match=r"the model returned a tensor \[2\] of torch.int64: integers, which"):
        compute_cams(model, x, targets=best, forward=forward)
    assert compute_cams(model, x, "1", targets=best, forward=forward, methods="eigencam")["1"].any()
