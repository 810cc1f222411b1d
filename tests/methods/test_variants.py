"""Methods that run the model again: how many variants go through it at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import compute_cams


class Limited:
    """A model's forward that runs out of memory, as long as that lasts."""

    def __init__(self, model: nn.Module, error: Exception, *, most: int = 8, failures: int = 1000) -> None:
        self.model, self.error, self.most, self.failures = model, error, most, failures
        self.sizes: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most and self.failures:
            self.failures -= 1
            raise self.error
        output: Tensor = self.model(x)
        return output


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 20, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(20 * 36, 3)
    return nn.Sequential(*layers).double()


ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    MemoryError("Unable to allocate 9 GiB"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_where_memory_does_not_suffice_half_as_many_variants_are_run(error: Exception) -> None:
    """Of 20 channels of 2 samples: 32 rows at once, then 16, then 8, for the rest of the call."""
    model, x = net(), torch.rand(2, 1, 6, 6, dtype=torch.float64)
    expected = compute_cams(model, x, "1", methods="scorecam", relu=False)
    forward = Limited(model, error)
    found = compute_cams(model, x, "1", methods="scorecam", relu=False, forward=forward)
    assert [size for size in forward.sizes if size > 2] == [32, 16, 8, 8, 8, 8, 8]
    torch.testing.assert_close(found["1"], expected["1"], rtol=0, atol=1e-12)


def test_the_next_call_runs_as_many_variants_as_before_a_shortage() -> None:
    """Ablation-CAM, asked for after Score-CAM, has the memory again."""
    model, x = net(), torch.rand(2, 1, 6, 6, dtype=torch.float64)
    forward = Limited(model, ERRORS[0], failures=1)
    compute_cams(model, x, "1", methods=["scorecam", "ablationcam"], forward=forward)
    assert [size for size in forward.sizes if size > 2] == [32, 16, 16, 8, 32, 8]


def test_what_fails_one_variant_at_a_time_too_comes_out() -> None:
    model, x = net(), torch.rand(1, 1, 6, 6, dtype=torch.float64)
    forward = Limited(model, ERRORS[0], most=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        compute_cams(model, x, "1", methods="scorecam", forward=forward)
