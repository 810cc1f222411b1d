"""Training with and without the callback ends in the same bits, in every set-up of `tests/setups.py`."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from lightning_gradcam import GradCAMCallback, MemorySink, ProbeSet, compute_cams
from tests.conftest import TinyModule, loaders, trainer
from tests.guard.test_model import assert_same
from tests.setups import LAYERS, SETUPS, Case, Setup, averaging, one_callback


class Recorder(Logger):
    """Keeps what is logged, without our own numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        kept = {key: value for key, value in metrics.items() if "_stats/" not in key}
        if kept:
            self.rows.append({"step": step, **kept})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def random_states() -> str:
    """All global random numbers, as one word."""
    states = [torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()]  # type: ignore[index,union-attr]
    return hashlib.sha256(b"".join([*states, repr(random.getstate()).encode()])).hexdigest()


class Watch(pl.Callback):
    """Notes what a training batch begins with, where accumulation is under way, and what validation leaves."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(
            {
                "batch": tree_map(torch.clone, batch[0]),
                "grads": {n: None if p.grad is None else p.grad.clone() for n, p in pl_module.named_parameters()},
                "requires_grad": [p.requires_grad for p in pl_module.parameters()],
                "random": random_states(),
                **look(pl_module),
            }
        )

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
        self.seen.append({"batch": tree_map(torch.clone, batch[0]), "random": random_states()})

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
        self.seen.append({"batch": tree_map(torch.clone, batch[0]), "random": random_states()})

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append({"random": random_states(), "grad mode": torch.is_grad_enabled(), **look(pl_module)})


def look(module: nn.Module) -> dict[str, Any]:
    """Modes and hooks."""
    return {
        "modes": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) + len(part._backward_hooks) for part in module.modules()],
    }


def run(setup: Setup, root: Path, ours: list[Any]) -> dict[str, Any]:
    """Does what the set-up says, and returns everything that it leaves."""
    watch, recorder = Watch(), Recorder()

    def make(**options: Any) -> pl.Trainer:
        callbacks = [watch, *options.pop("callbacks", []), *setup.others(), *ours, *setup.after()]
        settings = {"max_epochs": 3, "log_every_n_steps": 1, **setup.options, **options}
        return trainer(root, callbacks=callbacks, logger=recorder, **settings)

    root.mkdir(exist_ok=True)
    threads = thread_names()
    running, model = setup.run(Case(make, setup, root))
    return {
        "weights": model.state_dict(),
        "grads": {name: p.grad for name, p in model.named_parameters()},
        "optimizers": [flat(optimizer.state_dict()) for optimizer in running.optimizers],
        "schedulers": [flat(config.scheduler.state_dict()) for config in running.lr_scheduler_configs],
        "watched": [flat(seen) for seen in watch.seen],
        "metrics": {
            name: torch.as_tensor(value).clone()
            for name, value in running.callback_metrics.items()
            if "_stats/" not in name
        },
        "logged": recorder.rows,
        "random": random_states(),
        "threads": [torch.get_num_threads(), *thread_names() - threads],
        "look": look(model),
        "own": {name: getattr(model, name, None) for name in ("calls", "asked", "batch_size", "lr")},
        "private": model.generator.get_state() if hasattr(model, "generator") else None,
        "numbers": model.numbers.bit_generator.state if hasattr(model, "numbers") else None,
    }


def thread_names() -> set[str]:
    # tqdm's is there for the process's life, and a data loader's ends some time after its workers.
    others = ("tqdm_monitor", "QueueFeederThread", "Thread-")
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(others)}


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Flattens nested dicts and lists, so that tensors are compared as tensors."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{where}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for key, inner in enumerate(value) for k, v in flat(inner, f"{where}/{key}").items()}
    return {where: value}


def listed(value: Any) -> Any:
    """Lists of dicts as a dict, for the comparison."""
    return dict(enumerate(value)) if isinstance(value, list) else value


def assert_all_same(without: dict[str, Any], with_ours: dict[str, Any]) -> None:
    for part in without:
        assert_same(listed(without[part]), listed(with_ours[part]), part)


# Set-ups that differ from another one in a detail; .ci/run has them with the slow tests.
VARIANTS = {
    "no sanity check",
    "val_check_interval=0.5",
    "images of different sizes, batch_size=1",
    "torch.compile of the module",
    "new callbacks from configure_callbacks each time",
    "the same with augmentation",
    "the same, no sanity check",
    "samples indexed by name, no sanity check",
    "samples indexed by name, no validation",
    "IterableDataset, no sanity check",
    "IterableDataset, no validation",
    "lazy modules, no sanity check",
    "lazy modules, no validation",
    "lazy modules, no sanity check, augmentation, accumulation",
    "limit_val_batches=2",
    "two validation loaders, a list",
    "a sanity check on all batches",
    "a custom EMA callback, listed after",
    "weight averaging (EMA), listed after",
    "early stopping",
    "gradient clipping",
    "check_val_every_n_epoch=2",
    "a list as the sampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "the batch-size finder",
    "torch.compile of a part",
    "64-true",
    "images in tuples",
    "a module with generators, loaders requested late",
    "augmentation, two dataloader workers",
    "a custom EMA callback, listed before",
    "stochastic weight averaging",
    "overfit_batches=2",
    "batch_size=None",
    "a data set opened by workers",
    "a collate_fn that drops samples",
    "a learning-rate scheduler",
    "activation checkpointing, reentrant",
    "channels last",
    "named tuples of byte images, channels last, binary labels [N, 1] in a dict",
    "a sampler with generators and a list that it shuffles",
    "a custom batch sampler",
    "a sampler and overfit_batches=2",
    "a data set with only `__getitems__`",
    "images in tuples, of different sizes",
    "two modules with one Trainer",
    "a data set with hidden generators, split in two",
}
assert set(SETUPS) >= VARIANTS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in VARIANTS else ()) for name in SETUPS]
)
def test_training_ends_in_the_same_bits(tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder) -> None:
    setup = SETUPS[name]
    if setup.needs and not any(hasattr(place, setup.needs) for place in (pl.callbacks, torch.compiler)):
        pytest.skip(f"this Lightning or torch has no {setup.needs}")
    sink = MemorySink()
    with_ours = run(setup, tmp_path / "with", setup.ours(log_untrained=True, sinks=[sink], on_error="raise"))
    without = run(setup, tmp_path / "without", [])
    assert len({entry.step for entry in sink.entries}) >= setup.logged
    others = [str(w.message) for w in recwarn if "do not explain the validated weights" in str(w.message)]
    assert bool(others) == (name == "a custom EMA callback, listed before"), others
    assert len(without["watched"]) > 1
    assert_all_same(without, with_ours)


# Whatever else is trained, .ci/nightly checks the maps of it.
CHECKED = {
    "dropout, batch norm, shuffling": (),
    **dict.fromkeys(["augmentation", "weight averaging (EMA), listed before", "bf16-mixed"], pytest.mark.slow),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=CHECKED.get(name, pytest.mark.nightly)) for name in SETUPS])
def test_training_ends_in_the_same_bits_when_the_maps_are_checked(tmp_path: Path, name: str) -> None:
    setup = SETUPS[name]
    if setup.needs and not any(hasattr(place, setup.needs) for place in (pl.callbacks, torch.compiler)):
        pytest.skip(f"this Lightning or torch has no {setup.needs}")
    with_ours = run(setup, tmp_path / "with", setup.ours(check=True))
    if name in CHECKED:
        assert [path.name for path in tmp_path.rglob("check.json")] == ["check.json"]
    assert_all_same(run(setup, tmp_path / "without", []), with_ours)


@pytest.mark.parametrize(
    "name",
    [
        "augmentation",
        pytest.param("early stopping", marks=pytest.mark.slow),
        pytest.param("resumed inside an epoch", marks=pytest.mark.slow),
        pytest.param("validate, fit and test with one Trainer", marks=pytest.mark.slow),
        pytest.param("weight averaging (EMA), listed before", marks=pytest.mark.slow),
        pytest.param("no validation loader", marks=pytest.mark.slow),
        pytest.param("new callbacks from configure_callbacks each time", marks=pytest.mark.slow),
    ],
)
def test_training_ends_in_the_same_bits_where_numbers_may_steer(tmp_path: Path, name: str) -> None:
    setup = SETUPS[name]
    if setup.needs and not any(hasattr(place, setup.needs) for place in (pl.callbacks, torch.compiler)):
        pytest.skip(f"this Lightning or torch has no {setup.needs}")
    without = run(setup, tmp_path / "without", [])
    # The probes of a set-up have no masks, without which there is no alarm.
    steered = setup.ours(monitor=True, on_alarm="warn", on_error="raise")
    assert_all_same(without, run(setup, tmp_path / "with", steered))


@pytest.mark.parametrize("place", ["forward", "target", "sink"])
def test_training_ends_in_the_same_bits_when_explaining_fails(tmp_path: Path, place: str) -> None:
    """The model's forward, a target or a sink raises whenever it is us who call."""
    broken = {"now": False}

    class Failing(TinyModule):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            if broken["now"] and place == "forward" and torch.is_grad_enabled() and not self.training:
                raise RuntimeError("forward fails")
            return output

    def target(output: Tensor) -> Tensor:
        if broken["now"] and place == "target":
            raise RuntimeError("target fails")
        return output[:, 0]

    class FailingSink(MemorySink):
        def log(self, entry: Any) -> None:
            if broken["now"] and place == "sink":
                raise RuntimeError("sink fails")

    class Breaker(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            broken["now"] = True

    ours = [GradCAMCallback("net.conv1", targets=target, sinks=[FailingSink()]), Breaker()]
    without = run(Setup(), tmp_path / "without", [])
    what = "the sink FailingSink" if place == "sink" else "explaining"
    with pytest.warns(UserWarning, match=f"(?s){what} failed at step 4 and is tried again.*{place} fails"):
        with_ours = run(Setup(Failing), tmp_path / "with", ours)
    assert_all_same(without, with_ours)


@pytest.mark.parametrize("before", [True, False], ids=["listed before", "listed after"])
def test_averaged_weights_are_explained_where_these_are_validated(tmp_path: Path, before: bool) -> None:
    if not hasattr(pl.callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging")
    (callback,) = one_callback(on_error="raise")
    weights: list[Any] = []

    class Validated(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            if batch_idx == 0 and not self.trainer.sanity_checking:
                weights.append({name: value.clone() for name, value in self.state_dict().items()})

    others = [*averaging(), callback] if before else [callback, *averaging()]
    pl.seed_everything(0, verbose=False)
    trainer(tmp_path, callbacks=others, max_epochs=2).fit(Validated(), *loaders())
    archive, probes = callback.archive, callback.probes
    assert archive is not None
    assert probes is not None
    assert archive.steps == (4, 9)
    module = TinyModule()
    for index, validated in enumerate(weights):
        module.load_state_dict(validated)
        cams = compute_cams(module, probes.inputs, LAYERS, relu=False)
        for layer in LAYERS:
            found = torch.from_numpy(np.array(archive.record(index).maps[layer, "gradcam", "predicted"]))
            torch.testing.assert_close(found, cams[layer, "gradcam", "predicted"], atol=1e-6, rtol=1e-5)


def test_averaged_weights_that_cannot_be_explained_are_said(tmp_path: Path) -> None:
    """A validation step that takes the batches itself does not show which one is the last."""
    if not hasattr(pl.callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging")

    class Taking(TinyModule):
        def validation_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
            super().validation_step(next(dataloader_iter)[0], 0)

    callback = GradCAMCallback(LAYERS, on_error="raise")
    running = trainer(tmp_path, callbacks=[*averaging(), callback], max_epochs=2)
    with pytest.warns(UserWarning, match="not the averaged ones that were validated.*before WeightAveraging") as caught:
        running.fit(Taking(), *loaders())
    assert len([w for w in caught if "not the averaged ones" in str(w.message)]) == 1
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)


class Advancing(Dataset[Any]):
    """Gives the next of its iterator, whatever the index."""

    def __init__(self) -> None:
        self.samples = iter(torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(3)))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return next(self.samples), index % 5


class CachedRandom(Dataset[Any]):
    """Makes each sample once, at random."""

    def __init__(self) -> None:
        self.made = lru_cache(lambda index: torch.rand(1, 8, 8))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return self.made(index), index % 5


@pytest.mark.parametrize("data", [Advancing, CachedRandom])
def test_data_that_drawing_cannot_leave_alone_is_left_alone_where_probes_are_given(
    tmp_path: Path, data: Callable[[], Dataset[Any]]
) -> None:
    """The exceptions that the README names, and the way around them."""
    setup = Setup(data=lambda: (loaders()[0], DataLoader(data(), 4)), options={"num_sanity_val_steps": 0})
    without = run(setup, tmp_path / "without", [])
    given = [GradCAMCallback(LAYERS, probes=ProbeSet(torch.rand(3, 1, 8, 8)), on_error="raise")]
    assert_all_same(without, run(setup, tmp_path / "given", given))
    with pytest.raises(AssertionError):
        assert_all_same(without, run(setup, tmp_path / "drawn", [GradCAMCallback(LAYERS, on_error="raise")]))
