"""Finds the checkpoints of a training run in the order of their steps, without importing Lightning."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lightning_gradcam.errors import CheckpointFileError, ConfigurationError
from lightning_gradcam.saved_models.file import files_in, place_of, read_checkpoint, weights_of


@dataclass(frozen=True)
class Saved:
    """One checkpoint.

    Attributes:
        path: The file.
        epoch: The epoch whose weights it holds, counted from 0.
        step: The x value at which Lightning logged the validation of these weights.
        states: The states of callbacks, by their keys.
        remark: A note for the user on epoch and step, or ``None``.
    """

    path: str
    epoch: int
    step: int
    states: Mapping[str, Any]
    remark: str | None = None


@dataclass(frozen=True)
class Found:
    """The checkpoints of a training.

    Attributes:
        checkpoints: The checkpoints in the order of their steps, each epoch and step once.
        damaged: Unreadable files, with the reason.
        repeated: Files with an epoch and step that another file already provides.
    """

    checkpoints: tuple[Saved, ...]
    damaged: tuple[tuple[str, str], ...] = ()
    repeated: tuple[str, ...] = ()


def find_checkpoints(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, trust: bool = False) -> Found:
    """Reads checkpoints and sorts them.

    Args:
        paths: Files, and folders with ``.ckpt`` files.
        trust: As in :func:`~lightning_gradcam.load_checkpoint`.

    Raises:
        CheckpointFileError: A path does not exist, there is no checkpoint, or all of them are damaged.
        ConfigurationError: One contains objects that require ``trust=True``, or two have the same epoch and step but
            different weights.
    """
    found: dict[tuple[int, int, Any], Saved] = {}
    damaged, repeated = [], []
    for file in files_in(paths):
        try:
            contents = read_checkpoint(file, trust=trust, mapped=True)
            if not isinstance(contents, Mapping):
                raise CheckpointFileError(f"checkpoint: {str(file)!r} holds a whole module, not a training checkpoint")
            weights_of(contents, str(file))
        except CheckpointFileError as error:
            damaged.append((str(file), str(error)))
            continue
        epoch, step, remark = place_of(contents)
        key = (epoch, step, contents.get("global_step"))
        if key in found:
            _check_same(found[key].path, str(file), weights_of(contents, str(file)), trust)
            repeated.append(str(file))
        else:
            found[key] = Saved(str(file), epoch, step, dict(contents.get("callbacks") or {}), remark)
    if not found:
        raise CheckpointFileError(damaged[0][1])
    ordered = sorted(found.values(), key=lambda saved: (saved.step, saved.epoch))
    return Found(tuple(ordered), tuple(damaged), tuple(repeated))


def _check_same(first: str, second: str, weights: Mapping[str, Any], trust: bool) -> None:
    """Rejects checkpoints of two training runs, because only one could be replayed."""
    known = weights_of(read_checkpoint(first, trust=trust, mapped=True), first)
    tensors = {name: value for name, value in known.items() if isinstance(value, torch.Tensor)}
    if known.keys() != weights.keys() or not all(torch.equal(value, weights[name]) for name, value in tensors.items()):
        raise ConfigurationError(
            f"checkpoint: {first!r} and {second!r} have the same epoch and step but different weights: they belong to "
            "two trainings, or one has averaged weights; pass the checkpoints of one training"
        )
