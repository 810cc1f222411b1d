"""Options for drawing sheets, as plain values for YAML, and the tables for named colour maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_gradcam.errors import DrawingError, did_you_mean
from lightning_gradcam.stats.boxes import THRESHOLD
from lightning_gradcam.stats.resize import Interpolation

Scale = Literal["image", "layer", "run", "minmax"]
Column = Literal["input", "overlay", "heatmap", "guided"]
Format = Literal["auto", "png", "jpeg", "webp"]

BUILT_IN = (
    "turbo", "jet", "Reds", "viridis", "plasma", "inferno", "magma", "cividis", "hot", "gray", "coolwarm", "RdBu_r",
)  # fmt: skip
# The colour maps for signed maps. The first is the default: colour-blind people can distinguish its blue and red, and
# its middle is grey and not white, which would look like evidence on a dark image.
DIVERGING = ("coolwarm", "RdBu_r")
# One row of 256 colours for each colour map; the report page also uses it.
COLOUR_MAPS = Path(__file__).parent / "assets" / "colormaps.png"
FILE_FORMATS = get_args(Format)
_CHOICES = {"scale": get_args(Scale), "interpolation": get_args(Interpolation), "format": FILE_FORMATS}
_COLUMNS = get_args(Column)
# Maximum number of classes that a record stores for each probe.
MOST_LISTED = 10
GUIDED = "guided_gradcam"


@dataclass(frozen=True)
class Drawing:
    """Options for drawing sheets.

    Attributes:
        colormap: Name of the colour map. ``"turbo"`` (default), ``"jet"``, ``"Reds"`` and nine more are built in;
            matplotlib's are also available if it is installed.
        opacity: Opacity of the heatmap in the overlay, 0 to 1. Default: 0.5.
        interpolation: Method for resizing maps from the layer's resolution to the image's: ``"bilinear"`` (default),
            ``"bicubic"`` or ``"nearest"``.
        columns: The columns, in order: any of ``"input"``, ``"overlay"``, ``"heatmap"`` (only the map) and ``"guided"``
            (Guided Grad-CAM for the same layer and target, on every method's sheet; requires ``"guided_gradcam"`` among
            the methods). All except the input appear once per target. Default: input and overlay.
        scale: The value of the brightest colour. ``"run"`` (default): one value for each probe, layer and method, the
            largest 98th percentile of any map over all targets and all logged steps so far; with the percentile, a few
            extreme values can't darken all others. ``"image"``: each map's own maximum. ``"layer"``: the largest value
            for any probe and target at this layer and step. ``"minmax"``: each signed map from its minimum to its
            maximum, without ReLU.
        format: File format of sheets in files and loggers: ``"png"``, ``"jpeg"`` or ``"webp"``. ``"auto"`` (default) is
            PNG if the images on a sheet are enlarged, and otherwise the smaller of PNG and JPEG. Loggers that can't
            display WebP receive PNG.
        magnification: Whole number of screen pixels per image pixel along a side, without smoothing. 0 (default)
            selects the number that makes the shorter side about 112 pixels, or less for elongated images.
        max_tile: Maximum length of an image's longer side in pixels, to which larger images are scaled down. Default:
            256.
        max_sheet_pixels: Maximum size of a sheet in pixels. If a sheet would be larger, it shows fewer probes, evenly
            spaced and the same at every step, and states their number; the archive contains all. Default: 16 million.
        boxes: Whether to draw the box around the map's largest segment (:func:`~lightning_gradcam.bounding_boxes`) on
            each overlay. If the probe's own box is known, it is drawn as a dashed line, with the intersection over
            union of the two below. Default: ``False``.
        box_threshold: Fraction of the map's maximum from which a pixel belongs to its box, at least 0 and below 1.
            Default: 0.15; maps with few pixels need more. The logged number ``box_iou`` always uses 0.15.
        top: Number of most likely classes listed above each probe, 0 (default) to 10.
        signed: Whether to also draw the evidence against the score: red for, blue against, grey at zero, up to the same
            magnitude on both sides, on grey images. The colour map is then ``"coolwarm"``, or ``"RdBu_r"`` if
            ``colormap`` is set to it. Boxes enclose the evidence for the score. Default: ``False``.

    Raises:
        DrawingError: An option is unknown or out of range.

    Example:
        >>> Drawing(colormap="Reds", opacity=0.4).scale
        'run'
    """

    colormap: str = "turbo"
    opacity: float = 0.5
    interpolation: Interpolation = "bilinear"
    columns: tuple[Column, ...] = ("input", "overlay")
    scale: Scale = "run"
    format: Format = "auto"
    magnification: int = 0
    max_tile: int = 256
    max_sheet_pixels: int = 16_000_000
    boxes: bool = False
    box_threshold: float = THRESHOLD
    top: int = 0
    signed: bool = False

    def __post_init__(self) -> None:
        check_look(self, _CHOICES, {}, ["boxes", "signed"])
        columns = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns or ())
        object.__setattr__(self, "columns", columns)
        if not columns or len(set(columns)) < len(columns) or not set(columns) <= set(_COLUMNS):
            raise DrawingError(
                f"drawing.columns: got {list(columns)}; list any of {', '.join(_COLUMNS)}, each at most once"
            )
        if not isinstance(self.opacity, (int, float)) or not 0 <= self.opacity <= 1:
            raise DrawingError(
                f"drawing.opacity: got {self.opacity!r}; pass a value from 0 (image only) to 1 (heatmap only)"
            )
        share = self.box_threshold
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise DrawingError(
                f"drawing.box_threshold: got {share!r}; pass a fraction of the map's maximum, at least 0 and below 1, "
                "such as 0.15"
            )
        if not isinstance(self.magnification, int) or self.magnification < 0:
            raise DrawingError(f"drawing.magnification: got {self.magnification!r}; pass 0 (automatic) or more")
        if not isinstance(self.max_tile, int) or self.max_tile < 16:
            raise DrawingError(f"drawing.max_tile: got {self.max_tile!r}; pass at least 16 pixels")
        if not isinstance(self.max_sheet_pixels, int) or self.max_sheet_pixels < 100_000:
            raise DrawingError(
                f"drawing.max_sheet_pixels: got {self.max_sheet_pixels!r}; pass at least 100000 (enough for one or two "
                "probes)"
            )
        if not isinstance(self.top, int) or isinstance(self.top, bool) or not 0 <= self.top <= MOST_LISTED:
            raise DrawingError(f"drawing.top: got {self.top!r}; pass the number of classes to list, 0 to {MOST_LISTED}")
        lookup_table(self.colormap)
        # Allow the default, which saved configurations contain.
        if self.signed and self.colormap not in (Drawing.colormap, *DIVERGING):
            raise DrawingError(
                f"drawing.signed: colormap {self.colormap!r} has no neutral middle for zero; leave colormap out, or "
                f"pass {' or '.join(DIVERGING)}"
            )
        if self.signed and self.scale == "minmax":
            raise DrawingError(
                "drawing.signed: scale='minmax' moves zero away from the middle; pass scale='run', 'image' or 'layer'"
            )


def check_look(
    drawing: Any,
    choices: Mapping[str, Sequence[str]],
    ranges: Mapping[str, tuple[int, int]],
    switches: Sequence[str] = (),
) -> None:
    """Rejects invalid values of a drawing's options.

    Args:
        drawing: A dataclass with options.
        choices: Possible values by option name.
        ranges: Smallest and largest whole number by option name.
        switches: Names of the options that are true or false.

    Raises:
        DrawingError: A value is invalid.
    """
    for name, possible in choices.items():
        if (value := getattr(drawing, name)) not in possible:
            raise DrawingError(f"drawing.{name}: got {value!r}{did_you_mean(str(value), possible)}")
    for name, (least, most) in ranges.items():
        value = getattr(drawing, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise DrawingError(f"drawing.{name}: got {value!r}; pass an integer from {least} to {most}")
    for name in switches:
        if not isinstance(value := getattr(drawing, name), bool):
            raise DrawingError(f"drawing.{name}: got {value!r}; pass true or false")


def check_columns(drawing: Drawing, methods: str | Sequence[str]) -> None:
    """Rejects columns that require a method that is not requested.

    Args:
        drawing: The drawing options.
        methods: One or more method names.

    Raises:
        DrawingError: ``"guided"`` is a column, but ``"guided_gradcam"`` is not among the methods.

    Example:
        >>> check_columns(Drawing(columns=("input", "overlay", "guided")), ["gradcam", "guided_gradcam"])
    """
    given = [methods] if isinstance(methods, str) else list(methods)
    if "guided" in drawing.columns and GUIDED not in given:
        raise DrawingError(
            f"drawing.columns: 'guided' shows Guided Grad-CAM, which is not among methods={given}; add {GUIDED!r} to"
            " methods, or leave the column out"
        )


def lookup_table(name: str) -> npt.NDArray[np.uint8]:
    """Returns a colour map, uint8 ``[256, 3]``.

    Raises:
        DrawingError: The colour map is not built in, and matplotlib is not installed or does not provide it.
    """
    if name in BUILT_IN:
        return np.asarray(_built_in()[BUILT_IN.index(name)])
    try:
        from matplotlib import colormaps
    except ImportError:
        raise DrawingError(
            f"drawing.colormap: {name!r} is not built in{did_you_mean(name, BUILT_IN)}; matplotlib has more: pip "
            "install matplotlib"
        ) from None
    if name not in colormaps:
        choices = dict.fromkeys([*BUILT_IN, *colormaps])
        raise DrawingError(f"drawing.colormap: {name!r} not found{did_you_mean(str(name), choices)}")
    return np.asarray((colormaps[name](np.arange(256) / 255.0)[:, :3] * 255).round(), np.uint8)


def colors_of(drawing: Drawing) -> npt.NDArray[np.uint8]:
    """Returns the colour table for maps, uint8 ``[256, 3]``.

    Without ``signed``, index 0 is the lowest value and 255 the highest. With it, index 128 is zero, and 1 and 255 are
    the two ends.
    """
    if not drawing.signed:
        return lookup_table(drawing.colormap)
    known = lookup_table(drawing.colormap if drawing.colormap in DIVERGING else DIVERGING[0])
    # An odd number of colours has a middle one.
    places = np.linspace(0, 255, 255)
    table = np.stack([np.interp(places, np.arange(256), channel) for channel in known.T], axis=1)
    return np.asarray(np.concatenate([table[:1], table]).round(), np.uint8)


@cache
def _built_in() -> npt.NDArray[np.uint8]:
    with Image.open(COLOUR_MAPS) as image:
        tables = np.array(image.convert("RGB"), np.uint8)
    tables.setflags(write=False)
    return tables
