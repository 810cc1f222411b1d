"""Prepares a page's images: those of a run's probes, and files embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.render.picture import Picture, Pixels, resized_pictures
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.sheets.words import class_words

_LONGEST_SIDE = 224
# The page's notes by source of the display images; see `probes/display.py`.
_PICTURES = {
    "": "",
    "as loaded": "",
    "Normalize undone": "images are shown as they were before Normalize",
    "mean and std as given": "images are shown as they were before the given mean and std were applied",
}
_STRETCHED = "min-max stretched", "stretched from its darkest to its brightest value"


def data_url(content: bytes, format: str) -> str:
    """Returns an image file as a ``data:`` URL."""
    return f"data:image/{format};base64,{base64.b64encode(content).decode()}"


def png_url(pixels: Pixels) -> str:
    """Returns pixels, uint8 ``[H, W, 3]``, as a lossless ``data:`` URL."""
    return data_url(Picture(pixels).encoded("png"), "png")


def source_remark(source: str) -> str:
    """Returns a page's note on the source of display images; empty if they are shown as loaded."""
    return _PICTURES.get(source, f"images: {source}").replace(*_STRETCHED)


def probe_pictures(probes: ProbeView, rows: Sequence[int], slices: Slices | None) -> tuple[int, int, list[Pixels]]:
    """Returns the height and width of one slice's image, and the images with their slices side by side."""
    chosen = slices if slices is not None else Slices.of((0, 1, 1), probes.pixels.shape)
    frames = chosen.of_display(probes.pixels[list(rows)])
    count, shown, height, width = frames.shape[:4]
    share = min(1.0, _LONGEST_SIDE / max(height, width))
    high, wide = size = max(1, round(height * share)), max(1, round(width * share))
    stacked = resized_pictures(frames.reshape(-1, height, width, 3), size).reshape(count, shown, high, wide, 3)
    return high, wide, list(stacked.transpose(0, 2, 1, 3, 4).reshape(count, high, shown * wide, 3))


def probe_entries(
    probes: ProbeView, rows: Sequence[int], pictures: Sequence[Pixels], size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Returns a page's entries for some probes as JSON-compatible values.

    Args:
        probes: The run's probes.
        rows: The indices of the probes shown.
        pictures: The probes' images, as returned by :func:`probe_pictures`.
        size: Height and width of one slice's image in pixels.
    """
    found = []
    for place, row in enumerate(rows):
        true = list(probes.true_classes(row))
        mask, box, own = None, None, {}
        if probes.masks is not None:
            image = Image.fromarray(probes.masks[row].astype(np.uint8))
            mask = np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST)) > 0
            # As in the numbers, the whole mask counts, and an empty one is none.
            own = {"covered": float(probes.masks[row].mean()) or None}
        if probes.boxes is not None and not np.isnan(probes.boxes[row]).any():
            # Convert to pixels of the scaled image.
            scale = (size[1] / probes.size[1], size[0] / probes.size[0])
            box = [float(edge) * scale[i % 2] for i, edge in enumerate(probes.boxes[row])]
        found.append(
            {
                "id": probes.ids[row],
                "true": true,
                "true_names": [class_words(probes, index) for index in true],
                "image": _picture_url(Image.fromarray(pictures[place])),
                **region_entry(mask, box, size),
                **own,
            }
        )
    return found


def region_entry(
    mask: npt.NDArray[np.bool_] | None, box: Sequence[float] | None, size: tuple[int, int]
) -> dict[str, Any]:
    """Returns ``region``, the outline of a mask and a box as an SVG path, and ``covered``, their share of the image.

    Args:
        mask: Bool ``[H, W]``; it decides the share if there is also a box.
        box: Left, top, right and bottom edge in pixels, which can be beyond the image.
        size: Height and width of the image in pixels.
    """
    parts, covered = [], None
    if box is not None:
        left, top, right, bottom = (f"{edge:.5g}" for edge in box)
        parts.append(f"M{left} {top}H{right}V{bottom}H{left}Z")
        x, y = np.clip(box[::2], 0, size[1]) / size[1], np.clip(box[1::2], 0, size[0]) / size[0]
        covered = float(np.prod(np.maximum([np.diff(x), np.diff(y)], 0)))
    if mask is not None:
        padded = np.pad(mask, 1)
        level, upright = padded[1:, 1:-1] != padded[:-1, 1:-1], padded[1:-1, 1:] != padded[1:-1, :-1]
        parts += [f"M{x} {y}h{length}" for y, x, length in _runs(level)]
        parts += [f"M{x} {y}v{length}" for x, y, length in _runs(upright.T)]
        covered = float(mask.mean())
    return {"region": "".join(parts), "covered": covered}


def _runs(edges: npt.NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Returns row, start and length of each run of true values."""
    changes = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8))
    starts, ends = np.argwhere(changes > 0), np.argwhere(changes < 0)
    return [(int(row), int(start), int(end - start)) for (row, start), (_, end) in zip(starts, ends, strict=True)]


def _picture_url(image: Image.Image) -> str:
    files = {}
    for format, options in (("png", {"optimize": True}), ("webp", {"quality": 90})):
        buffer = io.BytesIO()
        image.save(buffer, format.upper(), **options)
        files[format] = buffer.getvalue()
    # PNG is lossless, but ten times the size of WebP for a photograph.
    format = "png" if len(files["png"]) <= 12_000 else "webp"
    return data_url(files[format], format)
