"""Creates the page for a check: what each verdict means, what to do, and the images behind it."""

from __future__ import annotations

import math
from html import escape

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from lightning_gradcam.checks.faithful import HiddenTop
from lightning_gradcam.checks.result import Evidence, MapCheck
from lightning_gradcam.checks.verdicts import MapVerdict, Verdict
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.overlay import lay_over, scaled
from lightning_gradcam.render.picture import Pixels, resized_pictures
from lightning_gradcam.render.scale import limits_of
from lightning_gradcam.report.pictures import png_url
from lightning_gradcam.stats.masks import upsampled

# Maximum number of images, and their size in pixels, for a single file that a browser can open quickly.
_MOST_PICTURES, _SIDE = 12, 168
_GREY = 128
_COLORS = {"sound": "#1a7f37", "weak": "#7a5c00", "blank": "#57606a"}
_MEANINGS: dict[Verdict, str] = {
    "sound": "The maps mark places that matter to the model.",
    "weak": "There is no evidence that the maps mark places that matter to the model.",
    "class-blind": "The maps are the same whichever class is explained, so they say nothing about a particular class.",
    "not learnt": "The maps do not depend on what the model has learned.",
    "backwards": "The maps mark the evidence against the class and leave out the evidence for it.",
    "blank": "Most maps are blank.",
}
_SCALED = (
    "Images are the model's inputs, each scaled from its smallest to its largest value, so their colours can differ"
    " from the photographs'."
)
_TITLES = {
    "map": "map",
    "other class": "map for another class",
    "random weights": "map with random weights",
}
_QUESTIONS = {
    "map": "Red: evidence for the class. No colour at all: the map is blank.",
    "other class": "On the same colour scale as the first map, from which it should differ.",
    "random weights": "For the same network with randomised weights. It should differ from the first map.",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1f2328;
  background: #fff }
h2 { margin: 3rem 0 .25rem; font-size: 1.15rem } .verdict { color: #fff; border-radius: .3rem; padding: .1rem .5rem;
  white-space: nowrap }
table { border-collapse: collapse } td, th { padding: .3rem 1.2rem .3rem 0; text-align: left; font-weight: normal;
  vertical-align: top }
.list th { border-bottom: 1px solid #d0d7de; color: #57606a } .list td { border-bottom: 1px solid #eaeef2 }
.rows th { width: 10.5rem; padding-bottom: .5rem } .rows img { display: block; width: 10.5rem }
small, .note { color: #57606a } small { display: block; line-height: 1.35 } .wide { overflow-x: auto }
summary { cursor: pointer; margin: .4rem 0 }
"""


def check_page(check: MapCheck) -> str:
    """Returns a complete page as one file that needs no network."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Can these maps be trusted?</title><style>{_STYLE}</style><h1>Can these maps be trusted?</h1>"
        f"{check_html(check)}</html>"
    )


def check_html(check: MapCheck) -> str:
    """Returns the HTML for a notebook: the verdicts, with the images behind each one."""
    best = (
        f"The best of them is <b>{escape(check.best[1])}</b> at layer <b>{escape(check.best[0])}</b>."
        if check.best
        else "None of them is sound."
    )
    rows = "".join(
        f"<tr><td>{escape(row.method)}</td><td>{escape(row.layer)}</td><td>{_word(row)}</td>"
        f"<td>{_MEANINGS[row.verdict]}</td><td>{escape(row.advice)}</td></tr>"
        for row in check.verdicts.values()
    )
    remarks = [*check.remarks, *([_SCALED] if check.evidence.shown is None else [])]
    told = "".join(f'<p class="note">{escape(remark)}</p>' for remark in remarks)
    count = f"{check.pictures} image{'' if check.pictures == 1 else 's'}"
    head = (
        "<p>A map claims to show which parts of an image made the model choose a class. Here the claim is put to the"
        f" test on {count}, for each method and layer. {best}</p>"
        "<table class=list><tr><th>method</th><th>layer</th><th>verdict</th><th>what it means</th><th>what to do</th>"
        f"</tr>{rows}</table>{told}"
        '<p class="note">The verdicts apply only to these images. The check took'
        f" {check.forwards:,} forward passes of one image{' (quick)' if check.quick else ''}.</p>"
    )
    return head + "".join(_section(row, check.evidence) for row in check.verdicts.values())


def _section(row: MapVerdict, evidence: Evidence) -> str:
    maps, top = evidence.maps[row.layer, row.method], evidence.tops[row.layer, row.method]
    count = min(len(evidence.names), _MOST_PICTURES)
    base = _pictures(evidence)[:count]
    columns = _overlays(base, {name: values[:count].astype(np.float32) for name, values in maps.items()})
    hidden = _without_top(base, maps["map"][:count], top.share)
    headings = "".join(f"<th>{_TITLES[name]}<small>{_QUESTIONS[name]}</small></th>" for name in columns)
    share = f"{top.share:.0%}"
    headings += (
        f"<th>{share} of the image hidden<small>The places that the map marks most are hidden. Over all images, this "
        "should lower the confidence more than hiding random places. It is one test of several: a large object can "
        "stay recognisable.</small></th>"
    )
    body = ""
    for place in range(count):
        name, called = evidence.names[place], evidence.classes[place]
        notes = {"map": called, "other class": evidence.others[place] if evidence.others else ""}
        cells = "".join(
            f"<td>{_image(pixels[place], f'{name}: {_TITLES[kind]}')}"
            f"<small>{escape(notes.get(kind, ''))}{missing[place]}</small></td>"
            for kind, (pixels, missing) in columns.items()
        )
        body += (
            f"<tr><td>{_image(base[place], name)}<small>{escape(name)}<br>explains {escape(called)}, confidence"
            f" {evidence.confidence[place]:.2f}</small></td>{cells}"
            f"<td>{_image(hidden[place], f'{name}: {share} hidden')}<small>{_fall(top, place)}</small></td></tr>"
        )
    rest = "" if count == len(evidence.names) else f'<p class="note">{count} of {len(evidence.names)} images.</p>'
    return (
        f"<h2>{escape(row.method)} at layer {escape(row.layer)}: {_word(row)}</h2>"
        f"<p>{_MEANINGS[row.verdict]} <b>{escape(row.advice)}</b></p>"
        f'<div class="wide"><table class="rows"><tr><th>image</th>{headings}</tr>{body}</table></div>{rest}'
        f"{_figures(row)}"
    )


def _fall(top: HiddenTop, place: int) -> str:
    if math.isnan(top.own[place]):
        return "not tested: the map is the same everywhere, or the class does not change when the whole image is hidden"
    return f"confidence {top.own[place]:.2f}; with random places hidden: {top.by_chance[place]:.2f}"


def _figures(row: MapVerdict) -> str:
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{_number(value)}</td></tr>" for name, value in row.figures.items())
    steps = "".join(
        f"<tr><td>random down to {escape(name)}</td><td>{_number(rho)}</td><td>{_number(ssim)}</td></tr>"
        for name, rho, ssim in row.cascade
    )
    return (
        f"<details><summary>Reason and all figures</summary><p>{escape(row.reason[:1].upper() + row.reason[1:])}.</p>"
        f"<table>{cells}</table><table><tr><th>random weights, from the last layer down</th>"
        f"<th>rank correlation</th><th>SSIM</th></tr>{steps}</table></details>"
    )


def _overlays(base: Pixels, maps: dict[str, FloatArray]) -> dict[str, tuple[list[Pixels], list[str]]]:
    """Overlays each kind of map on the images; returns the overlays and remarks on maps that are not shown.

    Maps from the same network have the same scale.
    """
    drawing = Drawing(scale="image")
    limits = {kind: limits_of(values) for kind, values in maps.items()}
    if "other class" in maps:
        limits["map"] = limits["other class"] = np.maximum(limits["map"], limits["other class"])
    found = {}
    for kind, values in maps.items():
        laid = lay_over(base[:, None], values, scaled(values, drawing, limits[kind])[:, None], drawing)
        missing = np.select([laid.broken, laid.blank], [" (not finite)", " (blank)"], "")
        found[kind] = [pixels[0] for pixels in laid.mixed], missing.tolist()
    return found


def _without_top(base: Pixels, maps: npt.NDArray[np.float64], share: float) -> Pixels:
    """Greys out the given fraction of each image, starting with the pixels that its map ranks highest."""
    pictures = base.copy()
    known = torch.from_numpy(np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0))
    for picture, values in zip(pictures, upsampled(known, base.shape[1:3]).numpy(), strict=True):
        order = values.ravel().argsort(kind="stable")[::-1]
        picture.reshape(-1, 3)[order[: round(share * values.size)]] = _GREY
    return pictures


def _pictures(evidence: Evidence) -> Pixels:
    """Returns small images for display: those of the evidence, or else the inputs, each scaled to its own range."""
    if evidence.shown is not None:
        pictures = evidence.shown
    else:
        inputs = evidence.inputs[:, :3] if evidence.inputs.shape[1] >= 3 else evidence.inputs[:, :1].repeat(3, axis=1)
        low, high = inputs.min(axis=(1, 2, 3), keepdims=True), inputs.max(axis=(1, 2, 3), keepdims=True)
        shares = np.divide(inputs - low, high - low, out=np.zeros_like(inputs), where=high > low)
        pictures = (shares * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    height, width = pictures.shape[1:3]
    factor = _SIDE / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return resized_pictures(pictures, size, Image.Resampling.NEAREST if factor > 2 else Image.Resampling.BILINEAR)


def _image(pixels: Pixels, alt: str) -> str:
    return f'<img alt="{escape(alt, quote=True)}" src="{png_url(pixels)}">'


def _word(row: MapVerdict) -> str:
    return f'<span class="verdict" style="background:{_COLORS.get(row.verdict, "#b3261e")}">{row.verdict}</span>'


def _number(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.4g}"
