"""What a page gets of an archive."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gradcam import Archive, CamKey, CamRecord, ProbeSet
from lightning_gradcam.archive import ArchiveWriter, Manifest
from lightning_gradcam.report import Payload
from lightning_gradcam.report.pictures import region_entry
from lightning_gradcam.stats import STATS, drift

KEY = CamKey("conv", "gradcam", "predicted")
NAN = float("nan")


def record(maps: Any, step: int = 10, epoch: int = 0, **fields: Any) -> CamRecord:
    array = np.asarray(maps, np.float32)
    count = len(array)
    return CamRecord(
        **{
            "epoch": epoch,
            "step": step,
            "stage": "fit",
            "score": "logit",
            "probe_ids": tuple(map(str, range(count))),
            "maps": MappingProxyType({KEY: array}),
            "scores": {"predicted": np.full(count, 1.5, np.float32)},
            "classes": {"predicted": np.arange(count)},
            "predicted": np.arange(count),
            "confidence": np.full(count, 0.25, np.float32),
            "confidences": {"predicted": np.full(count, 0.25, np.float32)},
            **fields,
        }
    )


def archive(path: Path, probes: ProbeSet, *records: CamRecord) -> Archive:
    shape = list(records[0].maps[KEY].shape[1:]) if records else [1, 2]
    manifest = Manifest(
        run="abc",
        name="gradcam",
        layers=("conv",),
        methods=("gradcam",),
        targets=("predicted",),
        score="logit",
        map_shapes={"conv": shape},
        fingerprint=probes.fingerprint,
    )
    writer, _ = ArchiveWriter.start(str(path / "version_0" / "gradcam"), manifest, probes)
    for found in records:
        writer.append(found)
    return Archive.open(path / "version_0" / "gradcam")


def probe_set(count: int = 2, **fields: Any) -> ProbeSet:
    display = np.arange(count * 4 * 6 * 3, dtype=np.uint8).reshape(count, 4, 6, 3)
    return ProbeSet(torch.zeros(count, 1, 4, 6), **{"display": display, **fields})


def picture(url: str) -> Any:
    head, content = url.split(",", 1)
    assert head.startswith("data:image/")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_blocks_are_roots_of_shares_of_each_maps_own_ends(tmp_path: Path) -> None:
    first = record([[[2.0, 1.0]], [[-3.0, 0.5]]])
    second = record([[[0.0, -1.0]], [[8.0, 2.0]]], 20, 1)
    payload = Payload.of(archive(tmp_path, probe_set(), first, second))
    assert payload.header["keys"] == [
        {
            "layer": "conv",
            "method": "gradcam",
            "target": "predicted",
            "method_title": "Grad-CAM",
            "width": 2,
            "height": 1,
            "slices": 1,
        }
    ]
    assert payload.header["format"] == 2
    # Half of the largest: 127 * sqrt(1/2) = 89.8 above 128; a quarter: 63.5, rounded to the even 64.
    assert [list(block) for block in payload.blocks] == [[255, 218, 1, 255], [128, 1, 255, 192]]
    assert payload.maps(1) == payload.blocks[1]
    assert payload.maps() == b"".join(payload.blocks)
    for name, values in {
        "maxima": [[2.0, 0.5], [0.0, 8.0]],
        "minima": [[0.0, 3.0], [1.0, 0.0]],
        "limits": [[2.0, 0.5], [0.0, 8.0]],
        "signed_limits": [[2.0, 3.0], [1.0, 8.0]],
    }.items():
        stated = [step["maps"][0][name] for step in payload.header["steps"]]
        np.testing.assert_allclose(stated, values, rtol=1e-3, err_msg=name)


def test_an_extreme_place_leaves_the_others_their_levels_and_the_limit(tmp_path: Path) -> None:
    maps = np.full((2, 10, 10), 1.0)
    maps[0, 0, 0], maps[1, 0, 0], maps[1, 5] = 1000.0, -1000.0, 0.25
    payload = Payload.of(archive(tmp_path, probe_set(), record(maps)))
    found = np.frombuffer(payload.blocks[0], np.uint8).reshape(2, 10, 10)
    # 127 * sqrt(1/1000) = 4.02; evidence against takes no level from the evidence for.
    assert (found[0, 0, 0], found[0, 0, 1]) == (255, 132)
    assert (found[1, 0, 0], found[1, 0, 1], found[1, 5, 0]) == (1, 255, 192)
    (entry,) = payload.header["steps"][0]["maps"]
    assert entry["limits"] == entry["signed_limits"] == [1.0, 1.0]
    assert (entry["maxima"], entry["minima"]) == ([1000.0, 1.0], [0.0, 1000.0])


def test_a_broken_map_is_marked_and_gives_nothing(tmp_path: Path) -> None:
    payload = Payload.of(archive(tmp_path, probe_set(), record([[[NAN, 1.0]], [[float("inf"), -1.0]]])))
    entry = payload.header["steps"][0]["maps"][0]
    assert [entry[name] for name in ("maxima", "minima", "limits", "signed_limits")] == [[None, None]] * 4
    assert list(payload.blocks[0]) == [128, 128, 128, 128]


def test_the_header_is_plain_json_and_says_what_is_known(tmp_path: Path) -> None:
    probes = probe_set(
        labels=torch.tensor([1, 0]), class_names=("coat", "shirt"), ids=("a", "b"), note="drawn", indices=(4, 5)
    )
    maps = [[[2.0, 1.0]], [[3.0, 0.5]]]
    stats = {KEY: {"entropy": np.array([0.123456, NAN], np.float32)}}
    one = record(maps, numbers=stats, confidence=np.array([0.25, NAN], np.float32), predicted=np.array([1, -1]))
    header = json.loads(json.dumps(Payload.of(archive(tmp_path, probes, one)).header, allow_nan=False))
    assert (header["id"], header["title"], header["note"]) == ("abc", "version_0/gradcam", "drawn")
    assert header["display"] == {"width": 6, "height": 4, "slices": 1}
    assert [probe["id"] for probe in header["probes"]] == ["a", "b"]
    assert [probe["true_names"] for probe in header["probes"]] == [["shirt"], ["coat"]]
    np.testing.assert_array_equal(picture(header["probes"][1]["image"]), probes.pixels[1])
    (step,) = header["steps"]
    assert (step["step"], step["epoch"], step["stage"]) == (10, 0, "fit")
    assert (step["predicted"], step["confidence"]) == ([1, -1], [0.25, None])
    assert step["targets"]["predicted"] == {"scores": [1.5, 1.5], "classes": [0, 1], "confidences": [0.25, 0.25]}
    assert step["maps"][0]["numbers"]["entropy"] == [0.1235, None]
    assert set(header["stats"]) == set(STATS)
    assert header["stats"]["drift"]["reading"] == STATS["drift"].reading


def test_steps_are_compared_with_the_last_one(tmp_path: Path) -> None:
    maps = [np.array([[[2.0, 1.0]], [[3.0, 0.5]]]), np.array([[[0.0, 1.0]], [[3.0, 0.5]]])]
    payload = Payload.of(archive(tmp_path, probe_set(), record(maps[0]), record(maps[1], 20, 1)))
    found = payload.header["steps"][0]["maps"][0]["numbers"]["drift_to_last"]
    np.testing.assert_allclose(found, drift(maps[0], maps[1]), atol=1e-4)


def test_many_probes_and_steps_are_thinned_and_it_is_said(tmp_path: Path) -> None:
    records = [record(np.full((10, 1, 2), step + 1.0), 10 * step, step) for step in range(9)]
    written = archive(tmp_path, probe_set(10), *records)
    payload = Payload.of(written, max_probes=5, max_bytes=5 * 2 * 3)
    assert [probe["id"] for probe in payload.header["probes"]] == ["0", "2", "4", "6", "8"]
    assert [step["epoch"] for step in payload.header["steps"]] == [0, 4, 8]
    assert payload.header["remark"] == "5 of 10 probes, evenly chosen; 3 of 9 logged steps, evenly chosen"
    assert len(payload.blocks) == 3
    whole = Payload.of(written)
    assert (len(whole.blocks), whole.header["remark"]) == (9, "")
    assert ("thinned" in payload.header, "thinned" in whole.header) == (True, False)


def test_masks_and_boxes_travel_along(tmp_path: Path) -> None:
    masks = torch.zeros(2, 8, 12, dtype=torch.bool)
    masks[0, :4, :6] = True
    boxes = torch.tensor([[0.0, 0.0, 6.0, 4.0], [NAN] * 4])
    header = Payload.of(archive(tmp_path, probe_set(masks=masks, boxes=boxes), record(np.ones((2, 1, 2))))).header
    # In pixels of the image, which has 4 by 6: the box, and the mask's lower, upper, right and left edge in any order.
    box, *edges = header["probes"][0]["region"].split("Z")
    assert box == "M0 0H3V2H0"
    assert sorted(edges[0].split("M")) == ["", "0 0h3", "0 0v2", "0 2h3", "3 0v2"]
    assert header["probes"][0]["covered"] == 6 / 24
    # An empty mask counts as none, as in the numbers.
    assert (header["probes"][1]["region"], header["probes"][1]["covered"]) == ("", None)


def test_the_share_of_a_mask_is_that_of_all_its_pixels(tmp_path: Path) -> None:
    display = np.zeros((1, 448, 448, 3), np.uint8)
    masks = torch.zeros(1, 448, 448, dtype=torch.bool)
    masks[0, ::4, ::4] = True  # in the page's image, half as large, are none or a quarter of its pixels
    probes = probe_set(1, display=display, masks=masks)
    header = Payload.of(archive(tmp_path, probes, record(np.ones((1, 2, 2))))).header
    assert header["probes"][0]["covered"] == 1 / 16


@pytest.mark.parametrize("seed", range(5))
def test_outline_of_a_mask_has_every_edge_between_inside_and_outside(seed: int) -> None:
    mask = np.random.default_rng(seed).random((5, 7)) < 0.4
    entry = region_entry(mask, None, (5, 7))
    found = set()
    for x, y, way, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", entry["region"]):
        for place in range(int(length)):
            found.add((int(x) + place * (way == "h"), int(y) + place * (way == "v"), way))
    is_inside = lambda x, y: 0 <= x < 7 and 0 <= y < 5 and bool(mask[y, x])  # noqa: E731
    places = [(x, y) for x in range(8) for y in range(6)]
    wanted = {(x, y, "h") for x, y in places if is_inside(x, y) != is_inside(x, y - 1)}
    assert found == wanted | {(x, y, "v") for x, y in places if is_inside(x, y) != is_inside(x - 1, y)}
    assert entry["covered"] == mask.mean()


@pytest.mark.parametrize(
    ("box", "covered"),
    [((1, 1, 3, 2), 2 / 24), ((-2, -1, 3, 9), 0.5), ((7, 0, 9, 4), 0), ((3, 3, 1, 4), 0)],
)
def test_the_part_of_a_box_beyond_the_image_does_not_count(box: tuple[float, ...], covered: float) -> None:
    assert region_entry(None, box, (4, 6))["covered"] == pytest.approx(covered)
    # A mask decides, if there are both.
    assert region_entry(np.ones((4, 6), bool), box, (4, 6))["covered"] == 1
    assert region_entry(None, None, (4, 6)) == {"region": "", "covered": None}


def test_slices_stand_side_by_side(tmp_path: Path) -> None:
    display = np.zeros((1, 4, 2, 3, 3), np.uint8)
    display[0, :] = np.array([10, 20, 30, 40])[:, None, None, None]
    maps = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 2, 2)
    probes = ProbeSet(torch.zeros(1, 1, 4, 2, 3), display=display)
    payload = Payload.of(archive(tmp_path, probes, record(maps)))
    (key,) = payload.header["keys"]
    assert (key["width"], key["height"], key["slices"]) == (2, 2, 2)
    expected = 128 + 127 * np.sqrt(np.concatenate([maps[0, 0], maps[0, 1]], axis=1) / 8)
    np.testing.assert_array_equal(np.frombuffer(payload.blocks[0], np.uint8).reshape(2, 4), expected.round())
    assert payload.header["display"] == {"width": 3, "height": 2, "slices": 2}
    shown = picture(payload.header["probes"][0]["image"])
    assert shown.shape == (2, 6, 3)
    assert (shown[:, :3] == 20).all()
    assert (shown[:, 3:] == 40).all()


@pytest.mark.parametrize("size", [(300, 400), (20, 30)])
def test_large_pictures_are_scaled_down(tmp_path: Path, size: tuple[int, int]) -> None:
    display = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    probes = ProbeSet(torch.zeros(1, 1, *size), display=display)
    header = Payload.of(archive(tmp_path, probes, record(np.ones((1, 1, 2))))).header
    expected = (168, 224) if size == (300, 400) else size
    assert (header["display"]["height"], header["display"]["width"]) == expected
    assert picture(header["probes"][0]["image"]).shape[:2] == expected


def test_an_archive_without_steps_has_none(tmp_path: Path) -> None:
    payload = Payload.of(archive(tmp_path, probe_set()))
    assert (payload.header["steps"], payload.header["keys"], payload.blocks) == ([], [], ())


def test_steps_without_shares_of_the_explained_class(tmp_path: Path) -> None:
    one = dataclasses.replace(record(np.ones((2, 1, 2))), confidences={})
    payload = Payload.of(archive(tmp_path, probe_set(), one))
    assert payload.header["steps"][0]["targets"]["predicted"]["confidences"] == [None, None]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", ""),
        ("as loaded", ""),
        ("Normalize undone", "images are shown as they were before Normalize"),
        (
            "each image min-max stretched",
            "images: each image stretched from its darkest to its brightest value",
        ),
        ("as I like it", "images: as I like it"),
    ],
)
def test_how_pictures_were_recovered_is_put_into_words(tmp_path: Path, source: str, words: str) -> None:
    probes = probe_set(display_source=source)
    assert Payload.of(archive(tmp_path, probes, record(np.ones((2, 1, 2))))).header["pictures"] == words
