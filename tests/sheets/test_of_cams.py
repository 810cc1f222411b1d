"""Overlays and pictures of what ``compute_cams`` has found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_gradcam import CamKey, Cams, DrawingError, compute_cams
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.render.picture import LONGEST
from lightning_gradcam.sheets.of_cams import Samples

KEY = CamKey("conv", "gradcam", "predicted")
OTHER = CamKey("conv", "gradcam", "1")


def cams(*keys: CamKey, samples: int = 1, inputs: torch.Tensor | None = None) -> Cams:
    """Maps of 2x2 places on black pictures of 4 x 6; those of ``OTHER`` are twice as strong."""
    maps = {
        key: torch.tensor([[[1.0, 0.0], [0.0, 0.5]]]).repeat(samples, 1, 1) * (2 if key == OTHER else 1) for key in keys
    }
    names = [key.target for key in keys]
    zeros = torch.zeros(samples)
    pictures = torch.zeros(samples, 3, 4, 6) if inputs is None else inputs
    return Cams(maps, dict.fromkeys(names, zeros), dict.fromkeys(names, zeros.long()), None, inputs=pictures)


def test_an_overlay_has_the_inputs_resolution_and_the_maps_colours() -> None:
    found = cams(KEY, samples=2).overlay(interpolation="nearest", magnification=1)
    assert [(type(one), one.size) for one in found] == [(Image.Image, (6, 4))] * 2
    pixels, table = np.asarray(found[1]), lookup_table("turbo").astype(int)
    # Half of the colours on black; the brightest where the map is 1, the first where it is 0.
    assert (pixels[:2, :3] == (table[255] / 2).round()).all()
    assert (pixels[:2, 3:] == (table[0] / 2).round()).all()
    assert (pixels[2:, 3:] == (table[128] / 2).round()).all()


def test_targets_of_a_layer_have_one_scale_and_large_inputs_their_size() -> None:
    both = cams(KEY, OTHER, inputs=torch.zeros(1, 3, 300, 500))
    first, second = (np.asarray(both.overlay(key, interpolation="nearest")[0]) for key in (KEY, ("conv", "gradcam", 1)))
    assert first.shape == (300, 500, 3)
    table = lookup_table("turbo").astype(int)
    assert (first[0, 0] == (table[128] / 2).round()).all()
    assert (second[0, 0] == (table[255] / 2).round()).all()


def test_what_can_not_be_drawn_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"one of these \(layer, method, target\): "):
        cams(KEY, OTHER).overlay()
    with pytest.raises(DrawingError, match=r"inputs \[7, 3, 4, 6\].*cams.save"):
        cams(KEY, inputs=torch.zeros(7, 3, 4, 6)).overlay()
    with pytest.raises(DrawingError, match=r"got 'maps\.bmp'.*\.png"):
        cams(KEY).save("maps.bmp")
    # The maps alone can be saved.
    cams(KEY, inputs=torch.zeros(7, 3, 4, 6)).save(tmp_path / "maps.png")
    assert (np.asarray(Image.open(tmp_path / "maps.png")) == lookup_table("turbo")[255]).all(axis=-1).any()


def test_one_map_is_saved_as_its_overlay_and_several_as_a_sheet(tmp_path: Path) -> None:
    one, several = cams(KEY), cams(KEY, CamKey("next", "gradcam", "predicted"), samples=2)
    one.save(tmp_path / "cat.png", colormap="jet")
    assert np.array_equal(Image.open(tmp_path / "cat.png"), one.overlay(colormap="jet")[0])
    several.save(str(tmp_path / "cats.webp"))
    several.save(tmp_path / "cats.png")
    sheet = np.asarray(Image.open(tmp_path / "cats.png").convert("RGB"))
    # Two layers with two samples each: in each part two inputs, black, side by side with their overlays.
    assert Image.open(tmp_path / "cats.webp").size == sheet.shape[1::-1]
    black = (sheet == 0).all(axis=-1).sum(axis=1) > 100
    assert np.count_nonzero(np.diff(black.astype(int)) == 1) == 4


def test_a_picture_too_large_for_its_format_is_scaled_down_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LONGEST, "webp", 5)
    with pytest.warns(UserWarning, match=r"'cat\.webp' is scaled down, .* 6 pixels .* WEBP allows 5; .*\.png"):
        cams(KEY).save(tmp_path / "cat.webp", magnification=1)
    assert Image.open(tmp_path / "cat.webp").size == (5, 3)


def test_names_given_to_compute_cams_are_those_of_the_sheet() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    found = compute_cams(model, torch.rand(2, 3, 6, 8), "0", targets=["cup", 0], class_names=["cat", "cup", "boat"])
    assert found.class_names == Samples.of(found).view.class_names == ("cat", "cup", "boat")
