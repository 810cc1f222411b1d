"""The set-ups that training is tried in, with the callback and without: `tests/callbacks/test_purity.py`,
`docs/setups.md`."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
    random_split,
)

from lightning_gradcam import GradCAMCallback
from tests.conftest import CLASSES, TinyModule, loaders, tiny_data

LAYERS = ["net.conv1", "net.relu2"]


# ---- data


class Scan(NamedTuple):
    """A sample, and a batch of them."""

    image: Tensor
    label: dict[str, Tensor]


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


class Annotated(Dataset[Any]):
    """Augments at random; only its samples show the labels, ``[1]``, behind pictures of bytes with channels last."""

    def __init__(self, seed: int = 1) -> None:
        self.inner = tiny_data(seed=seed)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Scan:
        image, label = self.inner[index]
        noisy = image * (0.5 + torch.rand(1) / 2) * float(np.random.rand())
        return Scan((noisy.permute(1, 2, 0) * 255).to(torch.uint8), {"target": (label % 2).float()[None]})


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


class Named(Augmented):
    """Its samples have names and no numbers."""

    def __getitem__(self, name: str) -> tuple[Tensor, int]:  # type: ignore[override]
        return super().__getitem__(int(name[1:]))


class Several(Augmented):
    """Gives several samples at once, and no single one."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise NotImplementedError

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        return [super(Several, self).__getitem__(index) for index in indices]


class Opened(Augmented):
    """Can be read by workers alone, which have opened it."""

    handle: Any = None

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return super().__getitem__(self.handle[index])

    @staticmethod
    def open(worker: int) -> None:
        info: Any = get_worker_info()
        info.dataset.handle = range(1000)


class Batches(Augmented):
    """Its items are batches."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return default_collate([super(Batches, self).__getitem__(8 * index + place) for place in range(8)])


def dropping(samples: list[Any]) -> Any:
    """Leaves samples out at random."""
    return default_collate([sample for sample in samples if float(torch.rand(1)) < 0.7] or samples[:1])


class Sizes(Augmented):
    """Pictures of several sizes."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture, label = super().__getitem__(index)
        return picture[:, : 5 + index % 4], label


def listing(samples: list[Any]) -> Any:
    """As detection does: pictures and labels in tuples."""
    return tuple(zip(*samples, strict=True))


def both(make: Callable[[int], DataLoader[Any]]) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loaders of one kind, with other data."""
    return make(1), make(2)


NAMES = [f"n{index}" for index in range(40)]


class Shuffled(Sampler[Any]):
    """A sampler of its own: draws from every kind of generator, shuffles its list in place, and counts."""

    def __init__(self, count: int, generator: torch.Generator, numbers: np.random.Generator) -> None:
        self.order, self.generator, self.numbers, self.calls = [*range(count)], generator, numbers, 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        self.calls += 1
        self.numbers.shuffle(self.order)
        random.shuffle(self.order)
        for _ in range(len(self.order)):
            place = (int(torch.randint(40, (1,), generator=self.generator)) + self.calls) % len(self.order)
            yield self.order[(place + int(torch.randint(40, (1,)))) % len(self.order)]


class InBatches(Shuffled):
    """The same for whole batches."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        order = [*super().__iter__()]
        yield from (order[at : at + 8] for at in range(0, 30, 8))


class Uncopied(Shuffled):
    """Can't be copied."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


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


class Pooled(TinyModule):
    """Takes pictures of any size, one by one in a tuple or as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net.flat, self.net.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, CLASSES)

    def forward(self, x: Any) -> Tensor:
        def features(picture: Tensor) -> Tensor:
            maps = self.net.norm1(self.net.conv1(picture)).relu()
            return self.net.relu2(self.net.conv2(self.net.drop(maps)))

        if isinstance(x, Tensor):
            return self.net.head(self.net.flat(features(x)).flatten(1))
        if len({picture.shape for picture in x}) == 1:
            return self(torch.stack(x))
        return torch.cat([self(picture[None]) for picture in x])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), torch.as_tensor(batch[1]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=1)


