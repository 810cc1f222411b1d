"""The page of a check: each verdict, the figures behind it, and the pictures that led to it."""

from __future__ import annotations

import base64
import math
from html import escape

import numpy as np

from lightning_gradcam.checks.result import Evidence, MapCheck
from lightning_gradcam.checks.verdicts import MapVerdict
from lightning_gradcam.record.cam_record import FloatArray
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.overlay import lay_over, maxima, scaled
from lightning_gradcam.render.picture import Picture, Pixels

# A page stays one file that a browser opens at once.
_MOST_PICTURES, _SIDE = 12, 168
_COLORS = {"sound": "#1a7f37", "weak": "#7a5c00", "blank": "#57606a"}
_TITLES = {
    "map": "map",
    "other class": "map of another class",
    "random weights": "map with random weights",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1f2328;
  background: #fff }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.15rem } .verdict { color: #fff; border-radius: .3rem; padding: .1rem .5rem }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left; font-weight: normal }
.rows td, .rows th { vertical-align: top; padding: .3rem .5rem .3rem 0 } .rows img { display: block; width: 10.5rem }
small, .note { color: #57606a } summary { cursor: pointer; margin: .4rem 0 } .wide { overflow-x: auto }
"""


def check_page(check: MapCheck) -> str:
    """Returns a whole page, one file that needs no network."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Can these maps be trusted?</title><style>{_STYLE}</style><h1>Can these maps be trusted?</h1>"
        f"{check_html(check)}</html>"
    )


def check_html(check: MapCheck) -> str:
    """Returns what a notebook shows: the table, and the pictures of each verdict."""
    best = f"Best: {check.best[1]} at {check.best[0]}." if check.best else "No layer and method is sound."
    rows = "".join(
        f"<tr><td>{escape(row.layer)}</td><td>{escape(row.method)}</td><td>{_word(row)}</td>"
        f"<td>{escape(_sentences(row))}</td></tr>"
        for row in check.verdicts.values()
    )
    told = "".join(f'<p class="note">{escape(remark)}</p>' for remark in check.remarks)
    head = (
        f"<p>{escape(best)} Measured on {check.pictures} pictures with {check.forwards:,} forwards of one picture"
        f"{' (quick)' if check.quick else ''}.</p>"
        "<table><tr><th>layer</th><th>method</th><th>verdict</th><th></th></tr>"
        f"{rows}</table>{told}"
    )
    return head + "".join(_section(row, check.evidence) for row in check.verdicts.values())


def _section(row: MapVerdict, evidence: Evidence) -> str:
    maps = evidence.maps[row.layer, row.method]
    count = min(len(evidence.names), _MOST_PICTURES)
    base = _pictures(evidence)[:count]
    columns = {name: _overlays(base, values[:count].astype(np.float32)) for name, values in maps.items()}
    headings = "".join(f"<th>{_TITLES[name]}</th>" for name in columns)
    body = ""
    for place in range(count):
        told = f"explains {evidence.classes[place]}, confidence {evidence.confidence[place]:.2f}"
        cells = "".join(
            f"<td>{_image(pixels[place], f'{evidence.names[place]}: {_TITLES[name]}')}"
            f"{'<small>blank</small>' if blank[place] else ''}</td>"
            for name, (pixels, blank) in columns.items()
        )
        body += (
            f"<tr><td>{_image(base[place], evidence.names[place])}<small>{escape(evidence.names[place])}<br>"
            f"{escape(told)}</small></td>{cells}</tr>"
        )
    rest = "" if count == len(evidence.names) else f'<p class="note">{count} of {len(evidence.names)} pictures.</p>'
    return (
        f"<h2>{escape(row.method)} at {escape(row.layer)} {_word(row)}</h2><p>{escape(_sentences(row))}</p>"
        f'<div class="wide"><table class="rows"><tr><th>picture</th>{headings}</tr>{body}</table></div>{rest}'
        '<p class="note">Red is the strongest evidence for the class; each map has its own scale. A picture without'
        " colour is a blank map. A map that depends on what the model has learned changes with random weights, and one"
        f" that is about its class changes with the class.</p>{_figures(row)}"
    )


def _figures(row: MapVerdict) -> str:
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{_number(value)}</td></tr>" for name, value in row.figures.items())
    steps = "".join(
        f"<tr><td>random down to {escape(name)}</td><td>{_number(rho)}</td><td>{_number(ssim)}</td></tr>"
        for name, rho, ssim in row.cascade
    )
    return (
        f"<details><summary>All figures</summary><table>{cells}</table><table><tr><th>random weights, from the last"
        f" layer down</th><th>rank correlation</th><th>SSIM</th></tr>{steps}</table></details>"
    )


def _overlays(base: Pixels, maps: FloatArray) -> tuple[list[Pixels], list[bool]]:
    drawing = Drawing(scale="image")
    found = lay_over(base[:, None], maps, scaled(maps, drawing, maxima(maps))[:, None], drawing)
    return [pixels[0] for pixels in found.mixed], found.blank.tolist()


def _pictures(evidence: Evidence) -> Pixels:
    """The pictures as a person sees them, small: those given, or the inputs, each scaled to its own range."""
    if evidence.shown is not None:
        pictures = evidence.shown
    else:
        inputs = evidence.inputs[:, :3] if evidence.inputs.shape[1] >= 3 else evidence.inputs[:, :1].repeat(3, axis=1)
        low, high = inputs.min(axis=(1, 2, 3), keepdims=True), inputs.max(axis=(1, 2, 3), keepdims=True)
        shares = np.divide(inputs - low, high - low, out=np.zeros_like(inputs), where=high > low)
        pictures = (shares * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    height, width = pictures.shape[1:3]
    factor = _SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    from PIL import Image

    how = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(picture).resize(size, how)) for picture in pictures])


def _image(pixels: Pixels, alt: str) -> str:
    content = base64.b64encode(Picture(pixels).encoded("png")).decode()
    return f'<img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{content}">'


def _word(row: MapVerdict) -> str:
    return f'<span class="verdict" style="background:{_COLORS.get(row.verdict, "#b3261e")}">{row.verdict}</span>'


def _sentences(row: MapVerdict) -> str:
    return f"{row.reason[:1].upper()}{row.reason[1:]}. {row.advice}"


def _number(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.4g}"
