"""Ten classes of garments drawn in code, for machines without Fashion-MNIST or a network.

The images are 28x28, grey on black, with the classes of Fashion-MNIST in its order. The part that
distinguishes a class from similar ones is drawn separately, on a shape that they share, so every image
has a mask of its distinguishing parts, with which a class-activation map can be compared.

Only operations that IEEE 754 specifies exactly are used (no sine, no exponential), so a seed gives
the same bytes on every machine, for as long as NumPy keeps its generator's stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

Floats = npt.NDArray[np.floating[Any]]
Number = Floats | float
Point = tuple[Number, Number]
# A class's layers, each [n, 28, 28]: coverage, brightness factor and telling parts.
Parts = tuple[Floats, Floats, Floats]

TRAIN_SIZE = 12_800
TEST_SIZE = 2_000
_SIDE = 28
# The layers of one chunk fit into a processor's cache.
_CHUNK = 256


@dataclass(frozen=True)
class Garments:
    """A batch of drawn images.

    Attributes:
        images: Grey values 0 to 255 on a background of 0, uint8 of shape [N, 28, 28].
        labels: Indices into `CLASS_NAMES`, int64 of shape [N].
        masks: True on the parts that tell the class, bool of shape [N, 28, 28].
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]


class _Sheet:
    """The coordinates of n images, each with its own position, scale, rotation and shear.

    `u` runs to the right and `v` downwards, about -1 to 1, and `w` is |u|: in it a symmetric
    garment is drawn by its right half. Shapes are [n, 28, 28], and [n, 1, 1] for what `pick` draws.
    """

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self._rng, self._count = rng, count
        scale, half_turn = self.pick(0.76, 1.02), self.pick(-0.08, 0.08)
        norm = 1 + half_turn * half_turn
        cosine, sine = (2 - norm) / norm, 2 * half_turn / norm
        axis = (np.arange(_SIDE, dtype=np.float32) - (_SIDE - 1) / 2) / (_SIDE / 2)
        x, y = axis - self.pick(-0.12, 0.12), axis[:, None] - self.pick(-0.1, 0.1)
        self.v: Floats = (cosine * y - sine * x) / scale
        across = (cosine * x + sine * y) / (scale * self.pick(0.92, 1.08))
        self.u: Floats = across + self.pick(-0.12, 0.12) * self.v
        self.w: Floats = np.abs(self.u)
        self._pixels_per_unit = scale * (_SIDE / 2)

    def pick(self, low: float, high: float, side: int = 1) -> Floats:
        sample = self._rng.random((self._count, side, side), dtype=np.float32)
        return sample * (high - low) + low

    def chance(self, probability: float) -> Floats:
        return (self.pick(0, 1) < probability).astype(np.float32)

    def cover(self, distance: Floats) -> Floats:
        """Turns a signed distance, negative inside, into anti-aliased coverage 0..1."""
        return np.clip(0.5 - distance * self._pixels_per_unit, 0, 1)

    def line(self, distance: Floats, half_width: Number) -> Floats:
        return self.cover(np.abs(distance) - half_width)

    def dim(self, part: Floats, low: float, high: float) -> Floats:
        """Returns a brightness factor that darkens a part by a share between low and high."""
        return 1 - self.pick(low, high) * part

    def tint(self, part: Floats, low: float, high: float) -> Floats:
        """Returns a brightness factor that darkens a part or, as often, lightens it."""
        return 1 + self.pick(low, high) * (2 * self.chance(0.5) - 1) * part


def _hull(x: Floats, y: Floats, *points: Point) -> Floats:
    """Returns the signed distance to the edges through points given clockwise on screen."""
    distance: Floats = np.full_like(x, -_SIDE)
    for (x0, y0), (x1, y1) in pairwise(points):
        across: Floats = np.asarray(y1 - y0, np.float32)
        down: Floats = np.asarray(x0 - x1, np.float32)
        length = np.sqrt(across * across + down * down)
        across, down = across / length, down / length
        distance = np.maximum(distance, x * across + (y * down - (x0 * across + y0 * down)))
    return distance


