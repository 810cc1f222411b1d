"""Tests of which probes a run uses, anew and resumed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from torchvision import transforms

from lightning_gradcam import ArchiveError, ProbeError, ProbeFileError, ProbeSet
from lightning_gradcam.probes.dataset import Drawn
from lightning_gradcam.probes.entries import input_of
from lightning_gradcam.probes.options import ProbeOptions
from lightning_gradcam.probes.source import obtain_probes, rebuilt_batch
from tests.conftest import tiny_data

Archived = Callable[[str], ProbeSet]


def loader(data: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=4, **options)


def never() -> Any:
    raise AssertionError("the dataloader was asked for")


def no_loader() -> Any:
    raise ProbeError("probes: found no dataloader")


def no_archive(path: str) -> ProbeSet:
    raise AssertionError("the archive was asked for")


def gone(path: str) -> ProbeSet:
    raise ArchiveError(f"archive: no manifest.json in {path!r}")


def obtained(
    options: ProbeOptions,
    find_loader: Callable[[], Any] = never,
    *,
    resumed: dict[str, Any] | None = None,
    archived: Archived = no_archive,
) -> tuple[Drawn, str | None]:
    return obtain_probes(options, find_loader, resumed=resumed or {}, archived=archived)


def state_of(probes: ProbeSet) -> dict[str, Any]:
    return {
        "indices": None if probes.indices is None else list(probes.indices),
        "fingerprint": probes.fingerprint,
        "archive": "runs/first/gradcam",
        "run": "first",
        "step": 10,
    }


def three(labels: bool = True) -> ProbeSet:
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    return ProbeSet(inputs, labels=torch.tensor([2, 0, 1]) if labels else None)


class Pictures(Dataset[Any]):
    """A data set with torchvision's transform, whose items come in one of several forms."""

    classes = ("ant", "bee")

    def __init__(self, transform: Any, form: str = "tuple", channels: int = 3) -> None:
        self.transform, self.form = transform, form
        self._picture = Image.new("RGB" if channels == 3 else "L", (8, 8), 100)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        picture = self.transform(self._picture)
        return {
            "tuple": (picture, index % 2),
            "dict": {"image": picture, "label": index % 2},
            "label first": (index % 2, picture),
            "tensor": picture,
        }[self.form]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("bee/1.png", "ant/2.png")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 60 + 100 * number, np.uint8)).save(path)
    return tmp_path / "pictures"


NORMALIZED = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.25])])


# ---- given


def test_given_probe_set_is_used_without_any_dataloader() -> None:
    given = three()
    drawn, remark = obtained(ProbeOptions(given=given))
    assert drawn.probes is given
    assert remark is None
    assert [part.tolist() for part in drawn.batch] == [given.inputs.tolist(), [2, 0, 1]]


@pytest.mark.parametrize("form", [str, Path])
def test_given_file_is_read(tmp_path: Path, form: Callable[[Path], Any]) -> None:
    three().save(tmp_path / "p.npz")
    drawn, remark = obtained(ProbeOptions(given=form(tmp_path / "p.npz")))
    assert drawn.probes.fingerprint == three().fingerprint
    assert remark is None


def test_given_path_of_nothing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ProbeFileError, match=r"nowhere\.npz' can't be read .*check the path"):
        obtained(ProbeOptions(given=tmp_path / "nowhere.npz"))


def test_given_folder_gets_the_data_sets_preprocessing_and_class_order(folder: Path) -> None:
    drawn, remark = obtained(ProbeOptions(given=folder), lambda: loader(Pictures(NORMALIZED)))
    assert remark is None
    assert drawn.probes.ids == ("ant/2.png", "bee/1.png")
    assert drawn.probes.inputs[:, 0, 0, 0].tolist() == pytest.approx([(160 / 255 - 0.5) * 4, (60 / 255 - 0.5) * 4])
    assert drawn.probes.pixels[:, 0, 0, 0].tolist() == [160, 60]
    assert drawn.probes.class_names == ("ant", "bee")


def test_given_folder_is_read_as_grey_where_the_data_set_is(folder: Path) -> None:
    drawn, _ = obtained(ProbeOptions(given=folder), lambda: loader(Pictures(NORMALIZED, channels=1)))
    assert drawn.probes.inputs.shape == (2, 1, 8, 8)


def test_given_folder_takes_class_names_and_numbers_from_the_options(folder: Path) -> None:
    options = ProbeOptions(given=str(folder), class_names=["bee", "cat", "ant"], mean=0.5, std=0.5)
    normalizing = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: (x - 0.5) / 0.5)])
    drawn, _ = obtained(options, lambda: loader(Pictures(normalizing)))
    assert drawn.probes.labels is not None
    assert drawn.probes.labels.tolist() == [2, 0]
    assert drawn.probes.display_source == "mean and std as given"
    assert drawn.probes.inputs[1, 0, 0, 0].item() == pytest.approx((60 / 255 - 0.5) / 0.5)
    assert drawn.probes.pixels[:, 0, 0, 0].tolist() == [160, 60]