class Sampling(TinyModule):
    """Its loaders' samplers draw from its generators."""

    def __init__(self, ways: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__()
        self.generator, self.numbers = torch.Generator().manual_seed(5), np.random.default_rng(5)
        self.ways = ways

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(), **self.ways(self))

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Augmented(2), **self.ways(self))


def sampling(ways: Callable[[Any], dict[str, Any]], **options: Any) -> Setup:
    """The set-up of loaders with samplers."""
    return Setup(lambda: Sampling(ways), lambda: (), options)


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


class OfBytes(TinyModule):
    """Takes pictures of bytes with their channels last, from named tuples, and binary labels ``[N, 1]``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2) / 255)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch.image), batch.label["target"].flatten().long())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


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


def train_again_and_look(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    """By another Trainer each time, with the same logger: in siblings of the first one's record."""
    model, data = case.model(), case.setup.data()
    case.trainer().fit(model, *data)
    case.trainer().validate(model, data[1])
    case.trainer().test(model, data[1])
    trainer = case.trainer()
    trainer.fit(model, *data)
    return trainer, model


def fit_two_modules(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    """One Trainer trains two networks, as in cross-validation."""
    trainer, data = case.trainer(max_epochs=2), case.setup.data()
    trainer.fit(case.model(), *data)
    model = case.model()
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, *data)
    trainer.test(model, data[1])
    return trainer, model


def fit_with_new_callbacks(case: Case) -> tuple[pl.Trainer, pl.LightningModule]:
    """`configure_callbacks` makes them anew for every `fit`, `validate` and `test`."""
    model, trainer, (train, val) = case.model(), case.trainer(max_epochs=2), case.setup.data()
    ours = [callback for callback in trainer.callbacks if isinstance(callback, GradCAMCallback)]  # type: ignore[attr-defined]
    model.configure_callbacks = lambda: [copy(callback) for callback in ours]  # type: ignore[method-assign]
    trainer.validate(model, val)
    trainer.fit(model, train, val)
    trainer.test(model, val)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, train, val)
    return trainer, model


# `pytest` would take these for tests.
for _function in (test, test_a_checkpoint):
    _function.__test__ = False  # type: ignore[attr-defined]


# ---- the set-ups


def one_callback(**options: Any) -> list[GradCAMCallback]:
    # Further methods take the same activations and gradients: tests/callbacks/test_models.py logs all of them.
    return [GradCAMCallback(LAYERS, targets=["predicted", "label"], **options)]


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


