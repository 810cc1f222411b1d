"""Tests of labels of every kind that data sets have: kept, never rounded, and never dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lightning_gradcam import GradCAMCallback, ProbeError, ProbeSet, TargetError
from lightning_gradcam.probes.dataset import draw_probes
from lightning_gradcam.probes.labels import read_labels, rival
from lightning_gradcam.probes.wrapped import find_class_names, find_labels
from tests.conftest import TinyModule, trainer

NAMES = ("ant", "bee", "cat", "dog", "eel")


class Module(TinyModule):
    """Takes pictures and leaves the labels alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


class Pictures(Dataset[Any]):
    """Twenty pictures, the label of each made of its class by a function."""

    def __init__(self, label: Callable[[int], Any], classes: tuple[str, ...] | None = None) -> None:
        self.label = label
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return torch.full((1, 8, 8), index / 20), self.label(index % 5)


def fitted(tmp_path: Path, data: Any, collate_fn: Any = None, module: Any = None, **options: Any) -> ProbeSet:
    callback = GradCAMCallback("net.relu2", num_probes=5, **options)
    loader = DataLoader(data, 4, collate_fn=collate_fn)
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(module or Module(), loader, loader)
    assert callback.archive is not None
    return callback.archive.probes


def hot(index: int, size: int = 5) -> list[int]:
    return [int(place == index) for place in range(size)]


@pytest.mark.parametrize(
    ("label", "options"),
    [
        (lambda index: torch.tensor([index]), {}),
        (lambda index: torch.tensor([[index]]), {}),
        (lambda index: torch.tensor(index, dtype=torch.uint8), {}),
        (lambda index: np.int32(index), {}),
        (lambda index: np.array([index]), {}),
        (lambda index: torch.tensor(hot(index)), {}),
        (lambda index: torch.tensor(hot(index)).float(), {}),
        (lambda index: torch.tensor(hot(index)).bool(), {}),
        (lambda index: np.array(hot(index), np.float32), {}),
        (lambda index: NAMES[index], {"class_names": list(NAMES)}),
        (lambda index: {"label": index, "id": f"n{index}"}, {}),
        (lambda index: {"boxes": torch.zeros(1, 4), "class": torch.tensor([index])}, {}),
        (lambda index: {"a": {"b": index}}, {"label_key": [1, "a", "b"]}),
        (lambda index: {"a": {"b": index}}, {"label_key": "1.a.b"}),
    ],
    ids=[
        *("[N, 1]", "[N, 1, 1]", "uint8", "a number of NumPy", "array [N, 1]", "one-hot", "float one-hot"),
        *("bool one-hot", "one-hot array", "names", "in a dict", "in a dict, [N, 1]", "by a path", "by a dotted path"),
    ],
)
def test_labels_of_classes_are_kept_in_training(tmp_path: Path, label: Any, options: dict[str, Any]) -> None:
    probes = fitted(tmp_path, Pictures(label), **options)
    assert probes.view.true == ((0,), (1,), (2,), (3,), (4,))


@pytest.mark.parametrize("form", [torch.float32, torch.float64, torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)], ids=["[N]", "[N, 1]"])
def test_binary_labels_are_classes_of_any_type(tmp_path: Path, form: torch.dtype, shape: tuple[int, ...]) -> None:
    data = Pictures(lambda index: torch.full(shape, index % 2).to(form))
    probes = fitted(tmp_path, data, targets="predicted")
    assert probes.labels is not None
    assert probes.labels.dtype == torch.int64
    assert sorted(probes.labels.tolist()) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert probes.values is None


def test_samples_that_are_marked_as_unlabelled_have_no_true_class(tmp_path: Path) -> None:
    probes = fitted(tmp_path, Pictures(lambda index: -1 if index % 2 else index), targets="predicted")
    assert set(probes.view.true or ()) == {(), (0,), (2,), (4,)}


