"""Creates ``report.html``: one file with runs and the viewer, which loads no other files."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_gradcam.archive import Archive
from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.naming import describe_runs, hyperparameters
from lightning_gradcam.render.drawing import COLOUR_MAPS
from lightning_gradcam.report.gallery import Gallery
from lightning_gradcam.report.payload import Payload
from lightning_gradcam.report.pictures import data_url
from lightning_gradcam.storage import Storage

ASSETS = Path(__file__).parent / "assets"
_IMPORT = re.compile(r"^import \{[^}]*\} from '\./([a-z]+\.js)';\n", re.MULTILINE)
_GALLERIES = '<div id="gradcam-galleries" class="gradcam galleries"></div>'
_EXPORT = re.compile(r"^export (?=(?:function|const|class) )", re.MULTILINE)


def page(payloads: Sequence[Payload], galleries: Sequence[Gallery] = (), *, title: str | None = None) -> str:
    """Combines runs and the viewer into one HTML page.

    The page needs no network and can't use one: its Content-Security-Policy allows only its own script and style, by
    their hashes, and embedded images.

    Args:
        payloads: The runs; the first is shown when the page opens. Runs with the same probes can be shown side by side.
        galleries: Sheets of feature maps and filter patterns, shown below the runs.
        title: The page's title. Default: the run's name, or the number of runs.

    Returns:
        The page as HTML.

    Raises:
        ConfigurationError: There are neither runs nor galleries.

    Example::

        archive = Archive.open("lightning_logs/version_0/gradcam")
        Path("report.html").write_text(page([Payload.of(archive)]), encoding="utf-8")
    """
    if not payloads and not galleries:
        raise ConfigurationError("runs: got none; pass the folder <log dir>/<name> of at least one run")
    viewer = f'<div id="gradcam" data-colours="{data_url(COLOUR_MAPS.read_bytes(), "png")}"></div>'
    parts = {
        "title": html.escape((title or _title(payloads, galleries)).encode("utf-8", "replace").decode()),
        "style": (ASSETS / "viewer.css").read_text(encoding="utf-8"),
        "script": script(*["report.js"] * bool(payloads), *["gallery.js"] * bool(galleries)),
        "stage": "\n".join([viewer] * bool(payloads) + [_GALLERIES] * bool(galleries)),
        "data": "\n".join(
            [
                *(_elements(place, payload) for place, payload in enumerate(payloads)),
                *(_gallery(place, gallery) for place, gallery in enumerate(galleries)),
            ]
        ),
    }
    parts["policy"] = (
        f"default-src 'none'; script-src {_hashed(parts['script'])}; style-src {_hashed(parts['style'])};"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    template = (ASSETS / "report.html").read_text(encoding="utf-8")
    # In one pass: a placeholder in a run's name must not be replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def write_report(
    archives: Sequence[Archive],
    path: str | os.PathLike[str],
    *,
    galleries: Sequence[Gallery] = (),
    title: str | None = None,
) -> None:
    """Reads runs and writes their page, either completely or not at all.

    Several runs are named after the hyperparameters that differ between them (from ``hparams.yaml`` or ``config.yaml``
    in the run's folder or its parent folder), or else after their folders.

    Args:
        archives: The runs' archives; the first is shown when the page opens.
        path: The page's file, such as ``report.html``: a local path or a URL that fsspec supports.
        galleries: Sheets of feature maps and filter patterns, shown below the runs.
        title: The page's title, as for :func:`page`.

    Raises:
        ArchiveError: A run is damaged.
        ConfigurationError: There are neither runs nor galleries.
        OSError: The file can't be written.
    """
    payloads = [Payload.of(archive) for archive in archives]
    if len(payloads) > 1:
        titles = [payload.header["title"] for payload in payloads]
        settings = [hyperparameters(archive.path) for archive in archives]
        for payload, told in zip(payloads, describe_runs(titles, settings), strict=True):
            payload.header.update(told)
    text = page(payloads, galleries, title=title)
    where = os.fspath(path)
    folder, name = where.rsplit("/", 1) if "://" in where else os.path.split(os.path.abspath(where))
    Storage(folder).write(name, text.encode())


def script(*entries: str) -> str:
    """Returns JavaScript modules from ``assets``, with everything they import, as the text of one module.

    Args:
        entries: File names. Every import must be one line and refer to a file in the same folder, and top-level names
            must be unique across files.
    """
    needed = dict.fromkeys(name for entry in entries for name in modules(entry))
    return "".join(_EXPORT.sub("", _IMPORT.sub("", (ASSETS / name).read_text(encoding="utf-8"))) for name in needed)


def modules(entry: str) -> list[str]:
    """Returns the files that a module in ``assets`` imports, in execution order, followed by the module itself."""
    found: list[str] = []

    def add(name: str) -> None:
        if name not in found:
            for needed in _IMPORT.findall((ASSETS / name).read_text(encoding="utf-8")):
                add(needed)
            found.append(name)

    add(entry)
    return found


def _elements(place: int, payload: Payload) -> str:
    # Compress both: the description of a long run is as large as its maps.
    parts = {"run": _json(payload.header).encode(), "maps": payload.maps()}
    deflated = {name: base64.b64encode(zlib.compress(content, 6)).decode() for name, content in parts.items()}
    return "\n".join(
        f'<script type="application/octet-stream" id="gradcam-{name}-{place}">{content}</script>'
        for name, content in deflated.items()
    )


def _gallery(place: int, gallery: Gallery) -> str:
    return f'<script type="application/json" id="gradcam-gallery-{place}">{_json(gallery.header())}</script>'


def _title(payloads: Sequence[Payload], galleries: Sequence[Gallery]) -> str:
    if not payloads:
        return f"{galleries[0].kind}: {galleries[0].title}" if len(galleries) == 1 else f"{len(galleries)} runs"
    return f"Grad-CAM: {payloads[0].header['title']}" if len(payloads) == 1 else f"Grad-CAM: {len(payloads)} runs"


def _json(header: dict[str, Any]) -> str:
    # ASCII only, because lone surrogates in a name can't be written otherwise. A "<" could end the element.
    return json.dumps(header, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
