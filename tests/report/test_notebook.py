"""What a notebook shows of maps and archives."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from lightning_gradcam import Archive, Cams, compute_cams
from tests.archive.test_archive import started


class Parts(HTMLParser):
    """The tags of a page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def cams(samples: int = 2, layers: tuple[str, ...] = ("0", "1")) -> Cams:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    return compute_cams(model, torch.rand(samples, 1, 8, 8), list(layers), targets=["predicted", 1])


def test_cams_show_the_input_once_and_an_overlay_for_each_map() -> None:
    shown = cams()._repr_html_()
    pictures = [attributes for tag, attributes in Parts(shown).tags if tag == "img"]
    assert len(pictures) == 2 * (1 + 4)
    assert all(attributes["alt"] for attributes in pictures)
    first = base64.b64decode(str(pictures[0]["src"]).removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(first)))
    # The input itself: grey, and each of its pixels enlarged to a block.
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert pixels.shape[0] % 8 == 0
    assert "1 · gradcam · overlay: predicted" in shown


def test_many_samples_are_thinned_and_it_is_said() -> None:
    shown = cams(40, ("1",))._repr_html_()
    assert shown.count("<tr>") == 1 + 16
    assert "16 of 40 samples, evenly chosen" in shown


def test_maps_without_their_inputs_are_shown_alone() -> None:
    import dataclasses

    shown = dataclasses.replace(cams(), inputs=None)._repr_html_()
    assert shown.count("<img") == 2 * 4
    assert "map: predicted" in shown


def test_an_archive_shows_its_viewer_in_a_frame(tmp_path: Path) -> None:
    started(tmp_path / '<b>"x', 10, 20)
    shown = Archive.open(tmp_path / '<b>"x')._repr_html_()
    tags = Parts(shown).tags
    assert [tag for tag, _ in tags] == ["iframe"]
    page = str(tags[0][1]["srcdoc"])
    assert page.startswith("<!doctype html>")
    assert "Content-Security-Policy" in page
    assert re.search('id="gradcam-run-0"', page)
