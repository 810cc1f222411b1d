"""Tests of names that every logger can take, and of finished files as images."""

from __future__ import annotations

import io
import posixpath
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks.base import fitting, ready

UNFIT = re.compile(r"[^A-Za-z0-9_. -]")


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("gradcam/net.conv1", "gradcam/net.conv1"),
        ("gradcam_stats/seconds", "gradcam_stats/seconds"),
        ("gradcam/conv/gradcam++", "gradcam/conv/gradcam__-1f3a8d99"),
        ("gradcam/größe/drift", "gradcam/gr__e-d353a267/drift"),
        ("gradcam/../drift", "gradcam/_-5ec1f7e7/drift"),
        ("gradcam//drift", "gradcam/_-e3b0c442/drift"),
    ],
)
def test_a_name_is_the_tag_where_that_is_possible_and_like_it_elsewhere(tag: str, name: str) -> None:
    assert fitting(tag, UNFIT, 150) == name


def test_what_has_to_be_cut_keeps_its_last_part_and_stays_different() -> None:
    tags = [f"gradcam_stats/{'block.' * 40}{end}/drift" for end in "ab"]
    names = [fitting(tag, UNFIT, 100) for tag in tags]
    assert len(set(names)) == 2
    assert all(len(name) == 100 and name.startswith("gradcam_stats/block.") for name in names)
    assert all(name.endswith("/drift") for name in names)
    assert len(fitting("x" * 500, UNFIT, 64)) == 64


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=90), min_size=2, max_size=5, unique=True))
def test_any_two_tags_have_two_names_that_are_paths_of_their_own(tags: list[str]) -> None:
    names = [fitting(tag, UNFIT, 64) for tag in tags]
    assert len(set(names)) == len(tags)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_. /-]{1,64}", name)
        assert posixpath.normpath(name) == name
        assert not name.startswith(("/", ".."))


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_a_finished_file_is_an_image_that_is_not_encoded_again(tmp_path: Path, format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    content = Picture(pixels).encoded(format)
    image, buffer = ready(content), io.BytesIO()
    assert isinstance(image, Image.Image)
    image.save(str(tmp_path / "text.png"))
    image.save(tmp_path / "path.png", optimize=True)
    image.save(buffer, format="PNG")
    written = [(tmp_path / "text.png").read_bytes(), (tmp_path / "path.png").read_bytes(), buffer.getvalue()]
    assert written == [content] * 3
    # What is made of it is an ordinary image.
    smaller = io.BytesIO()
    image.resize((10, 6)).save(smaller, format="WEBP")
    with Image.open(smaller) as opened:
        assert (opened.format, opened.size) == ("WEBP", (10, 6))
