"""Galleries: sheets of channels in a page, in Python and in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gradcam.errors import ConfigurationError
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.report import Gallery, Shot, page
from lightning_gradcam.report import gallery as module
from tests.report.browser import Opened, as_url, launched
from tests.report.runs import garments


def shots(*colours: int, width: int = 40) -> list[Shot]:
    return [
        Shot(epoch - 1, 10 * epoch, Picture(np.full((30, width, 3), colour, np.uint8)))
        for epoch, colour in enumerate(colours)
    ]


def gallery() -> Gallery:
    layers = {"net.<b>": shots(10, 20, 30), "net.relu2": shots(200, 210, 220, width=60)}
    return Gallery("run/features", "Feature maps", "dead channels", layers, {"net.<b>": [0, np.nan, 0.25]})


def test_a_header_has_every_sheet_and_number() -> None:
    header = gallery().header()
    first, second = header["layers"]
    assert [layer["name"] for layer in (first, second)] == ["net.<b>", "net.relu2"]
    assert [(shot["epoch"], shot["step"]) for shot in first["shots"]] == [(None, 0), (0, 10), (1, 20)]
    assert first["numbers"] == [0, None, 0.25]
    assert second["numbers"] is None
    data = second["shots"][2]["picture"].split(",")[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (60, 30)
        assert image.convert("RGB").getpixel((5, 5)) == (220, 220, 220)


def test_of_many_steps_the_first_the_last_and_some_between_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STEPS", 5)
    header = Gallery("r", "Feature maps", "n", {"a": shots(*range(21))}, {"a": list(range(21))}, "a remark").header()
    assert header["layers"][0]["numbers"] == [0, 5, 10, 15, 20]
    assert [shot["step"] for shot in header["layers"][0]["shots"]] == [0, 50, 100, 150, 200]
    assert header["remark"] == "a remark; 5 of 21 steps, evenly chosen"


def test_steps_are_left_out_where_pictures_are_too_large_for_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    assert len(Gallery("r", "Feature maps", "n", {"a": shots(*range(21))}).header()["layers"][0]["shots"]) == 2


def test_a_page_of_galleries_alone_has_no_viewer() -> None:
    text = page([], [gallery()])
    assert "<title>Feature maps: run/features</title>" in text
    assert 'id="gradcam"' not in text
    assert "class Viewer" not in text
    held = re.search(r'id="gradcam-gallery-0">(.*?)</script>', text)
    assert held is not None
    assert "<b>" not in held[1]
    assert json.loads(held[1]) == json.loads(json.dumps(gallery().header()))
    with pytest.raises(ConfigurationError, match="got none"):
        page([], [])


def test_a_reader_leafs_through_layers_and_steps(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page([], [gallery()]), encoding="utf-8")
    with launched() as browser:
        opened = Opened(browser, as_url(path), width=400)
        sheet = opened.page.locator(".gallery-sheet")
        assert sheet.get_attribute("alt") == "Feature maps of net.<b>, epoch 1, step 20"
        opened.drag("Logged step", 0)
        assert sheet.get_attribute("alt") == "Feature maps of net.<b>, untrained, step 0"
        assert opened.texts(".gallery-where") == ["untrained, step 0"]
        opened.pick("Layer", "net.relu2")
        assert sheet.get_attribute("alt") == "Feature maps of net.relu2, untrained, step 0"
        assert sheet.evaluate("image => image.naturalWidth") == 60
        opened.page.get_by_label("Play", exact=True).click()
        opened.until("document.querySelector('.gallery-where').textContent === 'epoch 1, step 20'")
        opened.until("document.querySelector('.play').getAttribute('aria-label') === 'Play'")
        assert opened.overflow() == 0
        assert (opened.errors, opened.elsewhere()) == ([], [])
        opened.close()


def test_below_a_run_the_gallery_has_the_viewers_theme(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page([garments()], [gallery()]), encoding="utf-8")
    with launched() as browser:
        opened = Opened(browser, as_url(path), color_scheme="dark")
        colour = "getComputedStyle(document.querySelector('#gradcam-galleries')).backgroundColor"
        assert opened.page.evaluate(colour) == "rgb(15, 17, 21)"
        opened.page.get_by_role("button", name="Colours of the page").click()
        assert opened.page.evaluate(colour) == "rgb(244, 245, 247)"
        assert opened.page.locator(".gallery-card").count() == 1
        assert opened.page.locator(".card").count() > 0
        assert (opened.errors, opened.elsewhere()) == ([], [])
        opened.close()
