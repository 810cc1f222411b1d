"""Tests of the drawing options."""

from __future__ import annotations

import sys
from dataclasses import FrozenInstanceError
from typing import Any

import matplotlib
import numpy as np
import pytest

from lightning_gradcam import Drawing, DrawingError
from lightning_gradcam.render.drawing import BUILT_IN, check_columns, colors_of, lookup_table


def test_defaults_are_the_contracts() -> None:
    drawing = Drawing()
    assert (drawing.colormap, drawing.opacity, drawing.interpolation) == ("turbo", 0.5, "bilinear")
    assert (drawing.columns, drawing.scale, drawing.format) == (("input", "overlay"), "run", "auto")
    assert (drawing.boxes, drawing.box_threshold, drawing.top, drawing.signed) == (False, 0.15, 0, False)
    assert (drawing.magnification, drawing.max_tile, drawing.max_sheet_pixels) == (0, 256, 16_000_000)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        (
            "scale",
            "images",
            r"drawing.scale: got 'images'; did you mean 'image'\? available: image, layer, run, minmax",
        ),
        ("scale", None, r"drawing.scale: got None; available: image, layer, run, minmax"),
        ("interpolation", "linear", "drawing.interpolation: got 'linear'; did you mean 'bilinear'"),
        ("format", "jpg", r"drawing.format: got 'jpg'; did you mean 'jpeg'\? available: auto, png, jpeg, webp"),
        ("columns", (), r"drawing.columns: got \[\]; list any of input, overlay, heatmap, guided, each at most once"),
        ("columns", ("input", "cam"), r"drawing.columns: got \['input', 'cam'\]; list any of input, overlay, heatmap"),
        ("columns", ("input", "input"), r"drawing.columns: got \['input', 'input'\]"),
        ("opacity", 1.01, r"drawing.opacity: got 1.01; pass a value from 0 \(image only\) to 1 \(heatmap only\)"),
        ("opacity", -0.1, "drawing.opacity: got -0.1"),
        ("opacity", float("nan"), "drawing.opacity: got nan"),
        ("magnification", -1, r"drawing.magnification: got -1; pass 0 \(automatic\) or more"),
        ("max_tile", 15, "drawing.max_tile: got 15; pass at least 16 pixels"),
        ("boxes", "yes", "drawing.boxes: got 'yes'; pass true or false"),
        (
            "box_threshold",
            1,
            "drawing.box_threshold: got 1; pass a fraction of the map's maximum, at least 0 and below 1",
        ),
        ("box_threshold", -0.1, "drawing.box_threshold: got -0.1"),
        ("box_threshold", float("nan"), "drawing.box_threshold: got nan"),
        ("box_threshold", True, "drawing.box_threshold: got True"),
        ("box_threshold", "half", "drawing.box_threshold: got 'half'"),
        ("signed", "yes", "drawing.signed: got 'yes'; pass true or false"),
        ("top", 11, "drawing.top: got 11; pass the number of classes to list, 0 to 10"),
        ("top", -1, "drawing.top: got -1"),
        ("top", True, "drawing.top: got True"),
        (
            "colormap",
            "trubo",
            r"drawing.colormap: 'trubo' not found; did you mean 'turbo'\? the nearest of \d+: turbo,",
        ),
    ],
)
def test_impossible_option_is_refused_with_name_value_and_choices(option: str, value: Any, text: str) -> None:
    with pytest.raises(DrawingError, match=text):
        Drawing(**{option: value})


@pytest.mark.parametrize(
    "options",
    [
        {"opacity": 0},
        {"opacity": 1},
        {"magnification": 7},
        {"max_tile": 16},
        {"columns": ("heatmap",)},
        {"scale": "run"},
        {"columns": ("guided",)},
        {"boxes": True, "top": 10},
        {"boxes": True, "box_threshold": 0},
        {"signed": True, "scale": "image"},
        {"signed": True, "colormap": "turbo"},
        {"signed": True, "colormap": "RdBu_r"},
    ],
    ids=str,
)
def test_limits_are_possible(options: dict[str, Any]) -> None:
    Drawing(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"colormap": "Reds"},
            r"colormap 'Reds' has no neutral middle for zero; leave colormap out, or pass coolwarm or RdBu_r",
        ),
        ({"scale": "minmax"}, r"scale='minmax' moves zero away from the middle; pass scale='run', 'image' or 'layer'"),
    ],
    ids=str,
)
def test_signed_maps_need_zero_in_the_middle(options: dict[str, Any], text: str) -> None:
    Drawing(**options)
    with pytest.raises(DrawingError, match=f"drawing.signed: {text}"):
        Drawing(**options, signed=True)


@pytest.mark.parametrize(("name", "used"), [("turbo", "coolwarm"), ("coolwarm", "coolwarm"), ("RdBu_r", "RdBu_r")])
def test_colours_with_a_sign_have_zero_in_the_middle(name: str, used: str) -> None:
    colors, table = colors_of(Drawing(colormap=name, signed=True)).astype(float), lookup_table(used).astype(float)
    assert colors.shape == (256, 3)
    assert np.array_equal(colors[[0, 1, 255]], table[[0, 0, 255]])
    assert np.abs(colors[128] - table[127:129].mean(axis=0)).max() <= 0.5
    # Grey, and blue and red on its sides.
    assert np.ptp(colors[128]) <= 2
    assert colors[1:128, 2].min() > colors[1:128, 0].min()
    assert (colors[1:128, 2] >= colors[1:128, 0] - 2).all()
    assert (colors[129:, 0] >= colors[129:, 2] - 2).all()
    assert np.array_equal(colors_of(Drawing(colormap=name)), lookup_table(name))


def test_lists_from_yaml_become_tuples() -> None:
    assert Drawing(columns=["heatmap", "input"]).columns == ("heatmap", "input")  # type: ignore[arg-type]
    assert Drawing(columns="overlay").columns == ("overlay",)  # type: ignore[arg-type]
    assert hash(Drawing(columns=["input"])) == hash(Drawing(columns=("input",)))  # type: ignore[arg-type]


def test_drawing_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Drawing().opacity = 0.1  # type: ignore[misc]


@pytest.mark.parametrize("methods", ["gradcam", ["gradcam", "layercam"], []], ids=str)
def test_guided_without_its_method_is_refused(methods: Any) -> None:
    drawing = Drawing(columns=("input", "guided"))
    with pytest.raises(DrawingError, match=r"'guided' shows Guided Grad-CAM, .* add 'guided_gradcam' to methods"):
        check_columns(drawing, methods)
    check_columns(Drawing(), methods)
    check_columns(drawing, "guided_gradcam")
    check_columns(drawing, ("gradcam", "guided_gradcam"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_colour_map_equals_matplotlibs(name: str) -> None:
    expected = (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    table = lookup_table(name)
    assert table.dtype == np.uint8
    assert np.array_equal(table, expected)


@pytest.mark.parametrize("name", ["twilight", "turbo_r", "Blues"])
def test_other_colour_maps_come_from_matplotlib(name: str) -> None:
    assert name not in BUILT_IN
    expected = (matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).round()
    table = lookup_table(name)
    assert table.shape == (256, 3)
    assert np.abs(table.astype(int) - expected).max() <= 3
    assert Drawing(colormap=name).colormap == name


def test_without_matplotlib_built_in_maps_work_and_others_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert lookup_table("Reds").shape == (256, 3)
    with pytest.raises(DrawingError, match=r"'Redds' is not built in; did you mean 'Reds'.*pip install matplotlib"):
        Drawing(colormap="Redds")
