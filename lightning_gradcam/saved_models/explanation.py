"""Computes maps for images, with any module or checkpoint."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.callbacks.checks import check_drawing, check_name
from lightning_gradcam.capture.inputs import Forward, Inputs, check_output_key
from lightning_gradcam.capture.layers import LayerSpec, check_layers, resolve_layers
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.compute.callers import check_whole
from lightning_gradcam.errors import ConfigurationError, LayerError, LightningGradCAMError, TargetError, listed
from lightning_gradcam.guard.model import preserved, uninitialized
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.monitors.base import Subject
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.folder import Preparation
from lightning_gradcam.record.blank import blank_remarks
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.not_finite import not_finite_remark
from lightning_gradcam.render.drawing import MOST_LISTED, Drawing, check_columns
from lightning_gradcam.saved_models.construction import read_class_names
from lightning_gradcam.saved_models.explained import STAGE, Explained, check_free
from lightning_gradcam.saved_models.images import are_inputs, prepare_for, probes_from
from lightning_gradcam.saved_models.loader import Loaded, check_device, like_weights, load_checkpoint
from lightning_gradcam.saved_models.photographs import Photographs
from lightning_gradcam.targets import TargetSpec, check_score, resolve_targets


def explain(
    model: nn.Module | str | os.PathLike[str] | None,
    images: Any,
    layers: LayerSpec | None = None,
    *,
    methods: str | Sequence[str] = "gradcam",
    targets: TargetSpec | Sequence[TargetSpec] = "predicted",
    score: str = "logit",
    layout: str | Mapping[str, str] | None = None,
    output_key: Any = None,
    transform: Callable[[Any], Tensor] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    size: int | Sequence[int] | None = None,
    mode: str | None = None,
    class_names: Sequence[str] | str | None = None,
    labels: Any = None,
    batch_size: int = 32,
    drawing: Drawing | Mapping[str, Any] = Drawing(),  # noqa: B008 - frozen
    device: str | torch.device | None = None,
    forward: Forward | None = None,
    model_class: str | Callable[..., nn.Module] | None = None,
    config: str | os.PathLike[str] | None = None,
    data: Any = None,
    trust: bool = False,
    name: str = "explain",
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> Explained:
    """Explains images with the same options as the callback.

    The model's exact state is restored afterwards, except that ``device`` moves the model.

    Args:
        model: Any module whose output is logits ``[N, C]``, or the path to a checkpoint; ``None`` builds
            ``model_class`` with its initial weights.
        images: A folder (sub-folders are true classes), files, PIL images, uint8 arrays ``[H, W, 3]``, tensors ready
            for the model, a list of these, or a :class:`ProbeSet`
            (:func:`~lightning_gradcam.saved_models.images.probes_from`).
        layers: The layers to explain. This and the options down to ``output_key`` are as in :func:`compute_cams`.
            Default: the layers that the checkpoint's run explained, if this package's callback stored them or a config
            specifies them, else ``"auto"``.
        methods: CAM methods by name.
        targets: The targets to explain; class names are also accepted.
        score: The kind of score to explain.
        layout: The meaning of the layers' axes.
        output_key: Key, index or attribute name of the logits in the model's output, or a function that returns them.
        transform: Converts a PIL image to the model's input ``[C, H, W]``. Default: the transform from the data
            module's validation or test data, if known. Otherwise images are scaled to 0…1 and normalised with ``mean``
            and ``std``.
        mean: Value to subtract from images scaled to 0…1: one number for each channel, or one for all.
        std: Divisor applied after ``mean``, in the same form.
        size: Height and width to which images are resized first; one number sets both.
        mode: ``"RGB"`` or ``"L"``. Default: ``"L"`` if the model's first convolution has one input channel, else
            ``"RGB"``.
        class_names: Class names, unless a probe set or archive already has them: a list, or a file or object that
            contains them (:func:`~lightning_gradcam.saved_models.construction.read_class_names`).
        labels: True classes ``[N]``. Default: the images' own, if known.
        batch_size: Maximum number of images per forward pass.
        drawing: Appearance of sheets and overlays.
        device: Device for the computation. Default: the model's device, or the CPU for a checkpoint.
        forward: Function to call with a batch of inputs instead of ``model``.
        model_class: The checkpoint's class. This, ``config``, ``data``, ``trust`` and ``model_args`` are as in
            :func:`load_checkpoint`, where this option is called ``model``.
        config: A LightningCLI YAML file.
        data: A data module (its class, import path, or an instance) that provides transform and class names.
        trust: Whether to read objects of any type from the checkpoint. Only for files that you trust.
        name: Title of the sheets.
        output: Folder to save everything in; see :meth:`Explained.save`.
        force: Whether to replace the results of an earlier ``explain`` in that folder.
        progress: Function to call with the number of images done and the total.
        model_args: Arguments for the checkpoint's class, such as ``{"num_classes": 10}``; they take precedence.

    Returns:
        The maps with their probes and scores; a notebook displays them as images.

    Raises:
        LightningGradCAMError: An option, the checkpoint or the images can't be used; the message lists valid choices.
            Most errors are ``ConfigurationError``; images raise ``ProbeError`` and files ``CheckpointFileError``.

    Example::

        explain("last.ckpt", "holiday_photos/", ["backbone.layer4"], model_class="my_package:Net", output="maps")

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        >>> found = explain(net, torch.rand(2, 1, 5, 5), "1", targets=["predicted", 2])
        >>> found.record.maps["1", "gradcam", "2"].shape
        (2, 3, 3)
    """
    check_layers("auto" if layers is None else layers)
    resolve_methods(methods)
    parse_layouts(layout)
    check_output_key(output_key)
    check_whole("batch_size", batch_size)
    drawn, kind = check_drawing(drawing), check_score(score)
    if output is not None:
        check_free(os.fspath(output), force=force)
    given = Preparation(transform, size, mean, std, mode, class_names)
    origin = {"model_class": model_class, "config": config, "model_args": model_args, "device": device, "trust": trust}
    read = prepared(model, images, layers, given, targets=targets, labels=labels, data=data, **origin)
    loaded, module, probes, remarks = read.loaded, read.loaded.module, read.probes, list(read.remarks)
    check_columns(drawn, methods)
    layers, chosen = read.layers, read.targets
    plan = CamMonitor(
        check_name(name), layers, methods, chosen, kind, drawn, output_key, layout=layout, batch_size=batch_size
    )
    reported = progress or (lambda done, total: None)
    cams = _cams(module, plan, probes, forward, reported, own=not isinstance(model, nn.Module))
    probes = probes.read_as(cams.axes)
    record = plan.record(cams, probes, epoch=loaded.epoch, step=loaded.step, stage=STAGE)
    measured = CamReporter(plan, probes).measured(record)
    remarks += [*_names_remark(measured, probes), *blank_remarks(measured.maps, measured.causes).values()]
    remarks += filter(None, not_finite_remark(measured.maps, measured.scores)[:1])
    manifest = plan.manifest(probes, cams, uuid.uuid4().hex)
    found = Explained(measured, probes, manifest, plan.pinned(cams), None, tuple(remarks), read.photographs)
    return found if output is None else found.save(output, force=force)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model and images, ready to be explained or checked.

    Attributes:
        loaded: The model, with information from its checkpoint.
        probes: The images.
        layers: The requested layers, else the run's, else ``"auto"``.
        targets: The targets, with a class name as ``{"class": name}``.
        remarks: Notes for the user about how model and images were loaded.
        photographs: The original images, before preprocessing.
    """

    loaded: Loaded
    probes: ProbeSet
    layers: LayerSpec
    targets: Any
    remarks: tuple[str, ...]
    photographs: Photographs


