"""From pictures in any form (a folder, files, PIL images, arrays, tensors) to probes, as a model takes its inputs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_gradcam.archive import Archive
from lightning_gradcam.archive.manifest import MANIFEST
from lightning_gradcam.errors import ConfigurationError, ProbeError
from lightning_gradcam.guard.data import isolated, isolated_rng
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.display import Normalization, choose, find_normalization, normalization, to_pixels
from lightning_gradcam.probes.folder import read_folder, read_picture, scaling, upright
from lightning_gradcam.probes.wrapped import find_class_names, nested_datasets

_ATTRIBUTES = ("val_transform", "test_transform", "eval_transform", "predict_transform", "transform")
_LOADERS = (("validate", "val_dataloader"), ("test", "test_dataloader"), ("fit", "val_dataloader"))


@dataclass(frozen=True, eq=False)
class Preparation:
    """How pictures become a model's inputs.

    Attributes:
        transform: From a PIL image to the input ``[C, H, W]``; ``None``: scaled to 0…1, then by ``mean`` and ``std``.
        size: Height and width that pictures are resized to before that; ``None`` leaves them.
        mean: Subtracted, where there is no transform; otherwise only undone for display.
        std: Divided by, likewise.
        mode: The PIL mode that pictures are converted to: ``"RGB"`` or ``"L"``.
        class_names: The model's classes in order.
        remarks: What a user should know of how this was found.
    """

    transform: Callable[[Any], Tensor] | None = None
    size: int | Sequence[int] | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    mode: str = "RGB"
    class_names: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def whole(self) -> Callable[[Any], Tensor]:
        """From a PIL image of the right mode to the input."""
        if self.transform is None:
            return scaling(self.size, normalization(self.mean, self.std) or Normalization((0.0,), (1.0,), ""))
        return self.transform if self.size is None else Resized(self.transform, self.size)


class Resized:
    """A transform of resized pictures.

    Args:
        transform: Of a PIL image.
        size: Height and width; one number: both.
    """

    def __init__(self, transform: Callable[[Any], Tensor], size: int | Sequence[int]) -> None:
        # Under the name that compositions have, so that what is in it can be found.
        self.transforms = [transform]
        self._height, self._width = (size, size) if isinstance(size, int) else size

    def __call__(self, image: Any) -> Tensor:
        """Returns the model's input."""
        return self.transforms[0](image.resize((self._width, self._height), Image.Resampling.BILINEAR))


