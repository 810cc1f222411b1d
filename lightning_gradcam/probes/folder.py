"""Reads probes from a folder of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightning_gradcam.errors import ProbeError
from lightning_gradcam.probes.display import Normalization, choose, find_normalization, normalization, to_pixels
from lightning_gradcam.probes.probe_set import ProbeSet

A = TypeVar("A")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Folders in a run's folder that contain images.
_DRAWN = ("sheets", "overlays", "evolution")
_AS_LOADED = Normalization((0.0,), (1.0,), "as loaded")


@dataclass(frozen=True, eq=False)
class Preparation:
    """How images become a model's inputs.

    Attributes:
        transform: Function from a PIL image to the input ``[C, H, W]``; ``None``: scale to 0…1, then apply ``mean`` and
            ``std``.
        size: Height and width to resize images to before that, or one number for both; ``None`` keeps their size.
        mean: Mean to subtract if there is no transform; otherwise only undone for display.
        std: Standard deviation to divide by if there is no transform; otherwise only undone for display.
        mode: The PIL mode to convert images to, ``"RGB"`` or ``"L"``; ``None``: ``"RGB"``.
        class_names: The model's classes in order.
        remarks: Notes for the user on how this preprocessing was determined.
    """

    transform: Callable[[Any], Tensor] | None = None
    size: int | Sequence[int] | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    mode: str | None = None
    class_names: Sequence[str] | None = None
    remarks: tuple[str, ...] = ()

    def apply(self, image: Any) -> Tensor:
        """Converts a PIL image, already in the right mode, to the model's input."""
        if self.size is not None:
            height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if self.transform is not None:
            return self.transform(image)
        pixels = np.array(image)
        tensor = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)
        scale = normalization(self.mean, self.std) or _AS_LOADED
        mean, std = (torch.tensor(values, device="cpu")[:, None, None] for values in (scale.mean, scale.std))
        return (tensor.float() / 255 - mean) / std

    def probes(
        self, inputs: Sequence[Any], ids: tuple[str, ...], *, labels: Tensor | None = None, raw: bool = False
    ) -> ProbeSet:
        """Creates probes from model inputs.

        Args:
            inputs: One input for each image.
            ids: Their names.
            labels: Their true classes.
            raw: Whether the user passed them as inputs, so their preprocessing is unknown.

        Raises:
            ProbeError: The inputs have different sizes.
        """
        # Transforms from other libraries return arrays.
        tensors = [torch.as_tensor(each, device="cpu") for each in inputs]
        odd = next((place for place, tensor in enumerate(tensors) if tensor.shape != tensors[0].shape), None)
        if odd is not None:
            raise ProbeError(
                f"probes: {ids[odd]!r} and {ids[0]!r} have different shapes ({list(tensors[odd].shape)} and"
                f" {list(tensors[0].shape)}); pass size= (--size), or a transform that resizes"
            )
        given = normalization(self.mean, self.std)
        if self.transform is not None:
            shown = choose([find_normalization(self.transform)], given)
        else:
            shown = given or (None if raw else _AS_LOADED)
        stacked = torch.stack(tensors)
        display, source = to_pixels(stacked, shown)
        names = None if self.class_names is None else tuple(self.class_names)
        return ProbeSet(stacked, ids, labels, class_names=names, display=display, display_source=source)


def read_folder(path: str | os.PathLike[str], how: Preparation) -> ProbeSet:
    """Reads every image in a folder; see :meth:`ProbeSet.from_folder`.

    Args:
        path: The folder.
        how: How the images become inputs.
    """
    root = Path(path)
    if not root.is_dir():
        raise ProbeError(f"probes: {str(path)!r} is not a folder; pass a folder of images or a saved probe set")
    files = pictures_in(root)
    if not files:
        raise ProbeError(f"probes: {str(path)!r} contains no images; supported file types: {', '.join(SUFFIXES)}")
    own = how if how.transform is None else replace(how, transform=_from_pictures(how.transform, path))
    tensors = [read_picture(file, how.mode or "RGB", own.apply) for file in files]
    labels, names = _labels(root, files, how.class_names)
    ids = tuple(file.relative_to(root).as_posix() for file in files)
    return replace(how, class_names=names).probes(tensors, ids, labels=labels)


def pictures_in(folder: Path) -> list[Path]:
    """Returns all images in a folder and its sub-folders, sorted by name.

    Hidden files, such as those macOS creates next to images, are skipped. So are sheets and overlays that this package
    wrote to a sub-folder, such as ``explained/`` from an earlier ``explain``.
    """
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(file for file in files if not file.name.startswith(".") and not _is_drawn(file, folder))


def _is_drawn(file: Path, folder: Path) -> bool:
    inner = file.parents[: len(file.relative_to(folder).parts) - 1]
    return any(
        place.name in _DRAWN and all((place.parent / name).is_file() for name in ("manifest.json", "probes.npz"))
        for place in inner
    )


def read_picture(file: Path, mode: str, apply: Callable[[Any], A]) -> A:
    """Reads an image file as the model's input.

    Args:
        file: Its path.
        mode: Pillow's mode, such as ``"RGB"``.
        apply: The transform.

    Raises:
        ProbeError: The file can't be read as an image.
    """
    try:
        with Image.open(file) as image:
            return apply(upright(image, str(file)).convert(mode))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ProbeError(f"probes: {str(file)!r} can't be read as an image ({error}); remove or repair it") from error


def upright(image: Any, name: str) -> Any:
    """Returns an image as viewers show it: rotated by its EXIF orientation, with 16-bit grey values scaled to 8 bits.

    Args:
        image: A PIL image.
        name: Its name, for errors.

    Raises:
        ProbeError: The range of its values is unknown.
    """
    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("F", "I") or turned.mode.startswith("I;16"):
        values = np.asarray(turned)
        if turned.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ProbeError(
                f"probes: {name!r} contains {values.dtype} values from {values.min():g} to {values.max():g}, whose "
                "range is not known; save it with 8 or 16 bits, or pass tensors"
            )
        # Pillow's own conversion would clip everything above 255.
        return Image.fromarray((values // 257).astype(np.uint8))
    return turned


def _from_pictures(transform: Callable[[Any], Any], path: str | os.PathLike[str]) -> Callable[[Any], Tensor]:
    """Wraps a transform to raise a clear error if it does not accept images."""

    def apply(image: Any) -> Tensor:
        cause: Exception | None = None
        try:
            result = transform(image)
            what = f"returns {type(result).__name__}"
        except Exception as error:
            cause, result, what = error, None, f"raises {type(error).__name__}: {error!s:.120}"
        if isinstance(result, Tensor):
            return result
        name = getattr(transform, "__name__", type(transform).__name__)
        raise ProbeError(
            f"probes: the transform {name} should turn a PIL image into a tensor, but {what}; pass "
            f"probes=ProbeSet.from_folder({str(path)!r}, transform=...) with one that does, or pass the size=, mean= "
            "and std= of the preprocessing instead of transform="
        ) from cause

    return apply


def _labels(
    root: Path, files: Sequence[Path], class_names: Sequence[str] | None
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    named = None if class_names is None else tuple(class_names)
    if any(file.parent == root for file in files):
        return None, named
    folders = [file.relative_to(root).parts[0] for file in files]
    names = named if named is not None else tuple(sorted(set(folders)))
    unknown = next((folder for folder in folders if folder not in names), None)
    if unknown is not None:
        raise ProbeError(
            f"probes: the sub-folder {unknown!r} is not among the classes {', '.join(names)}; rename it, or put the "
            "images into the folder itself"
        )
    return torch.tensor([names.index(folder) for folder in folders], device="cpu"), names
