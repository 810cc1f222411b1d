"""Class names by one word or from a file, wherever they are taken; the command line's are in tests/cli."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lightning_gradcam import FeatureMapCallback, GradCAMCallback, ProbeSet, TargetError, compute_cams, explain
from lightning_gradcam.probes.dataset import draw_probes
from tests.conftest import CLASSES, TinyModule, tiny_data, trainer

PICTURES = torch.rand(2, 3, 8, 8)


def model(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, outputs))


def test_imagenet_by_one_word_in_compute_cams_and_explain() -> None:
    network = model(1000)
    named = compute_cams(network, PICTURES, "1", targets=["Egyptian cat", "missile"], class_names="imagenet")
    numbered = compute_cams(network, PICTURES, "1", targets=[285, 657])
    assert set(named) == set(numbered)
    assert all(torch.equal(named[key], numbered[key]) for key in numbered)
    photograph = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    found = explain(network, photograph, ["1"], targets="Egyptian cat", class_names="imagenet", mean=0.5, std=0.5)
    assert ("1", "gradcam", "285") in found.record.maps
    assert found.probes.class_names is not None
    assert found.probes.class_names[285] == "Egyptian cat"


@pytest.mark.parametrize("names", ["imagenet", "ImageNet", "names.txt"])
def test_words_and_files_in_callbacks_and_probes(names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("tench\ngoldfish\n")
    Path("pictures/goldfish").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("pictures/goldfish/0.png")
    data = TensorDataset(PICTURES, torch.tensor([1, 0]))
    sets = [
        ProbeSet(PICTURES, labels=["goldfish", "tench"], class_names=names),  # type: ignore[arg-type]
        ProbeSet.from_dataset(data, 2, class_names=names),
        ProbeSet.from_folder("pictures", size=8, class_names=names),
    ]
    for probes in sets:
        assert probes.class_names is not None
        assert probes.class_names[:2] == ("tench", "goldfish")
        assert probes.labels is not None
        assert 1 in probes.labels
    for callback in (GradCAMCallback(class_names=names), FeatureMapCallback(class_names=names)):
        given: Any = callback._options.probes.class_names
        assert given[:2] == ["tench", "goldfish"]
    if names == "names.txt":
        cams = compute_cams(model(2), PICTURES, "1", targets="goldfish", class_names=names)
        assert list(cams) == [("1", "gradcam", "1")]


def test_imagenet_without_torchvision_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(TargetError, match="'imagenet' .* from torchvision .*; pip install torchvision, or pass a file"):
        GradCAMCallback(class_names="imagenet")


class Animals(Dataset[Any]):
    """Five named classes; a `target_transform` may renumber them."""

    classes: tuple[str, ...] = ("plane", "car", "bird", "cat", "deer")

    def __init__(self, renumber: Any = int) -> None:
        self.inner = tiny_data()
        self.targets = self.inner.tensors[1].tolist()
        self.renumber = renumber

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index][0], self.renumber(self.targets[index])


class CatsAndDeer(Subset[Any]):
    """Two of the classes, as 0 and 1."""

    def __init__(self) -> None:
        super().__init__(Animals(), [index for index in range(40) if index % CLASSES > 2])

    def __getitem__(self, index: Any) -> Any:
        image, label = self.dataset[self.indices[index]]
        return image, label - 3

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Relabelled(Dataset[Any]):
    """The same, by a wrapper that has no labels to list."""

    def __init__(self) -> None:
        self.dataset, self.inner = Animals(), CatsAndDeer()

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]


def named(root: Path, data: Any, outputs: int, **options: Any) -> Any:
    """Returns the class names of a training on the data."""
    module = TinyModule()
    module.net.head = nn.Linear(108, outputs)
    callback = GradCAMCallback("net.conv1", on_error="raise", **options)
    trainer(root, callbacks=callback, max_epochs=1).fit(module, DataLoader(data, 8), DataLoader(data, 8))
    assert callback.probes is not None
    return callback.probes.class_names


def test_names_of_classes_that_are_renumbered_are_not_used(tmp_path: Path, said: list[str]) -> None:
    assert named(tmp_path / "0", Animals(), 5) == Animals.classes
    assert not said or not any("class_names" in line for line in said)
    for number, (data, outputs) in enumerate(
        [(Animals(lambda y: 4 - y), 5), (Animals(lambda y: int(y > 1)), 2), (CatsAndDeer(), 2)]
    ):
        assert named(tmp_path / f"{number}-", data, outputs) is None
    lines = [line for line in said if "class_names" in line]
    assert len(lines) == 3
    assert (
        "class_names: the data set's 5 names are not used, because sample 5 has the label 4, but the data set lists 0 "
        "for it" in lines[0]
    )


def test_names_stay_if_listed_numbers_do_not_refer_to_them() -> None:
    class FromOne(Animals):
        """Lists its classes from 1, as in its file."""

        def __init__(self) -> None:
            super().__init__(lambda y: y - 1)
            self.targets = [label + 1 for label in self.targets]

    assert ProbeSet.from_dataset(FromOne(), 5).class_names == Animals.classes


def test_another_number_of_names_than_classes_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="names of 5 classes were found, but the model's output has 2, so sheets may"):
        assert named(tmp_path, Relabelled(), 2) == Animals.classes


@pytest.mark.parametrize(
    "data", [Animals(lambda y: int(y > 1)), CatsAndDeer(), Relabelled()], ids=lambda d: type(d).__name__
)
def test_names_that_the_user_gives_replace_those_of_the_data_set(
    tmp_path: Path, data: Any, recwarn: pytest.WarningsRecorder
) -> None:
    assert named(tmp_path, data, 2, class_names=["first", "second"], targets="second") == ("first", "second")
    assert not [one for one in recwarn if "class_names" in str(one.message)]


def test_the_data_sets_own_names_are_used_if_the_user_gives_them(tmp_path: Path, said: list[str]) -> None:
    reversed_labels = Animals(lambda y: 4 - y)
    assert named(tmp_path, reversed_labels, 5, class_names=list(Animals.classes)) == Animals.classes
    assert said
    assert not [line for line in said if "class_names" in line]


def test_labels_by_name_are_looked_up_in_the_data_sets_names_too() -> None:
    probes = ProbeSet.from_dataset(Animals(lambda y: Animals.classes[y]), 5, class_names=list("abcde"))
    assert probes.labels is not None
    assert probes.labels.tolist() == [0, 1, 2, 3, 4]
    assert probes.class_names == tuple("abcde")


@pytest.mark.parametrize("second", [("ant", "bee"), ("bee", "ant"), None])
def test_different_names_of_the_parts_of_a_concatenation_are_not_used(second: tuple[str, ...] | None) -> None:
    parts = [TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6) % 2) for _ in range(2)]
    for part, names in zip(parts, (("ant", "bee"), second), strict=True):
        if names is not None:
            part.classes = names  # type: ignore[attr-defined]
    drawn = draw_probes(Subset(ConcatDataset(parts), range(1, 12)), 4)
    if second == ("bee", "ant"):
        assert drawn.probes.class_names is None
        assert "class_names: the data set's 2 names are not used, because the data sets in the" in (drawn.remark or "")
    else:
        assert (drawn.probes.class_names, drawn.remark) == (("ant", "bee"), None)
