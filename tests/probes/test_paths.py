"""Tests of where an input stands in a batch: keys, fields, places and dotted paths, and errors that name them."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_gradcam import GradCAMCallback, MemorySink, ProbeError, ProbeSet
from lightning_gradcam.probes.entries import input_of
from lightning_gradcam.probes.paths import any_picture
from lightning_gradcam.probes.source import rebuilt_batch
from tests.conftest import TinyModule, trainer


@dataclass
class Batch:
    """As a collate function of one's own may return it."""

    picture: Tensor
    finding: Tensor


Pair = namedtuple("Pair", ["picture", "finding"])
PICTURES, OTHERS, LABELS = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
GREY = PICTURES[:, 0]


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ({"views": {"left": PICTURES, "right": OTHERS}}, "views.left"),
        ({"views.left": PICTURES, "views": {"left": OTHERS}}, "views.left"),
        (((OTHERS, PICTURES), LABELS), "0.1"),
        ({"views": [OTHERS, PICTURES]}, "views.1"),
        (Batch(PICTURES, LABELS), "picture"),
        ({"sample": Batch(PICTURES, LABELS)}, "sample.picture"),
        (Pair(PICTURES, LABELS), "picture"),
        (Pair(PICTURES, LABELS), None),
        (UserDict(image=PICTURES, label=LABELS), None),
        (UserDict(image=UserDict(a=PICTURES)), "image.a"),
        # jsonargparse saves the key "0" as the number; a literal key wins.
        ({0: PICTURES}, "0"),
        ({"0": PICTURES}, 0),
        ({"views": {0: PICTURES}}, "views.0"),
        ({"0": PICTURES, 0: OTHERS}, "0"),
        ({"0": OTHERS, 0: PICTURES}, 0),
        ({"t1": {"data": PICTURES}, "t2": {"data": OTHERS}}, ["t1", "data"]),
        ({"t1.data": PICTURES, "t1": {"data": OTHERS}}, "t1.data"),
        ({"a": [OTHERS, {"b.c": PICTURES}]}, ["a", 1, "b.c"]),
        ({"views": {"0": PICTURES}}, ["views", 0]),
        ({"t1": {"data": PICTURES}}, lambda batch: batch["t1"]["data"]),
        (((PICTURES, OTHERS), LABELS), None),
        ({"views": {"left": PICTURES, "right": OTHERS}}, "views"),
        (namedtuple("Sample", ["label", "image"])(LABELS, PICTURES), None),
        ((LABELS, "text", PICTURES), any_picture),
        ({"scan": PICTURES, "mask": GREY, "finding": LABELS}, any_picture),
        ({"other": OTHERS, "image": PICTURES}, any_picture),
    ],
)
def test_an_input_is_found_in_any_structure(batch: Any, key: Any) -> None:
    assert input_of(batch, key) is PICTURES


@pytest.mark.parametrize(
    ("batch", "key", "said"),
    [
        ({"views": {"left": GREY, "right": GREY}}, "views", "input_key='views.left' [6, 8, 8] or"),
        (((PICTURES, OTHERS[:3]), LABELS), None, "input_key='0.0' [6, 1, 8, 8] or input_key='0.1'"),
        (((PICTURES, OTHERS[:3]), LABELS), None, "forward_fn=lambda module, batch: module(batch[0][0], batch[0][1])"),
        ({"t1": {"data": PICTURES, "affine": GREY[0]}, "id": [4] * 6}, "t2", "{'t1': {'data': [6, 1, 8, 8], 'affine'"),
        ({"t1": {"data": PICTURES}}, ["t1", "dat"], "available: t1; the batch is {'t1': {'data'"),
        ({"image": PICTURES}, len, "the function len selects a int from the batch"),
        ({"image": PICTURES}, lambda batch: batch["scan"], "failed on the batch (KeyError: 'scan'); the batch is {'im"),
        ((tuple(PICTURES[:, 0]), LABELS), None, "it contains 6 images of one sample each ([8, 8]); stack them"),
        (([PICTURES[0], PICTURES[0, :, 2:]], LABELS), None, "resize or pad them to one size, then stack"),
        ([{"image": PICTURES[0]}, {"image": PICTURES[1]}], None, "input_key='0.image' [1, 8, 8]"),
        ({"image": ["a.png"]}, None, "select the entry with the images, or pass probes="),
        ({"views": {"left": PICTURES}}, "views.middle", "'views.middle' is not in the batch"),
    ],
)
def test_an_error_names_the_paths_that_there_are(batch: Any, key: Any, said: str) -> None:
    with pytest.raises(ProbeError) as caught:
        input_of(batch, key)
    assert said in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_a_batch_is_rebuilt_the_same_from_digits_and_their_number() -> None:
    for keys in ((1, 2), ("1", "2"), (1, "2"), ("1", 2)):
        batch = rebuilt_batch(PICTURES, LABELS, *keys)
        assert (batch[0], batch[1] is PICTURES, batch[2] is LABELS) == (None, True, True)
    assert list(rebuilt_batch(PICTURES, LABELS, "image", 0)) == ["image", "0"]