def prepared(
    model: Any,
    images: Any,
    layers: LayerSpec | None,
    given: Preparation,
    *,
    targets: Any,
    labels: Any = None,
    data: Any = None,
    **origin: Any,
) -> Prepared:
    """Loads a model and images. Arguments are as in :func:`explain`, with the preprocessing in ``given``."""
    given = replace(given, class_names=read_class_names(given.class_names))
    loaded = _loaded(model, data, **origin)
    how = prepare_for(loaded.module, loaded.datamodule, given, asked=data is not None)
    probes = probes_from(images, how, labels=labels)
    remarks = [*loaded.remarks, *how.remarks]
    if layers is None:
        layers, remark = _layers_in(loaded.module, loaded.layers)
        remarks += [remark] if remark else []
    if how.transform is None and given.mean is None and not are_inputs(images):
        remarks.append(
            "no transform is known, so images are only scaled to 0…1; if the model was trained on other inputs, pass "
            "data (--data), or mean and std (--mean, --std)"
        )
    resolve_targets(chosen := _classes_named(targets, probes.class_names or ()), probes.class_names)
    return Prepared(loaded, probes, layers, chosen, tuple(remarks), Photographs.of(images, how))


def _loaded(model: Any, data: Any, device: Any = None, model_class: Any = None, **options: Any) -> Loaded:
    named = data if isinstance(data, (str, type)) else None
    if isinstance(model, nn.Module):
        of_file = (model_class, options.get("config"), options.get("model_args"), named)
        if any(each is not None for each in of_file):
            raise ConfigurationError(
                "model: got a module together with model_class=, model_args=, config= or the class of a data module, "
                "which only apply to a checkpoint's path; leave them out, and pass data= as an instance"
            )
        if device is not None:
            check_device(device)
        return Loaded("", model if device is None else model.to(device), data)
    if not isinstance(model, (str, os.PathLike)) and (model is not None or model_class is None):
        came = "None" if model is None else f"a {type(model).__name__}"
        raise ConfigurationError(f"model: got {came}; pass a torch.nn.Module or a checkpoint's path, or model_class=")
    loaded = load_checkpoint(model, model=model_class, data=named, map_location=device or "cpu", **options)
    # An instance is used unchanged.
    return loaded if data is None or named is not None else replace(loaded, datamodule=data)