def _ellipse(x: Floats, y: Floats, width: Number, height: Number) -> Floats:
    """Returns the approximate signed distance to an ellipse about the origin."""
    x, y = x / width, y / height
    reach: Floats = np.sqrt(x * x + y * y)
    slope: Floats = np.sqrt(np.square(x / width) + np.square(y / height))
    return reach * (reach - 1) / (slope + 1e-6)


def _wave(phase: Floats) -> Floats:
    """Returns a triangle wave in -1..1 of period 1."""
    nearest: Floats = np.floor(phase + 0.5)
    return abs(phase - nearest) * 4 - 1


def _upper_body(name: str, sheet: _Sheet) -> Parts:
    """Draws a garment for the upper body: for all five classes a torso with sleeves."""
    u, v, w, pick, cover, line = sheet.u, sheet.v, sheet.w, sheet.pick, sheet.cover, sheet.line
    shoulder, hem, bottom = (0.42, 0.52), (0.40, 0.54), (0.70, 0.93)
    long = sheet.chance({"T-shirt/top": 0.0, "Pullover": 1.0, "Coat": 1.0}.get(name, 0.6))
    reach = long * pick(0.8, 1.4) + (1 - long) * pick(0.3, 0.72)
    if name == "Dress":
        reach, shoulder, hem, bottom = reach - 0.2, (0.30, 0.46), (0.24, 0.40), (0.0, 0.2)
    top, end, drop = pick(-0.92, -0.82), pick(*bottom), pick(0.08, 0.16)
    neck, depth = pick(0.16, 0.26), pick(0.06, 0.22)
    side, waist = pick(*shoulder), pick(*hem)
    throat = top + depth
    neckline = _ellipse(w, v - top, neck, depth)
    outline = ((0.0, top), (neck, top), (side, top + drop), (waist, end), (0.0, end))
    body = np.maximum(_hull(w, v, *outline), -neckline)
    torso = cover(body)

    # Long sleeves hang beside the torso and short ones stand off, as on a laid-out garment.
    slope = pick(0.1, 0.34) + np.maximum(0.8 - reach, 0) * 1.3
    norm = np.sqrt(1 + slope * slope)
    x, y = (w - side + 0.12) / norm, (v - top - drop - 0.05) / norm
    along, across, girth = x * slope + y, x - y * slope, pick(0.15, 0.2)
    taper = (girth - pick(0.09, 0.14)) * np.minimum(reach, 1)
    flank = np.abs(across) - girth + taper * along
    sleeve = cover(np.maximum(flank, np.abs(along - reach / 2) - reach / 2))
    arms = sleeve * cover(-body - 0.08)
    shape: Floats = torso + sleeve * (1 - torso)
    shading: Floats = sheet.dim(line(body, 0.03) * sleeve, 0.1, 0.55)
    below = cover(throat - v) * torso
    if name in ("T-shirt/top", "Pullover"):
        rim = line(neckline - 0.05, 0.06) * torso
        rib = line(v - end + 0.05, 0.06) * torso * (name == "Pullover")
        spot = _ellipse(u - pick(-0.15, 0.15), v + 0.2, pick(0.1, 0.28), pick(0.08, 0.25))
        shading = shading * sheet.tint(np.maximum(rim, rib), 0, 0.35)
        shading = shading * sheet.tint(cover(spot) * sheet.chance(0.4), 0.1, 0.5)
        telling = np.maximum(arms, rim)
    elif name == "Shirt":
        strip = line(w, pick(0.05, 0.09)) * below
        buttons = line(w, 0.03) * np.maximum(_wave(v * pick(3, 4.5)), 0) * below
        corner, nape = (neck - 0.06, top - 0.06), (neck + 0.08, top + 0.02)
        leaf = _hull(w, v, corner, nape, (pick(0.08, 0.2), throat + 0.16), (0.0, throat), corner)
        collar = cover(leaf)
        shading = shading * sheet.tint(strip, 0.05, 0.25) * sheet.dim(buttons, 0.1, 0.55)
        shading = shading * sheet.tint(collar, 0.05, 0.35)
        shape, telling = np.maximum(shape, collar), np.maximum(strip, collar)
    elif name == "Coat":
        opening = pick(0.01, 0.06) + sheet.chance(0.4) * np.maximum(v, 0) * 0.08
        front = line(u - pick(-0.06, 0.06), opening) * below
        corner, notch = (neck, top), (neck + 0.12, top + 0.14)
        lapels = cover(_hull(w, v, corner, notch, (0.02, top + pick(0.45, 0.8)), corner)) * torso
        shading = shading * sheet.dim(front, 0.2, 0.75) * sheet.tint(lapels, 0.05, 0.3)
        telling = np.maximum(np.maximum(lapels, arms), line(w, 0.12) * below)
    else:
        waist, high, low = waist * 0.95, end - 0.15, pick(0.82, 0.97)
        flare = waist + pick(0.02, 0.26)
        telling = cover(_hull(w, v, (0.0, high), (waist, high), (flare, low), (0.0, low)))
        shape = np.maximum(shape, telling)
        pleats = _wave(u / (0.2 + np.maximum(v - high, 0) * 0.3)) * telling
        shading = shading * sheet.tint(line(v - high - 0.06, 0.05) * shape, 0, 0.4)
        shading = shading * sheet.dim(pleats, 0, 0.25)
    return shape, shading, telling


