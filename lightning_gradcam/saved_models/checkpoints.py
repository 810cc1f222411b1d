"""Finds a training run's checkpoints, sorts them by step and loads their weights, all without Lightning."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.errors import CheckpointFileError, ConfigurationError
from lightning_gradcam.saved_models.file import files_in, place_of, read_checkpoint, some, weights_of


@dataclass(frozen=True)
class Saved:
    """One checkpoint.

    Attributes:
        path: The file.
        epoch: The epoch whose weights it contains, counted from 0.
        step: The x value at which Lightning logged the validation of these weights.
        states: The callbacks' states, by key.
        remark: A note for the user about epoch and step, or ``None``.
    """

    path: str
    epoch: int
    step: int
    states: Mapping[str, Any]
    remark: str | None = None


@dataclass(frozen=True)
class Found:
    """The checkpoints of a training run.

    Attributes:
        checkpoints: The checkpoints sorted by step, one per epoch and step.
        damaged: Unreadable files, with the reason.
        repeated: Files whose epoch and step are already covered by another file.
    """

    checkpoints: tuple[Saved, ...]
    damaged: tuple[tuple[str, str], ...] = ()
    repeated: tuple[str, ...] = ()


def find_checkpoints(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, trust: bool = False) -> Found:
    """Reads checkpoints and sorts them.

    Args:
        paths: Files, or folders with ``.ckpt`` files.
        trust: As in :func:`~lightning_gradcam.load_checkpoint`.

    Raises:
        CheckpointFileError: A path does not exist, there is no checkpoint, or all of them are damaged.
        ConfigurationError: A checkpoint contains objects that require ``trust=True``, or two checkpoints have the same
            epoch and step but different weights.
    """
    found: dict[tuple[int, int, Any], Saved] = {}
    damaged, repeated = [], []
    for file in files_in(paths):
        try:
            contents = read_checkpoint(file, trust=trust, mapped=True)
            if not isinstance(contents, Mapping):
                raise CheckpointFileError(
                    f"checkpoint: {str(file)!r} contains a whole module, not a training checkpoint"
                )
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
    """Rejects checkpoints from two training runs, because only one run can be replayed."""
    known = weights_of(read_checkpoint(first, trust=trust, mapped=True), first)
    tensors = {name: value for name, value in known.items() if isinstance(value, torch.Tensor)}
    if known.keys() != weights.keys() or not all(torch.equal(value, weights[name]) for name, value in tensors.items()):
        raise ConfigurationError(
            f"checkpoint: {first!r} and {second!r} have the same epoch and step but different weights: they belong to "
            "two training runs, or one has averaged weights; pass the checkpoints of one training run"
        )


_COMPILED = "_orig_mod."


def restore(module: nn.Module, contents: Mapping[str, Any], state: Mapping[str, Tensor], path: str) -> None:
    """Loads a checkpoint's weights into a module, as Lightning does.

    Args:
        module: The module, whose ``strict_loading`` decides whether all weights must match.
        contents: The checkpoint's contents, passed to the module's ``on_load_checkpoint``.
        state: The checkpoint's weights.
        path: The checkpoint's file, for errors.

    Raises:
        ConfigurationError: The weights belong to a different model; the message shows the differences.
    """
    hook: Any = getattr(module, "on_load_checkpoint", None)
    if callable(hook):
        hook(contents)
    check_fit(module, state, path)
    try:
        module.load_state_dict(dict(aligned(state, module)), strict=bool(getattr(module, "strict_loading", True)))
    except RuntimeError as error:
        raise _other(path, module, " ".join(str(error).split())[:400]) from error


def check_fit(module: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Rejects weights of a different model before any of them is loaded.

    Args:
        module: The module.
        state: The weights.
        path: The weights' file, for errors.

    Raises:
        ConfigurationError: The weights do not match the module; the message shows the differences.
    """
    strict = bool(getattr(module, "strict_loading", True))
    if (why := _mismatch(aligned(state, module), module, strict=strict)) is not None:
        raise _other(path, module, why)


def aligned(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Renames weights to the module's names, if torch.compile wrapped either module, or DataParallel the saved one.

    If no name matches, but all of the module's names exist with a common prefix (such as ``"model."``), the weights
    with that prefix are used: the module was a submodule of the saved one.

    Example:
        >>> import torch
        >>> list(aligned({"_orig_mod.weight": torch.zeros(1)}, nn.ReLU()))
        ['weight']
    """
    own = {name.replace(_COMPILED, ""): name for name in module.state_dict()}
    plain = {name.replace(_COMPILED, ""): value for name, value in state.items()}
    if all(name.startswith("module.") for name in plain) and not any(name.startswith("module.") for name in own):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    if own and plain.keys().isdisjoint(own):
        first = next(iter(own))
        ends = [name.removesuffix(first) for name in plain if name.endswith(f".{first}")]
        prefix = next((end for end in ends if all(f"{end}{name}" in plain for name in own)), None)
        if prefix is not None:
            plain = {name[len(prefix) :]: value for name, value in plain.items() if name.startswith(prefix)}
    return {own.get(name, name): value for name, value in plain.items()}


def _other(path: str, module: nn.Module, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"checkpoint: {path!r} does not fit {type(module).__name__}: {why}; pass the model (--model) and the arguments"
        " (--config) that it was trained with"
    )


def _mismatch(state: Mapping[str, Tensor], module: nn.Module, *, strict: bool) -> str | None:
    own = module.state_dict()
    shapes = [
        f"{name} {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in state.items()
        if isinstance(own.get(name), Tensor) and isinstance(value, Tensor)
        if not is_lazy(own[name]) and own[name].shape != value.shape
    ]
    missing = [name for name in own if name not in state and not name.endswith("_extra_state")]
    unexpected = [name for name in state if name not in own]
    found = {"missing": missing, "unexpected": unexpected} if strict else {}
    parts = {**found, "with a different shape": shapes}.items()
    return "; ".join(f"{what}: {some(names)}" for what, names in parts if names) or None
