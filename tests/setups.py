"""The set-ups that training is tried in, with the callback and without: `tests/callbacks/test_purity.py`,
`docs/setups.md`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset, random_split

from lightning_gradcam import GradCAMCallback
from tests.conftest import CLASSES, TinyModule, loaders, tiny_data

LAYERS = ["net.conv1", "net.relu2"]


# ---- data


class Augmented(Dataset[tuple[Tensor, int]]):
    """Augments at random from every global generator, on each access."""

    def __init__(self, seed: int = 1) -> None:
        self.inner = tiny_data(seed=seed)
        self.targets = self.inner.tensors[1]

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.inner[index]
        noise = torch.rand(1) + float(np.random.rand()) + random.random()
        return image * (0.5 + noise / 3), int(label)


class Hidden(Dataset[tuple[Tensor, int]]):
    """Augments from a generator inside a closure inside a dict."""

    def __init__(self, seed: int) -> None:
        self.inner = tiny_data(seed=seed)
        generator = np.random.default_rng(seed)
        self.tools = {"noise": lambda: float(generator.random())}

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.inner[index]
        return image * self.tools["noise"](), int(label)


class Stream(IterableDataset[Any]):
    """Can only be iterated, and counts how often that is done."""

    def __init__(self, seed: int = 1) -> None:
        self.inner = tiny_data(seed=seed)
        self.begun = 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        for image, label in self.inner:
            yield image * (0.5 + torch.rand(1)), label


def augmented_loaders(**options: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(Augmented(), 8, shuffle=True, **options), DataLoader(Augmented(2), 8, **options)


def split_loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation are two parts of one data set, with one generator."""
    training, validation = random_split(Hidden(1), [24, 16], torch.Generator().manual_seed(0))
    return DataLoader(training, 8, shuffle=True), DataLoader(validation, 8)


def several(kind: type[list[Any]] | type[dict[str, Any]]) -> tuple[DataLoader[Any], Any]:
    """Two validation loaders."""
    first, second = (DataLoader(Augmented(seed), 8) for seed in (2, 3))
    return DataLoader(Augmented(), 8, shuffle=True), [first, second] if kind is list else {"a": first, "b": second}


# ---- modules


class Plain(TinyModule):
    """Neither dropout nor batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.net.drop, self.net.norm1 = nn.Identity(), nn.Identity()  # type: ignore[assignment]


class Counting(TinyModule):
    """Logs in its forward, counts its calls, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.log("forward_mean", x.mean())
        return super().forward(x)


class Scheduled(TinyModule):
    """With a learning-rate scheduler."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Manual(TinyModule):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net.conv1.parameters(), 0.1), torch.optim.Adam(self.net.head.parameters(), 0.01)]


class FrozenNorm(TinyModule):
    """Keeps its batch norm in evaluation mode while training."""

    def on_train_epoch_start(self) -> None:
        self.net.norm1.eval()


class FrozenBackbone(TinyModule):
    """Trains its head alone."""

    def __init__(self) -> None:
        super().__init__()
        for part in (self.net.conv1, self.net.norm1, self.net.conv2):
            part.requires_grad_(False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.head.parameters(), 0.01)


class Stateful(TinyModule):
    """Its loaders, its augmentation and its forward draw from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)
        self.numbers = np.random.default_rng(5)
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(1, generator=self.generator)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Hidden(3), 8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        self.asked += 1
        return DataLoader(Hidden(int(self.numbers.integers(100))), 8)


class Lazy(TinyModule):
    """Its parameters are drawn in the first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential()  # type: ignore[assignment]
        self.net.conv1, self.net.norm = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()
        self.net.relu2, self.net.drop = nn.ReLU(), nn.Dropout(0.3)
        self.net.flat, self.net.head = nn.Flatten(), nn.LazyLinear(5)


class ManyLoaders(TinyModule):
    """Validates on several loaders."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


