"""The functional core: combines guard, capture, targets and methods for any ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.capture.inputs import Forward, Inputs, caller, check_output_key
from lightning_gradcam.capture.layers import LayerSpec
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.capture.memory import is_out_of_memory
from lightning_gradcam.compute.batches import explain_in_parts
from lightning_gradcam.compute.blank import remarks_of
from lightning_gradcam.compute.callers import Request, check_module, check_whole, outside_autocast, several_arguments
from lightning_gradcam.errors import ConfigurationError, LightningGradCAMError, TargetError
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.record.cams import Cams
from lightning_gradcam.targets import Given, TargetSpec, check_names, check_score, resolve_targets
from lightning_gradcam.warn import warn


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
    gradients: bool = False,
    class_names: Sequence[str] | str | None = None,
) -> Cams:
    """Computes class activation maps for a batch of inputs.

    All layers and methods share one forward pass and one backward pass per target. Methods that rerun the model
    document their own cost.

    The model runs in evaluation mode during the call, and its exact state is restored afterwards (see
    :func:`lightning_gradcam.guard.model.preserved`). The function works under ``no_grad`` and ``inference_mode``, and
    with frozen parameters.

    Args:
        model: Any module whose output is logits ``[N, C]`` or a single logit ``[N]`` or ``[N, 1]``; with matching
            targets also segmentation, detection, regression or embeddings.
        inputs: The batch, ``[N, …]``, on the model's device, preprocessed as for training; for several inputs, a tuple
            or dict. The image ("picture") is the first floating-point tensor with four or more axes.
        layers: A dotted name, a shell pattern, a module, ``"auto"`` (the last layer with a spatial output on which the
            score depends), or a list of these.
        targets: ``"predicted"``, ``"label"``, a class index or name, another target, or a list of targets. See
            :func:`~lightning_gradcam.resolve_targets`.
        methods: A name from :func:`~lightning_gradcam.available_methods`, or a list of names.
        labels: True classes ``[N]``, or 0/1 for every class ``[N, C]`` (several labels per sample), for the target
            ``"label"``. With ``score="logit"``, if any row marks no class or several, class probabilities are sigmoids
            of the logits instead of their softmax.
        masks: Regions of the images, bool ``[N, H, W]``, for the target ``{"segment_mask": class}``.
        score: ``"logit"`` (default) explains the output unchanged, ``"probability"`` its softmax, ``"sigmoid"`` the
            sigmoid of each class. If the model itself ends in a sigmoid or softmax, that probability is explained with
            any ``score``; with ``"logit"``, a warning describes how to access the logit.
        relu: Whether to keep only positive evidence for the target; ``False`` leaves the maps signed. A warning reports
            each layer with maps that become zero everywhere, with the reason and an alternative.
        layout: The meaning of a layer's axes, if it can't be detected: ``"NHWC"``, ``"NLC:1+14x14"`` (one token before
            a 14 by 14 grid of tokens), ``"NLC:14x14+4"`` (four tokens after the grid), or a mapping from layer names to
            these.
        output_key: Part of the model's output to explain: an index into a tuple, a key, an attribute name, or a
            callable.
        picture: The image among several inputs, as the same tensor object.
        forward: Function called with ``inputs`` instead of ``model``, for instance to run the model under autocast.
        batch_size: Maximum number of samples per forward pass; default: all. It bounds memory use, and is halved if
            memory runs out. A callable target is called once per forward pass.
        gradients: Whether to also summarise the gradients behind the maps. ``Cams.gradients[layer, target]`` is then a
            :class:`~lightning_gradcam.GradientSummary` with histograms of the gradients and of the channel weights, and
            with the channels that have the largest weights. This needs no extra backward pass.
        class_names: Names of all classes by index, for targets such as ``"tabby"``: a list, ``"imagenet"`` for
            torchvision's 1000 names, the path of a text file with one name per line or of a JSON file, or
            ``"package.module:Name"``, an import path to a list of names or to weights whose metadata contains them.

    Returns:
        The maps, scores, classes and model output. Maps are float32 (float64 if the activations are), on the model's
        device.

    Raises:
        LayerError: A layer is not found or not reached, has no spatial activation, or can't influence the score.
        TargetError: A target does not fit the output or the labels.
        MethodError: A method is unknown, can't be used on a layer, or returns a shape other than ``[N, h, w]``.
        CaptureError: No gradient reaches a layer from the score.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        >>> cams = compute_cams(model, torch.rand(2, 1, 5, 5), "1", targets=["predicted", 0])
        >>> cams["1", "gradcam", 0].shape
        torch.Size([2, 3, 3])
    """
    class_names = check_names(class_names)
    asked = Request(
        resolve_targets(targets, class_names),
        resolve_methods(methods),
        parse_layouts(layout),
        caller(model, forward, output_key),
        relu=relu,
        batch_size=batch_size,
        gradients=gradients,
        direct=forward is None,
    )
    kind = check_score(score)
    check_output_key(output_key)
    check_module(model, "whose layers are explained")
    if batch_size is not None:
        check_whole("batch_size", batch_size, instead=", or None for all")
    called = type(model).__call__ is not nn.Module.__call__
    if forward is None and not called and getattr(model.forward, "__func__", None) is nn.Module.forward:
        raise ConfigurationError(f"model: {type(model).__name__} defines no forward(); define it, or pass forward=")
    with preserved(model), ExitStack() as stack:
        whole = Inputs(inputs, picture)
        asked = replace(asked, run=stack.enter_context(outside_autocast(asked.run, whole.picture.device)))
        names = None if class_names is None else len(class_names)
        given = Given(whole.samples, _tensor("labels", labels), _tensor("masks", masks), kind, names=names)
        try:
            found = explain_in_parts(model, layers, whole.part, given, asked)
            for remark in remarks_of(found, asked.methods) if relu else ():
                warn(remark)
            names_of_all = None if class_names is None else tuple(class_names)
            return replace(found, inputs=whole.picture.detach(), class_names=names_of_all)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            single = whole.picture.dim() in (2, 3) and _is_taken_for_one(model, lambda: asked.run(whole.fresh()))
            advice = several_arguments(model, inputs, error) if forward is None else ""
            advice = advice or _advice(whole.picture, single=single)
            if not advice or (isinstance(error, LightningGradCAMError) and not single):
                raise
            dtype = "" if whole.picture.is_floating_point() else f" of {whole.picture.dtype}"
            why = f"{type(error).__name__}: {error!s:.160}"
            raise ConfigurationError(
                f"inputs: the model failed on {list(whole.picture.shape)}{dtype} ({why}); {advice}"
            ) from error


def _is_taken_for_one(model: nn.Module, run: Callable[[], Any]) -> bool:
    """Whether the model's first 2-D convolution receives what it treats as an image without a batch axis."""
    met: list[int] = []
    with ExitStack() as stack, suppress(Exception), torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                hook = part.register_forward_pre_hook(lambda _, args: met.append(args[0].dim()))
                stack.enter_context(hook)
        run()
    return bool(met) and met[0] in (2, 3)


def _advice(picture: Tensor, *, single: bool) -> str:
    """Returns advice about inputs on which a model failed; an empty string if they look correct."""
    shape, whole = list(picture.shape), not picture.is_floating_point() and not picture.is_complex()
    single = single or (len(shape) == 3 and shape[0] in (1, 3, 4))
    batch = ("image[None, None]" if len(shape) == 2 else "image[None]") if single else "inputs"
    found = []
    if single:
        axes = "[H, W]" if len(shape) == 2 else "[C, H, W]"
        found.append(f"if that is a single image {axes}, pass a batch of one: {batch}")
    if whole and len(shape) >= 2 + (not single):
        found.append(
            f"if the model takes floating-point images, preprocess them as for training: {batch}.float() / 255, then "
            "normalise"
        )
    return "; ".join(found)


def _tensor(name: str, values: Any) -> Tensor | None:
    if values is None:
        return None
    try:
        # A tensor stays on its device, whatever torch's default is.
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"{name}: got {values!r:.80} ({error}); pass a tensor or a list of numbers, one for each input"
        ) from None
    return tensor.clone() if tensor.is_inference() else tensor
