"""Maps of other weights than the validated ones: a user's own EMA that swaps its weights out before our turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_gradcam import FeatureMapCallback, GradCAMCallback
from tests.conftest import TinyModule, loaders, trainer
from tests.setups import LAYERS, OwnAverage, copied

TEXT = "the maps do not explain the validated weights"


def copy_data(module: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.data.copy_(weights[name])


def assign_data(module: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.data = weights[name]


def load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict(weights, strict=False)


def copy_together(module: nn.Module, weights: dict[str, Tensor]) -> None:
    torch._foreach_copy_(
        [p.data for p in module.parameters()], [weights[name] for name, _ in module.named_parameters()]
    )


def replace(module: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, _ in [*module.named_parameters()]:
        where, _, last = name.rpartition(".")
        setattr(module.get_submodule(where), last, nn.Parameter(weights[name]))


def warned(caught: Any) -> list[str]:
    return [str(warning.message) for warning in caught if TEXT in str(warning.message)]


@pytest.mark.parametrize("swap", [copied, copy_data, assign_data, load, copy_together, replace])
def test_an_average_that_is_swapped_out_before_our_turn_is_reported_once(
    tmp_path: Path, swap: Callable[..., None], recwarn: pytest.WarningsRecorder
) -> None:
    running = trainer(tmp_path, callbacks=[OwnAverage(swap), GradCAMCallback(LAYERS, on_error="raise")], max_epochs=3)
    running.fit(TinyModule(), *loaders())
    (message,) = warned(recwarn)
    assert message.startswith("lightning-gradcam: ")
    assert message.endswith("list this callback before OwnAverage")


def test_no_order_is_advised_where_none_helps(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    class AtTheLastBatch(OwnAverage):
        def on_validation_epoch_end(self, *args: Any) -> None: ...

        def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
            if args[2] == trainer.num_val_batches[0] - 1:
                super().on_validation_epoch_end(trainer, pl_module)

    callbacks = [GradCAMCallback(LAYERS, on_error="raise"), AtTheLastBatch()]
    trainer(tmp_path, callbacks=callbacks, num_sanity_val_steps=0).fit(TinyModule(), *loaders())
    (message,) = warned(recwarn)
    assert message.endswith("; change them later, at on_validation_end")


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_it_is_reported_outside_of_training_too(tmp_path: Path, stage: str, recwarn: pytest.WarningsRecorder) -> None:
    average = OwnAverage()
    running = trainer(tmp_path, callbacks=[average], max_epochs=1)
    running.fit(TinyModule(), *loaders())
    running = trainer(tmp_path, callbacks=[average, GradCAMCallback(LAYERS, on_error="raise")])
    getattr(running, stage)(TinyModule(), loaders()[1], verbose=False)
    assert len(warned(recwarn)) == 1


def test_nothing_is_reported_where_the_order_is_right(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Listed first, and listed after an average that is swapped out when all have had their turn."""

    class Late(OwnAverage):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pass

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_validation_epoch_end(trainer, pl_module)

    callbacks = [GradCAMCallback(LAYERS), OwnAverage()]
    trainer(tmp_path / "first", callbacks=callbacks, max_epochs=2).fit(TinyModule(), *loaders())
    callbacks = [Late(copy_data), GradCAMCallback(LAYERS), FeatureMapCallback(LAYERS)]
    trainer(tmp_path / "late", callbacks=callbacks, max_epochs=2).fit(TinyModule(), *loaders())
    assert not warned(recwarn)


def test_weights_that_are_moved_and_not_changed_are_the_same(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A callback that gives every weight another place in memory, another layout and another version."""

    class Moving(pl.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            for parameter in pl_module.parameters():
                parameter.data = parameter.data.clone()
            pl_module.to(memory_format=torch.channels_last)
            copied(pl_module, {name: value.detach().clone() for name, value in pl_module.named_parameters()})

    trainer(tmp_path, callbacks=[Moving(), GradCAMCallback(LAYERS)], max_epochs=2).fit(TinyModule(), *loaders())
    assert not warned(recwarn)


def test_a_frozen_net_whose_head_alone_is_averaged(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    class Frozen(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net.conv1.requires_grad_(False)
            self.net.conv2.requires_grad_(False)
            self.net.norm1.requires_grad_(False)

    running = trainer(tmp_path, callbacks=[OwnAverage(copy_data), GradCAMCallback(LAYERS)], max_epochs=2)
    running.fit(Frozen(), *loaders())
    assert len(warned(recwarn)) == 1


def test_weights_that_do_not_show_their_numbers_stop_nobody(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    class Closed(nn.Parameter):
        def __getitem__(self, index: Any) -> Tensor:
            raise NotImplementedError("quantised")

        def detach(self) -> Any:
            return self

    class Wrapped(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net.head.bias = Closed(torch.zeros(5))

    callback = GradCAMCallback(LAYERS, on_error="raise")
    trainer(tmp_path, callbacks=[OwnAverage(copy_data), callback], max_epochs=2).fit(Wrapped(), *loaders())
    assert callback.archive is not None
    assert callback.archive.epochs == (0, 1)
    assert not warned(recwarn)
