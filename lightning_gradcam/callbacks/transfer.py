"""Runs the transfer hooks of a module or data module on a batch, without changing the data module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_gradcam.callbacks.host import Host
from lightning_gradcam.capture.tensors import mapped
from lightning_gradcam.guard.data import isolated, seed_global_rng

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_ROOTS = ("pytorch_lightning", "lightning")


def sent_to_device(host: Host, batch: Any, *, transferred: bool = False) -> Any:
    """Moves a batch to the device as Lightning's loops do, with the user's transfer hooks.

    Call it only while :meth:`Host.explaining <lightning_gradcam.callbacks.host.Host.explaining>`: it seeds the global
    random number generators.

    Args:
        host: The trainer and its module.
        batch: The batch, on the CPU.
        transferred: Whether the hooks have already been applied to it.
    """
    # A hook may change the batch in place.
    copy = mapped(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)
    copy = host.trainer.precision_plugin.convert_input(copy)
    if transferred:
        device = host.module.device
        return mapped(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, copy)
    # A hook that draws random numbers draws the same at every step.
    seed_global_rng()
    with _unchanged(host.trainer.datamodule):  # type: ignore[attr-defined]
        copy = host.module._on_before_batch_transfer(copy, dataloader_idx=0)
        return host.trainer.strategy.batch_to_device(copy, dataloader_idx=0)


@contextmanager
def _unchanged(data: Any) -> Iterator[None]:
    """Restores what a data module with transfer hooks of its own holds: counters, generators, augmentations."""
    # Lightning also calls hooks that were assigned to the data module itself.
    own = [getattr(data, name, None) for name in _HOOKS]
    if all(str(getattr(hook, "__module__", _ROOTS[0])).split(".")[0] in _ROOTS for hook in own):
        yield
        return
    # The trainer leads to everything else that runs.
    held = [value for name, value in vars(data).items() if name != "trainer"]
    with isolated(data, deep=False), isolated(*held):
        yield
