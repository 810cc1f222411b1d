"""What the package makes of a row of the sweep, and what is wrong with it beside a plain reference."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_gradcam import Cams, compute_cams
from lightning_gradcam.errors import LightningGradCAMError
from tests.shapes.case import Places, Shape

_LONGEST = 500
# Below this part of the batch's largest value, a map in float64 is rounding alone.
_NOISE = 1e-12
_PREFIX = "lightning-gradcam:"


@dataclass(frozen=True)
class Outcome:
    """What came back.

    Attributes:
        layer: Which layer was explained; empty where none was.
        layout: What the record calls its axes.
        maps: Signed, ``[N, *places]``.
        messages: The package's warnings, or the error.
        error: What was raised.
        cams: All that came back, with ReLU.
    """

    layer: str = ""
    layout: str = ""
    maps: Tensor | None = None
    messages: tuple[str, ...] = ()
    error: Exception | None = None
    cams: Cams | None = None


def looked_at(shape: Shape, seed: int = 0) -> Outcome:
    """Explains the row's model as a user would."""
    model, said = shape.model(seed), list[warnings.WarningMessage]()
    try:
        with _recorded(said):
            cams = compute_cams(model, shape.inputs(), targets=shape.target, **shape.options())
            signed = compute_cams(model, shape.inputs(), targets=shape.target, relu=False, **shape.options())
    except Exception as error:
        return Outcome(messages=(str(error),), error=error)
    ((key, maps),) = signed.items()
    found = tuple(dict.fromkeys(str(w.message) for w in said if str(w.message).startswith(_PREFIX)))
    return Outcome(key.layer, str(signed.layouts[key.layer]), maps, found, cams=cams)


@contextmanager
def _recorded(said: list[warnings.WarningMessage]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said += caught


def wrong_with(shape: Shape, outcome: Outcome) -> list[str]:
    """Returns what is wrong, in words; an empty list where all is right."""
    if outcome.error is not None:
        return _wrong_with_error(shape, outcome.error)
    assert outcome.maps is not None
    assert outcome.cams is not None
    found = list[str]()
    if not shape.right:
        return [f"{outcome.layer} ({outcome.layout}) is drawn, where an error is right: {', '.join(shape.error)}"]
    places = next((p for pattern, p in shape.right.items() if fnmatchcase(outcome.layer, pattern)), None)
    if places is None:
        return [f"{outcome.layer} ({outcome.layout}) is explained, and not {' or '.join(shape.right)}"]
    if places.layout and outcome.layout != places.layout:
        found.append(f"the layout of {outcome.layer} is {outcome.layout}, and not {places.layout}")
    try:
        expected = reference(shape, outcome.layer, places)
        maps = _repeated(outcome.maps, expected.shape[1:]) if places.largest else outcome.maps
        found += _wrong_with_map(maps, expected)
    except RuntimeError as error:  # its shape is none that the row's reading takes
        found.append(f"{outcome.layer} can't be read as the row says: {error}")
    found += [*_blank_without_a_word(outcome), *_noise_without_a_word(outcome)]
    if missing := [word for word in shape.warning if not any(word in message for message in outcome.messages)]:
        found.append(f"no warning has {', '.join(map(repr, missing))}")
    if shape.check is not None:
        try:
            shape.check(outcome.cams)
        except AssertionError as error:
            found.append(f"beside the map: {error}")
    return found


def _wrong_with_error(shape: Shape, error: Exception) -> list[str]:
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, LightningGradCAMError) or not shape.error:
        return [f"{text:.300}"]
    missing = [word for word in shape.error if word not in text]
    long = [f"the error has {len(str(error))} characters"] if len(str(error)) > _LONGEST else []
    return [*([f"the error lacks {', '.join(map(repr, missing))}: {text:.300}"] if missing else []), *long]


def _wrong_with_map(maps: Tensor, expected: Tensor) -> list[str]:
    if maps.shape != expected.shape:
        return [f"the map is {list(maps.shape)}, and not {list(expected.shape)}"]
    largest = expected.abs().flatten(1).amax(dim=1)
    # Each sample's own largest value counts, unless that is rounding alone.
    off = (maps - expected).abs().flatten(1).amax(dim=1) / largest.clamp(min=max(_NOISE * float(largest.max()), 1e-300))
    # What the reference has as rounding alone is zero.
    off = off.where((largest >= _NOISE * largest.max()) | (maps != 0).flatten(1).any(1), 0.0)
    # Not a number is no less than anything.
    return [] if bool((off <= 1e-6).all()) else [f"the map is off by {float(off.max()):.1e} of its largest value"]


