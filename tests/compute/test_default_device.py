"""`torch.set_default_device` decides where users' new tensors go, not ours: here, where no tensor has any content."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import ProbeSet, available_methods, check_maps, compute_cams, compute_feature_maps, explain
from lightning_gradcam import filter_patterns as patterns_of
from tests.conftest import tiny_data


class Net(nn.Module):
    """Two convolutions, global pooling and a linear layer, for `[N, 1, 32, 32]`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


torch.manual_seed(0)
NET, IMAGES, LABELS, DATA = Net().eval(), torch.rand(2, 1, 32, 32), torch.tensor([1, 3]), tiny_data()


@pytest.fixture(autouse=True)
def _elsewhere() -> Iterator[None]:
    # What `set_default_device` does; torch 2.4 can't undo that.
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("method", [name for name in available_methods() if name != "legrad"])
def test_every_method_works_with_another_default_device(method: str) -> None:
    cams = compute_cams(NET, IMAGES, "body.2", methods=method, targets=["predicted", "label"], labels=LABELS)
    assert {maps.device.type for maps in cams.values()} == {"cpu"}


def test_searching_probes_explaining_patterns_and_checks_work_too() -> None:
    assert compute_cams(NET, IMAGES, targets="label", labels=LABELS.tolist()).layouts.keys() == {"body"}
    assert compute_feature_maps(NET, IMAGES, "body.2")["body.2"].shape == (2, 8, 32, 32)
    assert len(ProbeSet.from_dataset(DATA, 3)) == 3
    assert explain(NET, IMAGES).record.maps
    assert patterns_of(NET, "body.2", (1, 32, 32), filters=2, steps=2)
    assert check_maps(NET, IMAGES, "body.2", labels=LABELS).verdicts
