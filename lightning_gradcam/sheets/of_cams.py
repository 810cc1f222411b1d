"""Draws overlays, and one image with all maps, from a result of ``compute_cams``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightning_gradcam.errors import DrawingError
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.cams import CamKey, Cams, find_key
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import LONGEST, Picture, Pixels
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.tiles import Tiles, draw_tiles
from lightning_gradcam.sheets.cam_sheet import sheet
from lightning_gradcam.storage import Storage
from lightning_gradcam.warn import warn

# Negative, so the header omits epoch and step.
NO_STEP = -1
# Maximum length in pixels of an overlay's longer side, up to which it keeps the input's resolution.
LARGEST_OVERLAY = 4096
_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples in a result of ``compute_cams``, ready to be drawn.

    Attributes:
        record: The samples' maps.
        view: The samples' images.
        seen: Whether the images are the inputs. If not, they are empty, because the inputs are unknown or not images.
    """

    record: CamRecord
    view: ProbeView
    seen: bool

    @classmethod
    def of(cls, cams: Cams) -> Samples:
        """Reads the maps and the model's inputs, scaled to displayable values."""
        shape = next(iter(cams.maps.values())).shape
        count, inputs, ids = shape[0], cams.inputs, tuple(map(str, range(shape[0])))
        if inputs is None or len(inputs) != count or (inputs.dim() < 4 and not cams.axes):
            # The map of a signal without a curve is drawn as one row.
            empty = torch.zeros(count, 1, *(shape[-2:] if len(shape) > 2 else (1, shape[-1])), device="cpu")
            probes, seen = ProbeSet(empty, ids=ids, class_names=cams.class_names), False
        else:
            inputs, axes = (inputs[:, None], "NCL") if cams.axes == "NL" else (inputs, cams.axes)
            probes, seen = ProbeSet(inputs, ids=ids, class_names=cams.class_names).read_as(axes), True
        record = CamRecord.from_cams(cams, probe_ids=ids, epoch=0, step=NO_STEP, stage="", score=cams.score)
        return cls(record, probes.view, seen)

    def tiles(self, keys: list[CamKey], drawing: Drawing, rows: list[int]) -> list[Tiles]:
        """Draws the maps for one layer and method; see :func:`~lightning_gradcam.render.tiles.draw_tiles`."""
        shape = self.record.maps[keys[0]].shape
        view, look = charted(self.view, drawing, shape)
        return draw_tiles(self.record, view, keys, look, None, Slices.of(shape, view.pixels.shape), rows)


def overlays_of(cams: Cams, key: object, options: dict[str, Any]) -> list[Image.Image]:
    """Draws one map of each sample over its input; see :meth:`lightning_gradcam.Cams.overlay`."""
    keys = list(cams.maps)
    wanted = keys[0] if key is None and len(keys) == 1 else find_key(keys, key)
    samples = Samples.of(cams)
    if not samples.seen:
        found = "no inputs" if cams.inputs is None else f"inputs {list(cams.inputs.shape)}"
        raise DrawingError(
            f"overlay: got {found} for maps {list(cams[wanted].shape)}; an overlay needs one input image for each map, "
            "but cams.save(path) draws the maps alone"
        )
    return [Image.fromarray(pixels) for pixels in _overlays(samples, wanted, options)]


def save_cams(cams: Cams, path: str | os.PathLike[str], options: dict[str, Any]) -> None:
    """Writes one image with all maps; see :meth:`lightning_gradcam.Cams.save`."""
    folder, name = os.path.split(os.fspath(path))
    format = _FORMATS.get(os.path.splitext(name)[1].lower())
    if format is None:
        raise DrawingError(f"path: got {os.fspath(path)!r}; use a name that ends in {', '.join(_FORMATS)}")
    keys, samples = list(cams.maps), Samples.of(cams)
    if samples.seen and len(keys) == len(samples.view) == 1:
        drawn = _overlays(samples, keys[0], options)[0]
    else:
        pairs = dict.fromkeys((key.layer, key.method) for key in keys)
        drawn = _stacked([_sheet(samples, layer, method, options) for layer, method in pairs])
    if (longest := max(drawn.shape)) > LONGEST[format]:
        warn(
            f"cams.save: {name!r:.200} is scaled down, because the sheet is {longest:,} pixels long and"
            f" {format.upper()} allows {LONGEST[format]:,}; use a name that ends in .png to keep its size"
        )
    Storage(folder or ".").write(name, Picture(drawn, enlarged=True).encoded(format))


def _overlays(samples: Samples, key: CamKey, options: dict[str, Any]) -> Pixels:
    drawing = replace(Drawing(**{"max_tile": LARGEST_OVERLAY, **options}), columns=("overlay",))
    # One scale for all targets of a sample's layer and method, as on sheets.
    keys = [other for other in samples.record.maps if other[:2] == key[:2]]
    return samples.tiles(keys, drawing, list(range(len(samples.view))))[keys.index(key)].pixels


def _sheet(samples: Samples, layer: str, method: str, options: dict[str, Any]) -> Pixels:
    columns = ("input", "overlay") if samples.seen else ("heatmap",)
    drawing = Drawing(**{"columns": columns, **options})
    note = "" if samples.seen else "maps alone: their inputs are not known, or are not images"
    view = samples.view if samples.seen else replace(samples.view, display_source="")
    return sheet(samples.record, view, layer=layer, method=method, drawing=drawing, title="maps", note=note).pixels


def _stacked(sheets: list[Pixels]) -> Pixels:
    """Returns sheets stacked vertically, padded to the widest."""
    width = max(one.shape[1] for one in sheets)
    wide = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in sheets]
    return np.concatenate(wide)
