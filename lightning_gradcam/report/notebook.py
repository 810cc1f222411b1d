"""How maps and archives are displayed in a notebook."""

from __future__ import annotations

from html import escape

import torch

from lightning_gradcam.archive import Archive
from lightning_gradcam.probes import ProbeSet
from lightning_gradcam.record.cam_record import CamRecord
from lightning_gradcam.record.cams import Cams
from lightning_gradcam.render.drawing import Drawing
from lightning_gradcam.render.picture import Pixels
from lightning_gradcam.render.scale import PERCENTILE
from lightning_gradcam.render.signals import charted
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.tiles import draw_tiles, evenly
from lightning_gradcam.report import Payload, page
from lightning_gradcam.report.pictures import png_url

# A notebook stores its output in its file.
_MOST_SAMPLES, _MOST_PROBES, _MOST_BYTES = 16, 16, 8_000_000


def cams_html(cams: Cams) -> str:
    """Returns a table of overlays: a row for each sample, a column for each map.

    Args:
        cams: With the inputs given to :func:`~lightning_gradcam.compute_cams`; without them only the maps are drawn.
    """
    count = len(next(iter(cams.maps.values())))
    rows = evenly(count, _MOST_SAMPLES)
    ids = tuple(map(str, range(count)))
    blank = cams.inputs is None or len(cams.inputs) != count or (cams.inputs.dim() < 4 and not cams.axes)
    shape = next(iter(cams.maps.values())).shape
    if blank or cams.inputs is None:
        # A signal without its curve is drawn as one row.
        probes = ProbeSet(torch.zeros(count, 1, *(shape[-2:] if len(shape) > 2 else (1, shape[-1]))), ids=ids)
    else:
        inputs = cams.inputs[:, None] if cams.axes == "NL" else cams.inputs
        probes = ProbeSet(inputs, ids=ids).read_as("NCL" if cams.axes == "NL" else cams.axes)
    record = CamRecord.from_cams(cams, probe_ids=ids, epoch=0, step=0, stage="", score=cams.score)
    drawing = Drawing(columns=("heatmap",) if blank else ("input", "overlay"))
    columns: list[tuple[str, list[tuple[Pixels, tuple[str, ...]]]]] = []
    for layer, method in dict.fromkeys((key.layer, key.method) for key in record.maps):
        keys = [key for key in record.maps if (key.layer, key.method) == (layer, method)]
        seen, look = charted(probes.view, drawing, record.maps[keys[0]].shape)
        slices = Slices.of(record.maps[keys[0]].shape, seen.pixels.shape)
        for tile in draw_tiles(record, seen, keys, look, None, slices, rows):
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
        f"{left_out}after the ReLU, a sample's maps of one layer and method have one colour scale, which ends at the"
        f" {PERCENTILE:g}th percentile of the strongest"
    )
    return f"<table><caption>{note}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def archive_html(archive: Archive) -> str:
    """Returns the viewer of a run in a frame.

    Args:
        archive: A run's archive; only some of many probes and steps are shown, evenly chosen, to keep the notebook's
            file small.
    """
    payload = Payload.of(archive, max_probes=_MOST_PROBES, max_bytes=_MOST_BYTES)
    inner = escape(page([payload]), quote=True)
    title = escape(f"Grad-CAM of {archive.path}", quote=True)
    return f'<iframe srcdoc="{inner}" title="{title}" width="100%" height="760" style="border:1px solid #ccc"></iframe>'


def _cell(name: str, pixels: Pixels, lines: tuple[str, ...]) -> str:
    said = "<br>".join(escape(line) for line in lines)
    alt = escape(", ".join((name, *lines)), quote=True)
    return f'<td><img alt="{alt}" src="{png_url(pixels)}"><br><small>{said}</small></td>'
