"""How probes go through the module: transfer hooks, random numbers, and steps that pass on other images."""

from __future__ import annotations

import copy
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from lightning_gradcam import GradCAMCallback, ProbeSet
from tests.conftest import TinyModule, loaders, tiny_data, trainer
from tests.guard.test_model import assert_same


def remarks(root: Path, module: pl.LightningModule, *, how: str = "fit", data: Any = None, **options: Any) -> list[str]:
    """Trains or tests, and returns what this package warns of."""
    callback = GradCAMCallback("net.conv1", methods="hirescam", on_error="raise", **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if how == "fit":
            trainer(root, callbacks=callback).fit(module, *(data or loaders()))
        else:
            getattr(trainer(root, callbacks=callback), how)(module, loaders()[1], verbose=False)
    assert callback.archive is not None
    assert not any(part._forward_pre_hooks for part in module.modules())
    return [str(one.message) for one in said if str(one.message).startswith("lightning-gradcam: ")]


# ---- transfer hooks


class Hooked(TinyModule):
    """Changes its batches on the device."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.change(batch[0]), batch[1]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda x: x.flip(-1), "turn or mirror the images of 8 of 8 probes"),
        (lambda x: x.roll(4, -1), "shift the images of 8 of 8 probes"),
        (
            lambda x: torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(2)),
            r"turn or mirror the images of \d of 8",
        ),
    ],
    ids=["mirrored", "rolled", "mirrored at random"],
)
def test_transfer_hooks_that_move_images_are_told(tmp_path: Path, change: Any, what: str) -> None:
    (said,) = [text for text in remarks(tmp_path, Hooked(change)) if "transfer hooks" in text]
    assert re.search(f" {what}.*so they are misplaced", said)
    assert len(said) <= 500


def test_of_many_probes_the_first_ones_are_judged(tmp_path: Path) -> None:
    (said,) = [
        text for text in remarks(tmp_path, Hooked(lambda x: x.flip(-1)), num_probes=12) if "transfer hooks" in text
    ]
    assert "turn or mirror the images of 8 of the first 8 probes" in said


def test_transfer_hooks_that_leave_places_alone_are_not_mentioned(tmp_path: Path) -> None:
    for number, change in enumerate([lambda x: (x - 0.5) / 0.1, lambda x: x + torch.rand_like(x), lambda x: x.mul_(2)]):
        assert not [text for text in remarks(tmp_path / str(number), Hooked(change)) if "hooks" in text]


class Data(pl.LightningDataModule):
    """Its transfer hook draws from its own generators, counts, and runs a module that changes its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.numbers = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.calls, self.seen = 0, [0]
        self.norm = nn.BatchNorm2d(1)

    def train_dataloader(self) -> Any:
        return loaders()[0]

    def val_dataloader(self) -> Any:
        return loaders()[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls += 1
        self.seen.append(self.calls)
        noise = torch.rand(1, generator=self.generator) + float(self.numbers.random()) + self.calls
        return self.norm(batch[0] + noise / 10), batch[1]


def test_the_state_of_a_data_modules_transfer_hooks_is_restored(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [GradCAMCallback(["net.conv1", "net.relu2"], on_error="raise", log_untrained=True)]):
        pl.seed_everything(0, verbose=False)
        module, data = TinyModule(), Data()
        trainer(tmp_path, callbacks=callbacks).fit(module, datamodule=data)
        ends.append({**module.state_dict(), **data.norm.state_dict(), "calls": data.calls, "seen": data.seen})
    assert_same(ends[0], ends[1], "the end")


class Noise:
    """Is no module; counts and draws from its own generator."""

    def __init__(self) -> None:
        self.calls, self.generator = 0, random.Random(1)

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.generator.random()


@pytest.mark.parametrize("where", ["hook", "forward", "assigned hook"])
def test_noise_that_is_no_module_is_the_same_in_training(tmp_path: Path, where: str) -> None:
    class Noisy(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.noise = Noise()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.noise(x) if where == "forward" else x)

    class HookedNoisy(Noisy):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return self.noise(batch[0]), batch[1]

    ends = []
    for callbacks in ([], [GradCAMCallback("net.conv1", on_error="raise")]):
        pl.seed_everything(0, verbose=False)
        module = HookedNoisy() if where == "hook" else Noisy()
        data = pl.LightningDataModule.from_datasets(tiny_data(40), tiny_data(40, seed=2), batch_size=8)
        if where == "assigned hook":
            vars(data)["on_after_batch_transfer"] = lambda batch, _, noise=module.noise: (noise(batch[0]), batch[1])
        trainer(tmp_path, callbacks=callbacks).fit(module, datamodule=data)
        ends.append({**module.state_dict(), "calls": module.noise.calls})
    assert ends[0]["calls"] > 20
    assert_same(ends[0], ends[1], "the end")


# ---- random numbers


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 3}, {"methods": ["guided_gradcam", "scorecam"]}], ids=["once", "parts", "reruns"]
)
def test_a_forward_that_draws_random_numbers_gives_maps_that_can_be_compared(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """The first step also checks the layers, which takes more passes than later steps."""

    class Noisy(TinyModule):
        def forward(self, x: Tensor) -> Tensor:
            noise = nn.functional.dropout(torch.ones_like(x)) + float(np.random.rand()) + random.random()
            return super().forward(x * noise)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net.head.parameters(), lr=0.0)

        def on_train_epoch_start(self) -> None:
            self.net.norm1.eval()

    callback = GradCAMCallback("net.conv1", on_error="raise", **options)
    trainer(tmp_path, callbacks=callback, max_epochs=3).fit(Noisy(), *loaders())
    assert callback.archive is not None
    for method in callback.archive.methods:
        maps = callback.archive.maps("net.conv1", method, relu=False)
        assert np.abs(maps[0]).max() > 0
        np.testing.assert_array_equal(maps[0], maps[1])
        np.testing.assert_array_equal(maps[0], maps[2])