def copied(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts weights by name into a module."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name])


class OwnAverage(pl.Callback):
    """An average of the weights as people write it: swapped in for a validation or test, and out at its end.

    Args:
        swap: Puts weights by name into a module.
    """

    def __init__(self, swap: Callable[[nn.Module, dict[str, Tensor]], None] = copied) -> None:
        self.swap = swap
        self.average: dict[str, Tensor] = {}
        self.own: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        for name, weights in pl_module.named_parameters():
            known = self.average.setdefault(name, weights.detach().clone())
            self.average[name] = known.lerp(weights.detach(), 0.1)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.average:
            self.own = {name: weights.detach().clone() for name, weights in pl_module.named_parameters()}
            self.swap(pl_module, {name: weights.clone() for name, weights in self.average.items()})

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.own:
            self.swap(pl_module, self.own)

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end


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
    "a custom EMA callback, listed before": Setup(others=lambda: [OwnAverage()]),
    "a custom EMA callback, listed after": Setup(after=lambda: [OwnAverage()]),
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
    "named tuples of byte images, channels last, binary labels [N, 1] in a dict": Setup(
        OfBytes, lambda: (DataLoader(Annotated(), 8, shuffle=True), DataLoader(Annotated(2), 8))
    ),
    "lazy modules": Setup(Lazy),
    "lazy modules, no sanity check": Setup(Lazy, options={"num_sanity_val_steps": 0}),
    "lazy modules, no sanity check, augmentation, accumulation": Setup(
        Lazy,
        augmented_loaders,
        {"num_sanity_val_steps": 0, "accumulate_grad_batches": 3, "val_check_interval": 2},
    ),
    "lazy modules, no validation": Setup(Lazy, lambda: loaders()[:1], {"num_sanity_val_steps": 0}),
    "a module with generators, loaders requested late": Setup(Stateful, lambda: (), LATE),
    "a module with generators, loaders requested repeatedly": Setup(
        Stateful, lambda: (), {"reload_dataloaders_every_n_epochs": 1, **LATE}
    ),
    "two validation loaders, a list": Setup(ManyLoaders, lambda: several(list)),
    "two validation loaders, a dict": Setup(ManyLoaders, lambda: several(dict)),
    "IterableDataset": Setup(data=lambda: (DataLoader(Stream(1), 8), DataLoader(Stream(2), 4))),
    "IterableDataset, no sanity check": Setup(
        data=lambda: (DataLoader(Stream(1), 8), DataLoader(Stream(2), 4)), options={"num_sanity_val_steps": 0}
    ),
    "IterableDataset, no validation": Setup(data=lambda: (DataLoader(Stream(1), 8),)),
    "SubsetRandomSampler": sampling(
        lambda it: {"batch_size": 8, "sampler": SubsetRandomSampler([*range(9, 30)], it.generator)}
    ),
    "WeightedRandomSampler": sampling(
        lambda it: {
            "batch_size": 8,
            "sampler": WeightedRandomSampler([float(i > 9) for i in range(40)], 40, generator=it.generator),
        }
    ),
    "a list as the sampler": sampling(lambda it: {"batch_size": 8, "sampler": [*range(39, 9, -1)]}),
    "a sampler with generators and a list that it shuffles": sampling(
        lambda it: {"batch_size": 8, "sampler": Shuffled(30, it.generator, it.numbers)}
    ),
    "the same, no sanity check": sampling(
        lambda it: {"batch_size": 8, "sampler": Shuffled(30, it.generator, it.numbers)},
        num_sanity_val_steps=0,
    ),
    "a custom batch sampler": sampling(lambda it: {"batch_sampler": InBatches(30, it.generator, it.numbers)}),
    "a sampler that can't be copied": sampling(
        lambda it: {"batch_size": 8, "sampler": Uncopied(30, it.generator, it.numbers)}
    ),
    "a sampler and overfit_batches=2": sampling(
        lambda it: {"batch_size": 8, "sampler": Shuffled(30, it.generator, it.numbers)}, overfit_batches=2
    ),
    "samples indexed by name": Setup(data=lambda: both(lambda seed: DataLoader(Named(seed), 8, sampler=NAMES))),
    "samples indexed by name, no sanity check": Setup(
        data=lambda: both(lambda seed: DataLoader(Named(seed), 8, sampler=NAMES)), options={"num_sanity_val_steps": 0}
    ),
    "samples indexed by name, no validation": Setup(data=lambda: (DataLoader(Named(), 8, sampler=NAMES),)),
    "a data set with only `__getitems__`": Setup(data=lambda: both(lambda seed: DataLoader(Several(seed), 8))),
    "a data set opened by workers": Setup(
        data=lambda: both(lambda seed: DataLoader(Opened(seed), 8, num_workers=1, worker_init_fn=Opened.open))
    ),
    "batch_size=None": Setup(data=lambda: both(lambda seed: DataLoader(Batches(seed), batch_size=None))),
    "a collate_fn that drops samples": Setup(
        data=lambda: both(lambda seed: DataLoader(Augmented(seed), 8, collate_fn=dropping))
    ),
    "images of different sizes, batch_size=1": Setup(
        Pooled, lambda: both(lambda seed: DataLoader(Sizes(seed), batch_size=1))
    ),
    "images in tuples": Setup(Pooled, lambda: both(lambda seed: DataLoader(Augmented(seed), 8, collate_fn=listing))),
    "images in tuples, of different sizes": Setup(
        Pooled, lambda: both(lambda seed: DataLoader(Sizes(seed), 8, collate_fn=listing))
    ),
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
    "two fits, validate and test, each with its own Trainer, one logger": Setup(
        data=augmented_loaders, run=train_again_and_look, logged=3
    ),
    "two modules with one Trainer": Setup(data=augmented_loaders, run=fit_two_modules, logged=4),
    "new callbacks from configure_callbacks each time": Setup(
        data=augmented_loaders, run=fit_with_new_callbacks, logged=4
    ),
    "resumed": Setup(data=augmented_loaders, run=resume),
    "resumed inside an epoch": Setup(data=augmented_loaders, run=resume_inside_an_epoch),
    "two callbacks with different layers": Setup(ours=two_callbacks),
}
assert CLASSES == 5