class ChannelsLast(TinyModule):
    """Its weights and pictures are kept with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(memory_format=torch.channels_last))


class PartCompiled(TinyModule):
    """Its second convolution and what follows go through `torch.compile`."""

    def __init__(self) -> None:
        super().__init__()
        self.net.conv2 = torch.compile(self.net.conv2, backend="aot_eager")  # type: ignore[assignment]


class Checkpointed(TinyModule):
    """Computes its first convolution again in the backward."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        # The reentrant kind passes gradients back only where its input asks for one.
        x = x.detach().requires_grad_(torch.is_grad_enabled())
        x = checkpoint(lambda y: net.norm1(net.conv1(y)), x, use_reentrant=self.reentrant)
        x = net.relu2(net.conv2(net.drop(net.relu1(x))))
        logits: Tensor = net.head(x.flatten(1))
        return logits


class CheckpointedReentrant(Checkpointed):
    """Likewise, by the reentrant kind."""

    reentrant = True


class Sized(TinyModule):
    """Has a batch size and a learning rate that can be searched for."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size, self.lr = 4, 1e-3

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(2), self.batch_size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


# ---- what is done with a trainer


@dataclass(frozen=True)
class Case:
    """One of the two runs of a set-up.

    Attributes:
        trainer: Makes a Trainer with the set-up's options, and further ones.
        setup: The set-up.
        root: A folder of its own.
    """

    trainer: Callable[..., pl.Trainer]
    setup: Setup
    root: Path

    def model(self) -> pl.LightningModule:
        """A fresh module, from a fixed seed."""
        pl.seed_everything(7, verbose=False)
        return self.setup.module()


def fit(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    model, trainer = case.model(), case.trainer()
    trainer.fit(model, *case.setup.data())
    return trainer, model


def fit_compiled(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    model, trainer = case.model(), case.trainer()
    trainer.fit(torch.compile(model, backend="aot_eager"), *case.setup.data())  # type: ignore[arg-type]
    return trainer, model


def resume(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    model, trainer = case.model(), case.trainer(max_epochs=2)
    trainer.fit(model, *case.setup.data())
    trainer.save_checkpoint(case.root / "half.ckpt")
    model, trainer = case.model(), case.trainer(max_epochs=4)
    trainer.fit(model, *case.setup.data(), ckpt_path=str(case.root / "half.ckpt"))
    return trainer, model


def resume_inside_an_epoch(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    keep = ModelCheckpoint(case.root, filename="{step}", every_n_train_steps=7, save_top_k=-1)
    model, trainer = case.model(), case.trainer(max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(model, *case.setup.data())
    model, trainer = case.model(), case.trainer(max_epochs=3)
    trainer.fit(model, *case.setup.data(), ckpt_path=str(case.root / "step=7.ckpt"))
    return trainer, model


def validate(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    model, trainer = case.model(), case.trainer()
    trainer.validate(model, case.setup.data()[1])
    return trainer, model


def test(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    model, trainer = case.model(), case.trainer()
    trainer.test(model, case.setup.data()[1])
    return trainer, model


def _checkpoint(case: Case) -> str:
    path = case.root / "trained.ckpt"
    model = case.model()
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=case.root,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        max_epochs=1,
    )
    trainer.fit(model, *case.setup.data())
    trainer.save_checkpoint(path)
    return str(path)


def validate_a_checkpoint(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    path, model, trainer = _checkpoint(case), case.model(), case.trainer()
    trainer.validate(model, case.setup.data()[1], ckpt_path=path)
    return trainer, model


def test_a_checkpoint(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    path, model, trainer = _checkpoint(case), case.model(), case.trainer()
    trainer.test(model, case.setup.data()[1], ckpt_path=path)
    return trainer, model


def validate_fit_and_test(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    model, trainer, (train, val) = case.model(), case.trainer(), case.setup.data()
    trainer.validate(model, val)
    trainer.fit(model, train, val)
    trainer.test(model, val)
    return trainer, model


# `pytest` would take these for tests.
for _function in (test, test_a_checkpoint):
    _function.__test__ = False  # type: ignore[attr-defined]


# ---- the set-ups


def one_callback(**options: Any) -> list[GradCAMCallback]:
    return [GradCAMCallback(LAYERS, targets=["predicted", "label"], methods=["gradcam", "layercam"], **options)]


def two_callbacks(**options: Any) -> list[GradCAMCallback]:
    first = GradCAMCallback("net.conv1", name="first", num_probes=5, **options)
    return [first, GradCAMCallback("net.relu2", name="second", methods=["scorecam", "guided_gradcam"], **options)]


@dataclass(frozen=True)
class Setup:
    """One set-up.

    Attributes:
        module: Makes the module.
        data: Makes what `fit` is called with.
        options: Of the Trainer.
        others: Makes the callbacks that are listed before ours.
        after: Makes those that are listed after ours.
        run: What is done.
        ours: Makes our callbacks.
        logged: How many steps are logged, at least.
        needs: A name in `pytorch_lightning.callbacks` or `torch.compiler` that older versions lack.
    """

    module: Callable[[], pl.LightningModule] = TinyModule
    data: Callable[[], Any] = loaders
    options: dict[str, Any] = field(default_factory=dict)
    others: Callable[[], list[Any]] = list
    after: Callable[[], list[Any]] = list
    run: Callable[[Case], tuple[pl.Trainer, pl.LightningModule]] = fit
    ours: Callable[..., list[GradCAMCallback]] = one_callback
    logged: int = 2
    needs: str = ""


def averaging() -> list[Any]:
    from pytorch_lightning.callbacks import EMAWeightAveraging

    return [EMAWeightAveraging(decay=0.9)]


INSIDE = {"accumulate_grad_batches": 4, "val_check_interval": 2}
LATE: dict[str, Any] = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "max_epochs": 4}

SETUPS: dict[str, Setup] = {
    "plain": Setup(Plain),
    "dropout, batch norm, shuffling": Setup(),
    "frozen batch norm in a training model": Setup(FrozenNorm),
    "a fully frozen backbone": Setup(FrozenBackbone),
    "augmentation": Setup(data=augmented_loaders),
    "augmentation, two dataloader workers": Setup(data=lambda: augmented_loaders(num_workers=2)),
    "a data set with hidden generators, split in two": Setup(data=split_loaders),
    "accumulate_grad_batches=4, val_check_interval=2": Setup(options=INSIDE),
    "the same with augmentation": Setup(data=augmented_loaders, options=INSIDE),
    "val_check_interval=0.5": Setup(options={"val_check_interval": 0.5}),
    "check_val_every_n_epoch=2": Setup(options={"check_val_every_n_epoch": 2, "max_epochs": 4}),
    "no sanity check": Setup(data=augmented_loaders, options={"num_sanity_val_steps": 0}),
    "a sanity check on all batches": Setup(data=augmented_loaders, options={"num_sanity_val_steps": -1}),
    "a forward that logs and counts": Setup(Counting),
    "a learning-rate scheduler": Setup(Scheduled),
    "manual optimization, two optimizers": Setup(Manual),
    "weight averaging (EMA), listed before": Setup(others=averaging, needs="EMAWeightAveraging"),
    "weight averaging (EMA), listed after": Setup(after=averaging, needs="EMAWeightAveraging"),
    "stochastic weight averaging": Setup(
        Scheduled, others=lambda: [StochasticWeightAveraging(1e-2, swa_epoch_start=1)], options={"max_epochs": 4}
    ),
    "gradient clipping": Setup(options={"gradient_clip_val": 0.1}),
    "bf16-mixed": Setup(options={"precision": "bf16-mixed"}),
    "bf16-true": Setup(options={"precision": "bf16-true"}),
    "64-true": Setup(options={"precision": "64-true"}),
    "torch.compile of the module": Setup(run=fit_compiled, needs="set_stance"),
    "torch.compile of a part": Setup(PartCompiled, needs="set_stance"),
    "activation checkpointing": Setup(Checkpointed),
    "activation checkpointing, reentrant": Setup(
        CheckpointedReentrant, ours=lambda **options: [GradCAMCallback(["net.relu1", "net.relu2"], **options)]
    ),
    "channels last": Setup(ChannelsLast),
    "lazy modules": Setup(Lazy),
    "lazy modules, no sanity check": Setup(Lazy, options={"num_sanity_val_steps": 0}),
    "lazy modules, no sanity check, augmentation, accumulation": Setup(
        Lazy,
        augmented_loaders,
        {"num_sanity_val_steps": 0, "accumulate_grad_batches": 3, "val_check_interval": 2},
    ),
    "lazy modules, no validation": Setup(Lazy, lambda: loaders()[:1], {"num_sanity_val_steps": 0}),
    "a module with generators, loaders asked for late": Setup(Stateful, lambda: (), LATE),
    "a module with generators, loaders asked for again and again": Setup(
        Stateful, lambda: (), {"reload_dataloaders_every_n_epochs": 1, **LATE}
    ),
    "two validation loaders, a list": Setup(ManyLoaders, lambda: several(list)),
    "two validation loaders, a dict": Setup(ManyLoaders, lambda: several(dict)),
    "IterableDataset": Setup(data=lambda: (DataLoader(Stream(1), 8), DataLoader(Stream(2), 4))),
    "IterableDataset, no sanity check": Setup(
        data=lambda: (DataLoader(Stream(1), 8), DataLoader(Stream(2), 4)), options={"num_sanity_val_steps": 0}
    ),
    "IterableDataset, no validation": Setup(data=lambda: (DataLoader(Stream(1), 8),)),
    "no validation loader": Setup(data=lambda: loaders()[:1]),
    "limit_val_batches=0": Setup(data=augmented_loaders, options={"limit_val_batches": 0}),
    "limit_val_batches=2": Setup(data=augmented_loaders, options={"limit_val_batches": 2}),
    "fast_dev_run": Setup(data=augmented_loaders, options={"fast_dev_run": 2}, logged=1),
    "overfit_batches=2": Setup(data=augmented_loaders, options={"overfit_batches": 2}),
    "the learning-rate finder": Setup(
        Sized, lambda: (), others=lambda: [LearningRateFinder(num_training_steps=6)], options={"max_epochs": 3}
    ),
    "the batch-size finder": Setup(
        Sized, lambda: (), others=lambda: [BatchSizeFinder(steps_per_trial=2, max_trials=2)], options={"max_epochs": 3}
    ),
    "early stopping": Setup(
        others=lambda: [EarlyStopping("val_loss", patience=0, min_delta=10.0)], options={"max_epochs": 6}
    ),
    "trainer.validate alone": Setup(run=validate, logged=1),
    "trainer.validate with ckpt_path": Setup(run=validate_a_checkpoint, logged=1),
    "trainer.test alone": Setup(run=test, logged=1),
    "trainer.test with ckpt_path": Setup(run=test_a_checkpoint, logged=1),
    "validate, fit and test with one Trainer": Setup(run=validate_fit_and_test, data=augmented_loaders),
    "resumed": Setup(data=augmented_loaders, run=resume),
    "resumed inside an epoch": Setup(data=augmented_loaders, run=resume_inside_an_epoch),
    "two callbacks with different layers": Setup(ours=two_callbacks),
}
assert CLASSES == 5

# Title and test of what `docs/setups.md` lists besides, by heading.
_TOGETHER = "tests/callbacks/test_distributed.py::test_training_ends_in_the_same_bits_and_maps_are_those_of_one_process"
_ON_ALL = "tests/callbacks/test_distributed.py::test_what_fails_on_all_ranks_is_reported_and_training_goes_on"
_IN_BOTH = "tests/callbacks/test_namespaces.py::test_the_callback_works_in_both_namespaces"
_FAULTS = "tests/pipeline/test_faults.py::test_"
PROCESSES: dict[str, list[tuple[str, str]]] = {
    "two processes (gloo)": [
        ("DDP: the same bits on both ranks, the maps of one process, one set of files", f"{_TOGETHER}[ddp]"),
        ("`ModelParallelStrategy`, `fully_shard` (FSDP2): likewise", f"{_TOGETHER}[sharded]"),
        (
            "DDP: a wrong configuration ends both ranks before the first step",
            "tests/callbacks/test_distributed.py::test_a_wrong_configuration_ends_all_ranks_before_the_first_step[ddp]",
        ),
        (
            "FSDP2: likewise",
            "tests/callbacks/test_distributed.py::test_a_wrong_configuration_ends_all_ranks_before_the_first_step[sharded]",
        ),
        ("DDP: the model fails where we explain; training goes on", f"{_ON_ALL}[ddp-norm1]"),
        ("FSDP2: it fails on all ranks; training goes on", f"{_ON_ALL}[sharded-norm1]"),
        (
            "FSDP2: one rank fails before the shared forward; training goes on",
            "tests/callbacks/test_distributed.py"
            "::test_what_fails_on_one_rank_before_the_shared_forward_is_reported_and_training_goes_on",
        ),
        (
            "FSDP2: one rank fails in the middle of it; the run ends, nobody waits for ever",
            "tests/callbacks/test_distributed.py"
            "::test_a_rank_that_fails_in_the_middle_of_a_shared_forward_leaves_no_other_waiting_for_ever[1]",
        ),
        (
            "DDP with an `IterableDataset`",
            "tests/callbacks/test_distributed.py::test_a_stream_is_explained_on_replicated_ranks",
        ),
        *(
            (
                f"`{strategy}`: the process that launched them opens the record",
                "tests/callbacks/test_ending.py"
                "::test_processes_of_the_strategys_own_leave_the_record_to_the_one_that_launched_them"
                f"[{strategy}]",
            )
            for strategy in ("ddp_spawn", "ddp_fork", "ddp_notebook")
        ),
    ],
    "both namespaces": [
        (f"`{namespace}`, {way}", f"{_IN_BOTH}[{namespace}-{way}]")
        for namespace in ("pytorch_lightning", "lightning.pytorch")
        for way in ("alone", "in a list", "LightningCLI")
    ],
    "faults: training goes on, the record stays whole": [
        (
            "the model raises in our forward",
            "tests/callbacks/test_purity.py::test_training_ends_in_the_same_bits_when_explaining_fails[forward]",
        ),
        (
            "a logger raises",
            "tests/callbacks/test_purity.py::test_training_ends_in_the_same_bits_when_explaining_fails[sink]",
        ),
        (
            "a logger hangs",
            "tests/pipeline/test_background.py::test_a_logger_that_blocks_hangs_neither_the_training_nor_its_end",
        ),
        ("weights become NaN", f"{_FAULTS}weights_that_become_nan_are_recorded_as_they_are_and_training_goes_on"),
        (
            "the disk is full from some step on",
            f"{_FAULTS}a_disk_that_stays_full_is_given_up_and_keeps_every_earlier_step",
        ),
        (
            "write access is lost for a while",
            f"{_FAULTS}write_access_that_is_lost_for_a_while_costs_the_steps_of_that_while",
        ),
        (
            "a second run in the folder of a running one",
            f"{_FAULTS}a_second_run_beside_a_running_one_is_refused_and_leaves_it_whole",
        ),
        (
            "two processes begin in one folder at the same moment",
            f"{_FAULTS}of_two_processes_that_begin_at_the_same_moment_one_has_the_folder",
        ),
        ("Ctrl+C", f"{_FAULTS}what_was_explained_before_a_signal_is_written[SIGINT]"),
        ("SIGTERM", f"{_FAULTS}what_was_explained_before_a_signal_is_written[SIGTERM]"),
        (
            "SIGKILL, 200 times while writing",
            "tests/archive/test_kills.py"
            "::test_a_writer_that_is_killed_at_any_moment_leaves_every_finished_step_and_no_half_one",
        ),
        ("the clock is set back", f"{_FAULTS}a_clock_that_is_set_back_changes_nothing"),
    ],
}

# What could not be tried on the machine that makes the page, and why.
NOT_RUN = {
    "16-mixed, GPUs": "no GPU at hand; CPU tests cover float16 models and bf16-mixed",
    "SyncBatchNorm under DDP": "torch refuses it on a CPU; in evaluation mode, where we explain, it is a batch norm",
    "`FSDPStrategy` (FSDP1)": "torch refuses it without an accelerator; the callback leaves it alone, with a warning",
    "DeepSpeed": "not installed; stage 3 is left alone, with a warning",
    "Ray Train, two workers": "run by hand with Ray 2.60 (`examples/fashion_mnist_ray.py`), not in CI",
}
