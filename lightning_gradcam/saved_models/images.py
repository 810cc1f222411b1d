"""Converts images in any form (folder, files, PIL images, arrays, tensors) to probes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from lightning_gradcam.archive import Archive
from lightning_gradcam.archive.manifest import MANIFEST
from lightning_gradcam.errors import ConfigurationError, ProbeError
from lightning_gradcam.guard.data import isolated, isolated_rng
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.folder import Preparation, read_folder, read_picture, upright
from lightning_gradcam.probes.wrapped import find_class_names, find_transform

_ATTRIBUTES = ("val_transform", "test_transform", "eval_transform", "predict_transform", "transform")
_LOADERS = (("validate", "val_dataloader"), ("test", "test_dataloader"), ("fit", "val_dataloader"))

_NO_CHOICE = Preparation()


def prepare_for(
    module: nn.Module,
    datamodule: Any = None,
    given: Preparation = _NO_CHOICE,
    *,
    asked: bool = False,
) -> Preparation:
    """Determines how images are converted to a model's inputs.

    The transform is taken from the data module's validation or test data set, else from its attributes
    (``val_transform``, ``test_transform``, ``eval_transform``, ``predict_transform``, ``transform``).

    Args:
        module: The model; images are read in grey if its first convolution has one input channel.
        datamodule: A data module that has not been set up; nothing is downloaded.
        given: The user's choice, which takes precedence. Its ``mean`` replaces the transform of a data module that the
            user did not specify; if its ``mode`` is ``None``, the module decides.
        asked: Whether the user specified the data module; if so, it or ``given`` must have a transform.

    Raises:
        ConfigurationError: There is no transform though the user specified the data module, or ``size`` or ``mode`` is
            invalid.
    """
    size = given.size
    sides: list[Any] = [1] if size is None else list(size) if isinstance(size, (list, tuple)) else [size]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if len(sides) not in (1, 2) or not whole:
        raise ConfigurationError(
            f"size: got {size!r}; pass one number for both sides, or height and width, in pixels (--size)"
        )
    if given.mode not in (None, "RGB", "L"):
        raise ConfigurationError(
            f"mode: got {given.mode!r}; pass 'RGB', 'L' (grey), or None for what the model expects"
        )
    transform, names, remarks = given.transform, given.class_names, given.remarks
    if datamodule is not None:
        found, of_data, why = _of_data(datamodule)
        names = names or of_data
        if transform is None and (asked or given.mean is None):
            transform = found
        if asked and transform is None:
            raise ConfigurationError(
                f"data: no transform can be found in {type(datamodule).__name__} ({why}); add an attribute "
                f"{' or '.join(_ATTRIBUTES[:2])}, pass transform=, or leave data out and pass mean and std (--mean, "
                "--std)"
            )
        if changed := _changes_batches(module, datamodule):
            remarks += (f"{changed} change batches on the device and are not applied here",)
    return replace(
        given,
        transform=transform,
        size=sides * 2 if isinstance(size, (list, tuple)) and len(sides) == 1 else size,
        mode=given.mode or ("L" if _first_channels(module) == 1 else "RGB"),
        class_names=None if names is None else tuple(names),
        remarks=remarks,
    )


def are_inputs(images: Any) -> bool:
    """Whether images are already model inputs and need no preprocessing."""
    if isinstance(images, (str, os.PathLike)):
        return Path(images).suffix == ".npz" or _is_archive(Path(images))
    entries = list(images) if isinstance(images, (list, tuple)) else [images]
    return all(isinstance(entry, (Tensor, ProbeSet)) for entry in entries)


def as_picture(entry: Any) -> Any:
    """Returns a uint8 array ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` as a PIL image, and anything else unchanged."""
    if isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.ndim in (2, 3):
        return Image.fromarray(entry[..., 0] if entry.ndim == 3 and entry.shape[2] == 1 else entry)
    return entry


def probes_from(images: Any, how: Preparation, *, labels: Any = None) -> ProbeSet:
    """Converts images to probes.

    Args:
        images: The path to a folder (sub-folders are true classes), a file, a saved :class:`ProbeSet` or a run's
            archive; a PIL image, a uint8 array ``[H, W]`` or ``[H, W, 3]``, or a tensor in the model's form,
            ``[C, H, W]``; a list of these; a tensor or uint8 array with an additional first axis; or a
            :class:`ProbeSet`, which is used unchanged.
        how: How images are converted to inputs.
        labels: True classes ``[N]``. Default: the images' own, if known.

    Raises:
        ProbeError: There are no images, one can't be read, or they have different sizes.
    """
    found = images if isinstance(images, ProbeSet) else _probes(images, how)
    changes: dict[str, Any] = {} if labels is None else {"labels": labels}
    if found.class_names is None and how.class_names is not None:
        changes["class_names"] = how.class_names
    return replace(found, **changes) if changes else found


def _probes(images: Any, how: Preparation) -> ProbeSet:
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        if _is_archive(path):
            return Archive.open(str(path)).probes
        if path.is_dir():
            with isolated(how.transform):
                return read_folder(path, how)
        if path.suffix == ".npz":
            return ProbeSet.load(path)
        images = [path]
    elif isinstance(images, Image.Image) or (isinstance(images, (Tensor, np.ndarray)) and images.ndim == 3):
        images = [images]
    if not isinstance(images, Iterable):
        raise ProbeError(
            f"images: got a {type(images).__name__}; pass a folder, files, PIL images, uint8 arrays, tensors, or a "
            "ProbeSet"
        )
    entries = list(images)
    if not entries:
        raise ProbeError("images: got none; pass at least one")
    names = _names(entries)
    with isolated(how.transform):
        inputs = [_input(entry, name, how) for entry, name in zip(entries, names, strict=True)]
    return how.probes(inputs, names, raw=all(isinstance(entry, Tensor) for entry in entries))


def _is_archive(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _input(entry: Any, name: str, how: Preparation) -> Tensor:
    mode = how.mode or "RGB"
    if isinstance(entry, Tensor):
        return entry.detach().cpu()
    if isinstance(entry, (str, os.PathLike)):
        if not Path(entry).is_file():
            raise ProbeError(f"images: no file {os.fspath(entry)!r}; pass images, or one folder")
        return read_picture(Path(entry), mode, how.apply)
    entry = as_picture(entry)
    if not isinstance(entry, Image.Image):
        what = f"{entry.dtype} {list(entry.shape)}" if isinstance(entry, np.ndarray) else type(entry).__name__
        raise ProbeError(
            f"images: {name!r} is {what}; pass files, PIL images, uint8 arrays [H, W] or [H, W, 3], or tensors as the"
            " model takes them"
        )
    return how.apply(upright(entry, name).convert(mode))


def _names(entries: Sequence[Any]) -> tuple[str, ...]:
    """Returns an id for each image: the file's name (its path if names repeat), or the index for other images."""
    paths = [Path(entry) if isinstance(entry, (str, os.PathLike)) else None for entry in entries]
    times = Counter(path.name for path in paths if path is not None)
    found = [
        str(place) if path is None else path.name if times[path.name] == 1 else path.as_posix()
        for place, path in enumerate(paths)
    ]
    twice = Counter(found)
    return tuple(name if twice[name] == 1 else f"{name} ({place})" for place, name in enumerate(found))


def _first_channels(module: nn.Module) -> int:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((part.in_channels for part in module.modules() if isinstance(part, kinds) and part.in_channels), 3)


def _of_data(datamodule: Any) -> tuple[Callable[[Any], Tensor] | None, tuple[str, ...] | None, str]:
    """Returns a data module's transform and class names, and the reason in case there is no transform."""
    why, own, names = "its loaders have no data set", None, None
    for stage, loader in _LOADERS:
        try:
            with isolated_rng():
                datamodule.setup(stage)
                loaded = getattr(datamodule, loader)()
        except Exception as error:  # a user's data module without its data may raise anything
            why = f"setup({stage!r}) fails: {type(error).__name__}: {error!s:.200}"
            continue
        loaded = next(iter(loaded.values()), None) if isinstance(loaded, dict) else loaded
        loaded = loaded[0] if isinstance(loaded, (list, tuple)) and loaded else loaded
        dataset = getattr(loaded, "dataset", None)
        if dataset is not None:
            own, names = find_transform(dataset), find_class_names(dataset)
            why = f"neither does its {type(dataset).__name__}"
            break
    # Looked up last, because setup() may create them.
    candidates = (getattr(datamodule, name, None) for name in _ATTRIBUTES)
    attribute = next((transform for transform in candidates if callable(transform)), None)
    return own or attribute, names or find_class_names(datamodule), why


def _changes_batches(*owners: Any) -> str:
    """Returns the names of custom transfer hooks, which modify a batch after the data set's transform."""
    hooks = [(type(owner), f"on_{when}_batch_transfer") for owner in owners for when in ("before", "after")]
    homes = [getattr(getattr(kind, name, None), "__module__", "lightning") for kind, name in hooks]
    own = [home.split(".")[0] not in ("pytorch_lightning", "lightning") for home in homes]
    return " and ".join(f"{kind.__name__}.{name}" for kind, name in compress(hooks, own))
