"""Training with and without the callback ends in the same bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split

from lightning_gradcam import GradCAMCallback, MemorySink
from tests.conftest import TinyModule, loaders, tiny_data, trainer
from tests.test_guard import assert_same


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


class Accumulating(TinyModule):
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


class ManualModule(TinyModule):
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


class Watch(pl.Callback):
    """Notes gradients, modes and hooks at the start of every training batch, where accumulation is under way."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(
            {
                "batch": batch[0].clone(),
                "grads": {n: None if p.grad is None else p.grad.clone() for n, p in pl_module.named_parameters()},
                "requires_grad": [p.requires_grad for p in pl_module.parameters()],
                "modes": [module.training for module in pl_module.modules()],
                "hooks": [len(module._forward_hooks) for module in pl_module.modules()],
            }
        )


def fit(root: Path, module: type[TinyModule], ours: list[Any], data: Any, **options: Any) -> dict[str, Any]:
    """Trains from a fixed seed, and returns everything that training leaves."""
    pl.seed_everything(7, verbose=False)
    model, watch = module(), Watch()
    running = trainer(root, callbacks=[watch, *ours], **{"max_epochs": 3, **options})
    running.fit(model, *data())
    return {
        "weights": model.state_dict(),
        "optimizers": [flat(optimizer.state_dict()) for optimizer in running.optimizers],
        "watched": [flat(seen) for seen in watch.seen],
        "metrics": {name: value.clone() for name, value in running.logged_metrics.items()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "calls": getattr(model, "calls", None),
        "asked": getattr(model, "asked", None),
        "private": model.generator.get_state() if isinstance(model, Stateful) else None,
        "numbers": model.numbers.bit_generator.state if isinstance(model, Stateful) else None,
    }


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Flattens nested dicts and lists, so that tensors are compared as tensors."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{where}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for key, inner in enumerate(value) for k, v in flat(inner, f"{where}/{key}").items()}
    return {where: value}


def augmented_loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(Augmented(), 8, shuffle=True), DataLoader(Augmented(2), 8)


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


def split_loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation are two parts of one data set, with one generator."""
    training, validation = random_split(Hidden(1), [24, 16], torch.Generator().manual_seed(0))
    return DataLoader(training, 8, shuffle=True), DataLoader(validation, 8)


class LazyModule(TinyModule):
    """Its parameters are drawn in the first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential()  # type: ignore[assignment]
        self.net.conv1, self.net.norm = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()
        self.net.relu2, self.net.drop = nn.ReLU(), nn.Dropout(0.3)
        self.net.flat, self.net.head = nn.Flatten(), nn.LazyLinear(5)


SETUPS: dict[str, tuple[type[TinyModule], Any, dict[str, Any]]] = {
    "dropout, batch norm, shuffling": (TinyModule, loaders, {}),
    "augmentation": (TinyModule, augmented_loaders, {}),
    "accumulation with validation inside it": (
        TinyModule,
        loaders,
        {"accumulate_grad_batches": 4, "val_check_interval": 2},
    ),
    "augmentation, accumulation with validation inside it": (
        TinyModule,
        augmented_loaders,
        {"accumulate_grad_batches": 4, "val_check_interval": 2},
    ),
    "several validations an epoch": (TinyModule, loaders, {"val_check_interval": 0.5}),
    "validation every second epoch, no sanity check": (
        TinyModule,
        loaders,
        {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
    ),
    "a forward that logs and counts": (Accumulating, loaders, {}),
    "manual optimization": (ManualModule, loaders, {}),
    "frozen batch norm": (FrozenNorm, loaders, {}),
    "no validation": (TinyModule, lambda: loaders()[:1], {}),
    "a data set with hidden generators, split in two": (TinyModule, split_loaders, {}),
    "a module with generators, loaders asked for late": (
        Stateful,
        lambda: (),
        {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "max_epochs": 4},
    ),
    "a module with generators, loaders asked for again and again": (
        Stateful,
        lambda: (),
        {
            "reload_dataloaders_every_n_epochs": 1,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": 2,
            "max_epochs": 4,
        },
    ),
    "bf16-mixed": (TinyModule, loaders, {"precision": "bf16-mixed"}),
    "lazy modules": (LazyModule, loaders, {}),
    "lazy modules, no sanity check": (LazyModule, loaders, {"num_sanity_val_steps": 0}),
    "lazy modules, no sanity check, augmentation, accumulation": (
        LazyModule,
        augmented_loaders,
        {"num_sanity_val_steps": 0, "accumulate_grad_batches": 3, "val_check_interval": 2},
    ),
    "lazy modules, no validation": (LazyModule, lambda: loaders()[:1], {"num_sanity_val_steps": 0}),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_training_ends_in_the_same_bits(tmp_path: Path, setup: str) -> None:
    module, data, options = SETUPS[setup]
    sink = MemorySink()
    callback = GradCAMCallback(
        ["net.conv1", "net.relu2"], targets=["predicted", "label"], log_untrained=True, sinks=[sink], on_error="raise"
    )
    without = fit(tmp_path / "without", module, [], data, **options)
    with_ours = fit(tmp_path / "with", module, [callback], data, **options)
    assert len(sink.entries) > 1
    for part in without:
        assert_same(listed(without[part]), listed(with_ours[part]), part)


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
    without = fit(tmp_path / "without", TinyModule, [], loaders)
    what = "the sink FailingSink" if place == "sink" else "explaining"
    with pytest.warns(UserWarning, match=f"(?s){what} failed at step 4 and is tried again.*{place} fails"):
        with_ours = fit(tmp_path / "with", Failing, ours, loaders)
    for part in without:
        assert_same(listed(without[part]), listed(with_ours[part]), part)


def listed(value: Any) -> Any:
    """Lists of dicts as a dict, for the comparison."""
    return dict(enumerate(value)) if isinstance(value, list) else value
