"""Curves of signals, and the band of their map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_gradcam import CamRecord, Drawing, ProbeSet
from lightning_gradcam.record.cams import CamKey
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.render.signals import band_height, charted
from lightning_gradcam.render.text import INK, PAPER
from lightning_gradcam.sheets.animation import animate
from lightning_gradcam.sheets.cam_sheet import sheet
from lightning_gradcam.sheets.strip import film_strip
from tests.samples import LABEL, rules

KEY = CamKey("conv", "gradcam", "predicted")


def record(maps: Any, epoch: int = 0) -> CamRecord:
    count = len(maps)
    return CamRecord(
        epoch=epoch,
        step=epoch,
        stage="fit",
        score="logit",
        probe_ids=tuple(map(str, range(count))),
        maps={KEY: np.asarray(maps, np.float32)},
        scores={"predicted": np.ones(count, np.float32)},
        classes={"predicted": np.zeros(count, np.int64)},
        predicted=np.zeros(count, np.int64),
        confidence=np.full(count, 0.9, np.float32),
    )


def dark(picture: Any) -> Any:
    """Which columns the curve's ink is in, above the band."""
    return (picture[: -band_height(len(picture)) - 1] == INK).all(axis=-1)


def test_each_sample_stands_above_its_place_of_the_map() -> None:
    signal = torch.zeros(1, 1, 8)
    signal[0, 0, 5] = 1
    view, _ = charted(ProbeSet(signal).view, Drawing(), (1, 8), (40, 80))
    peak = dark(view.pixels[0])[2]
    # The centre of sample 5 of 8, and nothing else, is at the top.
    assert peak.nonzero()[0].tolist() == [54, 55] or peak.nonzero()[0].tolist() == [55]
    drawn = sheet(record([[0, 0, 0, 0, 0, 9, 0, 0]]), ProbeSet(signal), layer="conv", method="gradcam",
                  drawing=Drawing(interpolation="nearest", columns=("overlay",)), title="x").pixels  # fmt: skip
    hot = (drawn == lookup_table("turbo")[255]).all(axis=-1)
    # The band: rows alike, an eighth of the tile's width, at its place.
    rows = [row for row in range(len(drawn)) if hot[row].sum() == 32]
    assert len(rows) == band_height(112)
    left = int(hot[rows[0]].nonzero()[0][0])
    assert hot[rows[0], left : left + 32].all()
    assert left == 12 + 5 * 32


def test_a_map_of_zero_leaves_the_band_without_colours() -> None:
    signal = torch.rand(1, 1, 30)
    options: Any = {"layer": "conv", "method": "gradcam", "drawing": Drawing(columns=("overlay",)), "title": "x"}
    drawn = sheet(record(np.zeros((1, 6))), ProbeSet(signal), **options).pixels
    # The tile has 112 rows, of which the band is the last.
    bottom = rules(drawn)[0] + 4 + LABEL + 112
    band = drawn[bottom - band_height(112) : bottom, 12 : 12 + 256]
    assert (band == PAPER).all()


@pytest.mark.parametrize(("channels", "said"), [(1, "curve: from"), (3, "3 curves"), (12, "mean of 12 channels")])
def test_how_the_curves_are_drawn_is_said(channels: int, said: str) -> None:
    view, drawing = charted(ProbeSet(torch.rand(2, channels, 50)).view, Drawing(boxes=True), (2, 9))
    assert said in view.display_source
    assert (view.pixels.shape, drawing.boxes) == ((2, 112, 256, 3), False)
    colors = {tuple(color) for color in view.pixels.reshape(-1, 3)}
    assert len(colors) >= {1: 3, 3: 5, 12: 4}[channels]


def test_channels_last_and_plain_signals_are_the_same_curve() -> None:
    signal = torch.rand(2, 3, 40)
    first = charted(ProbeSet(signal).read_as("NCL").view, Drawing(), (2, 9))[0].pixels
    last = charted(ProbeSet(signal.transpose(1, 2)).read_as("NLC").view, Drawing(), (2, 9))[0].pixels
    assert (first == last).all()
    # Other maps lie on the picture as before.
    assert charted(ProbeSet(signal).view, Drawing(), (2, 3, 9))[0].pixels.shape == (2, 3, 40, 3)


def test_strips_and_animations_have_the_band_too() -> None:
    probes, steps = ProbeSet(torch.rand(2, 1, 50)), [record(np.full((2, 5), epoch + 1.0), epoch) for epoch in range(3)]
    options: Any = {"key": KEY, "drawing": Drawing(boxes=True), "title": "x"}
    hot = lookup_table("turbo")[255]
    strip = film_strip(steps, probes, **options).pixels
    assert (strip == hot).all(axis=-1).sum() >= 2 * 112 * band_height(72)
    frames = animate(steps, probes, **options).frames
    near = np.abs(frames[-1].astype(int) - hot).sum(axis=-1) < 30
    assert near.sum() >= 2 * 112 * band_height(72)
