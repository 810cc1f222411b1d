"""Maps for pictures, from any module or checkpoint: computed, looked at, and saved with their overlays and a page."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradcam.archive import Archive, ArchiveWriter, Manifest
from lightning_gradcam.archive.manifest import MANIFEST
from lightning_gradcam.callbacks.options import check_count, check_drawing, check_name
from lightning_gradcam.capture.inputs import Forward, Inputs, check_output_key
from lightning_gradcam.capture.layers import LayerSpec, check_layers, resolve_layers
from lightning_gradcam.capture.layout import parse_layouts
from lightning_gradcam.errors import ConfigurationError, LayerError, LightningGradCAMError, TargetError, listed
from lightning_gradcam.guard.model import preserved, uninitialized
from lightning_gradcam.methods import resolve_methods
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.cam_reporter import CamReporter
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.blank import blank_remarks
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import MOST_LISTED, Drawing, check_columns
from lightning_gradcam.render.picture import Picture, Pixels
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.tiles import draw_tiles
from lightning_gradcam.report import REPORT
from lightning_gradcam.saved_models.class_names import read_class_names
from lightning_gradcam.saved_models.images import are_inputs, prepare_for, probes_from
from lightning_gradcam.saved_models.loader import Loaded, check_device, load_checkpoint, load_model
from lightning_gradcam.storage import Storage, join, safe_name
from lightning_gradcam.targets import TargetSpec, check_score, resolve_targets

SHEETS, OVERLAYS = "sheets", "overlays"
STAGE = "explain"
# An overlay that stands alone need not fit into a sheet.
_LARGEST_OVERLAY = 1024


@dataclass(frozen=True, eq=False)
class Explained:
    """What :func:`explain` has found; a notebook shows it as the viewer of a run.

    Attributes:
        record: Signed maps, scores and classes of every picture.
        probes: The pictures.
        manifest: What an archive of them says of itself.
        plan: What was explained, and how it is drawn.
        path: The folder it was saved to, or ``None``.
        remarks: What a user should know of how the model and its pictures were loaded.
    """

    record: CamRecord
    probes: ProbeSet
    manifest: Manifest
    plan: CamMonitor
    path: str | None = None
    remarks: tuple[str, ...] = ()

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> Explained:
        """Writes everything into a folder.

        ``sheets/<layer>.png`` for each layer and method, ``overlays/<picture>.<layer>.<method>.<target>.png`` for each
        picture and map, the raw maps as an archive of one step that :meth:`Archive.open` reads, and ``report.html``.

        Args:
            folder: A new one, or one without an archive; local, or a URL that fsspec knows.
            force: Replace what an earlier ``explain`` has written there. Your own files stay, except a ``report.html``.

        Returns:
            The same, with its ``path``.

        Raises:
            ConfigurationError: The folder holds an archive or a ``report.html`` already, with ``force`` the record of a
                training.
            ArchiveError: It can't be written.
        """
        root = os.fspath(folder)
        check_free(root, force=force)
        storage = Storage(root)
        if force and storage.exists(MANIFEST):
            earlier = Archive.open(root)
            drawn = _names_drawn(earlier)
            ArchiveWriter(storage, earlier.manifest).discard()
            for inner in (SHEETS, OVERLAYS):
                for file in storage.names(inner):
                    # The user may keep other files there.
                    if file.rpartition(".")[0] in drawn:
                        storage.remove(f"{inner}/{file}")
        archive, _ = ArchiveWriter.start(root, self.manifest, self.probes)
        archive.append(self.record)
        account = CamReporter(self.plan, self.probes)
        for tag, picture in account.pictures(self.record, self.record.peaks).items():
            format, content = picture.file()
            name = _sheet_name(tag.removeprefix(f"{self.plan.name}/"))
            storage.write(f"{SHEETS}/{name}.{format}", content)
        for name, picture in self.overlays():
            storage.write(f"{OVERLAYS}/{name}.png", picture.encoded("png"))
        account.report(archive)
        return replace(self, path=root)

    def overlays(self) -> Iterator[tuple[str, Picture]]:
        """Yields each picture's overlay of each map, and a name for its file."""
        drawing = replace(
            self.plan.drawing, columns=("overlay",), max_tile=max(self.plan.drawing.max_tile, _LARGEST_OVERLAY)
        )
        for layer, method in dict.fromkeys((key.layer, key.method) for key in self.record.maps):
            keys = [key for key in self.record.maps if (key.layer, key.method) == (layer, method)]
            shape = self.record.maps[keys[0]].shape
            probes, look = charted(self.probes.view, drawing, shape)
            slices = Slices.of(shape, probes.pixels.shape)
            for row, probe in enumerate(self.probes.ids):
                # One at a time: large pictures of a whole folder would not fit into memory.
                tiles = draw_tiles(self.record, probes, keys, look, None, slices, [row])
                for key, tile in zip(keys, tiles, strict=True):
                    pixels: Pixels = tile.pixels[0]
                    yield _overlay_name(probe, key), Picture(pixels, enlarged=True)

    def lines(self, top: int = 1) -> Iterator[str]:
        """Yields a line a picture: its name, the most likely classes with their probabilities, and the true class.

        Args:
            top: How many classes.
        """
        record, probes = self.record, self.probes
        width = min(max(map(len, probes.ids)), 60)
        for row, probe in enumerate(probes.ids):
            found = list(zip(record.likeliest[row].tolist(), record.likeliest_confidence[row].tolist(), strict=True))
            said = ", ".join(f"{probes.class_name(index)} {share:.1%}" for index, share in found[:top])
            if not said:
                name, scores = next(iter(record.scores.items()))
                said = f"{name} {scores[row]:.4g}"
            true = ""
            if probes.labels is not None and probes.labels.dim() == 1:
                true = f"  (true: {probes.class_name(int(probes.labels[row]))})"
            yield f"{probe:<{width}}  {said}{true}"

    def __repr__(self) -> str:
        maps = ", ".join("/".join(key) for key in self.record.maps)
        return f"Explained({len(self.probes)} pictures; maps: {maps}; path={self.path!r})"

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            # The last two parts are the page's title.
            count = len(self.probes)
            place = join(folder, self.plan.name, f"{count} picture{'' if count == 1 else 's'}")
            archive, _ = ArchiveWriter.start(place, self.manifest, self.probes)
            archive.append(self.record)
            # The page is drawn from an archive's files; only a notebook goes there.
            shown: str = import_module("lightning_gradcam.report.notebook").archive_html(archive)
        return shown


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
    """Explains pictures, with the options that the callback has.

    The model comes back exactly as it was, except that ``device`` moves it.

    Args:
        model: Any module whose output is logits ``[N, C]``, or the path of a checkpoint; ``None`` for one that
            ``model_class`` makes, with the weights that it begins with.
        images: A folder (sub-folders are true classes), files, PIL images, uint8 arrays ``[H, W, 3]``, tensors as the
            model takes them, a list of these, or a :class:`ProbeSet`
            (:func:`~lightning_gradcam.saved_models.images.probes_from`).
        layers: As :func:`compute_cams` takes them, as all that follow down to ``output_key``. Default: those that the
            checkpoint's run explained, where this package's callback or a config tells them, else ``"auto"``. A target
            may also be the name of a class.
        methods: How, by name.
        targets: What is explained.
        score: What the targets' scores are.
        layout: The meaning of the layers' axes.
        output_key: Where the logits are in the model's output.
        transform: From a PIL image to the model's input ``[C, H, W]``. Default: that of the data module's validation or
            test data, where one is known; else pictures are scaled to 0…1, then by ``mean`` and ``std``.
        mean: Of each channel, or one for all.
        std: Likewise.
        size: Height and width that pictures are resized to first; one number: both.
        mode: ``"RGB"`` or ``"L"``; default: grey where the model's first convolution has one input channel.
        class_names: Names of the classes, where the data tells none: a list, or what tells them
            (:func:`~lightning_gradcam.saved_models.class_names.read_class_names`).
        labels: True classes ``[N]``, where the folder tells none.
        batch_size: How many pictures go through the model at once, at most.
        drawing: How sheets and overlays look.
        device: Where to compute; default: where the model is, and the CPU for a checkpoint.
        forward: Called with a batch of inputs, instead of ``model``.
        model_class: The class that a checkpoint belongs to; this and the next three as :func:`load_checkpoint` takes
            them (there it is ``model``).
        config: A YAML file of LightningCLI.
        data: A data module (its class, import path, or an instance) to take transform and class names from.
        trust: Read a checkpoint's objects of any kind.
        name: Of the sheets' titles.
        output: Save everything into this folder; see :meth:`Explained.save`.
        force: Replace what an earlier ``explain`` has left in that folder.
        progress: Called with how many pictures are done, and of how many.
        model_args: Arguments of a checkpoint's class, such as ``{"num_classes": 10}``; they come before all others.

    Returns:
        The maps with all that belongs to them; a notebook shows them as pictures.

    Raises:
        LightningGradCAMError: An option, the checkpoint or the pictures can't be used; it says what can. Most are
            ``ConfigurationError``; pictures raise ``ProbeError``, and files ``CheckpointFileError``.

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
    check_count("batch_size", batch_size)
    drawn, kind = check_drawing(drawing), check_score(score)
    if output is not None:
        check_free(os.fspath(output), force=force)
    read = prepared(
        model,
        images,
        layers,
        targets=targets,
        transform=transform,
        size=size,
        mean=mean,
        std=std,
        mode=mode,
        class_names=class_names,
        labels=labels,
        device=device,
        model_class=model_class,
        config=config,
        data=data,
        trust=trust,
        model_args=model_args,
    )
    loaded, module, probes, layers, chosen = read.loaded, read.loaded.module, read.probes, read.layers, read.targets
    remarks = [*read.remarks]
    check_columns(drawn, methods)
    plan = CamMonitor(check_name(name), layers, methods, chosen, kind, drawn, layout, output_key, batch_size)
    cams = _cams(module, plan, probes, forward, progress, own=not isinstance(model, nn.Module))
    probes = probes.read_as(cams.axes)
    record = plan.record(cams, probes, epoch=loaded.epoch, step=loaded.step, stage=STAGE)
    measured = CamReporter(plan, probes).measured(record)
    if probes.class_names is not None and measured.likeliest.size:
        named, largest = len(probes.class_names), int(measured.likeliest.max())
        known = f"class_names: {named} name{' is' if named == 1 else 's are'} known, and the model has"
        if largest >= named:
            remarks.append(f"{known} more classes: {largest} has no name; give a name for each class, in order")
        elif (classes := max(2, measured.likeliest.shape[1])) < min(named, MOST_LISTED):
            # The record lists that many classes at most, and all of them where there are fewer.
            remarks.append(f"{known} {classes} classes: they may be the names of another model, and wrong here")
    remarks += blank_remarks(measured.maps, measured.causes).values()
    manifest = plan.manifest(probes, cams, uuid.uuid4().hex)
    found = Explained(measured, probes, manifest, plan.pinned(cams), remarks=tuple(remarks))
    return found if output is None else found.save(output, force=force)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model and the pictures that it is asked about, ready to be explained or checked.

    Attributes:
        loaded: The model, with what its checkpoint tells.
        probes: The pictures.
        layers: Those asked for, else the run's, else ``"auto"``.
        targets: With the names of classes resolved.
        remarks: What a user should know of how they were loaded.
    """

    loaded: Loaded
    probes: ProbeSet
    layers: LayerSpec
    targets: Any
    remarks: tuple[str, ...]


