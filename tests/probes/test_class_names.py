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
from torch.utils.data import TensorDataset

from lightning_gradcam import FeatureMapCallback, GradCAMCallback, ProbeSet, TargetError, compute_cams, explain

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
