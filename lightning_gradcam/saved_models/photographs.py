"""Reads photographs in their original resolution, and finds the region of each that became the model's input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from lightning_gradcam.errors import ProbeError
from lightning_gradcam.guard.data import isolated, random_states
from lightning_gradcam.probes.folder import Preparation, pictures_in, read_picture, upright
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.saved_models.images import are_inputs, as_picture

# Left, top, right and bottom edges, in pixels of the photograph; outside the photograph where the input was padded.
Region = tuple[int, int, int, int]
# Maximum deviation of a transform from a linear one, as a fraction of the photograph's side.
_BENT = 0.02
# Minimum correlation between the region and the model's input, and the standard deviation up to which an image counts
# as uniform.
_ALIKE, _EVEN = 0.8, 3.0


@dataclass(frozen=True, eq=False)
class Photographs:
    """The original images of probes, read again when overlays are drawn on them.

    Attributes:
        sources: A file's path, a PIL image or a uint8 array for each probe; anything else has no photograph.
        how: How the images were converted to inputs.
    """

    sources: Sequence[Any]
    how: Preparation
    _regions: dict[tuple[int, ...], Region | None] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, images: Any, how: Preparation) -> Photographs:
        """Returns the photographs among the ``images`` of ``explain``, in the order of its probes."""
        if are_inputs(images):
            # For an archive's probes, a saved set and tensors, only the inputs are known.
            return cls([], how)
        if isinstance(images, (str, os.PathLike)):
            path = Path(images)
            return cls(pictures_in(path) if path.is_dir() else [path], how)
        single = isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim in (2, 3))
        return cls([images] if single else list(images) if isinstance(images, (list, tuple, np.ndarray)) else [], how)

    def read(self, row: int, probes: ProbeView) -> tuple[Pixels, Region] | None:
        """Returns a photograph, uint8 ``[H, W, 3]``, and the region that became a probe's input.

        Returns ``None`` if there is no photograph, if the region is no wider or no higher than the input, or if the
        region is unknown, for instance because the transform rotates, distorts or randomly changes images.

        Args:
            row: The probe's index.
            probes: The images as the model saw them, which the region must resemble.
        """
        if len(self.sources) != len(probes) or probes.pixels.ndim != 4:
            return None
        image = _opened(self.sources[row], self.how.mode or "RGB")
        if image is None:
            return None
        shown: Pixels = probes.pixels[row]
        sizes = (*image.size, shown.shape[0], shown.shape[1])
        if sizes not in self._regions:
            self._regions[sizes] = _region(image.size, self.how, (shown.shape[0], shown.shape[1]))
        region = self._regions[sizes]
        if region is None or region[3] - region[1] <= shown.shape[0] or region[2] - region[0] <= shown.shape[1]:
            return None
        seen = image.crop(region).resize((shown.shape[1], shown.shape[0]), Image.Resampling.BOX)
        alike = _alike(_grey(seen), _grey(Image.fromarray(shown)))
        return (np.asarray(image.convert("RGB")), region) if alike else None


def placed(photograph: Pixels, region: Region, longest: int) -> tuple[Pixels, Pixels, Region]:
    """Prepares a photograph for a map that covers a region of it.

    Args:
        photograph: The photograph, uint8 ``[H, W, 3]``.
        region: The region that the model saw.
        longest: Maximum length of the longest side in pixels; larger photographs and regions are scaled down.

    Returns:
        The whole photograph, paler; the pixels in the region, black where the input was padded; and the region in the
        scaled photograph's pixels.
    """
    left, top, right, bottom = region
    # With padding, the region may be larger than the photograph.
    share = min(1.0, longest / max(*photograph.shape[:2], right - left, bottom - top))
    if share < 1:
        size = (round(photograph.shape[1] * share), round(photograph.shape[0] * share))
        photograph = np.asarray(Image.fromarray(photograph).resize(size, Image.Resampling.BOX))
        left, top, right, bottom = (round(side * share) for side in region)
        region = left, top, min(right, left + longest), min(bottom, top + longest)
    seen = np.array(Image.fromarray(photograph).crop(region))
    pale = (photograph // 2 + 128).astype(np.uint8)
    return pale, seen, region


def put_back(pale: Pixels, overlay: Pixels, region: Region) -> Pixels:
    """Pastes the overlay for the region that the model saw into the photograph."""
    left, top, right, bottom = region
    height, width = pale.shape[:2]
    whole = pale.copy()
    inner = overlay[max(0, -top) : height - top, max(0, -left) : width - left]
    whole[max(0, top) : bottom, max(0, left) : right] = inner
    return whole


def view_of(probes: ProbeView, seen: Pixels) -> ProbeView:
    """Returns probes that all show the same image, without copying it."""
    return replace(probes, pixels=np.broadcast_to(seen, (len(probes), *seen.shape)))


def _opened(source: Any, mode: str) -> Any:
    """Returns a source as the PIL image for the transform; ``None`` if it can't be read or is not an image."""
    with suppress(OSError, SyntaxError, ProbeError):
        if isinstance(source, (str, os.PathLike)):
            return read_picture(Path(source), mode, lambda image: image)
        source = as_picture(source)
        return upright(source, "").convert(mode) if isinstance(source, Image.Image) else None
    return None


