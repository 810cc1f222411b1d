"""The functional core: guard, capture, targets and methods together, for any ``nn.Module``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.cams import CamKey, Cams, find_key
from lightning_gradcam.errors import ConfigurationError, LayerError
from lightning_gradcam.explanation import Explanation
from lightning_gradcam.guard import preserved
from lightning_gradcam.inputs import Forward, Inputs, caller, check_output_key
from lightning_gradcam.layers import LayerSpec, resolve_layers
from lightning_gradcam.layout import parse_layouts
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.survey import mixed
from lightning_gradcam.targets import Given, TargetSpec, check_score, resolve_targets

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
    resolved = resolve_targets(targets), resolve_methods(methods)
    given_layouts, kind = parse_layouts(layout), check_score(score)
    check_output_key(output_key)
    if forward is None and getattr(model.forward, "__func__", None) is nn.Module.forward:
        raise ConfigurationError(f"model: {type(model).__name__} defines no forward(); define it, or give forward=")
    with preserved(model), _eager():
        batch = Inputs(inputs, picture)
        given = Given(batch.samples, _tensor(labels), _tensor(masks), kind)
        asked = Explanation(model, caller(model, forward, output_key), batch, *resolved, given, given_layouts)
        try:
            return asked.at(resolve_layers(model, layers, auto=lambda: asked.survey.auto(mixed)), relu=relu)
        except LayerError as error:
            raise LayerError(f"{error}; layers with a feature map here: {asked.possible()}") from None


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