def test_given_folder_needs_no_dataloader(folder: Path) -> None:
    drawn, _ = obtained(ProbeOptions(given=folder), no_loader)
    assert drawn.probes.inputs.shape == (2, 3, 8, 8)
    assert drawn.probes.display_source == "as loaded"


@pytest.mark.parametrize("form", ["dict", "label first", "tensor"])
def test_given_folder_works_beside_samples_of_any_form(folder: Path, form: str) -> None:
    data = Pictures(NORMALIZED, form, channels=1)
    options = ProbeOptions(given=folder, input_key=1 if form == "label first" else None)
    drawn, _ = obtained(options, lambda: loader(data))
    assert drawn.probes.inputs.shape == (2, 1, 8, 8)


def test_given_folder_is_read_beside_a_stream_with_a_transform(folder: Path) -> None:
    class Stream(IterableDataset[Any]):
        transform = NORMALIZED

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    drawn, _ = obtained(ProbeOptions(given=folder), lambda: loader(Stream()))
    assert drawn.probes.display_source == "Normalize undone"


class Jitter:
    """A transform that draws from a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, picture: Any) -> torch.Tensor:
        return transforms.functional.to_tensor(picture) + torch.rand(1, generator=self.generator)


def test_given_folder_leaves_the_transforms_generator_alone(folder: Path) -> None:
    transform = Jitter()
    before = transform.generator.get_state()
    obtained(ProbeOptions(given=folder), lambda: loader(Pictures(transform)))
    assert torch.equal(transform.generator.get_state(), before)


def test_given_folder_leaves_global_random_numbers_alone(folder: Path) -> None:
    transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    before = torch.get_rng_state()
    obtained(ProbeOptions(given=folder), lambda: loader(Pictures(transform)))
    assert torch.equal(torch.get_rng_state(), before)


def test_given_probes_equal_to_the_checkpoints_raise_no_remark() -> None:
    _, remark = obtained(ProbeOptions(given=three()), resumed=state_of(three()))
    assert remark is None


def test_given_probes_other_than_the_checkpoints_are_remarked() -> None:
    other = ProbeSet(torch.rand(3, 1, 8, 8))
    drawn, remark = obtained(ProbeOptions(given=other), resumed=state_of(three()))
    assert drawn.probes is other
    assert remark is not None
    assert "given probes differ from the checkpoint's" in remark


# ---- drawn


def test_drawing_follows_the_options() -> None:
    drawn, remark = obtained(ProbeOptions(num_probes=5, seed=3), lambda: loader(tiny_data()))
    assert remark is None
    assert drawn.probes.labels is not None
    assert drawn.probes.labels.tolist() == [0, 1, 2, 3, 4]
    other, _ = obtained(ProbeOptions(num_probes=5, seed=4), lambda: loader(tiny_data()))
    assert other.probes.indices != drawn.probes.indices


def test_drawing_uses_the_loaders_collate_function_and_the_keys() -> None:
    def collate(samples: list[Any]) -> Any:
        inputs, labels = default_collate(samples)
        return {"scan": inputs, "finding": labels}

    data = TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)
    options = ProbeOptions(num_probes=4, input_key="scan", label_key=None)
    drawn, _ = obtained(options, lambda: loader(data, collate_fn=collate))
    assert list(drawn.batch) == ["scan", "finding"]
    assert torch.equal(drawn.batch["scan"], drawn.probes.inputs)


def test_class_names_of_the_options_replace_those_of_the_data_set() -> None:
    options = ProbeOptions(num_probes=2, class_names=["x", "y"])
    data = Pictures(NORMALIZED)
    for each in (tiny_data(), data):
        assert obtained(options, lambda each=each: loader(each))[0].probes.class_names == ("x", "y")  # type: ignore[misc]
    assert obtained(ProbeOptions(num_probes=2), lambda: loader(data))[0].probes.class_names == ("ant", "bee")


def test_too_few_class_names_of_the_options_do_not_replace_those_of_the_data() -> None:
    options = ProbeOptions(num_probes=2, class_names=["x"])
    drawn, _ = obtained(options, lambda: loader(Pictures(NORMALIZED)))
    assert drawn.probes.class_names == ("ant", "bee")
    said = "class_names: got 1 names, but the samples' labels need at least 2; the 2 names found with the data are used"
    assert drawn.remark == said
    given = replace(options, given=ProbeSet(torch.rand(2, 1, 8, 8), labels=[0, 1], class_names=["a", "b"]))
    drawn, remark = obtained(given, lambda: loader(tiny_data()))
    assert (drawn.probes.class_names, remark) == (("a", "b"), said)


def test_dataloader_is_not_iterated() -> None:
    find = SimpleNamespace(dataset=tiny_data())  # it has no __iter__, and no collate_fn either
    assert len(obtained(ProbeOptions(), lambda: find)[0].probes) == 8


# ---- resumed


def test_resumed_with_the_same_data_has_the_same_probes_and_no_remark() -> None:
    first, _ = obtained(ProbeOptions(num_probes=6, seed=2), lambda: loader(tiny_data()))
    again, remark = obtained(
        # Other options on purpose: the checkpoint decides.
        ProbeOptions(num_probes=3, seed=99),
        lambda: loader(tiny_data()),
        resumed=state_of(first.probes),
    )
    assert remark is None
    assert again.probes.indices == first.probes.indices
    assert again.probes.fingerprint == first.probes.fingerprint
    assert again.probes.ids == first.probes.ids


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tiny_data(seed=7), "the data set has different inputs at the checkpoint's indices"),
        (tiny_data(count=3), "can't be drawn again .*the data set has 3 samples"),
    ],
    ids=["other pictures", "fewer pictures"],
)
def test_resumed_with_changed_data_uses_the_archived_inputs(data: Any, why: str) -> None:
    first, _ = obtained(ProbeOptions(num_probes=6), lambda: loader(tiny_data()))
    asked: list[str] = []

    def archived(path: str) -> ProbeSet:
        asked.append(path)
        return first.probes

    again, remark = obtained(ProbeOptions(), lambda: loader(data), resumed=state_of(first.probes), archived=archived)
    assert again.probes.fingerprint == first.probes.fingerprint
    assert torch.equal(again.batch[0], first.probes.inputs)
    assert asked == ["runs/first/gradcam"]
    assert remark is not None
    assert re.search(f"{why}.*; the archived inputs are used", remark)


def test_resumed_without_data_set_and_archive_draws_anew_and_says_so() -> None:
    first, _ = obtained(ProbeOptions(num_probes=6), lambda: loader(tiny_data()))
    again, remark = obtained(
        ProbeOptions(num_probes=4), lambda: loader(tiny_data(seed=7)), resumed=state_of(first.probes), archived=gone
    )
    assert len(again.probes) == 4
    assert again.probes.fingerprint != first.probes.fingerprint
    assert remark is not None
    for part in ("different inputs", "runs/first/gradcam", "new probes are drawn", "can't be compared"):
        assert part in remark


def test_resumed_without_the_probes_given_before_is_remarked() -> None:
    drawn, remark = obtained(ProbeOptions(), lambda: loader(tiny_data()), resumed=state_of(three()), archived=gone)
    assert drawn.probes.fingerprint != three().fingerprint
    assert remark is not None


class Vanished(Dataset[Any]):
    """Files that were deleted since."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        raise FileNotFoundError(f"{index}.png")


