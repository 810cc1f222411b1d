"""What sheets and strips say of probes in other tasks than one class each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam import CamRecord, Drawing
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.text import INK, RIGHT, WRONG
from lightning_gradcam.render.tiles import draw_tiles
from lightning_gradcam.sheets.header import cam_header, explained_title
from lightning_gradcam.sheets.words import probe_words
from tests.samples import NAN, probe_set, record

FLAT = np.ones((2, 2, 2), np.float32)


def without_classes(target: str) -> CamRecord:
    none = np.full(2, -1, np.int64)
    return record(
        FLAT, targets=(target,), classes={target: none}, predicted=none, confidence=np.full(2, NAN, np.float32)
    )


@pytest.mark.parametrize(
    ("target", "said", "title"),
    [
        ("output1", "value 1.23", "value 1 of the output"),
        ("similar_to1", "similarity 1.23", "the similarity to probe #right"),
        ("depth", "score 1.23", "the score of target depth"),
    ],
)
def test_a_value_and_a_similarity_are_called_that(target: str, said: str, title: str) -> None:
    probes = probe_set(2, values=torch.tensor([[1.0, 2.5], [3.0, 4.0]]), ids=("left", "right"))
    maps = without_classes(target)
    caption, true = probe_words(maps, probes.view, 0)
    assert (caption.text, caption.color, caption.mark) == (said, INK, "")
    # Only a regression's number has a true one.
    assert true == ("2.5" if target == "output1" else "")
    assert explained_title(maps, target, probes.view) == title
    slices = Slices.of(FLAT.shape, probes.pixels.shape)
    second = cam_header(maps, "conv", "gradcam", Drawing(), "gradcam", probes, slices)[1][0]
    assert second == f"Grad-CAM of the {said.split()[0]}, epoch 3, step 469"
    tile = draw_tiles(maps, probes, list(maps.maps), Drawing(columns=("overlay",)), None, slices, [0])[0]
    assert tile.captions[0][0] == said


@pytest.mark.parametrize(
    "target", ["detect_predicted", "detect3", "detect3_boxes", "segment1", "segment_predicted", "segment_mask1"]
)
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_the_score_of_a_box_or_of_many_pixels_is_no_logit_of_a_class(target: str, score: Any) -> None:
    probes = probe_set(2)
    none = {"predicted": np.full(2, -1, np.int64), "confidence": np.full(2, NAN, np.float32)}
    maps = record(FLAT, targets=(target,), classes={target: np.array([3, 3])}, score=score, **none)
    assert probe_words(maps, probes.view, 0)[0].text == "score 1.23"
    assert explained_title(maps, target, probes.view) == f"the score of target {target}"
    slices = Slices.of(FLAT.shape, probes.pixels.shape)
    assert cam_header(maps, "conv", "gradcam", Drawing(), "gradcam", probes, slices)[1][0].startswith(
        "Grad-CAM of the score, "
    )
    tile = draw_tiles(maps, probes, list(maps.maps), Drawing(columns=("overlay",)), None, slices, [0])[0]
    assert tile.captions[0][:2] == ("class 3", "score 1.23")


@pytest.mark.parametrize(
    ("shares", "labels", "said", "mark"),
    [
        ([0.9, 0.6, 0.2], [[1, 0, 1], [0, 0, 0]], "class 2  90%, class 1  60%", "right"),
        ([0.4, 0.3, 0.2], [[0, 1, 0], [0, 0, 0]], "class 2  40%", "wrong"),
    ],
)
def test_several_labels_are_a_set(shares: Any, labels: Any, said: str, mark: str) -> None:
    probes = probe_set(2, labels=torch.tensor(labels))
    ranks = {"likeliest": np.array([[2, 1, 0]] * 2), "likeliest_confidence": np.array([shares] * 2, np.float32)}
    maps = record(FLAT, score="sigmoid", predicted=np.full(2, 2), confidence=np.full(2, shares[0], np.float32), **ranks)
    caption, true = probe_words(maps, probes.view, 0)
    assert (caption.text, caption.mark) == (said, mark)
    assert caption.color == {"right": RIGHT, "wrong": WRONG}[mark]
    assert true == ", ".join(f"class {place}" for place, marked in enumerate(labels[0]) if marked)
    # Nothing is marked where nothing is known.
    assert probe_words(maps, probes.view, 1) == (caption._replace(color=INK, mark=""), "")