def prepared(
    model: Any,
    images: Any,
    layers: LayerSpec | None,
    *,
    targets: Any,
    transform: Any = None,
    size: Any = None,
    mean: Any = None,
    std: Any = None,
    mode: str | None = None,
    class_names: Any = None,
    labels: Any = None,
    device: Any = None,
    model_class: Any = None,
    config: Any = None,
    data: Any = None,
    trust: bool = False,
    model_args: Any = None,
) -> Prepared:
    """Loads a model and pictures; the arguments are those of :func:`explain`."""
    class_names = read_class_names(class_names)
    loaded = _loaded(model, model_class, config, data, device, trust, model_args)
    module, datamodule = loaded.module, loaded.datamodule
    how = prepare_for(
        module,
        datamodule,
        asked=data is not None,
        transform=transform,
        size=size,
        mean=mean,
        std=std,
        mode=mode,
        class_names=class_names,
    )
    probes = probes_from(images, how, labels=labels)
    remarks = [*loaded.remarks, *how.remarks]
    if layers is None:
        layers, remark = _layers_in(module, loaded.layers)
        remarks += [remark] if remark else []
    if how.transform is None and mean is None and not are_inputs(images):
        remarks.append(
            "no transform is known, so that pictures are only scaled to 0…1; give data (--data), or mean and std"
            " (--mean, --std) where the model was trained on other inputs"
        )
    chosen = _classes_named(targets, probes.class_names or ())
    resolve_targets(chosen, probes.class_names)
    return Prepared(loaded, probes, layers, chosen, tuple(remarks))


