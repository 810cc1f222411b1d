"""Probes from a folder of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightning_gradcam.errors import ProbeError
from lightning_gradcam.probes.class_names import named_classes
from lightning_gradcam.probes.display import Normalization, choose, find_normalization, normalization, to_pixels
from lightning_gradcam.probes.probe_set import ProbeSet

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Folders of pictures in that of a run.
_DRAWN = ("sheets", "overlays", "evolution")


def read_folder(
    path: str | os.PathLike[str],
    *,
    transform: Callable[[Any], Tensor] | None = None,
    size: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    mode: str = "RGB",
    class_names: Sequence[str] | str | None = None,
) -> ProbeSet:
    """Reads every picture below ``path``, in the order of their names.

    Args:
        path: The folder. Pictures in sub-folders get the sub-folder's name as their true class.
        transform: From a PIL image to the model's input ``[C, H, W]``, for instance the validation data set's. The
            other preprocessing arguments then only say how to undo it for display.
        size: Height and width to resize to (one number: both), without ``transform``.
        mean: Subtracted after scaling to 0…1, for each channel or all, without ``transform``.
        std: Divided by after that.
        mode: The PIL mode to open the pictures in: ``"RGB"`` or ``"L"``.
        class_names: The model's classes in order; sub-folders are then looked up here instead of being numbered by
            their sorted names. ``"imagenet"`` or a file's path are read.

    Returns:
        The probes; ids are paths relative to ``path``.

    Raises:
        ProbeError: No folder, no picture, a picture that can't be read, pictures of different sizes, a sub-folder
            that is none of ``class_names``, or a transform that does not take PIL images or return tensors.
    """
    root = Path(path)
    if not root.is_dir():
        raise ProbeError(f"probes: {str(path)!r} is not a folder; give a folder of pictures or a saved probe set")
    files = pictures_in(root)
    if not files:
        raise ProbeError(f"probes: no picture in {str(path)!r}; it looks for {', '.join(SUFFIXES)}")
    given = normalization(mean, std)
    as_scaled = Normalization((0.0,), (1.0,), "as loaded")
    apply = _from_pictures(transform, path) if transform is not None else scaling(size, given or as_scaled)
    tensors = [read_picture(file, mode, apply) for file in files]
    odd = next((i for i, tensor in enumerate(tensors) if tensor.shape != tensors[0].shape), None)
    if odd is not None:
        raise ProbeError(
            f"probes: {files[odd].name!r} gives {list(tensors[odd].shape)} and {files[0].name!r}"
            f" {list(tensors[0].shape)}; give size=, or a transform that resizes"
        )
    inputs = torch.stack(tensors)
    shown = choose([find_normalization(transform)], given) if transform is not None else given or as_scaled
    display, how = to_pixels(inputs, shown)
    labels, names = _labels(root, files, named_classes(class_names))
    return ProbeSet(
        inputs,
        ids=tuple(file.relative_to(root).as_posix() for file in files),
        labels=labels,
        class_names=names,
        display=display,
        display_source=how,
    )


def pictures_in(folder: Path) -> list[Path]:
    """Returns the pictures below a folder by name.

    Hidden files, as macOS leaves them beside pictures, are left out, and so are the sheets and overlays that this
    package has written into a folder below, such as ``explained/`` of an earlier ``explain``.
    """
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(file for file in files if not file.name.startswith(".") and not _is_drawn(file, folder))


def _is_drawn(file: Path, folder: Path) -> bool:
    inner = file.parents[: len(file.relative_to(folder).parts) - 1]
    return any(
        place.name in _DRAWN and all((place.parent / name).is_file() for name in ("manifest.json", "probes.npz"))
        for place in inner
    )


def read_picture(file: Path, mode: str, apply: Callable[[Any], Tensor]) -> Tensor:
    """Returns a picture file as the model's input.

    Args:
        file: Its path.
        mode: Pillow's, such as ``"RGB"``.
        apply: The transform.

    Raises:
        ProbeError: It is no picture.
    """
    try:
        with Image.open(file) as image:
            return apply(upright(image, str(file)).convert(mode))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ProbeError(f"probes: {str(file)!r} can't be read as a picture ({error}); remove or mend it") from error


def upright(image: Any, name: str) -> Any:
    """Returns a picture as viewers show it: turned as its camera says, and deep grey values scaled to 8 bits.

    Args:
        image: A PIL image.
        name: Its name, for errors.

    Raises:
        ProbeError: Its values have no range that is known.
    """
    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("F", "I") or turned.mode.startswith("I;16"):
        values = np.asarray(turned)
        if turned.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ProbeError(
                f"probes: {name!r} holds {values.dtype} values from {values.min():g} to {values.max():g}, whose range"
                " is not known; save it with 8 or 16 bits, or give tensors"
            )
        # Pillow's own conversion would cut everything above 255.
        return Image.fromarray((values // 257).astype(np.uint8))
    return turned


def scaling(size: int | Sequence[int] | None, scale: Normalization) -> Callable[[Any], Tensor]:
    """Returns the transform from pictures to ``[C, H, W]``: to a size, to 0…1, less the mean, by the deviation.

    Args:
        size: Of a side, or height and width; ``None``: as they are.
        scale: Mean and deviation.
    """
    height, width = (size, size) if isinstance(size, int) else (tuple(size) if size is not None else (None, None))
    mean, std = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.std))

    def apply(image: Any) -> Tensor:
        if height is not None and width is not None:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.array(image)
        tensor = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)
        return (tensor.float() / 255 - mean) / std

    return apply


def _from_pictures(transform: Callable[[Any], Any], path: str | os.PathLike[str]) -> Callable[[Any], Tensor]:
    """Returns a transform that says so where it can't be used on pictures: those of data sets take anything."""

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
            f"probes: the transform {name} turns no PIL image into a tensor, but {what}; give"
            f" probes=ProbeSet.from_folder({str(path)!r}, transform=...) with one that does, or the size=, mean= and"
            " std= of the preprocessing instead of transform="
        ) from cause

    return apply


def _labels(
    root: Path, files: Sequence[Path], class_names: Sequence[str] | None
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    parents = [file.relative_to(root).parts[0] if file.parent != root else None for file in files]
    named = tuple(class_names) if class_names is not None else None
    if any(parent is None for parent in parents):
        return None, named
    folders = [str(parent) for parent in parents]
    names = named if named is not None else tuple(sorted(set(folders)))
    unknown = [folder for folder in folders if folder not in names]
    if unknown:
        raise ProbeError(
            f"probes: the sub-folder {unknown[0]!r} is none of the classes {', '.join(names)}; rename it, or put the"
            " pictures into the folder itself"
        )
    return torch.tensor([names.index(folder) for folder in folders]), names
