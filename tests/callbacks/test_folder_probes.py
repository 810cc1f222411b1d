"""A folder of pictures as probes: the data set's transform prepares them, mean and std undo it for display only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lightning_gradcam import GradCAMCallback, ProbeError
from tests.conftest import TinyModule, loaders, trainer


class Pictures(Dataset[Any]):
    """What its transform is called with is up to `made`."""

    def __init__(self, transform: Callable[[Any], Any], made: Callable[[Any], Any] = lambda picture: picture) -> None:
        self.transform, self.made = transform, made

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        sample = self.transform(self.made(Image.new("L", (8, 8), 20 * index)))
        return torch.as_tensor(np.asarray(sample), dtype=torch.float32).view(1, 8, 8), index % 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        Image.new("L", (8, 8), 60 + 100 * number).save(tmp_path / f"{number}.png")
    return tmp_path


def fitted(folder: Path, data: Dataset[Any] | None, **options: Any) -> GradCAMCallback:
    callback = GradCAMCallback("net.conv1", probes=str(folder), on_error="raise", **options)
    training, validation = loaders()
    validation = validation if data is None else DataLoader(data, 4)
    trainer(folder / "logs", callbacks=[callback], max_epochs=1).fit(TinyModule(), training, validation)
    return callback


def normalizing(picture: Any) -> Tensor:
    return (transforms.functional.to_tensor(picture) - 0.5) / 0.25


def test_mean_and_std_undo_the_data_sets_transform_for_display(folder: Path) -> None:
    probes = fitted(folder, Pictures(normalizing), mean=0.5, std=0.25).probes
    assert probes is not None
    assert probes.inputs[:, 0, 0, 0].tolist() == pytest.approx([(60 / 255 - 0.5) * 4, (160 / 255 - 0.5) * 4])
    assert probes.pixels[:, 0, 0, 0].tolist() == [60, 160]
    assert probes.display_source == "mean and std as given"


def test_mean_and_std_without_a_transform_are_refused_with_what_to_give(folder: Path) -> None:
    """The pictures would be normalised here, or not, and the data set's own way is not known."""
    with pytest.raises(
        ProbeError, match=r"has no transform=.*pass probes=ProbeSet\.from_folder\('.*', mean=\.\.\., std"
    ):
        fitted(folder, None, mean=0.5, std=0.25)


OF_ARRAYS = Pictures(lambda array: array[::-1].copy(), np.asarray)
OF_TENSORS = Pictures(transforms.Normalize([0.5], [0.25]), transforms.functional.to_tensor)
TO_ARRAYS = Pictures(lambda picture: np.asarray(picture) / 255)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (OF_ARRAYS, "the transform <lambda> should turn a PIL image into a tensor, but raises TypeError"),
        (OF_TENSORS, "the transform Normalize should turn a PIL image into a tensor, but raises TypeError"),
        (TO_ARRAYS, "the transform <lambda> should turn a PIL image into a tensor, but returns ndarray"),
    ],
    ids=["takes arrays", "takes tensors", "returns arrays"],
)
@pytest.mark.parametrize("options", [{}, {"mean": 0.5, "std": 0.25}], ids=["", "mean and std"])
def test_a_transform_of_other_things_than_pictures_is_refused_with_what_to_give(
    folder: Path, data: Dataset[Any], what: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ProbeError, match=rf"{what}.*; pass probes=ProbeSet\.from_folder\(.*transform=") as caught:
        fitted(folder, data, **options)
    assert len(str(caught.value)) <= 500
