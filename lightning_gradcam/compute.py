"""The functional core: guard, capture, targets and methods together, for any ``nn.Module``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_gradcam.cams import CamKey, Cams, find_key
from lightning_gradcam.errors import ConfigurationError, LayerError
from lightning_gradcam.explanation import Explanation
from lightning_gradcam.guard import preserved
from lightning_gradcam.inputs import Forward, Inputs, caller, check_output_key
from lightning_gradcam.layers import LayerSpec, resolve_layers
from lightning_gradcam.layout import parse_layouts
from lightning_gradcam.methods import Method, resolve_methods
from lightning_gradcam.targets import Given, Target, TargetSpec, check_score, resolve_targets

__all__ = ["CamKey", "Cams", "compute_cams", "find_key"]


def compute_cams(
    model: nn.Module,
    inputs: Any,
    layers: LayerSpec = "auto",
    *,
    targets: TargetSpec | Sequence[TargetSpec] = "predicted",
    methods: str | Sequence[str] = "gradcam",
    labels: Tensor | None = None,
    masks: Tensor | None = None,
    score: str = "logit",
    relu: bool = True,
    layout: str | Mapping[str, str] | None = None,
    output_key: str | int | Callable[[Any], Any] | None = None,
    picture: Tensor | None = None,
    forward: Forward | None = None,
    batch_size: int | None = None,
) -> Cams:
    """Explains a batch: every layer, method and target from one forward, one backward for each target.

    The model comes back exactly as it was (see :func:`lightning_gradcam.guard.preserved`) and runs in evaluation
    mode meanwhile. Works under ``no_grad`` and ``inference_mode``, and with frozen parameters. Methods that run the
    model again say what they cost.

    Args:
        model: Any module whose output is logits ``[N, C]`` or a single logit ``[N]`` or ``[N, 1]``; with the targets
            made for them, segmentation, detection, regression or embeddings.
        inputs: The batch, ``[N, …]``, on the model's device, preprocessed as for training; a tuple or dict of several
            inputs. Its picture is the first floating-point tensor of four axes or more.
        layers: Dotted names, shell patterns, modules, a list of these, or ``"auto"``: the last layer with a spatial
            output that the score depends on.
        targets: ``"predicted"``, ``"label"``, a class index, and more; or a list. See
            :func:`~lightning_gradcam.targets.resolve_targets`.
        methods: A name of :func:`~lightning_gradcam.available_methods`, or a list of names.
        labels: True classes ``[N]`` (several a sample: 0 and 1 for each class, ``[N, C]``), for the target ``"label"``.
        masks: bool ``[N, H, W]``, for the target ``{"segment_mask": class}``.
        score: ``"logit"`` (default) explains the output as it is, ``"probability"`` its softmax, ``"sigmoid"`` the
            sigmoid of each class.
        relu: Keep only what speaks for the target; ``False`` leaves the maps signed.
        layout: What a layer's axes mean, where that can't be seen: ``"NHWC"``, ``"NLC:1+14x14"`` (tokens, one before a
            grid of 14 by 14), or a mapping from layer names to these.
        output_key: Where the explained output stands in what the model returns: a place in a tuple, a key, an
            attribute, or a callable.
        picture: Which of several inputs is the picture: that tensor itself.
        forward: What to call instead of ``model`` on ``inputs``, for instance to run it under autocast.
        batch_size: How many samples go through the model at once, at most; default: all. Bounds the memory; a
            callable target is then called once for each part. Where the memory does not suffice, half as many are
            tried.

    Returns:
        The maps, with scores, classes and output. Maps are float32 (float64 where the activations are), on the
        model's device.

    Raises:
        LayerError: A layer is not found, not reached, has no spatial activation, or the score can't depend on it.
        TargetError: A target does not fit the output or the labels.
        MethodError: A method is unknown, can't work on a layer, or returns another shape than ``[N, h, w]``.
        CaptureError: No gradient comes back from the score to a layer.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        >>> cams = compute_cams(model, torch.rand(2, 1, 5, 5), "1", targets=["predicted", 0])
        >>> cams["1", "gradcam", 0].shape
        torch.Size([2, 3, 3])
    """
    asked = Request(
        resolve_targets(targets),
        resolve_methods(methods),
        parse_layouts(layout),
        caller(model, forward, output_key),
        relu=relu,
        batch_size=batch_size,
    )
    kind = check_score(score)
    check_output_key(output_key)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigurationError(f"batch_size: got {batch_size!r}; give a whole number, 1 or more, or None for all")
    if forward is None and getattr(model.forward, "__func__", None) is nn.Module.forward:
        raise ConfigurationError(f"model: {type(model).__name__} defines no forward(); define it, or give forward=")
    with preserved(model):
        whole = Inputs(inputs, picture)
        given = Given(whole.samples, _tensor(labels), _tensor(masks), kind)
        return explain(model, layers, whole.part, given, asked)


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of a model, besides the layers.

    Attributes:
        targets: What is explained.
        methods: How, by name.
        layouts: What the user says of layouts, by layer name; ``""`` stands for all.
        run: From inputs to the explained output.
        relu: Keep only what speaks for the target.
        batch_size: How many samples go through the model at once; ``None``: all.
        check: Make sure that a zero gradient is none by construction; once is enough for a model.
        keep_output: Keep the model's output; it can be larger than all maps.
    """

    targets: Sequence[Target]
    methods: Mapping[str, Method]
    layouts: Mapping[str, str]
    run: Forward
    relu: bool = True
    batch_size: int | None = None
    check: bool = True
    keep_output: bool = True


