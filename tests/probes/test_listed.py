"""Pictures that stand one by one in a tuple, or are of several sizes, are explained as the model gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, IterableDataset

from lightning_gradcam import FeatureMapCallback, GradCAMCallback, ProbeError, ProbeSet, compute_cams
from lightning_gradcam.probes.listed import join_listed, one_size, part_of_listed, stacked
from tests.conftest import tiny_data, trainer
from tests.setups import LAYERS, Pooled, listing

DATA = [(picture, int(label)) for picture, label in tiny_data(12)]
SIZES = [(picture[:, : 5 + place % 4], label) for place, (picture, label) in enumerate(DATA)]


class Listed(Pooled):
    """Takes nothing but a tuple, or a list."""

    def __init__(self, form: type) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Any) -> Tensor:
        assert type(x) is self.form
        return super().forward(torch.stack(list(x)))


def fitted(
    root: Path, data: Any, kind: type[Any] = GradCAMCallback, model: Any = None, **options: Any
) -> tuple[Any, Any]:
    own = {name: options.pop(name) for name in ("num_probes", "forward_fn", "methods") if name in options}
    callback = kind(LAYERS, on_error="raise", **{"num_probes": 5, **own})
    pl.seed_everything(1, verbose=False)
    model = model or Pooled()
    loader = DataLoader(data, **options)
    trainer(root, callbacks=callback, max_epochs=1).fit(model, loader, loader)
    assert callback.archive is not None
    assert len(callback.archive.steps) == 1
    return callback, model


def assert_maps(callback: GradCAMCallback, model: Any, pictures: list[Tensor]) -> None:
    record = callback.archive.record(0)  # type: ignore[union-attr]
    for layer in LAYERS:
        found = torch.from_numpy(np.array(record.maps[layer, "gradcam", "predicted"]))
        single = [
            compute_cams(model, each[None], layer, relu=False)[layer, "gradcam", "predicted"] for each in pictures
        ]
        size = single[0].shape[-2:]
        expected = torch.cat([interpolate(each[None], size, mode="bilinear")[0] for each in single])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("form", [tuple, list])
@pytest.mark.parametrize("own_forward", [False, True])
def test_a_tuple_of_pictures_is_explained_as_it_is(tmp_path: Path, form: type, count: int, own_forward: bool) -> None:
    def collated(samples: list[Any]) -> Any:
        return form(form(entries) for entries in listing(samples))

    forward_fn = (lambda module, batch: module(batch[0])) if own_forward else None
    options = {"batch_size": 4, "collate_fn": collated, "num_probes": count, "forward_fn": forward_fn}
    callback, listed = fitted(tmp_path, DATA, model=Listed(form), **options)
    model = Pooled()
    model.load_state_dict(listed.state_dict())
    assert callback.probes is not None
    assert len(callback.probes) == count
    assert callback.probes.labels.tolist() == [DATA[index][1] for index in callback.probes.indices]
    assert_maps(callback, model, [DATA[index][0] for index in callback.probes.indices])


@pytest.mark.parametrize("collate_fn", [None, listing])
def test_pictures_of_several_sizes_are_explained_one_by_one(
    tmp_path: Path, collate_fn: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    callback, model = fitted(tmp_path, SIZES, batch_size=1, collate_fn=collate_fn)
    pictures = [SIZES[index][0] for index in callback.probes.indices]
    assert len({picture.shape for picture in pictures}) > 1
    assert callback.probes.labels.tolist() == [SIZES[index][1] for index in callback.probes.indices]
    assert callback.probes.inputs.shape[1:] == pictures[0].shape
    assert torch.equal(callback.probes.inputs[0], pictures[0])
    assert_maps(callback, model, pictures)
    assert "the pictures have several sizes, and each is explained by itself, at its own size" in caplog.text


def test_feature_maps_of_several_sizes_are_shown(tmp_path: Path) -> None:
    callback, _ = fitted(tmp_path, SIZES, FeatureMapCallback, batch_size=1, num_probes=3)
    assert len(callback.probes) == 3


def test_a_method_that_runs_the_model_again_takes_tuples(tmp_path: Path) -> None:
    fitted(tmp_path, DATA, batch_size=4, collate_fn=listing, methods=["scorecam", "guided_gradcam"])


class Passing(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from DATA


def test_tuples_that_pass_by_are_taken(tmp_path: Path) -> None:
    callback, model = fitted(tmp_path, Passing(), batch_size=2, collate_fn=listing)
    assert torch.equal(callback.probes.inputs, torch.stack([picture for picture, _ in DATA[:5]]))
    assert callback.probes.labels.tolist() == [label for _, label in DATA[:5]]
    assert_maps(callback, model, [picture for picture, _ in DATA[:5]])


def test_a_probe_set_of_several_sizes_is_refused_still() -> None:
    with pytest.raises(ProbeError, match="have different sizes"):
        ProbeSet.from_dataset(SIZES, 5)


def test_parts_of_listed_batches() -> None:
    batch = listing(DATA[:5])
    parts = [part_of_listed(batch, 0, 2, 5), part_of_listed(batch, 2, 5, 5)]
    assert join_listed(parts, [2, 3]) == batch
    assert stacked(batch[0]).shape == (5, 1, 8, 8)  # type: ignore[union-attr]
    assert stacked((torch.zeros(2, 3, 8, 8),)) is None
    assert stacked(()) is None


def test_resized_masks_and_maps_keep_their_kind() -> None:
    masks = one_size([torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 2, 6, dtype=torch.bool)], "nearest")
    assert masks.dtype == torch.bool
    assert masks.flatten(1).float().mean(1).tolist() == [1, 0]
