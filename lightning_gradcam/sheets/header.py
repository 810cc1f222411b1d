"""The text on CAM sheets: names of methods, layers and scores, and header lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.probes.view import ProbeView
from lightning_gradcam.record.blank import Codes, blank_sentence, longest_sentence, record_codes
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.scale import PERCENTILE
from lightning_gradcam.render.signals import source_lines
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.text import INK, WRONG, folded
from lightning_gradcam.sheets.builder import Line, remarks, step_line
from lightning_gradcam.sheets.words import PERCENT, quantity, target_words

# Two lines each: the layout must not depend on the scale.
_SCALES = {
    "image": ("each map by itself, up to its maximum;", "equal colours in two maps can mean different values"),
    "layer": (
        "one scale for all maps of this layer and step, up to their maximum;",
        "equal colours on two sheets can mean different values",
    ),
    "run": (
        "one scale for each probe, over all targets and logged steps so far;",
        f"it ends at the {PERCENTILE:g}th percentile of the strongest map, shown below each probe",
    ),
    "minmax": (
        "each signed map from its minimum to its maximum (no ReLU);",
        "equal colours in two maps can mean different values",
    ),
}
_SIGNED_SCALES = {
    "image": ("each map by itself, up to its largest magnitude;", _SCALES["image"][1]),
    "layer": ("one scale for all maps of this layer and step (largest magnitude);", _SCALES["layer"][1]),
    "run": (
        _SCALES["run"][0],
        f"both ends: {PERCENTILE:g}th percentile of the magnitudes, shown below each probe",
    ),
}
_METHODS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "xgradcam": "XGrad-CAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "gradcam_elementwise": "element-wise Grad-CAM",
    "eigencam": "Eigen-CAM",
    "eigengradcam": "Eigen-Grad-CAM",
    "smoothgradcam++": "Smooth Grad-CAM++",
    "scorecam": "Score-CAM",
    "ablationcam": "Ablation-CAM",
    "cam": "CAM",
    "finercam": "Finer-CAM",
    "fullgrad": "FullGrad",
    "shapleycam": "ShapleyCAM",
    "legrad": "LeGrad",
    "guided_gradcam": "Guided Grad-CAM",
    "guided_backprop": "guided backpropagation",
    "random": "random weights (baseline)",
}
# The meaning of red and blue for methods where blue is not all evidence against the score.
_COMPONENT = "{}: red and blue are the two sides of a principal component"
_NO_BLUE = "red: for the score; {} is never negative, so there is no blue"
_OF_PIXELS = "red: a brighter pixel raises the score, blue: a darker one does"
_SIGNS = {
    "layercam": "red: for the score; {} leaves out channels with a negative gradient",
    **dict.fromkeys(("gradcam_elementwise", "fullgrad", "legrad"), _NO_BLUE),
    **dict.fromkeys(("eigencam", "eigengradcam"), _COMPONENT),
    **dict.fromkeys(("guided_backprop", "guided_gradcam"), _OF_PIXELS),
    "random": "{}: red and blue have no meaning",
}
_WITHOUT_LAYER = ("fullgrad", "guided_backprop")


def method_title(method: str) -> str:
    """Returns a method's name as in its paper; names of user-registered methods are returned unchanged."""
    return _METHODS.get(method, method)


def layer_title(layer: str, method: str) -> str:
    """Returns a layer's name for a header."""
    # "model" is the key of methods without their own layer, but can also be a module's name.
    return "whole model" if layer == "model" and method in _WITHOUT_LAYER else layer


def explained_title(record: CamRecord, target: str, probes: ProbeView) -> str:
    """Returns what is explained, as text; a sum of probabilities is identified as such, because it can exceed 1."""
    title = quantity(record, target)
    if target == "label" and any(len(probes.true_classes(row)) > 1 for row in range(len(probes))):
        many = {"softmax probability": "softmax probabilities"}.get(title, f"{title}s")
        return f"the summed {many} of the true classes"
    if target.isascii() and target.isdigit():
        return f"the {title} of class {probes.class_name(int(target))}"
    if other := target_words(target, probes):
        return other
    named = {"predicted": "the predicted class", "label": "the true class"}
    return f"the {title} of {named.get(target, f'target {target}'.replace('_vs_', ' vs '))}"


def signed_line(method: str) -> str:
    """Returns the header text that explains the two colours of a signed map."""
    meaning = _SIGNS.get(method, "red: for the score, blue: against it, grey: zero; overlaid images are grey")
    return meaning.format(method_title(method))


