"""Probes of data that can't be indexed: what passes by in validation."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_gradcam import GradCAMCallback, ProbeError
from lightning_gradcam.probes.options import ProbeOptions
from lightning_gradcam.probes.streaming import Passing
from tests.conftest import TinyModule, loaders, tiny_data, trainer
from tests.setups import Stream


def batches(count: int, size: int = 3) -> list[Any]:
    data = tiny_data(count * size)
    return [[data.tensors[0][at : at + size], data.tensors[1][at : at + size]] for at in range(0, count * size, size)]


def test_the_first_samples_are_taken_and_no_more() -> None:
    passing, passed = Passing(ProbeOptions(num_probes=7)), batches(4)
    for batch in passed:
        passing.take(batch)
    drawn = passing.drawn(None)
    assert (len(passing), passing.complete, drawn.transferred) == (7, True, True)
    assert torch.equal(drawn.probes.inputs, torch.cat([batch[0] for batch in passed])[:7])
    assert drawn.probes.labels is not None
    assert torch.equal(drawn.probes.labels, torch.cat([batch[1] for batch in passed])[:7])
    assert drawn.probes.ids == tuple("0123456")
    assert drawn.probes.indices is None


def test_what_the_model_does_to_a_batch_afterwards_changes_no_probe() -> None:
    passing, batch = Passing(ProbeOptions(num_probes=2)), batches(1)[0]
    before = batch[0].clone()
    passing.take(batch)
    batch[0].zero_()
    assert torch.equal(passing.drawn(None).probes.inputs, before[:2])


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        lambda n: torch.rand(n, 1, 4, 4),
        lambda n: {"image": torch.rand(n, 1, 4, 4), "label": torch.arange(n), "path": [str(i) for i in range(n)]},
        lambda n: (torch.rand(n, 1, 4, 4), {"names": [str(i) for i in range(n)], "scale": 2.0}),
        lambda n: Pair(torch.rand(n, 1, 4, 4), torch.arange(n)),
    ],
    ids=["tensor", "dict", "nested", "named tuple"],
)
def test_batches_of_any_structure_are_joined(batch: Any) -> None:
    passing = Passing(ProbeOptions(num_probes=5))
    first, second = batch(3), batch(4)
    passing.take(first)
    passing.take(second)
    joined = passing.drawn(None).batch
    assert type(joined) is type(first)
    if isinstance(first, dict):
        assert joined["path"] == ["0", "1", "2", "0", "1"]
        assert torch.equal(joined["label"], torch.tensor([0, 1, 2, 0, 1]))
    elif isinstance(first, tuple) and not isinstance(first, Pair):
        assert joined[1] == {"names": ["0", "1", "2", "0", "1"], "scale": 2.0}
    picture = joined if isinstance(first, Tensor) else joined["image"] if isinstance(first, dict) else joined[0]
    assert picture.shape == (5, 1, 4, 4)


def test_batches_in_mappings_that_are_built_otherwise_are_cut_and_joined() -> None:
    passing = Passing(ProbeOptions(num_probes=3))
    for _ in range(2):
        passing.take(defaultdict(list, image=torch.rand(2, 1, 4, 4), label=torch.arange(2)))
    batch = passing.drawn(None).batch
    assert type(batch) is defaultdict
    assert batch["image"].shape == (3, 1, 4, 4)
    assert batch["label"].tolist() == [0, 1, 0]


def test_pictures_of_another_size_and_missing_batches_are_passed_over() -> None:
    passing = Passing(ProbeOptions(num_probes=4))
    for batch in (None, torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 5, 5), None, torch.ones(2, 1, 4, 4)):
        passing.take(batch)
    assert passing.drawn(None).probes.inputs.flatten(1).mean(1).tolist() == [0, 0, 1, 1]


def test_a_batch_without_a_picture_is_refused() -> None:
    with pytest.raises(ProbeError, match="input_key: 'x' is not in the batch"):
        Passing(ProbeOptions(num_probes=2, input_key="x")).take({"image": torch.rand(1, 1, 4, 4)})


def fit(root: Path, callback: GradCAMCallback, stream: Any = None, model: Any = None, **options: Any) -> pl.Trainer:
    pl.seed_everything(1, verbose=False)
    running = trainer(root, callbacks=callback, **options)
    running.fit(model or TinyModule(), loaders()[0], DataLoader(stream or Stream(2), 4))
    return running


def seen_batches(count: int) -> type[TinyModule]:
    """Keeps the validation's first batches."""

    class Seeing(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.met: list[Tensor] = []

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            if len(self.met) < count:
                self.met.append(batch[0].clone())

    return Seeing


@pytest.mark.parametrize("sanity", [2, 0], ids=["sanity check", "no sanity check"])
def test_the_first_validation_batches_are_explained_in_every_epoch(tmp_path: Path, sanity: int) -> None:
    callback, model = GradCAMCallback("net.relu2", on_error="raise", num_probes=6), seen_batches(2)()
    fit(tmp_path, callback, model=model, num_sanity_val_steps=sanity, max_epochs=3)
    assert callback.probes is not None
    assert torch.equal(callback.probes.inputs, torch.cat(model.met)[:6])
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1, 2)


def test_the_stream_is_begun_no_more_often_than_without_the_callback(tmp_path: Path) -> None:
    stream, other = Stream(2), Stream(2)
    fit(tmp_path, GradCAMCallback("net.relu2"), stream)
    trainer(tmp_path).fit(TinyModule(), loaders()[0], DataLoader(other, 4))
    assert stream.begun == other.begun


def test_too_short_a_sanity_check_is_no_reason_for_fewer_probes(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=10)
    fit(tmp_path, callback, num_sanity_val_steps=1)
    assert callback.probes is not None
    assert len(callback.probes) == 10
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)


