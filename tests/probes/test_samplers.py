"""Probes are samples that the loader goes through, and nobody's sampler is advanced to find out which."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from lightning_gradcam import GradCAMCallback
from lightning_gradcam.probes.samplers import UnindexedError, sampled
from tests.callbacks.test_purity import random_states
from tests.conftest import TinyModule, loaders, named, tiny_data, trainer
from tests.setups import NAMES, Batches, ManyLoaders, Named, Opened, Several, Shuffled, Stream, Uncopied, both

DATA = tiny_data(32)


class Endless(Sampler[int]):
    """Never stops."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from (3, 1, 3)


class Every(DistributedSampler[Any]):
    """A user's own: its rank's part of the even samples."""

    def __iter__(self) -> Iterator[Any]:
        return iter([*range(0, 32, 2)][self.rank :: self.num_replicas])


class Own:
    """A batch sampler that derives from nothing."""

    def __iter__(self) -> Iterator[Any]:
        yield [4, 5]
        yield np.array([9])


class Holding(Sampler[int]):
    """Goes through a large data set that it holds, in the order of its labels."""

    def __init__(self, data: Any) -> None:
        self.data, self.others = data, Uncopiable()

    def __iter__(self) -> Iterator[int]:
        return iter([int(label) for _, label in self.data][:3])


