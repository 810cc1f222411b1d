"""One of several processes that train together: `python -m tests.callbacks.ranks`, run by `test_distributed.py`.

Leaves what a rank has at the end in `<out>/rank<r>.pt`.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

import lightning_gradcam.callbacks.recording
from lightning_gradcam import GradCAMCallback
from lightning_gradcam.callbacks.ranks import Ranks
from tests.callbacks.test_purity import Recorder, Watch, flat, random_states
from tests.callbacks.test_steering import probes
from tests.conftest import TinyModule, loaders, tiny_data, trainer
from tests.setups import LAYERS, Shuffled, Stream

DataLoader = torch.utils.data.DataLoader


class Sharded(TinyModule):
    """Each rank holds a part of its weights."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import FSDPModule, fully_shard  # torch before 2.6 has neither

        if not isinstance(self.net, FSDPModule):
            mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
            for part in (self.net.conv1, self.net.conv2, self.net):
                fully_shard(part, mesh=mesh)


class Gathering(TinyModule):
    """Sends to all ranks in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        torch.distributed.all_reduce(logits.detach().mean())
        return logits


class Preparing(Sharded):
    """Can't prepare the five probes on rank one, once training has begun."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if len(batch[0]) == 5 and self.trainer.global_step and self.trainer.global_rank == 1:
            raise RuntimeError("rank 1 fails")
        return batch


class Failing:
    """Makes a module's forward raise where we explain, on some ranks."""

    def __init__(self, ranks: list[int], after: int) -> None:
        self.ranks, self.after, self.seen = ranks, after, 0

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rank = torch.distributed.get_rank()
        if torch.is_grad_enabled() and not module.training:
            self.seen += 1
            if rank in self.ranks and self.seen > self.after:
                raise RuntimeError(f"rank {rank} fails")


def main(options: dict[str, Any], out: Path) -> None:
    warnings.filterwarnings("ignore", message=".*num_workers.*")
    torch.set_num_threads(1)
    if patience := options.get("patience"):
        lightning_gradcam.callbacks.recording.Ranks = partial(Ranks, patience=patience)  # type: ignore[misc]
    kind = options["strategy"]
    strategy: Any = DDPStrategy(process_group_backend="gloo")
    if kind not in ("ddp", "gathering"):
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    module = {"sharded": Sharded, "preparing": Preparing, "gathering": Gathering}.get(kind, TinyModule)
    data = loaders()
    if options.get("stream"):
        data = DataLoader(tiny_data(), 8), DataLoader(Stream(2), 4)
    if options.get("sampler"):
        own = [Shuffled(20, torch.Generator().manual_seed(1), np.random.default_rng(1)) for _ in range(2)]
        data = DataLoader(tiny_data(), 4, sampler=own[0]), DataLoader(tiny_data(seed=2), 4, sampler=own[1])
    callbacks: list[Any] = [watch := Watch()]
    steered: list[Any] = []
    if name := options.get("steered"):
        options["ours"]["probes"] = probes()
        # Of the values that it looks at, none is better by ten: the second one ends the training.
        steered = [EarlyStopping(name, min_delta=10, patience=1, mode="max", check_on_train_epoch_end=False)]
        steered.append(ModelCheckpoint(out / "best", monitor=name, mode="max", filename="{epoch}"))
    callbacks += steered
    ours = GradCAMCallback(LAYERS, targets=["predicted", "label"], log_untrained=True, **options.get("ours", {}))
    if options.get("with", True):
        callbacks.append(ours)
    recorder = Recorder()
    running = trainer(
        out,
        strategy=strategy,
        devices=2,
        callbacks=callbacks,
        logger=recorder,
        log_every_n_steps=1,
        **{"max_epochs": 3, **options.get("trainer", {})},
    )
    pl.seed_everything(7, verbose=False)
    model = module()
    if failing := options.get("failing"):
        model.net.get_submodule(failing.pop("at")).register_forward_pre_hook(Failing(**failing))
    running.fit(model, *data)
    if options.get("again"):
        # The same module, and another one.
        first, model = model, module()
        for each in (first, model):
            running.fit_loop.max_epochs = running.current_epoch + 1
            running.fit(each, *data)
    whole = {name: _whole(value) for name, value in model.state_dict().items()}
    rank = running.global_rank
    if running.is_global_zero and ours.archive is not None:
        last = ours.archive.record(-1)
        maps = {tuple(map(str, key)): torch.from_numpy(np.array(values)) for key, values in last.maps.items()}
    else:
        maps = {}
    left = {
        "local": {name: _local(value).clone() for name, value in model.state_dict().items()},
        "whole": whole,
        "grads": {name: None if p.grad is None else _local(p.grad) for name, p in model.named_parameters()},
        "optimizers": [{k: _local(v) for k, v in flat(o.state_dict()).items()} for o in running.optimizers],
        "watched": [{k: _local(v) for k, v in flat(seen).items()} for seen in watch.seen],
        "logged": recorder.rows,
        "random": random_states(),
        "python": random.random(),
        "maps": maps,
        "inputs": ours.probes.inputs if ours.probes is not None else None,
        "steps": list(ours.archive.steps) if ours.archive is not None else [],
        "metrics": {name: float(value) for name, value in running.callback_metrics.items()},
        "epoch": running.current_epoch,
        "best": float(steered[1].best_model_score) if steered else None,
        "groups": len(torch.distributed.distributed_c10d._world.pg_map),
    }
    torch.save(left, out / f"rank{rank}.pt")
    # Lightning leaves this to the end of the process, where a thread of gloo that still holds a tensor aborts it.
    torch.distributed.destroy_process_group()


def _local(value: Any) -> Any:
    return value.to_local().detach() if hasattr(value, "to_local") else value


def _whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value.clone()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