def prepare_for(
    module: nn.Module,
    datamodule: Any = None,
    *,
    asked: bool = False,
    transform: Callable[[Any], Tensor] | None = None,
    size: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    mode: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Preparation:
    """Finds out how pictures become a model's inputs.

    A transform is taken from the data module's validation or test data set, else from its attributes
    (``val_transform``, ``test_transform``, ``eval_transform``, ``predict_transform``, ``transform``).

    Args:
        module: Pictures are read in grey where its first convolution has one input channel.
        datamodule: A data module that has not been set up; nothing is downloaded.
        asked: The user has named the data module, and it is an error where it has no transform.
        transform: The user's own, instead of the data module's.
        size: Resize to this before the transform.
        mean: Of each channel or of all. Without ``transform``, it is used in place of one that a data module has which
            nobody asked for.
        std: Likewise.
        mode: ``"RGB"`` or ``"L"``, instead of what the module shows.
        class_names: Instead of those of the data.

    Raises:
        ConfigurationError: The named data module has no transform that can be found, ``size`` is none, or ``mode`` is
            unknown.
    """
    sides: list[Any] = [1] if size is None else list(size) if isinstance(size, (list, tuple)) else [size]
    if len(sides) not in (1, 2) or any(
        not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides
    ):
        raise ConfigurationError(f"size: got {size!r}; give both sides, or height and width, in pixels (--size)")
    size = sides * 2 if isinstance(size, (list, tuple)) and len(sides) == 1 else size
    if mode not in (None, "RGB", "L"):
        raise ConfigurationError(f"mode: got {mode!r}; give 'RGB', 'L' (grey), or None for what the model takes")
    remarks: list[str] = []
    names: Sequence[str] | None = class_names
    if datamodule is not None:
        found, of_data, why = _of_data(datamodule)
        names = names or of_data
        if transform is None and (asked or mean is None):
            transform = found
        if found is None and asked and transform is None:
            raise ConfigurationError(
                f"data: {type(datamodule).__name__} has no transform that can be found ({why}); give it an attribute"
                f" {' or '.join(_ATTRIBUTES[:2])}, or mean and std (--mean, --std), or transform="
            )
        if changed := _changes_batches(module, datamodule):
            remarks.append(f"{changed} change batches on the device, which is not done here")
    return Preparation(
        transform,
        size,
        mean,
        std,
        mode or ("L" if _first_channels(module) == 1 else "RGB"),
        None if names is None else tuple(names),
        tuple(remarks),
    )


def are_inputs(images: Any) -> bool:
    """Whether images are a model's inputs already, which nothing is done to."""
    if isinstance(images, (str, os.PathLike)):
        return Path(images).suffix == ".npz" or _is_archive(Path(images))
    entries = list(images) if isinstance(images, (list, tuple)) else [images]
    return all(isinstance(entry, (Tensor, ProbeSet)) for entry in entries)


def probes_from(images: Any, how: Preparation, *, labels: Any = None) -> ProbeSet:
    """Makes probes of pictures.

    Args:
        images: A folder (sub-folders are true classes), a file, a saved :class:`ProbeSet`, a run's archive; PIL
            images, uint8 arrays ``[H, W]`` or ``[H, W, 3]``; tensors as the model takes them, ``[C, H, W]``; a list of
            these; a tensor or uint8 array with an axis more; or a :class:`ProbeSet`, which is taken as it is.
        how: How they become inputs.
        labels: True classes ``[N]``, where the pictures do not tell them.

    Raises:
        ProbeError: There is no picture, one can't be read, or they have different sizes.
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
            return _of_folder(path, how)
        if path.suffix == ".npz":
            return ProbeSet.load(path)
        images = [path]
    elif isinstance(images, Image.Image) or (isinstance(images, (Tensor, np.ndarray)) and images.ndim == 3):
        images = [images]
    if not isinstance(images, Iterable):
        raise ProbeError(
            f"images: got a {type(images).__name__}; give a folder, files, PIL images, uint8 arrays, tensors, or a"
            " ProbeSet"
        )
    entries = list(images)
    if not entries:
        raise ProbeError("images: got none; give at least one")
    names = _names(entries)
    apply = how.whole
    with isolated(how.transform):
        found = [_input(entry, name, how.mode, apply) for entry, name in zip(entries, names, strict=True)]
    # Transforms of other libraries give arrays.
    tensors = [torch.as_tensor(entry) for entry in found]
    odd = next((place for place, tensor in enumerate(tensors) if tensor.shape != tensors[0].shape), None)
    if odd is not None:
        raise ProbeError(
            f"images: {names[odd]!r} gives {list(tensors[odd].shape)} and {names[0]!r} {list(tensors[0].shape)}; give"
            " size= (--size), or a transform that resizes"
        )
    inputs = torch.stack(tensors)
    given = normalization(how.mean, how.std)
    raw = all(isinstance(entry, Tensor) for entry in entries)
    if how.transform is not None:
        shown = choose([find_normalization(how.transform)], given)
    else:
        # Of tensors nobody knows how they were made.
        shown = given if given is not None or raw else Normalization((0.0,), (1.0,), "as loaded")
    display, source = to_pixels(inputs, shown)
    return ProbeSet(inputs, ids=names, class_names=how.class_names, display=display, display_source=source)


def _is_archive(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _of_folder(path: Path, how: Preparation) -> ProbeSet:
    transform = None if how.transform is None else how.whole
    with isolated(how.transform):
        return read_folder(
            path,
            transform=transform,
            size=how.size,
            mean=how.mean,
            std=how.std,
            mode=how.mode,
            class_names=how.class_names,
        )


def _input(entry: Any, name: str, mode: str, apply: Callable[[Any], Tensor]) -> Tensor:
    if isinstance(entry, Tensor):
        return entry.detach().cpu()
    if isinstance(entry, (str, os.PathLike)):
        if not Path(entry).is_file():
            raise ProbeError(f"images: no file {os.fspath(entry)!r}; give pictures, or one folder")
        return read_picture(Path(entry), mode, apply)
    if isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.ndim in (2, 3):
        entry = Image.fromarray(entry[..., 0] if entry.ndim == 3 and entry.shape[2] == 1 else entry)
    if not isinstance(entry, Image.Image):
        what = f"{entry.dtype} {list(entry.shape)}" if isinstance(entry, np.ndarray) else type(entry).__name__
        raise ProbeError(
            f"images: {name!r} is {what}; give files, PIL images, uint8 arrays [H, W] or [H, W, 3], or tensors as the"
            " model takes them"
        )
    return apply(upright(entry, name).convert(mode))


def _names(entries: Sequence[Any]) -> tuple[str, ...]:
    """Returns an id for each: a file's name, its path where two have the same, and else the place."""
    paths = [Path(entry) if isinstance(entry, (str, os.PathLike)) else None for entry in entries]
    times = Counter(path.name for path in paths if path is not None)
    found = []
    for place, path in enumerate(paths):
        found.append(str(place) if path is None else path.name if times[path.name] == 1 else path.as_posix())
    twice = Counter(found)
    return tuple(name if twice[name] == 1 else f"{name} ({place})" for place, name in enumerate(found))


def _first_channels(module: nn.Module) -> int:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((part.in_channels for part in module.modules() if isinstance(part, kinds) and part.in_channels), 3)


def _of_data(datamodule: Any) -> tuple[Callable[[Any], Tensor] | None, tuple[str, ...] | None, str]:
    """Returns the transform and the class names that a data module has, and why there is no data set."""
    why = "its loaders have no data set"
    for stage, loader in _LOADERS:
        try:
            with isolated_rng():
                datamodule.setup(stage)
                loaded = getattr(datamodule, loader)()
        except Exception as error:  # whatever a user's data module raises where its data is not there
            why = f"setup({stage!r}) fails: {type(error).__name__}: {error!s:.200}"
            continue
        loaded = next(iter(loaded.values()), None) if isinstance(loaded, dict) else loaded
        loaded = loaded[0] if isinstance(loaded, (list, tuple)) and loaded else loaded
        dataset = getattr(loaded, "dataset", None)
        if dataset is not None:
            own = next((o.transform for o in nested_datasets(dataset) if callable(getattr(o, "transform", None))), None)
            why = f"nor has its {type(dataset).__name__}"
            return own or _attribute(datamodule), find_class_names(dataset) or find_class_names(datamodule), why
    return _attribute(datamodule), find_class_names(datamodule), why


def _attribute(datamodule: Any) -> Callable[[Any], Tensor] | None:
    found = (getattr(datamodule, name, None) for name in _ATTRIBUTES)
    return next((transform for transform in found if callable(transform)), None)


def _changes_batches(*owners: Any) -> str:
    """Returns who has transfer hooks of their own, which change a batch after the data set's transform."""
    found = []
    for owner in owners:
        for name in ("on_before_batch_transfer", "on_after_batch_transfer"):
            home = getattr(getattr(type(owner), name, None), "__module__", "lightning").split(".")[0]
            if home not in ("pytorch_lightning", "lightning"):
                found.append(f"{type(owner).__name__}.{name}")
    return " and ".join(found)