class OneLogit(Module):
    """Tells two classes apart by one number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


@pytest.mark.parametrize(
    ("numbers", "known"),
    [((0, 1, -1, 0, 1), {(0,), (1,), ()}), ((0, 1, -100, -100, 1), {(0,), (1,), ()}), ((-1, 1, 1, -1, 1), None)],
    ids=["-1", "-100", "-1 and 1 are the classes"],
)
def test_samples_without_a_label_under_one_logit(tmp_path: Path, numbers: Any, known: Any) -> None:
    data = Pictures(lambda index: numbers[index])
    if known is None:
        with pytest.raises(TargetError, match="the label -1 is not a class: this is a regression"):
            fitted(tmp_path, data, module=OneLogit(), targets="predicted")
    else:
        assert set(fitted(tmp_path, data, module=OneLogit(), targets="predicted").view.true or ()) == known


class Triples(Pictures):
    """Pictures with a class and something else."""

    def __init__(self, other: Callable[[int], Any]) -> None:
        super().__init__(lambda index: index)
        self.other = other

    def __getitem__(self, index: int) -> Any:
        return *super().__getitem__(index), self.other(index)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda index: index % 3, True),
        (lambda index: torch.tensor(index % 3), True),
        (lambda index: index, False),
        (lambda index: index % 5, False),
        (lambda index: 10_000 + index, False),
        (lambda index: index % 2 == 0, False),
        (lambda index: 0.5 * index, False),
        (lambda index: f"n{index}", False),
        (lambda index: torch.tensor([index % 3, index % 2]), False),
    ],
    ids=["domain", "tensor", "index", "the class", "patient", "flag", "weight", "name", "several"],
)
def test_a_second_entry_that_may_be_the_class_is_noted(other: Any, told: bool) -> None:
    drawn = draw_probes(Triples(other), 5)
    assert drawn.probes.view.true == ((0,), (1,), (2,), (3,), (4,))
    assert (drawn.remark is not None) is told


class Named(Triples):
    """The same with names."""

    def __init__(self, names: tuple[str, str], other: Callable[[int], Any]) -> None:
        super().__init__(other)
        self.names = names

    def __getitem__(self, index: int) -> Any:
        return dict(zip(("image", *self.names), super().__getitem__(index), strict=True))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("label", "class"), "read from entry 'label' .*if they are in entry 'class', pass label_key='class'"),
        (("class", "target"), "read from entry 'target' .*if they are in entry 'class', pass label_key='class'"),
        (("label", "domain"), None),
        (
            ("kind", "domain"),
            "no entry of a batch is named label, .*; if 'kind' or 'domain' is the true class, pass lab",
        ),
    ],
)
def test_names_that_may_be_the_classs_are_noted(names: tuple[str, str], told: str | None) -> None:
    drawn = draw_probes(Named(names, lambda index: index % 3), 5)
    assert (told is None) is (drawn.remark is None)
    assert told is None or re.search(told, str(drawn.remark))
    used = {"label": {(0,), (1,), (2,), (3,), (4,)}, "class": {(0,), (1,), (2,)}, "kind": set()}[names[0]]
    assert set(drawn.probes.view.true or ()) == used
    # Both are what the class is.
    assert draw_probes(Named(("label", "class"), lambda index: index % 5), 5).remark is None


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"width": torch.tensor([8, 8, 8]), "kind": torch.tensor([0, 2, 0])}, "if 'kind' is .* pass label_key='kind'$"),
        ({"idx": torch.tensor([10, 11, 29])}, None),
        ({"target": torch.rand(3), "class": torch.tensor([0, 2, 0])}, "entry 'target' .* pass label_key='class'$"),
        ({"boxes": torch.nested.nested_tensor([[1, 2], [3]], dtype=torch.int64)}, None),
        ({"marks": torch.tensor([0, 2, 0]).to_sparse(), "meta": torch.zeros(3, dtype=torch.long, device="meta")}, None),
        ({("a", "b"): torch.tensor([0, 2, 0])}, None),
    ],
    ids=["a constant", "indices of a subset", "numbers", "nested", "sparse", "no name"],
)
def test_what_can_be_no_class_is_not_named(entries: dict[Any, Tensor], said: str | None) -> None:
    found = rival({"image": torch.rand(3, 1, 8, 8), **entries}, None, 3, indices=[0, 1, 2])
    assert (found is None) is (said is None)
    assert said is None or re.search(said, str(found))


@pytest.mark.parametrize(
    ("key", "expected"),
    [(None, {(0,), (1,), (2,), (3,), (4,)}), (1, {(0,), (1,), (2,), (3,), (4,)}), (2, {(0,), (1,), (2,)})],
)
def test_both_entries_are_named_until_one_is_chosen(
    tmp_path: Path, said: list[str], key: int | None, expected: set[tuple[int, ...]]
) -> None:
    assert set(fitted(tmp_path, Triples(lambda index: index % 3), label_key=key).view.true or ()) == expected
    found = [line for line in said if "labels:" in line]
    assert len(found) == (key is None)
    assert key or "if they are in entry 2, pass label_key=2" in found[0]


def test_labels_with_several_classes_are_kept(tmp_path: Path) -> None:
    data = Pictures(lambda index: torch.tensor(hot(index)).float().index_fill(0, torch.tensor(2), 1))
    probes = fitted(tmp_path, data)
    assert set(probes.view.true or ()) == {(0, 2), (1, 2), (2,), (2, 3), (2, 4)}


def test_names_of_the_data_set_are_looked_up(tmp_path: Path) -> None:
    probes = fitted(tmp_path, Pictures(lambda index: NAMES[index], classes=NAMES[::-1]))
    assert probes.labels is not None
    assert [probes.class_name(int(label)) for label in probes.labels] == [*NAMES]
    assert sorted(probes.labels.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("make", [list, tuple, np.array], ids=lambda make: make.__name__)
def test_a_collate_function_may_leave_labels_in_a_list(tmp_path: Path, make: Any) -> None:
    def collated(samples: list[Any]) -> Any:
        pictures, labels = zip(*samples, strict=True)
        return torch.stack(pictures), make(labels)

    assert fitted(tmp_path, Pictures(int), collated).view.true == ((0,), (1,), (2,), (3,), (4,))


def test_numbers_are_never_rounded_to_classes(tmp_path: Path) -> None:
    for shape in ((), (1,)):
        data = Pictures(lambda index, shape=shape: torch.full(shape, 0.7 if index else 1.0))
        probes = fitted(tmp_path, data, targets={"output": 0})
        assert probes.labels is None
        assert probes.values is not None
        assert {round(value, 6) for value in probes.values.flatten().tolist()} == {0.7, 1.0}


def test_whole_numbers_of_several_outputs_are_kept_as_numbers() -> None:
    probes = draw_probes(Pictures(lambda index: torch.tensor([index, 30 + index])), 5).probes
    assert probes.labels is None
    assert probes.values is not None
    assert probes.values.shape == (5, 2)


@pytest.mark.parametrize(
    ("label", "options", "said"),
    [
        (lambda index: NAMES[index], {}, "labels: the text '.*' is the name of a class.*pass class_names="),
        (
            lambda index: NAMES[index],
            {"class_names": [*NAMES[:4], "eels"]},
            "'eel' is not among.*mean 'eels'",
        ),
        (lambda index: torch.zeros(8, 8), {}, r"labels: got shape \[5, 8, 8\], not one class for each sample"),
        (lambda index: {"caption": "a cat"}, {}, "labels: got a dict.*select the labels with label_key="),
    ],
    ids=["no names", "another name", "a map", "a dict"],
)
def test_what_is_no_label_of_classes_is_said(
    tmp_path: Path, label: Any, options: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    remark = draw_probes(Pictures(label), 5, **options).remark
    assert remark is not None
    caplog.set_level("INFO")
    assert fitted(tmp_path, Pictures(label), **options).labels is None
    lines = [line for line in caplog.messages if "labels:" in line]
    assert len(lines) == 1
    assert re.search(said, lines[0])
    assert len(lines[0]) <= 500


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (lambda index: torch.full((5,), 0.2), "0.2"),
        (lambda index: float("nan") if index == 2 else float(index), "nan"),
        (lambda index: 2.5, "2.5"),
    ],
)
def test_numbers_beside_a_predicted_class_are_reported(tmp_path: Path, said: list[str], label: Any, shown: str) -> None:
    """Soft labels, missing ones and fractions: kept as numbers, and no sheet shows a true class."""
    assert fitted(tmp_path, Pictures(label)).labels is None
    found = [line for line in said if "sheets show no true class" in line]
    assert len(found) == 1
    assert f"values such as {shown} are not classes" in found[0]


def test_numbers_of_a_regression_need_no_remark(tmp_path: Path, said: list[str]) -> None:
    fitted(tmp_path, Pictures(lambda index: torch.full((5,), 0.2)), targets={"output": 0})
    assert not [line for line in said if "labels:" in line]


class ClassLabel(SimpleNamespace):
    """Stands for that of Hugging Face."""

    names: list[str]


class HuggingFace:
    """Stands for a data set of Hugging Face: no labels but in a column, names in its features."""

    def __init__(self, rows: list[Any], feature: Any) -> None:
        self.rows, self.features, self.decoded = rows, {"image": SimpleNamespace(), "label": feature}, [0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return {"label": np.array(self.rows[index])}
        self.decoded[0] += 1
        return {"image": torch.zeros(1, 8, 8), "label": self.rows[index]}

    def with_format(self, kind: str) -> HuggingFace:
        assert kind == "numpy"
        return self

    def select_columns(self, names: list[str]) -> HuggingFace:
        assert names == ["label"]
        return self


class DictModule(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch["image"]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch["image"])


def test_class_labels_of_hugging_face_are_read_without_decoding(tmp_path: Path) -> None:
    data = HuggingFace([0] * 500 + [3], ClassLabel(names=[*NAMES]))
    callback = GradCAMCallback("net.relu2", num_probes=4)
    loader = DataLoader(Subset(data, range(200, 501)), 8)  # type: ignore[arg-type]
    running = trainer(tmp_path, callbacks=callback, max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0)
    running.fit(DictModule(), loader)
    assert callback.probes is not None
    assert callback.probes.class_names == NAMES
    assert callback.probes.view.true == ((0,), (0,), (0,), (3,))
    assert data.decoded[0] < 100
    several = HuggingFace([[1, 0, 0, 0, 0]], SimpleNamespace(feature=ClassLabel(names=[*NAMES])))
    assert find_class_names(several) == NAMES
    assert find_class_names(HuggingFace([0], SimpleNamespace(dtype="int64"))) is None


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([[0], [1], [2]] * 4),
        torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 4),
        np.array([0, 1, 2] * 4, np.uint8),
        [torch.tensor(0), torch.tensor(1), torch.tensor(2)] * 4,
        [np.int64(0), np.int64(1), np.int64(2)] * 4,
    ],
    ids=["[N, 1]", "one-hot", "uint8", "list of tensors", "list of NumPy's"],
)
def test_labels_that_a_data_set_lists_are_known_in_any_form_and_wrapping(targets: Any) -> None:
    data = TensorDataset(torch.rand(12, 1, 8, 8))
    data.targets = targets  # type: ignore[attr-defined]
    assert find_labels(data).tolist() == [0, 1, 2] * 4  # type: ignore[union-attr]
    nested = Subset(Subset(ConcatDataset([data, data]), range(1, 24)), range(0, 22, 2))
    assert find_labels(nested).tolist() == [(1 + 2 * place) % 3 for place in range(11)]  # type: ignore[union-attr]


def test_a_probe_set_takes_the_same_labels() -> None:
    inputs = torch.rand(3, 1, 8, 8)
    for labels in ([2, 0, 1], [[2], [0], [1]], torch.tensor([2.0, 0.0, 1.0])[:, None], ["cat", "ant", "bee"]):
        assert ProbeSet(inputs, labels=labels, class_names=NAMES).view.true == ((2,), (0,), (1,))  # type: ignore[arg-type]
    assert ProbeSet(inputs, labels=torch.tensor([[0.7], [1], [0]])).labels is None
    with pytest.raises(ProbeError, match="labels: 'cow' is not among the class names"):
        ProbeSet(inputs, labels=["cow"] * 3, class_names=NAMES)  # type: ignore[arg-type]
    again = ProbeSet.from_bytes(ProbeSet(inputs, labels=torch.tensor([[3], [1], [3]])).to_bytes())
    assert again.view.true == ((3,), (1,), (3,))


def test_not_a_number_is_no_class() -> None:
    assert read_labels(torch.tensor([0.0, float("nan"), 1.0]), 3).classes is None