def _names_remark(record: CamRecord, probes: ProbeSet) -> list[str]:
    """Returns a remark if the model's number of classes differs from the number of names."""
    if probes.class_names is None or not record.likeliest.size:
        return []
    named, largest = len(probes.class_names), int(record.likeliest.max())
    known = f"class_names: {named} name{' is' if named == 1 else 's are'} known, but the model has"
    if largest >= named:
        return [f"{known} more classes: class {largest} has no name; pass a name for each class, in order"]
    # The record lists all classes, up to `MOST_LISTED`.
    if (classes := max(2, record.likeliest.shape[1])) < min(named, MOST_LISTED):
        return [f"{known} {classes} classes: the names may belong to another model and be wrong here"]
    return []


def _layers_in(module: nn.Module, of_run: Sequence[str]) -> tuple[LayerSpec, str | None]:
    """Returns the layers that a run explained, else ``"auto"`` with a remark if the module lacks them."""
    if not of_run:
        return "auto", None
    try:
        resolve_layers(module, list(of_run), calls=lambda _: 1)
        return list(of_run), None
    except LayerError:
        return "auto", f"the run explained {listed(of_run)}, which this model does not have; 'auto' is used instead"


def _classes_named(targets: Any, names: Sequence[str]) -> Any:
    """Returns the targets with each class name as ``{"class": name}``."""
    if isinstance(targets, str) and targets not in ("predicted", "label"):
        if not names:
            raise TargetError(
                f"targets: got {targets!r}, but no class names are known; pass 'predicted', 'label', an index,"
                " {'top': k}, or the names of the classes (class_names=, --class-names; or data=, --data)"
            )
        return {"class": targets}
    return [_classes_named(target, names) for target in targets] if isinstance(targets, (list, tuple)) else targets


def _cams(
    module: nn.Module,
    plan: CamMonitor,
    probes: ProbeSet,
    forward: Forward | None,
    progress: Callable[[int, int], Any],
    *,
    own: bool,
) -> Any:
    def load(start: int, stop: int) -> Inputs:
        progress(start, len(probes))
        return Inputs(like_weights(module, probes.inputs[start:stop]))

    run: Forward = module if forward is None else forward
    try:
        if own and uninitialized(module):
            # A lazy module's first forward pass can't be undone; it may run here because the module is not the user's.
            with torch.no_grad():
                run(load(0, 1).fresh())
        with preserved(module):
            cams = plan.observe(Subject(module, load, run), probes)
    except LightningGradCAMError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(
            f"model: the forward pass failed on images {list(probes.inputs.shape)} ({reason:.300}); pass the size "
            "(--size), mode or transform (--data) that the model was trained with, or forward="
        ) from error
    progress(len(probes), len(probes))
    return cams
