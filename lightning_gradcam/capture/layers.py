"""Resolves layer names, patterns, module objects or ``"auto"`` to the modules to hook; detects what blocks hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gradcam.capture.calls import ALL_CALLS, split_call
from lightning_gradcam.errors import LayerError, did_you_mean

AUTO = "auto"
LISTING = "lightning-gradcam layers"
LayerSpec = str | nn.Module | Sequence[str | nn.Module]

_CHANNELS_FIRST = ("Conv", "BatchNorm", "GroupNorm", "InstanceNorm", "Pool", "Pixel", "Upsampl")
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")


def public_name(name: str) -> str:
    """Removes the parts that ``torch.compile``, FSDP and checkpoint wrappers add to a dotted module name.

    Example:
        >>> public_name("backbone._orig_mod.layer4")
        'backbone.layer4'
    """
    # Nearly all names contain none of these parts, and a model has thousands of names.
    return _WRAPPERS.sub("", name).strip(".") if "_" in name else name


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the module inside a ``torch.compile``, FSDP or checkpoint wrapper; otherwise the module itself."""
    while inner := next((m for name, m in module.named_children() if _WRAPPERS.fullmatch(name)), None):
        module = inner
    return module


def resolve_layers(
    model: nn.Module,
    layers: LayerSpec,
    *,
    auto: Callable[[], str] | None = None,
    calls: Callable[[str], int] | None = None,
    available: Mapping[str, nn.Module] | None = None,
) -> dict[str, nn.Module]:
    """Finds the modules that ``layers`` refers to.

    Args:
        model: The model to which the modules belong.
        layers: A dotted name (``"backbone.layer4"``), a shell pattern (``"backbone.layer*"``; ``*`` matches within one
            dotted part, and across dots only if nothing matches otherwise), a module of ``model``, ``"auto"`` (the last
            layer with a spatial output), or a list of these. For a module that is called several times, ``"encoder#0"``
            is the first call and ``"encoder#*"`` means all calls.
        auto: Returns the layer for ``"auto"``.
        calls: Returns the number of calls of a layer in one forward pass.
        available: The result of :func:`named_layers`, if known.

    Returns:
        Modules by name, in the order requested and, within a pattern, in the model's order; without duplicates.

    Raises:
        LayerError: ``layers`` is empty, a name or pattern matches nothing, or a module is not part of ``model`` or
            cannot be hooked.

    Example:
        >>> list(resolve_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "*"))
        ['0', '1']
    """
    available = named_layers(model) if available is None else available
    found: dict[str, nn.Module] = {}
    for spec in check_layers(layers):
        call = None
        if isinstance(spec, nn.Module):
            names = [name for name, module in available.items() if module is spec][:1]
            if not names:
                raise LayerError(
                    f"layers: the given {type(spec).__name__} is not a submodule of {type(model).__name__}; pass a"
                    " module that belongs to it, or its dotted name"
                )
        elif public_name(spec) in available:
            # Exact names come before patterns and "auto": a name that exists must always mean that layer.
            names = [public_name(spec)]
        elif spec == AUTO:
            if auto is None:
                raise LayerError("layers: 'auto' needs a forward pass to choose a layer; specify the layer instead")
            _check_any_hook(available)
            names = [auto()]
            if split_call(names[0])[1] is not None and calls is not None:
                # The layer's own name ends like a call reference.
                call = str(max(calls(names[0]) - 1, 0))
        else:
            layer, call = split_call(spec)
            layer = public_name(layer)
            pattern = layer not in available and any(character in layer for character in "*?[")
            names = _matching(available, layer) if pattern else [layer]
            if not names or names[0] not in available:
                what = f"no layer matches the pattern {layer!r:.80}" if pattern else f"layer {layer!r:.80} not found"
                raise LayerError(f"layers: {what}{did_you_mean(layer, available, listing=LISTING)}")
        for name in names:
            found.update(dict.fromkeys([name] if call is None else _calls(name, call, calls), available[name]))
    for name, module in found.items():
        if name in available and split_call(name)[1] is not None:
            raise LayerError(
                f"layers: the module's own name {name!r:.80} looks like the name of a call; specify one of the "
                f"module's calls, such as {name + '#0'!r:.80} for the first one"
            )
        if reason := no_hooks(module):
            raise LayerError(f"layers: {name!r} {reason}")
    return found


def _calls(name: str, call: str, calls: Callable[[str], int] | None) -> list[str]:
    if call != ALL_CALLS:
        return [f"{name}#{int(call)}"]
    if calls is None:
        raise LayerError(
            f"layers: {name + '#*'!r} needs a forward pass to list the calls; specify them: {name + '#0'!r}, …"
        )
    count = calls(name)
    if not count:
        raise LayerError(
            f"layers: {name!r} exists, but the forward pass never reached it; choose a layer that it calls"
        )
    return [f"{name}#{number}" for number in range(count)]


