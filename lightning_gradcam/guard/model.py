"""Saves and restores all model state that explaining a model could disturb, even after an exception."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.guard.data import isolated
from lightning_gradcam.guard.snapshot import Attributes, restoring


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` into evaluation mode and restores its exact state on exit.

    The restored state includes each submodule's mode, each parameter's ``requires_grad`` and ``.grad``, and the content
    of buffers and of tensors and arrays stored in attributes, directly or in lists, dicts and tuples of up to 256
    entries, also nested. It also includes all other attributes (counters, caches, lists, hooks), the random number
    generators (global ones and those in modules) and the grad mode. Everything is restored even after an exception.

    Inference mode is turned off inside, because it forbids gradients and Lightning's ``validate`` and ``test`` run
    under it. Autocast's weight cache is turned off inside, too. Otherwise a cast made without a graph, or from
    temporarily replaced weights, would be reused outside.

    Parameters are not copied, because that would double the model's memory. If a ``forward`` overwrites its own weights
    in evaluation mode, the changes are not undone. Of the other objects in a module's attributes and in their
    containers, those that can be called (augmentations, functions, modules that are not registered) are restored like a
    data set (see :func:`~lightning_gradcam.guard.data.isolated`); unregistered modules keep their mode.

    Args:
        model: The model to explain.

    Raises:
        ConfigurationError: A lazy module has not run yet (see :func:`uninitialized`).

    Example:
        >>> model = nn.Sequential(nn.Dropout())
        >>> with preserved(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modules = _modules(model)
    held = {id(p): p for module in modules for p in module._parameters.values() if p is not None}.values()
    if any("_initialize_hook" in vars(module) for module in modules) or any(map(is_lazy, held)):
        raise ConfigurationError(
            f"model: {', '.join(uninitialized(model))} of {type(model).__name__} get their parameters in the first "
            "forward, which draws from the global random generator and so must be part of your training; run one batch "
            "through the model first"
        )
    trainers = [vars(module).get(name) for module in modules[:1] for name in ("_trainer", "_fabric")]
    parameters = [(p, p.requires_grad, p.grad) for p in held]
    attributes = Attributes(map(vars, modules))
    restore_generators = restoring(attributes.generators)
    # An augmentation or noise may count, or draw from its own generator. So may a module that is not registered, such
    # as a teacher in a list, whose buffers also change.
    grad_enabled, caching = torch.is_grad_enabled(), torch.is_autocast_cache_enabled()
    # If one part can't be restored, the others must still be.
    with torch.inference_mode(False), isolated(*attributes.called, apart=[*modules, *trainers]), ExitStack() as stack:
        stack.callback(torch.set_autocast_cache_enabled, caching)
        stack.callback(torch.set_grad_enabled, grad_enabled)
        stack.callback(restore_generators)
        stack.callback(_restore_parameters, parameters)
        stack.callback(attributes.restore)
        torch.set_autocast_cache_enabled(False)
        for module in modules:
            if isinstance(module, torch.jit.ScriptModule):
                _evaluate_script(module, stack)
            elif module.training:
                # Assign the flag instead of calling `.eval()`: an overridden `train()` may do more than set the flag.
                stack.callback(vars(module).__setitem__, "training", module.training)
                vars(module)["training"] = False
        yield


@contextmanager
def sharded_again(model: nn.Module) -> Iterator[None]:
    """Reshards a model's FSDP2 modules on entry and exit, so that each rank stores only its own part of the weights."""
    kinds = ((part, {kind.__name__ for kind in type(part).__mro__}) for part in model.modules())
    wrapped: list[Any] = [part for part, names in kinds if "FSDPModule" in names]
    for part in wrapped:
        part.reshard()
    try:
        yield
    except BaseException:
        for part in wrapped:
            _end_forward(part)
        raise
    finally:
        for part in wrapped:
            part.reshard()


def _end_forward(part: Any) -> None:
    """Cleans up FSDP2's state after a failed forward pass; otherwise the full weights would stay gathered."""
    # FSDP2 has no public function for this, and these private names may disappear.
    state: Any = getattr(part, "_get_fsdp_state", lambda: None)()
    groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
    for holder in (state, *groups):
        if hasattr(holder, "_training_state"):
            holder._training_state = type(holder._training_state).IDLE
    if hasattr(state, "_state_ctx"):
        state._state_ctx.iter_forward_root = None


def _restore_parameters(parameters: Iterable[tuple[nn.Parameter, bool, torch.Tensor | None]]) -> None:
    for parameter, requires_grad, grad in parameters:
        if parameter.requires_grad != requires_grad:
            parameter.requires_grad_(requires_grad)
        if parameter.grad is not grad:
            parameter.grad = grad


def _evaluate_script(module: torch.jit.ScriptModule, stack: ExitStack) -> None:
    """Puts a scripted module into evaluation mode; its flag and buffers are not in its ``__dict__``."""
    for buffer in module._buffers.values():
        if buffer is not None:
            stack.callback(buffer.data.copy_, buffer.detach().clone())
    if module.training:
        stack.callback(setattr, module, "training", module.training)
        module.training = False


def uninitialized(model: nn.Module) -> list[str]:
    """Returns the names of the lazy modules whose parameters have not been created by a first forward pass yet.

    That forward pass also changes the module's class and hooks permanently, so it cannot be undone.

    Example:
        >>> uninitialized(nn.Sequential(nn.LazyLinear(2), nn.ReLU()))
        ["'0' (LazyLinear)"]
    """
    return [
        f"{name!r} ({type(module).__name__})"
        for name, module in model.named_modules()
        # Loading a state dict fills the parameters but keeps the hook, which only the first forward pass removes.
        if "_initialize_hook" in vars(module)
        or any(is_lazy(held) for held in (*module._parameters.values(), *module._buffers.values()))
    ]


def _modules(model: nn.Module) -> list[nn.Module]:
    # `Module.modules()` hashes each module, and metrics compute their hash from all their state.
    found, waiting = {id(model): model}, deque([model])
    while waiting:
        for child in waiting.popleft()._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return [*found.values()]