def _region(size: tuple[int, int], how: Preparation, shown: tuple[int, int]) -> Region | None:
    """Finds the region of a photograph that a transform keeps, by applying it to ramps from black to white.

    Args:
        size: Width and height of the photograph.
        how: How the photograph is converted to an input.
        shown: Height and width of the input.
    """
    with isolated(how.transform):
        before = random_states(how.transform)
        found = [_transformed(picture, how, shown) for picture in _test_pictures(size)]
        # A random transform changed the photograph itself differently.
        drawn = random_states(how.transform) != before
    if drawn or any(one is None for one in found):
        return None
    black, white, across, down = (np.asarray(one) for one in found)
    # Black and white images look the same where the transform pads.
    inside = np.abs(white - black) > 0.5 * np.abs(white - black).max()
    if not inside.any() or (white == black).all():
        return None
    edges = []
    for ramp, axis, side in ((across, 1, size[0]), (down, 0, size[1])):
        places = np.indices(shown)[axis][inside]
        values = ((ramp - black)[inside] / (white - black)[inside]).astype(np.float64)
        if len(set(places.tolist())) < 2:
            return None
        slope, start = np.polyfit(places, values, 1)
        if slope <= 0 or np.abs(start + slope * places - values).max() > _BENT:
            return None
        # The ramp's values apply to the centres of pixels.
        edges.append([round((start + slope * end) * (side - 1) + 0.5) for end in (-0.5, shown[axis] - 0.5)])
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _test_pictures(size: tuple[int, int]) -> Iterator[Pixels]:
    """Yields a black and a white image, and ramps to the right and downwards."""
    width, height = size
    right = np.linspace(0, 255, width).round().astype(np.uint8)[None, :].repeat(height, axis=0)
    down = np.linspace(0, 255, height).round().astype(np.uint8)[:, None].repeat(width, axis=1)
    yield from (np.zeros_like(right), np.full_like(right, 255), right, down)


def _transformed(grey: Pixels, how: Preparation, shown: tuple[int, int]) -> npt.NDArray[Any] | None:
    """Returns a transformed grey image, averaged over channels; ``None`` if the result is not an image."""
    try:
        result = torch.as_tensor(how.apply(Image.fromarray(grey).convert(how.mode or "RGB")), device="cpu").double()
    except Exception:  # a user's transform may raise anything on an image with few grey values
        return None
    planes = result[None] if result.dim() == 2 else result
    if planes.dim() != 3 or not planes.isfinite().all():
        return None
    planes = planes.movedim(-1, 0) if tuple(planes.shape[1:]) != shown and tuple(planes.shape[:2]) == shown else planes
    return planes.mean(0).numpy() if tuple(planes.shape[1:]) == shown else None


def _grey(image: Any) -> npt.NDArray[Any]:
    return np.asarray(image.convert("L"), np.float64)


def _alike(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether two grey images show the same content, independent of brightness and contrast."""
    if min(one.std(), other.std()) < _EVEN:
        return bool(max(one.std(), other.std()) < 2 * _EVEN)
    return bool(np.corrcoef(one.ravel(), other.ravel())[0, 1] >= _ALIKE)