def _trouser(sheet: _Sheet) -> Parts:
    v, w, pick, cover = sheet.v, sheet.w, sheet.pick, sheet.cover
    top, end, crotch = pick(-0.95, -0.85), pick(0.8, 0.97), pick(-0.5, -0.3)
    hip, inner = pick(0.26, 0.38), pick(0.02, 0.16)
    waist, ankle = (hip * 0.85, top), (inner + pick(0.18, 0.3), end)
    body = cover(_hull(w, v, (0.0, top), waist, (hip, crotch), ankle, (0.0, end)))
    gap = cover(_hull(w, v, (0.0, crotch), (inner, end), (inner, end + 0.2)))
    beside = cover(_hull(w, v, (0.0, crotch), (0.06, crotch), (inner + 0.09, end)))
    shading = sheet.tint(sheet.line(v - top - 0.08, 0.04), 0, 0.4)
    return body * sheet.dim(gap, 0.25, 1), shading, beside * cover(v - end)


def _bag(sheet: _Sheet) -> Parts:
    v, w, pick, cover, line = sheet.v, sheet.w, sheet.pick, sheet.cover, sheet.line
    top, end, wide, low = pick(-0.35, 0.05), pick(0.6, 0.9), pick(0.42, 0.85), pick(0.5, 0.9)
    shoulder = ((0.0, top), (wide - 0.08, top), (wide, top + 0.08))
    base = ((low, end - 0.08), (low - 0.08, end), (0.0, end))
    body = cover(_hull(w, v, *shoulder, *base))
    ring, thick = _ellipse(w, v - top, pick(0.25, 0.45), pick(0.28, 0.55)), pick(0.03, 0.07)
    hanging = sheet.chance(0.2)
    side = (1 - 2 * hanging) * (v - top)
    handle, telling = line(ring, thick) * cover(side - 0.1), line(ring, thick + 0.055) * cover(side)
    flap = line(v - top - pick(0.2, 0.4), 0.03)
    clasp = cover(_ellipse(w, v - top - 0.35, 0.09, 0.07))
    shading = sheet.dim(flap, 0, 0.5) * sheet.dim(handle * hanging, 0.3, 0.7)
    shading = shading * sheet.tint(clasp, 0, 0.5)
    return np.maximum(body, handle * (1 - hanging) * pick(0.5, 1)), shading, telling


