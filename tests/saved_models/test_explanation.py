"""Pictures in any form, any module or checkpoint: the maps are those of `compute_cams`, and all of it is saved."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_gradcam import Archive, ConfigurationError, Drawing, ProbeError, ProbeSet, compute_cams
from lightning_gradcam.probes.folder import Preparation
from lightning_gradcam.saved_models.explanation import explain
from lightning_gradcam.saved_models.images import prepare_for, probes_from
from tests.conftest import CLASSES, TinyModule, TinyNet
from tests.report.held import described

NAMES = ("ant", "bee", "cat", "dog", "elk")


def pixels(count: int, size: int = 8) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for place, picture in enumerate(pixels(3)):
        Image.fromarray(picture).save(root / f"{place}.png")
    return root


@pytest.fixture
def model() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet().eval()


def scaled(count: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """What the default preparation makes of the pictures, written out."""
    return (torch.from_numpy(pixels(count)).float()[:, None] / 255 - mean) / std


def test_the_maps_are_those_of_compute_cams(folder: Path, model: TinyNet) -> None:
    found = explain(model, folder, ["conv1", "relu2"], targets=["predicted", 3], methods=["gradcam", "layercam"])
    cams = compute_cams(
        model, scaled(3), ["conv1", "relu2"], targets=["predicted", 3], methods=["gradcam", "layercam"], relu=False
    )
    assert list(found.record.maps) == list(cams)
    for key, maps in cams.items():
        np.testing.assert_array_equal(found.record.maps[key], maps.numpy())
    np.testing.assert_array_equal(found.record.predicted, cams.output.argmax(1).numpy())
    assert found.record.stage == "explain"
    assert found.probes.ids == ("0.png", "1.png", "2.png")


@pytest.mark.parametrize(
    "form", ["folder", "files", "images", "arrays", "batch", "tensors", "tensor", "probes", "saved"]
)
def test_forms_of_pictures(folder: Path, model: TinyNet, tmp_path: Path, form: str) -> None:
    files = sorted(folder.iterdir())
    images: Any = {
        "folder": folder,
        "files": [files[0], str(files[1]), files[2]],
        "images": [Image.open(file) for file in files],
        "arrays": [picture[:, :, None].repeat(3, axis=2) for picture in pixels(3)],
        "batch": pixels(3)[..., None],
        "tensors": list(scaled(3)),
        "tensor": scaled(3),
        "probes": ProbeSet(scaled(3)),
        "saved": str(tmp_path / "probes.npz"),
    }[form]
    ProbeSet(scaled(3)).save(tmp_path / "probes.npz")
    found = explain(model, images, "relu2")
    expected = compute_cams(model, scaled(3), "relu2", relu=False)["relu2"]
    np.testing.assert_allclose(found.record.maps["relu2", "gradcam", "predicted"], expected.numpy(), atol=1e-6)  # type: ignore[index]
    given = form in ("tensors", "tensor", "probes", "saved")
    assert any("no transform is known" in remark for remark in found.remarks) != given


def test_mean_std_and_size(folder: Path, model: TinyNet) -> None:
    found = explain(model, folder, "relu2", mean=0.5, std=[0.25])
    torch.testing.assert_close(found.probes.inputs, scaled(3, 0.5, 0.25))
    np.testing.assert_array_equal(found.probes.pixels[..., 0], pixels(3))
    assert found.remarks == ()
    larger = probes_from(folder, Preparation(size=(4, 6), mode="L"))
    assert larger.inputs.shape == (3, 1, 4, 6)
    doubled = probes_from(folder, Preparation(lambda image: torch.ones(1, *image.size[::-1]), size=5, mode="L"))
    assert doubled.inputs.shape == (3, 1, 5, 5)


def test_grey_where_the_model_takes_one_channel(folder: Path) -> None:
    colour = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    assert explain(colour, folder, "1").probes.inputs.shape == (3, 3, 8, 8)
    assert prepare_for(TinyNet()).mode == "L"
    assert prepare_for(TinyNet(), given=Preparation(mode="RGB")).mode == "RGB"
    with pytest.raises(ConfigurationError, match="mode: got 'CMYK'"):
        prepare_for(TinyNet(), given=Preparation(mode="CMYK"))


class Shown:
    """A transform as torchvision's are, which shows its normalisation."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = [mean], [std]

    def __call__(self, image: Any) -> Tensor:
        return (torch.from_numpy(np.asarray(image)).float()[None] / 255 - self.mean[0]) / self.std[0]


Shown.__name__ = "Normalize"


class Pictures(Dataset[Any]):
    classes = NAMES

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(pixels(1)[0])), 0


