"""Matches a checkpoint's weights to a module and loads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.saved_models.file import some

_COMPILED = "_orig_mod."


def restore(module: nn.Module, contents: Mapping[str, Any], state: Mapping[str, Tensor], path: str) -> None:
    """Loads a checkpoint's weights into a module, as Lightning does.

    Args:
        module: The module, whose ``strict_loading`` decides whether all weights must match.
        contents: The checkpoint's contents, for the module's ``on_load_checkpoint``.
        state: The checkpoint's weights.
        path: Its file, for errors.

    Raises:
        ConfigurationError: The weights belong to another model; the message shows the differences.
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
    """Rejects another model's weights before any of them is loaded.

    Args:
        module: The module.
        state: The weights.
        path: Their file, for errors.

    Raises:
        ConfigurationError: They do not match; the message shows the differences.
    """
    strict = bool(getattr(module, "strict_loading", True))
    if (why := _mismatch(aligned(state, module), module, strict=strict)) is not None:
        raise _other(path, module, why)


def aligned(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Renames weights to the module's names, in case either was wrapped by torch.compile or DataParallel.

    If none of the names match, but all of the module's names exist with a common prefix (``"model."``), those are used:
    the module was part of the saved one.

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
    parts = {**found, "of another shape": shapes}.items()
    return "; ".join(f"{what}: {some(names)}" for what, names in parts if names) or None