def explain(
    model: nn.Module, layers: LayerSpec, load: Callable[[int, int], Inputs], given: Given, asked: Request
) -> Cams:
    """Explains samples part by part; the model is in evaluation mode, and guarded by the caller.

    Args:
        model: The model.
        layers: As in :func:`compute_cams`.
        load: Returns the inputs of the samples from one place to before another.
        given: What targets may look at, of all samples.
        asked: What is asked.

    Returns:
        The maps of all samples, in their order.
    """

    def output_of(place: int) -> Any:
        with torch.no_grad():
            return asked.run(load(place, place + 1).fresh())

    modules: Mapping[str, nn.Module] | None = None
    layouts = asked.layouts
    parts: list[Cams] = []
    start, size = 0, _even(given.samples, asked.batch_size)
    with _eager():
        while start < given.samples or not parts:
            stop = min(start + size, given.samples)
            part = given if stop - start == given.samples else given.part(start, stop, output_of)
            batch = Explanation(model, asked.run, load(start, stop), asked.targets, asked.methods, part, layouts)
            try:
                if modules is None:
                    modules = resolve_layers(model, layers, auto=batch.auto)
                found = batch.at(modules, relu=asked.relu, check=asked.check)
            except LayerError as error:
                raise LayerError(f"{error}; layers with a feature map here: {batch.possible()}") from None
            except (RuntimeError, MemoryError) as error:
                if stop - start == 1 or not _out_of_memory(error):
                    raise
                found = None
            if found is None:
                # Outside the `except`: its traceback would hold the tensors of the attempt.
                size = (stop - start + 1) // 2
                continue
            # What one part has shown holds for all: a last part of a single sample may not show it again.
            layouts = {**layouts, **{name: str(layout) for name, layout in found.layouts.items()}}
            parts.append(found if asked.keep_output else replace(found, output=None))
            start = stop
    return _joined(parts)


def _even(samples: int, most: int | None) -> int:
    """Returns the size of parts that are as even as they can be."""
    parts = -(-samples // most) if most else 1
    return -(-samples // max(parts, 1))


def _out_of_memory(error: Exception) -> bool:
    known = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error)


def _joined(parts: Sequence[Cams]) -> Cams:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]

    def whole(of: Callable[[Cams], Mapping[Any, Tensor]]) -> Mapping[Any, Tensor]:
        return MappingProxyType({key: torch.cat([of(part)[key] for part in parts]) for key in of(first)})

    likeliest = first.predicted is not None
    return replace(
        first,
        maps=whole(lambda part: part.maps),
        scores=whole(lambda part: part.scores),
        classes=whole(lambda part: part.classes),
        output=_joined_output([part.output for part in parts], [len(next(iter(p.scores.values()))) for p in parts]),
        predicted=torch.cat([part.predicted for part in parts if part.predicted is not None]) if likeliest else None,
        confidence=torch.cat([part.confidence for part in parts if part.confidence is not None]) if likeliest else None,
    )


def _joined_output(outputs: Sequence[Any], samples: Sequence[int]) -> Any:
    """Puts outputs together along the samples; a list of them where they are anything but tensors of all samples."""
    flat = [tree_flatten(output) for output in outputs]
    fits = all(structure == flat[0][1] for _, structure in flat) and all(
        isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == count
        for (leaves, _), count in zip(flat, samples, strict=True)
        for leaf in leaves
    )
    if not fits:
        return list(outputs)
    whole = [torch.cat(leaves) for leaves in zip(*(leaves for leaves, _ in flat), strict=True)]
    return tree_unflatten(whole, flat[0][1])


def _tensor(values: Any) -> Tensor | None:
    if values is None:
        return None
    tensor = torch.as_tensor(values)
    return tensor.clone() if tensor.is_inference() else tensor


def _eager() -> AbstractContextManager[Any]:
    # Hooks added after compilation do not fire, silently. Where dynamo was never imported nothing is compiled, and
    # importing it would cost a second.
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return nullcontext()