class Data(pl.LightningDataModule):
    """Knows its transform through its validation data."""

    def __init__(self, mean: float = 0.25) -> None:
        super().__init__()
        self.mean = mean

    def setup(self, stage: str) -> None:
        torch.rand(1)
        self.val_set = Pictures(Shown(self.mean, 0.5))

    def train_dataloader(self) -> Any:
        return DataLoader(Pictures(None))

    def val_dataloader(self) -> Any:
        return [DataLoader(self.val_set)]


class Attribute(Data):
    """Its data is not there; its transform is."""

    def __init__(self) -> None:
        super().__init__()
        self.test_transform = Shown(0.75, 0.5)

    def setup(self, stage: str) -> None:
        raise FileNotFoundError("no data here")


class Neither(Attribute):
    def __init__(self) -> None:
        super().__init__()
        del self.test_transform


class Late(Neither):
    """Its transform is made by ``setup()``."""

    def setup(self, stage: str) -> None:
        self.val_transform = Shown(0.75, 0.5)
        self.val_set = Pictures(None)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val_set)


class Hooked(Data):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


def test_the_transform_and_names_of_a_data_module(folder: Path, model: TinyNet) -> None:
    before = torch.get_rng_state()
    found = explain(model, folder, "relu2", data=Data())
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found.probes.inputs, scaled(3, 0.25, 0.5))
    np.testing.assert_array_equal(found.probes.pixels[..., 0], pixels(3))
    assert found.probes.display_source == "Normalize undone"
    assert found.probes.class_names == NAMES
    assert found.remarks == ()
    for data in (Attribute(), Late()):
        torch.testing.assert_close(explain(model, folder, "relu2", data=data).probes.inputs, scaled(3, 0.75, 0.5))


def test_a_data_module_that_shows_no_transform(folder: Path, model: TinyNet) -> None:
    with pytest.raises(ConfigurationError, match=r"no transform can be found in Neither .*no data here.*--mean"):
        explain(model, folder, "relu2", data=Neither())
    found = explain(model, folder, "relu2", data=Hooked())
    assert found.remarks == ("Hooked.on_after_batch_transfer change batches on the device and are not applied here",)


def test_classes_by_name(folder: Path, model: TinyNet) -> None:
    found = explain(model, folder, "relu2", targets=["cat", "predicted", 0], class_names=NAMES)
    assert [key.target for key in found.record.maps] == ["2", "predicted", "0"]
    with pytest.raises(ConfigurationError, match="targets"):
        explain(model, folder, "relu2", targets="cow", class_names=NAMES)


def test_sub_folders_are_true_classes(tmp_path: Path, model: TinyNet) -> None:
    for name in ("cat", "ant"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels(1)[0]).save(tmp_path / name / "a.png")
    found = explain(model, tmp_path, "relu2", targets="label", class_names=NAMES)
    assert found.probes.labels is not None
    assert found.probes.labels.tolist() == [0, 2]
    lines = list(found.lines(2))
    assert lines[1].startswith("cat/a.png  ")
    assert lines[1].endswith("(true: cat)")
    assert lines[1].count("%") == 2


def test_labels_beside_files(folder: Path, model: TinyNet) -> None:
    found = explain(model, folder, "relu2", targets="label", labels=[4, 0, 1])
    assert found.record.classes["label"].tolist() == [4, 0, 1]


