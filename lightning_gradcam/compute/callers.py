"""The request that callers pass on to the forward pass, and checks of their arguments."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.calls import layer_of
from lightning_gradcam.capture.inputs import Forward
from lightning_gradcam.capture.layers import compiled_layers
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.methods.registry import Method
from lightning_gradcam.targets.resolve import Target


def check_module(model: Any, purpose: str) -> None:
    """Rejects a model that is not a module.

    Args:
        model: The user's ``model``.
        purpose: Why a module is needed, as worded in the error: ``"whose layers are explained"``.

    Raises:
        ConfigurationError: The model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"model: got {model!r:.80}; pass a torch.nn.Module, {purpose}, and forward= to call it in another way"
            f"{held_module(model)}"
        )


def check_whole(name: str, value: Any, least: int = 1, *, instead: str = "") -> None:
    """Rejects a value that is not an integer or is too small.

    Args:
        name: The argument's name.
        value: The user's value.
        least: The smallest valid value.
        instead: Other valid values, as worded in the error.

    Raises:
        ConfigurationError: The value is not an integer or is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name}: got {value!r}; pass an integer >= {least}{instead}")


def held_module(wrapper: Any) -> str:
    """Returns the end of the error about a model that is not a module: the attribute that contains one, if any.

    Example:
        >>> class Wrapper:
        ...     model = nn.ReLU()
        >>> held_module(Wrapper())
        ': it wraps a ReLU, so pass its .model, plus forward=lambda inputs: wrapper(inputs) if the wrapper does more'
    """
    if isinstance(wrapper, type) and issubclass(wrapper, nn.Module):
        return f": that is the class itself; pass an instance, {wrapper.__name__}(...)"
    for name in dict.fromkeys(["model", "module", *vars(wrapper)] if hasattr(wrapper, "__dict__") else ["model"]):
        held = inspect.getattr_static(wrapper, name, None)
        if isinstance(held, nn.Module):
            return (
                f": it wraps a {type(held).__name__}, so pass its .{name}, plus forward=lambda inputs: wrapper(inputs)"
                " if the wrapper does more"
            )
    return ""


def several_arguments(model: nn.Module, inputs: Any, error: Exception) -> str:
    """Returns advice if ``forward`` was called with the wrong number of arguments; otherwise an empty string."""
    if not isinstance(error, TypeError) or "argument" not in str(error):
        return ""
    try:
        taken = ", ".join(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):  # a compiled function has no visible signature
        taken = "..."
    entries = inputs if isinstance(inputs, (list, tuple)) else []
    if len(entries) > 1 and all(isinstance(entry, Tensor) and entry.dim() == 3 for entry in entries):
        return (
            "the entries of a list are separate arguments: for a batch, pass images of one size as torch.stack(images)"
        )
    how = "a dict contains arguments by name" if isinstance(inputs, Mapping) else "a tuple contains several arguments"
    return (
        f"its forward takes ({taken:.100}), and {how}: pass its arguments as a tuple or dict, or pass forward=, a "
        "function of the inputs that calls the model"
    )


def eager(model: nn.Module) -> AbstractContextManager[Any]:
    """Returns a context in which modules compiled by ``torch.compile`` run uncompiled and call hooks.

    Args:
        model: The model.

    Raises:
        ConfigurationError: The model is compiled and this torch (before 2.6) has no such context, or the caller itself
            is compiled.
    """
    # Hooks added after compilation silently do not fire. If dynamo was never imported, nothing is compiled, and
    # importing it would cost a second.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    if hasattr(torch.compiler, "set_stance"):
        try:
            if torch.compiler.is_compiling():
                raise RuntimeError  # this function is not compiled either: it runs as plain Python and fails below
            stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        except RuntimeError:
            raise ConfigurationError(
                "torch.compile: this runs inside a compiled function, such as the training_step of a LightningModule "
                "compiled as a whole, and compiled code does not call hooks; compile only the network inside it: "
                "self.net = torch.compile(self.net)"
            ) from None
        return stance
    if compiled := compiled_layers(model):
        raise ConfigurationError(
            f"model: {', '.join(name or type(model).__name__ for name in compiled)} is compiled by torch.compile, "
            f"which does not call hooks, and torch {torch.__version__} can't disable that temporarily; pass the "
            "model before compilation (its _orig_mod), or use torch 2.6 or newer"
        )
    return nullcontext()


@contextmanager
def outside_autocast(run: Forward, device: torch.device) -> Iterator[Forward]:
    """Turns autocast off for our own sums, which it would round to eight bits.

    Args:
        run: Calls the model.
        device: The inputs' device.

    Yields:
        A function that calls the model under the caller's autocast.
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        yield run
        return
    dtype = torch.get_autocast_dtype(kind)

    def as_called(values: Any) -> Any:
        with torch.autocast(kind, dtype):
            return run(values)

    with torch.autocast(kind, enabled=False):
        yield as_called


@dataclass(frozen=True, eq=False)
class Request:
    """A request for an explanation, apart from the layers.

    Attributes:
        targets: The targets to explain.
        methods: The methods, by name.
        layouts: The user's layouts by layer name; ``""`` means all layers.
        run: Maps inputs to the explained output.
        relu: Whether to keep only positive evidence for the target.
        batch_size: Number of samples per forward pass; ``None`` means all.
        check: Whether to check layouts, labels and layers; once per model is enough.
        copies: Whether the model is known to modify a layer's output in place; otherwise this is detected.
        keep_output: Whether to keep the model's output, which can be larger than all maps.
        halve: Whether to halve the number of samples or variants per forward pass if memory runs out.
        gradients: Whether to compute gradient statistics.
        trial: Whether to explain only the first two samples and check all labels, as a trial run.
        direct: Whether ``run`` calls the model itself with unchanged inputs.
        moves: Whether to check once that the layers' positions match the image's. Otherwise this is checked only if the
            model is surveyed anyway.
    """

    targets: Sequence[Target]
    methods: Mapping[str, Method]
    layouts: Mapping[str, str]
    run: Forward
    relu: bool = True
    batch_size: int | None = None
    check: bool = True
    copies: bool = False
    keep_output: bool = True
    halve: bool = True
    gradients: bool = False
    trial: bool = False
    direct: bool = False
    moves: bool = False

    def layout_of(self, layer: str) -> str | None:
        """Returns the user's layout for a layer, or ``None``."""
        return self.layouts.get(layer, self.layouts.get(layer_of(layer), self.layouts.get("")))