# Title and test of what `docs/setups.md` lists besides, by heading.
_TOGETHER = "tests/callbacks/test_distributed.py::test_training_ends_in_the_same_bits_and_maps_are_those_of_one_process"
_ON_ALL = "tests/callbacks/test_distributed.py::test_what_fails_on_all_ranks_is_reported_and_training_goes_on"
_SAMPLER = "tests/callbacks/test_distributed.py::test_probes_are_of_the_sampler_that_lightning_distributes"
_STEERED = "tests/callbacks/test_distributed.py::test_numbers_and_the_alarm_steer_all_ranks_alike"
_IN_BOTH = "tests/callbacks/test_namespaces.py::test_the_callback_works_in_both_namespaces"
_FORMS = "tests/probes/test_batch_forms.py::test_the_picture_is_found_in_a_batch"
_BYTES = "tests/probes/test_channels_last.py::test_bytes_of_a_batch_are_shown_as_they_are"
_LABELS = "tests/probes/test_labels.py::test_labels_of_classes_are_kept_in_training"
_FAULTS = "tests/pipeline/test_faults.py::test_"
PROCESSES: dict[str, list[tuple[str, str]]] = {
    "two processes (gloo)": [
        ("DDP: bit-identical ranks, the same maps as in one process, one set of files", f"{_TOGETHER}[ddp]"),
        ("`ModelParallelStrategy`, `fully_shard` (FSDP2): the same as under DDP", f"{_TOGETHER}[sharded]"),
        (
            "DDP: an invalid configuration stops both ranks before the first step",
            "tests/callbacks/test_distributed.py::test_a_wrong_configuration_ends_all_ranks_before_the_first_step[ddp]",
        ),
        (
            "FSDP2: an invalid configuration stops both ranks before the first step",
            "tests/callbacks/test_distributed.py::test_a_wrong_configuration_ends_all_ranks_before_the_first_step[sharded]",
        ),
        ("DDP: the model fails during explaining; training continues", f"{_ON_ALL}[ddp-norm1]"),
        ("FSDP2: the model fails on all ranks; training continues", f"{_ON_ALL}[sharded-norm1]"),
        (
            "FSDP2: one rank fails before the shared forward pass; training continues",
            "tests/callbacks/test_distributed.py"
            "::test_what_fails_on_one_rank_before_the_shared_forward_is_reported_and_training_goes_on",
        ),
        (
            "FSDP2: one rank fails in the middle of the shared forward pass; the run ends and no rank waits forever",
            "tests/callbacks/test_distributed.py"
            "::test_a_rank_that_fails_in_the_middle_of_a_shared_forward_leaves_no_other_waiting_for_ever[1]",
        ),
        (
            "DDP with an `IterableDataset`",
            "tests/callbacks/test_distributed.py::test_a_stream_is_explained_on_replicated_ranks",
        ),
        ("DDP: numbers steer training and the alarm saves a checkpoint, identically on both ranks", f"{_STEERED}[ddp]"),
        (
            "FSDP2: numbers steer training and the alarm saves a checkpoint, identically on both ranks",
            f"{_STEERED}[sharded]",
        ),
        ("DDP with a custom sampler", f"{_SAMPLER}[ddp]"),
        ("FSDP2 with a custom sampler", f"{_SAMPLER}[sharded]"),
        *(
            (
                f"`{strategy}`: the launching process opens the record",
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
        for way in ("alone", "in a list", "LightningCLI", "steering")
    ],
    "batches, images and labels: found, drawn and stored": [
        ("dataclasses", f"{_FORMS}[dataclass]"),
        ("named tuples with the label first", f"{_FORMS}[named tuple]"),
        ("nested entries, selected by a path", f"{_FORMS}[path as a list]"),
        ("a key that contains a dot, next to a path", f"{_FORMS}[literal key before path]"),
        ("`input_key` as a function", f"{_FORMS}[function]"),
        ("two views; the first is used", f"{_FORMS}[first of two views]"),
        (
            "`forward_fn` without `input_key`",
            "tests/probes/test_batch_forms.py::test_a_forward_function_needs_no_input_key[dict]",
        ),
        ("byte images `[N, H, W, 3]`", f"{_BYTES}[[N, H, W, 3]]"),
        ("byte images `[N, H, W]`", f"{_BYTES}[[N, H, W]]"),
        ("labels `[N, 1]`", f"{_LABELS}[[N, 1]]"),
        ("one-hot labels", f"{_LABELS}[float one-hot]"),
        ("class names as labels", f"{_LABELS}[names]"),
        (
            "labels 0.0 and 1.0",
            "tests/probes/test_labels.py::test_binary_labels_are_classes_of_any_type[[N]-torch.float32]",
        ),
        ("labels with several classes", "tests/probes/test_labels.py::test_labels_with_several_classes_are_kept"),
        ("labels 0.7: kept as numbers", "tests/probes/test_labels.py::test_numbers_are_never_rounded_to_classes"),
        (
            "a stand-in for Hugging Face's `ClassLabel`",
            "tests/probes/test_labels.py::test_class_labels_of_hugging_face_are_read_without_decoding",
        ),
        (
            "a class with 1% of the samples, without `targets`",
            "tests/probes/test_balance.py::test_a_class_of_one_percent_is_among_the_probes",
        ),
        (
            "4 samples: 4 probes",
            "tests/probes/test_balance.py::test_by_default_there_are_as_many_probes_as_samples[4-4]",
        ),
    ],
    "faults: training continues, the record stays intact": [
        (
            "the model raises during explaining",
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
            "the disk becomes full during the run",
            f"{_FAULTS}a_disk_that_stays_full_is_given_up_and_keeps_every_earlier_step",
        ),
        (
            "write access is lost temporarily",
            f"{_FAULTS}write_access_that_is_lost_for_a_while_costs_the_steps_of_that_while",
        ),
        (
            "a second run in the folder of an active run",
            f"{_FAULTS}a_second_run_beside_a_running_one_goes_beside_it_and_leaves_it_whole[later]",
        ),
        (
            "two processes start in one folder at the same time",
            f"{_FAULTS}of_two_processes_that_begin_at_the_same_moment_one_has_the_folder",
        ),
        (
            "the same with sibling folders: each process gets its own",
            f"{_FAULTS}two_processes_that_begin_at_the_same_moment_never_get_one_place",
        ),
        ("Ctrl+C", f"{_FAULTS}what_was_explained_before_a_signal_is_written[SIGINT]"),
        ("SIGTERM", f"{_FAULTS}what_was_explained_before_a_signal_is_written[SIGTERM]"),
        (
            "SIGKILL, 200 times while writing",
            "tests/archive/test_kills.py"
            "::test_a_writer_that_is_killed_at_any_moment_leaves_every_finished_step_and_no_half_one",
        ),
        ("the system clock is set back", f"{_FAULTS}a_clock_that_is_set_back_changes_nothing"),
    ],
}

# What could not be tried on the machine that makes the page, and why.
NOT_RUN = {
    "16-mixed, GPUs": "no GPU available; CPU tests cover float16 models and bf16-mixed",
    "SyncBatchNorm under DDP": "not supported by torch on a CPU; in evaluation mode it is a plain batch norm",
    "`FSDPStrategy` (FSDP1)": "not supported by torch without an accelerator; the callback does nothing and warns",
    "DeepSpeed": "not installed; for stage 3, the callback does nothing and warns",
    "Ray Train, two workers": "tested manually with Ray 2.60 (`examples/fashion_mnist_ray.py`), not in CI",
}