def test_fewer_samples_than_probes_are_said(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=50)
    with pytest.warns(
        UserWarning, match="num_probes: got 50, but the loader yielded only 40 samples; all of them are used"
    ):
        fit(tmp_path, callback)
    assert callback.probes is not None
    assert len(callback.probes) == 40


def test_what_does_not_fit_is_only_reported_once_training_is_under_way(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.conv9")
    with pytest.warns(UserWarning, match=r"(?s)explaining failed at step 4.*layer 'net.conv9' not found"):
        running = fit(tmp_path, callback, num_sanity_val_steps=0)
    assert running.current_epoch == 2
    assert callback.archive is None


def test_without_any_validation_batch_it_is_said_that_nothing_was_logged(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="nothing was logged: there was no validation batch"):
        fit(tmp_path, GradCAMCallback("net.relu2"), num_sanity_val_steps=0, check_val_every_n_epoch=5)


def test_transfer_hooks_are_not_applied_twice(tmp_path: Path) -> None:
    class Doubling(TinyModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [2 * batch[0], batch[1]]

    callback, model = GradCAMCallback("net.conv1", on_error="raise", num_probes=4), seen_batches(1)
    seeing = type("Seeing", (model, Doubling), {})()
    fit(tmp_path, callback, model=seeing)
    assert callback.probes is not None
    assert torch.equal(callback.probes.inputs, seeing.met[0])
    # What reaches the model's forward is what validation gave it, and not twice that.
    calls: list[Tensor] = []
    handle = seeing.net.conv1.register_forward_pre_hook(lambda module, args: calls.append(args[0].detach().clone()))
    running = trainer(tmp_path / "again", callbacks=GradCAMCallback("net.conv1", on_error="raise", num_probes=4))
    running.validate(seeing, DataLoader(Stream(2), 4), verbose=False)
    handle.remove()
    # The look at places changes parts of two pictures.
    calls = [call for call in calls if len(call) != 2]
    assert float(max(call.max() for call in calls)) <= 2 * 1.5
    assert torch.equal(calls[-1], calls[0])


def test_a_resumed_run_has_the_archived_probes(tmp_path: Path) -> None:
    first = GradCAMCallback("net.relu2", on_error="raise", num_probes=4)
    running = fit(tmp_path / "first", first, max_epochs=1)
    running.save_checkpoint(tmp_path / "one.ckpt")
    second = GradCAMCallback("net.relu2", on_error="raise", num_probes=4)
    other = trainer(tmp_path / "second", callbacks=second, max_epochs=3)
    other.fit(TinyModule(), loaders()[0], DataLoader(Stream(9), 4), ckpt_path=str(tmp_path / "one.ckpt"))
    assert first.probes is not None
    assert second.probes is not None
    assert first.probes.fingerprint == second.probes.fingerprint
    assert second.archive is not None
    assert second.archive.epochs == (0, 1, 2)


def test_a_resumed_run_without_its_archive_takes_new_probes_and_says_so(tmp_path: Path) -> None:
    first = GradCAMCallback("net.relu2", on_error="raise", num_probes=4)
    running = fit(tmp_path / "first", first, max_epochs=1)
    running.save_checkpoint(tmp_path / "one.ckpt")
    assert first.archive is not None
    Path(first.archive.path, "manifest.json").unlink()
    second = GradCAMCallback("net.relu2", on_error="raise", num_probes=4)
    other = trainer(tmp_path / "second", callbacks=second, max_epochs=3)
    with pytest.warns(UserWarning, match="the archive with the probes can't be read"):
        other.fit(TinyModule(), loaders()[0], DataLoader(Stream(9), 4), ckpt_path=str(tmp_path / "one.ckpt"))
    assert second.archive is not None
    assert second.archive.epochs == (1, 2)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_streams_are_explained_under_validate_and_test(tmp_path: Path, stage: str) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=4)
    running = trainer(tmp_path, callbacks=callback)
    getattr(running, stage)(TinyModule(), DataLoader(Stream(2), 4), verbose=False)
    assert callback.archive is not None
    assert len(callback.archive.steps) == 1


class Sizes(Stream):
    """Pictures of two sizes."""

    def __iter__(self) -> Any:
        for number, (image, label) in enumerate(super().__iter__()):
            yield (image if number // 4 % 2 == 0 else image[:, :7]), label


class AnySize(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential()  # type: ignore[assignment]
        self.net.relu2, self.net.pool = torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1)
        self.net.flat, self.net.head = torch.nn.Flatten(), torch.nn.Linear(4, 5)


@pytest.mark.parametrize("validation", [True, False])
def test_a_stream_of_two_sizes_stops_nobody(tmp_path: Path, validation: bool) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=6)
    data = [DataLoader(Sizes(2), 4), DataLoader(Sizes(3), 4)][: 1 + validation]
    trainer(tmp_path, callbacks=callback).fit(AnySize(), *data)
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)


def test_what_validate_took_from_another_stream_are_no_probes_of_the_fit(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=4)
    running, model = trainer(tmp_path, callbacks=callback), TinyModule()
    running.validate(model, DataLoader(Stream(9), 4), verbose=False)
    first = callback.probes
    running.fit(model, loaders()[0], loaders()[1])
    assert first is not None
    assert callback.probes is not None
    assert callback.probes.indices is not None
    assert callback.probes.fingerprint != first.fingerprint


def test_a_stream_can_follow_indexed_data_in_one_trainer(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", on_error="raise", num_probes=4)
    running, model = trainer(tmp_path, callbacks=callback), TinyModule()
    running.validate(model, loaders()[1], verbose=False)
    running.fit(model, loaders()[0], DataLoader(Stream(9), 4))
    assert callback.probes is not None
    assert callback.probes.indices is None
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)