def test_a_batch_is_rebuilt_along_a_path() -> None:
    for key in ("views.left", "0.1", "image"):
        batch = rebuilt_batch(PICTURES, LABELS, key, None)
        assert input_of(batch, key) is PICTURES
        assert any(entry is LABELS for entry in (batch.values() if isinstance(batch, dict) else batch))


class Boxed(TinyModule):
    """Takes a dataclass, a ``UserDict`` or two views from the loader."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(input_of(batch, "picture")).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(input_of(batch, "picture"))


@pytest.mark.parametrize("kind", [Batch, UserDict])
def test_a_batch_of_a_users_own_kind_is_explained_in_training(tmp_path: Path, kind: Any) -> None:
    def collated(samples: list[Any]) -> Any:
        pictures, labels = zip(*samples, strict=True)
        return kind(picture=torch.stack(pictures), finding=torch.tensor(labels))

    data = list(zip(PICTURES, LABELS.tolist(), strict=True))
    sink = MemorySink()
    callback = GradCAMCallback(
        "net.relu2",
        num_probes=4,
        input_key="picture",
        label_key="finding",
        sinks=[sink],
        on_error="raise",
        forward_fn=lambda module, batch: module(batch.picture if kind is Batch else batch["picture"]),
    )
    loader = DataLoader(data, 2, collate_fn=collated)  # type: ignore[arg-type]
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(Boxed(), loader, loader)
    assert len(sink.entries) == 1
    assert callback.probes is not None
    assert callback.probes.labels is not None
    assert len(callback.probes.labels) == 4


def test_pictures_of_different_sizes_are_refused_with_their_sizes() -> None:
    data = [(torch.rand(3, 16 + place, 16), 0) for place in range(6)]
    with pytest.raises(ProbeError, match=r"different sizes, \[3, 1\d, 16\] and .*resize or pad them to one size"):
        ProbeSet.from_dataset(data, 3)


def test_a_forward_of_two_inputs_is_told_how_to_get_them(tmp_path: Path) -> None:
    class Two(TinyModule):
        def forward(self, inputs: Tensor, other: Tensor) -> Tensor:
            return super().forward(inputs + other)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(*batch[0]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(*batch[0])

    data = [((picture, other), 0) for picture, other in zip(PICTURES, OTHERS, strict=True)]
    loader = DataLoader(data, 2)  # type: ignore[arg-type]
    callback = GradCAMCallback("net.relu2", num_probes=2, input_key="0.0")
    with pytest.raises(ValueError, match=r"module\(batch\[0\]\[0\], batch\[0\]\[1\]\)") as caught:
        trainer(tmp_path, callbacks=callback).fit(Two(), loader, loader)
    assert len(str(caught.value)) <= 500
    callback = GradCAMCallback(
        "net.relu2", num_probes=2, input_key="0.0", forward_fn=lambda module, batch: module(batch[0][0], batch[0][1])
    )
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(Two(), loader, loader)
    assert callback.archive is not None


class Untrue(UserDict[str, Any]):
    """A mapping of tensors that refuses to be true or false, as tensordict's do."""

    def __bool__(self) -> bool:
        raise ValueError("is it empty, or all zero?")


def test_a_mapping_without_a_truth_value_is_looked_through() -> None:
    assert input_of({"views": Untrue(left=PICTURES), "finding": LABELS}, any_picture) is PICTURES