def _footwear(name: str, sheet: _Sheet) -> Parts:
    """Draws footwear pointing to the left: for all three classes a foot on a sole with a heel."""
    u, v, pick, cover, line = sheet.u, sheet.v, sheet.pick, sheet.cover, sheet.line
    collar = pick(-0.95, -0.38) if name == "Ankle boot" else pick(-0.38, -0.05)
    thick, heel = pick(0.07, 0.18), pick(0, 0.08 if name == "Sneaker" else 0.3)
    ground, toe, instep, back = pick(0.42, 0.62), pick(0.28, 0.42), pick(-0.25, 0), pick(0.78, 0.9)
    base, end, under = ground - thick, back + 0.03, ground + heel
    tip, corner, start, block = (-0.92, base), (instep - 0.25, base), (-0.94, base), (0.42, base)
    ridge = ((-0.86, base - toe * 0.6), (-0.6, base - toe), (0.4, base - toe - 0.28))
    front = _hull(u, v, tip, *ridge, (0.4, base), tip)
    rear = _hull(u, v, corner, (instep + 0.12, collar), (back - 0.03, collar), (back, base), corner)
    flat = _hull(u, v, start, (end, base), (end, ground), (-0.88, ground), start)
    lift = _hull(u, v, block, (end, base), (end - 0.04, under), (0.5, under), block)
    sole = cover(np.minimum(flat, lift))
    foot = cover(np.minimum(front, rear)) * (1 - sole)
    shading = sheet.tint(sole, 0.05, 0.5)
    lean = u + (v - base) * pick(0.1, 0.9)
    if name == "Sneaker":
        mouth = cover(_ellipse(u - 0.55, v - collar, 0.24, 0.12)) * pick(0.3, 1)
        bars = np.maximum(_wave(lean * pick(1.6, 2.8) + pick(0, 1)), 0) * foot
        laces = cover(_ellipse(u, v - base + 0.3, 0.3, 0.25)) * np.maximum(_wave(v * 6), 0)
        cap = cover(u + pick(0.45, 0.6)) * foot
        shading = shading * sheet.tint(bars * sheet.chance(0.6), 0, 0.6)
        shading = shading * sheet.dim(laces, 0, 0.4) * sheet.tint(cap, 0, 0.35)
        return foot * (1 - mouth) + sole, shading, np.maximum(sole, foot * cover(u + 0.42))
    if name == "Sandal":
        toes = line(lean - pick(-0.75, -0.45), pick(0.06, 0.18))
        middle = line(lean - pick(-0.15, 0.15), pick(0.05, 0.16))
        ankle = line(v - collar - 0.12 - (u - 0.6) * pick(-0.4, 0.1), 0.06) * sheet.chance(0.7)
        counter = cover(pick(0.6, 0.75) - u) * sheet.chance(0.7)
        straps = np.maximum(np.maximum(toes, middle), np.maximum(ankle, counter))
        openings = (1 - straps) * pick(0.55, 1)
        return foot * (1 - openings) + sole, shading, foot
    zipper, rim = line(u - pick(0.2, 0.6), 0.025) * foot, line(v - collar - 0.06, 0.04) * foot
    shading = shading * sheet.dim(zipper, 0, 0.4) * sheet.tint(rim, 0, 0.4)
    telling = np.maximum(foot * cover(v - base + 0.5), sole * cover(0.4 - u))
    return foot + sole, shading, telling


_DRAWERS: dict[str, Callable[[_Sheet], Parts]] = {
    "T-shirt/top": partial(_upper_body, "T-shirt/top"),
    "Trouser": _trouser,
    "Pullover": partial(_upper_body, "Pullover"),
    "Dress": partial(_upper_body, "Dress"),
    "Coat": partial(_upper_body, "Coat"),
    "Sandal": partial(_footwear, "Sandal"),
    "Shirt": partial(_upper_body, "Shirt"),
    "Sneaker": partial(_footwear, "Sneaker"),
    "Bag": _bag,
    "Ankle boot": partial(_footwear, "Ankle boot"),
}
CLASS_NAMES: tuple[str, ...] = tuple(_DRAWERS)


def _fabric(sheet: _Sheet) -> Floats:
    """Returns the brightness of the cloth: pattern, grain, light, folds, shadow and tone."""
    u, v, pick = sheet.u, sheet.v, sheet.pick
    kind, amount, pitch = pick(0, 1), pick(0.06, 0.3), pick(1.5, 4.5)
    hoops = amount * ((kind > 0.45) & (kind < 0.65) | (kind > 0.8) & (kind < 0.9))
    stripes = amount * ((kind > 0.65) & (kind < 0.9))
    cloth = 1 + hoops * _wave(v * pitch + pick(0, 1)) + stripes * _wave(u * pitch + pick(0, 1))
    cloth = cloth + (amount * (kind > 0.9) + pick(0.03, 0.16)) * pick(-0.7, 0.7, _SIDE)
    cloth = cloth + pick(-0.2, 0.2) * u + pick(-0.2, 0.2) * v
    for _ in range(2):
        fold = u - pick(-0.4, 0.4) + (v - 0.2) * pick(-1, 1)
        cloth = cloth * sheet.dim(sheet.line(fold, pick(0, 0.08)), 0, 0.4)
    # A crease down the middle of any class passes for a button placket or an open front.
    crease = sheet.line(u - pick(-0.05, 0.05), pick(0, 0.05)) * sheet.chance(0.35)
    shadow = sheet.cover((u * pick(-1, 1) + v * pick(-1, 1)) * 0.3)
    return cloth * sheet.tint(crease, 0, 0.3) * sheet.dim(shadow, 0, 0.5) * pick(0.3, 0.95)


