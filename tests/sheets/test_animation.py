"""Tests of animations: what Pillow reads from the file, frame by frame."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gradcam import CamKey, CamRecord, Drawing, ProbeSet
from lightning_gradcam.errors import DrawingError
from lightning_gradcam.render.drawing import colors_of, lookup_table
from lightning_gradcam.render.text import INK, LINE, RIGHT, WRONG
from lightning_gradcam.sheets.animation import MAX_BYTES, MOST_PAIRED, MOST_PROBES, Animation, _columns, animate
from tests.samples import NAN, Array, probe_set, record

KEY = CamKey("conv", "gradcam", "predicted")
NAMES = ("Coat", "Bag", "Boot")
LEFT, GAP, CAPTION, FRAME = 12, 12, 50, 4
# A palette of 255 colours stands for all: how far a colour may be off, of 255.
OFF = 8


def step(maps: Any, number: int = 0, predicted: Any = 0, **fields: Any) -> CamRecord:
    count = len(maps)
    classes = np.broadcast_to(np.asarray(predicted, np.int64), (count,))
    return record(maps, **{"epoch": number, "step": 10 * number + 5, "predicted": classes, **fields})


def constant(*values: float) -> Array:
    return np.array(values, np.float32).reshape(-1, 1, 1).repeat(2, 1).repeat(2, 2)


def flat(*shades: int, side: int = 28) -> ProbeSet:
    display = np.array(shades, np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, side, side, 3), np.uint8)
    return probe_set(len(shades), display=display, labels=torch.zeros(len(shades)).long(), class_names=NAMES)


def animation(records: list[CamRecord], probes: ProbeSet, drawing: Drawing | None = None, **options: Any) -> Animation:
    drawing = drawing or Drawing(colormap="viridis", interpolation="nearest")
    return animate(records, probes, key=KEY, drawing=drawing, title="gradcam", **options)


def corner(frame: Array, place: int, count: int, across: int, side: int) -> tuple[int, int]:
    """Where a probe begins: rows are counted from the line below the last."""
    paired = count <= MOST_PAIRED
    row_h, pitch = side + (0 if paired else 15) + CAPTION + GAP, max(2 * side + 6 if paired else side, 76) + GAP
    (line,) = np.flatnonzero((np.abs(frame[:, 12:-12].astype(int) - LINE).max(axis=-1) <= OFF).all(axis=1))
    return line + 4 - row_h * (-(-count // across) - place // across), LEFT + place % across * pitch


def tile(frame: Array, place: int, *, count: int, across: int, side: int = 84, around: int = 0) -> Array:
    """An overlay; the input is at its left."""
    y, x = corner(frame, place, count, across, side)
    x += side + 6 if count <= MOST_PAIRED else 0
    return frame[y - around : y + side + around, x - around : x + side + around]


def under(frame: Array, line: int, place: int = 0, *, count: int = 1, across: int = 1, aside: int = 90) -> Array:
    y, x = corner(frame, place, count, across, 84)
    top = y + 84 + FRAME + 15 * line
    return frame[top : top + 14, x + aside : x + aside + 84]


def mix(shade: int, share: float) -> Array:
    return np.asarray(shade * 0.5 + lookup_table("viridis")[round(share * 255)] * 0.5)


# ---- the file


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_file_has_a_frame_for_each_record_and_holds_the_last(count: int) -> None:
    probes = probe_set(3)
    made = animation([step(constant(1, 2, 3) * (n + 1), n) for n in range(count)], probes)
    assert made.file() == ("gif", made.content)
    with Image.open(io.BytesIO(made.content)) as image:
        assert image.format == "GIF"
        assert image.n_frames == count  # type: ignore[attr-defined]
        assert (image.height, image.width) == made.size
        durations = []
        for place in range(count):
            image.seek(place)
            durations.append(image.info["duration"])
        assert count == 1 or image.info["loop"] == 0
    assert tuple(durations) == made.durations if count > 1 else len(made.durations) == 1
    assert len(set(made.durations[:-1])) <= 1
    assert all(250 <= duration <= 700 for duration in made.durations[:-1])
    assert made.durations[-1] == 2_500
    assert made.frames.shape == (count, *made.size, 3)


def test_equal_steps_keep_a_frame_each() -> None:
    # Pillow stores equal frames as one: steps that differ in nothing else differ in what each says of its step.
    made = animation([step(constant(1), epoch=3, number=n) for n in range(6)], probe_set(1))
    assert len(made.frames) == 6


def test_there_is_no_other_format_than_gif() -> None:
    made = animation([step(constant(1))], probe_set(1))
    assert made.encoded("gif") is made.content
    with pytest.raises(KeyError):
        made.encoded("webp")  # type: ignore[arg-type]


# ---- what the frames show


def test_colours_are_on_one_scale_over_the_frames() -> None:
    records = [step(constant(2, 8)), step(constant(4, 2), 1), step(constant(1, 6), 2)]
    frames = animation(records, flat(40, 200)).frames
    for place, (shade, shares) in enumerate(((40, [0.5, 1, 0.25]), (200, [1, 0.25, 0.75]))):
        for frame, share in zip(frames, shares, strict=True):
            shown = tile(frame, place, count=2, across=2)
            assert np.abs(shown - mix(shade, share)).max() <= OFF


def test_scale_is_that_of_the_whole_run() -> None:
    (frame,) = animation([step(constant(2))], flat(40), limits=np.array([8], np.float32)).frames
    assert np.abs(tile(frame, 0, count=1, across=1) - mix(40, 0.25)).max() <= OFF


def test_evidence_against_is_blue_in_its_frame() -> None:
    drawing = Drawing(interpolation="nearest", signed=True)
    frames = animation([step(constant(value), n) for n, value in enumerate((-4, 4))], flat(40), drawing).frames
    for frame, place in zip(frames, (1, 255), strict=True):
        expected = 20 + colors_of(drawing)[place] * 0.5
        assert np.abs(tile(frame, 0, count=1, across=1) - expected).max() <= OFF


def test_colours_of_photographs_are_close() -> None:
    y, x = np.mgrid[0:112, 0:112]
    display = np.stack([y * 2, x * 2, np.full_like(x, 90)], 2).astype(np.uint8)[None]
    (frame,) = animation([step(constant(1))], probe_set(1, display=display), Drawing(opacity=0.0)).frames
    off = np.abs(tile(frame, 0, count=1, across=1, side=112).astype(int) - display[0])
    assert off.mean() < 6
    assert off.max() < 40


def test_nothing_flickers() -> None:
    probes = probe_set(4, labels=torch.zeros(4).long())
    maps = np.random.default_rng(0).random((4, 3, 3))
    other = maps.copy()
    other[3] = 0.2
    frames = animation([step(maps if n % 2 else other, n) for n in range(4)], probes).frames
    across = _columns(4)
    for place in range(3):
        first, *others = (tile(frame, place, count=4, across=across) for frame in frames)
        assert all(np.array_equal(first, shown) for shown in others)
    # All but the lines on the progress stays.
    top = corner(frames[0], 0, 4, across, 84)[0]
    for part in (slice(0, 48), slice(top - 44, top), slice(frames.shape[1] - 60, None)):
        assert all(np.array_equal(frames[0, part], frame[part]) for frame in frames)
    # The inputs, too.
    x = LEFT
    assert all(
        np.array_equal(frames[0, top : top + 84, x : x + 84], frame[top : top + 84, x : x + 84]) for frame in frames
    )
    assert all((frame[:, :10] == 255).all() for frame in frames)


def knob(frame: Array) -> int:
    """Where the marker of the progress stands: the one run of ink that is 16 pixels high and 10 wide."""
    ink: Array = np.abs(frame.astype(int) - INK).max(-1) <= OFF
    for y in range(0, 400):
        solid: Array = ink[y : y + 16].min(0)
        runs = [x for x in range(60, len(solid) - 10) if solid[x : x + 10].all() and not solid[x - 1]]
        if runs and not ink[y + 16, runs[0] + 1]:
            return runs[0]
    raise AssertionError("no marker")


def test_marker_moves_evenly_from_left_to_right() -> None:
    frames = animation([step(constant(1), n) for n in range(5)], probe_set(1)).frames
    places = [knob(frame) for frame in frames]
    assert min(np.diff(places)) > 50
    assert max(np.diff(places)) - min(np.diff(places)) <= 1
    assert places[-1] > frames.shape[2] - 40


def test_flip_is_framed_in_its_frame_alone() -> None:
    records = [step(constant(1, 1), n, [0, predicted]) for n, predicted in enumerate((1, 0, 0))]
    frames = animation(records, flat(40, 200)).frames
    rims = [[tile(frame, place, count=2, across=2, around=FRAME)[1, 1:-1] for frame in frames] for place in range(2)]
    assert [bool((np.abs(rim.astype(int) - INK) <= OFF).all()) for rim in rims[1]] == [False, True, False]
    assert all((rim == 255).all() for rim in rims[0])


def test_right_and_wrong_differ_in_shape_and_colour() -> None:
    frames = animation([step(constant(1), n, predicted) for n, predicted in enumerate((1, 0))], flat(40)).frames
    wrong, right = (under(frame, 0)[2:15, :13].astype(int) for frame in frames)
    assert np.abs(wrong[0, 0] - WRONG).max() <= OFF
    assert right[0, 0].min() > 240
    assert np.abs(right[2, 6] - RIGHT).max() <= OFF
    assert wrong[6, 6].min() > 240
    assert np.array_equal(under(frames[0], 0, aside=0), under(frames[1], 0, aside=0))  # the true class stays
    assert (under(frames[0], 0, aside=0) < 200).any()


def test_without_labels_and_predictions_scores_are_stated() -> None:
    fields = {"predicted": np.array([-1]), "confidence": np.array([NAN], np.float32)}
    scores = [np.array([value], np.float32) for value in (1.5, 200.0)]
    records = [step(constant(1), n, scores={"predicted": score}, **fields) for n, score in enumerate(scores)]
    first, second = animation(records, probe_set(1)).frames
    assert (under(first, 0) < 200).any()
    assert not np.array_equal(under(first, 0), under(second, 0))
    # Only the drift is below, from the second frame on.
    assert [bool((under(frame, 1) < 200).any()) for frame in (first, second)] == [False, True]
    assert all((under(frame, 2) > 240).all() for frame in (first, second))


def test_inputs_are_beside_their_overlays_up_to_16_probes() -> None:
    few, many = (animation([step(np.ones((n, 1, 1)))], flat(*range(50, 50 + n), side=28)).frames[0] for n in (16, 17))
    for place in (0, 15):
        y, x = corner(few, place, 16, _columns(16), 84)
        assert np.abs(few[y : y + 84, x : x + 84].astype(int) - (50 + place)).max() <= OFF
    assert many.shape[1] < few.shape[1]
    assert np.abs(tile(many, 16, count=17, across=_columns(17)) - mix(66, 1)).max() <= OFF


def test_blank_and_broken_maps_are_said_to_be() -> None:
    frames = animation([step(constant(4)), step(constant(0), 1), step(constant(NAN), 2)], flat(40)).frames
    plain, blank, broken = (tile(frame, 0, count=1, across=1).astype(int) for frame in frames)
    assert np.abs(plain - mix(40, 1)).max() <= OFF
    assert np.abs(blank - 40).max() <= OFF
    assert np.abs(broken[0, 0] - WRONG).max() <= OFF
    said = [under(frame, 1) for frame in frames]
    assert all((text < 200).any() for text in said)
    assert not np.array_equal(said[0], said[1])
    assert not np.array_equal(said[1], said[2])


def test_probe_of_a_clip_shows_the_slice_with_most_evidence() -> None:
    shades = np.array([20, 80, 140, 200], np.uint8).reshape(1, 4, 1, 1, 1)
    display = np.broadcast_to(shades, (1, 4, 28, 28, 3)).copy()
    volume = np.zeros((1, 2, 2, 2), np.float32)
    volume[0, 1] = 4
    frames = animation([step(volume), step(volume / 2, 1)], probe_set(1, display=display)).frames
    for frame, share in zip(frames, (1, 0.5), strict=True):
        assert np.abs(tile(frame, 0, count=1, across=1) - mix(200, share)).max() <= OFF


# ---- how many, and how large


@pytest.mark.parametrize("count", [*range(1, 30), 63, 64])
def test_grid_is_wide_with_few_places_left_empty(count: int) -> None:
    across = _columns(count)
    rows = -(-count // across)
    assert across >= rows
    assert across * rows - count <= max(1, count // 5)
    assert across <= 4 * rows


def test_of_many_probes_64_are_evenly_chosen() -> None:
    count = 100
    probes = flat(*range(50, 150), side=8)
    (frame,) = animation([step(np.zeros((count, 1, 1)))], probes).frames
    across = _columns(MOST_PROBES)
    for place in (0, 1, 31, 63):
        shown = tile(frame, place, count=MOST_PROBES, across=across, side=80)
        assert np.abs(shown.astype(int) - (50 + place * count // MOST_PROBES)).max() <= OFF
    (fewer,) = animation([step(np.zeros((64, 1, 1)))], flat(*range(50, 114), side=8)).frames
    assert frame.shape[0] - fewer.shape[0] == 18  # one line of the header says so


def noise(count: int, side: int) -> ProbeSet:
    return probe_set(count, side, side, labels=torch.zeros(count).long())


def random_steps(count: int, steps: int) -> list[CamRecord]:
    generator = np.random.default_rng(0)
    return [step(generator.random((count, 14, 14)), n, generator.integers(0, 3, count)) for n in range(steps)]


def test_pictures_are_made_smaller_where_the_file_would_be_too_large() -> None:
    # 3.2 million pixels of pictures, and the inputs, which noise as a GIF takes a quarter more bytes for.
    steps = random_steps(16, 16)
    made, few = animation(steps, noise(16, 112)), animation(steps[:3], noise(16, 112))
    assert MAX_BYTES / 3 < len(made.content) <= MAX_BYTES
    assert len(made.frames) == 16
    assert made.size[0] < few.size[0]


@pytest.mark.slow
@pytest.mark.parametrize(("probes", "steps", "side"), [(64, 24, 224), (64, 100, 32), (1, 300, 224)])
def test_file_is_bounded_however_large_the_pictures(probes: int, steps: int, side: int) -> None:
    made = animation(random_steps(probes, steps), noise(probes, side))
    assert MAX_BYTES / 2 < len(made.content) <= MAX_BYTES
    assert 8 <= len(made.frames) <= steps
    assert len(made.durations) == len(made.frames)


# ---- what can be wrong, and what is left alone


def test_map_that_no_record_has_is_an_error() -> None:
    with pytest.raises(DrawingError, match="which is in none of the 0 records"):
        animation([], probe_set(1))


def test_drawing_changes_neither_records_nor_probes() -> None:
    probes, maps = probe_set(2), constant(2, NAN)
    before = probes.pixels.copy()
    maps.setflags(write=False)
    animation([step(maps), step(maps, 1)], probes)
    assert np.array_equal(probes.pixels, before)


@pytest.mark.parametrize("colormap", ["turbo", "gray", "Reds"])
def test_paper_stays_white(colormap: Any) -> None:
    probes = probe_set(2, display=np.full((2, 28, 28, 3), 253, np.uint8))
    frames = animation(
        [step(constant(1, 1), n) for n in range(2)], probes, Drawing(colormap=colormap, opacity=0)
    ).frames
    assert (frames[:, :, :10] == 255).all()
    assert (frames[:, -10:] == 255).all()
