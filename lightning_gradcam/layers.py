"""From layer names, shell patterns, module objects or ``"auto"`` to the modules that are hooked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.errors import LayerError, did_you_mean

AUTO = "auto"
LayerSpec = str | nn.Module | Sequence[str | nn.Module]

_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")
# Their outputs are spatial, but show what the layer before them found: coarser, thinned out or unchanged.
_PASSIVE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample)
_PASSIVE_NAMES = ("Pool", "Dropout", "Pad")


def public_name(name: str) -> str:
    """Strips the names that ``torch.compile``, FSDP and checkpoint wrappers put into a dotted module name.

    Example:
        >>> public_name("backbone._orig_mod.layer4")
        'backbone.layer4'
    """
    return _WRAPPERS.sub("", name).strip(".")


def resolve_layers(
    model: nn.Module, layers: LayerSpec, *, forward: Callable[[], Any] | None = None
) -> dict[str, nn.Module]:
    """Finds the modules that ``layers`` means.

    Args:
        model: The model they belong to.
        layers: A dotted name (``"backbone.layer4"``), a shell pattern (``"backbone.layer*"``; ``*`` stays
            between two dots, and crosses them only where nothing matches otherwise), a module of ``model``,
            ``"auto"`` (the last layer with a spatial output), or a list of these.
        forward: Runs the model once; needed for ``"auto"`` only.

    Returns:
        Name to module, in the order asked for and, within a pattern, in the model's order; without duplicates.

    Raises:
        LayerError: Nothing was given, a name or pattern matches nothing, or a module is not part of ``model``.

    Example:
        >>> list(resolve_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "*"))
        ['0', '1']
    """
    available = _named_modules(model)
    found: dict[str, nn.Module] = {}
    for spec in check_layers(layers):
        if isinstance(spec, nn.Module):
            names = [name for name, module in available.items() if module is spec][:1]
            if not names:
                raise LayerError(
                    f"layers: the given {type(spec).__name__} is not a submodule of {type(model).__name__}; pass a"
                    " module that belongs to it, or its dotted name"
                )
        elif spec == AUTO:
            if forward is None:
                raise LayerError("layers: 'auto' needs a forward to look at; name the layer instead")
            names = [_last_spatial(available, forward)]
        elif any(character in spec for character in "*?["):
            names = _matching(available, spec)
            if not names:
                raise LayerError(f"layers: no layer matches the pattern {spec!r}{did_you_mean(spec, available)}")
        elif public_name(spec) in available:
            names = [public_name(spec)]
        else:
            raise LayerError(f"layers: layer {spec!r} not found{did_you_mean(spec, available)}")
        found.update((name, available[name]) for name in names)
    return found


def check_layers(layers: LayerSpec) -> list[str | nn.Module]:
    """Returns ``layers`` as a list, each entry of a possible kind.

    Raises:
        LayerError: The list is empty, or an entry is neither a non-empty string nor a module.
    """
    specs = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, (str, nn.Module)) else [layers]
    wrong = [spec for spec in specs if not isinstance(spec, nn.Module) and (not isinstance(spec, str) or not spec)]
    if not specs or wrong:
        came = repr(wrong[0]) if wrong else "an empty list"
        raise LayerError(
            f"layers: got {came}; give a dotted module name, a shell pattern such as 'backbone.layer*', a module,"
            " 'auto', or a list of these"
        )
    return specs


def spatial_size(name: str, activation: Tensor) -> tuple[int, ...]:
    """Returns the spatial shape ``(h, w)`` of an ``[N, C, h, w]`` activation.

    Raises:
        LayerError: The activation is not ``[N, C, h, w]``, or has a single place, so that no map can be drawn.
    """
    shape = tuple(activation.shape)
    if len(shape) != 4:
        raise LayerError(
            f"layers: {name!r} has no spatial activation: its output is {list(shape)}, expected [N, C, h, w]; name a"
            " layer before the flattening or pooling, such as the last convolution"
        )
    if shape[2] * shape[3] <= 1:
        raise LayerError(
            f"layers: {name!r} has no spatial activation: its output {list(shape)} has a single place; name a layer"
            " before the global pooling, or give the model larger inputs"
        )
    return shape[2:]


def _named_modules(model: nn.Module) -> dict[str, nn.Module]:
    # Aliases of shared modules are names too: a user may know only one of them.
    names: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if public_name(name):
            names.setdefault(public_name(name), module)
    return names


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    names, patterns = list(names), pattern.split(".")
    within = [
        name
        for name in names
        if len(parts := name.split(".")) == len(patterns) and all(map(fnmatchcase, parts, patterns))
    ]
    return within or [name for name in names if fnmatchcase(name, pattern)]


def spatial_layers(model: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """Returns the layers that a forward reaches and whose output is a feature map, in the order of execution.

    Args:
        model: The model they belong to.
        forward: Runs it once.
    """
    seen = dict.fromkeys(name for name, output in _executed(_named_modules(model), forward) if _is_spatial(output))
    return list(seen)


def _executed(available: Mapping[str, nn.Module], forward: Callable[[], Any]) -> list[tuple[str, Tensor]]:
    """Runs a forward without a graph and returns every floating-point tensor output, in the order of execution."""
    order: list[tuple[str, Tensor]] = []

    def seen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                order.append((name, output))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in available.items():
            stack.callback(module.register_forward_hook(seen(name)).remove)
        forward()
    return order


def _is_spatial(output: Tensor) -> bool:
    return output.dim() == 4 and output.shape[2] * output.shape[3] > 1


def _last_spatial(available: Mapping[str, nn.Module], forward: Callable[[], Any]) -> str:
    order = _executed(available, forward)
    for name, output in reversed(order):
        shown = [name, *(inner for inner, other in order if other is output and inner.startswith(f"{name}."))]
        if _is_spatial(output) and not any(_is_passive(available[part]) for part in shown):
            # A container that only passes the feature map on fires after its last child and is the better name:
            # "layer4" and not "layer4.1.relu".
            return name
    raise LayerError(
        "layers: 'auto' found no layer whose output is a feature map [N, C, h, w] with more than one place; name the"
        " layer to explain"
    )


def _is_passive(module: nn.Module) -> bool:
    return isinstance(module, _PASSIVE) or any(word in type(module).__name__ for word in _PASSIVE_NAMES)
