"""Lists a model's layers: their outputs, their calls, and which of them have a map."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.capture.inspection import Survey, mixed
from lightning_gradcam.capture.layers import AUTO, named_layers, no_hooks, resolve_layers
from lightning_gradcam.capture.tensors import main_tensor
from lightning_gradcam.compute.callers import Request, eager
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import ConfigurationError, LayerError
from lightning_gradcam.targets import Given, resolve_targets

# Number of layers differentiated together; all their activations stay in memory.
_AT_ONCE = 48


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: The dotted name.
        kind: The class name.
        output: The shape of the main floating-point tensor returned by the last call, with ``"N"`` for the samples.
            Otherwise a description of the output, or ``""`` if the layer was never called.
        parameters: Number of parameters in the layer and its children.
        calls: Number of calls in one forward pass.
        layout: The meaning of the output's axes, such as ``"NCHW"`` or ``"NLC:1+14x14"``; ``None`` without a map.
        grid: The resolution of the layer's maps; ``None`` without a map.
        why: Why the layer has no map; ``None`` if it has one.
    """

    name: str
    kind: str
    output: tuple[int | str, ...] | str
    parameters: int
    calls: int
    layout: str | None
    grid: tuple[int, ...] | None
    why: str | None


@dataclass(frozen=True)
class LayerListing:
    """A model's layers.

    Attributes:
        model: The model's class name.
        inputs: The shape of one sample's image.
        parameters: Number of parameters in the whole model.
        rows: The layers in the model's own order.
        auto: The layer that ``"auto"`` selects; ``None`` if no layer qualifies.
        why: Why ``"auto"`` finds no layer; ``None`` if it finds one.
    """

    model: str
    inputs: tuple[int, ...]
    parameters: int
    rows: tuple[LayerRow, ...]
    auto: str | None
    why: str | None


def list_layers(
    model: nn.Module, inputs: Inputs, run: Callable[[Any], Any], *, progress: Callable[[int, int], Any] | None = None
) -> LayerListing:
    """Lists every layer of a model.

    Args:
        model: The model, guarded and in evaluation mode.
        inputs: A few samples, of which the first two are used. A single sample is duplicated to distinguish the sample
            axis from other axes.
        run: Maps inputs to the model's output.
        progress: Called after each step with the number of steps done and the total.

    Raises:
        ConfigurationError: The forward pass fails on these inputs.
    """
    few = inputs.part(0, 2) if inputs.samples > 1 else Inputs(inputs.fresh(copies=2))
    layers = named_layers(model)

    steps, total = count(1), 4

    def step() -> None:
        if progress is not None:
            progress(next(steps), total)

    with eager(model):
        try:
            seen = _watched(layers, lambda: run(few.fresh()))
        except Exception as error:  # a user's forward may raise anything
            raise ConfigurationError(
                f"model: its forward pass failed on inputs {list(few.picture.shape)} ({type(error).__name__}:"
                f" {' '.join(str(error).split())}); pass the shape of one sample as the model takes it (--input-shape)"
            ) from error
        step()
        asked = Request(resolve_targets("predicted"), {}, {}, run)
        survey = Search(model, asked, few, Given(few.samples)).survey
        spatial = survey.spatial
        step()
        auto, why = _auto(model, survey)
        names, alive = list(spatial), set[str]()
        total = 3 - (-len(names) // _AT_ONCE)
        step()
        for start in range(0, len(names), _AT_ONCE):
            alive.update(survey.alive(mixed, names[start : start + _AT_ONCE]))
            step()
    rows = []
    for name, layer in layers.items():
        outputs, layout = seen[id(layer)], spatial.get(name) if name in alive else None
        last = outputs[-1] if outputs else ""
        output: tuple[int | str, ...] | str = last
        if isinstance(last, tuple):
            place = spatial[name].axes.index("N") if name in spatial else 0
            output = tuple("N" if at == place and size == few.samples else size for at, size in enumerate(last))
        axes, grid = (None, None) if layout is None else (str(layout), layout.grid)
        why = _why_not(name, layer, last, survey) if layout is None else None
        kind, size = type(layer).__name__, parameters_of(layer)
        rows.append(LayerRow(name, kind, output, size, len(outputs), axes, grid, why))
    inputs_shape = tuple(few.picture.shape[1:])
    return LayerListing(type(model).__name__, inputs_shape, parameters_of(model), tuple(rows), auto, why)


def parameters_of(module: nn.Module) -> int:
    """Returns the number of parameters in a module, counting shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _auto(model: nn.Module, survey: Survey) -> tuple[str | None, str | None]:
    try:
        return next(iter(resolve_layers(model, AUTO, auto=lambda: survey.auto(mixed)))), None
    except LayerError as error:
        return None, str(error).removeprefix("layers: ")


def _watched(layers: Mapping[str, nn.Module], forward: Callable[[], Any]) -> dict[int, list[Any]]:
    """Returns the output of each call, by module id: a shape, or a description of anything else."""
    seen: dict[int, list[Any]] = {id(layer): [] for layer in layers.values()}

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        other = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        found = main_tensor(output)
        seen[id(module)].append(other if found is None else tuple(found.shape))

    with ExitStack() as stack, torch.no_grad():
        for layer in {id(layer): layer for layer in layers.values() if no_hooks(layer) is None}.values():
            stack.callback(layer.register_forward_hook(hook).remove)
        forward()
    return seen


def _why_not(name: str, layer: nn.Module, last: Any, survey: Survey) -> str:
    if (reason := no_hooks(layer)) is not None:
        return reason
    if last == "":
        return "never called"
    if isinstance(last, str):
        return "no floating-point tensor"
    if name in survey.spatial:
        return "the output ignores it"
    if len(last) < 3:
        return "flat"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layout = survey.layout(name)
    except LayerError as error:
        return re.sub(r"^layers: '.*?' ", "", str(error)).split(";")[0]
    if len(layout.grid) and max(layout.grid) == 1:
        return "one value per channel"
    return f"{' x '.join(map(str, layout.grid))} does not have the input's proportions"