class Uncopiable(torch.utils.data.Dataset[Any]):
    """Data that must not be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("the data is copied")


def uncopied() -> Uncopied:
    return Uncopied(30, torch.Generator(), np.random.default_rng())


def distributed(sampler: Any, rank: int) -> Any:
    from lightning_fabric.utilities.distributed import DistributedSamplerWrapper

    return DistributedSamplerWrapper(sampler, num_replicas=2, rank=rank)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, range(32)),
        ({"shuffle": True}, range(32)),
        ({"sampler": SequentialSampler(range(9))}, range(9)),
        ({"sampler": RandomSampler(DATA, replacement=True, num_samples=4)}, range(32)),
        ({"sampler": SubsetRandomSampler(torch.tensor([9, 7]))}, [7, 9]),
        ({"sampler": WeightedRandomSampler([0.0, 1.0, 0.0, 0.5], 2)}, [1, 3]),
        ({"sampler": [5, 3, 5]}, [3, 5]),
        ({"sampler": range(4, 20)}, range(4, 20)),
        ({"sampler": np.array([3, 2])}, [2, 3]),
        ({"sampler": Endless()}, [1, 3]),
        ({"sampler": Holding(DATA)}, [0, 1, 2]),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler([8, 1]), 2, drop_last=True)}, [1, 8]),
        ({"batch_sampler": [[2], (3, 4)]}, [2, 3, 4]),
        ({"batch_sampler": Own()}, [4, 5, 9]),
        *[({"sampler": DistributedSampler(DATA, 2, rank)}, range(32)) for rank in (0, 1)],
        *[({"sampler": Every(DATA, 2, rank)}, range(0, 32, 4)) for rank in (0, 1)],
        *[({"sampler": distributed(SubsetRandomSampler([8, 1]), rank)}, [1, 8]) for rank in (0, 1)],
    ],
    ids=named,
)
def test_samples_of_a_loader(options: dict[str, Any], expected: Any) -> None:
    before = random_states()
    assert [*sampled(DataLoader(DATA, **options))] == [*expected]
    assert random_states() == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch_size": None}, "batch_size=None"),
        ({"sampler": ["a", "b"]}, "yields str"),
        ({"sampler": [(0, 64), (1, 64)]}, "yields tuple"),
        ({"sampler": [(0, 64), (1,)]}, "yields tuple"),
        ({"sampler": [3, 1000]}, "outside 0 to 31"),
        ({"sampler": [-1, 3]}, "outside 0 to 31"),
        ({"sampler": []}, "yields nothing"),
        ({"batch_sampler": [{"a": 3}]}, "yields dict"),
        ({"sampler": uncopied()}, "Uncopied can't be copied .*lock"),
        ({"sampler": Shuffled(0, torch.Generator(), np.random.default_rng())}, "yields nothing"),
    ],
    ids=named,
)
def test_only_batches_tell_what_is_not_numbered(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UnindexedError, match=f"probes: .*{why}"):
        sampled(DataLoader(DATA, **options))


def test_a_copy_that_holds_the_model_is_not_made() -> None:
    sampler = Shuffled(9, torch.Generator(), np.random.default_rng())
    sampler.model = TinyModule()  # type: ignore[attr-defined]
    with pytest.raises(UnindexedError, match="Shuffled contains a model"):
        sampled(DataLoader(DATA, sampler=sampler))


def test_a_sampler_and_its_generators_are_not_advanced() -> None:
    def make() -> Shuffled:
        return Shuffled(20, torch.Generator().manual_seed(1), np.random.default_rng(1))

    sampler, other = make(), make()
    first = sampled(DataLoader(DATA, sampler=sampler))
    torch.rand(7)
    assert [*sampled(DataLoader(DATA, sampler=sampler))] == [*first], "depends on the global random numbers"
    assert (sampler.order, sampler.calls) == (other.order, other.calls)
    assert torch.equal(sampler.generator.get_state(), other.generator.get_state())
    assert sampler.numbers.bit_generator.state == other.numbers.bit_generator.state


# ---- in training


def fitted(root: Path, train: Any, val: Any, model: Any = None, **options: Any) -> GradCAMCallback:
    callback = GradCAMCallback("net.relu2", num_probes=options.pop("num_probes", 8), on_error="raise")
    pl.seed_everything(1, verbose=False)
    trainer(root, callbacks=callback, **options).fit(model or TinyModule(), train, val)
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)
    return callback


@pytest.mark.parametrize("sanity", [2, 0])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4, "sampler": SubsetRandomSampler(range(24, 32))},
        {"batch_size": 4, "sampler": [*range(31, 23, -1)]},
        {"batch_sampler": [[24, 25, 26, 27], [28, 29, 30, 31]]},
    ],
    ids=["subset", "list", "batches"],
)
def test_no_probe_is_a_training_sample(tmp_path: Path, options: dict[str, Any], sanity: int) -> None:
    train = DataLoader(DATA, 8, sampler=SubsetRandomSampler(range(24)))
    limits = {"limit_val_batches": 1, "num_sanity_val_steps": sanity}
    callback = fitted(tmp_path, train, DataLoader(DATA, **options), **limits)
    assert callback.probes is not None
    assert callback.probes.indices is not None
    assert sorted(callback.probes.indices) == [*range(24, 32)]


def test_a_sampler_of_fewer_samples_than_probes_gives_what_it_has(tmp_path: Path) -> None:
    val = DataLoader(DATA, 8, sampler=SubsetRandomSampler([9, 4, 6]))
    with pytest.warns(UserWarning, match="num_probes: got 8, but the loader has only 3 samples; all of them are used"):
        callback = fitted(tmp_path, loaders()[0], val)
    assert callback.probes is not None
    assert sorted(callback.probes.indices or ()) == [4, 6, 9]


@pytest.mark.parametrize("batches", [2, 0.25])
@pytest.mark.parametrize("sanity", [2, 0])
def test_probes_are_of_the_batches_that_are_overfitted(tmp_path: Path, batches: Any, sanity: int) -> None:
    # Lightning takes the samples in the data set's order then, whatever the sampler says.
    train, val = both(lambda seed: DataLoader(tiny_data(32, seed), 4, sampler=SubsetRandomSampler(range(16, 32))))
    callback = fitted(tmp_path, train, val, overfit_batches=batches, num_sanity_val_steps=sanity, num_probes=4)
    assert callback.probes is not None
    assert max(callback.probes.indices or ()) < (8 if batches == 2 else 4 * 2)


def test_the_first_of_several_loaders_tells(tmp_path: Path) -> None:
    from pytorch_lightning.utilities import CombinedLoader

    parts = [DataLoader(DATA, 4, sampler=range(at, at + 8)) for at in (16, 24)]
    for number, val in enumerate((parts, CombinedLoader(parts, "sequential"))):
        callback = fitted(tmp_path / str(number), loaders()[0], val, ManyLoaders())
        assert callback.probes is not None
        assert sorted(callback.probes.indices or ()) == [*range(16, 24)]


def test_a_resumed_run_keeps_its_samples(tmp_path: Path) -> None:
    def val() -> DataLoader[Any]:
        return DataLoader(DATA, 8, sampler=SubsetRandomSampler(range(16, 32)))

    first = GradCAMCallback("net.relu2", num_probes=5, on_error="raise")
    running = trainer(tmp_path / "first", callbacks=first, max_epochs=1)
    running.fit(TinyModule(), loaders()[0], val())
    running.save_checkpoint(tmp_path / "one.ckpt")
    second = GradCAMCallback("net.relu2", num_probes=5, on_error="raise")
    other = trainer(tmp_path / "second", callbacks=second, max_epochs=2)
    other.fit(TinyModule(), loaders()[0], val(), ckpt_path=str(tmp_path / "one.ckpt"))
    assert first.probes is not None
    assert second.probes is not None
    assert second.probes.indices == first.probes.indices


# ---- what can't be indexed


class Sized(Named):
    """Its keys are an index and a size, known once a worker asks for them."""

    def __getitem__(self, key: Any) -> Any:
        return self.inner[key[0]][0][:, : key[1]], self.targets[key[0]]


class InWorkers(Named):
    """Asks for its worker."""

    def __getitem__(self, index: Any) -> Any:
        return self.inner[index + 0 * torch.utils.data.get_worker_info().id]  # type: ignore[union-attr]


class Holes(Named):
    """Some of its samples are missing."""

    def __getitem__(self, index: Any) -> Any:
        return None if index % 2 else self.inner[index]


def kept(samples: list[Any]) -> Any:
    return default_collate([sample for sample in samples if sample])


def doubled(samples: list[Any]) -> Any:
    return default_collate([*samples, *samples])


def refilled(samples: list[Any]) -> Any:
    return default_collate([*samples[1:], samples[1]])


def first_of(samples: list[Any]) -> Any:
    return samples[0]


class Met(TinyModule):
    """Keeps what validation gets."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[Any] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.met.append(batch[0].clone())


