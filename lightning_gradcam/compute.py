"""The functional core: guard, capture, targets and methods together, for any ``nn.Module``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gradcam.capture import Captured, capture, require_gradients
from lightning_gradcam.errors import ConfigurationError, LayerError, MethodError
from lightning_gradcam.guard import preserved
from lightning_gradcam.layers import LayerSpec, resolve_layers, spatial_layers, spatial_size
from lightning_gradcam.methods import CamMethod, resolve_methods
from lightning_gradcam.methods import relu as relu_step
from lightning_gradcam.targets import Target, TargetSpec, check_score, resolve_targets


class CamKey(NamedTuple):
    """What one map explains: the layer's name, the method's name and the target's name."""

    layer: str
    method: str
    target: str


def find_key(keys: Sequence[CamKey], wanted: object) -> CamKey:
    """Finds the key that ``wanted`` means.

    Args:
        keys: All keys.
        wanted: A full ``(layer, method, target)``, where a class index may stand for its name, or a layer's name
            where that layer has a single map.

    Raises:
        KeyError: There is no such key, or a bare layer name is ambiguous; the message lists the keys.
    """
    if isinstance(wanted, str):
        matches = [key for key in keys if key.layer == wanted]
    elif isinstance(wanted, tuple):
        matches = [key for key in keys if key == tuple(str(part) for part in wanted)]
    else:
        matches = []
    if len(matches) != 1:
        why = "is ambiguous" if matches else "not found"
        listed = ", ".join(str(tuple(key)) for key in (matches or keys))
        raise KeyError(f"{wanted!r} {why}; give (layer, method, target), one of: {listed}")
    return matches[0]


@dataclass(frozen=True, eq=False)
class Cams(Mapping[CamKey, Tensor]):
    """The maps of one batch, and what was explained. A read-only mapping.

    ``cams[layer, method, target]`` is a float tensor ``[N, h, w]`` at the layer's own resolution, not normalised;
    signed where ``relu=False``. ``cams["layer4"]`` works where that layer has a single map.

    Attributes:
        maps: :class:`CamKey` to map.
        scores: Target name to the explained scores ``[N]``.
        classes: Target name to the explained classes ``[N]`` (int64; -1 where a callable chose the score).
        output: The model's output, detached.
    """

    maps: Mapping[CamKey, Tensor]
    scores: Mapping[str, Tensor]
    classes: Mapping[str, Tensor]
    output: Any

    def __getitem__(self, key: CamKey | tuple[str, str, str | int] | str) -> Tensor:
        return self.maps[find_key(list(self.maps), key)]

    def __contains__(self, key: object) -> bool:
        try:
            find_key(list(self.maps), key)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[CamKey]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{tuple(key)}: {list(value.shape)}" for key, value in self.maps.items())
        return f"Cams({shapes})"


