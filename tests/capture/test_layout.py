"""From an activation's shape to what its axes mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_gradcam import LayerError
from lightning_gradcam.capture.layout import Layout, check_places, input_size, parse_layouts
from lightning_gradcam.capture.shapes import find_layout, fits

RAW: list[tuple[Layout, tuple[int, ...]]] = [
    (Layout("NCHW", (3, 4)), (2, 5, 3, 4)),
    (Layout("NHWC", (3, 4)), (2, 3, 4, 5)),
    (Layout("NCDHW", (2, 3, 4)), (2, 5, 2, 3, 4)),
    (Layout("NDHWC", (2, 3, 4)), (2, 2, 3, 4, 5)),
    (Layout("NLC", (3, 4)), (2, 12, 5)),
    (Layout("NLC", (3, 4), 2), (2, 14, 5)),
    (Layout("NLC", (2, 3, 4), 1), (2, 25, 5)),
    (Layout("LNC", (3, 4), 1), (13, 2, 5)),
    (Layout("NCL", (3, 4)), (2, 5, 12)),
]


@pytest.mark.parametrize(("layout", "shape"), RAW, ids=lambda value: str(value))
def test_there_and_back_again(layout: Layout, shape: tuple[int, ...]) -> None:
    raw = torch.randn(shape)
    features = layout.feature_map(raw)
    assert features.shape == (2, 5, *layout.grid)
    assert torch.equal(layout.restored(features, raw), raw)
    changed = layout.restored(features * 0, raw)
    assert (layout.feature_map(changed) == 0).all()
    # What stands before the grid stays as it was.
    assert int((changed != 0).sum()) == layout.prefix * 2 * 5


def test_every_place_lands_where_it_was() -> None:
    for layout, shape in RAW:
        where = torch.zeros(shape)
        index = {"N": 1, "C": 3, "D": 1, "H": 2, "W": 1, "L": layout.prefix + (12 if len(layout.grid) == 3 else 0) + 9}
        where[tuple(index[letter] for letter in layout.axes)] = 1
        place = ((1,) if len(layout.grid) == 3 else ()) + (2, 1)
        assert layout.feature_map(where)[(1, 3, *place)] == 1


def test_names_are_what_the_option_takes() -> None:
    for layout, shape in RAW:
        assert find_layout("x", shape, samples=2, picture=(9, 9), given=str(layout)) == layout
    assert str(Layout("NLC", (14, 14), 1)) == "NLC:1+14x14"


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 3, 8, 9), (8, 9)), ((2, 8, 9, 3), (8, 9)), ((2, 3, 4, 8, 9), (4, 8, 9)), ((2, 8, 9), (8, 9)), ((2, 9), None)],
)
def test_the_pictures_size(shape: tuple[int, ...], size: Any) -> None:
    assert input_size(torch.zeros(shape)) == size
    assert input_size(None) is None


@pytest.mark.parametrize(
    ("shape", "picture", "expected"),
    [
        ((2, 64, 7, 7), (224, 224), "NCHW"),
        ((2, 7, 7, 64), (224, 224), "NHWC"),
        ((2, 3, 20, 40), (80, 160), "NCHW"),
        ((2, 20, 40, 3), (80, 160), "NHWC"),
        ((2, 64, 2, 7, 7), (16, 112, 112), "NCDHW"),
        ((2, 8, 7, 7, 64), (16, 224, 224), "NDHWC"),
        # Neither fits: kept as the framework lays it out.
        ((2, 4, 90, 100), (32, 32), "NCHW"),
        ((2, 64, 7, 7), None, "NCHW"),
    ],
)
def test_pictures_are_told_by_their_proportions(shape: Any, picture: Any, expected: str) -> None:
    layout = find_layout("x", shape, samples=2, picture=picture)
    assert layout is not None
    assert layout.axes == expected


def test_as_many_channels_as_rows_and_columns_need_more_than_the_shape() -> None:
    assert find_layout("x", (2, 16, 16, 16), samples=2, picture=(32, 32)) is None
    first = find_layout("x", (2, 16, 16, 16), samples=2, picture=(32, 32), last=False)
    final = find_layout("x", (2, 16, 16, 16), samples=2, picture=(32, 32), last=True)
    assert (first, final) == (Layout("NCHW", (16, 16)), Layout("NHWC", (16, 16)))


@pytest.mark.parametrize(
    ("length", "picture", "expected"),
    [
        (196, (224, 224), "NLC:14x14"),
        (197, (224, 224), "NLC:1+14x14"),
        (98, (224, 112), "NLC:14x7"),
        (99, (224, 112), "NLC:1+14x7"),
        (65, (32, 32), "NLC:1+8x8"),
        (50, (224, 224), "NLC:1+7x7"),
    ],
)
def test_tokens_become_a_grid_of_the_pictures_proportions(length: int, picture: Any, expected: str) -> None:
    assert find_layout("x", (3, length, 8), samples=3, picture=picture) is None, "the forward may have shown another"
    assert str(find_layout("x", (3, length, 8), samples=3, picture=picture, grids=[])) == expected
    turned = find_layout("x", (length, 3, 8), samples=3, picture=picture, grids=[])
    assert str(turned) == expected.replace("NLC", "LNC")


@pytest.mark.parametrize(
    ("length", "picture", "grids", "expected"),
    [
        # Two class tokens and registers: more than one token is left over, so the forward is asked.
        (198, (224, 224), [(14, 14)], "NLC:2+14x14"),
        (261, (224, 224), [(16, 16)], "NLC:5+16x16"),
        (201, (224, 224), [], "NLC:5+14x14"),
        # Patches of 8 by 16: no stride fits, what the patch embedding gave does.
        (32, (64, 64), [(8, 4)], "NLC:8x4"),
        # Of 16 by 4, and of 8 by 32: a stride that divides the picture fits by chance.
        (16, (32, 32), [(2, 8)], "NLC:2x8"),
        (17, (32, 32), [(2, 8)], "NLC:1+2x8"),
        (8, (32, 64), [(4, 2)], "NLC:4x2"),
        # A grid that leaves more tokens over is another stage's.
        (16, (32, 32), [(3, 5)], "NLC:4x4"),
        # What the stride says was seen too.
        (196, (224, 224), [(7, 28), (14, 14)], "NLC:14x14"),
        # 2x14x14 has as many places as 8x7x7; the nearest that the forward went through counts.
        (393, (16, 224, 224), [(8, 7, 7), (8, 14, 14), (8, 56, 56)], "NLC:1+8x7x7"),
    ],
)
def test_what_the_forward_went_through_tells_the_rest(length: int, picture: Any, grids: Any, expected: str) -> None:
    shape = (2, length, 8)
    assert find_layout("x", shape, samples=2, picture=picture) is None
    assert str(find_layout("x", shape, samples=2, picture=picture, grids=grids)) == expected


def test_channels_before_a_single_axis_are_a_grids_tokens_or_a_signal() -> None:
    shape = (2, 16, 12)
    assert str(find_layout("x", shape, samples=2, picture=(12, 16), last=False, grids=[(5, 5), (3, 4)])) == "NCL:3x4"
    for grids in (None, [], [(3, 3)]):
        with pytest.raises(LayerError, match=r"'x' has the output \[2, 16, 12\] of a 1-D layer.*\{'x': 'NCL:1x12'\}"):
            find_layout("x", shape, samples=2, picture=(12, 16), last=False, grids=grids)


def test_tokens_whose_grid_is_not_clear_are_refused_with_what_to_say() -> None:
    with pytest.raises(LayerError, match=r"'x' returns 2 tokens \[2, 2, 8\].*224x224.*layout=\{'x': 'NLC:1\+14x14'\}"):
        find_layout("x", (2, 2, 8), samples=2, picture=(224, 224), grids=[])
    with pytest.raises(LayerError, match="whose grid can't be derived from inputs of unknown size"):
        find_layout("x", (2, 49, 8), samples=2, picture=None, grids=[])


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((2, 5), r"'x' has no spatial activation: its output is \[2, 5\], expected \[N, C, h, w\]"),
        ((8, 49, 16), r"'x' has the output \[8, 49, 16\] for 2 samples: it works on windows"),
        ((8, 3, 7, 7), "works on windows, crops or several images at a time; choose the block around it"),
    ],
)
def test_what_has_no_places_is_refused(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(LayerError, match=text):
        find_layout("x", shape, samples=2, picture=(224, 224))


def test_a_single_place_is_refused() -> None:
    with pytest.raises(
        LayerError, match=r"'x' has no spatial activation: its output \[2, 3, 1, 1\] .* a single value per channel"
    ):
        check_places("x", (2, 3, 1, 1), Layout("NCHW", (1, 1)))
    check_places("x", (2, 3, 1, 2), Layout("NCHW", (1, 2)))


@pytest.mark.parametrize("spec", ["NWHC", "nchw", "NCHW:3x3", "NLC:14", "NLC:1+", 3, "NLC:1+1+4x4", ""])
def test_an_impossible_layout_is_refused_with_the_choices(spec: Any) -> None:
    with pytest.raises(LayerError, match=r"layout: got .*; pass one of 'NCHW', 'NHWC', .* 'NLC:1\+14x14'"):
        parse_layouts({"layer": spec})


def test_layouts_for_all_and_for_some() -> None:
    assert parse_layouts(None) == {}
    assert parse_layouts("NHWC") == {"": "NHWC"}
    assert parse_layouts({"a": "NLC", "b": "NLC:2x2x2"}) == {"a": "NLC", "b": "NLC:2x2x2"}


@pytest.mark.parametrize(
    ("given", "shape", "text"),
    [
        ("NHWC", (2, 9, 5), r"'NHWC' does not fit 'x', whose output is \[2, 9, 5\]"),
        ("LNC", (2, 9, 5), "'LNC' does not fit 'x'"),
        ("NLC:4x4", (2, 9, 5), "'NLC:4x4' describes 16 tokens, but 'x' returns 9"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(given: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(LayerError, match=text):
        find_layout("x", shape, samples=2, picture=(224, 224), given=given)


def test_a_grid_fits_a_picture_of_its_proportions_that_is_not_smaller() -> None:
    assert fits((7, 7), (224, 224))
    assert fits((7, 4), (224, 112))
    assert not fits((14, 14), (224, 112))
    assert not fits((300, 300), (224, 224))
    assert fits((8, 7, 7), (16, 224, 224))
    assert not fits((32, 7, 7), (16, 224, 224))
    assert not fits((2, 7, 7), (224, 224))


def test_gradients_are_read_like_activations() -> None:
    layout = Layout("NLC", (2, 2), 1)
    raw: Tensor = torch.randn(1, 5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad((layout.feature_map(raw) ** 2).sum(), raw)
    assert (gradient[:, 0] == 0).all()
    torch.testing.assert_close(layout.feature_map(gradient), 2 * layout.feature_map(raw.detach()))