def no_hooks(module: nn.Module) -> str | None:
    """Returns why a hook can't see a module's output, and what to do; ``None`` if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return (
            f"is compiled by torch.jit ({type(module).__name__}), which does not call hooks; pass the model as it was "
            "before torch.jit.script or torch.jit.trace"
        )
    # Compare the exact class: subclasses define a forward, or are containers that nobody requests.
    if type(module) is nn.Module:
        return (
            "has no forward of its own; choose a module inside it, or, if this is an exported program, pass the model "
            "as it was before torch.export, or torch.export.unflatten(program)"
        )
    return None


def _check_any_hook(available: Mapping[str, nn.Module]) -> None:
    own = {name: module for name, module in available.items() if any(True for _ in module.parameters(recurse=False))}
    reasons = {name: no_hooks(module) for name, module in own.items()}
    if reasons and all(reasons.values()):
        name, reason = next(iter(reasons.items()))
        raise LayerError(f"layers: 'auto' found no layer that can be hooked: {name!r} {reason}")


def is_channels_first(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a module's class implies that its output has the axes ``[N, C, …]``.

    A subclass of a torch module may override ``forward``; it is trusted only if the number of channels is the module's
    own.

    Args:
        module: The module, without wrappers such as that of ``torch.compile``.
        shape: Shape of its output.

    Example:
        >>> is_channels_first(nn.Conv2d(1, 32, 3), (2, 32, 32, 16)), is_channels_first(nn.ReLU(), (2, 32, 32, 16))
        (True, False)
    """
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.nn.") and any(word in kind.__name__ for word in _CHANNELS_FIRST):
            counts = (getattr(module, name, None) for name in ("out_channels", "num_features", "num_channels"))
            channels = next((count for count in counts if count is not None), None)
            own = kind is not type(module) and type(module).forward is not kind.forward  # type: ignore[attr-defined]
            return not own if channels is None else not own or shape[1] == channels
    return False


def mixing_layers(layers: Mapping[str, nn.Module]) -> list[str]:
    """Returns the batch norms that use the batch's own statistics even in evaluation mode.

    Example:
        >>> mixing_layers({"a": nn.BatchNorm2d(2), "b": nn.BatchNorm2d(2, track_running_stats=False)})
        ['b']
    """
    return [n for n, m in layers.items() if isinstance(m, _BatchNorm) and m.running_mean is None]


def compiled_layers(model: nn.Module) -> list[str]:
    """Returns the names of the modules compiled by ``torch.compile``; ``""`` is the model itself."""
    return [
        public_name(name)
        for name, module in model.named_modules()
        if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
    ]


def check_layers(layers: LayerSpec) -> list[str | nn.Module]:
    """Returns ``layers`` as a list, after checking the type of each entry.

    Raises:
        LayerError: The list is empty, or an entry is neither a non-empty string nor a module.
    """
    specs = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, (str, nn.Module)) else [layers]
    wrong = [spec for spec in specs if not isinstance(spec, nn.Module) and (not isinstance(spec, str) or not spec)]
    if not specs or wrong:
        came = repr(wrong[0]) if wrong else "an empty list"
        raise LayerError(
            f"layers: got {came}; pass a dotted module name, a shell pattern such as 'backbone.layer*', a module,"
            " 'auto', or a list of these"
        )
    return specs


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns every submodule by its public name."""
    # Include all aliases of shared modules: a user may know only one of them.
    names: dict[str, nn.Module] = {}
    for name, module in _walk(model, ""):
        if public := public_name(name):
            names.setdefault(public, module)
    return names


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    # `named_modules()` hashes each module, and metrics compute their hash from all their state.
    for name, child in module._modules.items():
        if child is not None:
            yield f"{prefix}{name}", child
            yield from _walk(child, f"{prefix}{name}.")


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    names, patterns = list(names), pattern.split(".")
    within = [
        name
        for name in names
        if len(parts := name.split(".")) == len(patterns) and all(map(fnmatchcase, parts, patterns))
    ]
    return within or [name for name in names if fnmatchcase(name, pattern)]


_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "torchao.")


def quantised_part(model: nn.Module) -> str | None:
    """Returns the reason and the fix for the first quantised part; ``None`` if there is none.

    Example:
        >>> quantised_part(nn.Sequential(nn.ReLU())) is None
        True
    """
    for name, module in model.named_modules():
        kinds = (type(each) for each in (module, *module._parameters.values()))
        if any(f"{kind.__module__}.".startswith(_QUANTISED) for kind in kinds):
            return (
                f"{_called(name, module)} is quantised, so no gradient passes through it; explain the model as it was "
                "before quantisation, with floating-point weights"
            )
    return None


def obstacle(model: nn.Module) -> str | None:
    """Returns the reason and the fix for the first part compiled by ``torch.jit``, or else the first quantised part.

    Returns:
        ``None`` if there is none.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            return (
                f"{_called(name, module)} is compiled by torch.jit, which does not call hooks; pass the model as it "
                "was before torch.jit.script or torch.jit.trace, with the same weights"
            )
    return quantised_part(model)


def _called(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    shown = public_name(name)
    return f"{shown!r:.80} ({kind})" if shown else f"the model ({kind})"
