"""Tests of the page as a file: whole, small, closed to everything outside, and proof against names."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gradcam import Archive, ConfigurationError
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.report import Payload, page, write_report
from lightning_gradcam.report.page import ASSETS, modules, script
from tests.archive.test_archive import started
from tests.report.runs import garments, made

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{data}}\u2028\ud800"


class Parsed(HTMLParser):
    """The elements of a page with attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def by_id(self, name: str) -> str:
        (text,) = [text for _, attributes, text in self.found if attributes.get("id") == name]
        return text

    def by_tag(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_policy_allows_this_script_and_style_and_nothing_else() -> None:
    parsed = Parsed(page([garments(2, 2, 1)]))
    (policy,) = [a["content"] for a, _ in parsed.by_tag("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    ((_, style),) = parsed.by_tag("style")
    (code,) = [text for attributes, text in parsed.by_tag("script") if attributes.get("type") == "module"]
    assert dict(part.strip().split(" ", 1) for part in str(policy).split(";")) == {
        "default-src": "'none'",
        "script-src": digest(code),
        "style-src": digest(style),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # Whatever stands before the policy is not under it.
    assert [tag for tag, _, _ in parsed.found][:5] == ["html", "head", "meta", "meta", "meta"]


def test_page_names_no_place_outside() -> None:
    text = page([garments(2, 2, 1)])
    for _, attributes, _ in Parsed(text).found:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert str(attributes.get("href", "data:")).startswith("data:")
    # A name of a namespace, which nobody fetches.
    assert set(re.findall(r"https?://[^'\"\s<>)]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text


def test_header_and_maps_come_back_as_they_were() -> None:
    first, second = garments(3, 2, 2), garments(2, 2, 1, title="other", id="run-2")
    parsed = Parsed(page([first, second]))
    for place, payload in enumerate((first, second)):
        assert json.loads(parsed.by_id(f"gradcam-run-{place}")) == payload.header
        packed = base64.b64decode(parsed.by_id(f"gradcam-maps-{place}"))
        assert zlib.decompress(packed) == payload.maps()


def test_hostile_names_stay_text() -> None:
    maps = {(EVIL, "gradcam", EVIL): np.ones((1, 1, 2, 2))}
    payload = made(maps, np.zeros((1, 2, 2, 3)), ids=[EVIL], class_names=(EVIL,), title=EVIL, note=EVIL)
    text = page([payload], title=EVIL)
    parsed = Parsed(text)
    assert len(parsed.by_tag("script")) == 3
    assert not parsed.by_tag("img")
    assert json.loads(parsed.by_id("gradcam-run-0")) == payload.header
    ((_, title),) = parsed.by_tag("title")
    assert title == EVIL.replace("\ud800", "?")
    text.encode()


def test_page_of_the_example_after_100_epochs_stays_below_8_mb() -> None:
    rng = np.random.default_rng(0)
    # Noise, which can't be deflated: no real map is larger.
    maps = {(f"network.relu{n}", "gradcam", "predicted"): rng.random((100, 16, 28, 28)) for n in (1, 2, 3)}
    numbers = {name: rng.random((100, 16)) for name in ("drift", "entropy", "half_area", "energy_inside", "maximum")}
    text = page([made(maps, rng.integers(0, 255, (16, 28, 28, 3)), numbers=numbers)])
    assert len(text.encode()) < 8e6


def test_page_needs_a_run() -> None:
    with pytest.raises(ConfigurationError, match="runs: got none"):
        page([])


def test_title_is_the_runs_name_or_the_number_of_runs() -> None:
    one = garments(1, 1, 1)
    assert "<title>Grad-CAM: version_0/gradcam</title>" in page([one])
    assert "<title>Grad-CAM: 2 runs</title>" in page([one, one])
    assert "<title>Mine &amp; yours</title>" in page([one], title="Mine & yours")


def test_report_of_an_archive_is_written_whole(tmp_path: Path) -> None:
    started(tmp_path / "run", 10, 20)
    archive = Archive.open(tmp_path / "run")
    write_report([archive], tmp_path / "pages" / "report.html")
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["report.html"]
    parsed = Parsed((tmp_path / "pages" / "report.html").read_text(encoding="utf-8"))
    payload = Payload.of(archive)
    assert json.loads(parsed.by_id("gradcam-run-0")) == json.loads(json.dumps(payload.header))
    assert zlib.decompress(base64.b64decode(parsed.by_id("gradcam-maps-0"))) == payload.maps()


# ---- the modules


def sources() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(ASSETS.glob("*.js"))}


def top_level(text: str) -> list[str]:
    return re.findall(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", text, re.MULTILINE)


def test_one_script_holds_every_module_once_and_in_order() -> None:
    names = list(dict.fromkeys([*modules("report.js"), *modules("gallery.js")]))
    assert sorted(names) == sorted(sources())
    for name in names:
        for needed in re.findall(r"from '\./([\w.]+)'", sources()[name]):
            assert names.index(needed) < names.index(name)
    text = script("report.js", "gallery.js")
    assert all(text.count(f"class {name} ") == 1 for name in ("Sequence", "ChartPanel", "Gallery"))
    assert not re.search(r"^\s*(import|export)\b", text, re.MULTILINE)


def test_names_at_the_top_level_are_different_in_all_modules() -> None:
    names = [name for text in sources().values() for name in top_level(text)]
    assert sorted(names) == sorted(set(names))


def test_modules_import_only_what_others_export() -> None:
    for name, text in sources().items():
        imports = re.findall(r"^import \{([^}]*)\} from '\./([\w.]+)';$", text, re.MULTILINE)
        assert len(imports) == len(re.findall(r"^import", text, re.MULTILINE)), name
        for wanted, other in imports:
            exported = re.findall(r"^export (?:function|const|class) (\w+)", sources()[other], re.MULTILINE)
            for one in wanted.split(","):
                assert one.strip() in exported, f"{name} wants {one.strip()} of {other}"
                assert len(re.findall(rf"\b{one.strip()}\b", text)) > 1, f"{name} imports {one.strip()} for nothing"


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("])
def test_no_module_turns_text_into_elements_or_code(word: str) -> None:
    assert [name for name, text in sources().items() if word in text] == []


def test_colour_tables_are_those_of_the_sheets() -> None:
    (rows,) = re.findall(r"^const ROWS = \{(.*)\};$", sources()["colour.js"], re.MULTILINE)
    found = {name: int(row) for name, row in re.findall(r"(\w+): (\d+)", rows)}
    assert {"turbo", "viridis", "Reds", "inferno", "gray", "jet"} <= set(found)
    (stage,) = [a for tag, a, _ in Parsed(page([garments(1, 1, 1)])).found if a.get("id") == "gradcam"]
    packed = base64.b64decode(str(stage["data-colours"]).removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(packed)) as image:
        tables = np.asarray(image.convert("RGB"))
    for name, row in found.items():
        np.testing.assert_array_equal(tables[row], lookup_table(name))