def end_names(method: str) -> tuple[str, str]:
    """Returns the meanings of the two ends of a signed colour bar: below and above zero."""
    return ("against", "for") if "for the score" in _SIGNS.get(method, "for the score") else ("negative", "positive")


def cam_header(
    record: CamRecord,
    layer: str,
    method: str,
    drawing: Drawing,
    title: str,
    probes: ProbeSet | ProbeView,
    slices: Slices,
) -> list[Line]:
    """Returns the lines that describe one layer's maps, except those about blank maps."""
    # Each kind of score once, even with several targets.
    kinds = dict.fromkeys(quantity(record, target) for target in record.scores)
    lines = [
        (f"{title}  {layer_title(layer, method)}", INK),
        step_line(f"{method_title(method)} of the {' and '.join(kinds)}", record),
        *remarks(probes.note, color=WRONG),
        *remarks(
            *_scale_lines(record, drawing),
            signed_line(method) if drawing.signed else "",
            *_level_lines(record, layer),
            *_slice_lines(slices),
            *source_lines(probes.display_source),
            PERCENT if (np.isfinite(record.confidence) & (record.predicted >= 0)).any() else "",
        ),
    ]
    if "guided" in drawing.columns:
        lines += remarks(
            "guided: Guided Grad-CAM, each scaled by its largest magnitude; grey is 0,",
            "white: a brighter pixel raises the score, black: a darker one does",
        )
    if listed := min(drawing.top, record.likeliest.shape[1]):
        of_true = "; the true class has a green square" if probes.view.true is not None else ""
        most = "most likely class" if listed == 1 else f"{listed} most likely classes"
        lines += remarks(f"above each probe: the {most}{of_true}")
    return lines


def _scale_lines(record: CamRecord, drawing: Drawing) -> list[str]:
    """Returns the two lines about the colour scale."""
    first, second = {**_SCALES, **(_SIGNED_SCALES if drawing.signed else {})}[drawing.scale]
    if record.stage == "explain" or record.step < 0:
        # There are no other steps.
        first = first.replace(" and logged steps so far", "")
    return [f"colours: {first}", second]


def _level_lines(record: CamRecord, layer: str) -> list[str]:
    """Returns the text for a layer with several feature maps; empty for other layers."""
    found = Counter(name for (of, _), names in record.levels.items() if of == layer for name in names)
    if len(found) < 2:
        return [f"level: {name}" for name in found]
    every = sum(found.values())
    return [f"levels: {', '.join(f'{name} ({count} of {every} maps)' for name, count in sorted(found.items()))}"]


def blank_lines(record: CamRecord, keys: Sequence[CamKey], drawing: Drawing, width: int) -> list[str]:
    """Returns the lines about blank maps.

    Every sheet has the same number of lines: the layout stays the same in all epochs, and does not jump when a slider
    is moved.
    """
    codes = blank_codes(record, keys, drawing)
    said = blank_remark(codes, drawing) or f"blank: the map is zero everywhere (0 of {len(codes)} here)"
    lines = folded("blank: the signed map is zero everywhere" if drawing.scale == "minmax" else said, width)
    return lines + [""] * (len(folded(longest_sentence(), width)) - len(lines))


def blank_codes(record: CamRecord, keys: Sequence[CamKey], drawing: Drawing) -> Codes:
    """Returns the cause codes of maps that are blank as drawn: if signed, only those that are zero everywhere."""
    maps = {key: np.abs(record.maps[key]) if drawing.signed else record.maps[key] for key in keys}
    return record_codes(maps, record.causes, keys, range(len(record.probe_ids)))


def blank_remark(codes: Codes, drawing: Drawing, what: str = "maps") -> str:
    """Returns a sentence on why some drawn maps are blank; empty if none is."""
    return blank_sentence(codes, what=what, zero="zero everywhere" if drawing.signed else "zero after the ReLU")


def _slice_lines(slices: Slices) -> list[str]:
    """Returns the lines about slices and frames; empty for single images."""
    depth, length = slices.depth, slices.length
    if depth < 2:
        middle = (
            f"drawn on frame {slices.frames[0] + 1} of {length}, the middle one, because the maps have no time or depth"
        )
        return [middle] if length else []
    numbers = ", ".join(str(place + 1) for place in slices.chosen)
    shown = f"all {depth} slices of each map" if len(slices.chosen) == depth else f"slices {numbers} of {depth}"
    under = "its own frame" if length == depth else f"its central frame, of {length}"
    return [
        f"{shown}, left to right = time or depth, on one colour scale",
        f"each slice is drawn on {under if length else 'the same image'}",
    ]