def _sheet_name(tag: str) -> str:
    return safe_name(tag.replace("/", "-"))


def _overlay_name(probe: str, key: CamKey) -> str:
    name = ".".join(safe_name(part.replace("/", "-")) for part in (probe, key.layer, key.method, key.target))
    return name if len(name) <= 200 else safe_name(name)


def _names_drawn(archive: Archive) -> set[str]:
    """Returns the names, without their endings, of the sheets and overlays that :meth:`Explained.save` has written."""
    keys = list(archive.record(0).maps)
    sheets = {_sheet_name(tag) for key in keys for tag in (key.layer, f"{key.layer}/{key.method}")}
    return sheets | {_overlay_name(probe, key) for probe in archive.probes.ids for key in keys}


def check_free(folder: str, *, force: bool = False) -> None:
    """Refuses a folder with an archive or a report, and a local one that can't be written, before hours of work.

    Args:
        folder: The folder.
        force: An archive that :func:`explain` has made may be there; those of trainings are never replaced.

    Raises:
        ConfigurationError: It is one of these.
    """
    if "://" not in folder:
        there = next((path for path in (Path(folder), *Path(folder).resolve().parents) if path.exists()), Path("."))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "is not a folder" if not there.is_dir() else "can't be written to"
            raise ConfigurationError(f"output: got {folder!r}, and {str(there)!r} {why}; give another folder (-o)")
    storage = Storage(folder)
    if not storage.exists(MANIFEST):
        if storage.exists(REPORT) and not force:
            raise ConfigurationError(
                f"output: {folder!r} holds a {REPORT} already; give another folder (-o), or replace it (--force)"
            )
        return
    if not force:
        raise ConfigurationError(
            f"output: {folder!r} holds an archive already; give another folder (-o), or replace it (--force)"
        )
    archive = Archive.open(folder)
    if archive.manifest.kind != "cams" or not archive.steps or archive.record(0).stage != STAGE:
        raise ConfigurationError(
            f"output: {folder!r} holds an archive that explain has not made, such as a training's record, and that is"
            " not replaced; give another folder (-o)"
        )


