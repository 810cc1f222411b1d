"""Pictures that stand one by one in a tuple, or are of several sizes, are explained as the model gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, IterableDataset

from lightning_gradcam import FeatureMapCallback, GradCAMCallback, ProbeError, ProbeSet, compute_cams
from lightning_gradcam.probes.batches import join_listed, one_size, part_of_listed
from tests.conftest import CLASSES, TinyModule, tiny_data, trainer
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
    assert "the images differ in size, so each is explained separately, at its own size" in caplog.text


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


class Looping(Pooled):
    """Takes a tuple, and runs its layers once for each picture."""

    def forward(self, x: Any) -> Tensor:
        assert type(x) is tuple
        return torch.cat([super(Looping, self).forward(picture[None]) for picture in x])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def test_a_model_may_go_through_the_pictures_of_a_tuple_one_by_one(tmp_path: Path) -> None:
    callback, looping = fitted(tmp_path, DATA, model=Looping(), batch_size=4, collate_fn=listing)
    model = Pooled()
    model.load_state_dict(looping.state_dict())
    assert_maps(callback, model, [DATA[index][0] for index in callback.probes.indices])


def test_of_tuples_of_several_sizes_that_pass_by_those_of_the_first_size_are_taken(tmp_path: Path) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from SIZES

    callback, _ = fitted(tmp_path, Stream(), model=Looping(), batch_size=4, collate_fn=listing, num_probes=3)
    taken = [picture for picture, _ in SIZES if picture.shape == SIZES[0][0].shape]
    assert torch.equal(callback.probes.inputs, torch.stack(taken))
    assert callback.probes.labels.tolist() == [SIZES[place][1] for place in (0, 4, 8)]


@pytest.mark.parametrize("data", [DATA, Passing(), SIZES], ids=["data", "stream", "several sizes"])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_checkpoint_keeps_that_pictures_stand_in_a_tuple(
    tmp_path: Path, data: Any, stage: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    loader = DataLoader(data, 4, collate_fn=listing)
    records = []
    for name in ("first", "second"):
        callback = GradCAMCallback(LAYERS, num_probes=5, on_error="raise")
        running = trainer(tmp_path / name, callbacks=callback, max_epochs=1 if name == "first" else 2)
        if name == "first":
            running.fit(Looping(), loader, loader)
            running.save_checkpoint(tmp_path / "one.ckpt")
        elif stage == "fit":
            running.fit(Looping(), loader, loader, ckpt_path=str(tmp_path / "one.ckpt"))
        else:
            running.test(Looping(), loader, ckpt_path=str(tmp_path / "one.ckpt"), verbose=False)
        assert callback.archive is not None
        records.append(callback.archive.record(0).maps[LAYERS[0], "gradcam", "predicted"])  # type: ignore[index]
    if data is SIZES and stage == "test":
        assert "images of several sizes are archived at one size" in "".join(str(each.message) for each in recwarn)
    else:
        np.testing.assert_allclose(records[0], records[1], rtol=1e-5, atol=1e-7)


def test_a_probe_set_of_several_sizes_is_refused_still() -> None:
    with pytest.raises(ProbeError, match="have different sizes"):
        ProbeSet.from_dataset(SIZES, 5)


def test_parts_of_listed_batches() -> None:
    batch = listing(DATA[:5])
    parts = [part_of_listed(batch, 0, 2, 5), part_of_listed(batch, 2, 5, 5)]
    assert join_listed(parts, [2, 3]) == batch


@pytest.mark.parametrize("samples", [8, 2])
def test_views_of_signals_are_no_pictures_one_by_one(tmp_path: Path, samples: int) -> None:
    """Two tensors [N, C, L] in a tuple look like two pictures [C, H, W]; the labels tell."""

    class Views(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(2, 4, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
            self.net.append(nn.Linear(4, CLASSES))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (left, right), labels = batch
            return nn.functional.cross_entropy(self(left) + self(right), labels)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    left, right = torch.randn(24, 2, 32), torch.randn(24, 2, 32)
    loader = DataLoader([((left[i], right[i]), i % CLASSES) for i in range(24)], batch_size=samples)  # type: ignore[arg-type, misc]
    callback = GradCAMCallback("net.0", num_probes=samples, on_error="raise")
    model = Views()
    trainer(tmp_path, callbacks=callback, max_epochs=1).fit(model, loader, loader)
    assert callback.probes is not None
    assert callback.archive is not None
    own = left[list(callback.probes.indices)]  # type: ignore[arg-type]
    assert torch.equal(callback.probes.inputs, own)
    expected = compute_cams(model, own, "net.0", relu=False)["net.0", "gradcam", "predicted"]
    # The archive keeps ten bits of each number.
    np.testing.assert_allclose(callback.archive.maps("net.0", relu=False)[-1], expected, rtol=1e-3, atol=1e-6)


def test_resized_masks_and_maps_keep_their_kind() -> None:
    masks = one_size([torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 2, 6, dtype=torch.bool)], "nearest")
    assert masks.dtype == torch.bool
    assert masks.flatten(1).float().mean(1).tolist() == [1, 0]