def test_files_of_one_name_get_their_paths(tmp_path: Path) -> None:
    files = [tmp_path / part / "a.png" for part in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        Image.fromarray(pixels(1)[0]).save(file)
    probes = probes_from([*files, files[0]], Preparation(mode="L"))
    assert probes.ids == (f"{files[0].as_posix()} (0)", files[1].as_posix(), f"{files[0].as_posix()} (2)")


def test_what_is_saved(folder: Path, model: TinyNet, tmp_path: Path) -> None:
    drawing = Drawing(top=3)
    found = explain(model, folder, ["conv1", "relu2"], methods=["gradcam", "eigencam"], targets=["predicted", 1])
    kept = explain(
        model,
        folder,
        ["conv1", "relu2"],
        methods=["gradcam", "eigencam"],
        targets=["predicted", 1],
        drawing=drawing,
        output=tmp_path / "out",
    )
    assert kept.path == str(tmp_path / "out")
    archive = Archive.open(tmp_path / "out")
    assert archive.steps == (0,)
    assert archive.record(0).stage == "explain"
    for key, maps in found.record.maps.items():
        largest = np.abs(maps).max()
        np.testing.assert_allclose(archive.record(0).maps[key], maps, atol=largest * 2**-10)
    sheets = sorted(file.name for file in (tmp_path / "out" / "sheets").iterdir())
    assert sheets == ["conv1-eigencam.png", "conv1.png", "relu2-eigencam.png", "relu2.png"]
    overlays = sorted(file.name for file in (tmp_path / "out" / "overlays").iterdir())
    assert len(overlays) == 3 * 2 * 2 * 2
    assert overlays[0] == "0.png.conv1.eigencam.1.png"
    with Image.open(tmp_path / "out" / "overlays" / overlays[0]) as image:
        assert image.size == (112, 112)
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert described(text)["steps"][0]["stage"] == "explain"
    with pytest.raises(ConfigurationError, match="already contains an archive; pass another folder"):
        found.save(tmp_path / "out")
    with pytest.raises(ConfigurationError, match="already contains an archive"):
        explain(model, folder, "relu2", output=tmp_path / "out")


def test_an_overlay_is_the_tile_of_its_map(model: TinyNet) -> None:
    """Where the map is all zero the picture is left as it is; elsewhere half of it is the colour."""
    found = explain(model, scaled(2), "conv1", drawing=Drawing(opacity=1.0, magnification=1, interpolation="nearest"))
    (name, picture), _ = found.overlays()
    assert name == "0.conv1.gradcam.predicted"
    maps = np.maximum(found.record.maps["conv1", "gradcam", "predicted"][0], 0)  # type: ignore[index]
    place = np.unravel_index(maps.argmax(), maps.shape)
    lowest = np.unravel_index(maps.argmin(), maps.shape)
    assert picture.pixels.shape == (8, 8, 3)
    # turbo ends in dark red and begins in dark blue.
    assert picture.pixels[place][0] > 100 > picture.pixels[place][2]
    assert picture.pixels[lowest][0] < 60


def test_a_notebook_shows_it(model: TinyNet) -> None:
    html = explain(model, scaled(2), "conv1")._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    (page,) = re.findall('srcdoc="(.*?)"', html, re.DOTALL)
    assert described(unescape(page))["layers"] == ["conv1"]


def test_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = TinyModule()
    torch.save({"state_dict": module.state_dict(), "epoch": 3, "global_step": 40}, tmp_path / "a.ckpt")
    found = explain(tmp_path / "a.ckpt", folder, "net.relu2", model_class=TinyModule, mean=0.5, std=0.5)
    assert (found.record.epoch, found.record.step) == (3, 40)
    expected = compute_cams(module, scaled(3, 0.5, 0.5), "net.relu2", relu=False)["net.relu2"]
    np.testing.assert_array_equal(found.record.maps["net.relu2", "gradcam", "predicted"], expected.numpy())  # type: ignore[index]
    with_data = explain(tmp_path / "a.ckpt", folder, "net.relu2", model_class=TinyModule, data=f"{__name__}:Data")
    assert with_data.probes.class_names == NAMES
    with pytest.raises(ConfigurationError, match="only apply to a checkpoint's path"):
        explain(module, folder, model_class=TinyModule)


def test_a_lazy_checkpoint(folder: Path, tmp_path: Path) -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES))

    model = lazy()
    model(scaled(1))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    found = explain(tmp_path / "a.pt", folder, "1", model_class=lazy, mode="L")
    expected = compute_cams(model, scaled(3), "1", relu=False)["1"]
    np.testing.assert_array_equal(found.record.maps["1", "gradcam", "predicted"], expected.numpy())  # type: ignore[index]


def test_in_parts_and_with_progress(folder: Path, model: TinyNet) -> None:
    seen: list[tuple[int, int]] = []
    found = explain(model, folder, "relu2", batch_size=1, progress=lambda done, total: seen.append((done, total)))
    assert found.record.maps["relu2", "gradcam", "predicted"].shape == (3, 6, 6)  # type: ignore[index]
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)
    assert (1, 3) in seen