def test_resumed_where_a_probes_file_was_deleted_uses_the_archived_inputs() -> None:
    first, _ = obtained(ProbeOptions(num_probes=6), lambda: loader(tiny_data()))
    again, _ = obtained(
        ProbeOptions(), lambda: loader(Vanished()), resumed=state_of(first.probes), archived=lambda _: first.probes
    )
    assert again.probes.fingerprint == first.probes.fingerprint


# ---- batches for given probes


@pytest.mark.parametrize(
    ("input_key", "label_key", "keys"),
    [("scan", "finding", ["scan", "finding"]), ("scan", None, ["scan", "label"]), (None, None, None)],
)
def test_rebuilt_batch_has_the_form_of_the_keys(input_key: str | None, label_key: str | None, keys: Any) -> None:
    inputs, labels = torch.rand(2, 1, 3, 3), torch.tensor([1, 0])
    batch = rebuilt_batch(inputs, labels, input_key, label_key)
    assert (list(batch) if keys else keys) == keys
    values = list(batch.values()) if keys else batch
    assert values[0] is inputs
    assert values[1] is labels


def test_rebuilt_batch_without_labels_has_inputs_alone() -> None:
    inputs = torch.rand(2, 1, 3, 3)
    assert rebuilt_batch(inputs, None, "x", "y") == {"x": inputs}
    assert rebuilt_batch(inputs, None, None, None)[0] is inputs
    assert len(rebuilt_batch(inputs, None, None, None)) == 1


@pytest.mark.parametrize(
    ("input_key", "label_key"),
    [
        (0, 1),
        pytest.param(1, 0),
        pytest.param(1, 2),
    ],
)
def test_rebuilt_batch_is_found_by_places_in_a_tuple(input_key: int, label_key: int) -> None:
    inputs, labels = torch.rand(2, 1, 3, 3), torch.tensor([1, 0])
    assert input_of(rebuilt_batch(inputs, labels, input_key, label_key), input_key) is inputs
