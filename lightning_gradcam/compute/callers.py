"""What a user calls with: models that are no modules, numbers that are none, arguments that a forward does not take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_gradcam.errors import ConfigurationError


def check_module(model: Any, purpose: str) -> None:
    """Refuses a model that is no module.

    Args:
        model: What the user gives as ``model``.
        purpose: What a module is needed for, as it follows in the error: ``"whose layers are explained"``.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"model: got {model!r:.80}; give a torch.nn.Module, {purpose}, and forward= for another way to call it"
            f"{held_module(model)}"
        )


def check_count(name: str, value: Any, least: int = 1, *, instead: str = "") -> None:
    """Refuses what is no whole number of at least so many.

    Args:
        name: The argument's.
        value: What the user gives.
        least: The smallest that is possible.
        instead: What else is possible, as it follows in the error.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name}: got {value!r}; give a whole number, {least} or more{instead}")


def held_module(wrapper: Any) -> str:
    """Returns the tail of an error about a model that is no module: where in it one is, if any is.

    Example:
        >>> class Wrapper:
        ...     model = nn.ReLU()
        >>> held_module(Wrapper())
        ': it holds a ReLU, so give its .model, and forward=lambda inputs: wrapper(inputs) if calling it differs'
    """
    if isinstance(wrapper, type) and issubclass(wrapper, nn.Module):
        return f": that is the class itself, so give an instance, {wrapper.__name__}(...)"
    for name in dict.fromkeys(["model", "module", *vars(wrapper)] if hasattr(wrapper, "__dict__") else ["model"]):
        held = inspect.getattr_static(wrapper, name, None)
        if isinstance(held, nn.Module):
            return (
                f": it holds a {type(held).__name__}, so give its .{name}, and forward=lambda inputs: wrapper(inputs)"
                " if calling it differs"
            )
    return ""


def several_arguments(model: nn.Module, inputs: Any, error: Exception) -> str:
    """Returns what to do where a forward was called with the wrong number of arguments; empty where that is not it."""
    if not isinstance(error, TypeError) or "argument" not in str(error):
        return ""
    try:
        taken = ", ".join(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):  # a compiled function shows none
        taken = "..."
    entries = inputs if isinstance(inputs, (list, tuple)) else []
    if len(entries) > 1 and all(isinstance(entry, Tensor) and entry.dim() == 3 for entry in entries):
        return "the entries of a list are arguments: give a batch of pictures of one size, torch.stack(pictures)"
    how = "a dict gives arguments by name" if isinstance(inputs, Mapping) else "a tuple gives several arguments"
    return (
        f"its forward takes ({taken:.100}), and {how}: give what it takes as a tuple or dict, or forward=, a function"
        " of the inputs that calls it"
    )