UNINDEXED: dict[str, tuple[Callable[[int], Any], str]] = {
    "names": (lambda seed: DataLoader(Named(seed), 4, sampler=NAMES), "the sampler yields str instead of indices"),
    "sizes": (lambda seed: DataLoader(Sized(seed), 4, sampler=[(i, 8) for i in range(40)]), "the sampler yields tuple"),
    "several at once": (lambda seed: DataLoader(Several(seed), 4), "Several can't be indexed by"),
    "opened": (
        lambda seed: DataLoader(Opened(seed), 4, num_workers=1, worker_init_fn=Opened.open),
        "Opened can't be indexed by .*NoneType",
    ),
    "workers": (lambda seed: DataLoader(InWorkers(seed), 4, num_workers=1), "InWorkers can't be indexed by"),
    "batches": (lambda seed: DataLoader(Batches(seed), None), "with batch_size=None, the data set makes the batches"),
    "dropped": (lambda seed: DataLoader(Holes(seed), 4, collate_fn=kept), "returned . samples for 4 indices"),
    "doubled": (
        lambda seed: DataLoader(tiny_data(40, seed), 4, collate_fn=doubled),
        "returned 8 samples for 4 indices",
    ),
    "refilled": (
        lambda seed: DataLoader(tiny_data(40, seed), 4, collate_fn=refilled),
        "collate_fn replaces samples with others",
    ),
    "batches as items": (
        lambda seed: DataLoader([tiny_data(40, seed)[n : n + 4] for n in range(0, 40, 4)], 1, collate_fn=first_of),
        "collate_fn replaces samples with others",
    ),
    "locked": (
        lambda seed: DataLoader(
            tiny_data(40, seed), 4, sampler=Uncopied(30, torch.Generator(), np.random.default_rng())
        ),
        "Uncopied can't be copied",
    ),
    "stream": (lambda seed: DataLoader(Stream(seed), 4), "the data set can't be indexed"),
}


@pytest.mark.parametrize("sanity", [2, 0])
@pytest.mark.parametrize("kind", UNINDEXED)
def test_the_first_samples_that_pass_by_are_taken_and_it_is_said_in_one_line(
    tmp_path: Path, kind: str, sanity: int, caplog: pytest.LogCaptureFixture
) -> None:
    make, why = UNINDEXED[kind]
    caplog.set_level("INFO")
    model = Met()
    callback = fitted(tmp_path, *both(make), model, num_sanity_val_steps=sanity, num_probes=4)
    assert callback.probes is not None
    assert torch.equal(callback.probes.inputs, torch.cat(model.met)[:4])
    assert callback.probes.labels is not None
    said = [
        record.getMessage()
        for record in caplog.records
        if "the first samples that the loader yields" in record.getMessage()
    ]
    assert len(said) == 1
    assert re.search(why, said[0])
    assert "\n" not in said[0]


def test_a_wrong_key_still_ends_the_run_before_its_first_step(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2", input_key="image")
    train, val = both(lambda seed: DataLoader(Named(seed), 4, sampler=NAMES))
    with pytest.raises(Exception, match="input_key: 'image' is not in the batch"):
        trainer(tmp_path, callbacks=callback).fit(TinyModule(), train, val)
