"""Watches one forward pass of a training step: the layers' activations with their graph, and the model's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_gradcam.capture.activations import Captured, capture
from lightning_gradcam.capture.inputs import Inputs
from lightning_gradcam.capture.layers import (
    AUTO,
    LayerSpec,
    check_layers,
    is_channels_first,
    named_layers,
    resolve_layers,
    unwrapped,
)
from lightning_gradcam.capture.layout import Layout, check_places, input_size
from lightning_gradcam.capture.shapes import find_layout
from lightning_gradcam.capture.tensors import with_tensors
from lightning_gradcam.compute.batches import check_layouts, check_model
from lightning_gradcam.compute.callers import Request
from lightning_gradcam.compute.levels import Unit, units_of
from lightning_gradcam.compute.search import Search
from lightning_gradcam.errors import ConfigurationError, LayerError
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.methods.rerun import plain_attention
from lightning_gradcam.targets import Given


@dataclass(frozen=True, eq=False)
class Entrance:
    """One call of the watched model, or of one of its parts if these are called individually.

    Attributes:
        name: The part's name; ``""`` for the model itself.
        module: The part.
        inputs: The positional and keyword arguments, including the image passed by the user.
        leaf: The tensor with respect to which to differentiate; ``None`` unless the input gradient is needed.
    """

    name: str
    module: nn.Module
    inputs: Inputs
    leaf: Tensor | None

    def search(self, asked: Request) -> Search:
        """Returns the search for layers in this part, which surveys it with the same inputs."""
        start = len(self.name) + 1 if self.name else 0
        inner = f"{self.name}." if self.name else ""
        layouts = {name[start:]: spec for name, spec in asked.layouts.items() if name.startswith(inner)}
        layouts |= {"": asked.layouts[""]} if "" in asked.layouts else {}
        asked = replace(asked, layouts=layouts, run=lambda values: self.module(*values[0], **values[1]), direct=True)
        return Search(self.module, asked, self.inputs, Given(self.inputs.samples))


@dataclass(eq=False)
class Watch:
    """The observations from one forward pass.

    Attributes:
        asked: The request.
        modules: Modules by layer name.
        units: Every feature map of every layer, attached to its graph.
        entrances: The calls, in order.
        attends: Whether the forward pass called torch's attention, which has fused kernels; ``None`` if unknown.
    """

    asked: Request
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    entrances: list[Entrance] = field(default_factory=list)
    attends: bool | None = None

    @property
    def picture(self) -> Tensor | None:
        """The image in the last call of the model itself; ``None`` if only its parts were called."""
        return next((e.inputs.picture for e in reversed(self.entrances) if not e.name), None)

    def entered(self, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the image passed by the user, and the tensor with respect to which to differentiate.

        Args:
            inputs: The image in question; ``None`` if there is only one call.

        Raises:
            ConfigurationError: The image was not passed to the model or contains integers, or there are several calls.
        """
        own = [e for e in self.entrances if inputs is None or e.inputs.picture is inputs]
        if len(own) != 1:
            what = "calls" if inputs is None else "calls with this tensor"
            raise ConfigurationError(
                f"inputs: the watched forward pass had {len(own) or 'no'} {what}; call model(x) once inside "
                "watching(model), and pass inputs=x, the same tensor object"
            )
        if own[0].leaf is None:
            raise ConfigurationError(
                f"inputs: values of {own[0].inputs.picture.dtype} have no gradient; pass floating-point images (the"
                " model may still scale them)"
            )
        return own[0].inputs.picture, own[0].leaf

    def layout_of(self, name: str, module: nn.Module, activation: Tensor, *, single: bool = False) -> Layout:
        """Returns the layout of a layer's activation.

        Raises:
            LayerError: The activation has no spatial axes, or its layout is unknown.
        """
        entrance = next((e for e in reversed(self.entrances) if not e.name or name.startswith(f"{e.name}.")), None)
        shape, given = activation.shape, self.asked.layout_of(name)
        if entrance is not None and (not entrance.name or entrance.inputs.picture.dim() > 3 or given is not None):
            search = entrance.search(self.asked)
            inner = name[len(entrance.name) + 1 :] if entrance.name else name
            try:
                with preserved(entrance.module):
                    return search.layout_of(inner, module, activation, single=single)
            except LayerError as error:
                with preserved(entrance.module):
                    raise search.beside(error) from None
        first = activation.dim() > 3 and is_channels_first(unwrapped(module), shape)
        layout = None
        if first or given is not None:
            last = False if first else None
            layout = find_layout(name, shape, samples=len(activation), picture=None, given=given, last=last)
        if layout is None:
            raise LayerError(
                f"layers: the layout of {name!r} {list(shape)} is not known, because the watched module itself was not "
                "called; call model(x) inside watching(model), watch the part that is called, or pass the layout, such "
                f"as layout={{{name!r}: 'NCHW'}}"
            )
        if not single:
            check_places(name, shape, layout)
        return layout


