"""Displays maps and archives in a notebook."""

from __future__ import annotations

from html import escape

from lightning_gradcam.archive import Archive
from lightning_gradcam.record.cams import Cams
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.scale import PERCENTILE
from lightning_gradcam.render.tiles import evenly
from lightning_gradcam.report import Payload, page
from lightning_gradcam.report.pictures import png_url
from lightning_gradcam.sheets.of_cams import Samples

# Limits for a notebook, which stores its output in its file.
_MOST_SAMPLES, _MOST_PROBES, _MOST_BYTES = 16, 16, 8_000_000


def cams_html(cams: Cams) -> str:
    """Returns a table of overlays as HTML: a row for each sample, a column for each map.

    Args:
        cams: The result of :func:`~lightning_gradcam.compute_cams`; without its inputs, only the maps are drawn.
    """
    samples, keys = Samples.of(cams), list(cams.maps)
    count = len(samples.view)
    rows = evenly(count, _MOST_SAMPLES)
    drawing = Drawing(columns=("input", "overlay") if samples.seen else ("heatmap",))
    columns: list[tuple[str, list[tuple[Pixels, tuple[str, ...]]]]] = []
    for layer, method in dict.fromkeys((key.layer, key.method) for key in keys):
        for tile in samples.tiles([key for key in keys if key[:2] == (layer, method)], drawing, rows):
            heading = tile.heading if tile.heading == "input" else f"{layer} · {method} · {tile.heading}"
            if heading != "input" or not columns:
                columns.append((heading, list(zip(tile.pixels, tile.captions, strict=True))))
    head = "".join(f"<th>{escape(heading)}</th>" for heading, _ in columns)
    body = ""
    for place, row in enumerate(rows):
        cells = "".join(_cell(f"sample {row}, {heading}", *tiles[place]) for heading, tiles in columns)
        body += f"<tr><th>{row}</th>{cells}</tr>"
    left_out = f"{len(rows)} of {count} samples, evenly chosen; " if len(rows) < count else ""
    note = (
        f"{left_out}maps are shown after the ReLU; all maps of a sample for one layer and method share a colour scale, "
        f"which ends at the {PERCENTILE:g}th percentile of the strongest map"
    )
    return f"<table><caption>{note}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def archive_html(archive: Archive) -> str:
    """Returns the viewer for a run in an HTML frame.

    Args:
        archive: The run's archive. If it has many probes or steps, only evenly spaced ones are shown, to keep the
            notebook's file small.
    """
    payload = Payload.of(archive, max_probes=_MOST_PROBES, max_bytes=_MOST_BYTES)
    inner = escape(page([payload]), quote=True)
    title = escape(f"Grad-CAM of {archive.path}", quote=True)
    return f'<iframe srcdoc="{inner}" title="{title}" width="100%" height="760" style="border:1px solid #ccc"></iframe>'


def _cell(name: str, pixels: Pixels, lines: tuple[str, ...]) -> str:
    said = "<br>".join(escape(line) for line in lines)
    alt = escape(", ".join((name, *lines)), quote=True)
    return f'<td><img alt="{alt}" src="{png_url(pixels)}"><br><small>{said}</small></td>'