def _loaded(model: Any, model_class: Any, config: Any, data: Any, device: Any, trust: bool, model_args: Any) -> Loaded:
    # An instance goes beside a checkpoint as it is.
    instance = data if data is not None and not isinstance(data, (str, type)) else None
    if isinstance(model, nn.Module):
        if model_class is not None or config is not None or model_args is not None or isinstance(data, (str, type)):
            raise ConfigurationError(
                "model: got a module together with model_class=, model_args=, config= or the class of a data module,"
                " which belong to a checkpoint's path; leave them out, and give data= as an instance"
            )
        if device is not None:
            check_device(device)
        return Loaded("", model if device is None else model.to(device), instance)
    if model is None:
        if model_class is None:
            raise ConfigurationError("model: got None; give a torch.nn.Module, a checkpoint's path, or model_class=")
        loaded = load_model(model_class, config=config, data=data, device=device or "cpu", model_args=model_args)
        return loaded if instance is None else replace(loaded, datamodule=instance)
    if not isinstance(model, (str, os.PathLike)):
        raise ConfigurationError(f"model: got a {type(model).__name__}; give a torch.nn.Module or a checkpoint's path")
    named = None if instance is not None else data
    loaded = load_checkpoint(
        model,
        model=model_class,
        config=config,
        data=named,
        map_location=device or "cpu",
        trust=trust,
        model_args=model_args,
    )
    return loaded if instance is None else replace(loaded, datamodule=instance)


def _layers_in(module: nn.Module, of_run: Sequence[str]) -> tuple[LayerSpec, str | None]:
    """Returns the layers that a run explained, and a remark where the module does not have them; else ``"auto"``."""
    try:
        if of_run:
            resolve_layers(module, list(of_run), calls=lambda _: 1)
            return list(of_run), None
    except LayerError:
        return "auto", f"the run explained {listed(of_run)}, which this model does not have; 'auto' is taken"
    return "auto", None


def _classes_named(targets: Any, names: Sequence[str]) -> Any:
    """Returns the targets, with the names of classes replaced by their indices."""
    if isinstance(targets, str) and targets not in ("predicted", "label"):
        if not names:
            raise TargetError(
                f"targets: got {targets!r}, and no names of classes are known; give 'predicted', 'label', an index,"
                " {'top': k}, or the names of the classes (class_names=, --class-names; or data=, --data)"
            )
        return {"class": targets}
    return [_classes_named(target, names) for target in targets] if isinstance(targets, (list, tuple)) else targets


def _cams(
    module: nn.Module,
    plan: CamMonitor,
    probes: ProbeSet,
    forward: Forward | None,
    progress: Callable[[int, int], None] | None,
    *,
    own: bool,
) -> Any:
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0))
    total = len(probes)

    def load(start: int, stop: int) -> Inputs:
        if progress is not None:
            progress(start, total)
        part = probes.inputs[start:stop].to(weight.device)
        return Inputs(part.to(weight.dtype) if part.is_floating_point() else part)

    run: Forward = module if forward is None else forward
    try:
        if own and uninitialized(module):
            # What a lazy module's first forward does can't be undone; a checkpoint's module is nobody else's.
            with torch.no_grad():
                run(load(0, 1).fresh())
        with preserved(module):
            cams = plan.observe(module, load, probes, run)
    except LightningGradCAMError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(
            f"model: its forward failed on the pictures {list(probes.inputs.shape)} ({reason:.300}); give the size"
            " (--size), mode or transform (--data) that it was trained with, or forward="
        ) from error
    if progress is not None:
        progress(total, total)
    return cams