def compute_cams(
    model: nn.Module,
    inputs: Tensor,
    layers: LayerSpec = "auto",
    *,
    targets: TargetSpec | Sequence[TargetSpec] = "predicted",
    methods: str | Sequence[str] = "gradcam",
    labels: Tensor | None = None,
    score: str = "logit",
    relu: bool = True,
    forward: Callable[[Tensor], Any] | None = None,
) -> Cams:
    """Explains a batch: every layer, method and target from one forward, one backward for each target.

    The model comes back exactly as it was (see :func:`lightning_gradcam.guard.preserved`) and runs in evaluation
    mode meanwhile. Works under ``no_grad`` and ``inference_mode``, and with frozen parameters.

    Args:
        model: Any module whose output is logits ``[N, C]`` or a single logit ``[N]`` or ``[N, 1]`` (any output, for
            callable targets).
        inputs: The batch, ``[N, …]``, on the model's device, preprocessed as for training.
        layers: Dotted names, shell patterns, modules, a list of these, or ``"auto"``: the last layer with a spatial
            output.
        targets: ``"predicted"``, ``"label"``, a class index, ``{"per_probe": [index, …]}``, ``{"top": k}``,
            ``{"contrast": [a, b]}``, a callable from the output to scores ``[N]``, or a list of these; see
            :func:`~lightning_gradcam.targets.resolve_targets`.
        methods: A name of :func:`~lightning_gradcam.available_methods`, or a list of names.
        labels: True classes ``[N]``, needed for the target ``"label"``.
        score: ``"logit"`` (default) explains the output as it is, ``"probability"`` its softmax.
        relu: Keep only what speaks for the target; ``False`` leaves the maps signed.
        forward: What to call instead of ``model`` on ``inputs``, for instance to run it under autocast.

    Returns:
        The maps, with scores, classes and output. Maps are float32 (float64 where the activations are), on the
        model's device.

    Raises:
        LayerError: A layer is not found, not reached, or has no spatial activation.
        TargetError: A target does not fit the output or the labels.
        MethodError: A method is unknown, or returns another shape than ``[N, h, w]``.
        CaptureError: The score does not depend on a layer.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        >>> cams = compute_cams(model, torch.rand(2, 1, 5, 5), ["0", "1"], targets=["predicted", 2])
        >>> cams["1", "gradcam", 2].shape
        torch.Size([2, 3, 3])
    """
    resolved_targets, resolved_methods = resolve_targets(targets), resolve_methods(methods)
    kind = check_score(score)
    run = model if forward is None else forward
    if not isinstance(inputs, Tensor):
        raise ConfigurationError(f"inputs: got a {type(inputs).__name__}; give a tensor [N, …], as the model takes it")
    if run is model and getattr(model.forward, "__func__", None) is nn.Module.forward:
        raise ConfigurationError(f"model: {type(model).__name__} defines no forward(); define it, or give forward=")
    with preserved(model), _eager():
        batch, truth = _usable(inputs), None if labels is None else _usable(torch.as_tensor(labels))
        modules = resolve_layers(model, layers, forward=lambda: run(batch[:2]))

        def attempt(whole_graph: bool) -> Cams | None:
            with capture(modules, whole_graph=whole_graph) as captured:
                output = run(batch)
                for name, activation in captured.activations.items():
                    spatial_size(name, activation)
                explained = {t.name: t.scores(output, labels=truth, score=kind) for t in resolved_targets}
                maps = _maps(captured, explained, resolved_targets, resolved_methods, relu=relu, strict=whole_graph)
                if maps is None:
                    return None
                return Cams(
                    MappingProxyType(maps),
                    MappingProxyType(
                        {name: _full_precision(scores.detach()) for name, (scores, _) in explained.items()}
                    ),
                    MappingProxyType({name: classes for name, (_, classes) in explained.items()}),
                    _detached(output),
                )

        try:
            cams = attempt(whole_graph=False)
            # A model that switches grad mode in its own forward drops the short graph, so it gets the whole one.
            cams = attempt(whole_graph=True) if cams is None else cams
        except LayerError as error:
            possible = spatial_layers(model, lambda: run(batch[:2]))
            raise LayerError(f"{error}; layers with a feature map here: {', '.join(possible) or '(none)'}") from None
    assert cams is not None
    return cams


def _maps(
    captured: Captured,
    explained: Mapping[str, tuple[Tensor, Tensor]],
    targets: Sequence[Target],
    methods: Mapping[str, CamMethod],
    *,
    relu: bool,
    strict: bool,
) -> dict[CamKey, Tensor] | None:
    found: dict[CamKey, Tensor] = {}
    for target in targets:
        last = target is targets[-1]
        gradients = captured.gradients(explained[target.name][0], retain_graph=not last)
        if not strict and any(gradient is None for gradient in gradients.values()):
            return None
        for layer, gradient in require_gradients(gradients).items():
            activation = _full_precision(captured.activations[layer].detach())
            for name, method in methods.items():
                signed = method(activation, _full_precision(gradient))
                expected = (activation.shape[0], *activation.shape[2:])
                if signed.shape != expected:
                    raise MethodError(
                        f"methods: {name!r} returned {list(signed.shape)} at layer {layer!r}, expected {list(expected)}"
                    )
                found[CamKey(layer, name, target.name)] = relu_step(signed) if relu else signed
    # Layer by layer, as they were asked for; they were made target by target.
    order = list(captured.activations)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0].layer)))


def _usable(values: Tensor) -> Tensor:
    # What was captured under inference mode can't enter a graph; its clone, made outside, can.
    return values.clone() if values.is_inference() else values


def _full_precision(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        return {key: _detached(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return tuple(_detached(value) for value in output)
    return output


def _eager() -> AbstractContextManager[Any]:
    # Hooks added after compilation do not fire, silently. Where dynamo was never imported nothing is compiled, and
    # importing it would cost a second.
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return nullcontext()
