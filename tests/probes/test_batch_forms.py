"""Tests of batches of every structure in training: dataclasses, named tuples, nested places, views, functions."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_gradcam import GradCAMCallback, ProbeError, ProbeSet
from lightning_gradcam.probes.batches import part_of
from lightning_gradcam.probes.entries import input_of
from tests.conftest import TinyModule, tiny_data, trainer

PICTURES, LABELS = tiny_data(12).tensors
OTHERS = -PICTURES


@dataclass
class Sample:
    """As a data set of one's own may return it; the label comes first."""

    label: Tensor
    image: Tensor


Pair = namedtuple("Pair", ["label", "image"])
Form = Callable[[Tensor, Tensor, Tensor], Any]


class Module(TinyModule):
    """Finds its picture by a function."""

    def __init__(self, picture: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.picture = picture

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(self.picture(batch)).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(self.picture(batch))


class Tested(Module):
    """Can be tested."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(self.picture(batch))


def collated(form: Form) -> Callable[[list[Any]], Any]:
    def collate(samples: list[Any]) -> Any:
        pictures, others, labels = (torch.stack(entries) for entries in zip(*samples, strict=True))
        return form(pictures, others, labels)

    return collate


def fitted(tmp_path: Path, form: Form, picture: Callable[[Any], Tensor], **options: Any) -> ProbeSet:
    callback = GradCAMCallback(
        "net.relu2", **{"num_probes": 4, "targets": "predicted", "on_error": "raise", "batch_size": 3, **options}
    )
    data = list(zip(PICTURES, OTHERS, LABELS, strict=True))
    loader = DataLoader(data, 3, collate_fn=collated(form))  # type: ignore[arg-type]
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(Module(picture), loader, loader)
    assert callback.archive is not None
    assert len(callback.archive.steps) == 1
    return callback.archive.probes


@pytest.mark.parametrize(
    ("form", "key", "labels"),
    [
        (lambda x, other, y: Sample(y, x), None, True),
        (lambda x, other, y: Pair(y, x), None, True),
        (lambda x, other, y: {"inputs": Sample(y, x), "label": y}, "inputs.image", True),
        (lambda x, other, y: {"t1": {"data": x}, "t2": {"data": other}, "label": y}, ["t1", "data"], True),
        (lambda x, other, y: {"t1.data": x, "t1": {"data": other}, "label": y}, "t1.data", True),
        (lambda x, other, y: ({"a.b": [other, x]}, y), [0, "a.b", 1], True),
        (lambda x, other, y: {"deep": [{"scan": x}], "y": y}, lambda batch: batch["deep"][0]["scan"], True),
        (lambda x, other, y: ((x, other), y), None, True),
        (lambda x, other, y: ((other, x), y), "0.1", True),
        (lambda x, other, y: {"image": {"left": x, "right": other}, "label": y}, None, True),
        (lambda x, other, y: [x, other], None, False),
    ],
    ids=[
        *("dataclass", "named tuple", "field of a dataclass in a dict", "path as a list", "literal key before path"),
        *("list with a dotted key", "function", "first of two views", "second of two views", "views in a dict"),
        "views without labels",
    ],
)
def test_the_picture_is_found_in_a_batch(tmp_path: Path, form: Form, key: Any, labels: bool) -> None:
    probes = fitted(tmp_path, form, lambda batch: input_of(batch, key), input_key=key)
    assert probes.indices is not None
    assert torch.equal(probes.inputs, PICTURES[list(probes.indices)])
    assert (probes.labels is not None) == labels
    if labels:
        assert torch.equal(probes.labels, LABELS[list(probes.indices)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "form",
    [
        lambda x, other, y: {"scan": x, "finding": y},
        lambda x, other, y: (y, x),
        lambda x, other, y: {"meta": {"ids": y, "weights": y.float()}, "views": [x, other[:1]]},
    ],
    ids=["dict", "tuple", "nested"],
)
def test_a_forward_function_needs_no_input_key(tmp_path: Path, form: Form) -> None:
    def of(batch: Any) -> Tensor:
        parts = list(batch.values()) if isinstance(batch, dict) else batch
        flat = [*parts, *(part for entry in parts if isinstance(entry, list) for part in entry)]
        return next(part for part in flat if isinstance(part, Tensor) and part.dim() == 4)

    probes = fitted(tmp_path, form, of, forward_fn=lambda module, batch: module(of(batch)))
    assert probes.indices is not None
    assert torch.equal(probes.inputs, PICTURES[list(probes.indices)])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(PICTURES, OTHERS, LABELS, strict=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_checkpoint_whose_archive_lacks_the_rest_of_a_batch_stops_no_test(tmp_path: Path, stream: bool) -> None:
    def form(x: Tensor, other: Tensor, y: Tensor) -> Any:
        return {"scan": {"left": x, "right": other}, "finding": y}

    def of(batch: Any) -> Tensor:
        return batch["scan"]["left"] + 0 * batch["scan"]["right"]  # type: ignore[no-any-return]

    data: Any = Stream() if stream else list(zip(PICTURES, OTHERS, LABELS, strict=True))
    loader = DataLoader(data, 3, collate_fn=collated(form))

    def prepared(name: str) -> Any:
        callback = GradCAMCallback(
            "net.relu2", num_probes=4, on_error="raise", forward_fn=lambda module, batch: module(of(batch))
        )
        return callback, trainer(tmp_path / name, callbacks=callback, max_epochs=1)

    _, running = prepared("first")
    running.fit(Module(of), loader, loader)
    running.save_checkpoint(tmp_path / "one.ckpt")
    callback, running = prepared("second")
    with pytest.warns(UserWarning, match="can't be used as archived .* new ones are drawn, so maps can't be"):
        running.test(Tested(of), loader, ckpt_path=str(tmp_path / "one.ckpt"), verbose=False)
    assert len(callback.archive.steps) == 1
    assert len(callback.archive.probes) == 4


def test_a_given_probe_set_goes_into_the_batch_along_the_path(tmp_path: Path) -> None:
    def form(x: Tensor, other: Tensor, y: Tensor) -> Any:
        return {"t1": {"data": x}, "label": y}

    for key in (["t1", "data"], "t1.data", lambda batch: batch["t1"]["data"]):
        given = ProbeSet(PICTURES[:4], labels=LABELS[:4])
        probes = fitted(tmp_path / str(key)[:5], form, lambda batch: batch["t1"]["data"], input_key=key, probes=given)
        assert probes.fingerprint == given.fingerprint


@pytest.mark.parametrize("key", [None, "t3.data", ["t1", "dat"], lambda batch: batch["t1"]["dat"], "t1"])
def test_an_error_shows_the_structure_of_the_batch(tmp_path: Path, key: Any) -> None:
    def form(x: Tensor, other: Tensor, y: Tensor) -> Any:
        return {"t1": {"data": x[:, 0], "affine": y}, "t2": {"data": other}, **{f"key {n}": y for n in range(30)}}

    with pytest.raises(ProbeError) as caught:
        fitted(tmp_path, form, lambda batch: batch["t2"]["data"], input_key=key)
    assert "the batch is {'t1': {'data': [4, 8, 8], 'affine': [4] int64}, 't2'" in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_a_part_of_two_samples_leaves_views_together() -> None:
    views = ((PICTURES[:2], OTHERS[:2]), ["a", "b"])
    (left, right), names = part_of(views, 0, 1, 2)
    assert left.shape == right.shape == (1, 1, 8, 8)
    assert names == ["a"]
