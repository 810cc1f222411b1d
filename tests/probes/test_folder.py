"""Tests of probes from a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from lightning_gradcam import ProbeError, ProbeSet

read_folder = ProbeSet.from_folder


def picture(path: Path, value: int = 0, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> np.ndarray[Any, Any]:
    """Writes a picture `size` (width, height) and returns its pixels."""
    width, height = size
    channels = 3 if mode == "RGB" else 1
    values = (np.arange(height * width * channels) * 7 + value) % 256
    pixels = values.reshape(height, width, channels).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]).save(path)
    return pixels


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two sub-folders with two and one pictures, and something that is none."""
    root = tmp_path / "pictures"
    picture(root / "zebra" / "b.png", 1)
    picture(root / "zebra" / "A.PNG", 2)
    picture(root / "ant" / "c.bmp", 3)
    (root / "ant" / "notes.txt").write_text("no image")
    return root


def test_sub_folders_are_classes_in_sorted_order(classes: Path) -> None:
    probes = read_folder(classes)
    assert probes.ids == ("ant/c.bmp", "zebra/A.PNG", "zebra/b.png")
    assert probes.class_names == ("ant", "zebra")
    assert probes.labels is not None
    assert probes.labels.tolist() == [0, 1, 1]


def test_class_names_given_number_the_sub_folders(classes: Path) -> None:
    probes = ProbeSet.from_folder(classes, class_names=["cat", "zebra", "ant"])
    assert probes.class_names == ("cat", "zebra", "ant")
    assert probes.labels is not None
    assert probes.labels.tolist() == [2, 1, 1]


def test_sub_folder_that_is_no_class_is_refused_by_name(classes: Path) -> None:
    with pytest.raises(ProbeError, match="the sub-folder 'zebra' is not among the classes ant, bee; rename it, or put"):
        read_folder(classes, class_names=["ant", "bee"])


def test_deeper_folders_belong_to_the_topmost(tmp_path: Path) -> None:
    picture(tmp_path / "ant" / "red" / "a.png")
    picture(tmp_path / "bee" / "b.png")
    probes = read_folder(tmp_path)
    assert probes.ids == ("ant/red/a.png", "bee/b.png")
    assert probes.labels is not None
    assert probes.labels.tolist() == [0, 1]


def test_pictures_in_the_folder_itself_have_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    picture(tmp_path / "a.png")
    probes = read_folder(tmp_path, class_names=["x", "y"])
    assert probes.ids == ("a.png", "b.png")
    assert probes.labels is None
    assert probes.class_names == ("x", "y")
    assert read_folder(tmp_path).class_names is None


def test_pixels_come_scaled_and_are_shown_as_loaded(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 9)
    probes = read_folder(tmp_path)
    assert probes.inputs.shape == (1, 3, 4, 6)
    assert torch.equal(probes.inputs[0], torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    assert np.array_equal(probes.pixels[0], pixels)
    assert probes.display_source == "as loaded"


def test_mean_and_std_are_applied_and_undone(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 9)
    probes = read_folder(tmp_path, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    expected = (scaled - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    assert torch.allclose(probes.inputs[0], expected)
    assert np.array_equal(probes.pixels[0], pixels)
    assert probes.display_source == "mean and std as given"


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), ((3, 9), (3, 9)), ([5, 2], (5, 2))])
def test_size_is_height_and_width(tmp_path: Path, size: Any, shape: tuple[int, int]) -> None:
    picture(tmp_path / "a.png", size=(6, 4))
    picture(tmp_path / "b.png", size=(10, 7))
    assert read_folder(tmp_path, size=size).inputs.shape == (2, 3, *shape)


def test_grey_mode_gives_one_channel(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", mode="L")
    probes = read_folder(tmp_path, mode="L")
    assert probes.inputs.shape == (1, 1, 4, 6)
    assert np.array_equal(probes.pixels[0, :, :, :1], pixels)
    assert read_folder(tmp_path).inputs.shape == (1, 3, 4, 6)


def test_transparent_and_palette_pictures_are_converted(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 4), (255, 0, 0, 128)).save(tmp_path / "a.png")
    Image.new("P", (6, 4), 3).save(tmp_path / "b.gif")
    assert read_folder(tmp_path).inputs.shape == (2, 3, 4, 6)


def test_transform_is_used_and_its_normalize_undone(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 9)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)])
    probes = read_folder(tmp_path, transform=transform, mean=0.1, std=0.1, size=99)
    assert torch.equal(probes.inputs[0], transform(Image.fromarray(pixels)))
    assert np.array_equal(probes.pixels[0], pixels)
    assert probes.display_source == "Normalize undone"


def test_mean_and_std_only_say_how_to_undo_a_transform(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 9)
    to_tensor = transforms.ToTensor()
    probes = read_folder(tmp_path, transform=lambda image: (to_tensor(image) - 0.5) / 0.25, mean=0.5, std=0.25)
    assert np.array_equal(probes.pixels[0], pixels)
    assert probes.display_source == "mean and std as given"


def test_transform_that_tells_nothing_is_stretched(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 9)
    probes = read_folder(tmp_path, transform=lambda image: transforms.functional.to_tensor(image))
    assert probes.display_source == "each image min-max stretched"


def test_given_numbers_come_before_as_loaded(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 9)
    steps = [transforms.ToTensor(), transforms.Lambda(lambda x: (x - 0.5) / 0.25)]
    probes = read_folder(tmp_path, transform=transforms.Compose(steps), mean=0.5, std=0.25)
    assert probes.display_source == "mean and std as given"


def test_mixed_sizes_are_refused_with_both_shapes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(6, 4))
    picture(tmp_path / "b.png", size=(5, 4))
    with pytest.raises(
        ProbeError,
        match=r"'b\.png' and 'a\.png' have different shapes \(\[3, 4, 5\] and \[3, 4, 6\]\); pass size= \(--size\), or",
    ):
        read_folder(tmp_path)


def test_folder_without_pictures_is_refused_with_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ProbeError, match=rf"'{tmp_path}' contains no images; supported file types: \.png, \.jpg"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["missing", "file.txt"])
def test_path_that_is_no_folder_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("no")
    with pytest.raises(ProbeError, match=f"{name}' is not a folder; pass a folder of images or a saved probe set"):
        read_folder(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(ProbeError, match=r"b\.png' can't be read as an image \(.+\); remove or repair it"):
        read_folder(tmp_path)


def test_truncated_picture_is_refused_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(40, 40))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ProbeError, match=r"a\.png' can't be read as an image"):
        read_folder(tmp_path)


def test_probes_of_a_folder_survive_their_file(classes: Path, tmp_path: Path) -> None:
    probes = read_folder(classes)
    probes.save(tmp_path / "p.npz")
    loaded = ProbeSet.load(tmp_path / "p.npz")
    assert loaded.fingerprint == probes.fingerprint
    assert loaded.ids == probes.ids


def test_grey_values_of_16_bits_are_scaled(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    probes = read_folder(tmp_path)
    expected = torch.from_numpy((deep // 257).astype(np.float32) / 255)
    torch.testing.assert_close(probes.inputs[0], expected.expand(3, 4, 6))
    assert len(probes.inputs.unique()) == 24


def test_values_of_no_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 3, 24).reshape(4, 6).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ProbeError, match=r"a.tif' contains float32 values from 0 to 3, whose range is not known"):
        read_folder(tmp_path)


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves on other disks")
    assert read_folder(tmp_path).ids == ("a.png",)