# ---- steps that pass on other images


class Passing(TinyModule):
    """Its validation and test steps call ``forward`` in their own way."""

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.step = step

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(self, batch[0])

    test_step = validation_step


CHANGED = {
    "normalised": lambda module, x: module((x - 0.5) / 0.1),
    "normalised in place": lambda module, x: module(x.sub_(0.5)),
    "by keyword": lambda module, x: module(x=x * 255),
    "scaled": lambda module, x: module(nn.functional.interpolate(x[..., :4, :4], (8, 8))),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_validation_step_that_passes_on_other_images_is_told_once(tmp_path: Path, change: str) -> None:
    (said,) = [text for text in remarks(tmp_path, Passing(CHANGED[change])) if "to forward() unchanged" in text]
    assert said.startswith("lightning-gradcam: validation_step does not pass the batch's images to forward() unchanged")
    assert len(said) <= 500


@pytest.mark.parametrize("how", ["validate", "test"])
def test_other_images_are_told_under_validate_and_test(tmp_path: Path, how: str) -> None:
    (said,) = [
        text for text in remarks(tmp_path, Passing(CHANGED["normalised"]), how=how) if "to forward() unchanged" in text
    ]
    assert f"{'test' if how == 'test' else 'validation'}_step does not pass" in said


SAME = {
    "as they are": lambda module, x: module(x),
    "in another memory format and precision": lambda module, x: module(
        x.contiguous(memory_format=torch.channels_last).bfloat16().float()
    ),
    "mirrored, too": lambda module, x: module(x.flip(-1)) + module(x),
    "with other samples": lambda module, x: module(torch.cat([x, x * 2])),
    "without forward": lambda module, x: module.net(x * 2),
    "through a copy": lambda module, x: copy.deepcopy(module)(x * 2),
}


@pytest.mark.parametrize("step", SAME)
def test_a_step_that_passes_the_batch_on_is_not_mentioned(tmp_path: Path, step: str) -> None:
    assert not [text for text in remarks(tmp_path, Passing(SAME[step])) if "to forward() unchanged" in text]


def test_nothing_is_said_of_given_probes_a_forward_function_or_a_training_step(tmp_path: Path) -> None:
    other = CHANGED["normalised"]
    given = remarks(tmp_path / "a", Passing(other), probes=ProbeSet(torch.rand(3, 1, 8, 8)))
    own = remarks(tmp_path / "b", Passing(other), forward_fn=lambda module, batch: module((batch[0] - 0.5) / 0.1))

    class Augmenting(TinyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0] * 2), batch[1])

    assert not [
        text for text in given + own + remarks(tmp_path / "c", Augmenting()) if "to forward() unchanged" in text
    ]
    assert not [t for t in remarks(tmp_path / "d", Augmenting(), data=loaders()[:1]) if "to forward() unchanged" in t]


def test_only_what_the_step_itself_passes_on_is_compared(tmp_path: Path) -> None:
    class Showing(pl.Callback):
        """Shows the model other images, as callbacks for the logger do."""

        def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            module(torch.rand(8, 1, 8, 8))

        on_validation_batch_start = on_validation_batch_end

    class OfSeveral(TinyModule):
        """Only its second loader's batches are for `forward`."""

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            (self if dataloader_idx else self.net)(batch[0])

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*to forward\\(\\) unchanged")
        for before in (True, False):
            callbacks = [Showing(), GradCAMCallback("net.conv1", methods="hirescam", on_error="raise")]
            module = Passing(SAME["without forward"])
            trainer(tmp_path / str(before), callbacks=callbacks if before else callbacks[::-1]).fit(module, *loaders())
        train, val = loaders()
        first, second = (DataLoader(Subset(val.dataset, places), 8) for places in (range(8), range(8, 40)))
        callback = GradCAMCallback("net.conv1", methods="hirescam", on_error="raise")
        trainer(tmp_path / "two", callbacks=callback).fit(OfSeveral(), train, [first, second])
    assert callback.archive is not None


def test_a_copy_of_the_module_made_in_a_step_compares_and_holds_nothing(tmp_path: Path) -> None:
    copies: list[Any] = []

    def step(module: Any, x: Tensor) -> None:
        if not copies:
            copies.append(copy.deepcopy(module))
        module(x)

    assert not [text for text in remarks(tmp_path, Passing(step)) if "to forward() unchanged" in text]
    (hook,) = copies[0]._forward_pre_hooks.values()
    copies[0](torch.rand(8, 1, 8, 8))
    assert len(hook.images) == 0
    assert not hook.same
    assert not hook.other


# Under torch 2.4, Dynamo also compiles what the callback itself runs, with or without watching the step.
@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 can't leave compilation out")
def test_a_compiled_step_is_compiled_as_without_the_callback(tmp_path: Path) -> None:
    graphs: list[list[str]] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append([node.name for node in graph.graph.nodes])
        return graph.forward

    class Normalising(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0] * 2)

    made = []
    for callbacks in ([], [GradCAMCallback("net.conv1", methods="hirescam", on_error="raise")]):
        torch._dynamo.reset()
        graphs.clear()
        compiled: Any = torch.compile(Normalising(), backend=backend)
        trainer(tmp_path, callbacks=callbacks).fit(compiled, *loaders())
        made.append(list(graphs))
    assert made[0] == made[1]
