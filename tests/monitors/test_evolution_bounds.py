"""Strips and animations of large runs: how much is drawn and held at most, and what is said of the rest."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gradcam import CamKey, CamRecord, Drawing, ProbeSet
from lightning_gradcam.archive import ArchiveWriter
from lightning_gradcam.archive.manifest import Manifest
from lightning_gradcam.errors import ArchiveError
from lightning_gradcam.monitors import evolution as evolution_module
from lightning_gradcam.monitors.cam_monitor import CamMonitor
from lightning_gradcam.monitors.evolution import Evolving
from lightning_gradcam.render import picture as picture_module
from lightning_gradcam.render.picture import PackedPicture, Picture
from tests.monitors.drawing import evolution_of

Limits = dict[CamKey, Any]


def run(
    root: Path, layers: int, probes: int, steps: int, side: int = 2, size: int = 8, jump: int = -1, flips: int = -1
) -> tuple[ArchiveWriter, CamMonitor, ProbeSet, Limits]:
    """An archive of random maps, as a run would leave it; what is measured of them jumps, and flips, at one step."""
    generator = np.random.default_rng(0)
    pictures = ProbeSet(
        torch.zeros(probes, 1, 4, 4),
        labels=torch.arange(probes) % 3,
        display=generator.integers(0, 256, (probes, size, size, 3)).astype(np.uint8),
    )
    names = tuple(f"net.layer{number}" for number in range(layers))
    shapes = {name: [side, side] for name in names}
    manifest = Manifest(
        "run", "gradcam", names, ("gradcam",), ("predicted",), "logit", shapes, fingerprint=pictures.fingerprint
    )
    archive, _ = ArchiveWriter.start(str(root / "gradcam"), manifest, pictures)
    keys = [CamKey(name, "gradcam", "predicted") for name in names]
    for step in range(steps):
        numbers = {
            "drift": np.full(probes, np.nan if step == flips else float(step == jump), np.float32),
            "flipped": np.full(probes, float(step == flips), np.float32),
        }
        maps = {key: generator.random((probes, side, side), np.float32) for key in keys}
        archive.append(
            CamRecord(
                epoch=step,
                step=10 * step,
                stage="fit",
                score="logit",
                probe_ids=pictures.ids,
                maps=MappingProxyType(maps),
                scores={"predicted": np.ones(probes, np.float32)},
                classes={"predicted": np.zeros(probes, np.int64)},
                predicted=np.arange(probes) % 2,
                confidence=np.full(probes, 0.5, np.float32),
                numbers=dict.fromkeys(keys, numbers) if max(jump, flips) >= 0 else {},
            )
        )
    plan = CamMonitor("gradcam", list(names), "gradcam", "predicted", "logit", Drawing())
    return archive, plan, pictures, {key: np.ones((probes, 2), np.float32) for key in keys}


def test_steps_are_chosen_by_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, plan, probes, limits = run(tmp_path, layers=1, probes=1, steps=60, jump=30, flips=50)
    (tmp_path / "gradcam" / "steps" / sorted(os.listdir(tmp_path / "gradcam" / "steps"))[10]).write_bytes(b"damaged")
    shown: list[int] = []
    strip = evolution_module.film_strip

    def drawn(records: list[CamRecord], *args: Any, **options: Any) -> Picture:
        shown.extend(record.epoch for record in records)
        return strip(records, *args, **options)

    monkeypatch.setattr(evolution_module, "film_strip", drawn)
    evolution_of(archive, plan, probes, limits, ended=False, rows=False)
    assert len(shown) == 24
    assert (shown[0], shown[-1]) == (0, 59)
    # Most are where maps jump, and where the class flips.
    assert {29, 30, 31, 32, 49, 50, 51, 52} <= set(shown)
    # The quiet rest keeps some.
    assert 2 <= sum(1 < epoch < 29 for epoch in shown) <= 6


def test_no_more_than_32_layers_are_drawn_and_the_rest_is_named_once(tmp_path: Path) -> None:
    archive, plan, probes, limits = run(tmp_path, layers=40, probes=2, steps=2)
    found = evolution_of(archive, plan, probes, limits, ended=True, rows=False)
    files = sorted(path.suffix for path in (tmp_path / "gradcam" / "evolution").iterdir())
    assert files == [".gif"] * 32 + [".png"] * 32
    assert len(found.strips) == len(found.animations) == 32
    assert {"gradcam_evolution/net.layer0", "gradcam_evolution/net.layer39"} <= set(found.strips)
    assert "show 32 of 40 layers and methods (without net.layer" in found.remark
    assert "and 3 more), evenly chosen" in found.remark
    assert "all maps are in the archive" in found.remark
    assert len(found.remark) <= 500
    assert evolution_of(archive, plan, probes, limits, ended=False, rows=False).remark == ""


def test_a_run_within_the_bounds_has_no_remark(tmp_path: Path) -> None:
    archive, plan, probes, limits = run(tmp_path, layers=2, probes=2, steps=1)
    assert evolution_of(archive, plan, probes, limits, ended=True, rows=True).remark == ""


def test_what_was_left_out_stands_in_a_line_of_each_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = []
    strip, animation = evolution_module.film_strip, evolution_module.animate
    monkeypatch.setattr(evolution_module, "film_strip", lambda *a, **k: notes.append(k["note"]) or strip(*a, **k))
    monkeypatch.setattr(evolution_module, "animate", lambda *a, **k: notes.append(k["note"]) or animation(*a, **k))
    monkeypatch.setattr(evolution_module, "MOST_PAIRS", 2)
    archive, plan, probes, limits = run(tmp_path, layers=3, probes=2, steps=2)
    noted = evolution_of(archive, plan, probes, limits, ended=True, rows=False)
    assert notes == ["drawn for 2 of 3 layers and methods, evenly chosen; all are in the archive"] * 4
    monkeypatch.setattr(evolution_module, "MOST_PAIRS", 3)
    plain = evolution_of(archive, plan, probes, limits, ended=True, rows=False)
    tag = "gradcam_evolution/net.layer0"
    # A line of text more.
    assert noted.strips[tag].size[0] - plain.strips[tag].size[0] == 18
    assert noted.animations[tag].size[0] - plain.animations[tag].size[0] == 18


def test_many_strips_have_fewer_pixels_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution_module, "ALL_PIXELS", 3_000_000)
    monkeypatch.setattr(evolution_module, "LEAST_PIXELS", 1_000_000)
    archive, plan, probes, limits = run(tmp_path, layers=4, probes=20, steps=2, size=32)
    found = evolution_of(archive, plan, probes, limits, ended=False, rows=False)
    sizes = {strip.size[0] * strip.size[1] for strip in found.strips.values()}
    assert max(sizes) <= 1_000_000
    alone = dict(list(limits.items())[:1])
    (one,) = evolution_of(archive, plan, probes, alone, ended=False, rows=False).strips.values()
    assert 1_000_000 < one.size[0] * one.size[1] <= 3_000_000


def test_many_animations_show_fewer_probes_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    animation = evolution_module.animate
    monkeypatch.setattr(evolution_module, "animate", lambda *a, **k: asked.append(k["most"]) or animation(*a, **k))
    archive, plan, probes, limits = run(tmp_path, layers=9, probes=2, steps=20)
    evolution_of(archive, plan, probes, limits, ended=True, rows=False)
    evolution_of(archive, plan, probes, dict(list(limits.items())[:8]), ended=True, rows=False)
    # 20 frames of so many pictures of 112 x 112 have 4 million pixels.
    assert asked == [15] * 9 + [64] * 8


def test_maps_are_read_in_batches_that_draw_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, plan, probes, limits = run(tmp_path, layers=3, probes=4, steps=3)
    whole = evolution_of(archive, plan, probes, limits, ended=True, rows=True)
    names = [name for name, _ in Evolving(archive, plan, probes, limits, ended=True, rows=True).parts()]
    assert names[:4] == [
        "reading step 1 of 3 for film strips",
        "reading step 2 of 3 for film strips",
        "reading step 3 of 3 for film strips",
        "the film strip of net.layer0",
    ]
    assert names[4:] == [
        "the animation of net.layer0",
        *(f"the {kind} of net.layer{n}" for n in (1, 2) for kind in ("film strip", "animation")),
        "the rows of the table",
    ]
    # 3 steps of 4 maps with 4 places of 4 bytes: one layer at a time.
    monkeypatch.setattr(evolution_module, "MAP_BYTES", 3 * 4 * 16)
    evolving = Evolving(archive, plan, probes, limits, ended=True, rows=True)
    names = []
    for name, draw in evolving.parts():
        names.append(name)
        draw()
        assert all(len(record.maps) == 1 for record in evolving._records.values())
    assert sum(name.startswith("reading") for name in names) == 9
    found = evolving.result()
    for tag, strip in whole.strips.items():
        np.testing.assert_array_equal(found.strips[tag].pixels, strip.pixels)
        assert found.animations[tag].content == whole.animations[tag].content
    assert len(found.rows) == len(whole.rows) == 4 * 3
    for one, other in zip(found.rows, whole.rows, strict=True):
        assert (one.probe, one.step, one.confidence) == (other.probe, other.step, other.confidence)
        for sheet, picture in other.overlays.items():
            np.testing.assert_array_equal(one.overlays[sheet].pixels, picture.pixels)


def test_large_maps_are_read_of_as_many_probes_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, plan, probes, limits = run(tmp_path, layers=2, probes=6, steps=2, side=4)
    monkeypatch.setattr(evolution_module, "MAP_BYTES", 2 * 64 * 3)
    found = evolution_of(archive, plan, probes, limits, ended=True, rows=True)
    assert "show 3 of 6 probes, evenly chosen" in found.remark
    assert sorted({row.probe for row in found.rows}) == ["0", "2", "4"]


def test_memory_is_that_of_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 12 layers, 16 probes and 20 steps of 64 x 64: 63 MB of maps.
    archive, plan, probes, limits = run(tmp_path, layers=12, probes=16, steps=20, side=64)
    monkeypatch.setattr(evolution_module, "MAP_BYTES", 6_000_000)
    monkeypatch.setattr(evolution_module, "ALL_PIXELS", 12 * 250_000)
    monkeypatch.setattr(evolution_module, "LEAST_PIXELS", 250_000)
    tracemalloc.start()
    try:
        evolution_of(archive, plan, probes, limits, ended=False, rows=False)
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


def test_only_the_first_steps_are_drawn_where_so_many_exist(tmp_path: Path) -> None:
    archive, plan, probes, limits = run(tmp_path, layers=1, probes=2, steps=3)
    evolving = Evolving(archive, plan, probes, limits, ended=False, rows=False, count=2)
    limits.clear()
    for _, draw in evolving.parts():
        draw()
    found = evolving.result()
    assert (found.step, found.epoch, len(found.strips)) == (10, 1, 1)


def test_a_step_that_cannot_be_read_is_missing_alone(tmp_path: Path) -> None:
    archive, plan, probes, limits = run(tmp_path, layers=1, probes=2, steps=3)
    damaged = sorted((tmp_path / "gradcam" / "steps").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    evolving, failed = Evolving(archive, plan, probes, limits, ended=True, rows=True), []
    for name, draw in evolving.parts():
        try:
            draw()
        except ArchiveError:
            failed.append(name)
    found = evolving.result()
    assert failed == ["reading step 2 of 3 for film strips"]
    assert len(found.animations["gradcam_evolution/net.layer0"].durations) == 2
    assert [row.step for row in found.rows] == [0, 20, 0, 20]
    with pytest.raises(ArchiveError, match="damaged"):
        evolution_of(archive, plan, probes, limits, ended=True, rows=True)


def test_a_large_strip_is_a_file_of_the_format_that_loggers_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Noise is smaller as a JPEG, however few columns there are.
    monkeypatch.setattr(picture_module, "_SMALL", 1_000_000)
    archive, plan, probes, limits = run(tmp_path, layers=1, probes=5, steps=8, size=224)
    folder = tmp_path / "gradcam" / "evolution"
    for count, ending in ((1, "png"), (8, "jpeg"), (1, "png")):
        evolving = Evolving(archive, plan, probes, limits, ended=False, rows=False, count=count)
        for _, draw in evolving.parts():
            draw()
        (file,) = folder.iterdir()
        (strip,) = evolving.result().strips.values()
        assert file.name == f"net.layer0.{ending}"
        assert strip.file() == (ending, file.read_bytes())
        with Image.open(file) as image:
            assert (image.height, image.width) == strip.size == strip.pixels.shape[:2]


def test_a_packed_picture_is_exact_where_it_is_a_png() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    packed = PackedPicture(Picture(pixels))
    assert packed.size == (6, 9)
    np.testing.assert_array_equal(packed.pixels, pixels)
    assert packed.encoded("png") == Picture(pixels).encoded("png")
    assert packed.encoded("jpeg") == Picture(pixels).encoded("jpeg")