def draw_garments(count: int, seed: int | list[int]) -> Garments:
    """Draws a shuffled set of garments, without the global random generators.

    Args:
        count: Number of images, at least 1. The classes' counts differ by at most one.
        seed: Seed of the set, at least 0, or a list of such; the same seed gives the same bytes.

    Returns:
        The images, their labels and the masks of their telling parts.

    Raises:
        ValueError: If `count` is less than 1 or `seed` is negative.

    Example:
        >>> draw_garments(20, seed=0).images.shape
        (20, 28, 28)
    """
    if count < 1:
        raise ValueError(f"count: got {count}; pass the number of images to draw, 1 or more")
    if np.min(seed) < 0:
        raise ValueError(f"seed: got {seed}; pass an integer, 0 or more")
    rng = np.random.Generator(np.random.PCG64(seed))
    classes = rng.permutation(len(CLASS_NAMES))
    labels = classes[rng.permutation(count) % len(CLASS_NAMES)].astype(np.int64)
    images = np.zeros((count, _SIDE, _SIDE), dtype=np.uint8)
    masks = np.zeros((count, _SIDE, _SIDE), dtype=np.bool_)
    for label, drawer in enumerate(_DRAWERS.values()):
        places = np.flatnonzero(labels == label)
        for start in range(0, len(places), _CHUNK):
            chunk = places[start : start + _CHUNK]
            sheet = _Sheet(rng, len(chunk))
            shape, shading, telling = drawer(sheet)
            grey = np.clip(shape * shading * _fabric(sheet), 0, 1)
            images[chunk] = (grey * 255 + 0.5).astype(np.uint8)
            masks[chunk] = telling > 0.5
    return Garments(images, labels, masks)


class DrawnGarments(Dataset[tuple[Any, int]]):
    """A data set of drawn garments with the interface of torchvision's `FashionMNIST`.

    Args:
        train: Whether to draw the training set or, from another random stream, the test set.
        count: Number of images; default `TRAIN_SIZE` or `TEST_SIZE`, by `train`.
        seed: Seed of the set, at least 0; default 0.
        transform: Called with each PIL image; default None, which returns the image unchanged.

    Attributes:
        classes: The ten class names.
        targets: The labels, int64 tensor of shape [N].
        probe_note: What the images are, for a caption.

    Raises:
        ValueError: If `count` is less than 1 or `seed` is negative.

    Example:
        >>> picture, label = DrawnGarments(count=10)[0]
        >>> picture.size
        (28, 28)
    """

    probe_note = "drawn data (not photographs)"

    def __init__(
        self,
        train: bool = True,
        *,
        count: int | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        """Draws the whole set; see the class."""
        default = TRAIN_SIZE if train else TEST_SIZE
        # Not 0 or 1: numpy pads seeds with zeros, so [seed, 0] would repeat draw_garments(seed).
        stream = [seed, 2 if train else 1]
        self._garments = draw_garments(default if count is None else count, stream)
        self.classes = list(CLASS_NAMES)
        self.targets = torch.from_numpy(self._garments.labels)
        self.transform = transform

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._garments.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Returns the image (PIL, mode "L", then transformed) and the label at an index."""
        picture: Any = Image.fromarray(self._garments.images[index])
        if self.transform is not None:
            picture = self.transform(picture)
        return picture, int(self._garments.labels[index])

    def probe_mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Returns a copy of the mask [28, 28] of the telling parts of the untransformed image."""
        return np.array(self._garments.masks[index])
