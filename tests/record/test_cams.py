"""The read-only mapping of maps."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from lightning_gradcam import Cams, compute_cams


@pytest.fixture
def cams() -> Cams:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(27, 2))
    return compute_cams(model, torch.rand(2, 1, 5, 5), "0", targets=["predicted", 1])


@pytest.mark.parametrize(
    "again", [copy.deepcopy, copy.copy, lambda cams: pickle.loads(pickle.dumps(cams))], ids=["deep", "copy", "pickle"]
)
def test_cams_are_copied_and_pickled_and_stay_read_only(cams: Cams, again: object) -> None:
    other = again(cams)  # type: ignore[operator]
    assert list(other) == list(cams)
    for key, signed in cams.items():
        assert torch.equal(other[key], signed)
    assert torch.equal(other.scores["1"], cams.scores["1"])
    assert torch.equal(other.output, cams.output)
    assert other.layouts == cams.layouts
    with pytest.raises(TypeError):
        other.maps[next(iter(cams))] = torch.zeros(1)


def test_cams_made_from_a_dict_do_not_follow_it(cams: Cams) -> None:
    maps: dict[object, Tensor] = dict(cams.maps)
    made = Cams(maps, cams.scores, cams.classes, None)  # type: ignore[arg-type]
    maps.clear()
    assert len(made) == 2
