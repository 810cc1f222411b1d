"""Boxes on film strips and animations; all else of them is in the tests of these."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_gradcam import CamKey, Drawing
from lightning_gradcam.render.boxes import FOUND, KNOWN
from lightning_gradcam.sheets.film import Film
from lightning_gradcam.sheets.film_lines import film_footer, film_header
from tests.samples import NAN, Array, probe_set, ramp, record

KEY = CamKey("conv", "gradcam", "predicted")
BOXES = torch.tensor([[0.0, 0.0, 2.0, 1.0], [NAN] * 4])


def seen(maps: Array, color: tuple[int, int, int], **options: bool) -> list[bool]:
    """On which of two probes a line of this colour is seen."""
    probes = probe_set(boxes=BOXES)
    film = Film.of([record(maps)], probes, key=KEY, drawing=Drawing(**options), limits=np.ones(2), side=112)
    found: list[bool] = (film.overlays(0)[0] == color).all(axis=-1).any(axis=(1, 2)).tolist()
    return found


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_boxes_are_drawn_where_they_are_asked_for() -> None:
    assert seen(ramp(), FOUND) == seen(ramp(), KNOWN) == [False, False]
    assert seen(ramp(), FOUND, boxes=True) == [True, True]
    assert seen(ramp(), KNOWN, boxes=True) == [True, False]
    assert seen(-np.abs(ramp()), FOUND, boxes=True) == [False, False]
    assert seen(ramp() * NAN, KNOWN, boxes=True) == [False, False]


def test_boxes_of_a_volume_are_those_of_the_slice_that_is_shown() -> None:
    # Most evidence is in the second slice, and the largest value in the first.
    maps = np.zeros((2, 2, 2, 2))
    maps[:, 0, 0, 0], maps[:, 1] = 3, 2
    probes = probe_set()
    film = Film.of([record(maps)], probes, key=KEY, drawing=Drawing(boxes=True), limits=np.ones(2), side=112)
    line = (film.overlays(0)[0][0] == FOUND).all(axis=-1)
    assert film.places.tolist() == [1, 1]
    assert line[40, [1, -2]].all()
    assert line[[1, -2], 40].all()


def test_the_threshold_says_how_large_boxes_are() -> None:
    # Half of the picture has half of the maximum.
    maps, probes = np.tile(np.array([[4.0, 2.0], [4.0, 2.0]]), (2, 1, 1)), probe_set()

    def across(**options: float) -> int:
        drawing = Drawing(boxes=True, interpolation="nearest", **options)
        film = Film.of([record(maps)], probes, key=KEY, drawing=drawing, limits=np.ones(2), side=112)
        return int((film.overlays(0)[0][0] == FOUND).all(axis=-1).any(axis=0).nonzero()[0].max())

    assert across() == across(box_threshold=0.4) > across(box_threshold=0.6)


def test_the_header_says_what_the_lines_are() -> None:
    def said(boxes: bool, known: bool) -> list[str]:
        probes, drawing = probe_set(boxes=BOXES if known else None), Drawing(boxes=boxes)
        film = Film.of([record(ramp())], probes, key=KEY, drawing=drawing, limits=None, side=112)
        return [text for text, _ in film_footer(film, 900) if text.startswith("outline:")]

    assert said(False, True) == []
    assert said(True, False) == ["outline: box around the map's largest part above 15% of its maximum"]
    film = Film.of(
        [record(ramp())], probe_set(), key=KEY, drawing=Drawing(boxes=True, box_threshold=0.6), limits=None, side=112
    )
    assert "above 60% of its maximum" in " ".join(text for text, _ in film_footer(film, 900))
    assert said(True, True) == [
        "outline: box around the map's largest part above 15% of its maximum; dashed: the known box"
    ]


@pytest.mark.parametrize(
    ("score", "said"),
    [("sigmoid", "the summed sigmoids"), ("probability", "the summed softmax probabilities")],
)
def test_a_sum_over_several_labels_is_called_that(score: str, said: str) -> None:
    probes = probe_set(labels=torch.tensor([[1, 1, 0], [0, 1, 0]]))
    one = record(ramp(), targets=("label",), score=score)
    key = CamKey("conv", "gradcam", "label")
    film = Film.of([one], probes, key=key, drawing=Drawing(), limits=np.ones(2), side=112)
    assert film_header(film, "gradcam", 1, 900)[1][0] == f"Grad-CAM of {said} of the true classes; one logged step"