@contextmanager
def watched(
    model: nn.Module, layers: LayerSpec | None, asked: Request, *, found: list[str], first: bool, ask: bool
) -> Iterator[Watch]:
    """Watches the forward pass inside; on exit, removes hooks and restores grad mode and attention kernels.

    Args:
        model: The model.
        layers: The layers; ``None`` if the input gradient is needed instead.
        asked: The request.
        found: The layer names resolved earlier, if resolving ``layers`` needs a survey; filled by the first forward
            pass.
        first: Whether to check the user's arguments.
        ask: Whether to detect if the model calls attention.

    Raises:
        LayerError: A layer does not exist or, on exit, was not reached.
    """
    training = torch.is_grad_enabled()
    watch = Watch(asked)
    seeing = _Attention() if ask else nullcontext()
    with ExitStack() as stack:
        captured: list[Captured] = []

        def begin(modules: Mapping[str, nn.Module]) -> None:
            if first:
                check_layouts(modules, asked)
            watch.modules = modules
            captured.append(stack.enter_context(capture(modules, whole_graph=training or layers is None)))

        wanted = {"": model}
        if layers is None:
            wanted |= dict(model.named_children())
            begin({})
        else:
            available = named_layers(model)
            if first:
                check_model(available, 1, asked.layouts)
            if not found and needs_look(layers):
                stack.callback(
                    model.register_forward_pre_hook(_looking(layers, asked, found, begin), with_kwargs=True).remove
                )
            else:
                modules = resolve_layers(model, found or layers, available=available)
                wanted |= {name: available[name] for name in _around(modules) if name in available}
                begin(modules)
        for name, module in wanted.items():
            enter = partial(_entered, watch, name, leaves=layers is None)
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        with plain_attention() if training else nullcontext(), seeing as attention:
            yield watch
        if attention is not None:
            watch.attends = attention.met
        if layers is not None and not captured:
            raise ConfigurationError(
                "layers: 'auto' and 'layer#*' need a call of the whole model, which did not happen; call model(x) "
                "inside watching(model), or specify the layers"
            )
        watch.units = units_of(captured[0])


def needs_look(layers: LayerSpec) -> bool:
    """Whether resolving the layers needs a forward pass."""
    return any(spec == AUTO or (isinstance(spec, str) and spec.endswith("#*")) for spec in check_layers(layers))


def sizes_of(picture: Tensor | None) -> list[tuple[int, ...]]:
    """Returns the shapes that a mask may have; for signals and clips, every axis could be spatial."""
    if picture is None:
        return []
    shape, size = tuple(picture.shape), input_size(picture)
    if size is None:
        return [shape[1:]] if len(shape) == 2 else []
    if len(shape) == 3:
        return [size, size[:1], size[1:]]
    # For a volume, one mask for all slices or one for each; frames may come before channels.
    return list(dict.fromkeys([size[-2:], size, (shape[1], *size[-2:])])) if len(shape) == 5 else [size]


def _around(names: Sequence[str] | Mapping[str, nn.Module]) -> Iterator[str]:
    """Yields the names of all modules that contain these layers, outermost first."""
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts)))


def _looking(layers: LayerSpec, asked: Request, found: list[str], begin: Any) -> Any:
    """Returns the hook that resolves the layers right before the watched forward pass."""
    looked: list[bool] = []

    def look(model: nn.Module, args: Any, kwargs: Any) -> None:
        if looked:
            return
        looked.append(True)
        search = Entrance("", model, Inputs((args, kwargs)), None).search(asked)
        with preserved(model):
            try:
                modules = resolve_layers(model, layers, auto=search.auto, calls=search.calls)
            except LayerError as error:
                raise search.beside(error) from None
        found.extend(modules)
        begin(modules)

    return look


def require_no_inference_mode() -> None:
    """Raises ConfigurationError in inference mode, where there are no gradients."""
    if torch.is_inference_mode_enabled():
        raise ConfigurationError(
            "AttentionLoss needs gradients, which torch.inference_mode() does not allow (Lightning validates in it);"
            " use Trainer(inference_mode=False), or leave the loss out of validation_step"
        )


def _entered(watch: Watch, name: str, module: nn.Module, args: Any, kwargs: Any, *, leaves: bool) -> Any:
    """Records a module's inputs, unless the call is inside one already recorded."""
    if any(not e.name or name.startswith(f"{e.name}.") for e in watch.entrances if e.name != name):
        return None
    try:
        inputs = Inputs((args, kwargs))
    except ConfigurationError:
        return None  # there is no image; layer names and layouts may work without one
    picture, leaf = inputs.picture, None
    if leaves and picture.is_floating_point():
        leaf = picture if picture.requires_grad else picture.detach().requires_grad_()
    watch.entrances.append(Entrance(name, module, inputs, leaf))
    if leaf is None or leaf is picture:
        return None
    # The model may modify its input in place, which a leaf does not allow.
    handed_on = leaf.clone()
    return with_tensors((args, kwargs), lambda tensor: handed_on if tensor is picture else tensor)


# Nothing inside a recorded function is recorded.
_ATTENTION = (functional.scaled_dot_product_attention, functional.multi_head_attention_forward)


class _Attention(TorchFunctionMode):
    """Records whether torch's own attention is called."""

    met = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.met = self.met or function in _ATTENTION
        return function(*args, **(kwargs or {}))