def _is_named(outcome: Outcome) -> bool:
    """Whether a warning names the layer."""
    return any(re.search(rf"(?<![\w.]){re.escape(outcome.layer)}(?![\w.])", message) for message in outcome.messages)


def _blank_without_a_word(outcome: Outcome) -> list[str]:
    assert outcome.cams is not None
    (shown,) = outcome.cams.values()
    assert outcome.maps is not None
    if not torch.equal(shown, outcome.maps.clamp(min=0)):
        return ["the map that is shown is not what is above zero in the signed one"]
    blank = (shown == 0).flatten(1).all(dim=1)
    if not bool(blank.any()) or _is_named(outcome):
        return []
    return [f"{int(blank.sum())} of {len(blank)} maps of {outcome.layer} are blank without a warning"]


def _noise_without_a_word(outcome: Outcome) -> list[str]:
    """Finds maps that rounding alone has made, which any scale of their own would show in full colours."""
    assert outcome.maps is not None
    largest = outcome.maps.abs().flatten(1).amax(dim=1)
    noise = (largest > 0) & (largest < _NOISE * largest.max())
    if not bool(noise.any()) or _is_named(outcome):
        return []
    return [f"{int(noise.sum())} of {len(noise)} maps of {outcome.layer} are rounding noise without a warning"]


def reference(shape: Shape, layer: str, places: Places, seed: int = 0) -> Tensor:
    """Grad-CAM of one layer, signed, by one hook and `torch.autograd.grad` alone."""
    model = shape.model(seed)
    name, _, call = layer.partition("#")
    outputs = list[list[Tensor]]()

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        def leaf(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            # From here on there is a graph, also where the model's own no_grad or inference_mode has kept none.
            if not value.requires_grad:
                return value.clone().detach().requires_grad_()
            # Of levels a copy, so that what the module itself makes of one inside counts for no other.
            return value.clone() if places.largest else value

        if not torch.is_inference_mode_enabled():
            torch.set_grad_enabled(True)
        with torch.inference_mode(False), torch.enable_grad():
            kept = tree_map(leaf, output)
            outputs.append([t for t in tree_flatten(kept)[0] if isinstance(t, Tensor) and t.requires_grad])
            # Copies go on, so that no operation in place reaches what is kept.
            flat, structure = tree_flatten(kept)
            return tree_unflatten([t.clone() if isinstance(t, Tensor) else t for t in flat], structure)

    handle = model.get_submodule(name).register_forward_hook(hook)
    inputs = deepcopy(shape.inputs())
    forward = shape.options().get("forward")
    with torch.enable_grad():
        if forward is not None:
            output = forward(model)(inputs)
        elif isinstance(inputs, dict):
            output = model(**inputs)
        else:
            output = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
        total = shape.scores(output).sum()
        handle.remove()
        calls = outputs if places.largest else [outputs[int(call)] if call else outputs[-1]]
        leaves = [t for one in calls for t in one if t.dim() >= 3]
        if not places.largest:
            leaves = leaves[:1]
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return _explained([a.detach() for a in leaves], gradients, places)


def _explained(activations: Sequence[Tensor], gradients: Sequence[Tensor | None], places: Places) -> Tensor:
    """Grad-CAM of each activation; of several, for each sample that with the largest gradient."""
    maps, sizes = [], []
    for activation, gradient in zip(activations, gradients, strict=True):
        a, g = places.read(activation), places.read(torch.zeros_like(activation) if gradient is None else gradient)
        weights = g.flatten(2).mean(dim=2)
        found = (weights.reshape(*weights.shape, *[1] * (a.dim() - 2)) * a).sum(dim=1)
        maps.append(found.unflatten(0, (-1, places.pictures)) if places.pictures else found)
        sizes.append(g.abs().flatten(1).amax(dim=1))
    if len(maps) == 1:
        return maps[0]
    finest = max((m.shape[1:] for m in maps), key=lambda size: size.numel())
    sized = torch.stack([_repeated(m, finest) for m in maps])
    return sized[torch.stack(sizes).argmax(dim=0), torch.arange(sized.shape[1])]


def _repeated(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Repeats the places of maps up to a size."""
    return interpolate(maps[:, None], size=tuple(size), mode="nearest")[:, 0]


def result(shape: Shape) -> tuple[Outcome, list[str]]:
    """Explains a row's model and compares."""
    outcome = looked_at(shape)
    return outcome, wrong_with(shape, outcome)