def test_the_model_is_left_as_it_was(folder: Path, model: TinyNet) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, folder, "relu2")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_half_precision(folder: Path, model: TinyNet) -> None:
    found = explain(model.to(torch.bfloat16), folder, "relu2")
    assert found.record.maps["relu2", "gradcam", "predicted"].dtype == np.float32  # type: ignore[index]


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        ([], ProbeError, "got none"),
        (3, ProbeError, "got a int"),
        (["nowhere.png"], ProbeError, "no file 'nowhere.png'"),
        ([np.zeros((8, 8))], ProbeError, "float64"),
        ([object()], ProbeError, "is object"),
        (
            [np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)],
            ProbeError,
            r"'1' and '0' .*\[1, 9, 8\].*--size",
        ),
        (
            [np.zeros((9, 9), np.uint8)],
            ConfigurationError,
            r"the forward pass failed on images \[1, 1, 9, 9\].*--size",
        ),
    ],
)
def test_what_can_not_be_explained(model: TinyNet, images: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        explain(model, images, "relu2")


def test_a_broken_picture_is_named(folder: Path, model: TinyNet) -> None:
    (folder / "1.png").write_bytes(b"no image")
    for images in (folder, sorted(folder.iterdir())):
        with pytest.raises(ProbeError, match=r"1.png' can't be read"):
            explain(model, images, "relu2")


def test_what_is_no_model() -> None:
    with pytest.raises(ConfigurationError, match="pass a torch.nn.Module or a checkpoint's path"):
        explain(3, scaled(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -3, 2.5, [4, 4, 4], [4, 0], True])
def test_sizes_that_are_none(model: TinyNet, folder: Path, size: Any) -> None:
    with pytest.raises(ConfigurationError, match="size: got .*--size"):
        explain(model, folder, "relu2", size=size)


def test_a_list_of_one_size_is_both_sides() -> None:
    assert prepare_for(TinyNet(), given=Preparation(size=[7])).size == [7, 7]


def test_photographs_are_upright(tmp_path: Path) -> None:
    """Whoever holds a camera upright gets a wide picture, and a note in the file that says how to turn it."""
    wide = np.zeros((4, 6), np.uint8)
    wide[:, :3] = 255
    note = Image.Exif()
    note[274] = 6
    Image.fromarray(wide).save(tmp_path / "photo.png", exif=note)
    for images in (tmp_path, tmp_path / "photo.png", [Image.open(tmp_path / "photo.png")]):
        inputs = probes_from(images, Preparation(mode="L")).inputs
        torch.testing.assert_close(inputs[0, 0], torch.tensor([1.0] * 3 + [0.0] * 3)[:, None].expand(6, 4))


def test_targets_by_name_need_names(model: TinyNet, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"got 'cat', but no class names are known.*--class-names"):
        explain(model, folder, "relu2", targets="cat")
    with pytest.raises(ConfigurationError, match="class 'cut' not found; did you mean 'cat'"):
        explain(model, folder, "relu2", targets=["cut"], class_names=NAMES)
    assert list(explain(model, folder, "relu2", targets=["cat", 0], class_names=NAMES).record.scores) == ["2", "0"]


def test_names_of_too_few_classes_are_remarked(model: TinyNet, folder: Path) -> None:
    found = explain(model, folder, "relu2", class_names=NAMES[:2], mean=0, std=1)
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("class_names: 2 names are known, but the model has more classes: ")
    assert explain(model, folder, "relu2", class_names=NAMES, mean=0, std=1).remarks == ()


def test_what_is_no_device_or_folder_is_said_first(model: TinyNet, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="device: got 'gpu', which can't be used here"):
        explain(model, folder, "relu2", device="gpu")
    file = folder / "0.png"
    for output in (file, file / "deeper" / "still"):
        with pytest.raises(ConfigurationError, match=r"0.png' is not a folder; pass another folder \(-o\)"):
            explain(model, [object()], "relu2", output=output)


def test_maps_that_are_not_finite_are_among_the_remarks(model: TinyNet) -> None:
    images = torch.stack([torch.full((1, 8, 8), value) for value in (0.5, float("nan"))])
    (remark,) = [text for text in explain(model, images, "relu2").remarks if "not finite" in text]
    assert remark.startswith("layer 'relu2': 1 of 2 maps is not finite, because the explained score is NaN")


def test_the_page_in_a_notebook_is_called_by_name(model: TinyNet, folder: Path) -> None:
    assert "explain/3 images" in explain(model, folder, "relu2")._repr_html_()


def test_it_is_said_in_a_line(model: TinyNet, folder: Path) -> None:
    found = explain(model, folder, "relu2", targets=["predicted", 3])
    assert repr(found) == "Explained(3 images; maps: relu2/gradcam/predicted, relu2/gradcam/3; path=None)"


def test_the_probes_of_an_archive(model: TinyNet, folder: Path, tmp_path: Path) -> None:
    first = explain(model, folder, "relu2", output=tmp_path / "out")
    again = explain(model, tmp_path / "out", "relu2")
    assert again.probes.ids == first.probes.ids
    np.testing.assert_array_equal(
        again.record.maps["relu2", "gradcam", "predicted"],  # type: ignore[index]
        first.record.maps["relu2", "gradcam", "predicted"],  # type: ignore[index]
    )
    assert again.remarks == ()
